"""Properties of every bound on any input: above the risk, monotone, ordered, finite at extreme sizes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import xlogy

from tokenbounds import bounds
from tokenbounds.bounds import Grids, search
from tokenbounds.bounds.azuma_bounds import azuma_terms
from tokenbounds.bounds.draws import Sample
from tokenbounds.validation.processes import language_tokens

VOCAB = 32000
M_AMBER = 1_200_000_000_000
# kappa, bits per token the paper reports (table 8, n = 10,000), and the mean entropy at which
# `language_tokens` reproduces it
POINTS = {
    "LLaMA2-7B 2 bit": (0.0099, 4.28, 2.645),
    "LLaMA2-13B 2 bit": (0.018, 4.52, 2.383),
    "LLaMA1-30B 2 bit": (0.043, 5.37, 2.298),
    "LLaMA2-70B 2 bit": (0.084, 6.14, 2.057),
    "LLaMA2-70B 4 bit": (0.165, 7.33, 1.852),
}


def bpd_bounds(log2_q, entropies, message_bits, m, **options):
    """Every certified bound on bits per token."""
    return {
        "betting": bounds.betting_bpd(log2_q, VOCAB, message_bits, m, **options),
        "centred": bounds.betting_bpd(log2_q, VOCAB, message_bits, m, entropies=entropies, **options),
        "freedman": bounds.freedman_bpd(log2_q, entropies, VOCAB, message_bits, m, **options),
        "azuma_certified": bounds.azuma_certified_bpd(log2_q, VOCAB, message_bits, m, **options),
        "azuma_rigorous": bounds.azuma_rigorous_bpd(log2_q, VOCAB, message_bits, m, **options),
    }


def topk_bounds(log2_q, message_bits, m, **options):
    """Every bound on the top-10 error; the rank is read off the surprisal."""
    ranks = np.minimum(np.floor(2.0 ** np.minimum(-log2_q, 40)) - 1, VOCAB - 1)
    methods = (bounds.azuma_topk, bounds.azuma_certified_topk, bounds.betting_topk)
    return {method.__name__: method(ranks, 10, VOCAB, message_bits, m, **options) for method in methods}


@pytest.mark.parametrize("point", POINTS)
def test_betting_beats_azuma_at_the_operating_points_of_the_paper(point):
    kappa, reported, mean_entropy = POINTS[point]
    names = "azuma_certified", "azuma_rigorous", "betting", "centred", "freedman"
    message_bits = round(kappa * M_AMBER / math.log(2))
    values = []
    for seed in range(8):
        log2_q, entropies = language_tokens(np.random.default_rng(seed), 10_000, VOCAB, mean_entropy)
        found = bpd_bounds(log2_q, entropies, message_bits, M_AMBER)
        formula = bounds.azuma_bpd(log2_q, VOCAB, message_bits, M_AMBER).value
        values.append(
            [
                formula,
                *(found[name].value for name in names),
            ]
        )
    formula, certified, rigorous, betting, centred, freedman = np.mean(values, axis=0)
    assert formula == pytest.approx(reported, abs=0.15)
    assert rigorous < certified
    assert centred < betting < 0.85 * certified
    assert centred < 0.8 * formula
    assert centred < freedman < certified


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 400),
    window=st.sampled_from([1, 1, 3]),
    message_bits=st.integers(2, 10**7),
    m=st.integers(2000, 10**9),
    delta=st.floats(1e-6, 0.9),
)
def test_a_bound_is_never_below_the_risk_it_rests_on(seed, n, window, message_bits, m, delta):
    log2_q, entropies = language_tokens(np.random.default_rng(seed), n * window, VOCAB)
    if window > 1:
        log2_q, entropies = log2_q.reshape(n, window), entropies.reshape(n, window)
    m -= m % window
    found = bpd_bounds(log2_q, entropies, message_bits, m, delta=delta) | topk_bounds(
        log2_q, message_bits, m, delta=delta
    )
    for name, bound in found.items():
        assert bound.value >= bound.empirical_risk - 1e-12, name
        assert min(bound.complexity_term, bound.subsample_term) >= -1e-12, name
        assert bound.n_pilot in (0, -(-n // 10))


@settings(max_examples=60, deadline=None)
@given(
    losses=st.lists(st.floats(0, 1), min_size=2, max_size=60),
    complexity=st.floats(0, 1e6),
    m=st.integers(60, 10**12),
    a=st.floats(1e-6, 1 - 1e-9),
    b=st.floats(1e-6, 1 - 1e-9),
)
def test_any_bet_gives_a_bound_above_the_risk(losses, complexity, m, a, b):
    grids = Grids(
        bet_sizes=(a,),
        sampling_bet_sizes=(b,),
        centre_linear=(0.3,),
        centre_quadratic=(0.1,),
        centre_widths=(0.7,),
    )
    rest = np.mean(losses[-(-len(losses) // 10) :])
    for entropies in (None, losses):
        assert (
            rest - 1e-9 <= bounds.betting(losses, 0, 1, complexity, m, grids=grids, entropies=entropies) <= 1
        )


@pytest.mark.parametrize("direction", ["message_bits", "m", "n", "delta"])
def test_monotone_in_sizes(direction):
    """Up in C; down in m, n and delta: averaged over seeds, as the draws differ with n."""
    base = {"message_bits": 10**10, "m": 10**12, "n": 2000, "delta": 0.05}
    steps = {
        "message_bits": [2, 10**7, 10**9, 10**10, 10**11, 4 * 10**11],
        "m": [10**13, 10**12, 10**11, 3 * 10**10],
        "n": [20_000, 2000, 200],
        "delta": [0.5, 0.05, 0.005, 1e-6],
    }[direction]
    averages = {}
    for step in steps:
        case = base | {direction: step}
        values = {}
        for seed in range(4):
            log2_q, entropies = language_tokens(np.random.default_rng(seed), case["n"], VOCAB)
            options = {"message_bits": case["message_bits"], "m": case["m"], "delta": case["delta"]}
            for name, bound in (
                bpd_bounds(log2_q, entropies, **options) | topk_bounds(log2_q, **options)
            ).items():
                values.setdefault(name, []).append(bound.value)
        for name, found in values.items():
            averages.setdefault(name, []).append(np.mean(found))
    assert len(averages) == 8
    for name, found in averages.items():
        assert (np.diff(found) > 0).all(), (name, found)


@pytest.mark.parametrize(
    "losses",
    [np.zeros(1000), np.ones(1000), np.r_[np.ones(1), np.zeros(999)], np.r_[np.zeros(999), np.ones(1)]],
)
@pytest.mark.parametrize("complexity", [0.0, 1.0, 4e11 * math.log(2), 1e18])
@pytest.mark.parametrize("m", [1000, 10**6, 2 * 10**12])
def test_extreme_sizes_neither_overflow_nor_fall_below_the_risk(losses, complexity, m):
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for entropies in (None, losses):
            value = bounds.betting(losses, 0, 1, complexity, m, entropies=entropies)
            assert losses[100:].mean() - 1e-12 <= value <= 1


def test_a_million_draws_of_the_largest_model():
    log2_q, entropies = language_tokens(np.random.default_rng(0), 10**6, VOCAB)
    log2_q[::1000], log2_q[1::1000] = 0.0, -math.inf
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        for bound in bpd_bounds(log2_q, entropies, 4 * 10**11, 2 * 10**12).values():
            assert bound.empirical_risk < bound.value < bound.high


def test_no_complexity_and_many_draws_give_the_risk():
    rng = np.random.default_rng(0)
    losses = rng.beta(0.5, 2.0, 10**6)
    value = bounds.betting(losses, 0, 1, 0.0, 10**15)
    assert 0 <= value - losses[10**5 :].mean() < 0.002
    log2_q, entropies = language_tokens(rng, 10**6, VOCAB)
    for bound in bpd_bounds(log2_q, entropies, 2, 10**15).values():
        assert 0 <= bound.value - bound.empirical_risk < 0.05
    ranks = rng.integers(0, 100, 10**6)
    assert bounds.betting_topk(ranks, 30, 100, 2, 10**15).value == pytest.approx(0.7, abs=0.003)


def inverse_kl(risk, kappa):
    """Largest q with kl(risk, q) <= kappa."""

    def excess(q):
        return xlogy(risk, risk / q) + xlogy(1 - risk, (1 - risk) / (1 - q)) - kappa

    return 1.0 if risk >= 1 or excess(1 - 1e-16) < 0 else brentq(excess, max(risk, 1e-300), 1 - 1e-16)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=st.floats(0.05, 5), kappa=st.floats(1e-5, 1.0))
def test_product_form_inverse_kl_and_azuma_are_ordered(seed, shape, kappa):
    """n = infinity: Theorem A with the best a <= inverse KL <= Azuma; equality with the KL for 0-1 losses."""
    y = np.random.default_rng(seed).beta(shape, 1.0, 300)
    bets = np.array(bounds.grids.logit_spaced(1e-6, 1 - 1e-9, 3000))

    def product_form(values):
        family = Sample(values[:, None], 0.0, 1.0, 0.0, 1.0)
        return min(1.0, search.centred_values(family, None, kappa, bets, search.NO_CENTRE)[0].min())

    kl = inverse_kl(y.mean(), kappa)
    assert product_form(y) <= kl + 1e-4
    assert kl <= y.mean() + azuma_terms(1.0, kappa, 1, 1, 1.0, 1.0)[0] + 1e-9
    zero_one = (y > 0.5).astype(float)
    assert product_form(zero_one) == pytest.approx(inverse_kl(zero_one.mean(), kappa), abs=1e-4)
