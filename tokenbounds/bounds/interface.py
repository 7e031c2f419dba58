"""Interface of all bounds: a `Method` turns losses and a `Claim` into a `Bound`, computed from a `Basis`."""

import math
from dataclasses import dataclass, field

from tokenbounds.bounds.assumptions import CONDITIONING
from tokenbounds.bounds.checks import population
from tokenbounds.bounds.complexity import complexity_terms, split_delta, split_delta_paper, total_nats
from tokenbounds.bounds.draws import Bounded, Bpd, Losses, TopK
from tokenbounds.bounds.grids import Grids
from tokenbounds.bounds.result import Bound, assemble


@dataclass(frozen=True)
class Claim:
    """Everything a bound depends on besides the losses.

    Attributes
    ----------
    message_bits : int
        C, whole bits of the message, >= 2.
    m : int
        Tokens (or documents) drawn from; at least those drawn, and a multiple of S for windows.
    delta : float
        Failure probability in (0, 1).
    extra_bits : float or dict of str to float
        Choices made after seeing the data that are neither in the message nor in `grids`, in bits.
    candidates : int
        Number N of results from which this one may be selected after seeing the draws; the draws' share of
        delta becomes delta2 / N. To claim several metrics at once, use ``delta / number`` instead. See
        `attempts_share` for a number that is not fixed beforehand.
    grids : Grids
        Values of the free parameters.

    Examples
    --------
    >>> claim = Claim(message_bits=8 * 10**6, m=10**9, extra_bits={"table row": 3.0})
    >>> claim.delta, claim.candidates
    (0.05, 1)
    """

    message_bits: int
    m: int
    delta: float = 0.05
    extra_bits: float | dict[str, float] = 0.0
    candidates: int = 1
    grids: Grids = field(default_factory=Grids)


class Method:
    """Base of all bounds: a subclass is one bound, listed once in `tokenbounds.bounds.methods.METHODS`.

    Attributes
    ----------
    name : str
        Key in certificates and csv columns.
    label : str
        Name in tables, figures and descriptions.
    assumes : str
        Assumption besides those of docs/theory.md, section 1; `NOTHING_MORE` for none. Certificates add to
        it what M is (`assumption`).
    certifies : bool
        Whether the value is a certificate. A formula that certifies nothing is not corrected for candidates.
    can_bound : tuple of type
        Kinds of losses: `Bpd`, `TopK`, `Bounded` (documents are `Bounded`). The others are left out for this
        method.

    Examples
    --------
    >>> from tokenbounds.bounds import NOTHING_MORE
    >>> class Largest(Method):
    ...     name, label, assumes = "largest", "largest loss", NOTHING_MORE
    ...
    ...     def bound(self, losses, claim):
    ...         basis = Basis.of(losses, claim)
    ...         sample = losses.sample(losses.options(claim.grids)[-1])
    ...         risk = sample.values.mean()
    ...         return basis.bound(self, "losses have an interval", sample, risk, (sample.high - risk, 0.0))
    >>> Largest().bound(TopK([0, 7, 3], vocab_size=16, k=4), Claim(message_bits=8, m=1000)).value
    1.0
    """

    name: str
    label: str
    assumes: str
    certifies: bool = True
    can_bound: tuple[type[Losses], ...] = (Bpd, TopK, Bounded)

    def bound(self, losses: Losses, claim: Claim) -> Bound:
        """Bound the mean conditional expectation of `losses`."""
        raise NotImplementedError

    def grid_sizes(self, losses: Losses, grids: Grids) -> dict[str, int]:
        """Return the sizes of the grids that the method chooses from, by name: terms of its complexity."""
        return losses.grid_sizes(grids)

    @property
    def assumption(self):
        """The assumption as certificates state it, with what the bounded M is."""
        return f"{self.assumes}; {CONDITIONING}"

    @property
    def note(self):
        """One clause on the validity, for the notes below tables."""
        return f"{self.label} assumes {self.assumes}"


@dataclass(frozen=True)
class Basis:
    """Sizes, shares of delta and complexity of one bound: the numbers that its terms are computed from.

    Attributes
    ----------
    losses : Losses
    claim : Claim
    m, n, draw_size : int
        Tokens (or data points) in the corpus, draws, tokens in each draw.
    delta1, delta2 : float
        Shares of delta for the corpus and for the draws.
    terms_bits : dict of str to float
        Terms of the complexity.
    """

    losses: Losses
    claim: Claim
    m: int
    n: int
    draw_size: int
    delta1: float
    delta2: float
    terms_bits: dict[str, float]

    @classmethod
    def of(cls, losses, claim, grid_sizes=None, paper_split=False):
        """Check a claim against its losses and compute the basis.

        Parameters
        ----------
        losses : Losses
        claim : Claim
        grid_sizes : dict of str to int, optional
            Sizes of the grids that are chosen from.
        paper_split : bool
            Whether delta is split as in the paper, which knows no candidates.
        """
        n, draw_size = losses.shape
        m = population(claim.m, n, draw_size)
        delta = claim.delta
        delta1, delta2 = (
            split_delta_paper(delta, m, n) if paper_split else split_delta(delta, claim.candidates)
        )
        terms_bits = complexity_terms(claim.message_bits, grid_sizes or {}, claim.extra_bits)
        return cls(losses, claim, m, n, draw_size, delta1, delta2, terms_bits)

    @property
    def complexity_nats(self):
        """Complexity L in nats."""
        return total_nats(self.terms_bits)

    @property
    def kappa(self):
        """Complexity and ln 1/delta1 per token, in nats."""
        return (self.complexity_nats - math.log(self.delta1)) / self.m

    def bound(self, method, theorem, sample, empirical_risk, terms, *, choices=None, n_pilot=0, capped=True):
        """Assemble the record of the bound.

        Parameters
        ----------
        method : Method
        theorem : str
            Statement that the value rests on.
        sample : Sample
            Losses under the chosen option, for their interval and the choices behind them.
        empirical_risk : float
        terms : (float, float)
            Complexity term and subsample term.
        choices : dict, optional
            Further chosen values.
        n_pilot : int
            Draws of the pilot.
        capped : bool
            Whether the sum is cut at the largest loss.
        """
        complexity_term, subsample_term = terms
        return assemble(
            method=method.name,
            theorem=theorem,
            metric=self.losses.metric,
            random_guess=self.losses.random_guess,
            low=sample.low,
            high=sample.high,
            empirical_risk=empirical_risk,
            complexity_term=complexity_term,
            subsample_term=subsample_term,
            capped=capped,
            delta=float(self.claim.delta),
            delta1=self.delta1,
            delta2=self.delta2,
            m=self.m,
            n=self.n,
            n_pilot=n_pilot,
            draw_size=self.draw_size,
            choices=sample.choices | (choices or {}),
            complexity_terms_bits=self.terms_bits,
        )
