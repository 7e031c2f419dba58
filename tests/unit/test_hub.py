"""Downloads, against a local server that speaks the part of the hub's protocol that is used: tree, resolve, ranges, error codes."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse

import pytest

from tokenbounds.errors import InputError
from tokenbounds.hub import download

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "data/part-0.jsonl": b'{"text": "one"}\n' * 5,
    "data/part-1.parquet": bytes(range(256)) * 96_000,  # large files have a sha256, small ones git's name
    "README.md": b"read me",
}
LARGE = {"data/part-1.parquet"}

DRIVER = """
import json, sys, time
time.sleep = lambda seconds: None  # the library waits between its tries
from tokenbounds.errors import InputError
from tokenbounds.hub import download
for call in json.loads(sys.argv[1]):
    try:
        print(json.dumps(download(call.pop("repo_id"), call.pop("revision"), **call)))
    except InputError as error:
        print(json.dumps(str(error)))
"""


class Hub(http.server.ThreadingHTTPServer):
    """State of the fake hub: what was asked, and which answers to break."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []
        self.cut_once = set()
        self.content = dict(FILES)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def _answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.server.asked.append((self.command, path, self.headers.get("Range")))
        if "owner/gated" in path:
            return self._answer(403, X_Error_Code="GatedRepo")
        if "owner/name" not in path:
            return self._answer(404, X_Error_Code="RepoNotFound")
        if COMMIT not in path:
            return self._answer(404, X_Error_Code="RevisionNotFound")
        if path == f"/api/datasets/owner/name/tree/{COMMIT}":
            return self._answer(200, json.dumps([*map(self._entry, FILES)]).encode(), Content_Type="application/json")
        name = path.removeprefix(f"/datasets/owner/name/resolve/{COMMIT}/")
        content = self.server.content[name]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
        if self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self._answer(206, content[start:], **headers)
        if self.command == "GET" and name in self.server.cut_once:
            self.server.cut_once.discard(name)
            self.close_connection = True
            return self._answer(200, content[: len(content) // 2], Content_Length=str(len(content)), **headers)
        if self.command == "HEAD":
            headers["Content_Length"] = str(len(content))
        return self._answer(200, content, **headers)

    def _entry(self, name):
        content = FILES[name]
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        lfs = {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}} if name in LARGE else {}
        return {"type": "file", "path": name, "size": len(content), "oid": blob, **lfs}


@pytest.fixture
def hub():
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def call(hub, root, tmp_path):
    """Run downloads in a process of its own: the library reads its environment when it is imported."""

    def run(*calls, **environment):
        calls = [
            {"repo_id": "owner/name", "revision": COMMIT, "repo_type": "dataset", "folder": str(tmp_path / "data"), **one} for one in calls
        ]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and not key.lower().endswith("_proxy")}
        environment = {**inherited, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(root), **environment}
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, json.dumps(calls)], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_a_cut_connection_is_resumed_and_what_is_there_is_kept(hub, call, tmp_path):
    patterns = {"patterns": ["*.jsonl", "*.parquet"]}
    hub.cut_once.add("data/part-1.parquet")
    first, again = call(patterns, patterns)
    assert [entry["name"] for entry in first] == ["data/part-0.jsonl", "data/part-1.parquet"]
    for entry in first:
        content = FILES[entry["name"]]
        assert entry["path"] == str(tmp_path / "data" / entry["name"])
        assert (tmp_path / "data" / entry["name"]).read_bytes() == content
        assert (entry["bytes"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert not (tmp_path / "data/README.md").exists()
    ranges = [(path, asked) for command, path, asked in hub.asked if command == "GET" and asked]
    assert len(ranges) == 1 and ranges[0][0].endswith("part-1.parquet")
    resumed_at = int(ranges[0][1].removeprefix("bytes=").rstrip("-"))
    assert 0 < resumed_at <= len(FILES["data/part-1.parquet"]) // 2
    assert again == first
    assert sum(command == "GET" and "resolve" in path for command, path, _ in hub.asked) == 3  # two files, one of them in two parts

    # All there: nothing is asked.
    asked = len(hub.asked)
    assert call(patterns) == [first]
    assert len(hub.asked) == asked

    # A damaged file is fetched again, whichever kind of hash the hub gives for it.
    (tmp_path / "data/data/part-0.jsonl").write_bytes(b'{"text": "two"}\n' * 5)
    assert call(patterns) == [first]
    assert [path.rsplit("/", 1)[1] for command, path, _ in hub.asked[asked:] if command == "GET" and "resolve" in path] == ["part-0.jsonl"]
    (tmp_path / "data/data/part-1.parquet").write_bytes(b"x" * len(FILES["data/part-1.parquet"]))
    assert call(patterns) == [first]

    # Offline: whole files are enough; without them it is one line, and nothing is asked.
    asked = len(hub.asked)
    assert call(patterns, HF_HUB_OFFLINE="1") == [first]
    (tmp_path / "data/data/part-0.jsonl").unlink()
    lost, never = call(patterns, {"folder": str(tmp_path / "never")}, HF_HUB_OFFLINE="1")
    folder = tmp_path / "data"
    assert lost == f"owner/name: offline (HF_HUB_OFFLINE) and 1 of 2 files are not whole in {folder}, first data/part-0.jsonl"
    assert never == f"dataset owner/name at {COMMIT}: offline (HF_HUB_OFFLINE) and not downloaded before"
    assert len(hub.asked) == asked


def test_errors_are_one_line(hub, call, tmp_path):
    hub.content["data/part-0.jsonl"] = b'{"text": "ONE"}\n' * 5  # not what the listing announces
    other = "f" * 40
    messages = call(
        {"repo_id": "owner/none"},
        {"repo_id": "owner/gated", "folder": str(tmp_path / "gated")},
        {"revision": other, "folder": str(tmp_path / "other")},
        {"patterns": ["*.csv"]},
        {"patterns": ["*.jsonl"]},
        {"repo_id": "owner/else"},
    )
    none, gated, commit, pattern, announced, folder = messages
    assert all("\n" not in message for message in messages)
    assert none == f"dataset owner/none at {COMMIT}: no such dataset on {hub.url}, or it is private and HF_TOKEN is not set"
    assert gated == f"dataset owner/gated at {COMMIT}: access is gated; accept its terms on the hub and set HF_TOKEN"
    assert commit == f"dataset owner/name at {other}: the dataset has no such commit"
    assert pattern.startswith("owner/name: no file matches ['*.csv'] less []; it has README.md, data/part-0.jsonl")
    assert announced.startswith(f"{tmp_path}/data/data/part-0.jsonl: not what the hub announced for owner/name at {COMMIT}")
    assert folder == f"{tmp_path}/data: holds dataset owner/name, expected dataset owner/else; give each a folder"
    hub.shutdown()
    hub.server_close()
    (unreachable,) = call({"folder": str(tmp_path / "new")}, HF_ENDPOINT=hub.url)
    assert unreachable.startswith(f"dataset owner/name at {COMMIT}: the download from {hub.url} failed (") and "\n" not in unreachable


def test_a_branch_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"^owner/name: revision 'main' is not a commit .40 hexadecimal digits.; a branch or tag can move$"
    ):
        download("owner/name", "main", repo_type="dataset", folder=tmp_path)
