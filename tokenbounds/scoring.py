"""Score drawn tokens: log2 q(x_i), rank and entropy, each given the tokens of its own document only.

An `Item` is one forward pass over tokens of one document with one or more predictions read off it; nothing of another document is ever in
the input, so no mask is needed. Items are batched by length and padded on the right, which a causal model cannot see; the head is applied
to the scored positions only.
"""

import dataclasses
import math

import numpy as np
import torch
from tqdm import tqdm

from tokenbounds.corpus import window_segments
from tokenbounds.errors import InputError
from tokenbounds.streams import generator

LN2 = math.log(2)
# Most logits held at once. On a CPU 4 MiB stay in the cache, which is three times as fast as 128 MiB; a GPU wants few large steps.
_HEAD_ELEMENTS_CPU = 2**20
_HEAD_ELEMENTS_GPU = 2**26
_RESCORE_TOKENS = 4096


@dataclasses.dataclass(frozen=True)
class Item:
    """One forward pass.

    Attributes
    ----------
    ids : ndarray of int64, shape (T,)
        Input tokens, all of one document (and perhaps a leading start token).
    first : int
        The prediction after ``ids[first + j]`` is for ``targets[j]``.
    targets : ndarray of int64, shape (Q,)
        Tokens that were observed.
    positions : ndarray of int64, shape (Q,)
        Their global positions.
    contexts : ndarray of int32, shape (Q,)
        How many tokens of the document each prediction sees, the start token not counted.
    document : int
        The document's number.
    draw : int
        The draw the item belongs to.
    """

    ids: np.ndarray
    first: int
    targets: np.ndarray
    positions: np.ndarray
    contexts: np.ndarray
    document: int
    draw: int


@dataclasses.dataclass(frozen=True)
class ContextRule:
    """What a prediction sees: at most `length` tokens after the last EOT, and when the start token is put before them.

    ``start_token="first"``: only where there would be no context at all. ``"always"``: wherever the context reaches back to the document's
    start and there is room.
    """

    length: int
    start_token: str
    start_id: int


def token_items(store, positions, rule, first_draw=0):
    """Items for single drawn tokens.

    Parameters
    ----------
    store : TokenStore
    positions : array_like of int, shape (n,)
        Global positions, in draw order.
    rule : ContextRule
    first_draw : int
        Number of the first draw.

    Yields
    ------
    Item
        With one prediction each, in draw order.
    """
    positions = np.asarray(positions, dtype=np.int64)
    documents = store.document_of(positions)
    starts = store.document_start(positions)
    drawn = zip(positions.tolist(), documents.tolist(), starts.tolist(), strict=True)
    for draw, (position, document, start) in enumerate(drawn, first_draw):
        begin = max(start, position - rule.length)
        tokens = store.tokens(begin, position + 1).astype(np.int64)
        ids = with_start(tokens[:-1], begin == start, rule)
        yield Item(ids, ids.size - 1, tokens[-1:], np.array([position]), np.array([position - begin], dtype=np.int32), int(document), draw)


def with_start(ids, at_start, rule):
    """The input of one prediction: its context `ids` (at most ``rule.length``), after the start token where `rule` puts it.

    `at_start`: whether they reach back to the document's start.
    """
    if ids.size == 0 or (rule.start_token == "always" and at_start and ids.size < rule.length):
        return np.concatenate([[rule.start_id], ids])
    return ids


def window_items(store, windows, window, rule, first_draw=0):
    """Items for drawn windows of `window` consecutive tokens: a window is cut where documents end (docs/theory.md, section 5).

    Parameters
    ----------
    store : TokenStore
    windows : array_like of int, shape (n,)
        Window numbers, in draw order; window w holds the tokens w * window to (w + 1) * window - 1.
    window : int
        Tokens scored per window (S).
    rule : ContextRule
        Its length is the most tokens fed per window (L).
    first_draw : int
        Number of the first draw.

    Yields
    ------
    Item
        In draw order, and within a draw in the order of the tokens.
    """
    for draw, number in enumerate(np.asarray(windows, dtype=np.int64).tolist(), first_draw):
        for segment in window_segments(number, window, rule.length, store.ends):
            yield from _passes(store, segment.document, segment.start, segment.first, segment.stop, rule, draw)


def _passes(store, document, begin, first, stop, rule, draw):
    """Items that score the tokens `first` to `stop` of a document given those from `begin` on."""
    tokens = store.tokens(begin, stop).astype(np.int64)
    at_start = begin == int(store.document_start(np.array([begin]))[0])
    if first == begin and not (at_start and rule.start_token == "always"):
        # No context at all: the start token alone, in a pass of its own so that later tokens do not see it.
        yield _segment_item(np.array([rule.start_id]), 0, tokens[:1], first, begin, document, draw)
        first += 1
    if first == stop:
        return
    ids, offset = tokens[:-1], first - begin - 1
    if at_start and rule.start_token == "always":
        ids, offset = np.concatenate([[rule.start_id], ids]), offset + 1
    yield _segment_item(ids, offset, tokens[first - begin :], first, begin, document, draw)


