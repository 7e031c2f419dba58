"""Texts in the tokens of another tokenizer, and the tokens that can continue a text (docs/downstream.md).

A tokenizer may join the end of a context and the text after it to one token::

    context, decoded                  w a l          continuation    k i n g
    tokens of the context alone       [wal]          replaced
    tokens of context + continuation  [walking]      added

Tokens that both encodings begin with are `kept`.
"""

import bisect

import numpy as np

_REPLACEMENT = "\ufffd"  # decoded from bytes that are no whole character


def rewritten(context, drawn, source, target):
    """Write a context and its continuation in the tokens of another tokenizer.

    Parameters
    ----------
    context, drawn : sequence of int
        Tokens of `source`; the last of `drawn` may be its EOT.
    source, target : TextTokenizer

    Returns
    -------
    kept : ndarray of int64
        First tokens that the context alone and the context with its continuation share.
    replaced : ndarray of int64
        Other tokens of the context alone.
    added : ndarray of int64
        Other tokens of the context with its continuation.
    None
        Instead of all three, if the continuation adds no text of whole characters.
    """
    drawn = list(drawn)
    ended = drawn[-1] == source.eot_id
    # A character that is not whole yet belongs to the continuation.
    before = source.decode(context).rstrip(_REPLACEMENT)
    after = source.decode([*context, *(drawn[:-1] if ended else drawn)])
    if not after.startswith(before) or after.endswith(_REPLACEMENT) or (after == before and not ended):
        return None
    alone, together = (ids.astype(np.int64) for ids in target.encode_batch([before, after]))
    shortest = min(alone.size, together.size)
    different = np.flatnonzero(alone[:shortest] != together[:shortest])
    common = int(different[0]) if different.size else shortest
    added = np.concatenate([together[common:], [target.eot_id] if ended else []]).astype(np.int64)
    return (together[:common], alone[common:], added) if added.size else None


class Spellings:
    """An index of the bytes that tokens spell: it finds the tokens that can continue in a given text.

    Parameters
    ----------
    pieces : list of bytes
        Bytes that each token spells; empty for tokens that spell nothing.
    """

    def __init__(self, pieces):
        self.pieces = pieces
        self._ids = sorted((token for token, piece in enumerate(pieces) if piece), key=pieces.__getitem__)
        self._keys = [pieces[token] for token in self._ids]

    def text(self, tokens):
        """Join the bytes that tokens spell."""
        return b"".join(self.pieces[token] for token in tokens)

    def compatible(self, text):
        """List the tokens that begin with `text` (bytes, not empty), and those that `text` begins with.

        For the text "ab": "ab", "abc", ..., and "a".
        """
        first = bisect.bisect_left(self._keys, text)
        stop = bisect.bisect_right(self._keys, text, lo=first, key=lambda piece: piece[: len(text)])
        tokens = self._ids[first:stop]
        for length in range(1, len(text)):
            first, stop = (
                side(self._keys, text[:length]) for side in (bisect.bisect_left, bisect.bisect_right)
            )
            tokens += self._ids[first:stop]
        return tokens
