"""Betting bound: a nonnegative martingale in product form, centred by the entropy (docs/theory.md, 4, 5)."""

import numpy as np

from tokenbounds.bounds import search
from tokenbounds.bounds.assumptions import NOTHING_MORE
from tokenbounds.bounds.draws import TopK
from tokenbounds.bounds.interface import Basis, Method
from tokenbounds.bounds.linear_form import linear_terms
from tokenbounds.bounds.subsampling import clopper_pearson_upper, pilot_size, sampled_mean_upper


class Betting(Method):
    """Theorem C, or Theorem A without entropies, chosen on a pilot and evaluated on the other draws.

    For top-k errors, Theorem A in closed form.
    """

    name = "betting"
    label = "betting"
    assumes = NOTHING_MORE

    def grid_sizes(self, losses, grids):
        """Return the sizes of the grids of alpha and bets, and with entropies of the centre."""
        names = ["bet_sizes"]
        if losses.entropies is not None:
            names += ["centre_linear", "centre_quadratic", "centre_widths"]
        return losses.grid_sizes(grids) | grids.sizes(*names)

    def bound(self, losses, claim):
        """Bound the losses by the theorem that fits their kind."""
        basis = Basis.of(losses, claim, self.grid_sizes(losses, claim.grids))
        if isinstance(losses, TopK):
            return self._bound_topk(basis)
        pilot, risk, terms, choices = product_terms(losses, basis.kappa, basis.delta2, claim.grids)
        theorem = "A (product form)" if losses.entropies is None else "C (centred product form)"
        n_pilot = pilot_size(basis.n)
        return basis.bound(self, theorem, pilot, risk, terms, choices=choices, n_pilot=n_pilot)

    def _bound_topk(self, basis):
        """Minimise ``(1 - e^(p ln(1 - a) - kappa)) / a`` over a, at an upper limit p of the corpus error.

        Theorem A depends on 0-1 losses only through their mean p whatever a is, so a may be chosen after all
        draws. For single tokens p is the exact limit from all draws; for windows it is the recipe's limit for
        the mean of the windows' error fractions, its b chosen on the pilot.
        """
        sample, grids = basis.losses.sample(None), basis.claim.grids
        if basis.draw_size == 1:
            n_pilot, chosen = 0, {}
            upper = clopper_pearson_upper(int(sample.values.sum()), basis.n, basis.delta2)
        else:
            n_pilot, fractions = pilot_size(basis.n), sample.values.mean(axis=1)
            pilot, rest = fractions[:n_pilot], fractions[n_pilot:]
            upper, b = sampled_mean_upper(pilot, rest, 0.0, 1.0, grids.sampling_bet_sizes, basis.delta2)
            chosen = {"sampling_bet_size": b}
        risk = float(sample.values[n_pilot:].mean())
        upper = max(upper, risk)  # for delta above 1/2 an exact limit may lie below the estimate
        kappa, bets = basis.kappa, np.asarray(grids.bet_sizes)
        a = float(bets[np.argmin(_zero_one_bound(upper, bets, kappa))])
        at_risk, at_upper = (float(_zero_one_bound(p, a, kappa)) for p in (risk, upper))
        terms = at_risk - risk, at_upper - at_risk
        choices = {"bet_size": a} | chosen
        return basis.bound(self, "A (product form)", sample, risk, terms, choices=choices, n_pilot=n_pilot)


def product_terms(losses, kappa, delta2, grids):
    """Compute the terms of the bound and the choices behind them: the four steps of section 5.

    Parameters
    ----------
    losses : Losses
    kappa : float
        Complexity per token in nats.
    delta2 : float
        Failure probability of the draws.
    grids : Grids

    Returns
    -------
    pilot : Sample
        Losses of the pilot under the chosen option.
    risk : float
        Mean loss of the draws after the pilot.
    terms : (float, float)
        Complexity term and subsample term.
    choices : dict
        Chosen bet, centre, g0 and b.
    """
    centres = search.centres(grids, centred=losses.entropies is not None)
    bets, part = np.asarray(grids.bet_sizes), slice(None, pilot_size(losses.shape[0]))
    option, a, centre, g = search.best(losses, part, kappa, bets, losses.options(grids), centres)
    g0 = min(g, 0.0)
    pilot, risk, terms, b = linear_terms(losses, option, a, centre, g0, kappa, delta2, grids)
    if b is None:
        return pilot, risk, terms, {}
    chosen = {
        "bet_size": a,
        "lambda": a / (centre.width * pilot.range),
        "centre_linear": centre.linear,
        "centre_quadratic": centre.quadratic,
        "centre_width": centre.width,
        "g0": g0,
        "sampling_bet_size": b,
    }
    return pilot, risk, terms, chosen


def _zero_one_bound(error, a, kappa):
    """Evaluate Theorem A for 0-1 losses with mean `error`."""
    return -np.expm1(np.log1p(-a) * error - kappa) / a
