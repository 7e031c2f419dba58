"""Weights, Hessians and lattice points for tests."""

import numpy as np

from tokenbounds.codecs.lattice import Quantized

BITS = (2, 3, 4)


def gaussian(*shape, seed=0):
    """Draw standard normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape)


def correlated_hessian(n, seed=1):
    """Make the second moments of n correlated inputs."""
    x = gaussian(2 * n, n, seed=seed) @ gaussian(n, n, seed=seed + 1)
    return x.T @ x / len(x)


def random_result(m, n, bits, seed=0, name="w", scale=0.7):
    """Draw a quantized matrix of any codes."""
    rng = np.random.default_rng(seed)
    second = {2: (), 3: ((256, np.uint8),), 4: ((65536, np.uint16),)}[bits]
    codes = tuple(
        rng.integers(0, size, (m, n // 8)).astype(kind) for size, kind in ((65536, np.uint16), *second)
    )
    return Quantized(bits, seed, name, codes, np.array([scale], np.float32), (m,))
