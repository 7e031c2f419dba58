"""Certified bounds against a plain transcription of docs/theory.md, and the dependence of the choices."""

import dataclasses
import json
import math

import numpy as np
import pytest

from tokenbounds import bounds
from tokenbounds.bounds import Bpd, Grids, search
from tokenbounds.validation.processes import language_tokens

SMALL = Grids(
    alpha=(0.01, 0.1, 0.5),
    bet_sizes=(0.05, 0.3, 0.8, 0.99),
    centre_linear=(0.0, 0.5),
    centre_quadratic=(0.0, 0.06),
    centre_widths=(0.6, 1.0),
    sampling_bet_sizes=(0.02, 0.2, 0.7),
)
VOCAB = 1000


def records(n, window=1, seed=0):
    """log2 q, entropies and ranks of a synthetic model; (n,) or (n, S)."""
    rng = np.random.default_rng(seed)
    log2_q, entropies = language_tokens(rng, n * window, VOCAB)
    ranks = np.minimum(np.floor(2.0 ** np.minimum(-log2_q, 40)) - 1, VOCAB - 1)
    shape = (n, window) if window > 1 else (n,)
    return log2_q.reshape(shape), entropies.reshape(shape), ranks.reshape(shape)


def draws_upper(pilot, rest, low, high, b_grid, delta2):
    """Steps 2 and 3, one number at a time."""

    def limit(values, b):
        mean_log = sum(math.log(1 - b * (v - low) / (high - low)) for v in values) / len(values)
        return (1 - math.exp(mean_log - math.log(1 / delta2) / len(rest))) / b

    b = min(b_grid, key=lambda b: limit(pilot, b))
    return low + (high - low) * min(1.0, limit(rest, b))


def reference_betting(
    log2_q,
    entropies,
    message_bits,
    m,
    delta,
    grids,
    alphas=None,
    alpha_range=None,
    extra_bits=0.0,
    candidates=1,
):
    """Sections 4 and 5 in plain Python; rows of `log2_q` are windows."""
    log2_q, entropies = np.reshape(log2_q, (len(log2_q), -1)), np.reshape(entropies, (len(log2_q), -1))
    n, size = log2_q.shape
    n1 = math.ceil(n / 10)
    delta1, delta2 = 0.001 * delta, 0.999 * delta / candidates
    options = grids.alpha if alphas is None else [None]
    chosen = options, grids.bet_sizes, grids.centre_linear, grids.centre_quadratic, grids.centre_widths
    choices_bits = sum(math.log2(len(g)) for g in chosen) + extra_bits
    kappa = (
        math.log(2) * (message_bits + 2 * math.log2(message_bits) + choices_bits) + math.log(1 / delta1)
    ) / m

    def setup(alpha, beta1, beta2, width):
        smallest = alpha if alphas is None else alpha_range[0]
        low, high = -math.log2(1 - smallest + smallest / VOCAB), math.log2(VOCAB / smallest)
        w = width * (high - low)

        def token(i, s):
            weight = alpha if alphas is None else alphas[i][s]
            low_i, high_i = -math.log2(1 - weight + weight / VOCAB), math.log2(VOCAB / weight)
            x = -math.log2((1 - weight) * 2 ** log2_q[i, s] + weight / VOCAB)
            h = entropies[i, s]
            return min(max(low + beta1 * h + beta2 * h * h, max(low_i, high_i - w)), high_i), x

        return low, high, w, token

    best = None
    for alpha in options:
        for beta1 in grids.centre_linear:
            for beta2 in grids.centre_quadratic:
                for width in grids.centre_widths:
                    _, _, w, token = setup(alpha, beta1, beta2, width)
                    pairs = [token(i, s) for i in range(n1) for s in range(size)]
                    for a in grids.bet_sizes:
                        lam = a / w
                        g = sum(math.log(1 + lam * (c - x)) for c, x in pairs) / len(pairs) - kappa
                        value = sum(c for c, _ in pairs) / len(pairs) + (1 - math.exp(g)) / lam
                        if best is None or value < best[0]:
                            best = value, alpha, beta1, beta2, width, a, g
    _, alpha, beta1, beta2, width, a, g = best
    low, high, w, token = setup(alpha, beta1, beta2, width)
    lam, g0 = a / w, min(g, 0)

    def z(i):
        return (
            sum(
                c - math.exp(g0) * math.log(1 + lam * (c - x)) / lam
                for c, x in (token(i, s) for s in range(size))
            )
            / size
        )

    z_high = max(high, high - w - math.exp(g0) * math.log(1 - a) / lam)
    mean = draws_upper(
        [z(i) for i in range(n1)], [z(i) for i in range(n1, n)], low, z_high, grids.sampling_bet_sizes, delta2
    )
    return min(high, mean + (1 - math.exp(g0) * (1 - kappa - g0)) / lam)


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("message_bits", [20, 4000, 60000])
def test_betting_is_the_recipe(window, message_bits):
    log2_q, entropies, _ = records(80, window, seed=message_bits)
    found = bounds.betting_bpd(
        log2_q,
        VOCAB,
        message_bits,
        10**5 * window,
        entropies=entropies,
        grids=SMALL,
        extra_bits=2.5,
        candidates=3,
    )
    expected = reference_betting(
        log2_q, entropies, message_bits, 10**5 * window, 0.05, SMALL, extra_bits=2.5, candidates=3
    )
    assert found.value == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("window", [1, 3])
