"""A local hub, which speaks the part of the protocol that downloads use: tree, resolve, ranges, errors."""

import hashlib
import http.server
import json
import urllib.parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "data/part-0.jsonl": b'{"text": "one"}\n' * 5,
    "data/part-1.parquet": bytes(range(256)) * 96_000,  # large files have a sha256, small ones git's name
    "README.md": b"read me",
}
LARGE = {"data/part-1.parquet"}


class Hub(http.server.ThreadingHTTPServer):
    """State of the fake hub: the requests so far, and the answers to break."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []
        self.cut_once = set()
        self.busy_once = set()  # (method, path) answered 429 the first time
        self.together = None  # a barrier at which GETs of files wait
        self.newest = COMMIT
        self.files = FILES  # content that the listing announces
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
        if (self.command, path) in self.server.busy_once:
            self.server.busy_once.discard((self.command, path))
            return self._answer(429, Retry_After="7")
        if path in ("/api/datasets/owner/name", "/api/models/owner/name"):
            return self._answer(
                200,
                json.dumps({"id": "owner/name", "sha": self.server.newest}).encode(),
                Content_Type="application/json",
            )
        if COMMIT not in path:
            return self._answer(404, X_Error_Code="RevisionNotFound")
        if path.startswith("/api/") and path.endswith(f"/owner/name/tree/{COMMIT}"):
            return self._answer(
                200,
                json.dumps([*map(self._entry, self.server.files)]).encode(),
                Content_Type="application/json",
            )
        name = path.removeprefix("/datasets").removeprefix(f"/owner/name/resolve/{COMMIT}/")
        if name not in self.server.content:
            return self._answer(404, X_Error_Code="EntryNotFound")
        if self.command == "GET" and self.server.together is not None:
            self.server.together.wait(20)  # breaks if the other requests do not come in time
        content = self.server.content[name]
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X_Repo_Commit": COMMIT,
            "Accept_Ranges": "bytes",
        }
        if self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self._answer(206, content[start:], **headers)
        if self.command == "GET" and name in self.server.cut_once:
            self.server.cut_once.discard(name)
            self.close_connection = True
            return self._answer(
                200, content[: len(content) // 2], Content_Length=str(len(content)), **headers
            )
        if self.command == "HEAD":
            headers["Content_Length"] = str(len(content))
        return self._answer(200, content, **headers)

    def _entry(self, name):
        content = self.server.files[name]
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        lfs = (
            {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}}
            if name in LARGE
            else {}
        )
        return {"type": "file", "path": name, "size": len(content), "oid": blob, **lfs}


def asked_files(hub):
    """Return the names of the files that were requested."""
    return {
        path.rpartition(f"/resolve/{COMMIT}/")[2]
        for command, path, _ in hub.asked
        if command == "GET" and "resolve" in path
    }
