"""How much of a corpus repeats itself: exact copies of documents, and contexts that stood earlier.

The bounds are about the loss given *everything* before a token (docs/theory.md, section 9): where a full
context stood earlier, what follows it is often known. An index therefore says how much of its text that is.
Nothing is compared but 64-bit hashes, by sorting."""

import hashlib

import numpy as np
from tqdm import tqdm

_MOST_WINDOWS = 200_000_000  # hashes in memory at once; of more, those with the lowest bits zero are kept
_MOST_DOCUMENTS = 1 << 27
MOST_TOKENS = 40_000_000_000  # a corpus of more tokens would take the index hours to hash
_BLOCK = 1 << 14  # tokens hashed at once: their arrays stay in the processor's cache
_BUCKET_BITS = 8
_PIECES = 1 << 20  # hashes divided among buckets at once
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def _mix(values):
    """Scramble 64-bit integers in place (the finalizer of SplitMix64), and return them."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values ^= values >> np.uint64(shift)
        values *= np.uint64(factor)
    values ^= values >> np.uint64(31)
    return values


def _joined(first, second):
    """Hash the pair of two hashes, in order."""
    values = first * _MULTIPLIER
    values += second
    return _mix(values)


def window_hashes(tokens, length):
    """Hash every window of `length` consecutive tokens.

    Windows of 2^k tokens are pairs of windows of 2^(k-1); one of another length is joined from these.

    Parameters
    ----------
    tokens : ndarray of integers, shape (n,)
    length : int
        At least 1.

    Returns
    -------
    ndarray of uint64, shape (max(n - length + 1, 0),)
        Hash of ``tokens[i : i + length]``.
    """
    count = len(tokens) - length + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    power, size = _mix(tokens.astype(np.uint64) + _MULTIPLIER), 1
    hashes, covered = None, 0
    while True:
        if length & size:
            part = power[covered : covered + count]
            hashes = part.copy() if hashes is None else _joined(hashes, part)
            covered += size
        if covered == length:
            return hashes
        power, size = _joined(power[:-size], power[size:]), 2 * size


def _full_contexts(tokens, ends, length):
    """Yield (hashes of the full contexts, the token after each) of a shard, block by block, in order."""
    for start in range(0, len(tokens), _BLOCK):
        stop = min(start + _BLOCK, len(tokens))
        first, last = np.searchsorted(ends, [start, stop - 1], side="right")
        starts = np.concatenate([[ends[first - 1] if first else 0], ends[first:last]]).astype(np.int64)
        limits = np.concatenate([starts[1:], [stop]])
        within = np.arange(start, stop) - np.repeat(starts, limits - np.maximum(starts, start))
        before = max(start - length, 0)
        positions = np.flatnonzero(within >= length) + start
        if not positions.size:
            yield np.empty(0, np.uint64), np.empty(0, tokens.dtype)
            continue
        hashes = window_hashes(np.asarray(tokens[before : stop - 1]), length)
        yield hashes[positions - length - before], np.asarray(tokens[start:stop])[positions - start]


class _Buckets:
    """Hashes with the token that follows each, divided by the leading bits of the hash, each part in order.

    Equal hashes share a part, and a part is small enough to be sorted in the processor's cache."""

    def __init__(self):
        self._parts = [[] for _ in range(1 << _BUCKET_BITS)]

    def add(self, hashes, following):
        """Add entries, in order."""
        leading = (hashes >> np.uint64(64 - _BUCKET_BITS)).astype(np.uint8)
        order = np.argsort(leading, kind="stable")
        limits = np.cumsum(np.bincount(leading, minlength=len(self._parts)))[:-1]
        pieces = zip(np.split(hashes[order], limits), np.split(following[order], limits), strict=True)
        for part, (some_hashes, some_following) in zip(self._parts, pieces, strict=True):
            part.append((some_hashes, some_following))

    def count(self):
        """Count entries whose hash stands earlier, and those of them followed by what followed it first."""
        counts = np.zeros(2, np.int64)
        for part in self._parts:
            if part:
                counts += _count_repeats(*map(np.concatenate, zip(*part, strict=True)))
        return map(int, counts)


