"""The tokenized corpus: its documents and their roles, its index, its tokens, and the draws from it.

The corpus is one global token sequence x_0..x_{m-1} per split: documents in order, each closed by one end-of-text token (EOT), shards
joined in index order. The bound's m is exactly the number of tokens of the train split's index, and positions are drawn from exactly
those (docs/theory.md, sections 1 and 2).
"""

import functools
import hashlib
import importlib.metadata
import itertools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from tokenbounds.errors import InputError
from tokenbounds.files import atomic_path, check_sha256, provenance, read_json, sha256_file, write_json
from tokenbounds.sections import Corpus, Sampling
from tokenbounds.sources import CountedFile, SourceFile, count_all
from tokenbounds.streams import generator

TRAIN, VALIDATION, TOKENIZER = 0, 1, 2
SPLITS = {"train": TRAIN, "val": VALIDATION}
_ENDS = np.dtype("<u8")
_COUNTED = ("bytes", "documents", "sha256")  # of a CountedFile, in its order
_VERIFIED_BYTES = 4 << 30
_BLOCK_BYTES = 1 << 24
_OPEN_SHARDS = 1024  # each costs an address range, of which a process has some 65,000


def token_dtype(vocab_size):
    """Type of a stored token id: little-endian uint16 up to 65536 ids, else uint32."""
    if not 1 <= vocab_size <= 2**32:
        raise InputError(f"vocabulary of {vocab_size} ids: expected 1 to 2^32, the most that a uint32 token holds")
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


# ---------------------------------------------------------------- documents and roles


def split_documents(documents, fraction, seed):
    """Numbers of the validation documents.

    The same documents as ``train_test_split(test_size=fraction, seed=seed, shuffle=True)`` of Hugging Face datasets takes for its test
    split: the first ``ceil(fraction * documents)`` entries of the permutation of NumPy's default generator. OpenWebText's published split
    is fraction .0005, seed 2357.

    Returns
    -------
    ndarray of int64, shape (ceil(fraction * documents),), in the permutation's order
    """
    if fraction == 0:
        return np.empty(0, np.int64)
    return np.random.default_rng(seed).permutation(documents)[: math.ceil(fraction * documents)]


def document_roles(corpus: Corpus, documents, seed, corpus_name):
    """Role of every document: counted (0), validation (1), or tokenizer training (2).

    Documents that the tokenizer is trained on are no part of m: a tokenizer that has seen the counted tokens is part of the hypothesis and
    would have to be paid for (docs/theory.md, section 2). They are drawn from the documents that are not held out, by the stream
    ``("tokenizer_sample", corpus_name)``: ``ceil(fraction * documents)`` of them.

    Returns
    -------
    ndarray of uint8, shape (documents,)
    """
    roles = np.zeros(documents, np.uint8)
    roles[split_documents(documents, corpus.split.val, corpus.split.seed)] = VALIDATION
    if corpus.tokenizer.train is not None:
        rest = np.flatnonzero(roles == TRAIN)
        sample = generator(seed, "tokenizer_sample", corpus_name).permutation(rest)
        roles[sample[: math.ceil(corpus.tokenizer.train.fraction * documents)]] = TOKENIZER
    return roles


