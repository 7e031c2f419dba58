"""A copy of a run to damage: its files as they were, and the hashes that a forger would repair."""

import contextlib
import functools
import hashlib
import json
import shutil
import zlib
from pathlib import Path

from tokenbounds.codecs.bits import Reader, Writer
from tokenbounds.codecs.header_text import pack, unpack
from tokenbounds.corpus.documents import manifest_digest
from tokenbounds.corpus.sampling import draw_key
from tokenbounds.corpus.store import identity_of
from tokenbounds.corpus.tokenizer_folder import tokenizer_digest
from tokenbounds.io.files import canonical_json, sha256_file

DEEP = "@deep@"
_LEVELS = 10_000
_HEADER_BYTES = 1 << 15
# A forger's mistakes: what he cannot repair because he has broken it.
_BROKEN = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)


class Copy:
    """A copy of a run, and of the published files that its messages name.

    Parameters
    ----------
    run : path
    folder : path
        Folder to copy it to.

    Attributes
    ----------
    run : Path
        ``results/run`` in `folder`, or ``published`` for files beside it.
    original : dict of str to bytes
        Files by their path in `folder`.
    """

    def __init__(self, run, folder):
        self.folder = Path(folder)
        self.run = self.folder / "results" / "run"
        shutil.copytree(run, self.run)
        for number, sidecar in enumerate(sorted((self.run / "messages").glob("*.json"))):
            content = json.loads(sidecar.read_bytes())
            if "folder" in content:
                source = Path(run).resolve().parents[1] / content["folder"]
                shutil.copytree(source, self.folder / "published" / str(number))
                sidecar.write_text(json.dumps({"folder": f"published/{number}"}))
        self._move_sources(Path(run))
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        self.original = {str(path.relative_to(self.folder)): path.read_bytes() for path in files}
        self._touched: set[str] = set()
        self._names: dict = {}

    def _move_sources(self, run):
        """Let the documents' manifests name the source files of the copy; their hashes do not change."""
        for manifest in self.run.glob("tokens/*/documents.json"):
            text = manifest.read_text()
            for name in {str(run), str(run.resolve())}:
                text = text.replace(f'"{name}/', f'"{self.run}/')
            manifest.write_text(text)

    def names(self, *patterns):
        """List the files of the original that match one of the globs."""
        if patterns not in self._names:
            found = {name for pattern in patterns for name in self.original if Path(name).match(pattern)}
            self._names[patterns] = sorted(found)
        return self._names[patterns]

    def read(self, name):
        """Return a file's bytes as they are now; none where it is no file."""
        path = self.folder / name
        try:
            return path.read_bytes() if path.is_file() else b""
        except OSError:
            return b""

    def write(self, name, data):
        """Replace a file."""
        self.remove(name)
        (self.folder / name).write_bytes(data)

    def remove(self, name):
        """Remove a file, or what has taken its place, and note that it has changed; return its path."""
        self._touched.add(name)
        path = self.folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return path

    def restore(self):
        """Undo all changes."""
        for name in self._touched:
            path = self.remove_quietly(name)
            if name in self.original:
                path.write_bytes(self.original[name])
        self._touched = set()

    def remove_quietly(self, name):
        """Remove whatever is at a name; return its path."""
        path = self.folder / name
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return path

    def json(self, name):
        """Parse a file as Python does, NaN and all; None where it cannot."""
        try:
            return json.loads(self.read(name))
        except _BROKEN:
            return None

    def write_json(self, name, value):
        """Write a JSON value; `DEEP` in it becomes ten thousand levels."""
        text = json.dumps(value, indent=1)
        deep = "[" * _LEVELS + "]" * _LEVELS
        self.write(name, text.replace(f'"{DEEP}"', deep).encode("utf-8", "surrogatepass"))

    def changed(self):
        """List the files that are not as they were."""
        return sorted(name for name in self._touched if self.read(name) != self.original.get(name))


def seal(copy, certificate):
    """Repair all hashes that do not hold any more, as a forger would, in this order: in message, tokenizer,
    documents, index, sidecars of the records, certificate. What cannot be repaired stays."""
    found = copy.json(certificate)
    run = copy.run.relative_to(copy.folder)
    for step in (_seal_message, _seal_corpus, _seal_records, _seal_certificate):
        with contextlib.suppress(*_BROKEN):
            step(copy, run, certificate, found)


def _update(copy, name, changes):
    content = copy.json(name)
    if isinstance(content, dict) and any(content.get(key) != value for key, value in changes.items()):
        copy.write_json(name, content | changes)


def _sha256(copy, name):
    return sha256_file(copy.folder / name)


