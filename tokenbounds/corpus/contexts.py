"""Contexts: the forward passes that score drawn tokens, windows and documents, as `Item`.

Every input lies within one document. A document of five tokens and its end-of-text token (EOT), at most L
tokens of context, ``s`` the start token::

    document                       x0 x1 x2 x3 x4 EOT
    drawn token x4, L = 3             [x1 x2 x3]            scores x4
    drawn document, L = 6, first   [x0 x1 x2 x3 x4]         scores x1 x2 x3 x4 EOT; a pass of [s] scores x0
    drawn document, L = 6, always  [s x0 x1 x2 x3 x4]       scores x0 x1 x2 x3 x4 EOT

A window is first cut into its documents (`tokenbounds.corpus.sampling.window_segments`)."""

import dataclasses

import numpy as np

from tokenbounds.corpus.sampling import window_segments


@dataclasses.dataclass(frozen=True)
class Item:
    """One forward pass.

    ::

        ids       i0 i1 i2 i3 i4       first = 2: the outputs after i2, i3 and i4 are predictions
        targets         t0 t1 t2       t0 = i3 and t1 = i4 where they are consecutive tokens

    Attributes
    ----------
    ids : ndarray of int64, shape (T,)
        Input tokens, all of one document (and perhaps a leading start token).
    first : int
        The prediction after ``ids[first + j]`` is for ``targets[j]``.
    targets : ndarray of int64, shape (Q,)
        Observed tokens.
    positions : ndarray of int64, shape (Q,)
        Global positions of the targets.
    contexts : ndarray of int32, shape (Q,)
        Number of tokens of the document that each prediction sees, not counting the start token.
    document : int
        Number of the document.
    draw : int
        Number of the draw that the item belongs to.
    length : int
        Fixed length, at least T, from which the shape of the computation follows: what is known before the
        first target (docs/theory.md, section 13). Of a single token, the length of its input; of a window or
        document, the most tokens that one is fed, for its own length would tell a token where its row ends.
    """

    ids: np.ndarray
    first: int
    targets: np.ndarray
    positions: np.ndarray
    contexts: np.ndarray
    document: int
    draw: int
    length: int


@dataclasses.dataclass(frozen=True)
class ContextRule:
    """Context of a prediction: its length, and when the start token precedes it.

    Attributes
    ----------
    length : int
        Most tokens that a prediction sees; all follow the last EOT.
    start_token : {"first", "always"}
        ``"first"``: the start token is seen only by a document's first token, which has no other context.
        ``"always"``: it precedes every context that reaches back to the document's start and has room for it.
    start_id : int
        Id of the start token.
    """

    length: int
    start_token: str
    start_id: int


def token_items(store, positions, rule, first_draw=0):
    """Build the items of single drawn tokens.

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
        yield Item(
            ids,
            ids.size - 1,
            tokens[-1:],
            np.array([position]),
            np.array([position - begin], dtype=np.int32),
            int(document),
            draw,
            ids.size,
        )


def with_start(ids, at_start, rule):
    """Build the input of one prediction: the start token if `rule` asks for it, then the context.

    Parameters
    ----------
    ids : ndarray of int64
        Context, at most ``rule.length`` tokens.
    at_start : bool
        Whether the context reaches back to the document's start.
    rule : ContextRule
    """
    if ids.size == 0 or (rule.start_token == "always" and at_start and ids.size < rule.length):
        return np.concatenate([[rule.start_id], ids])
    return ids


def window_items(store, windows, window, rule, first_draw=0):
    """Build the items of drawn windows of `window` consecutive tokens, cut where documents end.

    See docs/theory.md, section 5.

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
            yield from _passes(
                store, segment.document, segment.start, segment.first, segment.stop, rule, draw
            )


def _passes(store, document, begin, first, stop, rule, draw):
    """Build the items that score the tokens `first` to `stop` of a document given those from `begin` on."""
    tokens = store.tokens(begin, stop).astype(np.int64)
    at_start = begin == int(store.document_start(np.array([begin]))[0])
    if first == begin and not (at_start and rule.start_token == "always"):
        # No context at all: the start token alone, in a pass of its own so that later tokens do not see it.
        yield _segment_item(np.array([rule.start_id]), 0, tokens[:1], first, begin, document, draw, 1)
        first += 1
    if first == stop:
        return
    ids, offset = tokens[:-1], first - begin - 1
    if at_start and rule.start_token == "always":
        ids, offset = np.concatenate([[rule.start_id], ids]), offset + 1
    yield _segment_item(ids, offset, tokens[first - begin :], first, begin, document, draw, rule.length)


def document_items(store, documents, rule, first_draw=0):
    """Build the items of drawn documents: the first ``rule.length`` tokens of each, its EOT included.

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
        In draw order. A document is one pass; its first token has a pass of its own if ``rule.start_token``
        is ``"first"``.
    """
    documents = np.asarray(documents, dtype=np.int64)
    drawn = zip(documents.tolist(), store.start_of(documents).tolist(), strict=True)
    for draw, (document, begin) in enumerate(drawn, first_draw):
        stop = min(int(store.ends[document]), begin + rule.length)
        yield from _passes(store, document, begin, begin, stop, rule, draw)


def _segment_item(ids, offset, targets, first, begin, document, draw, length):
    positions = np.arange(first, first + targets.size)
    contexts = (positions - begin).astype(np.int32)
    return Item(ids, offset, targets, positions, contexts, int(document), draw, length)
