"""Codec ``lattice``: range coding of lattice points (`tokenbounds.codecs.lattice`), shell by shell.

A shell is the set of a codebook's points of one norm. A code is written as its shell, with the shell's
empirical frequency, and then its place in the shell, all places being equally probable.
"""

import dataclasses
import functools
import math

import constriction
import numpy as np

from tokenbounds.codecs.base import Codec
from tokenbounds.codecs.e8p_rounding import DIMENSION, STAGES
from tokenbounds.codecs.lattice import (
    MAX_SCALE,
    Quantized,
    check_bits_and_seed,
    check_shape,
    narrow,
    reconstruct,
)
from tokenbounds.codecs.levels import LevelsCodec
from tokenbounds.errors import InputError

# Smaller scales, of no real weight, would give the same float32 numbers from other points.
MIN_SCALE = 2.0**-64


@dataclasses.dataclass(frozen=True)
class _Shells:
    """The points of a codebook by their norm: `shell` of each code and `place` within it, `sizes` of the
    shells, and `codes` shell by shell."""

    shell: np.ndarray
    place: np.ndarray
    sizes: np.ndarray
    codes: np.ndarray

    @property
    def starts(self):
        """Number of codes before each shell."""
        return np.cumsum(self.sizes) - self.sizes


@functools.cache
def _shells(table):
    norms = (table() ** 2).sum(1)  # exact: small multiples of 1/16
    _, shell, sizes = np.unique(norms, return_inverse=True, return_counts=True)
    codes = np.argsort(shell, kind="stable")
    place = np.empty(len(shell), np.int64)
    place[codes] = np.arange(len(shell)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return _Shells(shell, place, sizes, codes)


def _shell_model(counts):
    # float64 division is exact to the last bit everywhere, so that the decoder builds the same model
    counts = np.array(counts, np.float64)
    return constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)


