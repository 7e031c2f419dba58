"""The text of a message's header as few bytes, the same on every machine: context mixing and arithmetic
coding.

Each bit of the text is predicted from what followed the last 1, 2, 3, 4 and 6 bytes and the kinds of the last
five, before; the predictions are mixed by weights that learn [Mahoney 2005] and drive a binary arithmetic
coder of 32 bits. Model and weights first read `TYPICAL`, a constant of the program, so that even a short
header costs little. All numbers are integers: no library, processor or rounding changes a byte.

A byte 0, which JSON never holds, ends the text.
"""

import functools

from tokenbounds.codecs.typical_headers import TYPICAL
from tokenbounds.errors import InputError

_END = 0
_ORDERS = (1, 2, 3, 4, 6)
_MASKS = [(n, (1 << 8 * n) - 1) for n in _ORDERS]
_INPUTS = len(_ORDERS) + 2  # and that of the kinds of bytes, and a constant
_HALF = 1 << 15  # probabilities have 16 bits in the model, 12 in the coder
_CONSTANT = 256
# Kinds of bytes: digits, a to f, other letters, and each other byte by itself.
_KIND = [1 if 48 <= c < 58 else 2 if 97 <= c < 103 else 3 if chr(c).isalpha() else c for c in range(256)]
# Step towards a bit that was seen after a context, by how often the context was seen, of 2^16.
_STEPS = [65536 * 2 // (2 * n + 3) for n in range(24)]
_LEARNING = 14
_LOGISTIC = [
    *(1, 2, 3, 6, 10, 16, 27, 45, 73, 120, 194, 310, 488, 747, 1101, 1546, 2047, 2549, 2994, 3348, 3607),
    *(3785, 3901, 3975, 4022, 4050, 4068, 4079, 4085, 4089, 4092, 4093, 4094),
]  # 4096 / (1 + exp(-x)) for x = -8, -7.5, ..., 8


def _squash(x):
    """Return 4096 / (1 + exp(-x / 256)), from 1 to 4095."""
    x = min(max(x, -2047), 2047) + 2048
    low, rest = x >> 7, x & 127
    return (_LOGISTIC[low] * (128 - rest) + _LOGISTIC[low + 1] * rest + 64) >> 7


_SQUASH = [_squash(x) for x in range(-2048, 2048)]


def _stretches():
    """Return the inverse of `_squash`, by probability."""
    table, x = [], -2047
    for probability in range(4096):
        while x < 2047 and _SQUASH[x + 2048] < probability:
            x += 1
        table.append(x)
    return table


_STRETCH = _stretches()


class _Model:
    """Predictions of the next bit.

    `slots` holds, by context and bits of the byte so far, the probability of a 1 (16 bits) and how often the
    context was seen (the lowest 5 bits).
    """

    def __init__(self, slots=None, weights=None):
        self.slots = {} if slots is None else dict(slots)
        self.weights = [list(row) for row in weights or [[22000] * _INPUTS] * (len(_ORDERS) + 2)]
        self.begin()

    def begin(self):
        """Begin a text."""
        self.history, self.kinds = 0, 0
        self._contexts()

    def _contexts(self):
        history, slots = self.history, self.slots
        contexts = [*((history & mask) << 3 | n for n, mask in _MASKS), self.kinds << 3]
        self.contexts = [context << 8 for context in contexts]
        seen = sum(context | 1 in slots for context in self.contexts)
        self.row, self.bits = self.weights[seen], 1

    def predict(self):
        """Return the probability that the next bit is 1, of 4096."""
        slots, bits, half = self.slots, self.bits, _HALF << 5
        self.keys = [context | bits for context in self.contexts]
        self.values = [slots.get(key, half) for key in self.keys]
        self.inputs = [*(_STRETCH[value >> 9] for value in self.values), _CONSTANT]
        total = sum(map(int.__mul__, self.inputs, self.row)) >> 16
        self.probability = _SQUASH[min(max(total, -2047), 2047) + 2048]
        return self.probability

    def update(self, bit):
        """Learn the bit that came."""
        error, row = ((bit << 12) - self.probability) * _LEARNING, self.row
        for i, value in enumerate(self.inputs):
            row[i] += (value * error + 512) >> 10
        slots, target = self.slots, bit * 65535
        for key, value in zip(self.keys, self.values, strict=True):
            seen, probability = value & 31, value >> 5
            probability += ((target - probability) * _STEPS[seen]) >> 16
            slots[key] = probability << 5 | min(seen + 1, len(_STEPS) - 1)
        self.bits = self.bits << 1 | bit
        if self.bits >= 256:
            byte = self.bits & 255
            self.history = (self.history << 8 | byte) & 0xFFFFFFFFFFFF
            self.kinds = (self.kinds << 8 | _KIND[byte]) & 0xFFFFFFFFFF
            self._contexts()


@functools.cache
def _primed():
    model = _Model()
    for text in TYPICAL:
        model.begin()
        for byte in (*text.encode(), _END):
            for shift in range(7, -1, -1):
                model.predict()
                model.update(byte >> shift & 1)
    return model.slots, model.weights


def pack(text):
    """Code a text (bytes without a 0) as bytes."""
    model, low, high, data = _Model(*_primed()), 0, 0xFFFFFFFF, bytearray()
    for byte in (*text, _END):
        for shift in range(7, -1, -1):
            bit = byte >> shift & 1
            middle = low + ((high - low) >> 12) * model.predict()
            low, high = (low, middle) if bit else (middle + 1, high)
            model.update(bit)
            while not (low ^ high) >> 24:
                data.append(high >> 24)
                low, high = low << 8 & 0xFFFFFFFF, (high << 8 & 0xFFFFFFFF) | 255
    # the fewest bytes that the decoder, which reads zeros after them, takes for a number in the interval
    for count in range(5):
        step = 32 - 8 * count
        number = -(-low >> step) << step
        if number <= high:
            return bytes(data) + (number >> step).to_bytes(count, "big")
    raise AssertionError("an interval of the coder is empty")


def unpack(data, most):
    """Return the text of at most `most` bytes that `pack` codes as `data`; an `InputError` if there is
    none."""
    model, low, high, text = _Model(*_primed()), 0, 0xFFFFFFFF, bytearray()
    number, position = int.from_bytes(bytes(data[:4]).ljust(4, b"\0"), "big"), 4
    while True:
        byte = 1
        while byte < 256:
            middle = low + ((high - low) >> 12) * model.predict()
            bit = int(number <= middle)
            low, high = (low, middle) if bit else (middle + 1, high)
            model.update(bit)
            byte = byte << 1 | bit
            while not (low ^ high) >> 24:
                if position >= len(data) + 4:
                    raise InputError("corrupt message header (its text has no end)")
                following = data[position] if position < len(data) else 0
                low, high = low << 8 & 0xFFFFFFFF, (high << 8 & 0xFFFFFFFF) | 255
                number, position = (number << 8 & 0xFFFFFFFF) | following, position + 1
        if byte == 256 | _END:
            break
        if len(text) >= most:
            raise InputError(f"corrupt message header (its text is longer than {most} bytes)")
        text.append(byte & 255)
    if pack(text) != bytes(data):
        raise InputError("corrupt message header (its text is coded otherwise)")
    return bytes(text)
