"""Named random streams: every use of randomness has its own, derived from the run's one seed.

If training and the drawing of positions shared a stream, the draws would depend on the hypothesis; two names
never share one."""

import functools
import hashlib
import statistics
import zlib

import numpy as np

_CHUNK = 1 << 20  # values per digest
_TABLE_CRC = 51837258


def stream_seed(seed, *names):
    """Derive the 128-bit seed of a stream from the run's `seed` and the stream's `names`.

    Names are strings or integers, e.g. ``"positions", "openwebtext"``."""
    text = "/".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def generator(seed, *names):
    """Make the NumPy generator (PCG64) of the stream `names` under `seed`."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, *names)))


def normals(seed, *names, shape):
    """Draw standard normal numbers that are the same bits on every machine and with every library.

    A message leaves out the random numbers that both sides can draw, and they are drawn here. `random_bits`
    gives 16 bits per number, which choose one of 65,536 quantiles, rounded to multiples of 2^-16 (variance
    0.9997, largest 4.32). The generators of NumPy and torch may differ between versions, machines or devices.

    Parameters
    ----------
    seed, *names
        As for `stream_seed`.
    shape : tuple of int
        Shape of the array.

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
    """Draw uniform integers that are the same on every machine.

    They are the SHAKE-128 of ``{stream}/{chunk}``, 2^20 numbers per chunk.

    Parameters
    ----------
    size : int
        Number of integers.
    dtype : NumPy dtype
        Type of the integers.
    seed, *names
        As for `stream_seed`.

    Yields
    ------
    start : int
        Index of the chunk's first number.
    bits : ndarray of dtype
    """
    stream, width = stream_seed(seed, *names), np.dtype(dtype).itemsize
    for chunk, start in enumerate(range(0, size, _CHUNK)):
        count = min(_CHUNK, size - start)
        digest = hashlib.shake_128(f"{stream}/{chunk}".encode()).digest(width * count)
        yield start, np.frombuffer(digest, dtype)


@functools.cache
def _normal_table():
    quantile = statistics.NormalDist().inv_cdf
    upper = np.array([round(quantile((2 * i + 1) / 2**17) * 2**16) for i in range(2**15, 2**16)], np.int32)
    table = np.concatenate([-upper[::-1], upper])
    if zlib.crc32(table.astype("<i4").tobytes()) != _TABLE_CRC:
        raise RuntimeError(
            "the normal quantiles of this Python differ from those that messages are coded with"
        )
    return (table / 2**16).astype(np.float32)
