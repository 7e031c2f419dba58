"""Sparse k-th order Markov chains over tokens (paper, 6.4 and B.5): a token is as probable as it was frequent after the same context.

The context of a token is the last k tokens of its own document. Where the document has fewer, the places before its start hold a symbol of
their own, V: "the second token of a document that begins with x" is a context too, and no other document's tokens are in any.
"""

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from tokenbounds.count_codec import MAX_COUNT, check_counts, unrolled
from tokenbounds.errors import InputError
from tokenbounds.sections import HypothesisConfig
from tokenbounds.streams import generator


class MarkovConfig(HypothesisConfig):
    """Everything that defines a Markov chain but its n-grams and counts."""

    family: Literal["markov"] = Field(description="Model family.")
    order: int = Field(description="Tokens k of context.", ge=0)
    ngrams: int = Field(description="Number of n-grams: contexts of k tokens with a token that followed.", ge=1)
    floor_bits: int = Field(description="2^-floor_bits of each prediction is spread evenly over all tokens.", ge=1, le=30)


class MarkovChain(nn.Module):
    """q(x | context) = (1 - e) count(context, x) / count(context) + e / V with e = 2^-floor_bits; 1 / V after an unseen context.

    Parameters
    ----------
    config : MarkovConfig

    Notes
    -----
    Its tensors are those of `tokenbounds.count_codec.CountsCodec`. They are parameters that do not train, so that it is written, loaded and
    moved as any model.
    """

    Config = MarkovConfig

    def __init__(self, config):
        super().__init__()
        self.config = config
        for name, shape in self.layout():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape, dtype=torch.int32), requires_grad=False))
        self._index = None

    @classmethod
    def from_config(cls, config):
        """The chain of a checked configuration (`MarkovConfig` as a dictionary), without its counts."""
        return cls(MarkovConfig.model_validate(config))

    def layout(self):
        """(name, shape) of every tensor, in a fixed order."""
        return [("ngrams", (self.config.ngrams, self.config.order + 1)), ("counts", (self.config.ngrams,))]

    def hidden(self, ids):
        """The last k tokens (B, T, k), int64, up to each of `ids` (B, T); V before the first, and up to an EOT: it stands for the start."""
        k, start = self.config.order, self.config.vocab_size
        padded = torch.cat([ids.new_full((ids.shape[0], k), start), ids], dim=1)
        windows = padded.unfold(1, k, 1)[:, 1:] if k else ids.new_zeros((*ids.shape, 0))  # (B, T, k)
        ended = (windows == self.config.eot_id).flip(-1).cumsum(-1).flip(-1) > 0  # at or before the last EOT
        return windows.masked_fill(ended, start)

    def head(self, hidden):
        """Logits (..., V), float32: ln q after the contexts (..., k)."""
        config, index = self.config, self._indexed()
        contexts = hidden.flatten(end_dim=-2)
        first, size = index.find(contexts)
        floor = 2.0**-config.floor_bits
        q = torch.full((len(contexts), config.vocab_size), floor / config.vocab_size, dtype=torch.float64, device=hidden.device)
        q[size == 0] = 1 / config.vocab_size
        rows = torch.repeat_interleave(torch.arange(len(contexts), device=hidden.device), size)
        entries = torch.arange(len(rows), device=hidden.device) + torch.repeat_interleave(first - (size.cumsum(0) - size), size)
        counts = self.counts[entries].double()
        totals = torch.zeros(len(contexts), dtype=torch.float64, device=hidden.device).index_add_(0, rows, counts)
        q[rows, self.ngrams[entries, -1].long()] += (1 - floor) * counts / totals[rows]
        return q.log().float().reshape(*hidden.shape[:-1], config.vocab_size)

    def _indexed(self):
        if self._index is None or self._index.starts.device != self.ngrams.device:
            self._index = _Index(self.ngrams.detach().long(), self.config.vocab_size)
            check_counts(self.counts.cpu().numpy().astype(np.int64), self._index.context.cpu().numpy())
        return self._index


class _Index:
    """Finds the rows of a context among sorted n-grams: a search per token of the context, so that no key is longer than 63 bits."""

    def __init__(self, ngrams, vocab_size):
        self.base, self.keys = vocab_size + 1, []
        bad = (ngrams < 0) | (ngrams > vocab_size)
        if bad.any() or (ngrams[:, -1] == vocab_size).any():
            raise InputError(f"n-grams with tokens {int(ngrams.min())} to {int(ngrams.max())}; expected 0 to {vocab_size - 1}")
        context = torch.zeros(len(ngrams), dtype=torch.int64, device=ngrams.device)  # number of the row's first j tokens
        for tokens in ngrams[:, :-1].T:
            keys, context = torch.unique_consecutive(context * self.base + tokens, return_inverse=True)
            self.keys.append(keys)
        order = context * self.base + ngrams[:, -1]
        if any((keys.diff() <= 0).any() for keys in (*self.keys, order)):
            raise InputError("n-grams that are not in ascending order; expected them as they were coded")
        self.context = context
        self.sizes = torch.bincount(context)
        self.starts = self.sizes.cumsum(0) - self.sizes

    def find(self, contexts):
        """First row and number of rows of each of `contexts` (Q, k); no rows where one is not there."""
        found = torch.zeros(len(contexts), dtype=torch.int64, device=contexts.device)
        known = torch.ones(len(contexts), dtype=torch.bool, device=contexts.device)
        for keys, tokens in zip(self.keys, contexts.T, strict=True):
            wanted = found * self.base + tokens
            found = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
            known &= keys[found] == wanted
        return self.starts[found], self.sizes[found] * known


