"""Azuma bounds: the paper's formula, a certified form, and one for varying intervals (docs/theory.md, 3, 11).

The certified ones choose lambda from a grid of absolute numbers, which depends on neither m nor kappa: for a
fixed lambda the supermartingale behind them stays below e^K at all times at once, so m may be random.
"""

import math

import numpy as np

from tokenbounds.bounds.assumptions import NOTHING_MORE
from tokenbounds.bounds.draws import Bpd
from tokenbounds.bounds.interface import Basis, Method
from tokenbounds.bounds.subsampling import pilot_size, sampled_mean_upper


def azuma_terms(interval, complexity_nats, m, n, delta1, delta2):
    """Compute the two terms that the Azuma bound for n draws adds to the risk.

    Parameters
    ----------
    interval : float
        Length of the loss interval.
    complexity_nats : float
        L.
    m, n : int
        Tokens in the corpus, and draws.
    delta1, delta2 : float
        Failure probabilities of the corpus event and of the draws.

    Returns
    -------
    complexity_term, subsample_term : float
        In the unit of `interval`.

    Examples
    --------
    >>> [round(term, 4) for term in azuma_terms(1.0, 700.0, m=10**6, n=10_000, delta1=0.01, delta2=0.04)]
    [0.0188, 0.0127]
    """
    complexity_term = interval * math.sqrt((complexity_nats - math.log(delta1)) / (2 * m))
    return complexity_term, interval * math.sqrt(-math.log(delta2) / (2 * n))


def multipliers(exponents):
    """Compute the grid of lambda, ``2^(j/4)`` per unit of loss.

    Neighbours differ by 2^(1/4), so the best of them costs at most .4% more than the best real number: it is
    within a factor r = 2^(1/8) of it, and ``lambda Delta^2 / 8 + kappa / lambda`` then rises by
    ``(r + 1/r) / 2 = 1.0038`` at most.

    Parameters
    ----------
    exponents : sequence of float
        j; not a function of m, kappa or delta.

    Returns
    -------
    numpy.ndarray

    Examples
    --------
    >>> multipliers([-4, 0, 2]).round(3).tolist()
    [0.5, 1.0, 1.414]
    """
    return np.exp2(np.asarray(exponents, dtype=np.float64) / 4)


def corpus_terms(exponents, square, kappa):
    """Compute ``lambda Delta^2 / 8 + kappa / lambda`` at each lambda of the grid.

    Parameters
    ----------
    exponents : sequence of float
    square : float
        Delta^2, or its mean over tokens.
    kappa : float
        Complexity per token in nats.

    Returns
    -------
    numpy.ndarray
    """
    grid = multipliers(exponents)
    return grid * (square / 8) + kappa / grid


class AzumaFormula(Method):
    """The paper's formula: the best smoothing on all draws, the rms of the intervals, never capped.

    Of records as they are: an error of the scores is none of the paper's.
    """

    name = "azuma"
    label = "azuma (the paper's formula)"
    assumes = (
        "nothing is certified: the paper's formula, its smoothing chosen on the draws that estimate the risk"
    )
    certifies = False

    @property
    def note(self):
        """One clause on the validity."""
        return f"{self.label} reproduces the paper and certifies nothing"

    def bound(self, losses, claim):
        """Compute the formula with the smoothing that makes it least."""
        losses = losses.as_recorded()
        basis = Basis.of(losses, claim, self.grid_sizes(losses, claim.grids), paper_split=True)
        sizes = basis.complexity_nats, basis.m, basis.n, basis.delta1, basis.delta2

        def with_option(option):
            sample = losses.sample(option)
            rms = math.sqrt(float(np.mean((sample.highs - sample.lows) ** 2)))
            return basis.bound(
                self,
                "Theorem 1 of the paper (formula)",
                sample,
                sample.values.mean(),
                azuma_terms(rms, *sizes),
                choices={"interval": rms},
                capped=False,
            )

        return min(map(with_option, losses.options(claim.grids)), key=lambda bound: bound.value)


