"""Check by simulation what docs/theory.md claims: bounds that must hold do, and those that must fail do (``make coverage``).

Every bound is computed by the functions that the pipeline uses, on processes whose true mean is known. Writes coverage.csv, coverage.png
and projection.csv to ``validity/`` and fills the generated parts of ``validity.md``. Exits with status 1 if a verdict is not the expected
one.
"""

import argparse
import math
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import binom
from tqdm import tqdm

from tokenbounds import bounds
from tokenbounds.bounds import Grids, azuma_bounds, processes, search
from tokenbounds.bounds.grids import logit_spaced
from tokenbounds.bounds.losses import BoundedRecords, BpdRecords
from tokenbounds.bounds.processes import Trials
from tokenbounds.corpus import window_segments
from tokenbounds.errors import InputError
from tokenbounds.files import atomic_path, write_text
from tokenbounds.streams import generator

SEED, CHUNK, WORKERS = 137, 250, 2
DELTA, SIGNIFICANCE = 0.05, 1e-3
PRICE = -math.log(DELTA)
ROUNDING = 1e-9  # a mean this far above a bound is not yet a violation
MESSAGE_BITS = 2  # the least a certificate accepts: the draws then decide
LARGE_M = 10**9  # n IID draws of so large an IID corpus are n draws of its law
# Small grids keep a bound below a millisecond; what is paid follows their sizes.
GRIDS = Grids(
    alpha=(1e-3, 0.01, 0.1, 0.5),
    a=logit_spaced(0.01, 0.99, 8),
    beta1=(0.0, 0.5),
    beta2=(0.0,),
    width=(0.6, 1.0),
    b=logit_spaced(0.02, 0.95, 8),
    lambda_exponents=(-2, 0, 2),
)
PLAIN, CENTRED = (0.0, 0.0, 1.0), (0.5, 0.0, 0.6)  # (beta1, beta2, width): Theorem A, and one centre of Theorem C


def failures(means, methods):
    """{method: whether the true mean is above ``bound(i)``}, (trials,) or, where a bound is an array, (trials, choices)."""

    def fails(i, found):
        return means[i] > (found.value if isinstance(found, bounds.Bound) else np.asarray(found)) + ROUNDING

    return {name: np.array([fails(i, bound(i)) for i in range(len(means))]) for name, bound in methods.items()}


# ---------------------------------------------------------------- every token seen: the corpus event alone, delta1 = delta, no message


def whole(simulated, i):
    """Losses of corpus i with their intervals."""
    if simulated.alphas is None:
        return BoundedRecords.checked(simulated.losses[i], simulated.low, simulated.high).losses(None, slice(None))
    records = BpdRecords.checked(simulated.log2_q[i], simulated.vocab_size, (), simulated.alphas[i], simulated.alpha_range)
    return records.losses(None, slice(None))


def previous(simulated):
    """The loss before each token: known from its context, so a centre may depend on it; never above a random guess in bits."""
    before = np.concatenate([np.zeros_like(simulated.losses[:, :1]), simulated.losses[:, :-1]], axis=1)
    return before if simulated.vocab_size is None else np.minimum(before, math.log2(simulated.vocab_size))


def rms_formula(losses):
    """The paper's Theorem 1 with the rms of the intervals."""
    rms = math.sqrt(np.mean((losses.highs - losses.lows) ** 2))
    return losses.values.mean() + bounds.azuma_terms(rms, 0.0, losses.values.size, 1, DELTA, 1.0)[0]


def rigorous(losses, nats):
    """`azuma_rigorous` at each multiplier of its grid, (9,), for a price of `nats`."""
    multipliers = 2 ** (np.array(Grids().lambda_exponents) / 2) * math.sqrt(8 * PRICE / losses.values.size) / losses.range
    return np.array([azuma_bounds._penalised(losses, x).mean() + nats / losses.values.size / x for x in multipliers])


