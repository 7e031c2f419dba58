"""Codec ``sequential``: matrices of whole numbers times steps, range coded with models that learn.

Written is one stream of range coding (constriction's queue coder: 32-bit words, 64-bit state, 24-bit
probabilities):

=================================  =================================================================
part                               size
=================================  =================================================================
largest size of a number, or 1     even over 1 to 32767
for each tensor: exponent, class   even over their ranges
for its rows, then its columns:    even
whether their steps differ
the median of their exponents,     even, and by what was coded before
and each's distance from it
their classes, if a row (column)   by what was coded before
has at least 32 numbers
its numbers, by class, in strips   by what was coded before
of rows
=================================  =================================================================
"""

import constriction

from tokenbounds.codecs.base import Codec
from tokenbounds.codecs.sequential.adaptive import get_even, put_even
from tokenbounds.codecs.sequential.matrix import MOST_NUMBER, MatrixCoder, Stepped, canonical
from tokenbounds.codecs.sequential.rounding import round_plainly
from tokenbounds.errors import InputError


class SequentialCodec(Codec):
    """Whole numbers times steps, range coded; its fields are `Stepped` tensors.

    A tensor that is not one already is rounded plainly.
    """

    def flat(self, name, tensor):
        """Return stepped tensors unchanged; check and flatten anything else."""
        return tensor if isinstance(tensor, Stepped) else (super().flat(name, tensor), tensor.shape)

    def quantize(self, tensors, options):
        """Round the tensors that are not stepped yet, and bring all in their canonical form."""
        return {
            name: canonical(
                tensor if isinstance(tensor, Stepped) else round_plainly(tensor[0].reshape(tensor[1]))
            )
            for name, tensor in tensors.items()
        }

    def write(self, writer, fields, options):
        """Append the range-coded stream of all tensors."""
        sizes = (max(int(field.numbers.max()), -int(field.numbers.min())) for field in fields.values())
        most = max(1, *sizes)
        encoder = constriction.stream.queue.RangeEncoder()
        put_even(encoder, most, 1, MOST_NUMBER)
        coder = MatrixCoder(most)
        for field in fields.values():
            coder.encode(encoder, field)
        writer.write(encoder.get_compressed().astype("<u4").tobytes())

    def read(self, reader, layout, options):
        """Read the tensors of a layout."""
        reader.section("numbers")
        decoder = constriction.stream.queue.RangeDecoder(reader.rest_words("numbers"))
        try:
            coder = MatrixCoder(get_even(decoder, 1, MOST_NUMBER))
            return [coder.decode(decoder, shape) for _, shape in layout]
        except (AssertionError, InputError) as error:
            raise reader.error(f"corrupt message ({error})") from None

    def values(self, field):
        """Multiply numbers and steps."""
        return field.values()
