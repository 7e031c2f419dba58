"""Kinds of losses that a bound can be about, with the intervals that are known before they are drawn."""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from tokenbounds.bounds import checks
from tokenbounds.bounds.losses import (
    bpd_interval,
    interval_ends,
    random_guess_bpd,
    random_guess_topk,
    smoothed_losses,
    topk_errors,
)
from tokenbounds.errors import InputError

ALL = slice(None)


@dataclass(frozen=True)
class Sample:
    """Losses of some draws, with their intervals.

    Attributes
    ----------
    values : numpy.ndarray, (n, S)
    low, high : float
        Interval that holds every loss of the whole corpus.
    lows, highs : float or numpy.ndarray, (n, S)
        Interval of each loss given its context; inside [low, high].
    choices : dict
        Values chosen to compute the losses, for the record of a bound.
    inner : (numpy.ndarray, numpy.ndarray) or None
        The least interval of each loss where weights are known up to an error; `lows` and `highs` are then
        the largest one. None: the same.
    """

    values: np.ndarray
    low: float
    high: float
    lows: np.ndarray | float
    highs: np.ndarray | float
    choices: dict = field(default_factory=dict)
    inner: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def range(self):
        """Length of the interval, high - low."""
        return self.high - self.low

    @property
    def trivial(self):
        """Whether the interval is a point but for rounding (alpha = 1): `high` is then the bound."""
        return self.range <= checks.ROUNDING


class Losses:
    """Base of all kinds: losses of n draws of S tokens each, with smoothings (*options*) to choose from.

    Attributes
    ----------
    shape : (int, int)
        (n, S).
    metric : str
        "bpd", "top{k}" or "loss".
    random_guess : float or None
        Loss of a uniform guess, where there is one.
    entropies : numpy.ndarray, (n, S), or None
        Function of the context beside each loss, to centre bets.
    entropy_epsilon : float
        By how much the recorded entropies may be off, either way; 0 where none.
    """

    shape: tuple[int, int]
    metric: str
    random_guess: float | None
    entropies: np.ndarray | None
    entropy_epsilon: float = 0.0

    def _set(self, **attributes):
        """Set attributes of a frozen object, after they were checked."""
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    def options(self, grids):
        """List the smoothings to choose from; (None,) where there is no choice."""
        return (None,)

    def grid_sizes(self, grids):
        """Return the size of the grid of the options, by its name; empty where no grid is involved."""
        return {}

    def choices(self, option):
        """Describe an option for the record of a bound."""
        return {}

    def sample(self, option, part=ALL) -> Sample:
        """Compute the losses of the slice `part` of the draws under an option."""
        raise NotImplementedError

    def without_head(self):
        """Leave a smoothing head aside: a constant smoothing has a constant interval."""
        return self

    def as_recorded(self):
        """Take the records for exact, for a formula that certifies nothing."""
        return self


