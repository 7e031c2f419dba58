"""Coverage when m is chosen by looking at the process (docs/theory.md, 11): every token seen, no message.

Losses are fair coins, 0 or 1, so M = 1/2. The adversary of a bound reads on until the bound is below 1/2 and
then names what was read as the corpus. All bounds depend on the number of errors alone and grow with it: each
is a boundary, the most errors among m losses at which it is below 1/2.
"""

import functools
import math

import numpy as np

from tokenbounds.bounds import Grids, azuma_terms
from tokenbounds.bounds.azuma_bounds import corpus_terms
from tokenbounds.validation.coverage_common import DELTA, DELTA_NATS, ROUNDING

HORIZONS = (100, 1000, 10_000, 100_000)  # largest m that the adversary may choose
ONE = -11  # exponent of a multiplier: the best of the grid for m = 1000
BATCH = 25  # paths held at once

TUNED, FIXED = "R + Δ√(κ/2), λ tuned to m", "R + Δ√(κ/2) at the largest m, fixed"
GRID, SINGLE = "absolute grid of λ, the best, paid", "one λ for all m"
BETTING, BET = "Theorem A, best of 64 a, paid", "Theorem A, one a for all m"


@functools.cache
def boundaries(largest):
    """Compute the most errors among m = 1 .. `largest` losses at which each bound is below 1/2.

    Returns
    -------
    dict of str to numpy.ndarray of int32, (largest,)
        Negative where no number of errors is that small.
    """
    m, bets, exponents = np.arange(1, largest + 1), Grids().bet_sizes, Grids().lambda_exponents
    paid = DELTA_NATS + math.log(len(exponents))
    added = {
        TUNED: np.array([azuma_terms(1.0, 0.0, int(size), 1, DELTA, 1.0)[0] for size in m]),
        GRID: _least(corpus_terms([j], 1.0, paid / m) for j in exponents),
        SINGLE: corpus_terms([ONE], 1.0, DELTA_NATS / m),
    }

    def product_form(nats, a):
        # (1 - e^(ln(1 - a) errors / m - nats / m)) / a = 1/2, solved for the errors
        return (nats + m * math.log1p(-a / 2)) / math.log1p(-a)

    errors = {label: m * (0.5 - term) for label, term in added.items()}
    errors[BETTING] = -_least(-product_form(DELTA_NATS + math.log(len(bets)), a) for a in bets)
    errors[BET] = product_form(DELTA_NATS, bets[len(bets) // 2])
    return {label: np.floor(most - ROUNDING * m).astype(np.int32) for label, most in errors.items()}


def _least(arrays):
    """Take the least of many arrays, one after the other."""
    return functools.reduce(np.minimum, arrays)


def chosen_m(rng, trials):
    """Simulate the adversary of each bound; a column for each of `HORIZONS`.

    It tells whether some m up to the horizon breaks the bound; for `FIXED`, whether the horizon itself does.
    """
    limits, last = boundaries(HORIZONS[-1]), np.array(HORIZONS) - 1
    failed = {label: np.empty((trials, len(HORIZONS)), dtype=bool) for label in (*limits, FIXED)}
    for start in range(0, trials, BATCH):
        rows = slice(start, min(start + BATCH, trials))
        shape = rows.stop - start, HORIZONS[-1]
        coins = np.unpackbits(np.frombuffer(rng.bytes(shape[0] * -(-shape[1] // 8)), np.uint8))
        errors = np.cumsum(coins.reshape(shape[0], -1)[:, : shape[1]], axis=1, dtype=np.int32)
        for label, most in limits.items():
            broken = errors <= most
            failed[label][rows] = [[row[:horizon].any() for horizon in HORIZONS] for row in broken]
        failed[FIXED][rows] = errors[:, last] <= limits[TUNED][last]
    return failed
