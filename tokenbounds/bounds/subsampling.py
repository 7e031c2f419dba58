"""The mean over all m positions from n of them: a pilot that chooses, and the other draws that give the bound (docs/theory.md, section 5).

The draws are independent and uniform with replacement, in draw order; given the corpus they are independent of the hypothesis. What is
chosen on the pilot is fixed before the other draws are looked at.
"""

import math

import numpy as np
from scipy.special import betainccinv

from tokenbounds.bounds import checks
from tokenbounds.errors import InputError


def pilot_size(n):
    """ceil(n / 10): how many of the first draws choose every free parameter; an `InputError` if none are left for the bound."""
    size = -(-n // 10)
    if n - size < 1:
        raise InputError(f"n is {n}; expected at least 2 draws, a pilot and one more")
    return size


def iid_mean_upper(values, b, delta):
    """Upper confidence limit for the mean of [0, 1] variables from IID draws: Theorem A with kappa = ln(1 / delta) / n.

    Parameters
    ----------
    values : array_like, (..., n)
        Draws in [0, 1]; the last axis is averaged.
    b : float
        Bet size in (0, 1), fixed before the draws are seen.
    delta : float
        Failure probability.

    Returns
    -------
    float or numpy.ndarray
        At most 1, at least the mean of `values`.
    """
    values = np.asarray(values, dtype=np.float64)
    mean_log = np.mean(np.log1p(-b * values), axis=-1)
    return np.minimum(1.0, -np.expm1(mean_log + math.log(delta) / values.shape[-1]) / b)


def sampled_mean_upper(pilot, rest, low, high, b_grid, delta2):
    """Steps 2 and 3 of the recipe: b from the pilot, then an upper limit for the corpus mean from the other draws.

    Parameters
    ----------
    pilot, rest : numpy.ndarray, (n1,) and (n2,)
        Values of the draws (window means where draws are windows), all in [low, high].
    low, high : float
        Interval of the value of every position of the corpus, low < high.
    b_grid : sequence of float
        Bet sizes to choose from, in (0, 1).
    delta2 : float
        Failure probability of the draws.

    Returns
    -------
    upper, b : float
        The limit, in the unit of the values and at most `high`, and the chosen bet size.
    """
    unit_pilot, unit_rest = (_to_unit(values, low, high) for values in (pilot, rest))
    b_values = np.asarray(b_grid)
    mean_logs = np.log1p(-np.multiply.outer(b_values, unit_pilot)).mean(axis=1)
    b = float(b_values[np.argmin(-np.expm1(mean_logs + math.log(delta2) / len(rest)) / b_values)])
    return low + (high - low) * float(iid_mean_upper(unit_rest, b, delta2)), b


def _to_unit(values, low, high):
    unit = (values - low) / (high - low)
    if unit.min() < -checks.ROUNDING or unit.max() > 1 + checks.ROUNDING:  # the theorems put every value inside: a defect otherwise
        raise ArithmeticError(f"values from {values.min()} to {values.max()} leave their interval [{low}, {high}]")
    return np.clip(unit, 0.0, 1.0)


def clopper_pearson_upper(errors, n, delta):
    """One-sided upper confidence limit for a proportion from `errors` of `n` IID draws; exceeded with probability at most `delta`."""
    return 1.0 if errors >= n else float(betainccinv(errors + 1, n - errors, delta))
