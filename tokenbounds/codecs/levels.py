"""Codec ``levels``: scalar quantization to a small codebook, then range coding.

The tensors, flattened in C order, form one run per tensor (``codebook: tensor``) or one run in all
(``shared``). Written are, for each run:

=========================  =============================================================================
part                       size
=========================  =============================================================================
K, number of codewords     varint
codewords                  K float16 numbers, most frequent first
counts of the codewords    packed bits, filled with zeros to a whole byte
=========================  =============================================================================

With r values and j codewords left and the previous count c, the next count lies in [ceil(r/j),
min(c, r-j+1)]; its excess over the lower end takes as many bits as the width of that interval has (the last
count takes none). Then follows, to the end of the body, one range-coded stream of the symbols of all runs
(constriction's queue coder: 32-bit words, 64-bit state, 24-bit probabilities); a run with K = 1 codes
nothing.
"""

import math
from typing import ClassVar

import constriction
import numpy as np

from tokenbounds.codecs.base import Codec
from tokenbounds.codecs.scalar import check_levels, kmeans_levels, uniform_levels
from tokenbounds.errors import InputError

_CHUNK = 1 << 22  # symbols coded per step, to keep the int32 copies of a large tensor small


class LevelsCodec(Codec):
    """Scalar quantization to a small codebook, then range coding with the empirical frequencies."""

    defaults: ClassVar = {"levels": 11, "method": "uniform", "codebook": "tensor"}
    methods: ClassVar = {"uniform": uniform_levels, "kmeans": kmeans_levels}

    def check(self, options):
        """Refuse an unknown method or codebook, and a number of levels outside 2 to 65536."""
        check_levels(options["levels"])
        for key, known in (("method", tuple(self.methods)), ("codebook", ("tensor", "shared"))):
            if options[key] not in known:
                raise InputError(f"{key} is {options[key]!r}; expected one of {', '.join(known)}")

    def write(self, writer, tensors, options):
        """Append codebooks and counts of all runs, and then their symbols."""
        flat = list(tensors.values())
        runs = flat if options["codebook"] == "tensor" else [np.concatenate(flat)]
        coded = []
        for run in runs:
            symbols, codebook = self.methods[options["method"]](run, options["levels"])
            counts = _count(symbols, codebook.size)
            order = np.argsort(-counts, kind="stable")
            rank = np.empty(codebook.size, symbols.dtype)
            rank[order] = np.arange(codebook.size)
            counts = counts[order].tolist()
            writer.varint(codebook.size)
            writer.write(codebook[order].astype("<f2").tobytes())
            for count, (low, high) in zip(
                counts, _count_intervals(counts, run.size, codebook.size), strict=True
            ):
                writer.bits(count - low, (high - low).bit_length())
            writer.align()
            coded.append((rank[symbols], counts))
        encoder = constriction.stream.queue.RangeEncoder()
        for symbols, counts in coded:
            if len(counts) > 1:
                model = _entropy_model(counts)
                for start in range(0, symbols.size, _CHUNK):
                    encoder.encode(symbols[start : start + _CHUNK].astype(np.int32), model)
        writer.write(encoder.get_compressed().astype("<u4").tobytes())

    def read(self, reader, layout, options):
        """Read codebooks and symbols; refuse symbols that an encoder would write otherwise."""
        sizes = [math.prod(shape) for _, shape in layout]
        run_sizes = sizes if options["codebook"] == "tensor" else [sum(sizes)]
        reader.section("codebooks")
        books = [self._read_codebook(reader, size, options["levels"]) for size in run_sizes]
        reader.section("symbols")
        payload = reader.rest()
        if len(payload) % 4:
            raise reader.error(
                f"corrupt message (the coded symbols have {len(payload)} bytes; expected a multiple of 4)"
            )
        words = np.frombuffer(payload, "<u4").astype(np.uint32)
        decoder = constriction.stream.queue.RangeDecoder(words)
        encoder = constriction.stream.queue.RangeEncoder()
        runs = [
            self._read_symbols(reader, decoder, encoder, codebook, counts, size)
            for (codebook, counts), size in zip(books, run_sizes, strict=True)
        ]
        # the decoder alone cannot tell that words are left over
        if not np.array_equal(encoder.get_compressed(), words):
            raise reader.error("corrupt message (the coded symbols are not what their encoder writes)")
        return runs if options["codebook"] == "tensor" else np.split(runs[0], np.cumsum(sizes[:-1]))

    def _read_codebook(self, reader, size, levels):
        codewords = reader.varint()
        if not 1 <= codewords <= min(levels, size):
            raise reader.error(
                f"corrupt message (a codebook of {codewords} codewords; expected 1 to {min(levels, size)})"
            )
        codebook = np.frombuffer(reader.take(2 * codewords), "<f2").astype(np.float32)
        if not np.isfinite(codebook).all():
            raise reader.error("corrupt message (a codeword is not finite)")
        counts: list[int] = []
        for low, high in _count_intervals(counts, size, codewords):
            counts.append(low + reader.bits((high - low).bit_length()))
            if counts[-1] > high:
                raise reader.error(
                    f"corrupt message (a codeword's count of {counts[-1]}; expected at most {high})"
                )
        reader.align()
        return codebook, counts

    def _read_symbols(self, reader, decoder, encoder, codebook, counts, size):
        values = np.full(size, codebook[0])
        if len(counts) == 1:
            return values
        model = _entropy_model(counts)
        decoded = np.zeros(len(counts), np.int64)
        for start in range(0, size, _CHUNK):
            try:
                symbols = decoder.decode(model, min(_CHUNK, size - start))
            except AssertionError as error:
                raise reader.error(f"corrupt message ({error})") from None
            encoder.encode(symbols, model)
            decoded += np.bincount(symbols, minlength=len(counts))
            values[start : start + _CHUNK] = codebook[symbols]
        if not np.array_equal(decoded, counts):
            raise reader.error("corrupt message (the decoded symbols do not have the stated counts)")
        return values


def _count(symbols, codewords):
    return sum(
        np.bincount(symbols[start : start + _CHUNK], minlength=codewords)
        for start in range(0, symbols.size, _CHUNK)
    )


def _count_intervals(counts, total, codewords):
    """Yield the interval of each of the descending `counts` given those before it; `counts` may grow while
    this is iterated."""
    remaining, previous = total, total
    for left in range(codewords, 0, -1):
        yield -(-remaining // left), min(previous, remaining - left + 1)
        previous = counts[codewords - left]
        remaining -= previous


def _entropy_model(counts):
    # float64 division is exact to the last bit everywhere, so that the decoder builds the same model
    counts = np.array(counts, np.float64)
    return constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
