"""A matrix of whole numbers times steps, and its code.

A value is a whole number times a step of its row and a step of its column, powers of 2^(1/4) both: what
matters little has large steps, and small numbers.

The size of the numbers varies too. The size that is expected at (i, j) is that of row i times that of column
j divided by that of all, and each class of sizes, 4 per octave, has a model of its own
(`tokenbounds.codecs.sequential.adaptive`). The classes of the tensor (8) and of its rows and columns add up::

                    columns
                   -4   0   4
             rows ------------
               0 |  4   8  12   = 8 + 0 + 4: numbers of a mean size of about 2^(12/4)
              -4 |  0   4   8

They are written before the numbers that they are computed from.
"""

import dataclasses
import math

import numpy as np

from tokenbounds.codecs.sequential.adaptive import CLASSES, Learner, get_even, put_even
from tokenbounds.errors import InputError

# 2^(k/4) in float16: a step has no more bits
_QUARTERS = np.array([1.0, 1.189453125, 1.4140625, 1.681640625], np.float32)
LEAST_EXPONENT, MOST_EXPONENT = -400, 60  # of a tensor: no value leaves the normal numbers of float32
SPREAD = 127  # most that exponents of rows or columns differ by
MOST_NUMBER = 32767
_FEWEST = 32  # rows with fewer numbers have no classes of their own: these would cost more than they save
_RELATIVE = 32  # largest class of a row or column
# (k + 1/2) / 4 binary logarithms, where the classes -32 to 40 meet
_MEETINGS = np.ldexp(
    np.tile([1.0905077326652577, 1.2968395546510096, 1.5422108254079407, 1.8340080864093424], 18),
    np.repeat(np.arange(-8, 10), 4),
)
_STRIP = 1 << 22  # numbers coded at a time, which bounds the memory


def step(exponents):
    """Return 2^(exponents / 4), float32, with the mantissa of a float16 number."""
    return np.ldexp(_QUARTERS[exponents % 4], exponents // 4).astype(np.float32)


def sides(shape):
    """Return rows and columns of a tensor's matrix: its first dimension and the product of the others; a
    vector is one row."""
    return (1, math.prod(shape)) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))


@dataclasses.dataclass(frozen=True)
class Stepped:
    """A tensor of whole numbers times steps.

    Attributes
    ----------
    shape : tuple of int
        Shape of the tensor.
    numbers : ndarray of int, shape (rows, columns)
        From -32767 to 32767.
    exponent : int
        Four times the binary logarithm of the smallest step.
    rows, columns : ndarray of int64, shapes (rows,), (columns,)
        What rows and columns add to the exponent: 0 to 127, and 0 for at least one of each.
    """

    shape: tuple
    numbers: np.ndarray
    exponent: int
    rows: np.ndarray
    columns: np.ndarray

    def values(self):
        """Compute the values, float32, flat: numbers times the row's step, rounded, times the column's."""
        values = self.numbers.astype(np.float32)
        values *= step(self.exponent + self.rows)[:, None]
        values *= step(self.columns)
        return values.ravel()