class AzumaCertified(Method):
    """The paper's theorem with one constant interval, the smoothing chosen on the pilot, our split of delta.

    For a fixed lambda ``M <= R + lambda Delta^2 / 8 + kappa / lambda`` on the corpus event, which covers
    every lambda and smoothing of the grids at once; R is bounded from the draws by Hoeffding's inequality.
    That needs the constant interval, so a smoothing head is left aside.

    Lambda is chosen by a formula, from the interval and kappa. No draw is looked at, and R, which alone is
    estimated from draws, does not depend on lambda: the choice costs the bits of its grid and nothing else.
    So where the smoothing is not chosen either (top-k errors, documents) no pilot is set aside.
    """

    name = "azuma_certified"
    label = "azuma, certified"
    assumes = NOTHING_MORE

    def grid_sizes(self, losses, grids):
        """Return the sizes of the grids of alpha and lambda."""
        return losses.grid_sizes(grids) | {"lambda": len(grids.lambda_exponents)}

    def bound(self, losses, claim):
        """Choose the smoothing on the pilot and bound by the other draws."""
        losses, grids = losses.without_head(), claim.grids
        basis = Basis.of(losses, claim, self.grid_sizes(losses, grids))
        options = losses.options(grids)
        n_pilot = 0 if len(options) == 1 else pilot_size(basis.n)
        pilot, rest = slice(None, n_pilot), slice(n_pilot, None)

        def terms_of(sample):
            """Compute the chosen lambda, and complexity and subsample term."""
            if sample.trivial:  # alpha = 1: every loss is log2 V
                return None, (0.0, 0.0)
            terms = corpus_terms(grids.lambda_exponents, sample.range**2, basis.kappa)
            chosen = int(np.argmin(terms))
            draws = sample.range * math.sqrt(-math.log(basis.delta2) / (2 * (basis.n - n_pilot)))
            return float(multipliers(grids.lambda_exponents)[chosen]), (float(terms[chosen]), draws)

        def predicted(option):
            sample = losses.sample(option, pilot)
            return float(sample.values.mean()) + math.fsum(terms_of(sample)[1])

        option = min(options, key=predicted) if n_pilot else options[0]
        sample = losses.sample(option, rest)
        multiplier, terms = terms_of(sample)
        return basis.bound(
            self,
            "Theorem 1 of the paper, constant interval, fixed lambda",
            sample,
            sample.values.mean(),
            terms,
            choices={"interval": sample.range} | ({} if multiplier is None else {"lambda": multiplier}),
            n_pilot=n_pilot,
        )


class AzumaRigorous(Method):
    """Azuma bound that stays true when the smoothing, and with it the interval, varies with the context.

    For a fixed lambda ``exp(lambda sum(M - X) - lambda^2 sum(Delta^2) / 8)`` is a supermartingale, so ``M <=
    mean T + kappa / lambda`` with ``T = X + lambda Delta^2 / 8``; lambda is chosen on the pilot.
    """

    name = "azuma_rigorous"
    label = "azuma, rigorous"
    assumes = NOTHING_MORE
    can_bound = (Bpd,)

    def grid_sizes(self, losses, grids):
        """Return the sizes of the grids of alpha and lambda."""
        return losses.grid_sizes(grids) | {"lambda": len(grids.lambda_exponents)}

    def bound(self, losses, claim):
        """Choose smoothing and lambda on the pilot and bound by the other draws."""
        grids = claim.grids
        basis = Basis.of(losses, claim, self.grid_sizes(losses, grids))
        n_pilot = pilot_size(basis.n)
        pilot, rest = slice(None, n_pilot), slice(n_pilot, None)
        option, multiplier = _best_multiplier(losses, pilot, basis.kappa, grids)
        estimate = losses.sample(option, rest)
        risk = float(estimate.values.mean())
        choices, terms = {}, (0.0, 0.0)
        if not estimate.trivial:  # else alpha = 1: every loss is log2 V
            t_pilot, t_rest = (penalised(losses.sample(option, part), multiplier) for part in (pilot, rest))
            t_high = estimate.high + multiplier * estimate.range**2 / 8
            bets = grids.sampling_bet_sizes
            t_upper, b = sampled_mean_upper(t_pilot, t_rest, estimate.low, t_high, bets, basis.delta2)
            t_mean = float(t_rest.mean())
            terms = t_mean - risk + basis.kappa / multiplier, t_upper - t_mean
            choices = {"lambda": multiplier, "sampling_bet_size": b}
        theorem = "supermartingale for varying intervals"
        return basis.bound(self, theorem, estimate, risk, terms, choices=choices, n_pilot=n_pilot)


def penalised(sample, multiplier):
    """Compute T averaged over each draw, (n,)."""
    return (sample.values + multiplier * (sample.highs - sample.lows) ** 2 / 8).mean(axis=1)


def _best_multiplier(losses, pilot, kappa, grids):
    """Find the option and lambda with the least mean T + kappa / lambda on the pilot."""
    candidates: list[tuple[float, object, float | None]] = []
    for option in losses.options(grids):
        sample = losses.sample(option, pilot)
        if sample.trivial:
            candidates.append((sample.high, option, None))
            continue
        risk, square = float(sample.values.mean()), float(np.mean((sample.highs - sample.lows) ** 2))
        terms = corpus_terms(grids.lambda_exponents, square, kappa)
        chosen = int(np.argmin(terms))
        multiplier = float(multipliers(grids.lambda_exponents)[chosen])
        candidates.append((risk + float(terms[chosen]), option, multiplier))
    return min(candidates, key=lambda candidate: candidate[0])[1:]
