"""Coverage when many certificates are computed and one is reported (docs/theory.md, 10).

All losses are top-1 errors. A bound then depends on its draws only through the errors among the pilot's and
among all of them, so it is computed once for each pair of counts, by the methods that the pipeline uses.

Draws are *shared* where all models are scored at the same positions, as one seed for all models gives, and
*derived* where every message has its own. Derived draws are modelled as fresh independent ones: that is what
the hash as a random oracle means.
"""

import functools
from typing import NamedTuple

import numpy as np

from tokenbounds.bounds import Bounded, Claim, TopK, pilot_size
from tokenbounds.bounds.complexity import attempts_share
from tokenbounds.validation.coverage_common import (
    BETTING,
    GRIDS,
    LARGE_M,
    MESSAGE_BITS,
    ROUNDING,
)

DRAWS, ATTEMPTS = 500, 50
SHOWN = (1, 2, 5, 10, 20, 50)  # numbers of attempts in the table and the figure
ERROR = 0.3  # of the first message
CHANGED = 0.1  # share of the tokens for which a change of the tuner gives another prediction
SPREAD = 0.1  # by how much the error of the changed tokens may differ from the error so far
VARIANT = 0.5  # share of the tokens for which a variant predicts otherwise than the model behind all
PILOT = pilot_size(DRAWS)
KINDS = ("betting_topk", "betting")
UNPAID, OPEN = "betting_topk, nothing paid", "betting_topk, δ2 / (j (j + 1))"


class Attempts(NamedTuple):
    """Messages that one person tries, in order.

    Attributes
    ----------
    means : numpy.ndarray, (trials, ATTEMPTS)
        True error of each.
    pilot_errors, errors : numpy.ndarray of int, (trials, ATTEMPTS)
        Errors among the pilot's draws and among all draws of its certificate.
    """

    means: np.ndarray
    pilot_errors: np.ndarray
    errors: np.ndarray


@functools.cache
def _bound(kind, pilot_errors, errors, candidates):
    """Compute the bound of one certificate from its counts of errors."""
    drawn = np.zeros(DRAWS)
    drawn[:pilot_errors] = drawn[PILOT : PILOT + errors - pilot_errors] = 1
    losses = TopK(drawn, 2, 1) if kind == "betting_topk" else Bounded(drawn, 0, 1)
    return BETTING.bound(losses, Claim(MESSAGE_BITS, LARGE_M, candidates=candidates, grids=GRIDS)).value


def certified(kind, attempts, candidates=1):
    """Compute the bounds of certificates from their counts of errors.

    Parameters
    ----------
    kind : str
        "betting_topk" (the exact limit for 0-1 losses) or "betting" (the recipe with a pilot).
    attempts : Attempts
    candidates : int or numpy.ndarray of int, (ATTEMPTS,)
        The same for all, or one for each attempt.

    Returns
    -------
    numpy.ndarray, (trials, ATTEMPTS)
    """
    pilot_errors = attempts.pilot_errors if kind == "betting" else np.zeros_like(attempts.errors)
    counts = np.stack([*np.broadcast_arrays(pilot_errors, attempts.errors, candidates)], axis=-1)
    found, place = np.unique(counts.reshape(-1, 3), axis=0, return_inverse=True)
    values = np.array([_bound(kind, *row) for row in found.tolist()])
    return values[place].reshape(attempts.errors.shape)


def _errors(drawn):
    """Count errors, (trials, DRAWS) of bool, among the pilot's draws and among all."""
    return drawn[:, :PILOT].sum(axis=1), drawn.sum(axis=1)


def _fresh(rng, means):
    """Count the errors among the pilot's and among all of DRAWS fresh draws, at the true errors `means`."""
    pilot_errors = rng.binomial(PILOT, means)
    return pilot_errors, pilot_errors + rng.binomial(DRAWS - PILOT, means)