def _count_repeats(hashes, following):
    """Count as `_Buckets.count` does, for some entries in order; return (repeated, continued)."""
    # One sort finds most hashes that occur once: leading bits of each, with its place in the trailing ones.
    bits = np.uint64(max(len(hashes) - 1, 1).bit_length())
    packed = (hashes << np.uint64(_BUCKET_BITS) >> bits) << bits
    packed |= np.arange(len(hashes), dtype=np.uint64)
    packed.sort()
    leading = packed >> bits
    same = leading[1:] == leading[:-1]
    shared = np.zeros(len(hashes), bool)
    shared[1:] = same
    shared[:-1] |= same
    entries = packed[shared] & ((np.uint64(1) << bits) - np.uint64(1))
    if not entries.size:
        return 0, 0
    values = hashes[entries]
    order = np.argsort(values)
    values, entries = values[order], entries[order]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    first = np.repeat(np.minimum.reduceat(entries, starts), np.diff(np.append(starts, len(values))))
    continued = int((following[entries] == following[first]).sum())
    return len(values) - len(starts), continued - len(starts)


def repeated_contexts(shards, context_length):
    """Count the tokens whose full context stood earlier in the corpus.

    A context is full when `context_length` tokens of its own document stand before the token. It stood
    earlier when the same tokens are the full context of an earlier token.

    Parameters
    ----------
    shards : list of (tokens, ends)
        Of each shard, its token ids (memory-mapped) and the position after each of its documents.
    context_length : int
        Tokens of a context.

    Returns
    -------
    dict or None
        ``context_length``; ``full``, the tokens with a full context; ``repeated``, those of them whose
        context stood earlier; ``continued``, those of these that are followed by the token that followed it
        the first time; ``share``, `repeated` by the number of all tokens; ``one_in``: 1 if every context was
        compared, else only those with a hash divisible by it were, and ``repeated`` and ``continued`` are
        unbiased estimates. None of a corpus with more tokens than can be hashed in reasonable time.
    """
    tokens = sum(len(shard) for shard, _ in shards)
    if not 0 < tokens <= MOST_TOKENS:
        return None
    full = sum(
        int(np.maximum(np.diff(ends.astype(np.int64), prepend=0) - context_length, 0).sum())
        for _, ends in shards
    )
    one_in = 1
    while full > one_in * _MOST_WINDOWS:
        one_in *= 2
    buckets, waiting, size = _Buckets(), [], 0
    with tqdm(desc="comparing contexts", total=tokens, unit="token", unit_scale=True, disable=None) as bar:
        for shard, ends in shards:
            for hashes, following in _full_contexts(shard, ends, context_length):
                bar.update(_BLOCK)
                if one_in > 1:
                    kept = (hashes & np.uint64(one_in - 1)) == 0
                    hashes, following = hashes[kept], following[kept]
                waiting.append((hashes, following))
                size += len(hashes)
                if size >= _PIECES:
                    buckets.add(*map(np.concatenate, zip(*waiting, strict=True)))
                    waiting, size = [], 0
    if waiting:
        buckets.add(*map(np.concatenate, zip(*waiting, strict=True)))
    repeated, continued = buckets.count()
    return {
        "context_length": context_length,
        "full": full,
        "repeated": repeated * one_in,
        "continued": continued * one_in,
        "share": repeated * one_in / tokens,
        "one_in": one_in,
    }


def duplicate_documents(shards):
    """Count the documents that are exact copies, token by token, of an earlier one.

    Parameters
    ----------
    shards : list of (tokens, ends)
        As for `repeated_contexts`.

    Returns
    -------
    duplicates : int
    one_in : int
        1 if all documents were compared; else only those with a hash divisible by it, and `duplicates` is an
        unbiased estimate.
    """
    documents = sum(len(ends) for _, ends in shards)
    one_in = 1
    while documents > one_in * _MOST_DOCUMENTS:
        one_in *= 2
    kept = []
    with tqdm(desc="comparing documents", total=documents, unit="document", disable=None) as bar:
        for tokens, ends in shards:
            data, width = memoryview(tokens.view(np.uint8)), tokens.dtype.itemsize
            digests, start = np.empty(len(ends), np.uint64), 0
            for number, end in enumerate(ends.tolist()):
                digest = hashlib.sha256(data[width * start : width * end]).digest()
                digests[number] = int.from_bytes(digest[:8], "little")
                start = end
            kept.append(digests[digests & np.uint64(one_in - 1) == 0])
            bar.update(len(ends))
    digests = np.concatenate(kept) if kept else np.empty(0, np.uint64)
    return (len(digests) - len(np.unique(digests))) * one_in, one_in
