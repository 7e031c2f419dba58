"""Bounds on the top-k error (docs/theory.md, sections 3 to 5)."""

import dataclasses
import math

import numpy as np

from tokenbounds.bounds import checks
from tokenbounds.bounds.azuma_bounds import azuma_certified_losses, azuma_losses
from tokenbounds.bounds.complexity import payments_bits, payments_nats, split_delta
from tokenbounds.bounds.grids import Grids
from tokenbounds.bounds.losses import random_guess_topk, topk_errors
from tokenbounds.bounds.result import assemble
from tokenbounds.bounds.subsampling import clopper_pearson_upper, pilot_size, sampled_mean_upper


def azuma_topk(ranks, k, vocab_size, message_bits, m, *, delta=0.05, extra_bits=0.0, numeric_slack_bits=0.0):
    """The paper's formula on the top-k error, from all draws. Parameters as for `betting_topk`; returns a `Bound`, never capped."""
    return _labelled(
        azuma_losses(
            topk_errors(ranks, k, vocab_size),
            0.0,
            1.0,
            message_bits,
            m,
            delta=delta,
            extra_bits=extra_bits,
            numeric_slack_bits=numeric_slack_bits,
        ),
        k,
        vocab_size,
    )


def azuma_certified_topk(ranks, k, vocab_size, message_bits, m, *, delta=0.05, extra_bits=0.0, numeric_slack_bits=0.0, candidates=1):
    """Azuma bound on the top-k error with our split of delta; nothing is chosen, so all draws count.

    Parameters as for `betting_topk`; returns a `Bound`.
    """
    return _labelled(
        azuma_certified_losses(
            topk_errors(ranks, k, vocab_size),
            0.0,
            1.0,
            message_bits,
            m,
            delta=delta,
            extra_bits=extra_bits,
            numeric_slack_bits=numeric_slack_bits,
            candidates=candidates,
        ),
        k,
        vocab_size,
    )


def betting_topk(ranks, k, vocab_size, message_bits, m, *, delta=0.05, grids=None, extra_bits=0.0, numeric_slack_bits=0.0, candidates=1):
    """Betting bound on the top-k error: ``min over a of (1 - e^(p ln(1 - a) - kappa)) / a`` at an upper limit p of the corpus error.

    Theorem A depends on 0-1 losses only through their mean p whatever a is, so a may be chosen after all draws; its grid is in kappa.
    For single tokens p is the exact Clopper-Pearson limit from all draws. For windows p is the recipe's limit for the mean of the
    windows' error fractions, its b chosen on the pilot.

    Parameters
    ----------
    ranks : array_like, (n,) or (n, S)
        Rank of each scored token, 0 to V - 1, ties counted against the model, in draw order; rows are windows of S tokens.
    k : int
        1 <= k <= V - 1.
    vocab_size : int
        V >= 2.
    message_bits, m, delta, grids, extra_bits, numeric_slack_bits, candidates
        As for `betting_losses`.

    Returns
    -------
    Bound

    Raises
    ------
    InputError
        As for `betting_losses`; also for a rank or k outside its range.
    """
    grids = grids or Grids()
    errors = topk_errors(ranks, k, vocab_size)
    n, draw_size = errors.shape
    m = checks.population(m, n, draw_size)
    delta1, delta2 = split_delta(delta, candidates)
    payments = payments_bits(message_bits, {"a": len(grids.a)}, extra_bits)
    kappa = (payments_nats(payments) - math.log(delta1)) / m
    if draw_size == 1:
        n_pilot, chosen = 0, {}
        upper = clopper_pearson_upper(int(errors.sum()), n, delta2)
    else:
        n_pilot, fractions = pilot_size(n), errors.mean(axis=1)
        upper, b = sampled_mean_upper(fractions[:n_pilot], fractions[n_pilot:], 0.0, 1.0, grids.b, delta2)
        chosen = {"b": b}
    risk = float(errors[n_pilot:].mean())
    upper = max(upper, risk)  # for delta above 1/2 an exact limit may lie below the estimate
    bets = np.asarray(grids.a)
    a = float(bets[np.argmin(_product_bound(upper, bets, kappa))])
    at_risk, at_upper = (float(_product_bound(p, a, kappa)) for p in (risk, upper))
    return assemble(
        low=0.0,
        high=1.0,
        empirical_risk=risk,
        complexity_term=at_risk - risk,
        subsample_term=at_upper - at_risk,
        slack_term=checks.real("numeric_slack_bits", numeric_slack_bits, 0),
        method="betting",
        theorem="A (product form)",
        metric=f"top{k}",
        random_guess=random_guess_topk(vocab_size, k),
        delta=float(delta),
        delta1=delta1,
        delta2=delta2,
        m=m,
        n=n,
        n_pilot=n_pilot,
        draw_size=draw_size,
        choices={"k": k, "a": a} | chosen,
        payments_bits=payments,
    )


def _product_bound(error, a, kappa):
    """Theorem A for 0-1 losses with mean `error`."""
    return -np.expm1(np.log1p(-a) * error - kappa) / a


def _labelled(bound, k, vocab_size):
    guess = random_guess_topk(vocab_size, k)
    return dataclasses.replace(bound, metric=f"top{k}", random_guess=guess, choices=bound.choices | {"k": k})
