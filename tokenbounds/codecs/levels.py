"""Codec ``levels``: scalar quantization to a small codebook, then range coding.

The tensors, flattened in C order, form one run per tensor (``codebook: tensor``) or one run in all
(``shared``). Written are, for each run:

=========================  =============================================================================
part                       size
=========================  =============================================================================
K, number of codewords     varint
codewords                  K distinct float16 numbers, most frequent first, equally frequent ascending
counts of the codewords    packed bits, filled with zeros to a whole byte
=========================  =============================================================================

With r values and j codewords left and the previous count c, the next count lies in [ceil(r/j),
min(c, r-j+1)]; its excess over the lower end takes as many bits as the width of that interval has (the last
count takes none). Then follows, to the end of the body, one range-coded stream of the symbols of all runs
(constriction's queue coder: 32-bit words, 64-bit state, 24-bit probabilities); a run with K = 1 codes
nothing.
"""

import dataclasses
import math
from typing import ClassVar

import constriction
import numpy as np

from tokenbounds.codecs.base import Codec
from tokenbounds.codecs.scalar import MAX_LEVELS, check_levels, kmeans_levels, uniform_levels
from tokenbounds.errors import InputError

_CHUNK = 1 << 22  # symbols coded per step, to keep the int32 copies of a large tensor small


@dataclasses.dataclass(frozen=True)
class Coded:
    """A quantized tensor, flattened: `symbols` (n,), the numbers of its codewords in `codebook` (K,),
    float16."""

    symbols: np.ndarray
    codebook: np.ndarray


class LevelsCodec(Codec):
    """Scalar quantization to a small codebook, then range coding with the empirical frequencies.

    Its fields are `Coded` tensors.
    """

    defaults: ClassVar = {"levels": 11, "method": "uniform", "codebook": "tensor"}
    encoding_only: ClassVar = ("levels", "method")
    methods: ClassVar = {"uniform": uniform_levels, "kmeans": kmeans_levels}

    def check(self, options):
        """Refuse an unknown method or codebook, and a number of levels outside 2 to 65536."""
        check_levels(options["levels"])
        for key, known in (("method", tuple(self.methods)), ("codebook", ("tensor", "shared"))):
            if options[key] not in known:
                raise InputError(f"{key} is {options[key]!r}; expected one of {', '.join(known)}")

    def stated(self, options, fields):
        """Return how tensors are joined to runs; a single tensor is a run of its own."""
        codebook = "tensor" if len(fields) <= 1 else options["codebook"]
        return {**super().stated(options, fields), "codebook": codebook}

    def quantize(self, tensors, options):
        """Quantize each run."""
        quantizer, levels = self.methods[options["method"]], options["levels"]
        if options["codebook"] == "tensor":
            return {name: Coded(*quantizer(values, levels)) for name, values in tensors.items()}
        symbols, codebook = quantizer(np.concatenate(list(tensors.values())), levels)
        stops = np.cumsum([values.size for values in tensors.values()])
        parts = np.split(symbols, stops[:-1])
        return {name: Coded(part, codebook) for name, part in zip(tensors, parts, strict=True)}

    def write(self, writer, fields, options):
        """Append codebooks and counts of all runs, and then their symbols."""
        runs = list(fields.values())
        if options["codebook"] == "shared":
            runs = [Coded(np.concatenate([run.symbols for run in runs]), runs[0].codebook)]
        encoder = constriction.stream.queue.RangeEncoder()
        for run in runs:
            symbols, codebook, counts = _ordered(run)
            writer.varint(codebook.size)
            writer.write(codebook.astype("<f2").tobytes())
            for count, (low, high) in zip(
                counts, _count_intervals(counts, symbols.size, codebook.size), strict=True
            ):
                writer.bits(count - low, (high - low).bit_length())
            writer.align()
            if len(counts) > 1:
                model = _entropy_model(counts)
                for start in range(0, symbols.size, _CHUNK):
                    encoder.encode(symbols[start : start + _CHUNK].astype(np.int32), model)
        writer.write(encoder.get_compressed().astype("<u4").tobytes())

    def read(self, reader, layout, options):
        """Read codebooks and symbols."""
        sizes = [math.prod(shape) for _, shape in layout]
        shared = options["codebook"] == "shared"
        run_sizes = [sum(sizes)] if shared else sizes
        reader.section("codebooks")
        books = [self._read_codebook(reader, size) for size in run_sizes]
        reader.section("symbols")
        decoder = constriction.stream.queue.RangeDecoder(reader.rest_words("symbols"))
        runs = [
            Coded(self._read_symbols(reader, decoder, counts, size), codebook)
            for (codebook, counts), size in zip(books, run_sizes, strict=True)
        ]
        if not shared:
            return runs
        return [Coded(part, runs[0].codebook) for part in np.split(runs[0].symbols, np.cumsum(sizes[:-1]))]

    def values(self, field):
        """Look the codewords up."""
        return field.codebook.astype(np.float32)[field.symbols]

    def _read_codebook(self, reader, size):
        codewords, most = reader.varint(), min(MAX_LEVELS, size)
        if not 1 <= codewords <= most:
            raise reader.error(f"corrupt message (a codebook of {codewords} codewords; expected 1 to {most})")
        codebook = np.frombuffer(reader.take(2 * codewords), "<f2")
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

    def _read_symbols(self, reader, decoder, counts, size):
        symbols = np.zeros(size, np.uint8 if len(counts) <= 256 else np.uint16)
        if len(counts) > 1:
            model = _entropy_model(counts)
            for start in range(0, size, _CHUNK):
                try:
                    symbols[start : start + _CHUNK] = decoder.decode(model, min(_CHUNK, size - start))
                except AssertionError as error:
                    raise reader.error(f"corrupt message ({error})") from None
        return symbols


def _ordered(run):
    """Return symbols, codebook and counts of a run with its codewords in the order of a message: distinct and
    used, the most frequent first and equally frequent ones ascending."""
    # sorted as float32: NumPy 2.4's AVX-512 sort of float16 leaves repeated values out of order; adding zero
    # makes -0.0 the same codeword as 0.0
    distinct, number = np.unique(run.codebook.astype(np.float32) + np.float32(0), return_inverse=True)
    counts = np.zeros(distinct.size, np.int64)
    np.add.at(counts, number, _count(run.symbols, run.codebook.size))
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    rank = np.zeros(distinct.size, run.symbols.dtype)
    rank[order] = np.arange(order.size)
    return rank[number][run.symbols], distinct[order].astype(np.float16), counts[order].tolist()


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
