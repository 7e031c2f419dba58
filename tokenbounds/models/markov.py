"""Sparse k-th order Markov chains over tokens (paper, 6.4 and B.5): the probability of a token is its
relative frequency after the same context.

The context of a token is the last k tokens of its own document. If the document has fewer, the places before
its start hold a symbol of their own, V. With k = 2::

    tokens      5    6    7    EOT  5    8    EOT
    contexts    V V  V 5  5 6  6 7  V V  V 5  5 8

"The second token of a document that begins with 5" is a context too, and no context spans two documents.
"""

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from tokenbounds.config.schema import HypothesisConfig
from tokenbounds.errors import InputError
from tokenbounds.models.ngram_counts import MAX_COUNT, check_counts, unrolled
from tokenbounds.randomness import generator


class MarkovConfig(HypothesisConfig):
    """Hypothesis configuration of a Markov chain: everything that defines it but its n-grams and counts."""

    family: Literal["markov"] = Field(description="Model family.")
    order: int = Field(description="Number k of context tokens.", ge=0)
    ngrams: int = Field(
        description="Number of n-grams: contexts of k tokens with a token that followed.", ge=1
    )
    floor_bits: int = Field(
        description="Floor: 2^-floor_bits of each prediction is spread evenly over all tokens.", ge=1, le=30
    )


class MarkovChain(nn.Module):
    """q(x | context) = (1 - e) count(context, x) / count(context) + e / V with e = 2^-floor_bits; 1 / V after
    an unseen context.

    Parameters
    ----------
    config : MarkovConfig

    Notes
    -----
    Its tensors are those of `tokenbounds.codecs.counts.CountsCodec`. They are parameters that do not train,
    so that it is written, loaded and moved like any model:

    ==========  ==========================  ==========================================================
    ``ngrams``  int32, (ngrams, order + 1)  Contexts with a token that followed, rows ascending
    ``counts``  int32, (ngrams,)            Their counts, 1 to 65535, reduced within each context
    ==========  ==========================  ==========================================================
    """

    Config = MarkovConfig

    def __init__(self, config):
        super().__init__()
        self.config = config
        for name, shape in self.layout():
            self.register_parameter(
                name, nn.Parameter(torch.zeros(shape, dtype=torch.int32), requires_grad=False)
            )
        self._index = None

    @classmethod
    def from_config(cls, config):
        """Build the chain of a valid configuration (`MarkovConfig` as a dictionary), without its counts."""
        return cls(MarkovConfig.model_validate(config))

    def layout(self):
        """List (name, shape) of every tensor, in a fixed order."""
        return [("ngrams", (self.config.ngrams, self.config.order + 1)), ("counts", (self.config.ngrams,))]

    def hidden(self, ids):
        """Collect the last k tokens (B, T, k), int64, up to each of `ids` (B, T).

        Places before the first token hold V, and so do an EOT and all places before it: an EOT stands for the
        start.
        """
        k, start = self.config.order, self.config.vocab_size
        padded = torch.cat([ids.new_full((ids.shape[0], k), start), ids], dim=1)
        windows = padded.unfold(1, k, 1)[:, 1:] if k else ids.new_zeros((*ids.shape, 0))  # (B, T, k)
        ended = (windows == self.config.eot_id).flip(-1).cumsum(-1).flip(-1) > 0  # at or before the last EOT
        return windows.masked_fill(ended, start)

    def head(self, hidden):
        """Compute logits (..., V), float32: ln q after the contexts (..., k)."""
        config, index = self.config, self._indexed()
        contexts = hidden.flatten(end_dim=-2)
        first, size = index.find(contexts)
        floor = 2.0**-config.floor_bits
        q = torch.full(
            (len(contexts), config.vocab_size),
            floor / config.vocab_size,
            dtype=torch.float64,
            device=hidden.device,
        )
        q[size == 0] = 1 / config.vocab_size
        rows = torch.repeat_interleave(torch.arange(len(contexts), device=hidden.device), size)
        entries = torch.arange(len(rows), device=hidden.device) + torch.repeat_interleave(
            first - (size.cumsum(0) - size), size
        )
        counts = self.counts[entries].double()
        totals = torch.zeros(len(contexts), dtype=torch.float64, device=hidden.device).index_add_(
            0, rows, counts
        )
        q[rows, self.ngrams[entries, -1].long()] += (1 - floor) * counts / totals[rows]
        return q.log().float().reshape(*hidden.shape[:-1], config.vocab_size)

    def _indexed(self):
        if self._index is None or self._index.starts.device != self.ngrams.device:
            self._index = _Index(self.ngrams.detach().long(), self.config.vocab_size)
            check_counts(self.counts.cpu().numpy().astype(np.int64), self._index.context.cpu().numpy())
        return self._index