def count_ngrams(tokens, order, vocab_size, eot_id):
    """Distinct contexts of `order` tokens with the token after, and how often each occurs.

    Parameters
    ----------
    tokens : ndarray of int, shape (n,)
        Whole documents, each closed by `eot_id`.
    order : int
        k.

    Returns
    -------
    ngrams : ndarray of int32, shape (N, k + 1)
        Ascending rows; `vocab_size` where a context reaches before its document's start.
    counts : ndarray of int64, shape (N,)

    Notes
    -----
    By sorting: the (j+1)-grams are numbered by the number of their first j tokens and the last, so that every key is one integer. Peak
    memory is some 40 bytes per token and four more per token of context.
    """
    if not tokens.size or tokens[-1] != eot_id:
        raise InputError("tokens do not end with an end-of-text token; expected whole documents")
    starts = np.flatnonzero(np.concatenate([[True], tokens[:-1] == eot_id]))
    base, levels = vocab_size + 1, []
    context = np.zeros(tokens.size, np.int64)
    for _ in range(order):
        context *= base
        context += tokens
        keys, number = _unique_inverse(context)
        levels.append(np.divmod(keys, base))
        context[1:] = number[:-1]
        context[starts] = keys.size
        del number
    context *= base
    context += tokens
    context.sort()
    last = np.flatnonzero(np.append(context[1:] != context[:-1], True))
    keys, counts = context[last], np.diff(last, prepend=-1)
    del context, last
    levels.append(np.divmod(keys, base))
    return unrolled(levels, vocab_size), counts


def _unique_inverse(values):
    """As numpy.unique with the inverse, with fewer copies."""
    order = np.argsort(values)
    ordered = values[order]
    new = np.concatenate([[False], ordered[1:] != ordered[:-1]])
    unique = ordered[np.concatenate([[True], new[1:]])]
    del ordered
    inverse = np.empty(values.size, np.int64)
    inverse[order] = np.cumsum(new)
    return unique, inverse


def quantize_counts(ngrams, counts):
    """Counts of 16 bits: each context's counts without their common divisor and, where the largest is above 65535, scaled down.

    A scaled count is rounded to the nearest integer, at least 1, so that no token that was seen becomes unseen.

    Returns
    -------
    ndarray of int32, shape (N,)
    """
    first = np.flatnonzero(np.concatenate([[True], (ngrams[1:, :-1] != ngrams[:-1, :-1]).any(axis=1)]))
    sizes = np.diff(first, append=counts.size)

    def reduced(counts):
        return counts // np.repeat(np.gcd.reduceat(counts, first), sizes)

    counts = reduced(counts)
    largest = np.repeat(np.maximum.reduceat(counts, first), sizes)
    scaled = np.maximum(1, (2 * counts * MAX_COUNT + largest) // (2 * largest))
    return reduced(np.where(largest > MAX_COUNT, scaled, counts)).astype(np.int32)


def training_documents(store, tokens, seed, corpus_name):
    """Range of global positions of a seeded run of whole documents with at least `tokens` tokens, the fewest from its first on.

    The first document is uniform among those with so many tokens from it on, by the stream ``("markov", corpus_name)``: the same for every
    order.

    Parameters
    ----------
    store : tokenbounds.corpus.TokenStore

    Returns
    -------
    start, stop : int
    """
    if tokens > store.m:
        raise InputError(f"{store.folder}: {tokens} training tokens of a corpus of {store.m}; expected at most all of them")
    starts = store.start_of(np.arange(store.documents))
    possible = int(np.searchsorted(starts, store.m - tokens, side="right"))
    start = int(starts[generator(seed, "markov", corpus_name).integers(possible)])
    stop = int(store.ends[np.searchsorted(store.ends, np.uint64(start + tokens), side="left")])
    return start, stop


def train_chain(store, *, order, tokens, start_token, floor_bits, seed, corpus_name):
    """Count a chain on part of the training tokens.

    Parameters
    ----------
    store : tokenbounds.corpus.TokenStore
    order : int
        Tokens k of context.
    tokens : int
        Training tokens, rounded up to whole documents.
    start_token, floor_bits
        As in `MarkovConfig`.
    seed : int
        The run's seed.
    corpus_name : str
        Names the random stream.

    Returns
    -------
    model : MarkovChain
    config : dict
    start, stop : int
        The positions that it was counted on.
    """
    start, stop = training_documents(store, tokens, seed, corpus_name)
    ngrams, counts = count_ngrams(store.tokens(start, stop), order, store.vocab_size, store.eot_id)
    model, config = chain_of(
        ngrams,
        quantize_counts(ngrams, counts),
        vocab_size=store.vocab_size,
        eot_id=store.eot_id,
        start_token=start_token,
        floor_bits=floor_bits,
    )
    return model, config, start, stop


def chain_of(ngrams, counts, *, vocab_size, eot_id, start_token, floor_bits):
    """The chain of n-grams and their quantized counts, and its configuration."""
    config = {"family": "markov", "vocab_size": vocab_size, "order": ngrams.shape[1] - 1, "ngrams": len(counts)}
    config |= {"floor_bits": floor_bits, "start_token": start_token, "eot_id": eot_id}
    model = MarkovChain.from_config(config)
    model.ngrams.copy_(torch.from_numpy(ngrams))
    model.counts.copy_(torch.from_numpy(counts))
    return model.eval(), config
