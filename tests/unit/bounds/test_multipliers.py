"""The absolute grid of lambda: wide and fine enough, the same for every m, true for an m that is chosen."""

import itertools
import math

import numpy as np
import pytest

from tokenbounds import bounds
from tokenbounds.bounds import Bpd, Claim, Grids, TopK
from tokenbounds.bounds.azuma_bounds import AzumaCertified, azuma_terms, corpus_terms, multipliers
from tokenbounds.bounds.methods import METHODS

EXPONENTS = Grids().lambda_exponents
DELTA = 0.05


def test_every_practical_optimum_lies_inside_the_grid_and_costs_at_most_four_tenths_of_a_percent():
    losses = []
    for kappa, interval in itertools.product(np.geomspace(1e-9, 10, 173), np.geomspace(0.5, 40, 41)):
        best = math.sqrt(8 * kappa) / interval
        terms = corpus_terms(EXPONENTS, interval**2, kappa)
        assert multipliers(EXPONENTS)[0] < best < multipliers(EXPONENTS)[-1]
        losses.append(terms.min() / (interval * math.sqrt(kappa / 2)))
    assert 1 - 1e-12 <= min(losses) < 1.0001 and 1.003 < max(losses) <= 1.004
    assert math.log2(len(EXPONENTS)) == 7


def test_the_worst_place_between_two_multipliers():
    interval, middle = 13.0, 2 ** ((-20 + 0.5) / 4)
    kappa = (middle * interval) ** 2 / 8  # whose best lambda lies in the middle of two of the grid
    ratio = corpus_terms(EXPONENTS, interval**2, kappa).min() / (interval * math.sqrt(kappa / 2))
    assert ratio == pytest.approx((2 ** (1 / 8) + 2 ** (-1 / 8)) / 2, rel=1e-12)


@pytest.mark.parametrize("name", ["azuma_certified", "azuma_rigorous"])
def test_lambda_is_of_the_same_grid_whatever_m_the_message_and_delta_are(name):
    log2_q = -np.random.default_rng(0).exponential(3.0, 300)
    grid, chosen = set(multipliers(EXPONENTS).tolist()), set()
    for m, bits, delta in itertools.product((300, 10**4, 10**6, 10**12), (2, 10**4), (0.5, 1e-6)):
        found = METHODS[name].bound(Bpd(log2_q, 1000), Claim(bits, m, delta))
        chosen.add(found.choices["lambda"])
        assert found.complexity_terms_bits["lambda_grid"] == 7
    assert chosen <= grid and len(chosen) > 5
    assert METHODS[name].assumes == METHODS["betting"].assumes == bounds.NOTHING_MORE


def test_top_k_errors_need_no_pilot_for_lambda():
    """Lambda follows from kappa alone: no draw moves it, and all draws estimate the risk."""
    rng, claim = np.random.default_rng(1), Claim(3000, 10**5)
    found = [AzumaCertified().bound(TopK(rng.integers(0, 100, 500), 100, k), claim) for k in (1, 20, 80)]
    assert len({bound.choices["lambda"] for bound in found}) == 1
    assert all(bound.n_pilot == 0 for bound in found)
    nats = bounds.complexity_nats(3000, 7) - math.log(0.001 * DELTA)
    grid = multipliers(EXPONENTS)
    for bound in found:
        draws = math.sqrt(-math.log(0.999 * DELTA) / 1000)
        expected = bound.empirical_risk + min(grid / 8 + nats / 10**5 / grid) + draws
        assert bound.value == pytest.approx(min(1.0, expected), rel=1e-12)


def test_an_m_that_is_chosen_by_looking_breaks_a_tuned_lambda_and_not_the_grid():
    """Fair coins, every token seen, no message; the adversary names as the corpus what he has read.

    He stops where the bound is below the mean of 1/2.
    """
    trials, largest, rng = 1500, 5000, np.random.default_rng(2)
    sizes = np.arange(1, largest + 1)
    risks = np.cumsum(rng.integers(0, 2, (trials, largest)), axis=1) / sizes
    tuned = np.array([azuma_terms(1.0, 0.0, int(m), 1, DELTA, 1.0)[0] for m in sizes])
    grid, paid = multipliers(EXPONENTS)[:, None], math.log(len(EXPONENTS) / DELTA)
    absolute = (grid / 8 + paid / sizes / grid).min(axis=0)
    broken_tuned, broken = ((risks + terms < 0.5).any(axis=1).sum() for terms in (tuned, absolute))
    allowed = trials * DELTA + 3.1 * math.sqrt(trials * DELTA * (1 - DELTA))
    assert broken <= allowed < broken_tuned
