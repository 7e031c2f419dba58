"""The interface of a codec: tensors to the body of a message and back."""

import math
from typing import ClassVar

import numpy as np

from tokenbounds.codecs.scalar import check_values
from tokenbounds.errors import InputError


class Codec:
    """Base of all codecs: the methods that `tokenbounds.codecs.frame` calls.

    A codec writes the body of a message; the frame around it holds the codec's options, the hypothesis and a
    checksum. A new one is a module with a subclass, and a section in `tokenbounds.config.schema.codecs` that
    names it (docs/extending.md)::

        tensors --flat, quantize--> fields --write--> body --read--> fields --values--> tensors, quantized

    A body is canonical: a decoder reads its fields, writes them again, and refuses the message unless the
    bytes are the same. So `write` must be a function of fields and options, on every machine, and every
    option in the header must change what is decoded or how long the body is.

    Attributes
    ----------
    defaults : dict of str to value
        Every option of the codec, with its default.
    encoding_only : tuple of str
        Options that decoding does not depend on: no message holds them.
    from_hypothesis : tuple of str
        Options that the hypothesis' configuration holds too, with the same value.
    needs_tensors : bool
        Whether a message without tensors is an error.
    opens_files : bool
        Whether the hypothesis is files that the message names: `open_model` then reads them.
    """

    defaults: ClassVar[dict] = {}
    encoding_only: ClassVar[tuple] = ()
    from_hypothesis: ClassVar[tuple] = ()
    needs_tensors: ClassVar[bool] = True
    opens_files: ClassVar[bool] = False

    def check(self, options):
        """Refuse options (a dict with all keys of `defaults`) that are out of range, with an `InputError`."""

    def options(self, section, hypothesis):
        """Pick the options from a codec's section of the configuration, or else from the hypothesis'
        configuration."""
        known = {**hypothesis, **section}
        return {"kind": section["kind"], **{key: known[key] for key in self.defaults if key in known}}

    def stated(self, options, fields):
        """Return the options in the header of a message of these fields."""
        return {key: value for key, value in options.items() if key not in self.encoding_only}

    def flat(self, name, tensor):
        """Check a tensor and flatten it in C order, as `quantize` takes it: here a float32 or float16 array,
        as float32."""
        if not isinstance(tensor, np.ndarray) or tensor.dtype.kind != "f" or tensor.itemsize > 4:
            kind = getattr(tensor, "dtype", type(tensor).__name__)
            raise InputError(f"tensor {name!r} is {kind}; expected a float32 or float16 array")
        return check_values(tensor, f"tensor {name!r}")

    def quantize(self, tensors, options):
        """Return the fields of tensors (dict of str to flat array, as `flat` returns them): what `write`
        writes for each. Here the tensors themselves, for a `write` that rounds."""
        return tensors

    def write(self, writer, fields, options):
        """Append fields (dict by name) to a `tokenbounds.codecs.bits.Writer`."""
        raise NotImplementedError

    def read(self, reader, layout, options):
        """Read fields back from a `tokenbounds.codecs.bits.Reader`, which never reads past its end.

        Returns
        -------
        list
            The fields of the tensors, in the order of `layout` (a list of (name, shape)).
        """
        raise NotImplementedError

    def values(self, field):
        """Return the flat array of a tensor, quantized, from its field."""
        return field


class Float16Codec(Codec):
    """Raw float16: for smoothing heads, and to compare the coded messages with."""

    def quantize(self, tensors, options):
        """Round to float16; -0.0 becomes 0.0."""
        return {name: values.astype("<f2") + np.float16(0) for name, values in tensors.items()}

    def write(self, writer, fields, options):
        """Append two bytes per value."""
        for values in fields.values():
            writer.write(values.astype("<f2", copy=False).tobytes())

    def read(self, reader, layout, options):
        """Read two bytes per value; refuse -0.0, NaN and infinities."""
        reader.section("values")
        fields = [np.frombuffer(reader.take(2 * math.prod(shape)), "<f2") for _, shape in layout]
        for values in fields:
            bits = values.view("<u2")
            if ((bits & 0x7C00) == 0x7C00).any() or (bits == 0x8000).any():
                raise reader.error("corrupt message (a value is not finite, or -0.0)")
        return fields

    def values(self, field):
        """Return float32 numbers."""
        return field.astype(np.float32)
