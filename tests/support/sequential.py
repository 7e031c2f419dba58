"""Matrices of whole numbers times steps for tests, and the length of their code."""

import numpy as np

from tokenbounds.codecs.bits import Writer
from tokenbounds.codecs.frame import encode
from tokenbounds.codecs.sequential.codec import SequentialCodec
from tokenbounds.codecs.sequential.matrix import Stepped, sides

CODEC = {"kind": "sequential"}


def stepped_tensor(numbers, shape=None, exponent=0, rows=None, columns=None):
    """Make a `Stepped` tensor of an array of whole numbers, by default with equal steps of 1."""
    numbers = np.asarray(numbers, np.int16)
    shape = numbers.shape if shape is None else tuple(shape)
    size = sides(shape)
    parts = [
        np.zeros(length, np.int64) if given is None else np.asarray(given, np.int64)
        for given, length in zip((rows, columns), size, strict=True)
    ]
    return Stepped(shape, numbers.reshape(size), exponent, *parts)


def field_bits(field):
    """Return the length of the code of one `Stepped` tensor, in bits, without header and checksum."""
    return 8 * len(body({"w": field}))


def body(fields):
    """Return what the codec writes of `Stepped` tensors."""

    writer = Writer()
    SequentialCodec().write(writer, fields, {})
    return bytes(writer.data)


def message(tensors, config=None):
    """Code tensors as a message of codec `sequential`."""
    return encode(tensors, config or {}, codec=CODEC)


def same_field(first, second):
    """Tell whether two `Stepped` tensors hold the same shape, numbers and steps."""
    return (first.shape, first.exponent) == (second.shape, second.exponent) and all(
        np.array_equal(getattr(first, part), getattr(second, part)) for part in ("numbers", "rows", "columns")
    )