def every_token(process, m):
    def run(rng, trials):
        simulated = process(rng, trials, m)
        before, bets = previous(simulated)[:, :, None], np.array([0.05, 0.15, 0.5, 0.99])
        methods = {
            "Theorem A, worst of 4 a": lambda i: search.centred_values(whole(simulated, i), before[i], PRICE / m, bets, PLAIN)[0],
            "Theorem C, worst of 4 a": lambda i: search.centred_values(whole(simulated, i), before[i], PRICE / m, bets, CENTRED)[0],
        }
        if simulated.alphas is not None:
            methods |= {"azuma_rigorous, worst of 9 λ": lambda i: rigorous(whole(simulated, i), PRICE)}
            methods |= {RMS: lambda i: rms_formula(whole(simulated, i))}
        return failures(simulated.means, methods)

    return run


def fair_until(rng, trials, m, boundary):
    """Fair signs, and whether half their sum has reached `boundary` (m,) before: an adversary then stops and keeps the luck."""
    signs = rng.integers(0, 2, (trials, m)) * 2 - 1
    lucky = np.logical_or.accumulate(np.cumsum(signs, axis=1) / 2 >= boundary, axis=1)
    return signs, np.concatenate([np.zeros((trials, 1), dtype=bool), lucky[:, :-1]], axis=1)


def stopped_bets(rng, trials, m=1000):
    """Fair 0-1 losses until the wealth of one of 16 bets reaches 1/delta, then 1/2 for ever."""
    bets, times = np.array(logit_spaced(0.005, 0.5, 16)), np.arange(1, m + 1)
    boundary = times / 2 - ((PRICE + times * np.log1p(-bets[:, None] / 2)) / np.log1p(-bets[:, None])).max(axis=0)
    signs, stopped = fair_until(rng, trials, m, boundary)
    simulated = Trials(np.where(stopped, 0.5, (1 - signs) / 2), np.full(trials, 0.5))

    def values(i, nats):
        return search.centred_values(whole(simulated, i), None, nats / m, bets, PLAIN)[0]

    return failures(
        simulated.means,
        {
            "Theorem A, worst of 16 a": lambda i: values(i, PRICE),
            "Theorem A, best of 16 a, paid": lambda i: values(i, PRICE + math.log(16)).min(),
            "Theorem A, best of 16 a, unpaid": lambda i: values(i, PRICE).min(),
            "Theorem A, without δ1": lambda i: values(i, 0.0)[8],
        },
    )


def stopped_multipliers(rng, trials, m=1000, vocab_size=1024, alpha=0.1):
    """Losses at an end of their interval until the supermartingale of one of 9 lambda reaches 1/delta, then alpha = 1 for ever."""
    low, high = bounds.bpd_interval(alpha, vocab_size)
    scaled = 2 ** (np.array(Grids().lambda_exponents)[:, None] / 2) * math.sqrt(8 * PRICE / m)  # lambda times the interval
    signs, stopped = fair_until(rng, trials, m, (PRICE / scaled + scaled * np.arange(1, m + 1) / 8).min(axis=0))
    alphas, log2_q = np.where(stopped, 1.0, alpha), np.where(signs > 0, 0.0, -math.inf)
    means = np.where(stopped, math.log2(vocab_size), (low + high) / 2).mean(axis=1)
    losses = bounds.smoothed_losses(log2_q, alphas, vocab_size)
    simulated = Trials(losses, means, low, high, log2_q, alphas, (alpha, 1.0), vocab_size)
    return failures(
        means,
        {
            "azuma_rigorous, worst of 9 λ": lambda i: rigorous(whole(simulated, i), PRICE),
            "azuma_rigorous, best of 9 λ, paid": lambda i: rigorous(whole(simulated, i), PRICE + math.log(9)).min(),
            "azuma_rigorous, best of 9 λ, unpaid": lambda i: rigorous(whole(simulated, i), PRICE).min(),
        },
    )


# ---------------------------------------------------------------- whole certificates: n draws of m positions, choices on the pilot


