"""Losses from scores: smoothed bits per token and top-k errors, with their intervals (docs/theory.md, 1)."""

import math

import numpy as np

from tokenbounds.bounds import checks
from tokenbounds.errors import InputError


def bpd_interval(alpha, vocab_size):
    """Compute the interval of ``-log2((1 - alpha) q + alpha / V)`` over q in [0, 1], in bits.

    Parameters
    ----------
    alpha : float
        Smoothing weight in (0, 1].
    vocab_size : int
        V >= 2.

    Returns
    -------
    low, high : float

    Examples
    --------
    >>> low, high = bpd_interval(0.5, 1024)
    >>> round(low, 3), high
    (0.999, 11.0)
    """
    low, high = interval_ends(checks.smoothing("alpha", alpha), checks.integer("vocab_size", vocab_size, 2))
    return float(low), float(high)


def interval_ends(alpha, vocab_size):
    """Compute the ends of the interval of each weight in `alpha`, unchecked; arrays like `alpha`."""
    high = math.log2(vocab_size) - np.log2(alpha)
    # log1p keeps the lower end accurate for alpha near 0; near 1 it may round to above the upper end
    return np.minimum(-np.log1p(-alpha * (1 - 1 / vocab_size)) / math.log(2), high), high


def random_guess_bpd(vocab_size):
    """Compute the bits per token of a uniform guess, log2 V.

    Examples
    --------
    >>> random_guess_bpd(1024)
    10.0
    """
    return math.log2(checks.integer("vocab_size", vocab_size, 2))


def random_guess_topk(vocab_size, k):
    """Compute the top-k error of a uniform guess, 1 - k / V.

    Examples
    --------
    >>> random_guess_topk(1000, k=10)
    0.99
    """
    vocab_size = checks.integer("vocab_size", vocab_size, 2)
    return 1 - _checked_k(k, vocab_size) / vocab_size


def smoothed_losses(log2_q, alpha, vocab_size):
    """Compute ``X = -log2((1 - alpha) q + alpha / V)`` in bits (paper, 4.4), clipped to its interval.

    Parameters
    ----------
    log2_q : array_like
        log2 of the model's probability of the true token, <= 0; -inf (probability zero) is allowed. Any
        shape.
    alpha : float or array_like
        Smoothing weights in (0, 1]; an array broadcasts against `log2_q`.
    vocab_size : int
        V >= 2.

    Returns
    -------
    numpy.ndarray, float64

    Examples
    --------
    >>> smoothed_losses([-math.inf, 0.0], alpha=0.5, vocab_size=1024).round(3).tolist()
    [11.0, 0.999]
    """
    alpha = np.asarray(alpha, dtype=np.float64)
    allowed = (alpha > 0) & (alpha <= 1)
    if not allowed.all():
        raise InputError(f"alpha is {float(alpha[~allowed].flat[0])!r}; expected a number in (0, 1]")
    vocab_size = checks.integer("vocab_size", vocab_size, 2)
    q = np.exp2(np.asarray(log2_q, dtype=np.float64))
    if not (q <= 1 + checks.ROUNDING).all():
        raise InputError(f"log2_q holds {float(np.max(log2_q))!r}; expected log-probabilities <= 0")
    low, high = interval_ends(alpha, vocab_size)
    return np.clip(-np.log2((1 - alpha) * q + alpha / vocab_size), low, high)


def topk_errors(ranks, k, vocab_size):
    """Compute the top-k errors: 1 where the true token is not among the k most probable (rank >= k), else 0.

    Parameters
    ----------
    ranks : array_like, (n,) or (n, S)
        Number of tokens at least as probable as the true one, minus one: 0 is best, ties count against the
        model.
    k : int
        1 <= k <= V - 1.
    vocab_size : int
        V.

    Returns
    -------
    numpy.ndarray, float64, (n, S)

    Examples
    --------
    >>> topk_errors([0, 4, 5, 9], k=5, vocab_size=10)[:, 0].tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    vocab_size = checks.integer("vocab_size", vocab_size, 2)
    k = _checked_k(k, vocab_size)
    ranks = checks.draws("ranks", ranks)
    bad = (ranks < 0) | (ranks >= vocab_size) | (ranks != np.floor(ranks))
    if bad.any():
        row, rank = int(np.argmax(bad.any(axis=1))), float(ranks[bad][0])
        expected = f"whole numbers from 0 to {vocab_size - 1}"
        raise InputError(f"ranks holds {rank!r} at draw {row}; expected {expected}")
    return (ranks >= k).astype(np.float64)


def _checked_k(k, vocab_size):
    k = checks.integer("k", k, 1)
    if k >= vocab_size:
        raise InputError(f"k is {k}; expected 1 to {vocab_size - 1} for a vocabulary of {vocab_size}")
    return k
