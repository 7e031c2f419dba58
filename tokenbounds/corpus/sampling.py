"""Sampling: seeded draws of tokens, windows or documents from a corpus, and the files that hold them.

=========  ========================================  ==========================
mode       one draw                                  uniform over
=========  ========================================  ==========================
token      one position                              all m tokens
window     S consecutive tokens, wS to (w+1)S - 1    the floor(m/S) windows
document   one document                              all documents
=========  ========================================  =========================="""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from tokenbounds.config.schema import Sampling
from tokenbounds.corpus.store import CorpusIndex, require_keys
from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_path, check_sha256, read_json, sha256_file, write_json
from tokenbounds.io.provenance import provenance
from tokenbounds.randomness import generator


def draw_positions(index: CorpusIndex, n, seed, corpus_name):
    """Draw n tokens uniformly with replacement from all m, by the stream ``("positions", corpus_name)``.

    This equals drawing a shard with probability proportional to its tokens, then a token of it uniformly.

    Returns
    -------
    DataFrame
        ``draw`` (0..n-1), ``position``, ``document``, int64, in draw order: the pilot is the first tenth
        (docs/theory.md, section 5).
    """
    if n > index.m:
        raise InputError(f"{index.folder}: n = {n} draws from m = {index.m} tokens; expected n <= m")
    positions = generator(seed, "positions", corpus_name).integers(0, index.m, size=n, dtype=np.int64)
    return pd.DataFrame(
        {"draw": np.arange(n), "position": positions, "document": index.document_of(positions)}
    )


def draw_windows(index: CorpusIndex, n, window_tokens, seed, corpus_name):
    """Draw n windows of S = `window_tokens` tokens uniformly with replacement.

    The stream is ``("windows", corpus_name)``. The global sequence is cut into floor(m/S) windows; its tail,
    shorter than S, belongs to none (docs/theory.md, section 5: dropping a tail per document or per shard
    would make the bound false).

    Returns
    -------
    DataFrame
        ``draw``, ``window`` (number), ``position`` and ``document`` (of the window's first token), int64, in
        draw order.
    """
    windows = index.m // window_tokens
    if n > windows:
        available = f"{windows} windows of {window_tokens} tokens (m = {index.m})"
        raise InputError(f"{index.folder}: n = {n} draws from {available}; expected n <= windows")
    drawn = generator(seed, "windows", corpus_name).integers(0, windows, size=n, dtype=np.int64)
    first = drawn * window_tokens
    return pd.DataFrame(
        {"draw": np.arange(n), "window": drawn, "position": first, "document": index.document_of(first)}
    )


def draw_documents(index: CorpusIndex, n, seed, corpus_name):
    """Draw n documents uniformly with replacement, by the stream ``("documents", corpus_name)``.

    Returns
    -------
    DataFrame
        ``draw``, ``position`` (of the document's first token) and ``document``, int64, in draw order.
    """
    count = len(index.ends)
    if n > count:
        raise InputError(f"{index.folder}: n = {n} draws from {count} documents; expected n <= documents")
    documents = generator(seed, "documents", corpus_name).integers(0, count, size=n, dtype=np.int64)
    return pd.DataFrame({"draw": np.arange(n), "position": index.start_of(documents), "document": documents})


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


def draw(index: CorpusIndex, sampling: Sampling, seed, corpus_name):
    """Draw by the mode of a sampling scheme: `draw_positions`, `draw_windows` or `draw_documents`."""
    if sampling.mode == "token":
        return draw_positions(index, sampling.n, seed, corpus_name)
    if sampling.mode == "document":
        return draw_documents(index, sampling.n, seed, corpus_name)
    return draw_windows(index, sampling.n, sampling.window, seed, corpus_name)


_COLUMNS = {
    "token": ["draw", "position", "document"],
    "window": ["draw", "window", "position", "document"],
    "document": ["draw", "position", "document"],
}


def write_positions(path, index: CorpusIndex, sampling: Sampling, seed, corpus_name):
    """Draw and write ``positions/{corpus}.{sampling}.parquet`` and its sidecar ``.json``, atomically.

    The sidecar's ``m_tokens`` is the number of tokens that can be drawn: m, or S floor(m/S) for windows."""
    frame = draw(index, sampling, seed, corpus_name)
    path = Path(path)
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, index=False)
    step = sampling.window or 1
    config = {"sampling": sampling.model_dump(exclude={"context_length"})}  # positions do not depend on it
    write_json(
        path.with_suffix(".json"),
        {
            "mode": sampling.mode,
            "draws": len(frame),
            "window_tokens": sampling.window,
            "m_tokens": index.m // step * step,
            "index_m_tokens": index.m,
            "sha256": sha256_file(path),
            "provenance": provenance(config, [index.folder / "index.json"], seed=seed, corpus=corpus_name),
        },
    )


def read_positions(path, index: CorpusIndex | None = None):
    """Read and check a file of `write_positions`.

    Parameters
    ----------
    path : path
        The parquet file; its sidecar is beside it.
    index : CorpusIndex, optional
        Index of the corpus that the positions must have been drawn from.

    Returns
    -------
    DataFrame
        As `draw` returned it, in draw order and complete.

    Raises
    ------
    InputError
        Not such a file, edited, out of draw order, or of another corpus.
    """
    path = Path(path)
    sidecar = read_json(path.with_suffix(".json"))
    require_keys(
        path.with_suffix(".json"),
        sidecar,
        ("mode", "draws", "index_m_tokens", "sha256"),
        "sidecar of drawn positions",
    )
    check_sha256(path, sidecar["sha256"])
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a parquet file ({error})") from None
    expected = _COLUMNS[sidecar["mode"]]
    if list(frame.columns) != expected or any(dtype != np.int64 for dtype in frame.dtypes):
        columns = ", ".join(f"{name} {dtype}" for name, dtype in frame.dtypes.items())
        raise InputError(f"{path}: columns {columns}; expected {', '.join(expected)}, all int64")
    if not np.array_equal(frame["draw"], np.arange(sidecar["draws"])):
        order = f"expected draws 0 to {sidecar['draws'] - 1} in order"
        raise InputError(f"{path}: {len(frame)} draws out of order or incomplete; {order}")
    if index is not None:
        if sidecar["index_m_tokens"] != index.m:
            origin = f"drawn from a corpus of {sidecar['index_m_tokens']} tokens"
            raise InputError(f"{path}: {origin}, but {index.folder} has {index.m}")
        if not np.array_equal(index.document_of(frame["position"].to_numpy()), frame["document"]):
            raise InputError(f"{path}: its documents are not those of {index.folder}")
    return frame
