"""The paper's formula against published numbers, and the quantities every bound is made of."""

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbounds import bounds
from tokenbounds.bounds import Grids
from tokenbounds.errors import InputError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "azuma.json").read_text())["rows"]


def test_published_formula_is_reproduced_on_every_vector():
    assert len(VECTORS) > 20
    for row in VECTORS:
        interval = 1.0
        if row["metric"] == "bpd":
            low, high = bounds.bpd_interval(row["alpha"], row["vocab_size"])
            interval = high - low
        nats = bounds.complexity_nats(row["message_bits"], row["extra_bits"])
        found = bounds.azuma(row["empirical_risk"], interval, nats, row["m"], row["n"], row["delta"])
        assert found == pytest.approx(row["bound"], rel=1e-9)


def test_vectors_are_those_published(shared):
    assert json.loads((shared / "vectors" / "azuma.json").read_text())["rows"] == VECTORS


def test_bound_entry_is_the_formula_with_its_complexity_terms():
    rng = np.random.default_rng(0)
    log2_q = -rng.exponential(3.0, 500)
    found = bounds.azuma_bpd(log2_q, 32000, 10**6, 10**9, delta=0.1, extra_bits=2.0)
    by_hand = []
    for alpha in Grids().alpha:
        low, high = bounds.bpd_interval(alpha, 32000)
        risk = np.mean(-np.log2((1 - alpha) * 2.0**log2_q + alpha / 32000))
        nats = bounds.complexity_nats(10**6, 3 + 2)  # log2 of the 8 weights, and the extra bits
        by_hand.append(bounds.azuma(risk, high - low, nats, 10**9, 500, 0.1))
    assert found.value == pytest.approx(min(by_hand), rel=1e-12)
    assert found.complexity_terms_bits["alpha_grid"] == 3 and found.n_pilot == 0


def test_complexity_counts_every_bit_once():
    assert bounds.complexity_nats(1024, 5) == pytest.approx(math.log(2) * (1024 + 20 + 5), rel=1e-15)
    terms = bounds.complexity_terms(1024, {"alpha": 8, "bet_sizes": 64}, {"row": 1.5})
    assert terms == {"message": 1024.0, "prefix": 20.0, "alpha_grid": 3.0, "bet_sizes_grid": 6.0, "row": 1.5}
    assert bounds.total_nats(terms) == pytest.approx(math.log(2) * 1054.5, rel=1e-15)


def test_prior_over_lengths_is_normalised():
    lengths = np.arange(2, 10**6)
    assert np.sum(lengths**-2.0) <= 0.645 + 1e-3 < 1
    assert bounds.complexity_nats(2) == pytest.approx(math.log(16))  # 2^2 messages of weight 2^-2 / 2^2


@pytest.mark.parametrize("size", [1, 2, 8, 64])
def test_delta_is_spent_exactly(size):
    assert sum(bounds.split_delta(0.05)) == pytest.approx(0.05, rel=1e-15)
    assert bounds.split_delta(0.05, size)[1] == pytest.approx(0.05 * 0.999 / size, rel=1e-15)
    assert sum(bounds.split_delta_paper(0.05, 10**9, 10**4)) == pytest.approx(0.05, rel=1e-15)


def test_an_open_number_of_attempts_spends_delta_once():
    """The shares of the first k attempts leave exactly the share of all later ones, 1 / (k + 1)."""
    total = Fraction(0)
    for k in range(1, 200):
        total += Fraction(1, bounds.attempts_share(k))
        assert total == 1 - Fraction(1, k + 1)
    assert bounds.candidates_of({"candidates": 6, "attempt": 3}) == 72
    assert bounds.candidates_of({"candidates": 6}) == bounds.candidates_of({"candidates": 6, "attempt": None})
    for bad in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="attempt is"):
            bounds.attempts_share(bad)


