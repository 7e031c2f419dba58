"""Range coding of integers with models that learn from what has been coded already.

A `Learner` codes integers of -M to M. Its model is the counts so far and a prior, so that nothing about the
distribution stands in the message and little is lost where there are few integers. The model changes at fixed
numbers of integers only, because building one takes longer than coding with it::

    coded so far    0    16    32  ...  64    80    100  ...  n    n + n/4
    model          prior | with 16 counts |                   | with n counts

Encoder and decoder compute every model by whole sums and elementwise float64 operations, which IEEE 754
rounds in one way only.
"""

import functools

import constriction
import numpy as np

_FEWEST, _MOST = 16, 1 << 20  # integers coded with one model
_COUNT = 1 << 16  # weight of a coded integer, where the prior has some 16 * 2^16 in all
_PRIOR = 16 * _COUNT
_TAIL = 5  # half the power with which the prior falls, of a t distribution with 2 * 5 - 1 degrees of freedom

# 2^(k/2) for k = 0 and 1; with these all powers of 2^(1/2) follow exactly
_ROOTS = np.array([1.0, 1.4142135623730951])
CLASSES = range(-24, 41)


@functools.lru_cache(maxsize=128)  # one message needs 65, of up to half a megabyte
def prior(scale_class, most):
    """Return the prior weights of the integers -most to most, whole numbers of at least 1, for a mean size of
    about 2^(scale_class / 4)."""
    octaves, odd = divmod(scale_class, 2)
    spread = 9.0 * 1.5 * _ROOTS[odd] * 2.0**octaves  # 9 s^2 with s^2 = 1.5 of the squared mean size
    squares = np.arange(-most, most + 1, dtype=np.float64) ** 2
    part = spread / (spread + squares)
    weights = part.copy()
    for _ in range(_TAIL - 1):
        weights *= part
    # one integer at a time adds up to the same number everywhere
    whole = np.floor(weights * 2.0**30).astype(np.int64)
    return np.maximum(whole * _PRIOR // int(whole.sum()), 1)


class Learner:
    """Model of integers from -most to most that learns.

    Parameters
    ----------
    scale_class : int
        Mean size of the integers in the prior, as 4 times its binary logarithm.
    most : int
        Largest size.
    """

    def __init__(self, scale_class, most):
        self._most = most
        self._weights = prior(scale_class, most).copy()
        self._coded, self._left, self._model = 0, 0, None

    def encode(self, encoder, integers):
        """Append integers, an int array, to a `constriction.stream.queue.RangeEncoder`."""
        symbols = integers.astype(np.int32) + np.int32(self._most)
        for start, stop in self._steps(len(symbols)):
            encoder.encode(symbols[start:stop], self._model)
            self._count(symbols[start:stop])

    def decode(self, decoder, size):
        """Read `size` integers, as int32, from a `constriction.stream.queue.RangeDecoder`."""
        symbols = np.empty(size, np.int32)
        for start, stop in self._steps(size):
            symbols[start:stop] = decoder.decode(self._model, stop - start)
            self._count(symbols[start:stop])
        return symbols - np.int32(self._most)

    def _steps(self, size):
        """Yield ranges of a run of integers, each with the model that it is to be coded with."""
        start = 0
        while start < size:
            if not self._left:
                self._left = min(max(_FEWEST, self._coded // 4), _MOST)
                weights = self._weights.astype(np.float64)
                self._model = constriction.stream.model.Categorical(
                    weights / float(self._weights.sum()), perfect=False
                )
            stop = min(start + self._left, size)
            yield start, stop
            self._coded, self._left, start = self._coded + stop - start, self._left - (stop - start), stop

    def _count(self, symbols):
        self._weights += _COUNT * np.bincount(symbols, minlength=len(self._weights))


def put_even(encoder, value, low, high):
    """Append an integer, all from `low` to `high` being equally probable, to a range encoder."""
    symbols = np.array([int(value) - low], np.int32)
    encoder.encode(symbols, constriction.stream.model.Uniform(high - low + 1))


def get_even(decoder, low, high):
    """Read an integer that `put_even` wrote from a range decoder."""
    return low + int(decoder.decode(constriction.stream.model.Uniform(high - low + 1), 1)[0])
