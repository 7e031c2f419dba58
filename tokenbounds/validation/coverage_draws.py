"""Coverage of whole certificates: n draws of m positions, choices on the pilot; also with a rule left out."""

import math
from dataclasses import replace

import numpy as np
from scipy.stats import binom

from tokenbounds.bounds import (
    Bounded,
    Bpd,
    Claim,
    Grids,
    TopK,
    betting_losses,
    bpd_interval,
    iid_mean_upper,
    pilot_size,
    smoothed_losses,
)
from tokenbounds.corpus.sampling import window_segments
from tokenbounds.errors import InputError
from tokenbounds.validation import processes
from tokenbounds.validation.coverage_common import (
    BETTING,
    CERTIFIED,
    DELTA,
    FORMULA,
    FREEDMAN,
    GRIDS,
    LARGE_M,
    MESSAGE_BITS,
    RIGOROUS,
    RMS,
    SEED,
    failures,
)
from tokenbounds.validation.coverage_corpus import previous


def claim_of(m, message_bits=MESSAGE_BITS, **options):
    """Make a claim about `m` tokens with small grids."""
    return Claim(message_bits, m, grids=GRIDS, **options)


def certificates(process, m, n, population=None):
    """Make a scenario of bounds from n draws with replacement.

    With `population` the n = m tokens of an IID process stand for draws from a large corpus.
    """
    claim = claim_of(population or m)

    def run(rng, trials):
        simulated = process(rng, trials, m)
        positions = np.tile(np.arange(n), (trials, 1)) if population else rng.integers(0, m, (trials, n))

        def drawn(array):
            return np.take_along_axis(array, positions, axis=1)

        losses, before = drawn(simulated.losses), drawn(previous(simulated))
        if simulated.alphas is None:

            def bounded(i, entropies=None):
                return Bounded(losses[i], simulated.low, simulated.high, entropies)

            bounds = {
                "betting, no centre": lambda i: BETTING.bound(bounded(i), claim),
                "betting": lambda i: BETTING.bound(bounded(i, before[i]), claim),
                "azuma_certified": lambda i: CERTIFIED.bound(bounded(i), claim),
            }
            if np.isin(losses, (0, 1)).all():
                bounds["betting_topk"] = lambda i: BETTING.bound(TopK(losses[i], 2, 1), claim)
            return failures(simulated.means, bounds)

        log2_q, alphas = drawn(simulated.log2_q), drawn(simulated.alphas)

        def bpd(i, entropies=None):
            return Bpd(log2_q[i], simulated.vocab_size, entropies, alphas[i], simulated.alpha_range)

        bounds = {
            "betting, no centre": lambda i: BETTING.bound(bpd(i), claim),
            "betting": lambda i: BETTING.bound(bpd(i, before[i]), claim),
            "azuma_rigorous": lambda i: RIGOROUS.bound(bpd(i), claim),
            "freedman": lambda i: FREEDMAN.bound(bpd(i, before[i]), claim),
        }
        return failures(simulated.means, bounds)

    return run


def alpha_chosen(rng, trials, n=200, vocab_size=1024, hit=-0.1, miss=-18.0):
    """Choose the weight of bits per token: a fifth of the contexts are hard, with ten times the misses."""
    hard = rng.random((trials, n)) < 0.2
    log2_q = np.where(rng.random((trials, n)) < np.where(hard, 0.1, 0.01), miss, hit)
    entropies, miss_rate = np.where(hard, 5.0, 0.5), 0.2 * 0.1 + 0.8 * 0.01
    means = {}
    for alpha in GRIDS.alpha:
        of_miss, of_hit = smoothed_losses([miss, hit], alpha, vocab_size)
        means[alpha] = np.dot([miss_rate, 1 - miss_rate], [of_miss, of_hit])
    claim = claim_of(LARGE_M)
    singles = [replace(claim, grids=replace(GRIDS, alpha=(alpha,))) for alpha in GRIDS.alpha]

    def excess(method, i, claim=claim):
        """Subtract the mean under the chosen weight from the bound: below 0 is a violation."""
        bound = method.bound(Bpd(log2_q[i], vocab_size, entropies[i]), claim)
        return bound.value, bound.value - means[bound.choices["alpha"]]

    def best_single(i):
        return min(excess(CERTIFIED, i, single) for single in singles)[1]

    return failures(
        np.zeros(trials),
        {
            "betting": lambda i: excess(BETTING, i)[1],
            "azuma_certified": lambda i: excess(CERTIFIED, i)[1],
            "azuma_rigorous": lambda i: excess(RIGOROUS, i)[1],
            "freedman": lambda i: excess(FREEDMAN, i)[1],
            "azuma_certified, best α of the same draws": best_single,
        },
    )


