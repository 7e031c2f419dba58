"""Generalization bounds as pure functions on arrays; the mathematics is in ``docs/theory.md``.

Every bound holds with probability at least 1 - delta by itself. Nothing here reads files or needs torch.
"""

from tokenbounds.bounds.azuma_bounds import (
    azuma,
    azuma_bpd,
    azuma_certified_bpd,
    azuma_certified_losses,
    azuma_losses,
    azuma_rigorous_bpd,
    azuma_terms,
)
from tokenbounds.bounds.betting_bounds import betting, betting_bpd, betting_losses
from tokenbounds.bounds.complexity import complexity_nats, payments_bits, payments_nats, split_delta, split_delta_paper
from tokenbounds.bounds.grids import Grids, logit_spaced
from tokenbounds.bounds.losses import (
    bpd_interval,
    numeric_slack_bits,
    random_guess_bpd,
    random_guess_topk,
    smoothed_losses,
    topk_errors,
)
from tokenbounds.bounds.result import Bound
from tokenbounds.bounds.subsampling import clopper_pearson_upper, iid_mean_upper, pilot_size
from tokenbounds.bounds.topk_bounds import azuma_certified_topk, azuma_topk, betting_topk

__all__ = [
    "Bound",
    "Grids",
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
    "clopper_pearson_upper",
    "complexity_nats",
    "iid_mean_upper",
    "logit_spaced",
    "numeric_slack_bits",
    "payments_bits",
    "payments_nats",
    "pilot_size",
    "random_guess_bpd",
    "random_guess_topk",
    "smoothed_losses",
    "split_delta",
    "split_delta_paper",
    "topk_errors",
]
