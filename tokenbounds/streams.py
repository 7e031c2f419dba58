"""Named random streams: every use of randomness has its own, derived from the run's one seed.

One seed for training and for drawing positions would make the draws depend on the hypothesis; two names never share a stream.
"""

import functools
import hashlib
import statistics
import zlib

import numpy as np

_CHUNK = 1 << 20  # values per digest
_TABLE_CRC = 51837258


def stream_seed(seed, *names):
    """128-bit integer for the stream `names` (strings or integers, e.g. ``"positions", "openwebtext"``) under the run's `seed`."""
    text = "/".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def generator(seed, *names):
    """NumPy generator (PCG64) for the stream `names` under `seed`."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, *names)))


def normals(seed, *names, shape):
    """Standard normal numbers that are the same bits on every machine and with every library: what a message leaves out is drawn from here.

    `random_bits` gives 16 bits per number, which choose one of 65,536 quantiles, rounded to multiples of 2^-16
    (variance 0.9997, largest 4.32). NumPy's and torch's generators promise no such thing across versions, machines or devices.

    Parameters
    ----------
    seed, *names
        As for `stream_seed`.
    shape : tuple of int

    Returns
    -------
    ndarray of float32
    """
    size, table = int(np.prod(shape)), _normal_table()
    values = np.empty(size, np.float32)
    for start, bits in random_bits(size, "<u2", seed, *names):
        values[start : start + bits.size] = table[bits]
    return values.reshape(shape)


def random_bits(size, dtype, seed, *names):
    """Uniform integers that are the same on every machine: SHAKE-128 of ``{stream}/{chunk}``, 2^20 numbers per chunk.

    Yields
    ------
    start : int
        Index of the chunk's first number.
    bits : ndarray of dtype
    """
    stream, width = stream_seed(seed, *names), np.dtype(dtype).itemsize
    for chunk, start in enumerate(range(0, size, _CHUNK)):
        count = min(_CHUNK, size - start)
        yield start, np.frombuffer(hashlib.shake_128(f"{stream}/{chunk}".encode()).digest(width * count), dtype)


@functools.cache
def _normal_table():
    quantile = statistics.NormalDist().inv_cdf
    upper = np.array([round(quantile((2 * i + 1) / 2**17) * 2**16) for i in range(2**15, 2**16)], np.int32)
    table = np.concatenate([-upper[::-1], upper])
    if zlib.crc32(table.astype("<i4").tobytes()) != _TABLE_CRC:
        raise RuntimeError("the normal quantiles of this Python differ from those that messages are coded with")
    return (table / 2**16).astype(np.float32)
