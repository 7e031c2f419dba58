"""Sampling: which tokens, windows or documents of a corpus are scored, derived from what is scored.

=========  ========================================  ==========================
mode       one draw                                  uniform over
=========  ========================================  ==========================
token      one position                              all m tokens
window     S consecutive tokens, wS to (w+1)S - 1    the floor(m/S) windows
document   one document                              all documents
=========  ========================================  ==========================

No model can be fitted to its draws, for a change of the model changes them (docs/theory.md, section 10)::

    message, index, scheme, n, beacon --sha256--> key
    key, j, 0 --sha256--> number of draw j        (key, j, 1), ... where that is not below a multiple of m
"""

import hashlib
from typing import NamedTuple

import numpy as np
import pandas as pd

from tokenbounds.corpus.store import CorpusIndex
from tokenbounds.errors import InputError
from tokenbounds.randomness import generator

_DOMAIN = b"tokenbounds draws 1"
_WORD = 1 << 64


def context_of(scheme):
    """Take from a sampling scheme, a dict, what a message says of it: how much context predictions see.

    Examples
    --------
    >>> context_of({"mode": "token", "context_length": 64, "n": 10_000, "beacon": ""})
    {'mode': 'token', 'context_length': 64}
    """
    return {key: scheme[key] for key in ("mode", "context_length", "window") if key in scheme}


