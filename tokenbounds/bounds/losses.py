"""Losses from records: smoothed bits per token and top-k errors, with the intervals they lie in (docs/theory.md, section 1)."""

import math
from dataclasses import dataclass

import numpy as np

from tokenbounds.bounds import checks
from tokenbounds.errors import InputError


def bpd_interval(alpha, vocab_size):
    """(low, high) of ``-log2((1 - alpha) q + alpha / V)`` over q in [0, 1], in bits; floats.

    Parameters
    ----------
    alpha : float
        Smoothing weight in (0, 1].
    vocab_size : int
        V >= 2.
    """
    low, high = _ends(checks.smoothing("alpha", alpha), checks.integer("vocab_size", vocab_size, 2))
    return float(low), float(high)


def _ends(alpha, vocab_size):
    high = math.log2(vocab_size) - np.log2(alpha)
    # log1p keeps the lower end accurate for alpha near 0; near 1 it may round to above the upper end
    return np.minimum(-np.log1p(-alpha * (1 - 1 / vocab_size)) / math.log(2), high), high


def random_guess_bpd(vocab_size):
    """Bits per token of a uniform guess: log2 V."""
    return math.log2(checks.integer("vocab_size", vocab_size, 2))


def random_guess_topk(vocab_size, k):
    """Top-k error of a uniform guess: 1 - k / V."""
    vocab_size = checks.integer("vocab_size", vocab_size, 2)
    return 1 - _checked_k(k, vocab_size) / vocab_size


def numeric_slack_bits(epsilon_nats):
    """Bits to add to a bound when a re-scoring in another batch shape moved log-probabilities by up to `epsilon_nats`: 2 eps / ln 2."""
    return 2 * checks.real("epsilon_nats", epsilon_nats, 0) / math.log(2)


def smoothed_losses(log2_q, alpha, vocab_size):
    """``X = -log2((1 - alpha) q + alpha / V)`` in bits, inside its interval also after rounding (paper, section 4.4).

    Parameters
    ----------
    log2_q : array_like
        log2 of the model's probability of the true token, <= 0; -inf (probability zero) is allowed. Any shape.
    alpha : float or array_like
        Smoothing weights in (0, 1]; an array broadcasts against `log2_q`.
    vocab_size : int
        V >= 2.

    Returns
    -------
    numpy.ndarray, float64
    """
    alpha = np.asarray(alpha, dtype=np.float64)
    if not ((alpha > 0) & (alpha <= 1)).all():
        raise InputError(f"alpha is {float(alpha[~((alpha > 0) & (alpha <= 1))].flat[0])!r}; expected a number in (0, 1]")
    vocab_size = checks.integer("vocab_size", vocab_size, 2)
    q = np.exp2(np.asarray(log2_q, dtype=np.float64))
    if not (q <= 1 + checks.ROUNDING).all():
        raise InputError(f"log2_q holds {float(np.max(log2_q))!r}; expected log-probabilities <= 0")
    low, high = _ends(alpha, vocab_size)
    return np.clip(-np.log2((1 - alpha) * q + alpha / vocab_size), low, high)


def topk_errors(ranks, k, vocab_size):
    """1 where the true token is not among the k most probable (rank >= k), else 0; float64 (n, S).

    Parameters
    ----------
    ranks : array_like, (n,) or (n, S)
        Number of tokens at least as probable as the true one, minus one: 0 is best, ties count against the model.
    k : int
        1 <= k <= V - 1.
    vocab_size : int
        V.
    """
    vocab_size = checks.integer("vocab_size", vocab_size, 2)
    k = _checked_k(k, vocab_size)
    ranks = checks.draws("ranks", ranks)
    bad = (ranks < 0) | (ranks >= vocab_size) | (ranks != np.floor(ranks))
    if bad.any():
        row = int(np.argmax(bad.any(axis=1)))
        raise InputError(f"ranks holds {float(ranks[bad][0])!r} at draw {row}; expected whole numbers from 0 to {vocab_size - 1}")
    return (ranks >= k).astype(np.float64)


def _checked_k(k, vocab_size):
    k = checks.integer("k", k, 1)
    if k >= vocab_size:
        raise InputError(f"k is {k}; expected 1 to {vocab_size - 1} for a vocabulary of {vocab_size}")
    return k


