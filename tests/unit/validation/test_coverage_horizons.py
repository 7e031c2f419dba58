"""An m that is chosen by looking: the boundaries are those of the bounds, and what is simulated is exact."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from tokenbounds.bounds import Grids, azuma_terms
from tokenbounds.bounds.azuma_bounds import corpus_terms
from tokenbounds.bounds.betting_bounds import _zero_one_bound
from tokenbounds.randomness import generator
from tokenbounds.validation import coverage_horizons as horizons
from tokenbounds.validation.coverage_common import DELTA, DELTA_NATS


def bound_at(label, errors, m):
    """Each bound by the functions of the library, at an error of errors / m."""
    grids, error = Grids(), errors / m
    if label == horizons.TUNED:
        return error + azuma_terms(1.0, 0.0, m, 1, DELTA, 1.0)[0]
    if label == horizons.GRID:
        kappa = (DELTA_NATS + math.log(len(grids.lambda_exponents))) / m
        return error + corpus_terms(grids.lambda_exponents, 1.0, kappa).min()
    if label == horizons.SINGLE:
        return error + corpus_terms([horizons.ONE], 1.0, DELTA_NATS / m)[0]
    if label == horizons.BETTING:
        kappa = (DELTA_NATS + math.log(len(grids.bet_sizes))) / m
        return min(_zero_one_bound(error, a, kappa) for a in grids.bet_sizes)
    return _zero_one_bound(error, grids.bet_sizes[len(grids.bet_sizes) // 2], DELTA_NATS / m)


@pytest.mark.parametrize("m", [20, 137, 2000])
def test_boundaries_are_where_the_bounds_fall_below_the_truth(m):
    limits = horizons.boundaries(2000)
    assert len(limits) == 5
    for label, most in limits.items():
        errors = int(most[m - 1])
        if errors >= 0:
            assert bound_at(label, errors, m) < 0.5
        assert bound_at(label, errors + 1, m) >= 0.5 - 1e-8


def chance_to_cross(most):
    """Compute exactly how likely a fair coin's errors are at or below `most` at some m so far, (largest,)."""
    alive, crossed, lost = np.zeros(most.size + 2), np.empty(most.size), 0.0
    alive[0] = 1.0
    for m, limit in enumerate(most.tolist(), start=1):
        alive[1 : m + 1] = (alive[1 : m + 1] + alive[:m]) / 2
        alive[0] /= 2
        if limit >= 0:
            lost += alive[: limit + 1].sum()
            alive[: limit + 1] = 0.0
        crossed[m - 1] = lost
    return crossed


def test_the_former_bound_fails_at_some_m_and_the_absolute_grid_at_none():
    """Exactly, for an adversary who may read 10,000 tokens; every bound holds at one m that is fixed."""
    limits = horizons.boundaries(10_000)
    chance = {label: chance_to_cross(most)[-1] for label, most in limits.items()}
    assert chance[horizons.TUNED] == pytest.approx(0.148, abs=5e-4)
    assert chance[horizons.GRID] < 0.004 and chance[horizons.BETTING] < 0.01
    assert 0.03 < chance[horizons.SINGLE] < DELTA and 0.03 < chance[horizons.BET] < DELTA
    assert all(binom.cdf(most[-1], 10_000, 0.5) < 0.01 for most in limits.values())


def test_the_simulation_agrees_with_the_exact_chances(monkeypatch):
    monkeypatch.setattr(horizons, "HORIZONS", (100, 1000))
    trials = 4000
    failed = horizons.chosen_m(generator(137, "test"), trials)
    for label, most in horizons.boundaries(1000).items():
        exact = chance_to_cross(most)[[99, 999]]
        assert failed[label].shape == (trials, 2)
        rate = failed[label].mean(axis=0)
        assert (abs(rate - exact) <= 4 * np.sqrt(exact / trials) + 1 / trials).all()
    fixed = binom.cdf(horizons.boundaries(1000)[horizons.TUNED][[99, 999]], [100, 1000], 0.5)
    assert failed[horizons.FIXED].mean(axis=0) == pytest.approx(fixed, abs=0.007)