def certificates(process, m, n, population=None):
    """Bounds from n draws with replacement; with `population` the n = m tokens of an IID process stand for draws from a large corpus."""

    def run(rng, trials):
        simulated = process(rng, trials, m)
        positions = np.tile(np.arange(n), (trials, 1)) if population else rng.integers(0, m, (trials, n))
        losses, before = (np.take_along_axis(array, positions, axis=1) for array in (simulated.losses, previous(simulated)))
        if simulated.alphas is None:
            common = simulated.low, simulated.high, MESSAGE_BITS, population or m
            methods = {
                "betting, no centre": lambda i: bounds.betting_losses(losses[i], *common, grids=GRIDS),
                "betting": lambda i: bounds.betting_losses(losses[i], *common, entropies=before[i], grids=GRIDS),
                "azuma_certified": lambda i: bounds.azuma_certified_losses(losses[i], *common),
            }
            if np.isin(losses, (0, 1)).all():
                methods["betting_topk"] = lambda i: bounds.betting_topk(losses[i], 1, 2, *common[2:], grids=GRIDS)
        else:
            log2_q, alphas = (np.take_along_axis(array, positions, axis=1) for array in (simulated.log2_q, simulated.alphas))
            common = simulated.vocab_size, MESSAGE_BITS, population or m
            head = {"grids": GRIDS, "alpha_range": simulated.alpha_range}
            methods = {
                "betting, no centre": lambda i: bounds.betting_bpd(log2_q[i], *common, alphas=alphas[i], **head),
                "betting": lambda i: bounds.betting_bpd(log2_q[i], *common, alphas=alphas[i], entropies=before[i], **head),
                "azuma_rigorous": lambda i: bounds.azuma_rigorous_bpd(log2_q[i], *common, alphas=alphas[i], **head),
            }
        return failures(simulated.means, methods)

    return run


def alpha_chosen(rng, trials, n=200, vocab_size=1024, hit=-0.1, miss=-18.0):
    """Bits per token whose weight is chosen: a fifth of the contexts are hard, and a miss in them is ten times likelier."""
    hard = rng.random((trials, n)) < 0.2
    log2_q = np.where(rng.random((trials, n)) < np.where(hard, 0.1, 0.01), miss, hit)
    entropies, miss_rate = np.where(hard, 5.0, 0.5), 0.2 * 0.1 + 0.8 * 0.01
    means = {alpha: np.dot([miss_rate, 1 - miss_rate], bounds.smoothed_losses([miss, hit], alpha, vocab_size)) for alpha in GRIDS.alpha}

    def excess(method, i, grids=GRIDS, **options):
        """The bound minus the mean under the weight it chose: below 0 is a violation."""
        found = method(log2_q[i], vocab_size, MESSAGE_BITS, LARGE_M, grids=grids, **options)
        return found.value, found.value - means[found.choices["alpha"]]

    singles = [replace(GRIDS, alpha=(alpha,)) for alpha in GRIDS.alpha]
    return failures(
        np.zeros(trials),
        {
            "betting": lambda i: excess(bounds.betting_bpd, i, entropies=entropies[i])[1],
            "azuma_certified": lambda i: excess(bounds.azuma_certified_bpd, i)[1],
            "azuma_rigorous": lambda i: excess(bounds.azuma_rigorous_bpd, i)[1],
            "azuma_certified, best α of the same draws": lambda i: min(excess(bounds.azuma_certified_bpd, i, one) for one in singles)[1],
        },
    )


