"""The Freedman-type bound: its published form, the recipe, and Theorem C below it at equal choices."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbounds import bounds
from tokenbounds.bounds import Bpd, Claim, Grids, search
from tokenbounds.bounds.freedman_bounds import Freedman
from tokenbounds.bounds.linear_form import linear_form
from tokenbounds.errors import InputError
from tokenbounds.validation.processes import language_tokens

VOCAB = 32_000
# kappa at the paper's operating points, and the mean entropy at which `language_tokens` has its bounds
POINTS = {0.0099: 2.645, 0.043: 2.298, 0.084: 2.057, 0.165: 1.852}
FRACTIONS = np.array(Grids().freedman_fractions)


def at_infinity(log2_q, entropies, alpha, kappa):
    """Our form with every token seen, for each s: (64,)."""
    sample = Bpd(log2_q, VOCAB, entropies).sample(alpha)
    centre = search.EntropyCentre()
    return search.centred_values(sample, entropies[:, None], kappa, FRACTIONS, centre, search.linear_value)[0]


@pytest.mark.parametrize("kappa", POINTS)
@pytest.mark.parametrize("alpha", [1e-3, 0.1])
def test_the_published_form_is_ours_with_every_token_seen(kappa, alpha):
    """R + D C + min over s of D C (1 - s) / s + (D / s) mean v(s A), v(x) = x - ln(1 + x), C = kappa."""
    log2_q, entropies = language_tokens(np.random.default_rng(0), 20_000, VOCAB, POINTS[kappa])
    losses = bounds.smoothed_losses(log2_q, alpha, VOCAB)
    low, high = bounds.bpd_interval(alpha, VOCAB)
    interval = high - low
    a = (np.clip(entropies, low, high) - losses) / interval
    published = losses.mean() + interval * kappa
    published += min(
        interval * kappa * (1 - s) / s + interval / s * np.mean(s * a - np.log1p(s * a)) for s in FRACTIONS
    )
    ours = at_infinity(log2_q, entropies, alpha, kappa)
    assert ours.min() == pytest.approx(published, rel=1e-12)
    # and it is mean Z + kappa / lambda
    sample, s = Bpd(log2_q, VOCAB, entropies).sample(alpha), FRACTIONS[np.argmin(ours)]
    z = linear_form(search.EntropyCentre(), s, 0.0, sample, entropies[:, None])
    assert z.mean() + kappa * interval / s == pytest.approx(published, rel=1e-12)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    kappa=st.floats(1e-8, 5),
    alpha=st.floats(1e-4, 0.9),
    scale=st.floats(0.1, 6),
)
def test_theorem_c_is_below_by_exactly_the_tangent_gap(seed, kappa, alpha, scale):
    """At equal centre, lambda, smoothing and K the difference is (e^g - 1 - g) / lambda >= 0."""
    log2_q, entropies = language_tokens(np.random.default_rng(seed), 400, VOCAB, scale)
    sample = Bpd(log2_q, VOCAB, entropies).sample(alpha)
    arguments = sample, entropies[:, None], kappa, FRACTIONS, search.EntropyCentre()
    theorem_c, g = search.centred_values(*arguments)
    freedman, _ = search.centred_values(*arguments, search.linear_value)
    gap = (np.expm1(g) - g) * sample.range / FRACTIONS
    assert (gap >= 0).all() and (theorem_c <= freedman + 1e-9).all()
    assert freedman - theorem_c == pytest.approx(gap, rel=1e-6, abs=1e-9)


def recipe(log2_q, entropies, message_bits, m, grids, alphas=None, alpha_range=None, delta=0.05):
    """Section 11 in plain Python; rows of `log2_q` are windows."""
    log2_q, entropies = np.reshape(log2_q, (len(log2_q), -1)), np.reshape(entropies, (len(log2_q), -1))
    n, size = log2_q.shape
    n1, options = math.ceil(n / 10), grids.alpha if alphas is None else [None]
    bits = message_bits + 2 * math.log2(message_bits)
    bits += math.log2(len(options)) + math.log2(len(grids.freedman_fractions))
    kappa = (math.log(2) * bits + math.log(1000 / delta)) / m

    def z(i, alpha, s):
        smallest = alpha if alphas is None else alpha_range[0]
        low, high = -math.log2(1 - smallest + smallest / VOCAB), math.log2(VOCAB / smallest)
        total = 0.0
        for t in range(size):
            weight = alpha if alphas is None else np.reshape(alphas, log2_q.shape)[i, t]
            x = -math.log2((1 - weight) * 2 ** log2_q[i, t] + weight / VOCAB)
            y = min(max(entropies[i, t], low), high)
            total += y - math.log(1 + s / (high - low) * (y - x)) * (high - low) / s
        return total / size, low, high

    best = None
    for alpha in options:
        for s in grids.freedman_fractions:
            values = [z(i, alpha, s) for i in range(n1)]
            _, low, high = values[0]
            value = sum(v for v, _, _ in values) / n1 + kappa * (high - low) / s
            if best is None or value < best[0]:
                best = value, alpha, s, low, high
    _, alpha, s, low, high = best
    z_high = low - (high - low) * math.log(1 - s) / s

    def limit(part, b):
        mean = sum(math.log(1 - b * (z(i, alpha, s)[0] - low) / (z_high - low)) for i in part) / len(part)
        return (1 - math.exp(mean - math.log(1 / (0.999 * delta)) / (n - n1))) / b

    b = min(grids.sampling_bet_sizes, key=lambda b: limit(range(n1), b))
    upper = low + (z_high - low) * min(1.0, limit(range(n1, n), b))
    return min(high, upper + kappa * (high - low) / s)


SMALL = Grids(
    alpha=(0.01, 0.1, 0.5), freedman_fractions=(0.05, 0.3, 0.8, 0.99), sampling_bet_sizes=(0.02, 0.2, 0.7)
)


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("message_bits", [20, 4000, 60000])
@pytest.mark.parametrize("head", [False, True])
def test_freedman_is_the_recipe(window, message_bits, head):
    log2_q, entropies = language_tokens(np.random.default_rng(message_bits), 80 * window, VOCAB)
    shape = (80, window) if window > 1 else (80,)
    log2_q, entropies = log2_q.reshape(shape), entropies.reshape(shape)
    weights = {"alphas": np.clip(0.01 + entropies / 12, 0.01, 0.6), "alpha_range": (0.01, 0.6)}
    options = weights if head else {}
    m = 10**5 * window
    found = bounds.freedman_bpd(log2_q, entropies, VOCAB, message_bits, m, grids=SMALL, **options)
    expected = recipe(log2_q, entropies, message_bits, m, SMALL, **options)
    assert found.value == pytest.approx(expected, rel=1e-11)
    terms = found.complexity_terms_bits
    assert terms["freedman_fractions_grid"] == 2
    assert terms["alpha_grid"] == (0 if head else pytest.approx(math.log2(3)))


def test_z_is_inside_its_interval_although_entropies_lie_below_the_least_loss():
    """An entropy of q can be 0 where the least smoothed loss is not; the clip keeps every bet solvent."""
    rng = np.random.default_rng(3)
    for _ in range(200):
        smallest = 10 ** rng.uniform(-4, -0.01)
        alphas = rng.uniform(smallest, 1, 60)
        log2_q = rng.choice([0.0, -math.inf, -3.0, -40.0], 60)
        entropies = rng.choice([0.0, 1e-6, 5.0, math.log2(VOCAB)], (60, 1))
        sample = Bpd(log2_q, VOCAB, entropies, alphas, (smallest, 1.0)).sample(None)
        s = rng.uniform(1e-3, 0.9999)
        z = linear_form(search.EntropyCentre(), s, 0.0, sample, entropies)
        top = sample.low - sample.range * math.log1p(-s) / s
        assert z.min() >= sample.low - 1e-9 and z.max() <= top + 1e-9


def test_betting_is_below_on_average_at_the_operating_points_of_the_paper():
    """Every token seen, and with n = 10,000 draws through the same pilot and subsampling.

    The gap at n = infinity grows with kappa as e^g - 1 - g does.
    """
    gaps = {}
    for kappa, mean_entropy in POINTS.items():
        bits, m, seen, drawn = round(kappa * 10**12 / math.log(2)), 10**12, [], []
        for seed in range(2):
            rng = np.random.default_rng(seed)
            log2_q, entropies = language_tokens(rng, 10_000, VOCAB, mean_entropy)
            freedman = bounds.freedman_bpd(log2_q, entropies, VOCAB, bits, m).value
            drawn.append(freedman - bounds.betting_bpd(log2_q, VOCAB, bits, m, entropies=entropies).value)
            log2_q, entropies = log2_q[:4000], entropies[:4000]
            losses, grids = Bpd(log2_q, VOCAB, entropies), Grids()
            samples = [losses.sample(alpha) for alpha in grids.alpha]
            betting = min(
                search.centred_values(sample, losses.entropies, kappa, FRACTIONS, centre)[0].min()
                for sample in samples
                for centre in search.centres(grids, centred=True)
            )
            freedman = min(at_infinity(log2_q, entropies, alpha, kappa).min() for alpha in grids.alpha)
            seen.append(freedman - betting)
        assert np.mean(seen) > 0 and np.mean(drawn) > 0
        gaps[kappa] = np.mean(seen)
    assert list(gaps.values()) == sorted(gaps.values()) and gaps[0.0099] < 0.05 and 0.2 < gaps[0.165] < 0.6


def test_entropies_are_needed():
    with pytest.raises(InputError, match="entropies is None; expected the entropy of each prediction"):
        Freedman().bound(Bpd([-1.0, -2.0], 16), Claim(8, 1000))
    assert Freedman.can_bound == (Bpd,)
