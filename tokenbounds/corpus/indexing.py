"""Index of a split: every shard checked against its sidecar, and what its text is.

The index states, by hash, the documents that it is made of: their manifest, their roles and their tokenizer.
The shards must agree on them. Of the counted documents it also says how far they repeat themselves."""

import hashlib
from pathlib import Path

import numpy as np

from tokenbounds.corpus.index_shape import HASHES, is_count, is_roles, is_sha256
from tokenbounds.corpus.repetition import duplicate_documents, repeated_contexts
from tokenbounds.corpus.store import ENDS, check_dtype, check_size, check_tokens, require_keys
from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_path, check_sha256, read_json, write_json
from tokenbounds.io.provenance import provenance

_SHARED = ("split", "shards", "dtype", "vocab_size", "eot_id", *HASHES, "roles")
_OWN = {
    "shard": is_count,
    "tokens": is_count,
    "documents": is_count,
    "skipped_documents": lambda value: isinstance(value, list) and all(map(is_count, value)),
    "seen_documents": is_count,
    "sha256": is_sha256,
    "ends_sha256": is_sha256,
    "provenance": lambda value: isinstance(value, dict) and "config" in value,
}


def read_shard_sidecar(path):
    """Read and check the sidecar of a shard; an `InputError` names what is wrong with it."""
    sidecar = read_json(path)
    require_keys(path, sidecar, (*_SHARED, *_OWN), "shard's sidecar")
    fitting = _OWN | dict.fromkeys(HASHES, is_sha256) | {"roles": is_roles}
    fitting |= dict.fromkeys(("shards", "vocab_size", "eot_id"), is_count)
    for key, fits in fitting.items():
        if not fits(sidecar[key]):
            raise InputError(f"{path}: not a shard's sidecar ({key} is {sidecar[key]!s:.60})")
    check_dtype(path, sidecar)
    return sidecar


def build_index(sidecars, out_dir, context_length=None):
    """Check every shard of a split against its sidecar and write ``index.json`` and ``ends.bin``.

    Parameters
    ----------
    sidecars : list of path
        ``{shard}.json`` of shards 0, 1, ... in order, all in `out_dir`.
    out_dir : path
        Folder of the split.
    context_length : int, optional
        Tokens of the contexts of which the index of the train split says how many stood earlier.

    Raises
    ------
    InputError
        A missing, truncated or edited shard, one that is given twice, shards of different manifests, roles or
        tokenizers, an id outside the vocabulary, documents that are missing, or a train split without tokens.
    """
    out_dir = Path(out_dir)
    read = [(Path(path), read_shard_sidecar(path)) for path in sidecars]
    if not read:
        raise InputError(f"{out_dir}: no shards to index")
    facts = {key: read[0][1][key] for key in _SHARED}
    if facts["shards"] != len(read):
        raise InputError(f"{out_dir}: {len(read)} shards given, expected {facts['shards']}")
    for number, (path, sidecar) in enumerate(read):
        if path != out_dir / f"{number:05d}.json" or sidecar["shard"] != number:
            expected = f"expected shard {number} in {out_dir}"
            raise InputError(f"{path}: shard {sidecar['shard']} in {path.parent}, {expected}")
        for key in _SHARED:
            if sidecar[key] != facts[key]:
                raise InputError(f"{path}: {key} {sidecar[key]}, but {facts[key]} in {read[0][0]}")
    totals = {
        "m_tokens": sum(sidecar["tokens"] for _, sidecar in read),
        "documents": sum(sidecar["documents"] for _, sidecar in read),
        **facts,
        "skipped_documents": sum(len(sidecar["skipped_documents"]) for _, sidecar in read),
        "seen_documents": sum(sidecar["seen_documents"] for _, sidecar in read),
    }
    if totals["documents"] + totals["skipped_documents"] != facts["roles"][facts["split"]]:
        counted = f"{totals['documents']} documents and {totals['skipped_documents']} without text"
        raise InputError(f"{out_dir}: {counted}, expected {facts['roles'][facts['split']]} in all")
    cumulative, ends_sha256, tokens_sha256, shards = _joined(read, out_dir, np.dtype(facts["dtype"]))
    repeated, (duplicates, one_in) = None, (None, 1)
    if facts["split"] == "train":
        repeated = None if context_length is None else repeated_contexts(shards, context_length)
        duplicates, one_in = duplicate_documents(shards)
    entries = ("tokens", "documents", "sha256")
    write_json(
        out_dir / "index.json",
        {
            **totals,
            "duplicate_documents": duplicates,
            "duplicate_documents_one_in": one_in,
            "repeated_contexts": repeated,
            "shards": [
                {"name": path.stem, **{key: sidecar[key] for key in entries}} for path, sidecar in read
            ],
            "cumulative_tokens": cumulative,
            "ends_sha256": ends_sha256,
            "tokens_sha256": tokens_sha256,
            "provenance": provenance(read[0][1]["provenance"]["config"], [path for path, _ in read]),
        },
    )


def _joined(read, out_dir, dtype):
    """Check all shards and write ``ends.bin``.

    Returns
    -------
    cumulative : list of int
    ends_sha256, tokens_sha256 : str
        Of ``ends.bin``, and of the tokens of all shards, joined.
    shards : list of (tokens, ends)
        As for `tokenbounds.corpus.repetition.repeated_contexts`.
    """
    shards, cumulative, digest, joined = [], [0], hashlib.sha256(), hashlib.sha256()
    with atomic_path(out_dir / "ends.bin") as temporary, open(temporary, "wb") as handle:
        for path, sidecar in read:
            tokens, ends_path = path.with_suffix(".bin"), path.with_suffix(".ends.bin")
            check_size(tokens, sidecar["tokens"] * dtype.itemsize)
            check_size(ends_path, sidecar["documents"] * ENDS.itemsize)
            check_sha256(ends_path, sidecar["ends_sha256"])
            ends = np.fromfile(ends_path, ENDS)
            check_tokens(tokens, sidecar, ends, joined)
            block = (ends + np.uint64(cumulative[-1])).tobytes()
            digest.update(block)
            handle.write(block)
            cumulative.append(cumulative[-1] + sidecar["tokens"])
            shards.append((np.memmap(tokens, dtype, "r") if sidecar["tokens"] else np.empty(0, dtype), ends))
        if read[0][1]["split"] == "train" and not cumulative[-1]:
            raise InputError(f"{out_dir}: the train split has no tokens; a corpus cannot be empty")
    return cumulative, digest.hexdigest(), joined.hexdigest(), shards