def test_betting_with_a_head_is_the_recipe(window):
    log2_q, entropies, _ = records(80, window, seed=5)
    alphas = np.clip(0.01 + entropies / 12, 0.01, 0.6)
    options = {"alphas": alphas, "alpha_range": (0.01, 0.6)}
    found = bounds.betting_bpd(
        log2_q, VOCAB, 500, 9999, entropies=entropies, grids=SMALL, delta=0.1, **options
    )
    options["alphas"] = alphas.reshape(80, -1)
    assert found.value == pytest.approx(
        reference_betting(log2_q, entropies, 500, 9999, 0.1, SMALL, **options), rel=1e-11
    )


def test_without_entropies_the_bound_is_theorem_a():
    """beta = 0 and w = D: as centring with one trivial centre, and no complexity term for it."""
    log2_q, entropies, _ = records(200)
    plain = Grids(
        alpha=SMALL.alpha,
        bet_sizes=SMALL.bet_sizes,
        centre_linear=(0.0,),
        centre_quadratic=(0.0,),
        centre_widths=(1.0,),
        sampling_bet_sizes=SMALL.sampling_bet_sizes,
    )
    without = bounds.betting_bpd(log2_q, VOCAB, 100, 10**4, grids=plain)
    centred = bounds.betting_bpd(log2_q, VOCAB, 100, 10**4, grids=plain, entropies=entropies)
    assert without.value == pytest.approx(centred.value, rel=1e-14)
    assert set(without.complexity_terms_bits) == {
        "message",
        "prefix",
        "alpha_grid",
        "bet_sizes_grid",
        "extra",
    }
    losses = bounds.smoothed_losses(log2_q, 0.1, VOCAB)
    low, high = bounds.bpd_interval(0.1, VOCAB)
    a, kappa = np.array([0.2, 0.9]), 0.03
    values, _ = search.centred_values(Bpd(log2_q, VOCAB).sample(0.1), None, kappa, a, search.NO_CENTRE)
    y = (losses - low) / (high - low)
    theorem_a = [low + (high - low) * (1 - math.exp(np.mean(np.log(1 - x * y)) - kappa)) / x for x in a]
    assert values == pytest.approx(theorem_a, rel=1e-12)


