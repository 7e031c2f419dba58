"""Scores known up to an error: a bound from any records within it is not below that from the true scores.

"At the same choices": all that is chosen on the pilot is held fixed, since any choice is valid.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tokenbounds import bounds
from tokenbounds.bounds import Bounded, Bpd, Claim, Document, Grids, TopK, search
from tokenbounds.bounds.azuma_bounds import penalised
from tokenbounds.bounds.linear_form import linear_form, linear_terms
from tokenbounds.bounds.methods import METHODS

VOCAB, N = 50, 24
UNIT = st.floats(-1, 1)
ERRORS = {"epsilon_nats": st.floats(0, 0.5), "entropy_epsilon_bits": st.floats(0, 0.5)}


@st.composite
def scores(draw, head):
    """True and recorded losses of the same tokens: arbitrary scores, and an error anywhere within epsilon."""
    ln_q = draw(arrays(float, (N, 1), elements=st.floats(-15, 0)))
    entropies = draw(arrays(float, (N, 1), elements=st.floats(0, math.log2(VOCAB))))
    errors = {name: draw(values) for name, values in ERRORS.items()}
    epsilon, entropy_epsilon = errors.values()
    off, entropy_off = (draw(arrays(float, (N, 1), elements=UNIT)) for _ in range(2))
    recorded_entropies = np.clip(entropies + entropy_epsilon * entropy_off, 0, math.log2(VOCAB))
    weights = recorded_weights = None
    alpha_range = None
    if head:
        low = draw(st.floats(1e-3, 0.5))
        alpha_range = low, draw(st.floats(low + 1e-3, 1.0))
        weights = draw(arrays(float, (N, 1), elements=st.floats(*alpha_range)))
        weight_off = draw(arrays(float, (N, 1), elements=UNIT))
        recorded_weights = np.clip(weights * np.exp(epsilon * weight_off), *alpha_range)
        # epsilon bounds the factors of both terms of (1 - alpha) q + alpha / V
        with np.errstate(divide="ignore", invalid="ignore"):
            kept = np.abs(np.log1p(-weights) - np.log1p(-recorded_weights))
        bad = ~(kept <= epsilon)
        recorded_weights[bad], kept[bad] = weights[bad], 0.0
        off = off * (1 - kept / epsilon) if epsilon else off
    recorded_ln_q = np.minimum(ln_q + epsilon * off, 0.0)
    true = Bpd(ln_q / math.log(2), VOCAB, entropies, weights, alpha_range)
    arguments = recorded_ln_q / math.log(2), VOCAB, recorded_entropies, recorded_weights, alpha_range
    return true, Bpd(*arguments, **errors)


OPTIONS = st.floats(1e-3, 0.99)
CENTRES = st.one_of(
    st.builds(search.Centre, st.floats(-2, 2), st.floats(-0.3, 0.3), st.floats(0.05, 1)),
    st.just(search.EntropyCentre()),
    st.just(search.NO_CENTRE),
)
CHOICES = {"a": st.floats(1e-3, 0.9995), "g0": st.floats(-2, 0), "centre": CENTRES, "alpha": OPTIONS}


@pytest.mark.parametrize("head", [False, True])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_error_of_the_scores_lowers_a_token(head, data):
    """X, T and Z of every token, at any choices; and they stay inside the intervals of the theorems."""
    true, recorded = data.draw(scores(head))
    a, g0, centre, alpha = (data.draw(values) for values in CHOICES.values())
    exact, raised = (losses.sample(None if head else alpha) for losses in (true, recorded))
    assume(not exact.trivial)
    tolerance = 1e-9 * max(1.0, centre.width * exact.range / a)
    assert (raised.values >= exact.values - 1e-9).all() and (raised.values <= raised.high + 1e-12).all()
    assert (penalised(raised, 0.3) >= penalised(exact, 0.3) - 1e-9).all()
    z_true = linear_form(centre, a, g0, exact, true.entropies)
    z = linear_form(centre, a, g0, raised, recorded.entropies, recorded.entropy_epsilon)
    assert (z >= z_true - tolerance).all()
    width = centre.width * exact.range
    top = max(exact.high, exact.high - width - math.exp(g0) * math.log1p(-a) * width / a)
    assert z.min() >= exact.low - tolerance and z.max() <= top + tolerance


@pytest.mark.parametrize("head", [False, True])
@settings(max_examples=150, deadline=None)
@given(data=st.data(), kappa=st.floats(1e-6, 2), b=st.floats(0.01, 0.98))
def test_no_error_of_the_scores_lowers_a_product_bound(head, data, kappa, b):
    true, recorded = data.draw(scores(head))
    a, g0, centre, alpha = (data.draw(values) for values in CHOICES.values())
    option, grids = None if head else alpha, Grids(sampling_bet_sizes=(b,))
    values = []
    for losses in (true, recorded):
        _, risk, terms, _ = linear_terms(losses, option, a, centre, g0, kappa, 0.05, grids)
        values.append(math.fsum((risk, *terms)))
    assert values[1] >= values[0] - 1e-9 * max(1.0, abs(values[0]))


@pytest.mark.parametrize("head", [False, True])
@settings(max_examples=100, deadline=None)
@given(data=st.data(), bits=st.integers(2, 500), j=st.integers(-40, 8), b=st.floats(0.01, 0.98))
def test_no_error_of_the_scores_lowers_a_bound_without_choices(head, data, bits, j, b):
    """Whole certificates of one-valued grids; betting and freedman with a linear form that has g0 = 0."""
    true, recorded = data.draw(scores(head))
    grids = Grids(alpha=(0.1,), sampling_bet_sizes=(b,), lambda_exponents=(j,), freedman_fractions=(0.7,))
    for name in ("azuma_certified", "azuma_rigorous", "freedman"):
        low, high = (
            METHODS[name].bound(each, Claim(bits, 500, grids=grids)).value for each in (true, recorded)
        )
        assert high >= low - 1e-9, name


@settings(max_examples=100, deadline=None)
@given(data=st.data(), epsilon=st.floats(0, 0.5), bits=st.integers(2, 500))
def test_no_error_of_the_scores_lowers_a_bound_on_documents(data, epsilon, bits):
    log2_q = data.draw(arrays(float, N, elements=st.floats(-20, 0)))
    off = data.draw(arrays(float, N, elements=UNIT))
    recorded = np.minimum(log2_q + epsilon / math.log(2) * off, 0.0)
    counts, claim = [1, 2, 3, 4, 5, 9], Claim(bits, 10**4)
    true = Document.bpd(log2_q, counts, VOCAB, 0.1)
    raised = Document.bpd(recorded, counts, VOCAB, 0.1, epsilon)
    assert (raised.sample(None).values >= true.sample(None).values - 1e-9).all()
    assert raised.sample(None).values.max() <= raised.high
    low, high = (METHODS["azuma_certified"].bound(losses, claim).value for losses in (true, raised))
    assert high >= low - 1e-9


def test_two_epsilon_at_the_end_is_not_enough():
    """Z rises by up to e^g0 / (1 - a) per bit of loss, so a constant for each bound cannot cover it.

    Near the largest loss smoothing shrinks an error of the scores; what is left is more than twice too much.
    """
    epsilon, alpha, a, vocab_size = 1e-4, 1e-4, 0.99, 32_000
    _, high = bounds.bpd_interval(alpha, vocab_size)
    losses_bits = np.where(np.arange(200) % 2 == 0, high - 1.0, 0.5)
    log2_q = np.log2((np.exp2(-losses_bits) - alpha / vocab_size) / (1 - alpha))
    recorded = log2_q + epsilon / math.log(2)  # too favourable by epsilon everywhere
    true, plain = Bpd(log2_q, vocab_size), Bpd(recorded, vocab_size)
    raised = Bpd(recorded, vocab_size, epsilon_nats=epsilon)

    def z(losses):
        return linear_form(search.NO_CENTRE, a, 0.0, losses.sample(alpha), None)

    def bound(losses):
        grids = Grids(sampling_bet_sizes=(0.05,))
        _, risk, terms, _ = linear_terms(losses, alpha, a, search.NO_CENTRE, 0.0, 0.01, 0.05, grids)
        return math.fsum((risk, *terms))

    at_the_end = 2 * epsilon / math.log(2)
    assert 3 * at_the_end < (z(true) - z(plain)).max() < epsilon / math.log(2) / (1 - a)
    assert bound(plain) + at_the_end < bound(true) <= bound(raised)


def test_what_an_error_costs():
    """About epsilon / ln 2 where smoothing leaves the losses alone; formula and top-k errors pay nothing."""
    log2_q, entropies = np.full(200, -3.0), np.full(200, 3.0)
    claim = Claim(100, 10**6)
    for name in ("azuma_certified", "azuma_rigorous", "freedman", "betting"):
        values = [
            METHODS[name].bound(Bpd(log2_q, 1000, entropies, epsilon_nats=e, entropy_epsilon_bits=e), claim)
            for e in (0.0, 1e-3)
        ]
        rise = values[1].value - values[0].value
        assert 0.5e-3 / math.log(2) < rise < 5e-3, name
    formula = METHODS["azuma"]
    noisy = Bpd(log2_q, 1000, epsilon_nats=0.1)
    assert formula.bound(noisy, claim) == formula.bound(replace(noisy, epsilon_nats=0.0), claim)
    noisy = Bounded([0.2, 0.4] * 50, 0, 1, epsilon=0.1)
    assert formula.bound(noisy, claim) == formula.bound(replace(noisy, epsilon=0.0), claim)
    assert not hasattr(TopK([0, 1, 2], 10, 1), "epsilon_nats")


def test_a_parabola_that_turns_between_the_ends_is_followed():
    """A centre that falls and rises with the entropy has its extreme inside: the ends alone would miss it."""
    sample = Bounded([0.9], 0, 1).sample(None)
    centre, entropies, error = search.Centre(-2.0, 2.0, 1.0), np.array([[0.5]]), 0.5
    least, greatest = centre.ends(sample, entropies, error)
    assert (float(least[0, 0]), float(greatest[0, 0])) == (0.0, 0.0)  # clipped at the lower end
    rising = search.Centre(4.0, -4.0, 1.0)  # 1 at H = 1/2, 0 at both ends
    least, greatest = rising.ends(sample, entropies, error)
    assert (float(least[0, 0]), float(greatest[0, 0])) == (0.0, 1.0)