def test_default_grids_have_the_declared_sizes():
    grids = Grids()
    sizes = [
        len(getattr(grids, name))
        for name in (
            "alpha",
            "bet_sizes",
            "centre_linear",
            "centre_quadratic",
            "centre_widths",
            "sampling_bet_sizes",
            "freedman_fractions",
            "lambda_exponents",
        )
    ]
    assert sizes == [8, 64, 5, 3, 3, 32, 64, 128]
    assert (
        grids.bet_sizes[0],
        grids.bet_sizes[-1],
        grids.sampling_bet_sizes[0],
        grids.sampling_bet_sizes[-1],
    ) == pytest.approx((1e-3, 0.9995, 0.01, 0.98), rel=1e-12)
    logits = np.log(np.array(grids.bet_sizes) / (1 - np.array(grids.bet_sizes)))
    assert np.allclose(np.diff(logits), logits[1] - logits[0])


@given(alpha=st.floats(1e-6, 1), vocab_size=st.integers(2, 300000), log2_q=st.floats(-1e300, 0))
def test_smoothed_losses_stay_in_their_interval(alpha, vocab_size, log2_q):
    low, high = bounds.bpd_interval(alpha, vocab_size)
    loss = float(bounds.smoothed_losses(log2_q, alpha, vocab_size))
    assert 0 <= low <= loss <= high
    assert high - low == pytest.approx(math.log2(1 + (1 - alpha) * vocab_size / alpha), rel=1e-9, abs=1e-9)
    assert loss == pytest.approx(
        -math.log2((1 - alpha) * 2.0 ** max(log2_q, -1000) + alpha / vocab_size), abs=1e-9
    )


def test_probability_zero_is_a_loss_at_the_upper_end():
    assert bounds.smoothed_losses(-math.inf, 0.5, 1024) == 11.0
    assert bounds.smoothed_losses(0.0, 1.0, 1024) == 10.0


def test_topk_errors_count_ties_against_the_model():
    assert bounds.topk_errors([0, 4, 5, 9], 5, 10)[:, 0].tolist() == [0, 0, 1, 1]


def test_random_guesses_of_the_paper():
    assert bounds.random_guess_bpd(50257) == pytest.approx(15.62, abs=0.005)
    assert bounds.random_guess_bpd(32000) == pytest.approx(14.97, abs=0.005)
    assert bounds.random_guess_topk(29, 10) == pytest.approx(0.6551, abs=1e-4)


def test_clopper_pearson_is_exact():
    from scipy.stats import binom

    for errors, n in [(0, 50), (7, 50), (49, 50)]:
        assert binom.cdf(errors, n, bounds.clopper_pearson_upper(errors, n, 0.05)) == pytest.approx(
            0.05, rel=1e-9
        )
    assert bounds.clopper_pearson_upper(50, 50, 0.05) == 1.0


GOOD = {"log2_q": [-1.0, -2.0, -3.0], "vocab_size": 16, "message_bits": 8, "m": 1000}
BPD_METHODS = (bounds.azuma_bpd, bounds.azuma_certified_bpd, bounds.azuma_rigorous_bpd, bounds.betting_bpd)
BAD = {
    "message_bits": [1, 0, 8.5, math.nan, math.inf, True, None],
    "m": [2, 0, 1000.5, math.nan],
    "vocab_size": [1, 15.5],
    "log2_q": [[-1.0, math.nan, -1.0], [-1.0, 1e-6, -1.0], [], [[[-1.0]]], "text"],
    "delta": [0, 1, -0.1, math.nan],
    "extra_bits": [-1.0, math.nan, {"message": 1.0}, {"row": -1.0}],
}
EPSILONS = {"epsilon_nats": [-1.0, math.nan, "much"], "entropy_epsilon_bits": [-1.0, math.nan, math.inf]}