def test_rigorous_azuma_is_its_formula():
    log2_q, entropies, _ = records(150, seed=8)
    alphas = np.clip(0.01 + entropies / 12, 0.01, 0.6)
    found = bounds.azuma_rigorous_bpd(
        log2_q, VOCAB, 300, 10**5, alphas=alphas, alpha_range=(0.01, 0.6), grids=SMALL
    )
    kappa = (math.log(2) * (300 + 2 * math.log2(300) + 7) - math.log(5e-5)) / 10**5
    low, high = -math.log2(1 - 0.01 + 0.01 / VOCAB), math.log2(VOCAB / 0.01)
    losses = -np.log2((1 - alphas) * 2.0**log2_q + alphas / VOCAB)
    squares = np.log2(1 + (1 - alphas) * VOCAB / alphas) ** 2
    best = None
    for j in range(-96, 32):
        lam = 2 ** (j / 4)
        t = losses + lam * squares / 8
        value = t[:15].mean() + kappa / lam
        if best is None or value < best[0]:
            best = value, lam, t
    _, lam, t = best
    expected = (
        draws_upper(
            t[:15], t[15:], low, high + lam * (high - low) ** 2 / 8, SMALL.sampling_bet_sizes, 0.05 * 0.999
        )
        + kappa / lam
    )
    assert found.value == pytest.approx(min(high, expected), rel=1e-11)
    assert found.choices["lambda"] == pytest.approx(lam, rel=1e-12)


def test_rigorous_azuma_pays_for_the_weight_it_chooses():
    found = bounds.azuma_rigorous_bpd(records(100)[0], VOCAB, 300, 10**5)
    terms = found.complexity_terms_bits
    assert terms["alpha_grid"] == 3 and terms["lambda_grid"] == 7


def test_certified_azuma_chooses_on_the_pilot_and_estimates_on_the_rest():
    log2_q, _, _ = records(300, seed=3)
    found = bounds.azuma_certified_bpd(log2_q, VOCAB, 300, 10**5, grids=SMALL)
    kappa = (bounds.complexity_nats(300, math.log2(3) + 7) - math.log(5e-5)) / 10**5
    values = {}
    for alpha in SMALL.alpha:
        x = bounds.smoothed_losses(log2_q, alpha, VOCAB)
        low, high = bounds.bpd_interval(alpha, VOCAB)
        lambdas = [2 ** (j / 4) for j in range(-96, 32)]
        corpus = min(lam * (high - low) ** 2 / 8 + kappa / lam for lam in lambdas)
        extra = corpus + (high - low) * math.sqrt(-math.log(0.05 * 0.999) / (2 * 270))
        values[alpha] = x[:30].mean() + extra, x[30:].mean() + extra
    assert found.value == pytest.approx(min(values.values())[1], rel=1e-12)


def test_topk_tokens_use_the_exact_limit_on_all_draws():
    _, _, ranks = records(400, seed=2)
    found = bounds.betting_topk(ranks, 10, VOCAB, 3000, 10**5, candidates=4)
    errors = int((ranks >= 10).sum())
    p = bounds.clopper_pearson_upper(errors, 400, 0.05 * 0.999 / 4)
    kappa = (bounds.complexity_nats(3000, 6) - math.log(5e-5)) / 10**5
    assert found.value == pytest.approx(
        min((1 - math.exp(math.log(1 - a) * p - kappa)) / a for a in Grids().bet_sizes), rel=1e-10
    )
    assert found.n_pilot == 0 and found.empirical_risk == errors / 400


def test_topk_windows_average_the_logs_of_tokens_not_the_log_of_their_average():
    _, _, ranks = records(300, 8, seed=2)
    found = bounds.betting_topk(ranks, 10, VOCAB, 30000, 10**5 * 8)
    fractions = (ranks >= 10).mean(axis=1)
    p = draws_upper(fractions[:30], fractions[30:], 0.0, 1.0, Grids().sampling_bet_sizes, 0.05 * 0.999)
    kappa = (bounds.complexity_nats(30000, 6) - math.log(5e-5)) / (8 * 10**5)
    assert found.value == pytest.approx(
        min((1 - math.exp(math.log(1 - a) * p - kappa)) / a for a in Grids().bet_sizes), rel=1e-10
    )
    errors = bounds.topk_errors(ranks, 10, VOCAB)
    general = bounds.betting_losses(errors, 0, 1, 30000, 10**5 * 8)
    assert found.value <= general.value + 1e-12  # Theorem C's linear form of the same bound loses a little
    assert found.value == pytest.approx(general.value, rel=0.02)


def test_the_number_is_the_record():
    rng = np.random.default_rng(1)
    losses, features = rng.beta(0.5, 2, 400), rng.random(400)
    record = bounds.betting_losses(losses, 0, 1, 64, 5000, entropies=features)
    number = bounds.betting(losses, 0, 1, bounds.complexity_nats(64), 5000, entropies=features)
    assert number == pytest.approx(record.value, rel=1e-14)
    assert record.theorem.startswith("C")


