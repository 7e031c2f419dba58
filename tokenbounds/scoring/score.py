"""Scoring of drawn tokens: log2 q(x_i), rank and entropy, each given the tokens of its own document only.

An `Item` is one forward pass over tokens of one document with one or more predictions read off it. The input
holds no token of another document, so no mask is needed. `tokenbounds.scoring.shapes` says in which shapes it
is computed.
"""

import math

import numpy as np
import torch

from tokenbounds.errors import InputError
from tokenbounds.scoring.records import RANK_TOLERANCE_NATS
from tokenbounds.scoring.shapes import scored_logits

LN2 = math.log(2)


def predictions(logits, targets, tolerances=(RANK_TOLERANCE_NATS,)):
    """Compute log2 probability, rank and entropy of each row of logits.

    Parameters
    ----------
    logits : Tensor of float32, shape (Q, V)
    targets : Tensor of int64, shape (Q,)
    tolerances : sequence of float
        Differences of logits, in nats, up to which a less probable token counts as equally probable: a rank
        for each.

    Returns
    -------
    log2_q : Tensor of float64, shape (Q,)
        log2 softmax(logits)[target]; sums in float64.
    entropy_bits : Tensor of float64, shape (Q,)
    *ranks : Tensors of int64, shape (Q,)
        Number of tokens at least as probable as the target, up to the tolerance, minus one: ties and
        near-ties count against the model.
    """
    shifted = logits - logits.max(dim=-1, keepdim=True).values
    chosen = shifted.gather(-1, targets[:, None])
    exponentials = shifted.exp()
    total = exponentials.sum(dim=-1, dtype=torch.float64)
    mean_shift = (exponentials * shifted).sum(dim=-1, dtype=torch.float64) / total
    ranks = ((shifted >= chosen - tolerance).sum(dim=-1) - 1 for tolerance in tolerances)
    return (
        (chosen[:, 0].double() - total.log()) / LN2,
        (total.log() - mean_shift).clamp(min=0) / LN2,
        *ranks,
    )


def score_items(model, items, *, arithmetic, name="model", progress=False, rng=None):
    """Score items with a neural model.

    Parameters
    ----------
    model : module
        With ``hidden(ids (B, T)) -> (B, T, width)`` and ``head(hidden) -> logits (..., V)`` over the V real
        tokens, and perhaps ``alpha_head(hidden, entropy_bits) -> alpha`` and ``longest``, its longest input.
        Its weights have the type of `arithmetic` (see `tokenbounds.models.precision.cast`).
    items : list of Item
    arithmetic : dict
        Fields of `tokenbounds.config.schema.Arithmetic`, as the model's message names them: they are part of
        the hypothesis (docs/theory.md, section 13).
    name : str
        For errors.
    progress : bool
        Show a bar on a terminal, log a timed line otherwise.
    rng : numpy.random.Generator, optional
        Gives the items other neighbours in other rows, which may change no result.

    Returns
    -------
    list of (log2_q, rank, entropy_bits) or (log2_q, rank, entropy_bits, alpha)
        Per item, arrays of shape (Q,): float64, int64, float64, float64.

    Raises
    ------
    InputError
        A logit is not finite; names the model and the position. Or as for
        `tokenbounds.scoring.shapes.scored_logits`.
    """
    columns = _columns(model, items, arithmetic, name, progress, rng=rng)
    return _per_item(items, _recorded(columns))


def rank_interval(model, item, tolerance_nats=RANK_TOLERANCE_NATS, *, arithmetic, name="model"):
    """Compute the ranks that a record of an item may hold where logits were off by half of a tolerance.

    Parameters
    ----------
    model, item, arithmetic, name
        As for `score_items`.
    tolerance_nats : float
        Largest change of a difference of two logits.

    Returns
    -------
    least, greatest : ndarray of int64, shape (Q,)
        Ranks that count near-ties up to `RANK_TOLERANCE_NATS` minus and plus `tolerance_nats`.
    """
    tolerances = (RANK_TOLERANCE_NATS - tolerance_nats, RANK_TOLERANCE_NATS + tolerance_nats)
    least, greatest = _columns(model, [item], arithmetic, name, tolerances=tolerances)["ranks"]
    return np.maximum(least, 0), greatest