def write_manifest(corpus: Corpus, seed, corpus_name, files: list[SourceFile], manifest_path, roles_path, processes=1):
    """Count a corpus's documents, give each a role and each shard a range; write ``documents.json`` and ``roles.bin``.

    Documents are numbered from 0 over the files in order, those without text included: with ``empty_documents: skip`` such a document has
    a number and a role but contributes no token. Shard s of S holds the documents ``floor(s N / S)`` to ``floor((s + 1) N / S)``.

    Parameters
    ----------
    corpus : Corpus
        Its section of the configuration.
    seed : int
        The run's seed (the validation split has its own).
    corpus_name : str
        Its key in the configuration: part of the stream's name.
    files : list of SourceFile
        From `tokenbounds.sources.list_files`.
    manifest_path, roles_path : path
        Where to write; roles are one uint8 per document.
    processes : int
        Processes that count.

    Raises
    ------
    InputError
        No documents, or none left to count.
    """
    counted = count_all(files, corpus.source.field, processes, corpus.source.eot_id)
    documents = sum(entry.documents for entry in counted)
    if not documents:
        raise InputError(f"corpora.{corpus_name}: no documents in {len(files)} files ({files[0].path}, ...); a corpus cannot be empty")
    roles = document_roles(corpus, documents, seed, corpus_name)
    held = {name: int((roles == role).sum()) for name, role in (("train", TRAIN), ("val", VALIDATION), ("tokenizer", TOKENIZER))}
    if not held["train"]:
        other = f"{held['val']} are for validation and {held['tokenizer']} for the tokenizer"
        raise InputError(f"corpora.{corpus_name}: of {documents} documents {other}; none is left to count")
    with atomic_path(roles_path) as temporary:
        temporary.write_bytes(roles.tobytes())
    bounds = [documents * shard // corpus.shards for shard in range(corpus.shards + 1)]
    config = corpus.model_dump(include={"source", "split", "shards"})
    if corpus.tokenizer.train is not None:
        config["tokenizer"] = corpus.tokenizer.model_dump(exclude_none=True)
    packages = {package: importlib.metadata.version(package) for package in dict.fromkeys(file.package for file in files) if package}
    write_json(
        manifest_path,
        {
            "documents": documents,
            "roles": held,
            "roles_sha256": sha256_file(roles_path),
            "shards": [list(pair) for pair in itertools.pairwise(bounds)],
            # With the sha256, an edit that changes no size and no count changes the manifest too, and so makes stale what is made from it.
            "files": [
                {"path": entry.file.path, **({"package": entry.file.package} if entry.file.package else {})}
                | {key: getattr(entry, key) for key in _COUNTED}
                for entry in counted
            ],
            "provenance": provenance(config, seed=seed, corpus=corpus_name, **({"packages": packages} if packages else {})),
        },
    )


def read_manifest(manifest_path, roles_path):
    """Read what `write_manifest` wrote.

    Returns
    -------
    manifest : dict
    files : list of CountedFile
    roles : ndarray of uint8, shape (documents,)
    """
    manifest = read_json(manifest_path)
    _need(manifest_path, manifest, ("documents", "roles_sha256", "shards", "files", "provenance"), "manifest of documents")
    if sha256_file(roles_path) != manifest["roles_sha256"]:
        raise InputError(f"{roles_path}: not the roles that {manifest_path} was written with (sha256 differs)")
    files = []
    for entry in manifest["files"]:
        _need(manifest_path, entry, ("path", *_COUNTED), "manifest of documents")
        files.append(CountedFile(SourceFile(entry["path"], entry.get("package")), *(entry[key] for key in _COUNTED)))
    return manifest, files, np.fromfile(roles_path, np.uint8)


# ---------------------------------------------------------------- index


def _need(path, data, keys, what):
    """Raise an `InputError` unless `data`, read from `path`, is a dict with all `keys`."""
    for key in keys:
        if not isinstance(data, dict) or key not in data:
            raise InputError(f"{path}: not a {what} (key '{key}' is missing)")


def _check_size(path, expected):
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    if found != expected:
        raise InputError(f"{path}: {found} bytes, expected {expected} ({'truncated?' if found < expected else 'not the indexed file'})")


def _check_dtype(path, facts):
    expected = token_dtype(facts["vocab_size"])
    if np.dtype(facts["dtype"]) != expected:
        raise InputError(f"{path}: dtype {facts['dtype']} for a vocabulary of {facts['vocab_size']}, expected {expected.name}")


def _check_tokens(path, sidecar, ends):
    """Read a shard once: its hash, its ids within the vocabulary, and an EOT at the end of each document and nowhere else."""
    digest, first, documents, wrong = hashlib.sha256(), 0, 0, None
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK_BYTES):
            digest.update(block)
            ids = np.frombuffer(block, sidecar["dtype"])
            if ids.max() >= sidecar["vocab_size"]:
                at = int(np.argmax(ids >= sidecar["vocab_size"]))
                wrong = wrong or f"token {first + at} has id {ids[at]}, outside the vocabulary of {sidecar['vocab_size']}"
            found = np.flatnonzero(ids == sidecar["eot_id"]).astype(_ENDS) + np.uint64(first + 1)
            if not np.array_equal(found, ends[documents : documents + len(found)]):
                wrong = wrong or f"end-of-text tokens (id {sidecar['eot_id']}) are not where its .ends.bin says that documents end"
            documents += len(found)
            first += len(ids)
    check_sha256(path, found=digest.hexdigest(), expected=sidecar["sha256"])
    if wrong or documents != len(ends) or first != (int(ends[-1]) if documents else 0):
        raise InputError(f"{path}: {wrong or f'{first} tokens in {documents} documents, but its .ends.bin lists {len(ends)}'}")