@pytest.mark.parametrize(
    "method", [bounds.betting_bpd, bounds.azuma_rigorous_bpd, bounds.azuma_certified_bpd]
)
def test_choices_come_from_the_pilot_and_the_estimate_from_the_rest(method):
    """The rest must not move a choice, the pilot must not move the estimate: one does without the split."""
    log2_q, _, _ = records(1000, seed=4)
    other = -np.random.default_rng(9).exponential(8.0, 1000)
    found = method(log2_q, VOCAB, 1000, 10**6)
    new_rest = method(np.concatenate([log2_q[:100], other[100:]]), VOCAB, 1000, 10**6)
    assert new_rest.choices == found.choices and new_rest.value != found.value
    fixed = dataclasses.replace(
        Grids(), alpha=(0.1,), bet_sizes=(0.5,), sampling_bet_sizes=(0.3,), lambda_exponents=(-8,)
    )
    if method is bounds.azuma_certified_bpd:
        fixed = dataclasses.replace(fixed, alpha=(0.1, 0.1))  # one value would need no pilot
    worse = np.concatenate([log2_q[:100] / 1.001, log2_q[100:]])
    before, after = (method(q, VOCAB, 1000, 10**6, grids=fixed) for q in (log2_q, worse))
    assert before.empirical_risk == after.empirical_risk
    assert after.value == pytest.approx(before.value, rel=1e-5)  # g0 alone may move, and only at second order
    assert found.n_pilot == 100


def test_every_complexity_term_raises_the_bound(monkeypatch):
    """Each item of L reaches the value; a bound that forgets one is smaller."""
    log2_q, entropies, ranks = records(500, seed=6)
    grids = dataclasses.replace(SMALL, alpha=(0.1, 0.1))
    entries = [
        lambda: bounds.betting_bpd(log2_q, VOCAB, 20, 500, entropies=entropies, grids=grids, extra_bits=2.0),
        lambda: bounds.azuma_certified_bpd(log2_q, VOCAB, 20, 500, grids=grids, extra_bits=2.0),
        lambda: bounds.azuma_rigorous_bpd(log2_q, VOCAB, 20, 500, grids=grids, extra_bits=2.0),
        lambda: bounds.freedman_bpd(log2_q, entropies, VOCAB, 20, 500, grids=grids, extra_bits=2.0),
        lambda: bounds.azuma_certified_topk(ranks, 5, VOCAB, 20, 500, grids=grids, extra_bits=2.0),
        lambda: bounds.betting_topk(ranks, 5, VOCAB, 20, 500, grids=grids, extra_bits=2.0),
    ]
    for entry in entries:
        full = entry()
        for name, bits in full.complexity_terms_bits.items():
            assert bits > 0
            with monkeypatch.context() as patch:
                patch.setattr(
                    "tokenbounds.bounds.interface.total_nats",
                    lambda terms, name=name: bounds.total_nats({k: v for k, v in terms.items() if k != name}),
                )
                assert entry().value < full.value, name


def test_repeated_grid_values_cost_their_bits():
    """A grid twice as long with the same values gives the same choices at one more bit."""
    losses = np.random.default_rng(0).beta(0.5, 2, 300)
    once = bounds.betting_losses(losses, 0, 1, 64, 1000, grids=Grids(bet_sizes=(0.5,)))
    twice = bounds.betting_losses(losses, 0, 1, 64, 1000, grids=Grids(bet_sizes=(0.5, 0.5)))
    extra = bounds.betting_losses(losses, 0, 1, 64, 1000, grids=Grids(bet_sizes=(0.5,)), extra_bits=1.0)
    assert once.value < twice.value == pytest.approx(extra.value, rel=1e-14)


