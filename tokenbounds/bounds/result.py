"""Record of one bound: its value, its terms, and the choices and complexity terms behind it."""

import dataclasses
import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Bound:
    """Upper bound on the expected loss M with probability at least 1 - delta, with its derivation.

    ``value = empirical_risk + complexity_term + subsample_term`` unless `capped`: then they add up to more
    than the largest possible loss `high`, which is the value.

    Attributes
    ----------
    value : float
        The bound, in the unit of the losses (bits for BPD, a fraction for top-k error).
    method : str
        Name of the method, a key of `tokenbounds.bounds.methods.METHODS`.
    theorem : str
        Statement that `value` rests on.
    metric : str
        "bpd", "top{k}" or "loss".
    empirical_risk : float
        Mean loss of the ``n - n_pilot`` draws that estimate the mean, raised by the error of the scores.
    complexity_term, subsample_term : float
        Cost of the hypothesis and the choices, and cost of drawing n of m.
    capped : bool
        Whether the largest possible loss replaced the sum.
    low, high : float
        Interval of the losses at the chosen smoothing.
    random_guess : float or None
        Loss of a uniform guess; the bound is vacuous when it is not below. None where the metric has none.
    delta, delta1, delta2 : float
        Failure probability, and its shares for the corpus and for the draws as they were used (delta2 after
        division).
    m, n, n_pilot, draw_size : int
        Tokens (or data points) in the corpus, draws, draws of the pilot, tokens in each draw.
    choices : dict
        Chosen values: alpha, bet_size, lambda, centre_linear, centre_quadratic, centre_width, g0,
        freedman_fraction, sampling_bet_size, as far as the method has them.
    complexity_terms_bits : dict
        Terms of the complexity, itemised, in bits.

    Examples
    --------
    >>> from tokenbounds.bounds import azuma_certified_losses
    >>> bound = azuma_certified_losses([0.2, 0.4, 0.6] * 100, 0, 1, message_bits=800, m=10**6)
    >>> bound.method, bound.n, bound.capped, bound.vacuous
    ('azuma_certified', 300, False, False)
    >>> bound.complexity_terms_bits["message"]
    800.0
    """

    value: float
    method: str
    theorem: str
    metric: str
    empirical_risk: float
    complexity_term: float
    subsample_term: float
    capped: bool
    low: float
    high: float
    random_guess: float | None
    delta: float
    delta1: float
    delta2: float
    m: int
    n: int
    n_pilot: int
    draw_size: int
    choices: dict = field(default_factory=dict)
    complexity_terms_bits: dict = field(default_factory=dict)

    def __post_init__(self):
        numbers = [value for value in dataclasses.asdict(self).values() if isinstance(value, float)]
        numbers += [*self.choices.values(), *self.complexity_terms_bits.values()]
        if not all(map(math.isfinite, numbers)):
            raise ArithmeticError(f"a term of the {self.method} bound is not finite: {self!r}")

    @property
    def vacuous(self):
        """Whether the bound is not below the loss of a random guess."""
        return self.random_guess is not None and self.value >= self.random_guess

    def as_dict(self):
        """Convert to a dict of strings, numbers, booleans, None and dicts of numbers: ready for JSON."""
        return dataclasses.asdict(self)


def assemble(*, high, empirical_risk, complexity_term, subsample_term, capped=True, **rest):
    """Build a `Bound` from its terms, their sum at most `high` unless `capped` is False."""
    terms = [float(term) for term in (empirical_risk, complexity_term, subsample_term)]
    total = math.fsum(terms)
    hit = bool(capped and total > high)
    return Bound(
        value=float(high) if hit else total,
        empirical_risk=terms[0],
        complexity_term=terms[1],
        subsample_term=terms[2],
        capped=hit,
        high=float(high),
        **rest,
    )