def windows(rng, trials, m=1000, n=50, size=10):
    simulated = processes.adaptive_chain(rng, trials, m)
    drawn = rng.integers(0, m // size, (trials, n, 1))
    losses = np.take_along_axis(simulated.losses.reshape(trials, -1, size), drawn, axis=1)  # (trials, n, S)
    return failures(
        simulated.means,
        {
            "betting, no centre": lambda i: bounds.betting_losses(losses[i], 0, 1, MESSAGE_BITS, m, grids=GRIDS),
            "betting_topk": lambda i: bounds.betting_topk(losses[i], 1, 2, MESSAGE_BITS, m, grids=GRIDS),
        },
    )


# ---------------------------------------------------------------- payments and rules left out


def rms_over_draws(rng, trials, n=1000, often=0.95, vocab_size=2**20, low_alpha=0.99):
    """The context alone decides the loss: alpha = 1 in most contexts, else .99 and a sure hit."""
    alphas = np.where(rng.random((trials, n)) < often, 1.0, low_alpha)
    mean = often * math.log2(vocab_size) + (1 - often) * bounds.bpd_interval(low_alpha, vocab_size)[0]
    methods = {RMS: bounds.azuma_bpd, "azuma_rigorous": bounds.azuma_rigorous_bpd, "betting, no centre": bounds.betting_bpd}

    def bound(method, i):
        return method(np.zeros(n), vocab_size, MESSAGE_BITS, 10**12, alphas=alphas[i], alpha_range=(low_alpha, 1.0), grids=GRIDS)

    return failures(np.full(trials, mean), {name: lambda i, method=method: bound(method, i) for name, method in methods.items()})


def best_of_messages(rng, trials, m=400, n=200, bits=64):
    """The best on its corpus of 2^64 hypotheses that all guess a coin: exact, by the law of the least of 2^64 binomials."""
    errors = binom.ppf(-np.expm1(np.log1p(-rng.random(trials)) / 2.0**bits), m, 0.5)
    losses = (rng.random((trials, n)) < (errors / m)[:, None]).astype(float)
    return failures(
        np.full(trials, 0.5),
        {
            "betting, 64 bits paid": lambda i: bounds.betting_losses(losses[i], 0, 1, bits, m, grids=GRIDS),
            "betting, 64 bits unpaid": lambda i: bounds.betting_losses(losses[i], 0, 1, MESSAGE_BITS, m, grids=GRIDS),
            "betting, m overstated tenfold": lambda i: bounds.betting_losses(losses[i], 0, 1, bits, 10 * m, grids=GRIDS),
        },
    )


def best_of_models(rng, trials, n=200, models=64):
    """64 models of one true error .3, their errors independent: the fewest errors on the draws, or on the pilot."""
    errors, pilot = rng.random((trials, models, n)) < 0.3, bounds.pilot_size(n)
    best, chosen = errors.sum(axis=2).argmin(axis=1), errors[:, :, :pilot].sum(axis=2).argmin(axis=1)
    common = 1, 2, MESSAGE_BITS, LARGE_M
    return failures(
        np.full(trials, 0.3),
        {
            "betting_topk, best model on the same draws": lambda i: bounds.betting_topk(errors[i, best[i]], *common),
            "betting_topk, the same with δ2 / 64": lambda i: bounds.betting_topk(errors[i, best[i]], *common, candidates=models),
            "betting_topk, best model on the pilot": lambda i: bounds.betting_topk(errors[i, chosen[i], pilot:], *common),
        },
    )


def draws_misused(rng, trials, n=200):
    simulated = processes.skewed_beta(rng, trials, n)
    ordered, b_values = np.sort(simulated.losses, axis=1)[:, ::-1], Grids().b

    def bound(losses):
        return bounds.betting_losses(losses, 0, 1, MESSAGE_BITS, LARGE_M, grids=GRIDS)

    def without_delta2(i):
        found = bound(simulated.losses[i])
        return found.empirical_risk + found.complexity_term

    return failures(
        simulated.means,
        {
            "betting, without δ2": without_delta2,
            "betting, draws sorted before the pilot is taken": lambda i: bound(ordered[i]),
            "betting, draws with a loss above 1/2 dropped": lambda i: bound(simulated.losses[i][simulated.losses[i] <= 0.5]),
            "draws' limit, best of 32 b on the same draws": lambda i: min(
                bounds.iid_mean_upper(simulated.losses[i], b, DELTA) for b in b_values
            ),
        },
    )


def document_cuts(rng, trials, m=2000, n=500):
    simulated = processes.document_tails(rng, trials, m)
    kept = [rng.choice(row[~np.isnan(row)], n) for row in simulated.losses]
    stream = np.nan_to_num(simulated.losses, nan=1.0).reshape(trials, -1, 2)  # the dropped tokens are EOTs, which "always A" misses
    cut = np.take_along_axis(stream, rng.integers(0, m // 2, (trials, n, 1)), axis=1)
    return failures(
        simulated.means,
        {
            "betting, each document cut by itself": lambda i: bounds.betting_losses(kept[i], 0, 1, MESSAGE_BITS, m, grids=GRIDS),
            "betting, the global stream cut": lambda i: bounds.betting_losses(cut[i], 0, 1, MESSAGE_BITS, m, grids=GRIDS),
        },
    )


def refusals(m=2001):
    """What the code does about documents cut one by one, as a sentence; raises RuntimeError if it does not."""
    losses = processes.document_tails(np.random.default_rng(SEED), 1, m).losses[0]
    ends = (np.flatnonzero(np.nan_to_num(losses, nan=1.0)) + 1).astype("<u8")
    scored = [token for window in range(m // 2) for part in window_segments(window, 2, 8, ends) for token in range(part.first, part.stop)]
    if scored != list(range(m - 1)):
        raise RuntimeError("windows do not score every token of the global stream but its tail exactly once")
    try:
        bounds.betting_losses(losses, 0, 1, MESSAGE_BITS, m)
    except InputError as error:
        return (
            f"`window_segments` scored each of the first {m - 1} tokens of a corpus of {m} tokens in {len(ends)} documents exactly once, "
            f"whatever the documents' lengths. Losses with the dropped tokens as holes are refused: `{error}`."
        )
    raise RuntimeError("losses with dropped tokens were accepted")


# ---------------------------------------------------------------- what is run


@dataclass(frozen=True)
class Scenario:
    """A process and the bounds judged on it. They must hold, but for those in `breaks` (must fail) and `reported` (no claim)."""

    section: str
    process: str
    run: Callable  # (rng, trials) -> {method: violations}
    breaks: tuple = ()
    reported: tuple = ()


IID = {
    "IID Bernoulli": processes.bernoulli,
    "IID skewed Beta": processes.skewed_beta,
    "IID, rare maximal losses": partial(processes.rare_maximal, rate=0.02),
}
DEPENDENT = {"adaptive chain": processes.adaptive_chain, "varying α": processes.varying_alpha, "stopped α": processes.stopped_alpha}
CORPUS, DRAWS, RULES = "Every token seen", "Whole certificates", "Payments and rules left out"
RMS = "azuma, rms interval"
SCENARIOS = [
    *(Scenario(CORPUS, f"{name}, m = 1000", every_token(process, 1000)) for name, process in IID.items()),
    Scenario(CORPUS, "adaptive chain, m = 1000", every_token(processes.adaptive_chain, 1000)),
    Scenario(CORPUS, "varying α, m = 1000", every_token(processes.varying_alpha, 1000), reported=(RMS,)),
    Scenario(CORPUS, "stopped α, m = 1000", every_token(processes.stopped_alpha, 1000), breaks=(RMS,)),
    Scenario(CORPUS, "stopped α, m = 10000", every_token(processes.stopped_alpha, 10_000), breaks=(RMS,)),
    *(Scenario(DRAWS, f"{name}, n = 200 ≪ m", certificates(process, 200, 200, LARGE_M)) for name, process in IID.items()),
    *(Scenario(DRAWS, f"{name}, n = 100 < m = 2000", certificates(process, 2000, 100)) for name, process in DEPENDENT.items()),
    *(Scenario(DRAWS, f"{name}, n = m = 200", certificates(process, 200, 200)) for name, process in (IID | DEPENDENT).items()),
    Scenario(DRAWS, "adaptive chain, 50 of 100 windows of 10", windows),
    Scenario(DRAWS, "α chosen, n = 200 ≪ m", alpha_chosen, reported=("azuma_certified, best α of the same draws",)),
    Scenario(RULES, "α decided by the context, n = 1000 ≪ m", rms_over_draws, breaks=(RMS,)),
    Scenario(RULES, "bets stopped, m = 1000", stopped_bets, breaks=("Theorem A, best of 16 a, unpaid", "Theorem A, without δ1")),
    Scenario(RULES, "multipliers stopped, m = 1000", stopped_multipliers, breaks=("azuma_rigorous, best of 9 λ, unpaid",)),
    Scenario(
        RULES,
        "best of 2^64 coin guessers, n = 200, m = 400",
        best_of_messages,
        breaks=("betting, 64 bits unpaid", "betting, m overstated tenfold"),
    ),
    Scenario(RULES, "64 equal models, n = 200 ≪ m", best_of_models, breaks=("betting_topk, best model on the same draws",)),
    Scenario(
        RULES,
        "IID skewed Beta, n = 200 ≪ m",
        draws_misused,
        breaks=(
            "betting, without δ2",
            "betting, draws sorted before the pilot is taken",
            "betting, draws with a loss above 1/2 dropped",
        ),
        reported=("draws' limit, best of 32 b on the same draws",),
    ),
    Scenario(RULES, "A…A EOT, windows of 2, n = 500", document_cuts, breaks=("betting, each document cut by itself",)),
]


def count(number, trials, chunk):
    """Violations of one chunk of one scenario, {method: (choices,)}; a chunk's random stream depends on its place alone."""
    scenario = SCENARIOS[number]
    found = scenario.run(generator(SEED, "coverage", scenario.process, chunk), trials)
    return number, {method: np.atleast_1d(fails.sum(axis=0)) for method, fails in found.items()}


def verdicts(counts, trials):
    """One row per scenario and method; of several choices the one with the most violations.

    Bounds that hold may exceed delta as far as a fair binomial does once in a thousand; bounds that must fail must exceed it further.
    """
    allowed = int(binom.ppf(1 - SIGNIFICANCE, trials, DELTA))
    rows = []
    for scenario, methods in zip(SCENARIOS, counts, strict=True):
        for method, by_choice in methods.items():
            violations = int(by_choice.max())
            expected = "fails" if method in scenario.breaks else "no claim" if method in scenario.reported else "holds"
            verdict = "holds" if violations <= allowed else "fails"
            rows.append(
                {
                    "section": scenario.section,
                    "process": scenario.process,
                    "method": method,
                    "trials": trials,
                    "violations": violations,
                    "rate": violations / trials,
                    "rate_low": 1 - bounds.clopper_pearson_upper(trials - violations, trials, SIGNIFICANCE / 2),
                    "rate_high": bounds.clopper_pearson_upper(violations, trials, SIGNIFICANCE / 2),
                    "allowed": allowed,
                    "expected": expected,
                    "verdict": verdict,
                    "as_expected": expected in ("no claim", verdict),
                }
            )
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- projection to the paper's operating points

VOCAB_SIZE, N_PAPER, M_AMBER = 32_000, 10_000, 1_200_000_000_000
POINTS = {  # complexity per token in nats, and the bound in bits that the paper's Table 8 reports
    "LLaMA2-7B 2 bit": (0.0099, 4.28),
    "LLaMA2-13B 2 bit": (0.018, 4.52),
    "LLaMA1-30B 2 bit": (0.043, 5.37),
    "LLaMA2-70B 2 bit": (0.084, 6.14),
    "LLaMA2-70B 4 bit": (0.165, 7.33),
}
SHAPES = [(0.55, 0.02), *((shape, miss) for shape in (0.3, 0.55, 1.0) for miss in (0.005, 0.02, 0.05) if (shape, miss) != (0.55, 0.02))]


def project(point, shape, miss_rate, repeats):
    """Bounds on synthetic records whose mean entropy is such that the paper's formula gives the number that the paper reports."""
    kappa, reported = POINTS[point]
    message_bits = round(kappa * M_AMBER / math.log(2))

    def records(stream, mean_entropy):
        rng = generator(SEED, "projection", stream)
        return processes.language_tokens(rng, N_PAPER, VOCAB_SIZE, mean_entropy, shape, miss_rate)

    def excess(mean_entropy):
        values = [bounds.azuma_bpd(records(i, mean_entropy)[0], VOCAB_SIZE, message_bits, M_AMBER).value for i in range(repeats)]
        return np.mean(values) - reported

    mean_entropy, found = brentq(excess, 0.2, 8, xtol=1e-3), []
    for repeat in range(repeats):
        log2_q, entropies = records(repeat, mean_entropy)
        common = log2_q, VOCAB_SIZE, message_bits, M_AMBER
        methods = (bounds.azuma_bpd, bounds.azuma_certified_bpd, bounds.azuma_rigorous_bpd, bounds.betting_bpd)
        found.append([*(method(*common).value for method in methods), bounds.betting_bpd(*common, entropies=entropies).value])
    names = ("azuma", "azuma_certified", "azuma_rigorous", "theorem_a", "betting")
    values = dict(zip(names, np.mean(found, axis=0), strict=True))
    facts = {"point": point, "kappa": kappa, "paper": reported, "shape": shape, "miss_rate": miss_rate, "mean_entropy_bits": mean_entropy}
    return facts | values | {"gain": values["betting"] - values["theorem_a"], "repeats": repeats}


# ---------------------------------------------------------------- outputs


def markdown(columns, rows):
    """A Markdown table; numbers are given as text."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *rows])


def coverage_text(table, refused):
    parts = [f"{table['trials'].iloc[0]:,} trials per row, δ = {DELTA}, seed {SEED}. Allowed: {table['allowed'].iloc[0]:,} violations."]
    for section, rows in table.groupby("section", sort=False):
        lines = []
        for row in rows.itertuples():
            verdict = row.verdict if row.as_expected else f"**{row.verdict}**"
            lines.append([row.process, row.method, f"{row.violations:,}", f"{row.rate:.4f}", row.expected, verdict])
        columns = ["process", "method", "violations", "rate", "expected", "verdict"]
        parts.append(f"### {section}\n\n{markdown(columns, lines)}")
    return "\n\n".join([*parts, refused])


def projection_text(table):
    """The default shape of the synthetic records, and the range over all shapes."""
    columns = ["paper", "azuma", "azuma_certified", "azuma_rigorous", "theorem_a", "betting", "gain"]
    lines = []
    for point, rows in table.groupby("point", sort=False):
        ranges = [f"{rows[name].min():.2f} to {rows[name].max():.2f}" for name in ("theorem_a", "betting", "gain")]
        lines.append([point, f"{rows['kappa'].iloc[0]:g}", *(f"{rows[name].iloc[0]:.2f}" for name in columns), *ranges])
    shapes = f"over {len(table) // len(POINTS)} shapes"
    titles = ["paper, Table 8", "azuma (fitted to it)", "azuma_certified", "azuma_rigorous", "Theorem A", "betting, centred", "gain"]
    return markdown(["point", "κ", *titles, *(f"{title} {shapes}" for title in ("Theorem A", "betting", "gain"))], lines)


def fill(text, **blocks):
    """`text` with what lies between ``<!-- name -->`` and ``<!-- end of name -->`` replaced."""
    for name, block in blocks.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        head, _, rest = text.partition(begin)
        _, found, tail = rest.partition(end)
        if not found:
            raise InputError(f"validity.md has no '{begin}' ... '{end}'; expected both marks")
        text = f"{head}{begin}\n{block}\n{end}{tail}"
    return text


def draw(table, path):
    """Violation rates with 99.9% intervals: above, what must hold; below, what must fail."""
    from matplotlib.figure import Figure

    from tokenbounds.figures import COLOURS, MARKERS, STYLE, plt

    hold, fail = table[table["expected"] != "fails"], table[table["expected"] == "fails"]
    families = hold["method"].str.split(",").str[0]
    looks = dict(zip(families.unique(), zip((*COLOURS, "0.3", "0.6"), (*MARKERS, "X", "*"), strict=True), strict=False))
    with plt.rc_context(STYLE):
        figure = Figure(figsize=(9, 11), layout="constrained")
        upper, lower = figure.subplots(2, 1, height_ratios=(hold["process"].nunique(), len(fail)))
        labels = list(hold["process"].unique())
        drawn = {}
        for row, family in zip(hold.itertuples(), families, strict=True):
            place = drawn.setdefault(row.process, [])
            place.append(row)
            y, (colour, marker) = labels.index(row.process) + 0.15 * (len(place) - 2.5), looks[family]
            upper.plot([row.rate_low, row.rate_high], [y, y], color=colour, linewidth=1)
            filled = "white" if row.expected == "no claim" else colour
            upper.plot(row.rate, y, marker, color=colour, markerfacecolor=filled, markersize=4, clip_on=False)
        for family, (colour, marker) in looks.items():
            upper.plot([], [], marker, color=colour, markersize=4, label=family)
        upper.set_title("must hold (open: no claim)", loc="left")
        figure.legend(loc="outside upper center", ncols=4)
        for y, row in enumerate(fail.itertuples()):
            lower.plot([row.rate_low, row.rate_high], [y, y], color="k", linewidth=1)
            lower.plot(row.rate, y, "o", color="k", markersize=4)
        lower.set_title("must fail", loc="left")
        lower.set_xscale("log")
        lower.set_xticks([0.05, 0.1, 0.2, 0.5, 1.0], ["0.05", "0.1", "0.2", "0.5", "1"])
        lower.set_xticks([], minor=True)
        lower.set_xlim(0.045, 1.1)
        for axes, names in ((upper, labels), (lower, [f"{row.process}: {row.method}" for row in fail.itertuples()])):
            axes.axvline(DELTA, color="#D55E00", linestyle="--", linewidth=1)
            axes.set_yticks(range(len(names)), names, fontsize=7)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.set_xlabel(f"rate of violations (dashed: δ = {DELTA})")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def main(trials, out):
    """Run everything; returns the exit status."""
    chunks = [(number, min(CHUNK, trials - first), first) for first in range(0, trials, CHUNK) for number in range(len(SCENARIOS))]
    repeats = max(1, trials // 2500)
    shapes = SHAPES if repeats > 1 else SHAPES[:2]
    counts = [{} for _ in SCENARIOS]
    with ProcessPoolExecutor(WORKERS) as pool:
        projected = [pool.submit(project, point, *shape, repeats) for point in POINTS for shape in shapes]
        counted = [pool.submit(count, *chunk) for chunk in chunks]
        jobs = projected + counted
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="coverage", unit="job", disable=None):
            job.result()  # the first failure ends the run
    for job in counted:
        number, found = job.result()
        for method, violations in found.items():
            counts[number][method] = counts[number].get(method, 0) + violations
    table, projection = verdicts(counts, trials), pd.DataFrame([job.result() for job in projected])
    blocks = {"coverage": coverage_text(table, refusals()), "projection": projection_text(projection)}
    text = fill((out / "validity.md").read_text(encoding="utf-8"), **blocks)
    for name, frame in (("coverage", table.drop(columns="as_expected")), ("projection", projection)):
        write_text(out / "validity" / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))
    draw(table, out / "validity" / "coverage.png")
    write_text(out / "validity.md", text)
    wrong = table[~table["as_expected"]]
    for row in wrong.itertuples():
        print(f"{row.process}: {row.method} {row.verdict}, expected: {row.expected} ({row.violations} violations)", file=sys.stderr)
    return int(len(wrong) > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=20_000, help="simulated corpora per row; below 1000 a failure may not show")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "docs", help="folder of validity.md")
    arguments = parser.parse_args()
    sys.exit(main(arguments.trials, arguments.out))