def test_terms_add_up_and_the_record_is_json():
    log2_q, entropies, ranks = records(300)
    for found in [
        bounds.betting_bpd(log2_q, VOCAB, 100, 10**4, entropies=entropies, epsilon_nats=0.01),
        bounds.freedman_bpd(log2_q, entropies, VOCAB, 100, 10**4),
        bounds.azuma_bpd(log2_q, VOCAB, 100, 10**4),
        bounds.azuma_certified_bpd(log2_q, VOCAB, 100, 10**4),
        bounds.azuma_rigorous_bpd(log2_q, VOCAB, 100, 10**4),
        bounds.betting_topk(ranks, 5, VOCAB, 100, 10**4),
        bounds.azuma_topk(ranks, 5, VOCAB, 100, 10**4),
        bounds.azuma_certified_topk(ranks, 5, VOCAB, 100, 10**4),
        bounds.betting_losses(ranks / VOCAB, 0, 1, 100, 10**4),
    ]:
        assert not found.capped
        terms = found.complexity_term, found.subsample_term
        assert found.value == pytest.approx(found.empirical_risk + sum(terms)) and min(terms) >= 0
        assert json.loads(json.dumps(found.as_dict(), allow_nan=False)) == found.as_dict()


def test_a_hopeless_bound_is_the_largest_loss():
    log2_q, entropies, ranks = records(300)
    found = bounds.betting_bpd(log2_q, VOCAB, 10**9, 10**4, entropies=entropies)
    assert found.capped and found.vacuous and found.value == found.high
    assert bounds.betting_topk(ranks, 5, VOCAB, 10**9, 10**4).value == 1.0


def test_alpha_one_makes_every_loss_log2_v():
    log2_q, entropies, _ = records(50)
    only = Grids(alpha=(1.0,))
    for found in [
        bounds.betting_bpd(log2_q, VOCAB, 100, 10**4, entropies=entropies, grids=only),
        bounds.azuma_rigorous_bpd(log2_q, VOCAB, 100, 10**4, grids=only),
        bounds.freedman_bpd(log2_q, entropies, VOCAB, 100, 10**4, grids=only),
        bounds.azuma_certified_bpd(log2_q, VOCAB, 100, 10**4, grids=only),
        bounds.azuma_bpd(log2_q, VOCAB, 100, 10**4, grids=only),
    ]:
        assert found.value == pytest.approx(math.log2(VOCAB), rel=1e-14) and found.vacuous


def test_large_pilots_are_searched_as_well_as_small_ones(monkeypatch):
    """The coarse search of a large pilot loses next to nothing against the whole grid."""
    log2_q, entropies, _ = records(2000, 32, seed=11)
    quick = bounds.betting_bpd(log2_q, VOCAB, 10**5, 32 * 10**5, entropies=entropies)
    monkeypatch.setattr(search, "COARSE_VALUES", 10**9)
    exact = bounds.betting_bpd(log2_q, VOCAB, 10**5, 32 * 10**5, entropies=entropies)
    assert quick.value == pytest.approx(exact.value, abs=0.005)


def test_linear_form_is_inside_its_interval_for_every_weight_and_centre():
    """Z lies in [low, z_high] for all c in the clip and all losses; every bet stays solvent."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        smallest = 10 ** rng.uniform(-4, -0.01)
        alphas = rng.uniform(smallest, 1, 60)
        alphas[:2] = smallest, 1.0
        log2_q = rng.choice([0.0, -math.inf, -3.0, -40.0], 60)
        family = Bpd(log2_q, VOCAB, None, alphas, (smallest, 1.0)).sample(None)
        centre = search.Centre(rng.uniform(0, 2), rng.uniform(0, 0.1), rng.uniform(0.05, 1))
        a, g0 = rng.uniform(1e-3, 0.9999), -rng.exponential(0.3)
        width = centre.width * family.range
        c = centre.at(family, rng.uniform(0, 12, (60, 1)))
        assert (a / width * (family.highs - c) <= a * (1 + 1e-12)).all() and (c >= family.lows - 1e-12).all()
        z = c - math.exp(g0) * np.log1p(a / width * (c - family.values)) * width / a
        z_high = max(family.high, family.high - width - math.exp(g0) * math.log1p(-a) * width / a)
        assert z.min() >= family.low - 1e-9 and z.max() <= z_high + 1e-9


def test_no_torch():
    import subprocess
    import sys

    code = (
        "import sys, tokenbounds.bounds, tokenbounds.validation.processes; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
