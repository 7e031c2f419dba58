"""Freedman-type bound of Finzi et al. (2025), through our pilot and subsampling (docs/theory.md, 11)."""

import numpy as np

from tokenbounds.bounds import search
from tokenbounds.bounds.assumptions import NOTHING_MORE
from tokenbounds.bounds.draws import Bpd
from tokenbounds.bounds.interface import Basis, Method
from tokenbounds.bounds.linear_form import linear_terms
from tokenbounds.bounds.subsampling import pilot_size
from tokenbounds.errors import InputError


class Freedman(Method):
    """Theorem C's linear form at g0 = 0, centred on the entropy: the bound of arXiv:2504.15208.

    With ``Y = clip(H, lo, hi)``, ``lambda = s / Delta`` and ``Z = Y - ln(1 + lambda (Y - X)) / lambda`` it is
    ``M <= mean Z + kappa / lambda``; smoothing and s are chosen on the pilot. For comparison: at equal
    choices Theorem C is never larger.
    """

    name = "freedman"
    label = "freedman (Finzi et al.)"
    assumes = NOTHING_MORE
    can_bound = (Bpd,)

    def grid_sizes(self, losses, grids):
        """Return the sizes of the grids of alpha and s."""
        return losses.grid_sizes(grids) | grids.sizes("freedman_fractions")

    def bound(self, losses, claim):
        """Choose smoothing and s on the pilot and bound by the other draws."""
        if losses.entropies is None:
            expected = "the entropy of each prediction, on which the freedman bound is centred"
            raise InputError(f"entropies is None; expected {expected}")
        grids = claim.grids
        basis = Basis.of(losses, claim, self.grid_sizes(losses, grids))
        n_pilot, centre, fractions = pilot_size(basis.n), search.EntropyCentre(), grids.freedman_fractions
        chosen = losses.options(grids), [centre], search.linear_value
        part = slice(None, n_pilot)
        option, s, *_ = search.best(losses, part, basis.kappa, np.asarray(fractions), *chosen)
        found = linear_terms(losses, option, s, centre, 0.0, basis.kappa, basis.delta2, grids)
        pilot, risk, terms, b = found
        choices = {}
        if b is not None:
            choices = {"freedman_fraction": s, "lambda": s / pilot.range, "sampling_bet_size": b}
        theorem = "Finzi et al. 2025 (Theorem C, linear form)"
        return basis.bound(self, theorem, pilot, risk, terms, choices=choices, n_pilot=n_pilot)