@pytest.mark.parametrize("method", BPD_METHODS)
@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_bad_parameters_end_with_one_line_that_names_them(method, name, value):
    method(**GOOD)
    with pytest.raises(InputError, match=name.split("_")[0]) as caught:
        method(**(GOOD | {name: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", EPSILONS)
def test_bad_errors_of_scores_are_refused(name):
    entropies = {"entropies": [1.0, 2.0, 3.0]}
    for value in EPSILONS[name]:
        for method, more in ((bounds.betting_bpd, entropies), (bounds.freedman_bpd, entropies)):
            with pytest.raises(InputError, match=name) as caught:
                method(**GOOD, **more, **{name: value})
            assert "\n" not in str(caught.value)
    for value in (-1.0, math.nan):
        with pytest.raises(InputError, match="epsilon"):
            bounds.betting_losses([0.1, 0.2], 0, 1, 8, 1000, epsilon=value)


@pytest.mark.parametrize(
    ("grid", "value"),
    [
        ("alpha", ()),
        ("alpha", (0.0,)),
        ("alpha", (1.1,)),
        ("bet_sizes", (1.0,)),
        ("bet_sizes", ()),
        ("sampling_bet_sizes", (0.0,)),
        ("centre_widths", (1.2,)),
        ("freedman_fractions", (1.0,)),
        ("lambda_exponents", (401,)),
        ("lambda_exponents", (math.nan,)),
        ("centre_linear", (math.nan,)),
    ],
)
def test_bad_grids_are_refused(grid, value):
    with pytest.raises(InputError, match=f"grids.{grid}"):
        Grids(**{grid: value})


@pytest.mark.parametrize("method", [bounds.azuma_rigorous_bpd, bounds.betting_bpd])
def test_head_weights_must_keep_their_declared_range(method):
    def call(alphas, alpha_range):
        return method(**GOOD, alphas=alphas, alpha_range=alpha_range)

    assert call([0.1, 0.2, 0.5], (0.1, 0.5)).complexity_terms_bits["alpha_grid"] == 0
    for alphas, alpha_range, named in [
        ([0.1, 0.2, 0.5], (0.1000001, 0.5), "alphas"),
        ([0.1, 0.2, 0.5], (0.1, 0.4), "alphas"),
        ([0.1, math.nan, 0.5], (0.1, 0.5), "alphas"),
        ([0.1, 0.2], (0.1, 0.5), "alphas"),
        ([0.1, 0.2, 0.5], None, "alpha_range"),
        ([0.1, 0.2, 0.5], (0.0, 0.5), "alpha_range"),
        (None, (0.1, 0.5), "alpha_range"),
    ]:
        with pytest.raises(InputError, match=named):
            call(alphas, alpha_range)


@pytest.mark.parametrize("entropies", [[1.0, 2.0], [1.0, 2.0, 4.1], [1.0, -0.1, 2.0], [1.0, math.nan, 2.0]])
def test_entropies_must_fit_the_records(entropies):
    with pytest.raises(InputError, match="entropies"):
        bounds.betting_bpd(**GOOD, entropies=entropies)


@pytest.mark.parametrize("method", [bounds.azuma_topk, bounds.azuma_certified_topk, bounds.betting_topk])
@pytest.mark.parametrize(
    ("ranks", "k"), [([0, -1], 1), ([0, 16], 1), ([0, 1.5], 1), ([0, math.nan], 1), ([0, 1], 0), ([0, 1], 16)]
)
def test_bad_ranks_are_refused(method, ranks, k):
    with pytest.raises(InputError, match=r"ranks|k is"):
        method(ranks, k, 16, 8, 1000)


@pytest.mark.parametrize(
    "method", [bounds.betting_losses, bounds.azuma_losses, bounds.azuma_certified_losses]
)
def test_a_loss_outside_its_interval_is_refused(method):
    method([0.0, 1.0 + 1e-12], 0, 1, 8, 1000)
    for losses, low, high in [
        ([0.0, 1.1], 0, 1),
        ([-0.1, 1.0], 0, 1),
        ([0.5, 0.5], 1, 1),
        ([0.5, math.inf], 0, 1),
    ]:
        with pytest.raises(InputError, match=r"losses|low"):
            method(losses, low, high, 8, 1000)


def test_windows_need_whole_windows_in_m():
    bounds.betting_bpd(np.full((4, 3), -1.0), 16, 8, 12)
    for m in (11, 13):
        with pytest.raises(InputError, match="m is"):
            bounds.betting_bpd(np.full((4, 3), -1.0), 16, 8, m)


@pytest.mark.parametrize(
    "call", [lambda: bounds.betting_bpd([-1.0], 16, 8, 1000), lambda: bounds.betting([0.5], 0, 1, 0.0, 1000)]
)
def test_one_draw_is_too_few_for_a_pilot(call):
    with pytest.raises(InputError, match="n is 1"):
        call()