class LatticeCodec(Codec):
    """Lattice points, range coded: their norms with the empirical frequencies, the points of one norm evenly.

    Incoherent weights are nearly Gaussian, and a Gaussian's density depends on the norm only.

    Parameters
    ----------
    others : Codec, optional
        Codec of the tensors that are not on the lattice; `LevelsCodec` by default. Its options are options of
        this codec too.

    Notes
    -----
    Written, in this order:

    =============================================================  ===========================================
    part                                                           size
    =============================================================  ===========================================
    for each tensor, 1 where it is on the lattice                  bits, filled with zeros to a whole byte
    scale of each tensor on the lattice, 2^-64 to 65504            float32 numbers
    for each stage, number of codes in each shell but the last,    varints
    over all tensors, by ascending norm
    number of range-coded 32-bit words                             varint
    words: for each tensor and stage, the shells of its codes in   32 bits each
    C order and then, for those in a shell of more than one
    point, the places in ascending order of codes
    other tensors, if there are any                                written by `others`
    =============================================================  ===========================================
    """

    def __init__(self, others=None):
        self.others = others or LevelsCodec()
        # of an instance: they hold the options of its other codec
        self.defaults = {"bits": 2, "seed": 0, **self.others.defaults}  # type: ignore[misc]
        self.encoding_only = self.others.encoding_only  # type: ignore[misc]

    def check(self, options):
        """Refuse bits other than 2, 3 and 4, a seed out of range, and any option that `others` refuses."""
        check_bits_and_seed(options["bits"], options["seed"])
        self.others.check(options)

    def flat(self, name, tensor):
        """Return lattice points unchanged; leave anything else to the other codec."""
        return tensor if isinstance(tensor, Quantized) else self.others.flat(name, tensor)

    def stated(self, options, fields):
        """Return bits and seed, and the options that the other codec states of its tensors."""
        rest = {name: field for name, field in fields.items() if not isinstance(field, Quantized)}
        return super().stated(self.others.stated(options, rest), fields)

    def quantize(self, tensors, options):
        """Quantize the tensors that are not on the lattice; zeros, whose points would not matter, are among
        them."""
        fields = {
            name: np.zeros(math.prod(value.shape), np.float32) if _is_zero(value) else value
            for name, value in tensors.items()
        }
        rest = {name: value for name, value in fields.items() if not isinstance(value, Quantized)}
        return {**fields, **(self.others.quantize(rest, options) if rest else {})}

    def write(self, writer, fields, options):
        """Append the fields: dict of str to `Quantized` (on the lattice) or to a field of `others`, in the
        order of the layout."""
        bits, results = options["bits"], [value for value in fields.values() if isinstance(value, Quantized)]
        if not results:
            raise InputError("no tensor is on the lattice; expected at least one")
        for name, value in fields.items():
            if isinstance(value, Quantized):
                stated = {
                    "bits": value.bits,
                    "seed": value.seed,
                    "name": value.name,
                    "blocks": len(value.sizes),
                }
                expected = {"bits": bits, "seed": options["seed"], "name": name, "blocks": 1}
                if stated != expected:
                    raise InputError(f"tensor {name!r} was quantized with {stated}; expected {expected}")
            writer.bits(isinstance(value, Quantized), 1)
        writer.align()
        for result in results:
            writer.write(result.scales.astype("<f4").tobytes())
        models = []
        for stage, (table, _) in enumerate(STAGES[bits]):
            shells = _shells(table)
            counts = np.zeros(len(shells.sizes), np.int64)
            for result in results:
                counts += np.bincount(shells.shell[result.codes[stage].ravel()], minlength=counts.size)
            for count in counts[:-1].tolist():
                writer.varint(count)
            models.append(_shell_model(counts))
        encoder = constriction.stream.queue.RangeEncoder()
        for result in results:
            for codes, model, (table, _) in zip(result.codes, models, STAGES[bits], strict=True):
                _encode(encoder, codes.ravel(), model, _shells(table))
        words = encoder.get_compressed().astype("<u4")
        writer.varint(len(words))
        writer.write(words.tobytes())
        rest = {name: value for name, value in fields.items() if not isinstance(value, Quantized)}
        if rest:
            self.others.write(writer, rest, options)

    def read(self, reader, layout, options):
        """Read the fields of the tensors of `layout` (list of (name, shape))."""
        bits = options["bits"]
        reader.section("scales")
        on_lattice = [reader.bits(1) for _ in layout]
        reader.align()
        entries = [entry for entry, flag in zip(layout, on_lattice, strict=True) if flag]
        if not entries:
            raise reader.error("corrupt message (no tensor is on the lattice)")
        for name, shape in entries:
            try:
                check_shape(shape, f"tensor {name!r}")
            except InputError as error:
                raise reader.error(f"corrupt message ({error})") from None
        scales = np.frombuffer(reader.take(4 * len(entries)), "<f4").astype(np.float32)
        if not ((scales >= MIN_SCALE) & (scales <= MAX_SCALE)).all():
            expected = f"{MIN_SCALE:g} to {MAX_SCALE:g}"
            raise reader.error(f"corrupt message (a scale is not a number from {expected})")
        reader.section("codebooks")
        sizes = [math.prod(shape) // DIMENSION for _, shape in entries]
        counts = [self._read_counts(reader, sum(sizes), _shells(table)) for table, _ in STAGES[bits]]
        models = [_shell_model(count) for count in counts]
        reader.section("codes")
        words = np.frombuffer(reader.take(4 * reader.varint()), "<u4").astype(np.uint32)
        decoder = constriction.stream.queue.RangeDecoder(words)
        results = []
        for (name, (m, n)), size, scale in zip(entries, sizes, scales, strict=True):
            codes = []
            for stage, (table, _) in enumerate(STAGES[bits]):
                shells = _shells(table)
                try:
                    decoded = _decode(decoder, size, models[stage], shells)
                except AssertionError as error:
                    raise reader.error(f"corrupt message ({error})") from None
                codes.append(narrow(decoded, table).reshape(m, n // DIMENSION))
            results.append(Quantized(bits, options["seed"], name, tuple(codes), np.array([scale]), (m,)))
        rest = [entry for entry, flag in zip(layout, on_lattice, strict=True) if not flag]
        others = iter(self.others.read(reader, rest, options) if rest else [])
        points = iter(results)
        return [next(points if flag else others) for flag in on_lattice]

    def values(self, field):
        """Compute a weight from its points, or the values of another tensor."""
        return reconstruct(field).ravel() if isinstance(field, Quantized) else self.others.values(field)

    def _read_counts(self, reader, total, shells):
        counts = [reader.varint() for _ in shells.sizes[:-1]]
        if sum(counts) > total:
            raise reader.error(f"corrupt message ({sum(counts)} points in shells; expected at most {total})")
        return np.array([*counts, total - sum(counts)], np.int64)


def _is_zero(value):
    return isinstance(value, Quantized) and not (value.scales >= MIN_SCALE).all()


def _encode(encoder, codes, model, shells):
    shell = shells.shell[codes].astype(np.int32)
    encoder.encode(shell, model)
    sizes = shells.sizes[shell]
    several = sizes > 1
    if several.any():
        places = shells.place[codes][several].astype(np.int32)
        encoder.encode(places, constriction.stream.model.Uniform(), sizes[several].astype(np.int32))


def _decode(decoder, size, model, shells):
    shell = decoder.decode(model, size)
    sizes = shells.sizes[shell]
    several = sizes > 1
    place = np.zeros(size, np.int64)
    if several.any():
        place[several] = decoder.decode(constriction.stream.model.Uniform(), sizes[several].astype(np.int32))
    return shells.codes[shells.starts[shell] + place]
