"""The shape of ``index.json``: what a token index must hold, so that one edited by hand is refused."""

import math
import re

from tokenbounds.errors import InputError

ROLES = ("train", "val", "tokenizer")
HASHES = ("tokenizer_sha256", "manifest_sha256", "roles_sha256")
_SHA256 = re.compile("[0-9a-f]{64}")
_SHARD = {"name", "tokens", "documents", "sha256"}
_REPEATED = ("context_length", "full", "repeated", "continued", "one_in")


def is_count(value):
    """Check whether a JSON value is a whole number from 0 to 2^63 - 1."""
    return type(value) is int and 0 <= value < 2**63


def is_sha256(value):
    """Check whether a JSON value is a hexadecimal sha256."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def is_roles(value):
    """Check whether a JSON value is a count of documents of each role."""
    return isinstance(value, dict) and value.keys() == set(ROLES) and all(map(is_count, value.values()))


def _is_shard(value):
    return (
        isinstance(value, dict)
        and value.keys() == _SHARD
        and isinstance(value["name"], str)
        and is_count(value["tokens"])
        and is_count(value["documents"])
        and is_sha256(value["sha256"])
    )


def _is_repeated(value):
    if value is None:
        return True
    if not isinstance(value, dict) or value.keys() != {*_REPEATED, "share"}:
        return False
    share = value["share"]
    return (
        all(is_count(value[key]) for key in _REPEATED)
        and type(share) in (int, float)
        and math.isfinite(share)
        and share >= 0
        and value["context_length"] >= 1
        and value["one_in"] >= 1
        and value["continued"] <= value["repeated"]
    )


_KEYS = {
    "m_tokens": is_count,
    "documents": is_count,
    "split": lambda value: value in ("train", "val"),
    "shards": lambda value: isinstance(value, list) and bool(value) and all(map(_is_shard, value)),
    "dtype": lambda value: value in ("uint16", "uint32"),
    "vocab_size": is_count,
    "eot_id": is_count,
    **dict.fromkeys(HASHES, is_sha256),
    "roles": is_roles,
    "skipped_documents": is_count,
    "seen_documents": is_count,
    "duplicate_documents": lambda value: value is None or is_count(value),
    "duplicate_documents_one_in": lambda value: is_count(value) and value >= 1,
    "repeated_contexts": _is_repeated,
    "cumulative_tokens": lambda value: isinstance(value, list) and all(map(is_count, value)),
    "ends_sha256": is_sha256,
    "tokens_sha256": is_sha256,
    "provenance": lambda value: isinstance(value, dict),
}


def check_index(path, index):
    """Check what was read from an ``index.json``: its keys, their types, and that its counts add up.

    Parameters
    ----------
    path : path
        Named in messages.
    index : object
        Any JSON value.

    Raises
    ------
    InputError
        Anything that `tokenbounds.corpus.indexing.build_index` does not write.
    """

    def refuse(reason):
        raise InputError(f"{path}: not an index of token shards ({reason})")

    if not isinstance(index, dict):
        refuse(f"found {type(index).__name__}, expected an object")
    for key in sorted(index.keys() ^ _KEYS.keys()):
        refuse(f"key '{key:.40}' is {'missing' if key in _KEYS else 'not one of an index'}")
    for key, fits in _KEYS.items():
        if not fits(index[key]):
            refuse(f"{key} is {index[key]!s:.60}")
    if not index["eot_id"] < index["vocab_size"] <= 2**32:
        refuse(f"eot_id {index['eot_id']} in a vocabulary of {index['vocab_size']}")
    cumulative = [0]
    for number, shard in enumerate(index["shards"]):
        if shard["name"] != f"{number:05d}":
            refuse(f"shard '{shard['name']:.40}' in place of {number:05d}")
        cumulative.append(cumulative[-1] + shard["tokens"])
    if index["cumulative_tokens"] != cumulative or index["m_tokens"] != cumulative[-1]:
        sums = "cumulative_tokens are not the sums of the shards' tokens"
        refuse(f"m_tokens {index['m_tokens']} and {sums}, {cumulative[-1]} in all")
    in_shards = sum(shard["documents"] for shard in index["shards"])
    of_role = index["roles"][index["split"]] - index["skipped_documents"]
    if not index["documents"] == in_shards == of_role:
        held = f"{in_shards} in its shards, and {of_role} with text have the role {index['split']}"
        refuse(f"{index['documents']} documents, but {held}")
    if index["m_tokens"] < 2 * index["documents"]:
        refuse(f"{index['m_tokens']} tokens in {index['documents']} documents, each of two or more")
