"""Azuma bounds on losses and bits per token: the paper's formula, its certified form, and one for varying intervals (docs/theory.md, 3)."""

import math

import numpy as np

from tokenbounds.bounds import checks
from tokenbounds.bounds.complexity import payments_bits, payments_nats, split_delta, split_delta_paper
from tokenbounds.bounds.grids import Grids
from tokenbounds.bounds.losses import BoundedRecords, BpdRecords
from tokenbounds.bounds.result import assemble
from tokenbounds.bounds.subsampling import pilot_size, sampled_mean_upper


def azuma(empirical_risk, interval, complexity_nats, m, n, delta=0.05):
    """The paper's bound (Theorem 1 with subsampling, equations 2 and 5) as a number.

    ``risk + interval sqrt((L + ln 1/delta1) / 2m) + interval sqrt(ln(1/delta2) / 2n)``, delta split as in appendix A.2. For an interval
    that is the rms of varying ones this is a formula, not a theorem: see `azuma_rigorous_bpd`.

    Parameters
    ----------
    empirical_risk : float
        Mean loss of the n draws.
    interval : float
        Length of the loss interval, >= 0.
    complexity_nats : float
        L >= 0.
    m, n : int
        Tokens in the corpus, and draws.
    delta : float
        Failure probability in (0, 1).

    Returns
    -------
    float
    """
    m, n = checks.integer("m", m, 1), checks.integer("n", n, 1)
    checks.population(m, n, 1)
    return checks.real("empirical_risk", empirical_risk) + math.fsum(
        azuma_terms(
            checks.real("interval", interval, 0), checks.real("complexity_nats", complexity_nats, 0), m, n, *split_delta_paper(delta, m, n)
        )
    )


def azuma_terms(interval, complexity_nats, m, n, delta1, delta2):
    """(complexity term, subsample term) of the Azuma bound for n draws, in the unit of `interval`."""
    complexity_term = interval * math.sqrt((complexity_nats - math.log(delta1)) / (2 * m))
    return complexity_term, interval * math.sqrt(-math.log(delta2) / (2 * n))


def azuma_losses(losses, low, high, message_bits, m, *, delta=0.05, extra_bits=0.0, numeric_slack_bits=0.0):
    """The paper's formula on arbitrary losses in [low, high], such as one mean loss per document; parameters as for `betting_losses`.

    Nothing is chosen and the interval is constant, so this is a certificate for a fixed m. Returns a `Bound`; never capped.
    """
    return _formula(BoundedRecords.checked(losses, low, high), message_bits, m, delta, extra_bits, numeric_slack_bits)


def azuma_certified_losses(losses, low, high, message_bits, m, *, delta=0.05, extra_bits=0.0, numeric_slack_bits=0.0, candidates=1):
    """Azuma bound on arbitrary losses in [low, high] with our split of delta, from all draws; parameters as for `betting_losses`.

    Nothing is chosen on the draws, so no pilot is set aside. Returns a `Bound`.
    """
    return _certified(BoundedRecords.checked(losses, low, high), message_bits, m, delta, extra_bits, numeric_slack_bits, candidates)


def azuma_bpd(
    log2_q, vocab_size, message_bits, m, *, delta=0.05, grids=None, alphas=None, alpha_range=None, extra_bits=0.0, numeric_slack_bits=0.0
):
    """The paper's formula on bits per token: the best constant weight of ``grids.alpha`` on all draws, or a head with its rms interval.

    It reproduces the paper's numbers and is not a certificate: the weight is chosen on the draws that estimate the risk, and with a head
    the statement is false in general (docs/theory.md, section 3). Never capped. Parameters as for `betting_bpd`.

    Returns
    -------
    Bound
    """
    records = BpdRecords.checked(log2_q, vocab_size, (grids or Grids()).alpha, alphas, alpha_range)
    return _formula(records, message_bits, m, delta, extra_bits, numeric_slack_bits)


def azuma_certified_bpd(
    log2_q, vocab_size, message_bits, m, *, delta=0.05, grids=None, extra_bits=0.0, numeric_slack_bits=0.0, candidates=1
):
    """Azuma bound on bits per token with a constant weight chosen on the pilot and the other draws as the estimate.

    Parameters as for `betting_bpd`. Valid because the interval is constant; delta1 = .001 delta, delta2 = .999 delta.

    Returns
    -------
    Bound
    """
    records = BpdRecords.checked(log2_q, vocab_size, (grids or Grids()).alpha)
    return _certified(records, message_bits, m, delta, extra_bits, numeric_slack_bits, candidates)