def _seal_message(copy, run, certificate, found):
    """Let a message name its published files as they are now."""
    if not copy.names("published/*/*"):
        return
    name = f"{run}/{found['hypothesis']['message']['path']}"
    header, body = opened(copy.read(name))
    folder = copy.json(name.removesuffix("bin") + "json")["folder"]
    for entry in header["config"]["files"]:
        with contextlib.suppress(*_BROKEN):
            data = copy.read(f"{folder}/{entry['name']}")
            entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    text = canonical_json(header).encode()
    if text != canonical_json(opened(copy.read(name))[0]).encode():
        copy.write(name, closed(text, body))


def _seal_corpus(copy, run, certificate, found):
    for folder in copy.run.glob("tokens/*"):
        place = folder.relative_to(copy.folder)
        facts = {}
        with contextlib.suppress(*_BROKEN):
            file = copy.json(f"{place}/tokenizer/info.json")["file"]
            digest = _sha256(copy, f"{place}/tokenizer/{file}")
            _update(copy, f"{place}/tokenizer/info.json", {"sha256": digest})
            facts["tokenizer_sha256"] = tokenizer_digest(folder / "tokenizer")
        with contextlib.suppress(*_BROKEN):
            facts["roles_sha256"] = _sha256(copy, f"{place}/roles.bin")
            _update(copy, f"{place}/documents.json", {"roles_sha256": facts["roles_sha256"]})
            facts["manifest_sha256"] = manifest_digest(copy.json(f"{place}/documents.json"))
        name = f"{place}/train/index.json"
        with contextlib.suppress(*_BROKEN):
            facts["ends_sha256"] = _sha256(copy, f"{place}/train/ends.bin")
        with contextlib.suppress(*_BROKEN):
            shards = copy.json(name)["shards"]
            digests = [_sha256(copy, f"{place}/train/{shard['name']}.bin") for shard in shards]
            facts["shards"] = [
                shard | {"sha256": digest} for shard, digest in zip(shards, digests, strict=True)
            ]
        _update(copy, name, facts)


def _seal_records(copy, run, certificate, found):
    for item in found["records"]:
        records = Path(item["path"])
        name = f"{run}/{records.with_suffix('.json')}"
        content = copy.json(name)
        with contextlib.suppress(*_BROKEN):
            files = {Path(found[a][b]["path"]) for a, b in (("hypothesis", "message"), ("corpus", "index"))}
            digests = {path.name: _sha256(copy, run / path) for path in files}
            used = {key: digests.get(Path(key).name, value) for key, value in content["inputs"].items()}
            _update(copy, name, {"sha256": _sha256(copy, run / records), "inputs": used})


def _seal_certificate(copy, run, certificate, found):
    entries = [found["hypothesis"]["message"], found["corpus"]["index"], *found["records"]]
    if "sanity_check" in found:
        entries.append(found["sanity_check"])
    before = json.dumps(found)
    for item in entries:
        with contextlib.suppress(*_BROKEN):
            item["sha256"] = _sha256(copy, run / item["path"])
    corpus, sampling = found["corpus"], found["sampling"]
    with contextlib.suppress(*_BROKEN):
        index = copy.json(run / corpus["index"]["path"])
        corpus["identity"] = identity_of(index)
        corpus |= {key: index[key] for key in ("manifest_sha256", "roles_sha256")}
        corpus["tokenizer"]["files_sha256"] = index["tokenizer_sha256"]
    with contextlib.suppress(*_BROKEN):
        context = {key: sampling[key] for key in ("mode", "context_length", "window") if key in sampling}
        message = found["hypothesis"]["message"]["sha256"]
        key = draw_key(message, corpus["identity"], context, found["n"], sampling["beacon"])
        sampling["key"] = key.hex()
    if json.dumps(found) != before:
        copy.write_json(certificate, found)


@functools.lru_cache(64)
def _unpacked(packed):
    return unpack(packed, _HEADER_BYTES)


def opened(data):
    """Return header (a JSON value) and body (bytes) of a message."""
    reader = Reader(memoryview(data), "message")
    reader.section("all")
    reader.take(4)
    end = reader.varint() + reader.position
    header = _unpacked(bytes(reader.take(reader.varint())))
    return json.loads(header), bytes(data[reader.position : end])


def closed(text, body):
    """Return a message with the header of a text, and a body; its lengths and checksum are right."""
    inner = Writer()
    packed = pack(text[: 2 * _HEADER_BYTES])
    inner.varint(len(packed))
    inner.write(packed)
    inner.write(body)
    outer = Writer()
    outer.write(b"TBM\x02")
    outer.varint(len(inner.data))
    outer.write(inner.data)
    outer.write(zlib.crc32(outer.data).to_bytes(4, "little"))
    return bytes(outer.data)


def canonical_or_not(value):
    """Write a JSON value as canonical JSON, NaN and all."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    deep = "[" * _LEVELS + "]" * _LEVELS
    return text.replace(f'"{DEEP}"', deep).encode("utf-8", "surrogatepass").replace(b"\0", b"0")
