"""Named random streams: every use of randomness has its own, derived from the run's one seed.

One seed for training and for drawing positions would make the draws depend on the hypothesis; two names never share a stream.
"""

import hashlib

import numpy as np


def stream_seed(seed, *names):
    """128-bit integer for the stream `names` (strings or integers, e.g. ``"positions", "openwebtext"``) under the run's `seed`."""
    text = "/".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def generator(seed, *names):
    """NumPy generator (PCG64) for the stream `names` under `seed`."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, *names)))