def features(model, items, *, arithmetic, name="model", progress=False):
    """Compute the training data of a smoothing head: final states, and log2 q and entropy as `score_items`
    returns them.

    Returns
    -------
    hidden : ndarray of float32, shape (Q, width)
        A row per scored token, in the order of the items.
    log2_q, entropy_bits : ndarray of float64, shape (Q,)
    """
    columns = _columns(model, items, arithmetic, name, progress, states=True)
    return columns["hidden"], columns["log2_q"], columns["entropy_bits"]


@torch.inference_mode()
def _columns(
    model,
    items,
    arithmetic,
    name,
    progress=False,
    *,
    tolerances=(RANK_TOLERANCE_NATS,),
    states=False,
    rng=None,
):
    """Compute the arrays of all scored tokens, in the order of the items: ``log2_q``, ``entropy_bits``,
    ``ranks`` (one per tolerance), ``alpha`` (None without a head), and with `states` ``hidden`` (Q, width).

    With `rng`, neighbours are others (`tokenbounds.scoring.shapes.batches`)."""
    targets = torch.from_numpy(np.concatenate([item.targets for item in items] or [np.zeros(0, np.int64)]))
    count, head = len(targets), getattr(model, "alpha_head", None)
    columns = {"log2_q": np.empty(count), "entropy_bits": np.empty(count)}
    columns |= {"ranks": [np.empty(count, np.int64) for _ in tolerances]}
    columns |= {"alpha": None if head is None else np.empty(count), "hidden": None}
    chunks = scored_logits(
        model,
        [item.ids for item in items],
        [item.length for item in items],
        [np.arange(item.first, item.first + item.targets.size) for item in items],
        arithmetic=arithmetic,
        name=name,
        progress=progress,
        rng=rng,
    )
    for places, hidden, logits in chunks:
        real = len(places)
        chosen = torch.zeros(len(logits), dtype=torch.int64)
        chosen[:real] = targets[places]
        log2_q, entropy_bits, *ranks = predictions(logits, chosen.to(logits.device), tolerances)
        found = [(columns["log2_q"], log2_q), (columns["entropy_bits"], entropy_bits)]
        found += zip(columns["ranks"], ranks, strict=True)
        if head is not None:
            found.append((columns["alpha"], head(hidden, entropy_bits)))
        if states:
            if columns["hidden"] is None:
                columns["hidden"] = np.empty((count, hidden.shape[-1]), np.float32)
            found.append((columns["hidden"], hidden.float()))
        for column, values in found:
            column[places] = values[:real].cpu().numpy()
    _check_finite(items, columns, name)
    return columns


def _check_finite(items, columns, name):
    """Raise an `InputError` that names the first token whose prediction is not finite."""
    total = columns["log2_q"] + columns["entropy_bits"]
    wrong = np.flatnonzero(~np.isfinite(total if columns["alpha"] is None else total + columns["alpha"]))
    if wrong.size:
        position = np.concatenate([item.positions for item in items])[wrong[0]]
        raise InputError(f"{name}: the prediction for the token at position {position} is not finite")


def _recorded(columns):
    """List the columns of `score_items`."""
    alpha = [] if columns["alpha"] is None else [columns["alpha"]]
    return [columns["log2_q"], columns["ranks"][0], columns["entropy_bits"], *alpha]


def _per_item(items, columns):
    """Split columns of all scored tokens into a tuple of arrays per item."""
    bounds = np.cumsum([item.targets.size for item in items])[:-1]
    return list(zip(*(np.split(column, bounds) for column in columns), strict=True)) if items else []


def largest_difference(scored, again):
    """Bound the difference of log-probabilities of smoothed predictions between two scorings of an item, in
    nats.

    p = (1 - alpha) q + alpha / V changes by at most the larger factor of its two terms.
    """
    difference = np.abs(scored[0] - again[0]) * LN2
    if len(scored) > 3:
        smoothed, kept = (
            np.abs(np.log(scored[3]) - np.log(again[3])),
            np.abs(np.log1p(-scored[3]) - np.log1p(-again[3])),
        )
        difference = np.maximum(difference + kept, smoothed)
    return float(difference.max())  # a NaN stays one
