"""The betting bound: a nonnegative martingale in product form, centred by the model's entropy (docs/theory.md, sections 4 and 5)."""

import math

import numpy as np

from tokenbounds.bounds import checks, search
from tokenbounds.bounds.complexity import grid_payments, payments_bits, payments_nats, split_delta
from tokenbounds.bounds.grids import Grids
from tokenbounds.bounds.losses import BoundedRecords, BpdRecords
from tokenbounds.bounds.result import assemble
from tokenbounds.bounds.subsampling import pilot_size, sampled_mean_upper


def betting(losses, low, high, complexity_nats, m, delta=0.05, *, entropies=None, grids=None):
    """Upper bound on the mean conditional expectation of bounded losses, as a number; see `betting_losses` for the full record.

    Parameters
    ----------
    losses : array_like, (n,) or (n, S)
        Losses of the draws, in draw order, in [low, high].
    low, high : float
        Interval of every loss of the corpus, low < high.
    complexity_nats : float
        L of the hypothesis, >= 0. The grids used here are paid for inside and are not part of it.
    m : int
        Tokens (or data points) drawn from; at least those drawn, and a multiple of S for windows.
    delta : float
        Failure probability in (0, 1).
    entropies : array_like, optional
        Any function of the context beside each loss, >= 0, to centre the bets; None for no centring.
    grids : Grids, optional
        Declared values of the free parameters.

    Returns
    -------
    float
        Holds with probability at least 1 - delta; at most `high`.
    """
    grids = grids or Grids()
    records = BoundedRecords.checked(losses, low, high)
    entropies = checks.entropies(entropies, "losses", records.values, math.inf)
    m = checks.population(m, *records.shape)
    delta1, delta2 = split_delta(delta)
    paid = payments_nats(grid_payments(_grid_sizes(records, entropies, grids)))
    log_price = checks.real("complexity_nats", complexity_nats, 0) + paid - math.log(delta1)
    terms = _bet(records, entropies, log_price / m, delta2, grids)
    return min(records.high, math.fsum(terms[key] for key in ("empirical_risk", "complexity_term", "subsample_term")))


def betting_losses(
    losses, low, high, message_bits, m, *, entropies=None, delta=0.05, grids=None, extra_bits=0.0, numeric_slack_bits=0.0, candidates=1
):
    """Betting bound on arbitrary losses in [low, high], for instance the mean loss of each document.

    For documents (docs/theory.md, section 6) `losses` holds one mean loss per drawn document and `m` is the number of documents. If the
    smoothing of those losses was picked from a list on the same draws, add the log2 of its length to `extra_bits` and multiply
    `candidates` by it.

    Parameters
    ----------
    losses, low, high, m, delta, entropies, grids
        As for `betting`.
    message_bits : int
        C, whole bits of the message, >= 2.
    extra_bits : float or dict of str to float
        Choices made after seeing the data that are not in the message and not in `grids`, in bits.
    numeric_slack_bits : float
        Added to the value, in the unit of the losses; see `numeric_slack_bits`.
    candidates : int
        Number N of results among which this one may be picked after seeing the draws; the draws' share of delta becomes delta2 / N.
        To claim several metrics at once, pass ``delta / number`` instead.

    Returns
    -------
    Bound

    Raises
    ------
    InputError
        If C is fractional or < 2, m smaller than what was drawn, a loss is NaN or outside [low, high], there are fewer than two draws, or
        any other parameter is outside its range.
    """
    grids = grids or Grids()
    records = BoundedRecords.checked(losses, low, high)
    entropies = checks.entropies(entropies, "losses", records.values, math.inf)
    return _certify(records, entropies, message_bits, m, delta, grids, extra_bits, numeric_slack_bits, candidates)