def tuned(rng, trials, shared):
    """Simulate one who re-tunes: each message is the best so far with one more change.

    A change gives `CHANGED` of all tokens a new prediction, whose error differs from the error so far by up
    to `SPREAD`, in either direction. It is kept if the message has fewer errors on its draws than the best so
    far had on its own. The corpus is so large that the true error of each message is exact.
    """
    best_mean, columns = np.full(trials, ERROR), []
    best_drawn, best_errors = None, np.full(trials, DRAWS + 1)
    for number in range(ATTEMPTS):
        change = CHANGED if number else 1.0  # the first message is a change of everything
        changed_error = best_mean + (rng.uniform(-SPREAD, SPREAD, trials) if number else 0.0)
        changed_error = changed_error.clip(0.01, 0.99)
        mean = (1 - change) * best_mean + change * changed_error
        if shared:
            drawn = rng.random((trials, DRAWS), dtype=np.float32) < changed_error[:, None]
            if number:
                touched = rng.random((trials, DRAWS), dtype=np.float32) < change
                drawn = np.where(touched, drawn, best_drawn)
            pilot_errors, errors = _errors(drawn)
        else:
            pilot_errors, errors = _fresh(rng, mean)
        columns.append((mean, pilot_errors, errors))
        better = errors < best_errors
        best_mean, best_errors = np.where(better, mean, best_mean), np.where(better, errors, best_errors)
        if shared:
            best_drawn = drawn if best_drawn is None else np.where(better[:, None], drawn, best_drawn)
    return Attempts(*(np.stack(column, axis=1) for column in zip(*columns, strict=True)))


def variants(rng, trials, shared):
    """Simulate variants of one model: all have the error `ERROR`, each differs in `VARIANT` of the tokens."""
    means = np.full((trials, ATTEMPTS), ERROR)
    if not shared:
        return Attempts(means, *_fresh(rng, means))
    common, columns = rng.random((trials, DRAWS), dtype=np.float32) < ERROR, []
    for _ in range(ATTEMPTS):
        touched, other = rng.random((2, trials, DRAWS), dtype=np.float32)
        columns.append(_errors(np.where(touched < VARIANT, other < ERROR, common)))
    return Attempts(means, *(np.stack(column, axis=1) for column in zip(*columns, strict=True)))


def _fails(attempts, bounds, chosen=None):
    """Tell whether the true error of each attempt, or of the `chosen` one, is above its bound."""
    fails = attempts.means > bounds + ROUNDING
    return fails if chosen is None else np.take_along_axis(fails, chosen[:, None], axis=1)[:, 0]


def last(shared):
    """Make a scenario in which the last message of a tuner is reported; a column for each of `SHOWN`."""

    def run(rng, trials):
        attempts = tuned(rng, trials, shared)
        shown = np.array(SHOWN) - 1
        return {kind: _fails(attempts, certified(kind, attempts))[:, shown] for kind in KINDS}

    return run


def best(shared):
    """Make a scenario in which the least of k bounds is reported; a column for each k of `SHOWN`."""

    def run(rng, trials):
        attempts, failed = variants(rng, trials, shared), {}

        def least(kind, candidates):
            """Tell for each k whether the least of the first k bounds is wrong."""
            bounds = [(k, certified(kind, attempts, candidates(k))) for k in SHOWN]
            return np.stack([_fails(attempts, b, b[:, :k].argmin(axis=1)) for k, b in bounds], axis=1)

        for kind in KINDS:
            failed[kind] = least(kind, lambda k: 1)
            failed[f"{kind}, candidates: k"] = least(kind, lambda k: k)
        bounds, by_pilot = certified("betting", attempts), attempts.pilot_errors
        chosen = [by_pilot[:, :k].argmin(axis=1) for k in SHOWN]
        by_choice = [_fails(attempts, bounds, choice) for choice in chosen]
        failed["betting, chosen by the pilots"] = np.stack(by_choice, axis=1)
        return failed

    return run


def satisfied(shared):
    """Make a scenario of an open number of attempts, the j-th with delta2 / (j (j + 1)).

    The worst time to be satisfied is the first bound below the truth. A column for each k of `SHOWN`:
    whether that happens within k attempts.
    """

    def run(rng, trials):
        attempts, failed = variants(rng, trials, shared), {}
        shares = np.array([attempts_share(number) for number in range(1, ATTEMPTS + 1)])
        for label, candidates in ((UNPAID, 1), (OPEN, shares)):
            fails = _fails(attempts, certified("betting_topk", attempts, candidates))
            by_then = np.logical_or.accumulate(fails, axis=1)
            failed[label] = by_then[:, np.array(SHOWN) - 1]
        return failed

    return run