@dataclass(frozen=True)
class Losses:
    """Losses of some draws with what is known of them before they are seen.

    Attributes
    ----------
    values : numpy.ndarray, (n, S)
    low, high : float
        Interval that holds every loss of the whole corpus.
    lows, highs : float or numpy.ndarray, (n, S)
        Interval of each loss given its context; inside [low, high].
    """

    values: np.ndarray
    low: float
    high: float
    lows: np.ndarray | float
    highs: np.ndarray | float

    @property
    def range(self):
        """high - low."""
        return self.high - self.low

    @property
    def trivial(self):
        """Whether the interval is a point but for rounding (alpha = 1): `high` is then the bound and there is nothing to bet on."""
        return self.range <= checks.ROUNDING


@dataclass(frozen=True)
class BoundedRecords:
    """Arbitrary losses (n, S) in [low, high]: one way of turning records into losses, no smoothing to choose."""

    values: np.ndarray
    low: float
    high: float
    metric: str = "loss"
    random_guess: float | None = None
    options: tuple = (None,)

    @classmethod
    def checked(cls, losses, low, high):
        """From user input: a loss outside [low, high] by more than rounding is an `InputError`."""
        low, high = checks.real("low", low), checks.real("high", high)
        if low >= high:
            raise InputError(f"low is {low} and high is {high}; expected low < high")
        return cls(checks.inside("losses", checks.draws("losses", losses), low, high), low, high)

    @property
    def shape(self):
        """(n, S)."""
        return self.values.shape

    def losses(self, option, part):
        """The draws of the slice `part`; `option` is None."""
        return Losses(self.values[part], self.low, self.high, self.low, self.high)

    def choices(self, option):
        """Nothing is chosen."""
        return {}


@dataclass(frozen=True)
class BpdRecords:
    """log2 q (n, S) and how to smooth it: constant weights to choose from (`options`), or the weights of a head (`alphas`)."""

    log2_q: np.ndarray
    vocab_size: int
    options: tuple
    alphas: np.ndarray | None = None
    alpha_range: tuple | None = None
    metric: str = "bpd"

    @classmethod
    def checked(cls, log2_q, vocab_size, grid, alphas=None, alpha_range=None):
        """From user input: constant weights from `grid`, or a head's `alphas` with their declared (minimum, maximum)."""
        vocab_size = checks.integer("vocab_size", vocab_size, 2)
        log2_q = checks.inside("log2_q", checks.draws("log2_q", log2_q), -math.inf, 0.0)
        if alphas is None:
            if alpha_range is not None:
                raise InputError(f"alpha_range is {alpha_range!r} without alphas; expected both or neither")
            return cls(log2_q, vocab_size, grid)
        if alpha_range is None or len(alpha_range) != 2:
            raise InputError(f"alpha_range is {alpha_range!r}; expected the declared (minimum, maximum) of alphas")
        low, high = (checks.smoothing("alpha_range", alpha) for alpha in alpha_range)
        alphas = checks.draws("alphas", alphas)
        checks.same_shape("alphas", alphas, "log2_q", log2_q)
        # no rounding allowed here: a weight below the declared minimum has losses above `high`
        return cls(log2_q, vocab_size, (None,), checks.inside("alphas", alphas, low, high, tolerance=0.0), (low, high))

    @property
    def shape(self):
        """(n, S)."""
        return self.log2_q.shape

    @property
    def random_guess(self):
        """log2 V."""
        return random_guess_bpd(self.vocab_size)

    def losses(self, option, part):
        """Losses in bits of the draws of the slice `part` under the weight `option`, or under the head's weights if it is None."""
        weights = option if self.alphas is None else self.alphas[part]
        smallest = option if self.alphas is None else self.alpha_range[0]
        low, high = bpd_interval(smallest, self.vocab_size)
        return Losses(smoothed_losses(self.log2_q[part], weights, self.vocab_size), low, high, *_ends(weights, self.vocab_size))

    def choices(self, option):
        """The weight, or the declared range of a head's weights."""
        if self.alphas is None:
            return {"alpha": option}
        return {"alpha_min": self.alpha_range[0], "alpha_max": self.alpha_range[1]}