def draw_key(message_sha256, index_identity, context, n, beacon=""):
    """Derive the key of the draws on which a certificate rests (docs/theory.md, section 10).

    Parameters
    ----------
    message_sha256 : str
        SHA-256 of the complete message that is scored, that of its smoothing head included; 64 hexadecimal
        digits.
    index_identity : str
        `CorpusIndex.identity` of the counted tokens, likewise.
    context : dict
        Scheme: ``mode``, ``context_length`` and, for windows, ``window``.
    n : int
        Number of draws; the size of the pilot follows from it.
    beacon : str
        A public random value that was not known when message and index were fixed; may be empty.

    Returns
    -------
    bytes
        SHA-256 of all of them, each preceded by its length in 8 bytes, little endian.

    Examples
    --------
    >>> token = {"mode": "token", "context_length": 64}
    >>> draw_key("0" * 64, "1" * 64, token, 100).hex()[:16]
    '8445397a14c9e8cc'
    >>> draw_key("0" * 64, "1" * 64, token, 100, "beacon") == draw_key("0" * 64, "1" * 64, token, 100)
    False
    """
    pilot = -(-n // 10)  # tokenbounds.bounds.subsampling.pilot_size, whose module scoring does not depend on
    numbers = (n, pilot, context["context_length"], context.get("window") or 0)
    fields = [
        _DOMAIN,
        bytes.fromhex(message_sha256),
        bytes.fromhex(index_identity),
        context["mode"].encode(),
        *(number.to_bytes(8, "little") for number in numbers),
        beacon.encode(),
    ]
    digest = hashlib.sha256()
    for field in fields:
        digest.update(len(field).to_bytes(8, "little") + field)
    return digest.digest()


def uniform_integers(key, n, limit):
    """Draw n integers uniformly from 0 to limit - 1 by a counter generator.

    Number j is the first below the largest multiple of `limit` among the first 8 bytes of ``SHA-256(key, j,
    c)`` for c = 0, 1, ..., modulo `limit`: exactly uniform for a random key.

    Parameters
    ----------
    key : bytes, 32
    n : int
    limit : int
        1 to 2^63.

    Returns
    -------
    ndarray of int64, shape (n,)

    Examples
    --------
    >>> numbers = uniform_integers(bytes(32), 1000, 10)
    >>> numbers.min(), numbers.max(), (uniform_integers(bytes(32), 10, 10) == numbers[:10]).all()
    (np.int64(0), np.int64(9), np.True_)
    """
    accepted = _WORD - _WORD % limit
    numbers = np.empty(n, np.int64)
    for j in range(n):
        word, counter = accepted, 0
        while word >= accepted:
            block = key + j.to_bytes(8, "little") + counter.to_bytes(8, "little")
            word, counter = int.from_bytes(hashlib.sha256(block).digest()[:8], "little"), counter + 1
        numbers[j] = word % limit
    return numbers


def draw(index: CorpusIndex, context, n, key):
    """Draw n tokens, windows or documents uniformly with replacement.

    For windows the global sequence is cut into floor(m/S) windows of S tokens; its tail, shorter than S,
    belongs to none (docs/theory.md, section 5: dropping a tail per document or per shard would make the bound
    false).

    Parameters
    ----------
    index : CorpusIndex
    context : dict
        As for `draw_key`.
    n : int
        At most the number of tokens, windows or documents that are drawn from.
    key : bytes
        A `draw_key`.

    Returns
    -------
    DataFrame
        ``draw`` (0..n-1), ``window`` (number; window mode only), ``position`` (the first token's), and
        ``document`` (of that token), int64, in draw order: the pilot is the first tenth (docs/theory.md,
        section 5).
    """
    mode, window = context["mode"], context.get("window")
    limit, units = {
        "token": (index.m, "tokens"),
        "window": (index.m // (window or 1), f"windows of {window} tokens"),
        "document": (index.documents, "documents"),
    }[mode]
    if n > limit:
        drawn = f"n = {n} draws from {limit} {units} (m = {index.m} tokens)"
        raise InputError(f"{index.folder}: {drawn}; expected at most {limit}")
    numbers = uniform_integers(key, n, limit)
    columns = {"draw": np.arange(n)}
    if mode == "document":
        columns |= {"position": index.start_of(numbers), "document": numbers}
    else:
        first = numbers * (window or 1)
        columns |= {"window": numbers} if mode == "window" else {}
        columns |= {"position": first, "document": index.document_of(first)}
    return pd.DataFrame(columns)


def positions_of_stream(index: CorpusIndex, n, seed, *names):
    """Draw n positions uniformly with replacement by a named stream, for measurements that certify nothing.

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    return generator(seed, *names).integers(0, index.m, size=n, dtype=np.int64)


class Segment(NamedTuple):
    """Part of a window within one document: tokens ``first`` to ``stop`` are scored, given those from
    ``start`` on."""

    document: int
    start: int
    first: int
    stop: int


def window_segments(window, window_tokens, context_length, ends) -> list[Segment]:
    """Split a window at document ends.

    Two windows of S = 4 tokens, L = 6, in brackets the tokens scored::

        position    0  1  2  3 | 4  5 | 6  7  8  9 10 11 12 13 14 15 |    documents end at |
        window 1                [4  5]|[6  7]                             two segments without context
        window 2                        6  7 [8  9 10 11]                 one segment, L - S = 2 of context

    Parameters
    ----------
    window : int
        Number w of the window, which holds the tokens wS to (w+1)S - 1.
    window_tokens, context_length : int
        S, and the most tokens L >= S that are fed for a window.
    ends : ndarray of uint64, shape (documents,)
        Document ends in global positions (`CorpusIndex.ends`).

    Returns
    -------
    list of Segment
        In order; each token of the window is scored in exactly one. Input reaches back to the document's
        start, but not before wS - (L - S), so that a scored token sees at least L - S tokens or its whole
        document so far, and the window's input is at most L tokens.

    Raises
    ------
    InputError
        S > L, or the window is outside the corpus.
    """
    begin, end = window * window_tokens, (window + 1) * window_tokens
    if context_length < window_tokens:
        raise InputError(
            f"window of {window_tokens} tokens is longer than the context length {context_length}"
        )
    if window < 0 or not len(ends) or end > int(ends[-1]):
        corpus = f"the corpus of {int(ends[-1]) if len(ends) else 0} tokens"
        raise InputError(f"window {window} of {window_tokens} tokens is outside {corpus}")
    earliest = max(begin - (context_length - window_tokens), 0)
    document = int(np.searchsorted(ends, np.uint64(begin), side="right"))
    segments, first = [], begin
    while first < end:
        document_start = int(ends[document - 1]) if document else 0
        stop = min(int(ends[document]), end)
        segments.append(Segment(document, max(document_start, earliest), first, stop))
        first, document = stop, document + 1
    return segments
