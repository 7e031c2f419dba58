"""The folder of a prepared tokenizer: its files, their hash, and who pays for them.

=====================================  ===============================================================
file                                   content
=====================================  ===============================================================
tokenizer.json or tokenizer.model      the tokenizer, of library `tokenizers` or SentencePiece
info.json                              kind, file, vocabulary size, EOT, sha256 of the file, standing
trained_on.bin                         of a tokenizer that was trained in the run: 16 bytes of sha256 of
                                       each document's text that it was trained on, sorted
=====================================  ===============================================================

``standing`` says why a bound may use the tokenizer:

=====================================  ===============================================================
standing                               meaning
=====================================  ===============================================================
{kind: trained}                        trained here, on documents that are left out of m
{kind: taken, corpus}                  trained so for another corpus, on none of the documents counted here
{kind: program}                        a vocabulary that the program defines
{kind: paid, archive_bytes}            its files are part of the message: C_T = 8 archive_bytes
{kind: assumed, fixed_before}          fixed before the corpus, for the reason stated
=====================================  ===============================================================
"""

import functools
import hashlib
import io
import lzma
import tarfile
from pathlib import Path

from tokenbounds.errors import InputError
from tokenbounds.io.files import canonical_json, read_json, read_whole

INFO, TRAINED_ON = "info.json", "trained_on.bin"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
_KINDS = ("train", "corpus", "model", "file", "hub", "gpt2", "sentencepiece", "vocabulary")
_OF_SNAKEMAKE = ".snakemake_timestamp"  # put by Snakemake into each folder that a rule makes
_DIGEST_BYTES = 16
_MOST_BYTES = 1 << 28  # of one file: the digests of 16 million documents
_STANDINGS = {
    "trained": {},
    "taken": {"corpus": str},
    "program": {},
    "paid": {"archive_bytes": int},
    "assumed": {"fixed_before": str},
}
FREE = ("trained", "taken", "program")  # standings of tokenizers that were there before what is counted


_INFO_KEYS = {"kind", "file", "vocab_size", "eot", "eot_id", "sha256", "standing", "provenance"}


def read_info(folder):
    """Read and check ``info.json`` of a tokenizer's folder; an `InputError` names what is wrong."""
    path = Path(folder) / INFO
    info = read_json(path)
    for key, kind in (
        ("kind", str),
        ("file", str),
        ("vocab_size", int),
        ("eot", str),
        ("eot_id", int),
        ("sha256", str),
        ("standing", dict),
    ):
        if not isinstance(info, dict) or type(info.get(key)) is not kind:
            raise InputError(f"{path}: not a tokenizer's information (key '{key}' is missing or wrong)")
    if more := info.keys() - _INFO_KEYS:
        raise InputError(f"{path}: unknown key '{min(more):.60}' of a tokenizer's information")
    if info["file"] not in TOKENIZER_FILES or info["kind"] not in _KINDS:
        found, expected = f"kind '{info['kind']}', file '{info['file']}'", " or ".join(TOKENIZER_FILES)
        raise InputError(f"{path}: {found:.100}; expected a kind of tokenizer, and file {expected}")
    standing = info["standing"]
    keys = _STANDINGS.get(standing.get("kind")) if isinstance(standing.get("kind"), str) else None
    if (
        keys is None
        or standing.keys() != {"kind", *keys}
        or any(type(standing[key]) is not kind or not standing[key] for key, kind in keys.items())
        or standing.get("archive_bytes", 1) < 1
    ):
        raise InputError(
            f"{path}: standing {standing!s:.90}; expected kind {', '.join(_STANDINGS)} and its own keys"
        )
    if (info["kind"] == "train") != (standing["kind"] == "trained"):
        differ = f"kind '{info['kind']}' with standing '{standing['kind']}'"
        raise InputError(f"{path}: {differ}; trained goes with a tokenizer that was trained here only")
    return info


def tokenizer_contents(folder):
    """Read the files of a tokenizer's folder that decide its tokens, by name, sorted.

    ``info.json`` is taken without its provenance and its standing, which change no token, as canonical JSON.

    Raises
    ------
    InputError
        A file that belongs to no tokenizer, or one that is missing.
    """
    folder, info = Path(folder), read_info(folder)
    expected = {INFO, info["file"]}
    if info["standing"]["kind"] in ("trained", "taken"):
        expected.add(TRAINED_ON)
    found = {path.name for path in folder.iterdir() if path.name != _OF_SNAKEMAKE}
    for name in sorted(found ^ expected):
        what = "missing" if name in expected else "does not belong to a tokenizer"
        raise InputError(f"{folder / name}: {what}; expected {', '.join(sorted(expected))}")
    contents = {name: read_whole(folder / name, _MOST_BYTES) for name in sorted(expected - {INFO})}
    reduced = {key: value for key, value in info.items() if key not in ("provenance", "standing")}
    return dict(sorted({**contents, INFO: canonical_json(reduced).encode()}.items()))


def tokenizer_digest(folder):
    """Hash all files of a tokenizer's folder: SHA-256 of each name and its bytes, each length-prefixed.

    The files are those of `tokenizer_contents`, sorted by name."""
    digest = hashlib.sha256()
    for name, data in tokenizer_contents(folder).items():
        for field in (name.encode(), data):
            digest.update(len(field).to_bytes(8, "little") + field)
    return digest.hexdigest()


def archive_bytes(folder):
    """Count the bytes of all files of a tokenizer in one compressed archive: C_T / 8.

    The archive is a tar of `tokenizer_contents` with zero times and owners, compressed by xz at preset 9."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in tokenizer_contents(folder).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return _compressed_size(buffer.getvalue())


@functools.lru_cache(4)
def _compressed_size(data):
    # A dictionary longer than the data changes nothing but the memory that it takes.
    size = min(max(len(data), 1 << 12), 1 << 26)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": size}]
    return len(lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=filters))


def text_digest(text):
    """Hash the text of a document: the first 16 bytes of its SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_DIGEST_BYTES]


def write_trained_on(folder, digests):
    """Write ``trained_on.bin``: `digests`, a list of `text_digest`, sorted."""
    (Path(folder) / TRAINED_ON).write_bytes(b"".join(sorted(digests)))


def read_trained_on(folder):
    """Read the digests of `write_trained_on`, sorted; an empty list where the tokenizer has none."""
    path = Path(folder) / TRAINED_ON
    if not path.is_file():
        return []
    data = read_whole(path, _MOST_BYTES)
    digests = [data[at : at + _DIGEST_BYTES] for at in range(0, len(data), _DIGEST_BYTES)]
    if len(data) % _DIGEST_BYTES or digests != sorted(digests) or not digests:
        raise InputError(f"{path}: {len(data)} bytes; expected sorted digests of {_DIGEST_BYTES} bytes")
    return digests