def document_items(store, documents, rule, first_draw=0):
    """Items for drawn documents: the first ``rule.length`` tokens of each, its EOT one of them, in one pass.

    Parameters
    ----------
    store : TokenStore
    documents : array_like of int, shape (n,)
        Document numbers, in draw order.
    rule : ContextRule
        Its length is the most tokens of a document that make up its loss.
    first_draw : int
        Number of the first draw.

    Yields
    ------
    Item
        In draw order; a document's first token has a pass of its own where the start token is for it alone.
    """
    documents = np.asarray(documents, dtype=np.int64)
    drawn = zip(documents.tolist(), store.start_of(documents).tolist(), strict=True)
    for draw, (document, begin) in enumerate(drawn, first_draw):
        stop = min(int(store.ends[document]), begin + rule.length)
        yield from _passes(store, document, begin, begin, stop, rule, draw)


def _segment_item(ids, offset, targets, first, begin, document, draw):
    positions = np.arange(first, first + targets.size)
    return Item(ids, offset, targets, positions, (positions - begin).astype(np.int32), int(document), draw)


def batches(lengths, batch_tokens):
    """Group items by length: lists of item numbers whose padded size is at most `batch_tokens` (one item may exceed it alone).

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
    """Inputs of different lengths as one array of int64, (B, T), with zeros after the shorter ones: a causal model cannot see them."""
    ids = np.zeros((len(inputs), max(found.size for found in inputs)), dtype=np.int64)
    for row, found in enumerate(inputs):
        ids[row, : found.size] = found
    return ids


def predictions(logits, targets):
    """log2 probability, rank and entropy of each row.

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
        With ``hidden(ids (B, T)) -> (B, T, width)`` and ``head(hidden) -> float32 logits (..., V)`` over the V real tokens, and perhaps
        ``alpha_head(hidden, entropy_bits) -> alpha``.
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
    return [(log2_q, rank, entropy, *alpha) for _, log2_q, rank, entropy, *alpha in _scored(model, items, batch_tokens, name, progress)]


def features(model, items, *, batch_tokens, name="model", progress=False):
    """What a smoothing head is trained on: final states, and log2 q and entropy as `score_items` gives them.

    Returns
    -------
    hidden : ndarray of float32, shape (Q, width)
        A row per scored token, in the order of the items.
    log2_q, entropy_bits : ndarray of float64, shape (Q,)
    """
    columns = [np.concatenate(column) for column in zip(*_scored(model, items, batch_tokens, name, progress, states=True), strict=True)]
    return columns[0], columns[1], columns[3]


@torch.inference_mode()
def _scored(model, items, batch_tokens, name, progress, states=False):
    """Per item, a list of arrays: its final states (Q, width), or None without `states`, then the columns of `score_items`."""
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
    """The arrays for all scored positions of a batch, the head applied in chunks so that memory stays bounded."""
    vocab_size = model.head(hidden[:1]).shape[-1]
    step = max(1, (_HEAD_ELEMENTS_CPU if hidden.device.type == "cpu" else _HEAD_ELEMENTS_GPU) // vocab_size)
    parts = [predictions(model.head(hidden[i : i + step]).float(), targets[i : i + step]) for i in range(0, len(hidden), step)]
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    if getattr(model, "alpha_head", None) is not None:
        columns.append(model.alpha_head(hidden, columns[2]))
    return [column.cpu().numpy() for column in columns]


@torch.inference_mode()
def rank_interval(model, item, tolerance_nats):
    """Least and greatest rank of each target of an item when logits may be off by `tolerance_nats` > 0: arrays of shape (Q,)."""
    device = next(model.parameters()).device
    hidden = model.hidden(torch.from_numpy(item.ids[None]).to(device))[0, item.first : item.first + item.targets.size]
    logits = model.head(hidden).double()
    chosen = logits.gather(-1, torch.from_numpy(item.targets).to(device)[:, None])
    least, greatest = ((logits >= chosen + shift).sum(dim=-1) for shift in (tolerance_nats, -tolerance_nats))
    return least.cpu().numpy(), (greatest - 1).cpu().numpy()  # the target itself is among the latter


def largest_difference(scored, again):
    """How far the log-probability of a smoothed prediction can differ between two scorings of the same item, in nats.

    p = (1 - alpha) q + alpha / V changes by at most the larger factor of its two terms.
    """
    difference = np.abs(scored[0] - again[0]) * LN2
    if len(scored) > 3:
        smoothed, kept = np.abs(np.log(scored[3]) - np.log(again[3])), np.abs(np.log1p(-scored[3]) - np.log1p(-again[3]))
        difference = np.maximum(difference + kept, smoothed)
    return float(difference.max())  # a NaN stays one


def rescoring_difference(model, items, scored, *, seed, stream, sample=64, name="model"):
    """Largest difference in log-probability between a scoring run and a sample scored again, one by one and in batches of other shapes.

    Parameters
    ----------
    model, items, scored
        As given to and returned by `score_items`.
    seed : int
        The run's seed.
    stream : str
        Name of the part, so that parts are sampled independently.
    sample : int
        Number of items scored again.

    Returns
    -------
    float
        In nats: the ε of docs/theory.md, section 2.
    """
    chosen = generator(seed, "rescore", stream).choice(len(items), size=min(sample, len(items)), replace=False)
    picked = [items[i] for i in chosen]
    shapes = [score_items(model, picked, batch_tokens=batch_tokens, name=name) for batch_tokens in (1, _RESCORE_TOKENS)]
    # np.max and not max: a NaN must come out, and be refused
    return float(np.max([largest_difference(scored[i], new) for again in shapes for i, new in zip(chosen, again, strict=True)]))