def windows(rng, trials, m=1000, n=50, size=10):
    """Draw whole windows from an adaptive chain."""
    simulated = processes.adaptive_chain(rng, trials, m)
    drawn = rng.integers(0, m // size, (trials, n, 1))
    losses = np.take_along_axis(simulated.losses.reshape(trials, -1, size), drawn, axis=1)  # (trials, n, S)
    claim = claim_of(m)
    return failures(
        simulated.means,
        {
            "betting, no centre": lambda i: BETTING.bound(Bounded(losses[i], 0, 1), claim),
            "betting_topk": lambda i: BETTING.bound(TopK(losses[i], 2, 1), claim),
        },
    )


# ------------------------------ complexity terms and rules left out


def rms_over_draws(rng, trials, n=1000, often=0.95, vocab_size=2**20, low_alpha=0.99):
    """Let the context alone decide the loss: alpha = 1 in most contexts, else .99 and a sure hit."""
    alphas = np.where(rng.random((trials, n)) < often, 1.0, low_alpha)
    mean = often * math.log2(vocab_size) + (1 - often) * bpd_interval(low_alpha, vocab_size)[0]
    claim = claim_of(10**12)

    def bpd(i):
        return Bpd(np.zeros(n), vocab_size, None, alphas[i], (low_alpha, 1.0))

    return failures(
        np.full(trials, mean),
        {
            RMS: lambda i: FORMULA.bound(bpd(i), claim),
            "azuma_rigorous": lambda i: RIGOROUS.bound(bpd(i), claim),
            "betting, no centre": lambda i: BETTING.bound(bpd(i), claim),
        },
    )


def best_of_messages(rng, trials, m=400, n=200, bits=64):
    """Select the best on its corpus of 2^64 hypotheses that all guess a coin.

    Exact, by the law of the least of 2^64 binomials.
    """
    errors = binom.ppf(-np.expm1(np.log1p(-rng.random(trials)) / 2.0**bits), m, 0.5)
    losses = (rng.random((trials, n)) < (errors / m)[:, None]).astype(float)

    def bound(i, message_bits, m=m):
        return BETTING.bound(Bounded(losses[i], 0, 1), claim_of(m, message_bits))

    return failures(
        np.full(trials, 0.5),
        {
            "betting, 64 bits paid": lambda i: bound(i, bits),
            "betting, 64 bits unpaid": lambda i: bound(i, MESSAGE_BITS),
            "betting, m overstated tenfold": lambda i: bound(i, bits, 10 * m),
        },
    )


def best_of_models(rng, trials, n=200, models=64):
    """Select from 64 independent models of one true error .3, by errors on the draws or on the pilot."""
    errors, pilot = rng.random((trials, models, n)) < 0.3, pilot_size(n)
    best, chosen = errors.sum(axis=2).argmin(axis=1), errors[:, :, :pilot].sum(axis=2).argmin(axis=1)

    def bound(drawn, candidates=1):
        return BETTING.bound(TopK(drawn, 2, 1), Claim(MESSAGE_BITS, LARGE_M, candidates=candidates))

    return failures(
        np.full(trials, 0.3),
        {
            "betting_topk, best model on the same draws": lambda i: bound(errors[i, best[i]]),
            "betting_topk, the same with δ2 / 64": lambda i: bound(errors[i, best[i]], models),
            "betting_topk, best model on the pilot": lambda i: bound(errors[i, chosen[i], pilot:]),
        },
    )


def draws_misused(rng, trials, n=200):
    """Misuse draws: no share of delta, sorted, or dropped."""
    simulated = processes.skewed_beta(rng, trials, n)
    ordered, bets = np.sort(simulated.losses, axis=1)[:, ::-1], Grids().sampling_bet_sizes

    def bound(losses):
        return BETTING.bound(Bounded(losses, 0, 1), claim_of(LARGE_M))

    def without_delta2(i):
        whole_bound = bound(simulated.losses[i])
        return whole_bound.empirical_risk + whole_bound.complexity_term

    def without_large(i):
        return bound(simulated.losses[i][simulated.losses[i] <= 0.5])

    def best_limit(i):
        return min(iid_mean_upper(simulated.losses[i], b, DELTA) for b in bets)

    return failures(
        simulated.means,
        {
            "betting, without δ2": without_delta2,
            "betting, draws sorted before the pilot is taken": lambda i: bound(ordered[i]),
            "betting, draws with a loss above 1/2 dropped": without_large,
            "draws' limit, best of 32 b on the same draws": best_limit,
        },
    )


def document_cuts(rng, trials, m=2000, n=500):
    """Cut windows document by document, their tails dropped, and from the global stream."""
    simulated = processes.document_tails(rng, trials, m)
    kept = [rng.choice(row[~np.isnan(row)], n) for row in simulated.losses]
    stream = np.nan_to_num(simulated.losses, nan=1.0)  # the dropped tokens are EOTs, which "always A" misses
    drawn = rng.integers(0, m // 2, (trials, n, 1))
    cut = np.take_along_axis(stream.reshape(trials, -1, 2), drawn, axis=1)
    claim = claim_of(m)
    return failures(
        simulated.means,
        {
            "betting, each document cut by itself": lambda i: BETTING.bound(Bounded(kept[i], 0, 1), claim),
            "betting, the global stream cut": lambda i: BETTING.bound(Bounded(cut[i], 0, 1), claim),
        },
    )


def refusals(m=2001):
    """Check that documents cut one by one are refused; returns a sentence, or raises a RuntimeError."""
    losses = processes.document_tails(np.random.default_rng(SEED), 1, m).losses[0]
    ends = (np.flatnonzero(np.nan_to_num(losses, nan=1.0)) + 1).astype("<u8")
    segments = [segment for window in range(m // 2) for segment in window_segments(window, 2, 8, ends)]
    scored = [token for segment in segments for token in range(segment.first, segment.stop)]
    if scored != list(range(m - 1)):
        raise RuntimeError("windows do not score every token of the global stream but its tail exactly once")
    try:
        betting_losses(losses, 0, 1, MESSAGE_BITS, m)
    except InputError as error:
        return (
            f"`window_segments` scored each of the first {m - 1} tokens of a corpus of {m} tokens in "
            f"{len(ends)} documents exactly once, whatever the documents' lengths. Losses with the dropped "
            f"tokens as holes are refused: `{error}`."
        )
    raise RuntimeError("losses with dropped tokens were accepted")
