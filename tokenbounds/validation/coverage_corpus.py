"""Coverage with every token seen: all of delta on the corpus event, no message, each parameter by itself."""

import math

import numpy as np

from tokenbounds.bounds import (
    Bounded,
    Bpd,
    azuma_terms,
    bpd_interval,
    logit_spaced,
    search,
    smoothed_losses,
)
from tokenbounds.bounds.azuma_bounds import multipliers, penalised
from tokenbounds.validation.coverage_common import DELTA, DELTA_NATS, RMS, failures
from tokenbounds.validation.processes import Trials

CENTRED = search.Centre(0.5, 0.0, 0.6)


def whole(simulated, i):
    """Select the losses of corpus i with their intervals."""
    if simulated.alphas is None:
        return Bounded(simulated.losses[i], simulated.low, simulated.high).sample(None)
    head = simulated.alphas[i], simulated.alpha_range
    return Bpd(simulated.log2_q[i], simulated.vocab_size, None, *head).sample(None)


def previous(simulated):
    """Shift the losses by one token: known from the context, so a centre may depend on them.

    In bits at most a random guess, like an entropy.
    """
    before = np.concatenate([np.zeros_like(simulated.losses[:, :1]), simulated.losses[:, :-1]], axis=1)
    return before if simulated.vocab_size is None else np.minimum(before, math.log2(simulated.vocab_size))


def rms_formula(sample):
    """Compute the paper's Theorem 1 with the rms of the intervals."""
    rms = math.sqrt(np.mean((sample.highs - sample.lows) ** 2))
    return sample.values.mean() + azuma_terms(rms, 0.0, sample.values.size, 1, DELTA, 1.0)[0]


def nine_multipliers(m, interval):
    """List every second one of the absolute grid of lambda, (9,): four on each side of the best for m."""
    nearest = round(4 * math.log2(math.sqrt(8 * DELTA_NATS / m) / interval))
    return multipliers(range(nearest - 8, nearest + 9, 2))


def rigorous(sample, nats):
    """Compute `azuma_rigorous` at each of `nine_multipliers`, (9,), with a complexity of `nats`."""
    m = sample.values.size
    grid = nine_multipliers(m, sample.range).tolist()
    return np.array([penalised(sample, x).mean() + nats / m / x for x in grid])


def every_token(process, m):
    """Make a scenario in which every token is seen, each free parameter by itself."""

    def run(rng, trials):
        simulated = process(rng, trials, m)
        before, bets = previous(simulated)[:, :, None], np.array([0.05, 0.15, 0.5, 0.99])

        def product_form(i, centre):
            return search.centred_values(whole(simulated, i), before[i], DELTA_NATS / m, bets, centre)[0]

        bounds = {
            "Theorem A, worst of 4 a": lambda i: product_form(i, search.NO_CENTRE),
            "Theorem C, worst of 4 a": lambda i: product_form(i, CENTRED),
        }
        if simulated.alphas is not None:
            bounds["azuma_rigorous, worst of 9 λ"] = lambda i: rigorous(whole(simulated, i), DELTA_NATS)
            bounds[RMS] = lambda i: rms_formula(whole(simulated, i))
        return failures(simulated.means, bounds)

    return run


def fair_until(rng, trials, m, boundary):
    """Draw fair signs, and tell whether half their sum has reached `boundary` (m,) before.

    An adversary then stops and keeps the luck.
    """
    signs = rng.integers(0, 2, (trials, m)) * 2 - 1
    lucky = np.logical_or.accumulate(np.cumsum(signs, axis=1) / 2 >= boundary, axis=1)
    return signs, np.concatenate([np.zeros((trials, 1), dtype=bool), lucky[:, :-1]], axis=1)


def stopped_bets(rng, trials, m=1000):
    """Draw fair 0-1 losses until the wealth of one of 16 bets reaches 1/delta, then 1/2 for ever."""
    bets, times = np.array(logit_spaced(0.005, 0.5, 16)), np.arange(1, m + 1)
    needed = DELTA_NATS + times * np.log1p(-bets[:, None] / 2)
    boundary = times / 2 - (needed / np.log1p(-bets[:, None])).max(axis=0)
    signs, stopped = fair_until(rng, trials, m, boundary)
    simulated = Trials(np.where(stopped, 0.5, (1 - signs) / 2), np.full(trials, 0.5))

    def values(i, nats):
        return search.centred_values(whole(simulated, i), None, nats / m, bets, search.NO_CENTRE)[0]

    return failures(
        simulated.means,
        {
            "Theorem A, worst of 16 a": lambda i: values(i, DELTA_NATS),
            "Theorem A, best of 16 a, paid": lambda i: values(i, DELTA_NATS + math.log(16)).min(),
            "Theorem A, best of 16 a, unpaid": lambda i: values(i, DELTA_NATS).min(),
            "Theorem A, without δ1": lambda i: values(i, 0.0)[8],
        },
    )


def stopped_multipliers(rng, trials, m=1000, vocab_size=1024, alpha=0.1):
    """Draw losses at an end of their interval until the supermartingale of one of 9 lambda reaches 1/delta.

    Then alpha = 1 for ever.
    """
    low, high = bpd_interval(alpha, vocab_size)
    scaled = nine_multipliers(m, high - low)[:, None] * (high - low)
    boundary = (DELTA_NATS / scaled + scaled * np.arange(1, m + 1) / 8).min(axis=0)
    signs, stopped = fair_until(rng, trials, m, boundary)
    alphas, log2_q = np.where(stopped, 1.0, alpha), np.where(signs > 0, 0.0, -math.inf)
    means = np.where(stopped, math.log2(vocab_size), (low + high) / 2).mean(axis=1)
    losses = smoothed_losses(log2_q, alphas, vocab_size)
    simulated = Trials(losses, means, low, high, log2_q, alphas, (alpha, 1.0), vocab_size)

    def values(i, nats):
        return rigorous(whole(simulated, i), nats)

    return failures(
        means,
        {
            "azuma_rigorous, worst of 9 λ": lambda i: values(i, DELTA_NATS),
            "azuma_rigorous, best of 9 λ, paid": lambda i: values(i, DELTA_NATS + math.log(9)).min(),
            "azuma_rigorous, best of 9 λ, unpaid": lambda i: values(i, DELTA_NATS).min(),
        },
    )