def betting_bpd(
    log2_q,
    vocab_size,
    message_bits,
    m,
    *,
    entropies=None,
    delta=0.05,
    grids=None,
    alphas=None,
    alpha_range=None,
    extra_bits=0.0,
    numeric_slack_bits=0.0,
    candidates=1,
):
    """Betting bound on bits per token (docs/theory.md, sections 4 and 5): Theorem C, chosen on a pilot, evaluated on the other draws.

    Parameters
    ----------
    log2_q : array_like, (n,) or (n, S)
        log2 of the model's probability of each scored token, <= 0 (up to 1e-9 of rounding), in draw order; rows are windows of S tokens.
    vocab_size : int
        V >= 2.
    message_bits, m, delta, grids, extra_bits, numeric_slack_bits, candidates
        As for `betting_losses`; for windows m is ``S floor(M / S)`` of a corpus of M tokens.
    entropies : array_like, like log2_q, optional
        Entropy of q given each context, in bits, in [0, log2 V]; centres the bets. None: no centring, and nothing is paid for it.
    alphas : array_like, like log2_q, optional
        Weights of a smoothing head at each token; None chooses one constant weight from ``grids.alpha``.
    alpha_range : (float, float), optional
        Declared clip of the head, required with `alphas`: every weight lies in it.

    Returns
    -------
    Bound

    Raises
    ------
    InputError
        As for `betting_losses`; also for log2_q > 0, entropies or weights outside their range, and shapes that differ.
    """
    grids = grids or Grids()
    records = BpdRecords.checked(log2_q, vocab_size, grids.alpha, alphas, alpha_range)
    entropies = checks.entropies(entropies, "log2_q", records.log2_q, records.random_guess)
    return _certify(records, entropies, message_bits, m, delta, grids, extra_bits, numeric_slack_bits, candidates)


def _grid_sizes(records, entropies, grids):
    sizes = {"alpha": len(records.options)} if records.metric == "bpd" else {}
    sizes["a"] = len(grids.a)
    if entropies is not None:
        sizes |= {"beta1": len(grids.beta1), "beta2": len(grids.beta2), "width": len(grids.width)}
    return sizes


def _certify(records, entropies, message_bits, m, delta, grids, extra_bits, slack, candidates):
    n, draw_size = records.shape
    m = checks.population(m, n, draw_size)
    delta1, delta2 = split_delta(delta, candidates)
    payments = payments_bits(message_bits, _grid_sizes(records, entropies, grids), extra_bits)
    terms = _bet(records, entropies, (payments_nats(payments) - math.log(delta1)) / m, delta2, grids)
    return assemble(
        **terms,
        slack_term=checks.real("numeric_slack_bits", slack, 0),
        method="betting",
        theorem="A (product form)" if entropies is None else "C (centred product form)",
        metric=records.metric,
        random_guess=records.random_guess,
        delta=float(delta),
        delta1=delta1,
        delta2=delta2,
        m=m,
        n=n,
        n_pilot=pilot_size(n),
        draw_size=draw_size,
        payments_bits=payments,
    )


def _bet(records, entropies, kappa, delta2, grids):
    """Terms of the bound and the choices behind them: the four steps of section 5."""
    n = records.shape[0]
    n_pilot = pilot_size(n)
    parts = slice(None, n_pilot), slice(n_pilot, None)
    forms = search.forms(grids, centred=entropies is not None)
    option, a, form, pilot_g = search.best(records, entropies, parts[0], kappa, np.asarray(grids.a), forms)
    pilot, rest = (records.losses(option, part) for part in parts)
    low, high = pilot.low, pilot.high
    risk = float(rest.values.mean())
    if pilot.trivial:  # alpha = 1: every loss is log2 V
        return {"low": low, "high": high, "choices": records.choices(option), "empirical_risk": high} | _NO_TERMS
    width = form[2] * pilot.range
    g0 = min(pilot_g, 0.0)

    def linear_form(losses, part):
        """Z, averaged over each draw: (n,)."""
        c = search.centre(losses, None if entropies is None else entropies[part], *form)
        return (c - math.exp(g0) * np.log1p(a / width * (c - losses.values)) * (width / a)).mean(axis=1)

    z_high = max(high, high - width - math.exp(g0) * math.log1p(-a) * width / a)
    z_pilot, z_rest = (linear_form(losses, part) for losses, part in zip((pilot, rest), parts, strict=True))
    z_upper, b = sampled_mean_upper(z_pilot, z_rest, low, z_high, grids.b, delta2)
    # [1 - e^g0 (1 - kappa - g0)] / lambda, written so that small g0 and kappa keep their digits
    constant = (math.exp(g0) * (kappa + g0) - math.expm1(g0)) * width / a
    z_mean = float(z_rest.mean())
    chosen = {"a": a, "lambda": a / width, "beta1": form[0], "beta2": form[1], "width": form[2], "g0": g0, "b": b}
    return {
        "low": low,
        "high": high,
        "choices": records.choices(option) | chosen,
        "empirical_risk": risk,
        "complexity_term": z_mean + constant - risk,
        "subsample_term": z_upper - z_mean,
    }


_NO_TERMS = {"complexity_term": 0.0, "subsample_term": 0.0}