@dataclass(frozen=True)
class Bpd(Losses):
    """Bits per token.

    Where the scores of the certified program are known up to an error only, every loss is its largest
    possible value, and every method that uses the context's entropy or weight takes the worst of the possible
    ones token by token (docs/theory.md, section 13).

    Parameters
    ----------
    log2_q : array_like, (n,) or (n, S)
        log2 of the model's probability of each scored token, <= 0 (up to 1e-9 of rounding), in draw order;
        rows are windows of S tokens.
    vocab_size : int
        V >= 2.
    entropies : array_like, like log2_q, optional
        Entropy of q given each context, in bits, in [0, log2 V].
    alphas : array_like, like log2_q, optional
        Weights of a smoothing head at each token; None for one constant weight from ``grids.alpha``.
    alpha_range : (float, float), optional
        Declared clip of the head, required with `alphas`: every weight lies in it.
    epsilon_nats : float
        By how much the natural logarithms of the smoothed probabilities, and of the head's weights, may be
        off, either way; 0 where scores are equal bit for bit in any batch.
    entropy_epsilon_bits : float
        By how much the entropies may be off, likewise.

    Examples
    --------
    >>> losses = Bpd([-1.0, -2.0], vocab_size=16)
    >>> losses.shape, losses.random_guess
    ((2, 1), 4.0)
    >>> losses.sample(0.5).values[:, 0].round(3).tolist()
    [1.83, 2.678]
    >>> Bpd([-1.0, -2.0], vocab_size=16, epsilon_nats=0.01).sample(0.5).values[:, 0].round(3).tolist()
    [1.845, 2.692]
    """

    log2_q: np.ndarray
    vocab_size: int
    entropies: np.ndarray | None = None
    alphas: np.ndarray | None = None
    alpha_range: tuple[float, float] | None = None
    epsilon_nats: float = 0.0
    entropy_epsilon_bits: float = 0.0

    def __post_init__(self):
        vocab_size = checks.integer("vocab_size", self.vocab_size, 2)
        log2_q = checks.inside("log2_q", checks.draws("log2_q", self.log2_q), -math.inf, 0.0)
        alphas, alpha_range = _head(self.alphas, self.alpha_range, log2_q)
        guess = random_guess_bpd(vocab_size)
        entropies = checks.entropies(self.entropies, "log2_q", log2_q, guess)
        self._set(log2_q=log2_q, vocab_size=vocab_size, alphas=alphas, alpha_range=alpha_range)
        self._set(shape=log2_q.shape, metric="bpd", random_guess=guess, entropies=entropies)
        self._set(epsilon_nats=checks.real("epsilon_nats", self.epsilon_nats, 0))
        entropy_epsilon = checks.real("entropy_epsilon_bits", self.entropy_epsilon_bits, 0)
        self._set(entropy_epsilon_bits=entropy_epsilon, entropy_epsilon=entropy_epsilon)

    def options(self, grids):
        """List the constant weights; (None,) for a head."""
        return grids.alpha if self.alphas is None else (None,)

    def grid_sizes(self, grids):
        """Return the number of constant weights, 1 for a head."""
        return {"alpha": len(self.options(grids))}

    def choices(self, option):
        """Give the weight, or the declared range of a head's weights."""
        if self.alpha_range is None:
            return {"alpha": option}
        return {"alpha_min": self.alpha_range[0], "alpha_max": self.alpha_range[1]}

    def sample(self, option, part=ALL):
        """Compute the losses in bits under the constant weight `option`, or under the head if it is None."""
        weights = option if self.alphas is None else self.alphas[part]
        smallest = option if self.alpha_range is None else self.alpha_range[0]
        values = smoothed_losses(self.log2_q[part], weights, self.vocab_size)
        low, high = bpd_interval(smallest, self.vocab_size)
        lows, highs = interval_ends(weights, self.vocab_size)
        inner = None
        if self.epsilon_nats and self.alphas is not None:  # the weights are scores, too
            factor, greatest = math.exp(self.epsilon_nats), self.choices(option)["alpha_max"]
            inner = interval_ends(np.minimum(weights * factor, greatest), self.vocab_size)
            lows, highs = interval_ends(np.maximum(weights / factor, smallest), self.vocab_size)
        if self.epsilon_nats:
            values = np.minimum(values + self.epsilon_nats / math.log(2), highs)
        return Sample(values, low, high, lows, highs, self.choices(option), inner)

    def without_head(self):
        """Leave the head aside."""
        return replace(self, alphas=None, alpha_range=None)

    def as_recorded(self):
        """Take scores, weights and entropies for exact."""
        return replace(self, epsilon_nats=0.0, entropy_epsilon_bits=0.0)


def _head(alphas, alpha_range, log2_q):
    """Check a head's weights and their declared (minimum, maximum)."""
    if alphas is None:
        if alpha_range is not None:
            raise InputError(f"alpha_range is {alpha_range!r} without alphas; expected both or neither")
        return None, None
    if alpha_range is None or len(alpha_range) != 2:
        expected = "the declared (minimum, maximum) of alphas"
        raise InputError(f"alpha_range is {alpha_range!r}; expected {expected}")
    low, high = (checks.smoothing("alpha_range", alpha) for alpha in alpha_range)
    alphas = checks.draws("alphas", alphas)
    checks.same_shape("alphas", alphas, "log2_q", log2_q)
    # no rounding allowed: a weight below the declared minimum has losses above the interval's upper end
    return checks.inside("alphas", alphas, low, high, tolerance=0.0), (low, high)


@dataclass(frozen=True)
class TopK(Losses):
    """Top-k errors: 0-1 losses without anything to choose.

    Parameters
    ----------
    ranks : array_like, (n,) or (n, S)
        Rank of each scored token, 0 to V - 1, ties counted against the model, in draw order; rows are
        windows.
    vocab_size : int
        V >= 2.
    k : int
        1 <= k <= V - 1.

    Examples
    --------
    >>> losses = TopK([0, 7, 3], vocab_size=16, k=4)
    >>> losses.metric, losses.random_guess, losses.sample(None).values[:, 0].tolist()
    ('top4', 0.75, [0.0, 1.0, 0.0])
    """

    ranks: np.ndarray
    vocab_size: int
    k: int
    errors: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        errors = topk_errors(self.ranks, self.k, self.vocab_size)
        guess = random_guess_topk(self.vocab_size, self.k)
        self._set(
            errors=errors, shape=errors.shape, metric=f"top{self.k}", random_guess=guess, entropies=None
        )

    def choices(self, option):
        """Give k."""
        return {"k": self.k}

    def sample(self, option, part=ALL):
        """Select the errors of the slice `part`; `option` is None."""
        return Sample(self.errors[part], 0.0, 1.0, 0.0, 1.0, self.choices(option))


