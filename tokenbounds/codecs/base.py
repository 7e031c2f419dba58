"""The interface of a codec: tensors to the body of a message and back."""

from typing import ClassVar

import numpy as np

from tokenbounds.codecs.scalar import check_values
from tokenbounds.errors import InputError


class Codec:
    """Base of all codecs: the methods that `tokenbounds.codecs.frame` calls.

    A codec writes the body of a message; the frame around it holds the codec's options, the hypothesis and a
    checksum. A new one is a module with a subclass, and a section in `tokenbounds.config.schema.codecs` that
    names it (docs/extending.md).

    Attributes
    ----------
    defaults : dict of str to value
        Every option of the codec in a message, with its default; the header holds them all.
    needs_tensors : bool
        Whether a message without tensors is an error.
    opens_files : bool
        Whether the hypothesis is files that the message names: `open_model` then reads them.
    """

    defaults: ClassVar[dict] = {}
    needs_tensors: ClassVar[bool] = True
    opens_files: ClassVar[bool] = False

    def check(self, options):
        """Refuse options (a dict with all keys of `defaults`) that are out of range, with an `InputError`."""

    def options(self, section, hypothesis):
        """Pick the options of a message from a codec's section of the configuration, or else from the
        hypothesis' configuration."""
        known = {**hypothesis, **section}
        return {"kind": section["kind"], **{key: known[key] for key in self.defaults if key in known}}

    def flat(self, name, tensor):
        """Check a tensor and flatten it in C order, as `write` takes it: here a float32 or float16 array, as
        float32."""
        if not isinstance(tensor, np.ndarray) or tensor.dtype.kind != "f" or tensor.itemsize > 4:
            kind = getattr(tensor, "dtype", type(tensor).__name__)
            raise InputError(f"tensor {name!r} is {kind}; expected a float32 or float16 array")
        return check_values(tensor, f"tensor {name!r}")

    def write(self, writer, tensors, options):
        """Append tensors (dict of str to flat array, as `flat` returns them) to a
        `tokenbounds.codecs.bits.Writer`."""
        raise NotImplementedError

    def read(self, reader, layout, options):
        """Read back from a `tokenbounds.codecs.bits.Reader`, which never reads past its end.

        Returns
        -------
        list of ndarray
            Flat arrays of the tensors, quantized, in the order of `layout` (a list of (name, shape)).
        """
        raise NotImplementedError


class Float16Codec(Codec):
    """Raw float16: for smoothing heads, and to compare the coded messages with."""

    def write(self, writer, tensors, options):
        """Append two bytes per value."""
        for values in tensors.values():
            writer.write(values.astype("<f2").tobytes())

    def read(self, reader, layout, options):
        """Read two bytes per value."""
        reader.section("values")
        return [
            np.frombuffer(reader.take(2 * int(np.prod(shape))), "<f2").astype(np.float32)
            for _, shape in layout
        ]
