"""Downloads, against a local server (tests/support/hub_server.py)."""

import hashlib
import json
import os
import subprocess
import sys
import threading

import pytest
from support.hub_server import COMMIT, FILES, Hub, asked_files

from tokenbounds.errors import InputError
from tokenbounds.io.hub import download

DRIVER = """
import json, shutil, sys, time, types
waited = []
time.sleep = waited.append  # the library waits between its tries
from tokenbounds.io import hub
from tokenbounds.errors import InputError
for call in json.loads(sys.argv[1]):
    if "free" in call:
        free = types.SimpleNamespace(free=call.pop("free"))
        shutil.disk_usage = lambda folder: free
    function = getattr(hub, call.pop("function", "download"))
    try:
        if call.pop("waited", False):
            answer = waited
        else:
            answer = function(call.pop("repo_id"), call.pop("revision"), **call)
        print(json.dumps(answer))
    except InputError as error:
        print(json.dumps(str(error)))
"""


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
    """Run calls in a process of its own: the library reads its environment when it is imported."""

    def run(*calls, **environment):
        defaults = {"repo_id": "owner/name", "revision": COMMIT, "folder": str(tmp_path / "data")}
        calls = [
            {
                **defaults,
                **({} if one.get("function") == "download_model" else {"repo_type": "dataset"}),
                **one,
            }
            for one in calls
        ]
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("HF_") and not key.lower().endswith("_proxy")
        }
        environment = {
            **inherited,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(root),
            **environment,
        }
        done = subprocess.run(
            [sys.executable, "-c", DRIVER, json.dumps(calls)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
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
    assert (
        sum(command == "GET" and "resolve" in path for command, path, _ in hub.asked) == 3
    )  # two files, one of them in two parts

    # All there: nothing is asked.
    asked = len(hub.asked)
    assert call(patterns) == [first]
    assert len(hub.asked) == asked

    # A damaged file is fetched again, whichever kind of hash the hub gives for it.
    (tmp_path / "data/data/part-0.jsonl").write_bytes(b'{"text": "two"}\n' * 5)
    assert call(patterns) == [first]
    assert [
        path.rsplit("/", 1)[1]
        for command, path, _ in hub.asked[asked:]
        if command == "GET" and "resolve" in path
    ] == ["part-0.jsonl"]
    (tmp_path / "data/data/part-1.parquet").write_bytes(b"x" * len(FILES["data/part-1.parquet"]))
    assert call(patterns) == [first]

    # Offline: whole files are enough; without them it is one line, and nothing is asked.
    asked = len(hub.asked)
    assert call(patterns, HF_HUB_OFFLINE="1") == [first]
    (tmp_path / "data/data/part-0.jsonl").unlink()
    lost, never = call(patterns, {"folder": str(tmp_path / "never")}, HF_HUB_OFFLINE="1")
    folder = tmp_path / "data"
    lacking = f"1 of 2 files are not whole in {folder}, first data/part-0.jsonl"
    assert lost == f"owner/name: offline (HF_HUB_OFFLINE) and {lacking}"
    assert never == f"dataset owner/name at {COMMIT}: offline (HF_HUB_OFFLINE) and not downloaded before"
    assert len(hub.asked) == asked


def test_errors_are_one_line(hub, call, tmp_path):
    hub.content["data/part-0.jsonl"] = b'{"text": "ONE"}\n' * 5  # differs from the listing
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
    private = "or it is private and HF_TOKEN is not set"
    assert none == f"dataset owner/none at {COMMIT}: no such dataset on {hub.url}, {private}"
    assert (
        gated
        == f"dataset owner/gated at {COMMIT}: access is gated; accept its terms on the hub and set HF_TOKEN"
    )
    assert commit == f"dataset owner/name at {other}: the dataset has no such commit"
    assert pattern.startswith(
        "owner/name: no file matches ['*.csv'] less []; it has README.md, data/part-0.jsonl"
    )
    assert announced.startswith(
        f"{tmp_path}/data/data/part-0.jsonl: not what the hub announced for owner/name at {COMMIT}"
    )
    assert (
        folder
        == f"{tmp_path}/data: holds dataset owner/name, expected dataset owner/else; give each a folder"
    )
    hub.shutdown()
    hub.server_close()
    (unreachable,) = call({"folder": str(tmp_path / "new")}, HF_ENDPOINT=hub.url)
    assert (
        unreachable.startswith(f"dataset owner/name at {COMMIT}: the download from {hub.url} failed (")
        and "\n" not in unreachable
    )


def test_a_branch_is_refused(tmp_path):
    reason = r"is not a commit .40 hexadecimal digits.; a branch or tag can move"
    with pytest.raises(InputError, match=rf"^owner/name: revision 'main' {reason}$"):
        download("owner/name", "main", repo_type="dataset", folder=tmp_path)


def test_a_busy_hub_is_asked_again_when_it_says(hub, call):
    """429 with Retry-After, for the listing, the facts of a file and the file itself: the library waits as
    long, and a second."""
    file = f"/datasets/owner/name/resolve/{COMMIT}/data/part-0.jsonl"
    hub.busy_once = {("GET", f"/api/datasets/owner/name/tree/{COMMIT}"), ("GET", file)}
    patterns = {"patterns": ["*.jsonl"]}
    files, waited = call(patterns, {"waited": True})
    assert [entry["name"] for entry in files] == ["data/part-0.jsonl"] and not hub.busy_once
    assert waited == [8.0, 8.0]


def test_files_are_fetched_together(hub, call):
    """Each of the three files is answered only when all three were asked for."""
    hub.together = threading.Barrier(3)
    (files,) = call({})
    assert len(files) == 3 and not hub.together.broken


def test_a_missing_file_is_one_line(hub, call):
    """A file of the listing that the hub then does not have."""
    del hub.content["data/part-0.jsonl"]
    (message,) = call({"patterns": ["*.jsonl"]})
    assert (
        message.startswith(f"dataset owner/name at {COMMIT}: the download from {hub.url} failed (")
        and "\n" not in message
    )


def test_too_little_space_is_found_before_anything_is_fetched(hub, call, tmp_path):
    size = sum(map(len, FILES.values()))
    full, enough, there = call({"free": size - 1}, {"free": size}, {"free": 0})
    space = f"{size} bytes to download, but {size - 1} bytes are free in {tmp_path / 'data'}"
    assert full == f"owner/name: {space}; make space and run it again"
    assert len(enough) == 3 and there == enough  # files that are there need no space


def test_what_an_earlier_try_left_needs_no_space(hub, call, tmp_path):
    name = "data/part-1.parquet"
    folder = tmp_path / "data/.cache/huggingface/download/data"
    folder.mkdir(parents=True)
    half = FILES[name][: len(FILES[name]) // 2]
    etag = hashlib.sha256(FILES[name]).hexdigest()
    call({"patterns": ["README.md"]})
    (folder / f"begun.{etag}.incomplete").write_bytes(half)
    (full, enough) = call(
        {"patterns": [name], "free": len(half) - 1}, {"patterns": [name], "free": len(half)}
    )
    assert full.startswith(f"owner/name: {len(half)} bytes to download, but {len(half) - 1} bytes are free")
    assert len(enough) == 1


OLD, NEW = (
    ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    ("model-00001-of-00001.safetensors",),
)


def model_files(weight_map=None):
    """Two generations of shards, weights in other formats, and an index of the second generation."""
    weight_map = weight_map or {"a.weight": NEW[0], "b.weight": NEW[0]}
    files = {
        name: name.encode() * 100
        for name in (*OLD, *NEW, "pytorch_model.bin", "tokenizer.model", "model.safetensors")
    }
    return files | {
        "config.json": b"{}",
        "model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode(),
    }


@pytest.fixture
def call_model(hub, call):
    """`download_model` of a repository with these files."""

    def run(files, *calls, **environment):
        hub.files, hub.content = files, dict(files)
        calls = [{"function": "download_model", **one} for one in calls or ({},)]
        return call(*calls, **environment)

    return run


def test_of_a_model_only_the_shards_of_the_index_are_taken(hub, call_model):
    index = "model.safetensors.index.json"
    files, again = call_model(model_files(), {}, {})
    assert [entry["name"] for entry in files] == ["config.json", NEW[0], index] and again == files
    assert asked_files(hub) == {"config.json", NEW[0], index}


def test_a_model_without_an_index_is_one_file(hub, call_model):
    (files,) = call_model(
        {name: data for name, data in model_files().items() if not name.endswith("index.json")}
    )
    assert [entry["name"] for entry in files] == ["config.json", "model.safetensors"]


def test_models_that_lack_a_file(hub, call_model, tmp_path):
    shards = {"a.weight": NEW[0], "b.weight": "model-00009-of-00009.safetensors"}
    (absent,) = call_model(model_files(shards))
    place = "puts tensor 'b.weight' in 'model-00009-of-00009.safetensors'"
    lacks = f"which the repository lacks at {COMMIT}"
    assert absent == f"owner/name: model.safetensors.index.json {place}, {lacks}"
    assert asked_files(hub) == {"config.json", "model.safetensors.index.json"}

    def other(files):
        (message,) = call_model(files, {"folder": str(tmp_path / f"{len(files)}{len(str(files))}")})
        return message

    files = {name: data for name, data in model_files().items() if name != "config.json"}
    assert other(files).startswith(
        f"owner/name: no config.json at {COMMIT}; it has model-00001-of-00001.safetensors"
    )
    message = other({"config.json": b"{}", "pytorch_model.bin": b"x"})
    needed = "model.safetensors.index.json or model.safetensors"
    pickle = "pytorch_model.bin, a pickle, which is never opened: convert it to safetensors"
    assert message == f"owner/name: no {needed} at {COMMIT}; it has {pickle}"
    message = other({**model_files(), "model.safetensors.index.json": b'["a"]'})
    assert message.endswith("model.safetensors.index.json: no weight_map; expected the file of each tensor")


def test_latest_is_resolved_once(hub, call, tmp_path):
    latest = {"function": "resolve", "revision": "latest"}
    first, named = call(latest, {"function": "resolve", "revision": "a" * 40})
    assert first == COMMIT and named == "a" * 40
    hub.newest = "b" * 40
    asked = len(hub.asked)
    assert call(latest) == [COMMIT]  # a download that continues stays at its commit
    assert call(latest, HF_HUB_OFFLINE="1") == [COMMIT]
    assert len(hub.asked) == asked
    assert call({**latest, "folder": str(tmp_path / "new")}) == ["b" * 40]
    (other,) = call({**latest, "repo_id": "owner/else"})
    assert (
        other == f"{tmp_path}/data: holds dataset owner/name, expected dataset owner/else; give each a folder"
    )
    none, offline = (
        call({**latest, "folder": str(tmp_path / "none"), **more}, **environment)[0]
        for more, environment in (({"repo_id": "owner/none"}, {}), ({}, {"HF_HUB_OFFLINE": "1"}))
    )
    assert none.startswith("dataset owner/none at latest: no such dataset on")
    assert offline == "dataset owner/name at latest: offline (HF_HUB_OFFLINE) and not downloaded before"


def test_the_script_names_the_commit(hub, root, tmp_path):
    """A manifest that is made again, after the hub has moved on, is of the same commit."""
    program = (
        "import sys; sys.path.insert(0, 'workflow_scripts'); import download\n"
        "download.main(*sys.argv[1:5], patterns=['*.jsonl'])\n"
    )
    manifest = tmp_path / "text/download.json"
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(root),
    }
    command = [sys.executable, "-c", program, str(manifest), "owner/name", "latest", "dataset"]
    for _ in range(2):
        subprocess.run(command, env=environment, cwd=root, check=True, timeout=120)
        written = json.loads(manifest.read_text())
        assert written["revision"] == COMMIT
        assert [entry["name"] for entry in written["files"]] == ["data/part-0.jsonl"]
        manifest.unlink()
        hub.newest = "b" * 40