class _Index:
    """An index of sorted n-grams that finds the rows of a context.

    It searches once per token of the context, so that no key is longer than 63 bits.
    """

    def __init__(self, ngrams, vocab_size):
        self.base, self.keys = vocab_size + 1, []
        bad = (ngrams < 0) | (ngrams > vocab_size)
        if bad.any() or (ngrams[:, -1] == vocab_size).any():
            raise InputError(
                f"n-grams with tokens {int(ngrams.min())} to {int(ngrams.max())}; "
                f"expected 0 to {vocab_size - 1}"
            )
        # Index of each row's first j tokens among the distinct ones.
        context = torch.zeros(len(ngrams), dtype=torch.int64, device=ngrams.device)
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
        """Find first row and number of rows of each of `contexts` (Q, k); 0 rows for an unseen context."""
        number = torch.zeros(len(contexts), dtype=torch.int64, device=contexts.device)
        known = torch.ones(len(contexts), dtype=torch.bool, device=contexts.device)
        for keys, tokens in zip(self.keys, contexts.T, strict=True):
            wanted = number * self.base + tokens
            number = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
            known &= keys[number] == wanted
        return self.starts[number], self.sizes[number] * known


def count_ngrams(tokens, order, vocab_size, eot_id):
    """Count each distinct context of `order` tokens with the token after it.

    Parameters
    ----------
    tokens : ndarray of int, shape (n,)
        Whole documents, each closed by `eot_id`.
    order : int
        Number k of context tokens.
    vocab_size : int
        Symbol V of places before a document's start.
    eot_id : int
        Id of the end-of-text token.

    Returns
    -------
    ngrams : ndarray of int32, shape (N, k + 1)
        Ascending rows; `vocab_size` where a context reaches before its document's start.
    counts : ndarray of int64, shape (N,)

    Raises
    ------
    InputError
        The tokens do not end with `eot_id`.

    Notes
    -----
    The counts come from sorting. The key of a (j+1)-gram is the index of its first j tokens among the
    distinct j-grams, times V + 1, plus its last token: one integer for every j. Peak memory is some 40 bytes
    per token and four more per token of context.
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
    """Find distinct values and the inverse as `numpy.unique` does, with fewer copies."""
    order = np.argsort(values)
    ordered = values[order]
    new = np.concatenate([[False], ordered[1:] != ordered[:-1]])
    unique = ordered[np.concatenate([[True], new[1:]])]
    del ordered
    inverse = np.empty(values.size, np.int64)
    inverse[order] = np.cumsum(new)
    return unique, inverse


def quantize_counts(ngrams, counts):
    """Reduce counts to 16 bits.

    The counts of each context are divided by their common divisor and, if the largest is above 65535, scaled
    down. A scaled count is rounded to the nearest integer, at least 1, so that no token that was seen becomes
    unseen.

    Parameters
    ----------
    ngrams : ndarray of int32, shape (N, k + 1)
    counts : ndarray of int64, shape (N,)
        As from `count_ngrams`.

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
    """Draw a run of whole documents with at least `tokens` tokens.

    The first document is uniform among those with enough tokens from their start to the corpus' end, by the
    stream ``("markov", corpus_name)``: the same for every order. The run is as short as it can be from there.

    Parameters
    ----------
    store : tokenbounds.corpus.store.TokenStore
    tokens : int
        Least number of tokens.
    seed : int
        Seed of the run.
    corpus_name : str
        Name of the corpus, which names the random stream.

    Returns
    -------
    start, stop : int
        Range of global positions.

    Raises
    ------
    InputError
        The corpus has fewer tokens.
    """
    if tokens > store.m:
        raise InputError(
            f"{store.folder}: {tokens} training tokens of a corpus of {store.m}; expected at most all of them"
        )
    starts = store.start_of(np.arange(store.documents))
    possible = int(np.searchsorted(starts, store.m - tokens, side="right"))
    start = int(starts[generator(seed, "markov", corpus_name).integers(possible)])
    stop = int(store.ends[np.searchsorted(store.ends, np.uint64(start + tokens), side="left")])
    return start, stop


def train_chain(store, *, order, tokens, start_token, floor_bits, seed, corpus_name):
    """Count a chain on a part of the training tokens.

    Parameters
    ----------
    store : tokenbounds.corpus.store.TokenStore
    order : int
        Number k of context tokens.
    tokens : int
        Number of training tokens, rounded up to whole documents.
    start_token, floor_bits
        As in `MarkovConfig`.
    seed : int
        Seed of the run.
    corpus_name : str
        Name of the corpus, which names the random stream.

    Returns
    -------
    model : MarkovChain
        In evaluation mode.
    config : dict
        Its hypothesis configuration.
    start, stop : int
        Range of the positions that it was counted on.

    Raises
    ------
    InputError
        As for `training_documents`.
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
    """Build a chain of n-grams with quantized counts, and its hypothesis configuration.

    Parameters
    ----------
    ngrams : ndarray of int32, shape (N, k + 1)
        As from `count_ngrams`.
    counts : ndarray of int32, shape (N,)
        As from `quantize_counts`.
    vocab_size, eot_id, start_token, floor_bits
        As in `MarkovConfig`.

    Returns
    -------
    model : MarkovChain
        In evaluation mode.
    config : dict
    """
    config = {
        "family": "markov",
        "vocab_size": vocab_size,
        "order": ngrams.shape[1] - 1,
        "ngrams": len(counts),
    }
    config |= {"floor_bits": floor_bits, "start_token": start_token, "eot_id": eot_id}
    model = MarkovChain.from_config(config)
    model.ngrams.copy_(torch.from_numpy(ngrams))
    model.counts.copy_(torch.from_numpy(counts))
    return model.eval(), config
