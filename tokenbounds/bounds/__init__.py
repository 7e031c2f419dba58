"""Generalization bounds as pure functions on arrays (docs/theory.md).

In: losses of drawn tokens (log-probabilities, ranks or numbers) and a `Claim`: message length, corpus size,
delta. Out: a `Bound`, which holds with probability at least 1 - delta by itself, with its terms and choices.
`Method` is the interface of a bound; `tokenbounds.bounds.methods` lists all of them. No files, no torch.
"""

from tokenbounds.bounds.assumptions import (
    CONDITIONING,
    DRAWS_STATEMENT,
    NOTHING_MORE,
    WITHOUT_BEACON,
)
from tokenbounds.bounds.azuma_bounds import azuma_terms
from tokenbounds.bounds.bpd_functions import (
    azuma_bpd,
    azuma_certified_bpd,
    azuma_rigorous_bpd,
    betting_bpd,
    freedman_bpd,
)
from tokenbounds.bounds.complexity import (
    attempts_share,
    candidates_of,
    complexity_nats,
    complexity_terms,
    split_delta,
    split_delta_paper,
    total_nats,
)
from tokenbounds.bounds.draws import Bounded, Bpd, Document, TopK
from tokenbounds.bounds.functions import (
    azuma,
    azuma_certified_losses,
    azuma_certified_topk,
    azuma_losses,
    azuma_topk,
    betting,
    betting_losses,
    betting_topk,
)
from tokenbounds.bounds.grids import Grids, grids_of, logit_spaced
from tokenbounds.bounds.interface import Basis, Claim, Method
from tokenbounds.bounds.losses import (
    bpd_interval,
    random_guess_bpd,
    random_guess_topk,
    smoothed_losses,
    topk_errors,
)
from tokenbounds.bounds.result import Bound
from tokenbounds.bounds.subsampling import clopper_pearson_upper, iid_mean_upper, pilot_size

__all__ = [
    "CONDITIONING",
    "DRAWS_STATEMENT",
    "NOTHING_MORE",
    "WITHOUT_BEACON",
    "Basis",
    "Bound",
    "Bounded",
    "Bpd",
    "Claim",
    "Document",
    "Grids",
    "Method",
    "TopK",
    "attempts_share",
    "azuma",
    "azuma_bpd",
    "azuma_certified_bpd",
    "azuma_certified_losses",
    "azuma_certified_topk",
    "azuma_losses",
    "azuma_rigorous_bpd",
    "azuma_terms",
    "azuma_topk",
    "betting",
    "betting_bpd",
    "betting_losses",
    "betting_topk",
    "bpd_interval",
    "candidates_of",
    "clopper_pearson_upper",
    "complexity_nats",
    "complexity_terms",
    "freedman_bpd",
    "grids_of",
    "iid_mean_upper",
    "logit_spaced",
    "pilot_size",
    "random_guess_bpd",
    "random_guess_topk",
    "smoothed_losses",
    "split_delta",
    "split_delta_paper",
    "topk_errors",
    "total_nats",
]