@dataclass(frozen=True)
class Bounded(Losses):
    """Arbitrary losses in [low, high], without anything to choose.

    Parameters
    ----------
    values : array_like, (n,) or (n, S)
        Losses of the draws, in draw order; a loss outside [low, high] by more than rounding is an
        `InputError`.
    low, high : float
        Interval of every loss of the corpus, low < high.
    entropies : array_like, optional
        Any function of the context beside each loss, >= 0.
    metric : str
    random_guess : float, optional
    chosen : dict
        Values that were fixed to compute the losses.
    epsilon, entropy_epsilon : float
        By how much the losses and the entropies may be off, either way.

    Examples
    --------
    >>> Bounded([0.25, 1.5], low=0, high=2).sample(None).range
    2.0
    """

    values: np.ndarray
    low: float
    high: float
    entropies: np.ndarray | None = None
    metric: str = "loss"
    random_guess: float | None = None
    chosen: dict = field(default_factory=dict)
    epsilon: float = 0.0
    entropy_epsilon: float = 0.0

    def __post_init__(self):
        low, high = checks.real("low", self.low), checks.real("high", self.high)
        if low >= high:
            raise InputError(f"low is {low} and high is {high}; expected low < high")
        values = checks.inside("losses", checks.draws("losses", self.values), low, high)
        entropies = checks.entropies(self.entropies, "losses", values, math.inf)
        self._set(values=values, low=low, high=high, entropies=entropies, shape=values.shape)
        for name in ("epsilon", "entropy_epsilon"):
            self._set(**{name: checks.real(name, getattr(self, name), 0)})

    def choices(self, option):
        """Give the values that were fixed beforehand."""
        return dict(self.chosen)

    def sample(self, option, part=ALL):
        """Select the losses of the slice `part`; `option` is None."""
        interval = self.low, self.high
        values = self.values[part]
        if self.epsilon:
            values = np.minimum(values + self.epsilon, self.high)
        return Sample(values, *interval, *interval, self.choices(option))

    def as_recorded(self):
        """Take losses and entropies for exact."""
        return replace(self, epsilon=0.0, entropy_epsilon=0.0)


class Document(Bounded):
    """Mean loss of each drawn document, which is one data point (docs/theory.md, section 6).

    Examples
    --------
    >>> ranks, tokens_per_document = [0, 7, 3, 9], [3, 1]
    >>> Document.topk(ranks, tokens_per_document, vocab_size=16, k=4).values[:, 0].round(3).tolist()
    [0.333, 1.0]
    """

    @classmethod
    def bpd(cls, log2_q, tokens_per_document, vocab_size, alpha, epsilon_nats=0.0):
        """Average bits per token over each document.

        Parameters
        ----------
        log2_q : array_like, (tokens,)
            Scores of all documents, one after the other.
        tokens_per_document : array_like of int, (n,)
        vocab_size : int
        alpha : float
            Constant smoothing weight in (0, 1).
        epsilon_nats : float
            As for `Bpd`; a mean is off by no more than its tokens are.
        """
        means = document_means(smoothed_losses(log2_q, alpha, vocab_size), tokens_per_document)
        guess = random_guess_bpd(vocab_size)
        low, high = bpd_interval(alpha, vocab_size)
        epsilon = checks.real("epsilon_nats", epsilon_nats, 0) / math.log(2)
        facts = {"metric": "bpd", "random_guess": guess, "chosen": {"alpha": alpha}, "epsilon": epsilon}
        return cls(means, low, high, **facts)

    @classmethod
    def topk(cls, ranks, tokens_per_document, vocab_size, k):
        """Average top-k errors over each document, from the `ranks` (tokens,) of all documents in order."""
        means = document_means(topk_errors(ranks, k, vocab_size)[:, 0], tokens_per_document)
        return cls(means, 0.0, 1.0, metric=f"top{k}", random_guess=random_guess_topk(vocab_size, k))


def document_means(losses, tokens_per_document):
    """Average losses (tokens,) over each document; (n,)."""
    counts = np.asarray(tokens_per_document)
    return np.add.reduceat(losses, np.cumsum(counts) - counts) / counts
