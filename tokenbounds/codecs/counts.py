"""Codec ``counts``: the n-gram counts of a Markov chain, sorted, delta coded and range coded.

N-grams of whole documents overlap: the last j tokens of a (j+1)-gram are a j-gram themselves. So the sets of
1-grams, 2-grams, ..., (k+1)-grams are coded one after the other, and a context of j tokens can only be
followed by the tokens that follow its last j - 1, which are known by then::

    context of j tokens        t1 t2 ... tj | ?
    its last j - 1 tokens         t2 ... tj | candidates: the tokens seen here

A context with one candidate costs nothing, and such contexts become more frequent with their length.
"""

import dataclasses
from typing import ClassVar

import constriction
import numpy as np

from tokenbounds.codecs.base import Codec
from tokenbounds.errors import InputError
from tokenbounds.models.ngram_counts import check_counts, unrolled

_MAX_VOCABULARY = 1 << 24  # constriction's probabilities have 24 bits
_LARGEST_FREQUENCY = 4095
_MAX_CLASSES = 25


class CountsCodec(Codec):
    """N-grams and their counts.

    Notes
    -----
    The tensors are ``ngrams`` (N, k+1), int32, and ``counts`` (N,), int32. A row of ``ngrams`` is a context,
    its oldest token first, and a token that followed it; a place before the document's start holds V
    (`vocab_size`). Rows are in lexicographic order. Counts are 1 to 65535 and have no common divisor within a
    context, so that the count of a context's only next token is 1.

    A set of (j+1)-grams is coded context by context, in lexicographic order. A context is a j-gram that does
    not end in EOT, or the document's start. Its candidates are the n tokens that follow its last j - 1 tokens
    (all V where j = 0). The codec writes how many of them follow it (c, where n > 1) and, for each, how many
    candidates are left out before it (its gap, where c < n). The counts of contexts with several next tokens
    come last.

    Every such number is coded as its bit length, with the frequencies of its run and bucket, and then evenly
    among the numbers of that bit length. The runs are, for each j, all c and all gaps, and then all counts. A
    run codes the bit lengths bucket by bucket, ascending, and then the rest in order.

    ==========  =======================
    number      bucket: bit length of
    ==========  =======================
    c - 1       n
    gap         n // c
    count - 1   c - 1
    ==========  =======================

    Written, in this order: the number of range-coded 32-bit words (varint) and the words (constriction's
    queue coder); for each run and bucket the number of its bit lengths (varint) and their frequencies
    (varints, scaled to at most 4095, the last not 0).
    """

    defaults: ClassVar = {"vocab_size": 2, "eot_id": 0}
    from_hypothesis: ClassVar = ("vocab_size", "eot_id")

    def check(self, options):
        """Refuse a vocabulary outside 2 to 2^24 tokens, and an EOT outside the vocabulary."""
        vocab_size, eot_id = options["vocab_size"], options["eot_id"]
        if type(vocab_size) is not int or not 2 <= vocab_size <= _MAX_VOCABULARY:
            raise InputError(f"vocab_size is {vocab_size!r}; expected an integer from 2 to {_MAX_VOCABULARY}")
        if type(eot_id) is not int or not 0 <= eot_id < vocab_size:
            raise InputError(f"eot_id is {eot_id!r}; expected an integer from 0 to {vocab_size - 1}")

    def flat(self, name, tensor):
        """Check an array of integers and flatten it."""
        if not isinstance(tensor, np.ndarray) or tensor.dtype.kind not in "iu" or tensor.itemsize > 4:
            kind = getattr(tensor, "dtype", type(tensor).__name__)
            raise InputError(f"tensor {name!r} is {kind}; expected an array of integers")
        return tensor.ravel()

    def write(self, writer, fields, options):
        """Append the fields: flat integer arrays ``ngrams`` and ``counts``."""
        if list(fields) != ["ngrams", "counts"] or fields["ngrams"].size % fields["counts"].size:
            raise InputError(
                f"tensors {', '.join(fields)}; expected ngrams (N, k + 1) and counts (N,) for codec 'counts'"
            )
        counts = fields["counts"].astype(np.int64)
        rows = fields["ngrams"].reshape(counts.size, -1).astype(np.int64)
        coder = _Encoder()
        lower = _vocabulary(options["vocab_size"])
        for level in _levels_of(rows, options["vocab_size"], options["eot_id"]):
            first, candidates = lower.candidates()
            stops = np.searchsorted(level.parent, lower.contexts, side="right")
            follow = np.diff(stops, prepend=0)
            if not np.array_equal(np.repeat(lower.contexts, follow), level.parent) or not follow.all():
                raise InputError(
                    "n-grams: a context that nothing follows; expected all n-grams of whole documents"
                )
            coder.run(follow[candidates > 1] - 1, _bit_length(candidates[candidates > 1]))
            n, c = np.repeat(candidates, follow), np.repeat(follow, follow)
            place = level.entry - np.repeat(first, follow)
            gaps = np.diff(place, prepend=0) - 1
            begin = stops - follow
            gaps[begin] = place[begin]
            coder.run(gaps[c < n], _bit_length((n // c)[c < n]))
            lower = level
        check_counts(counts, lower.parent)
        coder.run(counts[c > 1] - 1, _bit_length(c[c > 1] - 1))
        words = coder.words()
        writer.varint(len(words))
        writer.write(words.astype("<u4").tobytes())
        for frequencies in coder.tables:
            writer.varint(len(frequencies))
            for frequency in frequencies.tolist():
                writer.varint(frequency)

    def read(self, reader, layout, options):
        """Read flat int32 arrays of ``ngrams`` and ``counts``."""
        shapes = dict(layout)
        if (
            list(shapes) != ["ngrams", "counts"]
            or len(shapes["ngrams"]) != 2
            or shapes["counts"] != shapes["ngrams"][:1]
        ):
            raise reader.error(
                "corrupt message header (expected ngrams of shape (N, k + 1) and counts of shape (N,))"
            )
        number, length = shapes["ngrams"]
        vocab_size = options["vocab_size"]
        reader.section("n-grams and counts")
        coder = _Decoder(reader, np.frombuffer(reader.take(4 * reader.varint()), "<u4").astype(np.uint32))
        reader.section("frequencies")
        lower, levels = _vocabulary(vocab_size), []
        for _ in range(length):
            first, candidates = lower.candidates()
            follow = np.ones(candidates.size, np.int64)
            follow[candidates > 1] += coder.run(_bit_length(candidates[candidates > 1]))
            if (follow > candidates).any() or follow.sum() > number:
                raise reader.error(
                    f"corrupt message (more next tokens than candidates, or more than {number} n-grams)"
                )
            n, c = np.repeat(candidates, follow), np.repeat(follow, follow)
            gaps = np.zeros(n.size, np.int64)
            gaps[c < n] = coder.run(_bit_length((n // c)[c < n]))
            steps, begin = np.cumsum(gaps + 1), np.cumsum(follow) - follow
            place = steps - np.repeat(steps[begin] - gaps[begin], follow)
            if (place >= n).any():
                raise reader.error("corrupt message (a next token that is no candidate)")
            level = lower.above(
                np.repeat(lower.contexts, follow), np.repeat(first, follow) + place, options["eot_id"]
            )
            levels.append(level)
            lower = level
        counts = np.ones(lower.parent.size, np.int64)
        counts[c > 1] += coder.run(_bit_length(c[c > 1] - 1))
        if counts.size != number:
            raise reader.error(f"corrupt message ({counts.size} n-grams; expected {number})")
        try:
            check_counts(counts, lower.parent)
        except InputError as error:
            raise reader.error(f"corrupt message ({error})") from None
        rows = unrolled([(level.parent, level.token) for level in levels], vocab_size)
        return [rows.ravel(), counts.astype(np.int32)]


@dataclasses.dataclass(frozen=True)
class _Level:
    """The set of j-grams in lexicographic order, and the contexts of j tokens.

    Contexts have the numbers of the j-grams; the document's start has the number after them.
    """

    parent: np.ndarray  # number in the level below of each j-gram's context of j - 1 tokens
    token: np.ndarray  # last token of each j-gram
    entry: np.ndarray  # number in the level below of each j-gram's last j - 1 tokens
    suffix: np.ndarray  # number in the level below of the last j - 1 tokens of each context
    contexts: np.ndarray  # numbers of the contexts that some token follows, ascending

    def candidates(self):
        """Return, for each of `contexts`, the number of the first j-gram that continues its last j - 1
        tokens, and how many j-grams do."""
        suffix = self.suffix[self.contexts]
        first = np.searchsorted(self.parent, suffix)
        return first, np.searchsorted(self.parent, suffix, side="right") - first

    def above(self, parent, entry, eot_id):
        """Build the next level, from the numbers in this level of its (j+1)-grams' contexts (`parent`) and
        last j tokens (`entry`)."""
        token = self.token[entry]
        contexts = np.append(np.flatnonzero(token != eot_id), token.size)
        # Above the vocabulary, the last 0 tokens of every context are the one context of no tokens.
        root = self.suffix.size == 1
        suffix = np.zeros(token.size + 1, np.int64) if root else np.append(entry, self.token.size)
        return _Level(parent, token, entry, suffix, contexts)


def _vocabulary(vocab_size):
    """Return the level below the 1-grams: every token, after the one context of no tokens."""
    zero, tokens = np.zeros(1, np.int64), np.arange(vocab_size)
    return _Level(np.zeros(vocab_size, np.int64), tokens, tokens, zero, zero)


def _levels_of(rows, vocab_size, eot_id):
    """List the sets of 1-grams, 2-grams, ... behind rows of (k+1)-grams, as `_Level`."""
    inner = rows[:, :-1]
    bad = (
        ((rows < 0) | (rows > vocab_size)).any()
        or (rows[:, -1] == vocab_size).any()
        or (inner == eot_id).any()
    )
    if bad or ((inner[:, 1:] == vocab_size) & (inner[:, :-1] != vocab_size)).any():
        wrong = f"a token outside 0..{vocab_size - 1}, or a document's end or start inside an n-gram"
        raise InputError(f"n-grams: {wrong}; expected none")
    base, keys = vocab_size + 1, list[np.ndarray]()

    def shorter(n):
        """Return the key of the last n tokens of each row; it is one of ``keys[n - 1]`` where no n-gram is
        missing."""
        context = np.zeros(len(rows), np.int64)
        for known, column in zip(keys, range(rows.shape[1] - n, rows.shape[1] - 1), strict=False):
            key, at_start = context * base + rows[:, column], rows[:, column] == vocab_size
            context = np.where(at_start, known.size, _place(known, key, ~at_start))
        return context * base + rows[:, -1]

    lower, levels = _vocabulary(vocab_size), []
    for n in range(1, rows.shape[1] + 1):
        key = shorter(n)
        unique, example = np.unique(key, return_index=True)
        entry = unique if n == 1 else _place(keys[-1], shorter(n - 1)[example], True)
        keys.append(unique)
        lower = lower.above(unique // base, entry, eot_id)
        levels.append(lower)
    if not np.array_equal(key, unique):
        raise InputError("n-grams are not in order, or one is there twice; expected ascending rows")
    return levels


def _place(known, keys, wanted):
    """Return the places of `keys` in the sorted `known`; those that are `wanted` must be there."""
    place = np.minimum(np.searchsorted(known, keys), known.size - 1)
    if ((known[place] != keys) & wanted).any():
        missing = "an n-gram within a longer one that is not there itself"
        raise InputError(f"n-grams: {missing}; expected all n-grams of whole documents")
    return place


def _bit_length(values):
    """Return the bit length of integers from 0 to 2^53."""
    return np.frexp(values.astype(np.float64))[1]


class _Encoder:
    """Range coder of runs; the frequencies that it used are in `tables`."""

    def __init__(self):
        self.encoder, self.tables = constriction.stream.queue.RangeEncoder(), []

    def words(self):
        """Return the range-coded words."""
        return self.encoder.get_compressed()

    def run(self, values, buckets):
        """Code integers, with the frequencies of their buckets."""
        classes = _bit_length(values).astype(np.int32)
        for bucket in np.unique(buckets):
            chosen = classes[buckets == bucket]
            frequencies = np.bincount(chosen)
            if frequencies.max() > _LARGEST_FREQUENCY:
                # rounded up, so that no frequency becomes 0
                frequencies = -(-frequencies * _LARGEST_FREQUENCY // frequencies.max())
            self.tables.append(frequencies)
            if (frequencies > 0).sum() > 1:
                self.encoder.encode(chosen, _model(frequencies))
        half = _halves(classes)
        if half.size:
            self.encoder.encode(
                (values[classes > 1] - half).astype(np.int32), constriction.stream.model.Uniform(), half
            )


class _Decoder:
    """Decoder of the words of an `_Encoder`, with the frequencies that come next from a reader, bucket by
    bucket."""

    def __init__(self, reader, compressed):
        self.reader, self.decoder = reader, constriction.stream.queue.RangeDecoder(compressed)

    def run(self, buckets):
        """Decode the integers of a run, given their buckets."""
        classes = np.zeros(buckets.size, np.int32)
        try:
            for bucket in np.unique(buckets):
                frequencies = self._frequencies()
                chosen = buckets == bucket
                present = np.flatnonzero(frequencies)
                several = present.size > 1
                classes[chosen] = (
                    self.decoder.decode(_model(frequencies), int(chosen.sum())) if several else present[0]
                )
            half = _halves(classes)
            values = np.minimum(classes, 1).astype(np.int64)
            if half.size:
                values[classes > 1] = (
                    self.decoder.decode(constriction.stream.model.Uniform(), half).astype(np.int64) + half
                )
        except AssertionError as error:
            raise self.reader.error(f"corrupt message ({error})") from None
        return values

    def _frequencies(self):
        size = self.reader.varint()
        if not 1 <= size <= _MAX_CLASSES:
            raise self.reader.error(
                f"corrupt message (frequencies of {size} bit lengths; expected 1 to {_MAX_CLASSES})"
            )
        numbers = [min(self.reader.varint(), _LARGEST_FREQUENCY + 1) for _ in range(size)]
        frequencies = np.array(numbers, np.int64)
        if frequencies.max() > _LARGEST_FREQUENCY or not frequencies[-1]:
            raise self.reader.error(
                f"corrupt message (a frequency above {_LARGEST_FREQUENCY}, or a last one of 0)"
            )
        return frequencies


def _halves(classes):
    """Return, for each number of at least two bits, the least number of its bit length; as many numbers have
    that bit length."""
    return np.left_shift(1, classes[classes > 1] - 1).astype(np.int32)


def _model(frequencies):
    # float64 division is exact to the last bit everywhere, so that the decoder builds the same model
    return constriction.stream.model.Categorical(frequencies / frequencies.sum(), perfect=False)
