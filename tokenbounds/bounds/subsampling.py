"""Mean over m positions from n draws: a pilot chooses, the other draws give the bound (docs/theory.md, 5).

The draws are independent and uniform with replacement, in draw order; given the corpus they are independent
of the hypothesis. Choices on the pilot are fixed before the other draws are looked at.
"""

import math

import numpy as np

from tokenbounds.bounds import checks
from tokenbounds.errors import InputError


def pilot_size(n):
    """Compute ceil(n / 10), the number of first draws that choose every free parameter.

    Raises
    ------
    InputError
        No draw is left for the bound.

    Examples
    --------
    >>> pilot_size(1000), pilot_size(11)
    (100, 2)
    """
    size = -(-n // 10)
    if n - size < 1:
        raise InputError(f"n is {n}; expected at least 2 draws, a pilot and one more")
    return size


def iid_mean_upper(values, b, delta):
    """Compute an upper confidence limit for the mean of [0, 1] variables from IID draws.

    This is Theorem A with kappa = ln(1 / delta) / n.

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

    Examples
    --------
    >>> round(float(iid_mean_upper([0.2, 0.4, 0.6] * 100, b=0.3, delta=0.05)), 3)
    0.434
    """
    values = np.asarray(values, dtype=np.float64)
    mean_log = np.mean(np.log1p(-b * values), axis=-1)
    return np.minimum(1.0, -np.expm1(mean_log + math.log(delta) / values.shape[-1]) / b)


def sampled_mean_upper(pilot, rest, low, high, bet_sizes, delta2):
    """Choose b on the pilot and bound the corpus mean from the other draws: steps 2 and 3.

    Parameters
    ----------
    pilot, rest : numpy.ndarray, (n1,) and (n2,)
        Values of the draws (window means where draws are windows), all in [low, high].
    low, high : float
        Interval of the value of every position of the corpus, low < high.
    bet_sizes : sequence of float
        Values of b to choose from, in (0, 1).
    delta2 : float
        Failure probability of the draws.

    Returns
    -------
    upper, b : float
        Limit, in the unit of the values and at most `high`, and the chosen bet size.
    """
    unit_pilot, unit_rest = (_to_unit(values, low, high) for values in (pilot, rest))
    bets = np.asarray(bet_sizes)
    mean_logs = np.log1p(-np.multiply.outer(bets, unit_pilot)).mean(axis=1)
    b = float(bets[np.argmin(-np.expm1(mean_logs + math.log(delta2) / len(rest)) / bets)])
    return low + (high - low) * float(iid_mean_upper(unit_rest, b, delta2)), b


def _to_unit(values, low, high):
    unit = (values - low) / (high - low)
    # The theorems put every value inside: anything else is a defect.
    if unit.min() < -checks.ROUNDING or unit.max() > 1 + checks.ROUNDING:
        values_range = f"values from {values.min()} to {values.max()}"
        raise ArithmeticError(f"{values_range} leave their interval [{low}, {high}]")
    return np.clip(unit, 0.0, 1.0)


def clopper_pearson_upper(errors, n, delta):
    """Compute the exact one-sided upper confidence limit for a proportion from IID draws.

    Parameters
    ----------
    errors, n : int
        Errors among n draws.
    delta : float
        Largest probability that the proportion exceeds the limit.

    Returns
    -------
    float

    Examples
    --------
    >>> round(clopper_pearson_upper(7, 50, delta=0.05), 4)
    0.2469
    """
    from scipy.special import betainccinv  # here: tables and figures need no scipy, which takes long to load

    return 1.0 if errors >= n else float(betainccinv(errors + 1, n - errors, delta))
