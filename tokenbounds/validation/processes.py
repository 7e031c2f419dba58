"""Simulated loss processes with known conditional means, to check coverage on (docs/theory.md, section 8).

Each function draws `trials` independent corpora of m losses from a NumPy generator and returns a `Trials`.
"""

import math
from dataclasses import dataclass

import numpy as np

from tokenbounds.bounds.losses import bpd_interval, smoothed_losses


@dataclass(frozen=True)
class Trials:
    """Simulated corpora.

    Attributes
    ----------
    losses : numpy.ndarray, (trials, m)
    means : numpy.ndarray, (trials,)
        M of each corpus: the mean of the conditional expectations of its losses.
    low, high : float
        Interval of every loss.
    log2_q, alphas : numpy.ndarray, (trials, m), or None
        Scores and weights behind the losses, for processes in bits.
    alpha_range : (float, float) or None
    vocab_size : int or None
    """

    losses: np.ndarray
    means: np.ndarray
    low: float = 0.0
    high: float = 1.0
    log2_q: np.ndarray | None = None
    alphas: np.ndarray | None = None
    alpha_range: tuple | None = None
    vocab_size: int | None = None


def bernoulli(rng, trials, m, error=0.3):
    """Simulate IID 0-1 losses."""
    return Trials((rng.random((trials, m)) < error).astype(float), np.full(trials, error))


def skewed_beta(rng, trials, m, shape=(0.2, 1.8)):
    """Simulate IID Beta losses: most near 0, a long tail to 1."""
    return Trials(rng.beta(*shape, size=(trials, m)), np.full(trials, shape[0] / sum(shape)))


def rare_maximal(rng, trials, m, rate=0.002, common=0.05):
    """Simulate IID losses near 0 but for a maximal one now and then: the corpora without any look best."""
    small = common * rng.random((trials, m))
    losses = np.where(rng.random((trials, m)) < rate, 1.0, small)
    return Trials(losses, np.full(trials, rate + (1 - rate) * common / 2))


def adaptive_chain(rng, trials, m, base=0.05, pull=0.9, memory=0.95):
    """Simulate 0-1 losses whose probability follows their running mean: M differs between corpora."""
    uniform = rng.random((trials, m))
    losses = np.empty((trials, m))
    total, running = np.zeros(trials), np.full(trials, 0.5)
    for i in range(m):
        probability = base + pull * running
        total += probability
        losses[:, i] = uniform[:, i] < probability
        running = memory * running + (1 - memory) * losses[:, i]
    return Trials(losses, total / m)


def varying_alpha(rng, trials, m, vocab_size=1024, alpha_range=(0.01, 0.5)):
    """Simulate bits per token under a weight that is heavy after a miss and light after a hit.

    The true token has log2 q of -.1 (a hit) or -18 (a miss); misses are likelier after misses.
    """
    uniform = rng.random((trials, m))
    hit, miss = -0.1, -18.0
    log2_q, alphas = np.empty((trials, m)), np.empty((trials, m))
    total, missed = np.zeros(trials), np.zeros(trials, dtype=bool)
    for i in range(m):
        alpha = np.where(missed, alpha_range[1], alpha_range[0])
        probability = np.where(missed, 0.4, 0.1)
        of_miss, of_hit = (smoothed_losses(value, alpha, vocab_size) for value in (miss, hit))
        total += probability * of_miss + (1 - probability) * of_hit
        missed = uniform[:, i] < probability
        log2_q[:, i], alphas[:, i] = np.where(missed, miss, hit), alpha
    losses = smoothed_losses(log2_q, alphas, vocab_size)
    return Trials(
        losses, total / m, *bpd_interval(alpha_range[0], vocab_size), log2_q, alphas, alpha_range, vocab_size
    )


def stopped_alpha(rng, trials, m, delta=0.05, vocab_size=1024, alpha_min=0.1):
    """Simulate bits per token with a weight that freezes luck.

    The loss is an end of its interval, each with probability 1/2, until
    ``sum(M - X) > Delta sqrt(t ln(1/delta) / 2)``; from then on alpha = 1 and every loss is log2 V.

    The rms interval does not depend on how the sum came about, so the paper's formula without a message fails
    in more than delta of the corpora.
    """
    low, high = bpd_interval(alpha_min, vocab_size)
    signs = rng.integers(0, 2, (trials, m)) * 2 - 1  # +1: the loss is `low`
    crossed = np.cumsum(signs, axis=1) / 2 > np.sqrt(np.arange(1, m + 1) * math.log(1 / delta) / 2)
    stopped = np.zeros((trials, m), dtype=bool)
    stopped[:, 1:] = np.logical_or.accumulate(crossed, axis=1)[:, :-1]
    alphas = np.where(stopped, 1.0, alpha_min)
    log2_q = np.where(signs > 0, 0.0, -math.inf)
    losses = smoothed_losses(log2_q, alphas, vocab_size)
    means = np.where(stopped, math.log2(vocab_size), (low + high) / 2).mean(axis=1)
    return Trials(losses, means, low, high, log2_q, alphas, (alpha_min, 1.0), vocab_size)


def document_tails(rng, trials, m):
    """Simulate 0-1 losses of "always A" on documents of A tokens that end at EOT with probability 1/2.

    Each document is cut into windows of 2 and its ragged last token dropped, so the future decides which
    tokens are counted. `losses` holds NaN for the dropped tokens; `means` is 1/2, while the kept losses
    average 1/4: no bound survives this, and such a cut must be refused.
    """
    ends = rng.random((trials, m)) < 0.5
    ends[:, -1] = True
    index = np.arange(m)
    last_end = np.maximum.accumulate(np.where(ends, index, -1), axis=1)
    start = np.concatenate([np.zeros((trials, 1), dtype=int), last_end[:, :-1] + 1], axis=1)
    dropped = ends & ((index - start) % 2 == 0)  # an end at an even offset closes a document of odd length
    return Trials(np.where(dropped, np.nan, ends.astype(float)), np.full(trials, 0.5))


def language_tokens(rng, n, vocab_size=32000, mean_entropy_bits=3.0, shape=0.55, miss_rate=0.02):
    """Simulate (log2_q, entropies), each (n,): a stand-in for a large model's records, not a measurement.

    Entropies are Gamma distributed over contexts; the surprisal is Gamma distributed with shape 2 and the
    entropy as its mean, and in `miss_rate` of the tokens, where the model is wrong, it is uniform up to 24
    bits.
    """
    entropies = np.minimum(rng.gamma(shape, mean_entropy_bits / shape, n), math.log2(vocab_size))
    surprisal = rng.gamma(2.0, 0.5, n) * entropies
    missed = rng.random(n) < miss_rate
    return -np.where(missed, 24 * rng.random(n), surprisal), entropies