def canonical(field):
    """Return the one form of a `Stepped` tensor: steps of rows and columns of zeros, which change no value,
    are the upper median of the others', and a tensor of zeros has the exponent 0 and no others.

    Where a column of zeros alone had the exponent 0, those of all columns change, and values by their
    rounding.
    """
    occurs = field.numbers != 0
    if not occurs.any():
        rows, columns = np.zeros_like(field.rows), np.zeros_like(field.columns)
        return dataclasses.replace(field, exponent=0, rows=rows, columns=columns)
    exponent, parts = field.exponent, []
    for exponents, live in ((field.rows, occurs.any(1)), (field.columns, occurs.any(0))):
        middle = np.sort(exponents[live])[np.count_nonzero(live) // 2]
        part = np.where(live, exponents, middle)
        exponent += int(part.min())
        parts.append(part - part.min())
    return dataclasses.replace(field, exponent=exponent, rows=parts[0], columns=parts[1])


def is_canonical(field):
    """Tell whether a `Stepped` tensor is in the form of `canonical`."""
    form = canonical(field)
    return form.exponent == field.exponent and all(
        np.array_equal(getattr(form, side), getattr(field, side)) for side in ("rows", "columns")
    )


class MatrixCoder:
    """Codes the tensors of one message, one after the other; what it learns from one serves the next.

    Parameters
    ----------
    most : int
        Largest size of a number in any of them.
    """

    def __init__(self, most):
        self._most = most
        self._numbers: dict[int, Learner] = {}  # those that are needed: each is as large as its alphabet
        self._sides = {key: Learner(4, 4 * SPREAD) for key in ("steps", "classes")}

    def _learner(self, scale_class):
        if scale_class not in self._numbers:
            self._numbers[scale_class] = Learner(scale_class, self._most)
        return self._numbers[scale_class]

    def encode(self, encoder, tensor):
        """Append a `Stepped` tensor to a range encoder."""
        own, *parts = _classes(tensor.numbers)
        put_even(encoder, tensor.exponent, LEAST_EXPONENT, MOST_EXPONENT)
        put_even(encoder, own, CLASSES[0], CLASSES[-1])
        for exponents, classes in zip((tensor.rows, tensor.columns), parts, strict=True):
            middle = int(np.sort(exponents)[len(exponents) // 2])
            differ = exponents.any()
            put_even(encoder, differ, 0, 1)
            if differ:
                put_even(encoder, middle, 0, SPREAD)
                self._sides["steps"].encode(encoder, exponents - middle)
            if classes is not None:  # a large step makes small numbers
                self._sides["classes"].encode(encoder, classes + exponents - middle)
        for numbers, found in _strips(tensor.numbers.shape, own, parts):
            order = np.argsort(found, kind="stable")
            ordered = tensor.numbers[numbers].ravel()[order]
            for scale_class, start, stop in _runs(found):
                self._learner(scale_class).encode(encoder, ordered[start:stop])

    def decode(self, decoder, shape):
        """Read the `Stepped` tensor of a shape from a range decoder; an `InputError` for one that no encoder
        writes."""
        size = sides(shape)
        exponent = get_even(decoder, LEAST_EXPONENT, MOST_EXPONENT)
        own = get_even(decoder, CLASSES[0], CLASSES[-1])
        exponents: list[np.ndarray] = []
        parts: list[np.ndarray | None] = []
        for length, others in zip(size, reversed(size), strict=True):
            middle = 0
            found = np.zeros(length, np.int64)
            if get_even(decoder, 0, 1):
                middle = get_even(decoder, 0, SPREAD)
                found += self._sides["steps"].decode(decoder, length) + middle
                if found.min() != 0 or found.max() > SPREAD:
                    stated = f"{found.min()} to {found.max()}"
                    raise InputError(f"exponents of steps from {stated}; expected 0 to at most {SPREAD}")
            exponents.append(found)
            parts.append(None)
            if others >= _FEWEST:
                parts[-1] = self._sides["classes"].decode(decoder, length) - found + middle
        numbers = np.empty(size, np.int16)
        for rows, found in _strips(size, own, parts):
            order = np.argsort(found, kind="stable")
            ordered = np.empty(found.size, np.int16)
            for scale_class, start, stop in _runs(found):
                ordered[start:stop] = self._learner(scale_class).decode(decoder, stop - start)
            strip = np.empty_like(ordered)
            strip[order] = ordered
            numbers[rows] = strip.reshape(-1, size[1])
        field = Stepped(tuple(shape), numbers, exponent, *exponents)
        if not is_canonical(field):
            raise InputError("steps of zeros are not the median of the others; expected the canonical form")
        return field


def _classes(numbers):
    """Return the class of a matrix, and those of its rows and columns relative to it, or None."""
    size = numbers.shape
    absolute = np.abs(numbers)
    sums = [absolute.sum(1, dtype=np.int64), absolute.sum(0, dtype=np.int64)]
    total = int(sums[0].sum())
    own = _class_of(np.array([total / (size[0] * size[1])]))[0]
    parts = [
        np.minimum(_class_of(found * float(length) / total), _RELATIVE)
        if total
        else np.zeros(length, np.int64)
        for found, length in zip(sums, size, strict=True)
    ]
    own = int(np.clip(own, CLASSES[0], CLASSES[-1]))
    return own, *(
        part if others >= _FEWEST else None for part, others in zip(parts, reversed(size), strict=True)
    )


def _class_of(ratios):
    return np.searchsorted(_MEETINGS, ratios, side="right") - _RELATIVE


def _strips(size, own, parts):
    """Yield (slice of rows, class of each number in them, flat) of a matrix."""
    rows, columns = (0 if part is None else np.asarray(part) for part in parts)
    rows = np.broadcast_to(rows, size[0])
    height = max(1, _STRIP // size[1])
    for start in range(0, size[0], height):
        strip = slice(start, min(start + height, size[0]))
        found = own + rows[strip, None] + np.broadcast_to(columns, size[1])
        yield strip, np.clip(found - CLASSES[0], 0, len(CLASSES) - 1).astype(np.uint8).ravel()


def _runs(found):
    """Yield (class, start, stop) of the classes in ascending order."""
    stops = np.cumsum(np.bincount(found, minlength=len(CLASSES)))
    for number, stop in enumerate(stops.tolist()):
        start = int(stops[number - 1]) if number else 0
        if stop > start:
            yield CLASSES[number], start, stop
