"""Bytes, varints and bits of a message, as `Writer` writes and `Reader` reads them.

A varint is an unsigned LEB128 integer: seven bits per byte, least significant first; the highest bit of a
byte is 1 where another byte follows. Only the shortest form is valid::

    300 = 0b10_0101100   is   1|0101100  0|0000010

Single bits fill a byte from its most significant end, and `align` fills the rest with zeros::

    bits(5, 3), bits(1, 2), align()   is   101|01|000
"""

import numpy as np

from tokenbounds.errors import InputError


class Writer:
    """Bytes, varints and bits, appended to `data`."""

    def __init__(self):
        self.data = bytearray()
        self._bits, self._width = 0, 0

    def write(self, data):
        """Append bytes."""
        self.data += data

    def varint(self, value):
        """Append an integer of at least 0 as a varint."""
        while value >= 0x80:
            self.data.append(value & 0x7F | 0x80)
            value >>= 7
        self.data.append(value)

    def bits(self, value, width):
        """Append the `width` bits of `value`, most significant first; call `align` before anything but
        bits is written."""
        self._bits, self._width = self._bits << width | value, self._width + width
        while self._width >= 8:
            self._width -= 8
            self.data.append(self._bits >> self._width)
            self._bits &= (1 << self._width) - 1

    def align(self):
        """Fill the last byte with zero bits."""
        self.bits(0, -self._width % 8)


class Reader:
    """Bytes, varints and bits of `data`, read in the order in which `Writer` wrote them.

    Every method raises an `InputError` instead of reading past `end`. `sections` counts the bytes read by
    name of section.
    """

    def __init__(self, data, name):
        self.data, self.name = data, name
        self.position, self.end = 0, len(data)
        self.sections = {}
        self._bits, self._width = 0, 0

    def error(self, text):
        """Return an `InputError` that begins with the message's name."""
        return InputError(f"{self.name}: {text}")

    def section(self, name):
        """Count the bytes that are read from here on under `name`."""
        self._section = name
        self.sections.setdefault(name, 0)

    def take(self, size):
        """Read the next `size` bytes, as a view."""
        remaining = self.end - self.position
        if size > remaining:
            raise self.error(
                f"truncated message (needs {size} bytes at byte {self.position}; {remaining} remain)"
            )
        self.position += size
        self.sections[self._section] += size
        return self.data[self.position - size : self.position]

    def rest(self):
        """Read all remaining bytes."""
        return self.take(self.end - self.position)

    def rest_words(self, what):
        """Read all remaining bytes as the 32-bit words of a range coder, uint32; `what` names them in
        errors."""
        payload = self.rest()
        if len(payload) % 4:
            raise self.error(
                f"corrupt message (the coded {what} have {len(payload)} bytes; expected a multiple of 4)"
            )
        return np.frombuffer(payload, "<u4").astype(np.uint32)

    def varint(self):
        """Read a varint of less than 2^63."""
        value = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    break  # a shorter form exists
                return value
        raise self.error(f"corrupt message (a length that is not a valid varint before byte {self.position})")

    def bits(self, width):
        """Read an integer of `width` bits."""
        while self._width < width:
            self._bits, self._width = self._bits << 8 | self.take(1)[0], self._width + 8
        self._width -= width
        value = self._bits >> self._width
        self._bits &= (1 << self._width) - 1
        return value

    def align(self):
        """Skip the rest of the last byte; an `InputError` unless it is zero."""
        if self._bits:
            raise self.error(f"corrupt message (filling bits before byte {self.position} are not zero)")
        self._width = 0
