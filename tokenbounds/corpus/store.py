"""Token store: the index and the tokens of a corpus.

The corpus is one global token sequence x_0..x_{m-1} per split: documents in order, each closed by one
end-of-text token (EOT), shards joined in index order. The bound's m is exactly the number of tokens of the
train split's index, and positions are drawn from exactly those (docs/theory.md, sections 1 and 2). ::

    shards        [00000.bin            ] [00001.bin      ]
    tokens         x0 x1 EOT x3 x4 x5 EOT  x7 x8 x9 EOT         m = 11
    ends           3         7             11                   position after each EOT
    cumulative    0                        7                11  first token of each shard, and m
"""

import functools
import hashlib
from pathlib import Path

import numpy as np

from tokenbounds.corpus.index_shape import check_index
from tokenbounds.errors import InputError
from tokenbounds.io.files import canonical_json, check_sha256, file_size, read_json

ENDS = np.dtype("<u8")
_VERIFIED_BYTES = 4 << 30
_BLOCK_BYTES = 1 << 24
_OPEN_SHARDS = 1024  # each takes a memory mapping, and a process may have some 65,000


def token_dtype(vocab_size):
    """Choose the type of stored token ids: little-endian uint16 up to 65536 ids, else uint32."""
    if not 1 <= vocab_size <= 2**32:
        raise InputError(
            f"vocabulary of {vocab_size} ids: expected 1 to 2^32, the most that a uint32 token holds"
        )
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def require_keys(path, data, keys, kind):
    """Raise an `InputError` unless `data`, read from `path`, is a dict with all `keys`.

    `kind` names the kind of file in the message."""
    for key in keys:
        if not isinstance(data, dict) or key not in data:
            raise InputError(f"{path}: not a {kind} (key '{key}' is missing)")


def check_size(path, expected):
    """Raise an `InputError` unless the file at `path` has `expected` bytes."""
    size = file_size(path)
    if size != expected:
        guess = "truncated?" if size < expected else "not the indexed file"
        raise InputError(f"{path}: {size} bytes, expected {expected} ({guess})")


def check_dtype(path, facts):
    """Raise an `InputError` unless the ``dtype`` of `facts`, read from `path`, is that of its vocabulary."""
    expected = token_dtype(facts["vocab_size"])
    if np.dtype(facts["dtype"]) != expected:
        declared = f"dtype {facts['dtype']} for a vocabulary of {facts['vocab_size']}"
        raise InputError(f"{path}: {declared}, expected {expected.name}")


def check_tokens(path, sidecar, ends, joined):
    """Read a shard once and check its hash, that its ids are in the vocabulary, and that EOTs end documents.

    An EOT stands at the end of each document and nowhere else. The hash `joined`, of all shards, goes on."""
    digest, first, documents, wrong = hashlib.sha256(), 0, 0, None
    with open(path, "rb") as handle:
        while block := handle.read(_BLOCK_BYTES):
            digest.update(block)
            joined.update(block)
            ids = np.frombuffer(block, sidecar["dtype"])
            if ids.max() >= sidecar["vocab_size"]:
                at = int(np.argmax(ids >= sidecar["vocab_size"]))
                outside = f"outside the vocabulary of {sidecar['vocab_size']}"
                wrong = wrong or f"token {first + at} has id {ids[at]}, {outside}"
            after_eot = np.flatnonzero(ids == sidecar["eot_id"]).astype(ENDS) + np.uint64(first + 1)
            if not np.array_equal(after_eot, ends[documents : documents + len(after_eot)]):
                eots = f"end-of-text tokens (id {sidecar['eot_id']})"
                wrong = wrong or f"{eots} are not where its .ends.bin says that documents end"
            documents += len(after_eot)
            first += len(ids)
    check_sha256(path, actual=digest.hexdigest(), expected=sidecar["sha256"])
    if wrong or documents != len(ends) or first != (int(ends[-1]) if documents else 0):
        counted = f"{first} tokens in {documents} documents, but its .ends.bin lists {len(ends)}"
        raise InputError(f"{path}: {wrong or counted}")


# What the draws depend on: the counted tokens, and where documents end in them. How they are divided among
# files, or what else an index says, could be changed at will.
_IDENTITY = ("m_tokens", "documents", "vocab_size", "eot_id", "tokens_sha256", "ends_sha256")


def identity_of(index):
    """Hash the counted tokens that an index, a dict, describes, for `CorpusIndex.identity`."""
    return hashlib.sha256(canonical_json({key: index.get(key) for key in _IDENTITY}).encode()).hexdigest()