def azuma_rigorous_bpd(
    log2_q,
    vocab_size,
    message_bits,
    m,
    *,
    delta=0.05,
    grids=None,
    alphas=None,
    alpha_range=None,
    extra_bits=0.0,
    numeric_slack_bits=0.0,
    candidates=1,
):
    """Azuma bound on bits per token that stays true when the smoothing, and with it the interval, varies with the context.

    For a fixed lambda ``exp(lambda sum(M - X) - lambda^2 sum(Delta^2) / 8)`` is a supermartingale, so ``M <= mean T + kappa / lambda``
    with ``T = X + lambda Delta^2 / 8``; lambda is chosen on the pilot from ``2^(j/2) sqrt(8 kappa) / Delta(alpha_min)``. These depend on
    kappa, hence on m, so m is taken as fixed. Parameters as for `betting_bpd`.

    Returns
    -------
    Bound
    """
    grids = grids or Grids()
    records = BpdRecords.checked(log2_q, vocab_size, grids.alpha, alphas, alpha_range)
    sizes = {"alpha": len(records.options), "lambda": len(grids.lambda_exponents)}
    payments = payments_bits(message_bits, sizes, extra_bits)
    delta1, delta2 = split_delta(delta, candidates)
    n, draw_size = records.shape
    m = checks.population(m, n, draw_size)
    kappa = (payments_nats(payments) - math.log(delta1)) / m
    pilot, rest = slice(None, pilot_size(n)), slice(pilot_size(n), None)
    option, multiplier = _best_multiplier(records, pilot, kappa, grids.lambda_exponents)
    estimate = records.losses(option, rest)
    low, high, risk = estimate.low, estimate.high, float(estimate.values.mean())
    terms = {"complexity_term": 0.0, "subsample_term": 0.0, "choices": records.choices(option)}
    if not estimate.trivial:  # else alpha = 1: every loss is log2 V
        t_pilot, t_rest = (_penalised(records.losses(option, part), multiplier) for part in (pilot, rest))
        t_high = high + multiplier * estimate.range**2 / 8
        t_upper, b = sampled_mean_upper(t_pilot, t_rest, low, t_high, grids.b, delta2)
        t_mean = float(t_rest.mean())
        terms = {
            "complexity_term": t_mean - risk + kappa / multiplier,
            "subsample_term": t_upper - t_mean,
            "choices": records.choices(option) | {"lambda": multiplier, "b": b},
        }
    return assemble(
        low=low,
        high=high,
        empirical_risk=risk,
        **terms,
        theorem="supermartingale for varying intervals",
        **_common("azuma_rigorous", records, m, numeric_slack_bits, delta, delta1, delta2, payments, n_pilot=pilot_size(n)),
    )


def _penalised(losses, multiplier):
    """T averaged over each draw, (n,)."""
    return (losses.values + multiplier * (losses.highs - losses.lows) ** 2 / 8).mean(axis=1)


def _best_multiplier(records, pilot, kappa, exponents):
    """(option, lambda) with the least mean T + kappa / lambda on the pilot."""
    candidates = []
    for option in records.options:
        losses = records.losses(option, pilot)
        if losses.trivial:
            candidates.append((losses.high, option, None))
            continue
        risk, square = float(losses.values.mean()), float(np.mean((losses.highs - losses.lows) ** 2))
        for j in exponents:
            multiplier = 2 ** (j / 2) * math.sqrt(8 * kappa) / losses.range
            candidates.append((risk + multiplier * square / 8 + kappa / multiplier, option, multiplier))
    return min(candidates, key=lambda candidate: candidate[0])[1:]


def _formula(records, message_bits, m, delta, extra_bits, slack):
    n, draw_size = records.shape
    m = checks.population(m, n, draw_size)
    delta1, delta2 = split_delta_paper(delta, m, n)
    payments = payments_bits(message_bits, _alpha_grid(records), extra_bits)

    def bound(option):
        losses = records.losses(option, slice(None))
        rms = math.sqrt(float(np.mean((losses.highs - losses.lows) ** 2)))
        complexity_term, subsample_term = azuma_terms(rms, payments_nats(payments), m, n, delta1, delta2)
        return assemble(
            low=losses.low,
            high=losses.high,
            empirical_risk=losses.values.mean(),
            complexity_term=complexity_term,
            subsample_term=subsample_term,
            choices=records.choices(option) | {"interval": rms},
            capped=False,
            theorem="Theorem 1 of the paper (formula)",
            **_common("azuma", records, m, slack, delta, delta1, delta2, payments),
        )

    return min(map(bound, records.options), key=lambda found: found.value)


def _certified(records, message_bits, m, delta, extra_bits, slack, candidates):
    n, draw_size = records.shape
    m = checks.population(m, n, draw_size)
    delta1, delta2 = split_delta(delta, candidates)
    payments = payments_bits(message_bits, _alpha_grid(records), extra_bits)
    n_pilot = 0 if len(records.options) == 1 else pilot_size(n)
    pilot, rest = slice(None, n_pilot), slice(n_pilot, None)

    def terms(losses):
        return azuma_terms(losses.range, payments_nats(payments), m, n - n_pilot, delta1, delta2)

    def predicted(option):
        losses = records.losses(option, pilot)
        return float(losses.values.mean()) + math.fsum(terms(losses))

    option = min(records.options, key=predicted) if n_pilot else records.options[0]
    losses = records.losses(option, rest)
    complexity_term, subsample_term = terms(losses)
    return assemble(
        low=losses.low,
        high=losses.high,
        empirical_risk=losses.values.mean(),
        complexity_term=complexity_term,
        subsample_term=subsample_term,
        choices=records.choices(option) | {"interval": losses.range},
        theorem="Theorem 1 of the paper, constant interval",
        **_common("azuma_certified", records, m, slack, delta, delta1, delta2, payments, n_pilot=n_pilot),
    )


def _alpha_grid(records):
    return {"alpha": len(records.options)} if records.metric == "bpd" else {}


def _common(method, records, m, slack, delta, delta1, delta2, payments, n_pilot=0):
    n, draw_size = records.shape
    return {
        "method": method,
        "metric": records.metric,
        "random_guess": records.random_guess,
        "slack_term": checks.real("numeric_slack_bits", slack, 0),
        "delta": float(delta),
        "delta1": delta1,
        "delta2": delta2,
        "m": m,
        "n": n,
        "n_pilot": n_pilot,
        "draw_size": draw_size,
        "payments_bits": payments,
    }