def build_index(sidecars, out_dir):
    """Check every shard of a split against its sidecar and write ``index.json`` and ``ends.bin``.

    Parameters
    ----------
    sidecars : list of path
        ``{shard}.json`` of shards 0, 1, ... in order, all in `out_dir`.
    out_dir : path
        The split's folder.

    Raises
    ------
    InputError
        A missing, truncated or edited shard, shards of different tokenizers, an id outside the vocabulary, or a train split without tokens.
    """
    out_dir = Path(out_dir)
    shared = ("split", "shards", "dtype", "vocab_size", "eot_id", "tokenizer_sha256")
    read = [(Path(path), read_json(path)) for path in sidecars]
    if not read:
        raise InputError(f"{out_dir}: no shards to index")
    for path, sidecar in read:
        _need(path, sidecar, (*shared, "shard", "tokens", "documents", "sha256", "ends_sha256", "provenance"), "shard's sidecar")
    facts = {key: read[0][1][key] for key in shared}
    if facts["shards"] != len(read):
        raise InputError(f"{out_dir}: {len(read)} shards given, expected {facts['shards']}")
    _check_dtype(read[0][0], facts)
    shards, cumulative, documents, digest = [], [0], 0, hashlib.sha256()
    with atomic_path(out_dir / "ends.bin") as temporary, open(temporary, "wb") as handle:
        for number, (path, sidecar) in enumerate(read):
            if path.parent != out_dir or sidecar["shard"] != number:
                raise InputError(f"{path}: shard {sidecar['shard']} in {path.parent}, expected shard {number} in {out_dir}")
            for key in shared:
                if sidecar[key] != facts[key]:
                    raise InputError(f"{path}: {key} {sidecar[key]}, but {facts[key]} in {read[0][0]}")
            tokens, ends_path = path.with_suffix(".bin"), path.with_suffix(".ends.bin")
            _check_size(tokens, sidecar["tokens"] * np.dtype(facts["dtype"]).itemsize)
            _check_size(ends_path, sidecar["documents"] * _ENDS.itemsize)
            check_sha256(ends_path, sidecar["ends_sha256"])
            ends = np.fromfile(ends_path, _ENDS)
            _check_tokens(tokens, sidecar, ends)
            block = (ends + np.uint64(cumulative[-1])).tobytes()
            digest.update(block)
            handle.write(block)
            shards.append({"name": path.stem, **{key: sidecar[key] for key in ("tokens", "documents", "sha256")}})
            cumulative.append(cumulative[-1] + sidecar["tokens"])
            documents += sidecar["documents"]
        if facts["split"] == "train" and not cumulative[-1]:
            raise InputError(f"{out_dir}: the train split has no tokens; a corpus cannot be empty")
    write_json(
        out_dir / "index.json",
        {
            "m_tokens": cumulative[-1],
            "documents": documents,
            **facts,
            "shards": shards,
            "cumulative_tokens": cumulative,
            "ends_sha256": digest.hexdigest(),
            "provenance": provenance(read[0][1]["provenance"]["config"], [path for path, _ in read]),
        },
    )