class CorpusIndex:
    """Beginning and end of each document in a split's global token sequence.

    It reads ``index.json`` and ``ends.bin``, but no tokens.

    Attributes
    ----------
    m : int
        Number of tokens.
    documents : int
        Number of documents.
    vocab_size, eot_id : int
        Vocabulary size V, and the id of the end-of-text token.
    ends : ndarray of uint64, shape (documents,)
        Position after each document's EOT, memory-mapped.
    index : dict
        ``index.json`` as it is.
    identity : str
        SHA-256 of the counted tokens and document ends, however they are divided among files. Draws are
        derived from it (`tokenbounds.corpus.sampling.draw_key`).
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        path = self.folder / "index.json"
        index = read_json(path)
        check_index(path, index)
        check_dtype(path, index)
        self.index, self.identity = index, identity_of(index)
        self.m, self.documents, self.vocab_size, self.eot_id = (
            index[key] for key in ("m_tokens", "documents", "vocab_size", "eot_id")
        )
        self._shards, self._cumulative = index["shards"], np.array(index["cumulative_tokens"], np.int64)
        self._dtype = np.dtype(index["dtype"])
        ends_path = self.folder / "ends.bin"
        check_size(ends_path, self.documents * ENDS.itemsize)
        check_sha256(ends_path, index["ends_sha256"])
        self.ends = np.memmap(ends_path, ENDS, "r") if self.documents else np.empty(0, ENDS)
        if self.documents and int(self.ends[-1]) != self.m:
            raise InputError(
                f"{ends_path}: the last document ends at {self.ends[-1]}, expected m_tokens {self.m}"
            )
        for start in range(0, self.documents - 1, _BLOCK_BYTES):
            block = self.ends[start : start + _BLOCK_BYTES + 1]
            if (block[1:] <= block[:-1]).any():
                raise InputError(f"{ends_path}: documents do not end in increasing order")

    def check(self, positions):
        """Raise an `InputError` unless all `positions` are in 0..m-1; return them as int64."""
        positions = np.asarray(positions, np.int64)
        outside = (positions < 0) | (positions >= self.m)
        if outside.any():
            position = f"position {positions[outside].flat[0]}"
            raise InputError(f"{self.folder}: {position} is outside the corpus of {self.m} tokens")
        return positions

    def document_of(self, positions):
        """Return the number of the document that holds each position (its EOT included). Any shape, int64."""
        # uint64 on both sides: with int64, NumPy would compare copies in float64.
        return np.searchsorted(self.ends, self.check(positions).astype(ENDS), side="right")

    def document_start(self, positions):
        """Return the position of the first token of each position's document. Any shape, int64."""
        return self.start_of(self.document_of(positions))

    def start_of(self, documents):
        """Return the position of the first token of each document. Any shape, int64."""
        return np.where(documents > 0, self.ends[np.maximum(documents - 1, 0)].astype(np.int64), 0)


class TokenStore(CorpusIndex):
    """A split's tokens, memory-mapped.

    Parameters
    ----------
    folder : path
        ``tokens/{corpus}/{split}``.
    verify : bool, optional
        Hash each shard before its first token is used, so that a shard edited after indexing is named in an
        error. Default: up to 4 GiB of tokens. Draws from a larger corpus touch nearly all of it, so that
        every scoring job would read it whole; the rule `index` has done so, and `tokenbounds verify` does.
        The sizes of all shards are checked in any case, when the store is opened.
    """

    def __init__(self, folder, verify=None):
        super().__init__(folder)
        if verify is None:
            verify = self.m * self._dtype.itemsize <= _VERIFIED_BYTES
        for shard in self._shards:
            check_size(self.folder / f"{shard['name']}.bin", shard["tokens"] * self._dtype.itemsize)
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
        """Read every shard and check its hash, its ids, and that EOTs stand exactly at the document ends.

        The last check keeps the tokens of one document out of the contexts of another. An `InputError` names
        the first shard that fails."""
        facts = {"dtype": self._dtype, "vocab_size": self.vocab_size, "eot_id": self.eot_id}
        document, joined = 0, hashlib.sha256()
        for number, shard in enumerate(self._shards):
            ends = self.ends[document : document + shard["documents"]] - np.uint64(self._cumulative[number])
            check_tokens(
                self.folder / f"{shard['name']}.bin", facts | {"sha256": shard["sha256"]}, ends, joined
            )
            self._unverified.discard(number)
            document += shard["documents"]
        if joined.hexdigest() != self.index["tokens_sha256"]:
            raise InputError(f"{self.folder / 'index.json'}: tokens_sha256 is not that of the joined shards")

    def shards(self):
        """Return (tokens, ends) of each shard: its token ids, memory-mapped, and the position in it after
        each of its documents."""
        pairs, document = [], 0
        for number, shard in enumerate(self._shards):
            stop = document + shard["documents"]
            ends = self.ends[document:stop] - np.uint64(self._cumulative[number])
            pairs.append((self._shard(number) if shard["tokens"] else np.empty(0, self._dtype), ends))
            document = stop
        return pairs

    def tokens(self, start, stop):
        """Read the tokens x_start..x_{stop-1}, across shards.

        Returns
        -------
        ndarray of uint16 or uint32, shape (stop - start,)
            Copy of the tokens.
        """
        if not 0 <= start <= stop <= self.m:
            raise InputError(
                f"{self.folder}: tokens {start} to {stop} are outside the corpus of {self.m} tokens"
            )
        tokens, position = np.empty(stop - start, self._dtype), start
        while position < stop:
            # side="right" steps over empty shards
            number = int(np.searchsorted(self._cumulative, position, side="right")) - 1
            end = min(stop, int(self._cumulative[number + 1]))
            first = int(self._cumulative[number])
            tokens[position - start : end - start] = self._shard(number)[position - first : end - first]
            position = end
        outside = tokens >= self.vocab_size
        if outside.any():
            at = int(np.argmax(outside))
            token = f"token {start + at} has id {tokens[at]}"
            raise InputError(f"{self.folder}: {token}, outside the vocabulary of {self.vocab_size}")
        return tokens
