"""Scoring of drawn tokens: log2 q(x_i), rank and entropy, each given the tokens of its own document only.

An `Item` is one forward pass over tokens of one document with one or more predictions read off it. The input
holds no token of another document, so no mask is needed. Items are batched by length and padded on the right,
which a causal model cannot see; the head is applied to the scored positions only::

    item 0    t t t t t t p      t  token of the input
    item 1    t t t t p          p  prediction that is scored
    item 2    t t p p            0  padding
              ------------->  padded to the longest, B x T
"""

import math

import numpy as np
import torch
from tqdm import tqdm

from tokenbounds.errors import InputError
from tokenbounds.randomness import generator

LN2 = math.log(2)
# Most logits held at once. On a CPU 4 MiB stay in the cache, which is three times as fast as 128 MiB; a GPU
# wants few large steps.
_HEAD_ELEMENTS_CPU = 2**20
_HEAD_ELEMENTS_GPU = 2**26
_RESCORE_TOKENS = 4096


def batches(lengths, batch_tokens):
    """Group items by length: yield lists of item numbers whose padded size is at most `batch_tokens` (one
    item may exceed it alone).

    Longest first, so that memory is at its peak at once and not after an hour.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batch, longest = [], 0
    for i in order.tolist():
        if batch and (len(batch) + 1) * longest > batch_tokens:
            yield batch
            batch = []
        if not batch:
            longest = int(lengths[i])
        batch.append(i)
    if batch:
        yield batch


def padded(inputs):
    """Join inputs of different lengths to one array of int64, (B, T), with zeros after the shorter ones: a
    causal model cannot see them."""
    ids = np.zeros((len(inputs), max(tokens.size for tokens in inputs)), dtype=np.int64)
    for row, tokens in enumerate(inputs):
        ids[row, : tokens.size] = tokens
    return ids


def predictions(logits, targets):
    """Compute log2 probability, rank and entropy of each row of logits.

    Parameters
    ----------
    logits : Tensor of float32, shape (Q, V)
    targets : Tensor of int64, shape (Q,)

    Returns
    -------
    log2_q : Tensor of float64, shape (Q,)
        log2 softmax(logits)[target]; sums in float64.
    rank : Tensor of int64, shape (Q,)
        Number of tokens at least as probable as the target, minus one: ties count against the model.
    entropy_bits : Tensor of float64, shape (Q,)
    """
    shifted = logits - logits.max(dim=-1, keepdim=True).values
    chosen = shifted.gather(-1, targets[:, None])
    exponentials = shifted.exp()
    total = exponentials.sum(dim=-1, dtype=torch.float64)
    mean_shift = (exponentials * shifted).sum(dim=-1, dtype=torch.float64) / total
    rank = (shifted >= chosen).sum(dim=-1) - 1
    return (chosen[:, 0].double() - total.log()) / LN2, rank, (total.log() - mean_shift).clamp(min=0) / LN2


def score_items(model, items, *, batch_tokens, name="model", progress=False):
    """Score items with a neural model.

    Parameters
    ----------
    model : module
        With ``hidden(ids (B, T)) -> (B, T, width)`` and ``head(hidden) -> float32 logits (..., V)`` over the
        V real tokens, and perhaps ``alpha_head(hidden, entropy_bits) -> alpha``.
    items : list of Item
    batch_tokens : int
        Most tokens per batch, padding included. Changes results by rounding only.
    name : str
        For errors.
    progress : bool
        Show a bar on a terminal, log a timed line otherwise.

    Returns
    -------
    list of (log2_q, rank, entropy_bits) or (log2_q, rank, entropy_bits, alpha)
        Per item, arrays of shape (Q,): float64, int64, float64, float64.

    Raises
    ------
    InputError
        A logit is not finite; names the model and the position.
    """
    return [
        (log2_q, rank, entropy, *alpha)
        for _, log2_q, rank, entropy, *alpha in _scored(model, items, batch_tokens, name, progress)
    ]


def features(model, items, *, batch_tokens, name="model", progress=False):
    """Compute the training data of a smoothing head: final states, and log2 q and entropy as `score_items`
    returns them.

    Returns
    -------
    hidden : ndarray of float32, shape (Q, width)
        A row per scored token, in the order of the items.
    log2_q, entropy_bits : ndarray of float64, shape (Q,)
    """
    columns = [
        np.concatenate(column)
        for column in zip(*_scored(model, items, batch_tokens, name, progress, states=True), strict=True)
    ]
    return columns[0], columns[1], columns[3]


@torch.inference_mode()
def _scored(model, items, batch_tokens, name, progress, states=False):
    """Return a list of arrays per item: its final states (Q, width), or None without `states`, and then the
    columns of `score_items`."""
    device = next(model.parameters()).device
    model.eval()
    scored, groups = [None] * len(items), list(batches([item.ids.size for item in items], batch_tokens))
    for batch in tqdm(groups, desc=f"score {name}", unit="batch", disable=None if progress else True):
        chosen = [items[i] for i in batch]
        ids = padded([item.ids for item in chosen])
        counts = [item.targets.size for item in chosen]
        rows = np.repeat(np.arange(len(chosen)), counts)
        columns = np.concatenate([np.arange(item.first, item.first + item.targets.size) for item in chosen])
        targets = torch.from_numpy(np.concatenate([item.targets for item in chosen])).to(device)
        hidden = model.hidden(torch.from_numpy(ids).to(device))  # (B, T, width)
        hidden = hidden[torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)]  # (Q, width)
        results = _score_hidden(model, hidden, targets)
        wrong = ~np.isfinite(sum(results[i] for i in range(len(results)) if i != 1))
        if wrong.any():
            position = np.concatenate([item.positions for item in chosen])[int(np.flatnonzero(wrong)[0])]
            raise InputError(f"{name}: the prediction for the token at position {position} is not finite")
        bounds = np.cumsum(counts)[:-1]
        kept = np.split(hidden.cpu().numpy(), bounds) if states else [None] * len(batch)
        for i, *parts in zip(batch, kept, *(np.split(result, bounds) for result in results), strict=True):
            scored[i] = parts
    return scored


def _score_hidden(model, hidden, targets):
    """Compute the arrays of all scored positions of a batch; the head is applied in chunks, so that memory
    stays bounded."""
    vocab_size = model.head(hidden[:1]).shape[-1]
    step = max(1, (_HEAD_ELEMENTS_CPU if hidden.device.type == "cpu" else _HEAD_ELEMENTS_GPU) // vocab_size)
    parts = [
        predictions(model.head(hidden[i : i + step]).float(), targets[i : i + step])
        for i in range(0, len(hidden), step)
    ]
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    if getattr(model, "alpha_head", None) is not None:
        columns.append(model.alpha_head(hidden, columns[2]))
    return [column.cpu().numpy() for column in columns]


@torch.inference_mode()
def rank_interval(model, item, tolerance_nats):
    """Return the least and greatest rank of each target of an item, arrays of shape (Q,), when logits may be
    off by `tolerance_nats` > 0."""
    device = next(model.parameters()).device
    hidden = model.hidden(torch.from_numpy(item.ids[None]).to(device))[
        0, item.first : item.first + item.targets.size
    ]
    logits = model.head(hidden).double()
    chosen = logits.gather(-1, torch.from_numpy(item.targets).to(device)[:, None])
    least, greatest = ((logits >= chosen + shift).sum(dim=-1) for shift in (tolerance_nats, -tolerance_nats))
    return least.cpu().numpy(), (greatest - 1).cpu().numpy()  # the target itself is among the latter


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


def rescoring_difference(model, items, scored, *, seed, stream, sample=64, name="model"):
    """Measure the largest difference in log-probability between a scoring run and a sample scored again, one
    by one and in batches of other shapes.

    Parameters
    ----------
    model, items, scored
        Arguments and result of `score_items`.
    seed : int
        The run's seed.
    stream : str
        Name of the part, so that parts are sampled independently.
    sample : int
        Number of items scored again.

    Returns
    -------
    float
        Difference in nats: the ε of docs/theory.md, section 2.
    """
    chosen = generator(seed, "rescore", stream).choice(
        len(items), size=min(sample, len(items)), replace=False
    )
    picked = [items[i] for i in chosen]
    shapes = [
        score_items(model, picked, batch_tokens=batch_tokens, name=name)
        for batch_tokens in (1, _RESCORE_TOKENS)
    ]
    # np.max and not max: a NaN must come out, and be refused
    return float(
        np.max(
            [
                largest_difference(scored[i], new)
                for again in shapes
                for i, new in zip(chosen, again, strict=True)
            ]
        )
    )