class CorpusIndex:
    """Where documents begin and end in a split's global token sequence. Reads ``index.json`` and ``ends.bin``, no tokens.

    Attributes
    ----------
    m : int
        Tokens.
    documents : int
        Documents.
    vocab_size, eot_id : int
        Vocabulary size V, and the id of the end-of-text token.
    ends : ndarray of uint64, shape (documents,)
        Memory-mapped. Position after each document's EOT.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        path = self.folder / "index.json"
        index = read_json(path)
        try:
            self.m, self.documents, self.vocab_size, self.eot_id = (index[key] for key in ("m_tokens", "documents", "vocab_size", "eot_id"))
            self._shards, self._cumulative = index["shards"], np.array(index["cumulative_tokens"], np.int64)
            self._dtype = np.dtype(index["dtype"])
            ends_sha256 = index["ends_sha256"]
        except (KeyError, TypeError) as error:
            raise InputError(f"{path}: not an index of token shards ({error} is missing or of the wrong type)") from None
        _check_dtype(path, index)
        if not np.array_equal(np.diff(self._cumulative), [shard["tokens"] for shard in self._shards]) or self._cumulative[-1] != self.m:
            raise InputError(f"{path}: m_tokens {self.m} and cumulative_tokens are not the sums of the shards' tokens")
        ends_path = self.folder / "ends.bin"
        _check_size(ends_path, self.documents * _ENDS.itemsize)
        check_sha256(ends_path, ends_sha256)
        self.ends = np.memmap(ends_path, _ENDS, "r") if self.documents else np.empty(0, _ENDS)
        if self.documents and int(self.ends[-1]) != self.m:
            raise InputError(f"{ends_path}: the last document ends at {self.ends[-1]}, expected m_tokens {self.m}")

    def check(self, positions):
        """Raise an `InputError` unless all `positions` are in 0..m-1; return them as int64."""
        positions = np.asarray(positions, np.int64)
        outside = (positions < 0) | (positions >= self.m)
        if outside.any():
            raise InputError(f"{self.folder}: position {positions[outside].flat[0]} is outside the corpus of {self.m} tokens")
        return positions

    def document_of(self, positions):
        """Number of the document that holds each position (its EOT included). Any shape, int64."""
        # uint64 on both sides: with int64, NumPy would compare copies in float64.
        return np.searchsorted(self.ends, self.check(positions).astype(_ENDS), side="right")

    def document_start(self, positions):
        """Position of the first token of the document that holds each position. Any shape, int64."""
        return self.start_of(self.document_of(positions))

    def start_of(self, documents):
        """Position of the first token of each document. Any shape, int64."""
        return np.where(documents > 0, self.ends[np.maximum(documents - 1, 0)].astype(np.int64), 0)


class TokenStore(CorpusIndex):
    """A split's tokens, memory-mapped.

    Parameters
    ----------
    folder : path
        ``tokens/{corpus}/{split}``.
    verify : bool, optional
        Hash each shard before its first token is used, so that a shard edited after indexing is found and named. Default: up to 4 GiB of
        tokens. Draws from a larger corpus touch nearly all of it, and every scoring job would read it whole, which the rule `index` did
        and `tokenbounds verify` does. Sizes are checked in any case, all of them when the store is opened.
    """

    def __init__(self, folder, verify=None):
        super().__init__(folder)
        if verify is None:
            verify = self.m * self._dtype.itemsize <= _VERIFIED_BYTES
        for shard in self._shards:
            _check_size(self.folder / f"{shard['name']}.bin", shard["tokens"] * self._dtype.itemsize)
        self._unverified = set(range(len(self._shards))) if verify else set()
        self._shard = functools.lru_cache(_OPEN_SHARDS)(self._open)

    def _open(self, number):
        shard = self._shards[number]
        path = self.folder / f"{shard['name']}.bin"
        if number in self._unverified:
            check_sha256(path, shard["sha256"])
            self._unverified.discard(number)
        return np.memmap(path, self._dtype, "r")

    def check_shards(self):
        """Read every shard: it is the indexed one, its ids are in the vocabulary, and EOTs stand where the index says that documents end.

        The last is what keeps the tokens of one document out of the contexts of another. An `InputError` names the first shard that fails.
        """
        facts = {"dtype": self._dtype, "vocab_size": self.vocab_size, "eot_id": self.eot_id}
        document = 0
        for number, shard in enumerate(self._shards):
            ends = self.ends[document : document + shard["documents"]] - np.uint64(self._cumulative[number])
            _check_tokens(self.folder / f"{shard['name']}.bin", facts | {"sha256": shard["sha256"]}, ends)
            self._unverified.discard(number)
            document += shard["documents"]
        if document != self.documents:
            raise InputError(f"{self.folder / 'index.json'}: {document} documents in the shards, expected {self.documents}")

    def tokens(self, start, stop):
        """Tokens x_start..x_{stop-1}, across shards.

        Returns
        -------
        ndarray of uint16 or uint32, shape (stop - start,)
            A copy.
        """
        if not 0 <= start <= stop <= self.m:
            raise InputError(f"{self.folder}: tokens {start} to {stop} are outside the corpus of {self.m} tokens")
        found, position = np.empty(stop - start, self._dtype), start
        while position < stop:
            number = int(np.searchsorted(self._cumulative, position, side="right")) - 1  # empty shards are stepped over
            end = min(stop, int(self._cumulative[number + 1]))
            first = int(self._cumulative[number])
            found[position - start : end - start] = self._shard(number)[position - first : end - first]
            position = end
        outside = found >= self.vocab_size
        if outside.any():
            at = int(np.argmax(outside))
            raise InputError(f"{self.folder}: token {start + at} has id {found[at]}, outside the vocabulary of {self.vocab_size}")
        return found


# ---------------------------------------------------------------- draws


def draw_positions(index: CorpusIndex, n, seed, corpus_name):
    """Draw n tokens uniformly with replacement from all m, by the stream ``("positions", corpus_name)``.

    Uniform over positions is the same as a shard with probability proportional to its tokens, then a token of it.

    Returns
    -------
    DataFrame
        ``draw`` (0..n-1), ``position``, ``document``, int64, in draw order: the pilot is the first tenth (docs/theory.md, section 5).
    """
    if n > index.m:
        raise InputError(f"{index.folder}: n = {n} draws from m = {index.m} tokens; expected n <= m")
    positions = generator(seed, "positions", corpus_name).integers(0, index.m, size=n, dtype=np.int64)
    return pd.DataFrame({"draw": np.arange(n), "position": positions, "document": index.document_of(positions)})


def draw_windows(index: CorpusIndex, n, window_tokens, seed, corpus_name):
    """Draw n windows of S = `window_tokens` tokens uniformly with replacement, by the stream ``("windows", corpus_name)``.

    The global sequence is cut into floor(m/S) windows; its one tail, shorter than S, belongs to none (docs/theory.md, section 5: a tail
    dropped per document or per shard would make the bound false).

    Returns
    -------
    DataFrame
        ``draw``, ``window`` (number), ``position`` and ``document`` (of the window's first token), int64, in draw order.
    """
    windows = index.m // window_tokens
    if n > windows:
        of = f"{windows} windows of {window_tokens} tokens (m = {index.m})"
        raise InputError(f"{index.folder}: n = {n} draws from {of}; expected n <= windows")
    drawn = generator(seed, "windows", corpus_name).integers(0, windows, size=n, dtype=np.int64)
    first = drawn * window_tokens
    return pd.DataFrame({"draw": np.arange(n), "window": drawn, "position": first, "document": index.document_of(first)})


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
    """The part of a window in one document: its tokens ``first`` to ``stop`` are scored, given those from ``start`` on."""

    document: int
    start: int
    first: int
    stop: int


def window_segments(window, window_tokens, context_length, ends) -> list[Segment]:
    """Split a window at document ends.

    Parameters
    ----------
    window : int
        Its number w: it holds the tokens wS to (w+1)S - 1.
    window_tokens, context_length : int
        S, and the most tokens L >= S that are fed for a window.
    ends : ndarray of uint64, shape (documents,)
        Document ends in global positions (`CorpusIndex.ends`).

    Returns
    -------
    list of Segment
        In order; each token of the window is scored in exactly one. Input reaches back to the document's start, but not before
        wS - (L - S), so that a scored token sees at least L - S tokens or its whole document so far, and the window's input is at most L
        tokens.
    """
    begin, end = window * window_tokens, (window + 1) * window_tokens
    if context_length < window_tokens:
        raise InputError(f"window of {window_tokens} tokens is longer than the context length {context_length}")
    if window < 0 or not len(ends) or end > int(ends[-1]):
        raise InputError(f"window {window} of {window_tokens} tokens is outside the corpus of {int(ends[-1]) if len(ends) else 0} tokens")
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
    """The draw that a sampling scheme asks for: `draw_positions`, `draw_windows` or `draw_documents`."""
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

    The sidecar's ``m_tokens`` is the number of tokens that the draw is uniform over: m, or S floor(m/S) for windows (for documents, all).
    """
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
        The index that it must have been drawn from.

    Returns
    -------
    DataFrame
        As `draw_positions` or `draw_windows` returned it, in draw order and complete.

    Raises
    ------
    InputError
        Not such a file, edited, out of draw order, or of another corpus.
    """
    path = Path(path)
    sidecar = read_json(path.with_suffix(".json"))
    _need(path.with_suffix(".json"), sidecar, ("mode", "draws", "index_m_tokens", "sha256"), "sidecar of drawn positions")
    check_sha256(path, sidecar["sha256"])
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a parquet file ({error})") from None
    expected = _COLUMNS[sidecar["mode"]]
    if list(frame.columns) != expected or any(dtype != np.int64 for dtype in frame.dtypes):
        found = ", ".join(f"{name} {dtype}" for name, dtype in frame.dtypes.items())
        raise InputError(f"{path}: columns {found}; expected {', '.join(expected)}, all int64")
    if not np.array_equal(frame["draw"], np.arange(sidecar["draws"])):
        raise InputError(f"{path}: {len(frame)} draws out of order or incomplete; expected draws 0 to {sidecar['draws'] - 1} in order")
    if index is not None:
        if sidecar["index_m_tokens"] != index.m:
            raise InputError(f"{path}: drawn from a corpus of {sidecar['index_m_tokens']} tokens, but {index.folder} has {index.m}")
        if not np.array_equal(index.document_of(frame["position"].to_numpy()), frame["document"]):
            raise InputError(f"{path}: its documents are not those of {index.folder}")
    return frame
