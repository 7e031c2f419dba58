"""Check that a prediction depends on its context alone, bit for bit (docs/theory.md, section 13).

A sample of scored items is scored again, in the shapes of the run::

    scored before   a a a 0    other neighbours   z z z z    later tokens   a a z z      a, b, c  items
                    b b b b                       a a a 0                   b z z z      z        other tokens
                    c c c c                       z z z z                   0 0 0 0      0        padding

In the second case what follows a token of the item, and the padding, are other tokens. A model that sees what
it must not, other rows or later tokens, is refused; a difference of rounding is measured.
"""

import dataclasses

import numpy as np

from tokenbounds.errors import InputError
from tokenbounds.randomness import generator
from tokenbounds.scoring.score import largest_difference, score_items
from tokenbounds.scoring.shapes import longest_input, padded_length

# Difference of a log-probability, in nats, above which other tokens are seen, and not only rounded away.
ROUNDING_NATS = 1e-3


@dataclasses.dataclass(frozen=True)
class Reproducibility:
    """Differences between two scorings of a sample.

    Attributes
    ----------
    items : int
        Items in the sample.
    epsilon_nats : float
        Largest difference of a log-probability, of smoothed predictions too; 0 where all are the same bits.
    entropy_epsilon_bits : float
        Largest difference of an entropy.
    ranks_equal : bool
        Whether all ranks are the same.
    causal : bool
        Whether later tokens and padding changed no bit; False: they changed rounding only.
    """

    items: int
    epsilon_nats: float
    entropy_epsilon_bits: float
    ranks_equal: bool
    causal: bool

    @property
    def bitwise(self):
        """Whether every prediction had the same bits again."""
        return self.causal and self.ranks_equal and self.epsilon_nats == self.entropy_epsilon_bits == 0


def reproducibility(model, items, scored, *, arithmetic, seed, stream, name="model", sample=64):
    """Score a sample of items again beside other inputs, and with other tokens after a prediction.

    Parameters
    ----------
    model, items, scored, arithmetic, name
        Arguments and result of `tokenbounds.scoring.score.score_items`.
    seed : int
        The run's seed (stream "rescore").
    stream : str
        Name of the part, so that parts are sampled independently.
    sample : int
        Number of items scored again.

    Returns
    -------
    Reproducibility
        Evidence, not proof, for the items outside the sample.

    Raises
    ------
    InputError
        What the model predicts changes with other inputs or later tokens by more than rounding, or is not
        finite.
    """
    rng = generator(seed, "rescore", stream)
    chosen = rng.choice(len(items), size=min(sample, len(items)), replace=False)
    picked, before = [items[i] for i in chosen], [scored[i] for i in chosen]
    options = {"arithmetic": arithmetic, "name": name}
    neighbours = _largest(before, score_items(model, picked, **options, rng=rng))
    shapes = [padded_length(item.length, arithmetic["multiple"], longest_input(model)) for item in picked]
    kept = [int(rng.integers(1, item.targets.size + 1)) for item in picked]
    pool = np.concatenate([item.ids for item in items])
    altered = [with_other_tokens(*each, pool, rng) for each in zip(picked, kept, shapes, strict=True)]
    later = score_items(model, altered, **options)
    causal = _largest(_beginnings(before, kept), _beginnings(later, kept))
    for (change, *_), seen in ((neighbours, "other inputs of a batch"), (causal, "the tokens that follow")):
        if not change <= ROUNDING_NATS:  # a NaN is refused too
            raise InputError(
                f"{name}: log-probabilities change by {change:.3g} nats with {seen}; expected a causal model "
                f"whose predictions depend on their own context, up to rounding ({ROUNDING_NATS} nats)"
            )
    differences = np.array([neighbours, causal])
    # np.max and not max: a NaN must come out, and be refused
    epsilon, entropy_epsilon, ranks = np.max(differences, axis=0).tolist()
    return Reproducibility(len(picked), epsilon, entropy_epsilon, ranks == 0, not differences[1].any())


def with_other_tokens(item, kept, length, pool, rng):
    """Replace all tokens of an item that follow those of its first predictions, and its padding.

    Parameters
    ----------
    item : Item
    kept : int
        Number of predictions whose inputs are kept.
    length : int
        Padded length of the item.
    pool : ndarray of int64
        Tokens that others are drawn from.
    rng : numpy.random.Generator

    Returns
    -------
    Item
        With an input of `length` tokens, and the same targets.
    """
    seen = item.first + kept
    return dataclasses.replace(
        item, ids=np.concatenate([item.ids[:seen], rng.choice(pool, size=length - seen)])
    )


def _beginnings(scored, kept):
    """Cut the columns of each item to its first predictions."""
    return [[column[:count] for column in item] for item, count in zip(scored, kept, strict=True)]


def _largest(scored, again):
    """Find the largest differences of log-probabilities in nats, entropies in bits, and ranks."""
    pairs = list(zip(scored, again, strict=True))
    epsilons = [largest_difference(*pair) for pair in pairs]
    entropies = [np.abs(one[2] - other[2]).max() for one, other in pairs]
    ranks = [np.abs(one[1] - other[1]).max() for one, other in pairs]
    return np.max(epsilons), np.max(entropies), np.max(ranks)
