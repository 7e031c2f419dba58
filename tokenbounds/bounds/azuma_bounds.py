"""Azuma bounds: the paper's formula, a certified form, and one for varying intervals (docs/theory.md, 3)."""

import math

import numpy as np

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


def _terms(basis, interval, n):
    """Compute the two terms for n draws with the numbers of a basis."""
    return azuma_terms(interval, basis.complexity_nats, basis.m, n, basis.delta1, basis.delta2)


class AzumaFormula(Method):
    """The paper's formula: the best smoothing on all draws, the rms of the intervals, never capped."""

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
        basis = Basis.of(losses, claim, self.grid_sizes(losses, claim.grids), paper_split=True)

        def with_option(option):
            sample = losses.sample(option)
            rms = math.sqrt(float(np.mean((sample.highs - sample.lows) ** 2)))
            return basis.bound(
                self,
                "Theorem 1 of the paper (formula)",
                sample,
                sample.values.mean(),
                _terms(basis, rms, basis.n),
                choices={"interval": rms},
                capped=False,
            )

        return min(map(with_option, losses.options(claim.grids)), key=lambda bound: bound.value)


class AzumaCertified(Method):
    """The paper's theorem with one constant interval, the smoothing chosen on the pilot, our split of delta.

    Hoeffding's inequality needs the constant interval, so a smoothing head is left aside. Without a choice
    no pilot is set aside.
    """

    name = "azuma_certified"
    label = "azuma, certified"
    assumes = "m fixed beforehand"

    def bound(self, losses, claim):
        """Choose the smoothing on the pilot and bound by the other draws."""
        losses = losses.without_head()
        basis = Basis.of(losses, claim, self.grid_sizes(losses, claim.grids))
        options = losses.options(claim.grids)
        n_pilot = 0 if len(options) == 1 else pilot_size(basis.n)
        pilot, rest = slice(None, n_pilot), slice(n_pilot, None)

        def predicted(option):
            sample = losses.sample(option, pilot)
            terms = _terms(basis, sample.range, basis.n - n_pilot)
            return float(sample.values.mean()) + math.fsum(terms)

        option = min(options, key=predicted) if n_pilot else options[0]
        sample = losses.sample(option, rest)
        return basis.bound(
            self,
            "Theorem 1 of the paper, constant interval",
            sample,
            sample.values.mean(),
            _terms(basis, sample.range, basis.n - n_pilot),
            choices={"interval": sample.range},
            n_pilot=n_pilot,
        )


class AzumaRigorous(Method):
    """Azuma bound that stays true when the smoothing, and with it the interval, varies with the context.

    For a fixed lambda ``exp(lambda sum(M - X) - lambda^2 sum(Delta^2) / 8)`` is a supermartingale, so ``M <=
    mean T + kappa / lambda`` with ``T = X + lambda Delta^2 / 8``; lambda is chosen on the pilot from
    ``2^(j/2) sqrt(8 kappa) / Delta(alpha_min)``. These depend on kappa, hence on m, so m is taken as fixed.
    """

    name = "azuma_rigorous"
    label = "azuma, rigorous"
    assumes = "m fixed beforehand"
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


def multipliers(exponents, kappa, interval):
    """Compute the grid of lambda, ``2^(j/2) sqrt(8 kappa) / Delta``."""
    return [2 ** (j / 2) * math.sqrt(8 * kappa) / interval for j in exponents]


def _best_multiplier(losses, pilot, kappa, grids):
    """Find the option and lambda with the least mean T + kappa / lambda on the pilot."""
    candidates = []
    for option in losses.options(grids):
        sample = losses.sample(option, pilot)
        if sample.trivial:
            candidates.append((sample.high, option, None))
            continue
        risk, square = float(sample.values.mean()), float(np.mean((sample.highs - sample.lows) ** 2))
        for multiplier in multipliers(grids.lambda_exponents, kappa, sample.range):
            candidates.append((risk + multiplier * square / 8 + kappa / multiplier, option, multiplier))
    return min(candidates, key=lambda candidate: candidate[0])[1:]
