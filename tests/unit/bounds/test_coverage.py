"""Simulated coverage: the certified bounds hold as often as they claim, and those known to be false do not.

Small versions; a bound is judged by the binomial 99.9% point of its violations.
"""

import math

import numpy as np
import pytest
from scipy.stats import binom

from tokenbounds import bounds
from tokenbounds.bounds import Bounded, Bpd, Grids, search
from tokenbounds.bounds.azuma_bounds import azuma_terms, multipliers, penalised
from tokenbounds.bounds.draws import Sample
from tokenbounds.validation import processes

PROCESSES = {
    "bernoulli": processes.bernoulli,
    "skewed_beta": processes.skewed_beta,
    "rare_maximal": processes.rare_maximal,
    "adaptive_chain": processes.adaptive_chain,
    "varying_alpha": processes.varying_alpha,
    "stopped_alpha": processes.stopped_alpha,
}
DELTA = 0.05


def allowed(trials, delta=DELTA):
    """Violations that a bound with failure probability `delta` exceeds once in a thousand experiments."""
    return binom.ppf(0.999, trials, delta)


def family(trial_set, index):
    """Select the losses of one simulated corpus, with its per-token intervals where the process has them."""
    if trial_set.alphas is None:
        return Bounded(trial_set.losses[index], trial_set.low, trial_set.high).sample(None)
    head = trial_set.alphas[index], trial_set.alpha_range
    return Bpd(trial_set.log2_q[index], trial_set.vocab_size, None, *head).sample(None)


@pytest.mark.parametrize("name", PROCESSES)
def test_product_forms_cover_the_corpus(name):
    """Theorems A and C at n = infinity and L = 0, every bet alone; the centre follows the loss before."""
    trials, m = 2000, 300
    simulated = PROCESSES[name](np.random.default_rng(7), trials, m)
    bets = np.array([0.05, 0.3, 0.8, 0.99])
    for centre in (search.NO_CENTRE, search.Centre(0.5, 0.0, 1.0), search.Centre(0.2, 0.05, 0.6)):
        violations = np.zeros(len(bets), dtype=int)
        for index in range(trials):
            losses = family(simulated, index)
            before = np.concatenate([[0.0], losses.values[:-1, 0]])[:, None]
            value, _ = search.centred_values(losses, before, math.log(1 / DELTA) / m, bets, centre)
            violations += simulated.means[index] > value + 1e-9
        assert violations.max() <= allowed(trials), (centre, violations)


@pytest.mark.parametrize("name", ["varying_alpha", "stopped_alpha"])
def test_rigorous_azuma_covers_the_corpus_where_the_interval_varies(name):
    trials, m = 2000, 1000
    simulated = PROCESSES[name](np.random.default_rng(3), trials, m)
    kappa = math.log(1 / DELTA) / m
    for multiplier in multipliers((-30, -26, -22)):  # the middle one is near the best
        samples = (family(simulated, index) for index in range(trials))
        values = [penalised(sample, multiplier).mean() + kappa / multiplier for sample in samples]
        assert np.sum(simulated.means > np.array(values) + 1e-9) <= allowed(trials)


def test_rms_interval_is_broken_by_the_stopped_process():
    """The paper's statement at L = 0: about 11% of the corpora violate it at delta = .05."""
    trials, m = 4000, 1000
    simulated = processes.stopped_alpha(np.random.default_rng(5), trials, m)
    low, high = (-np.log2(1 - simulated.alphas + simulated.alphas / 1024), np.log2(1024 / simulated.alphas))
    rms = np.sqrt(((high - low) ** 2).mean(axis=1))
    values = [
        risk + azuma_terms(interval, 0.0, m, 1, DELTA, 1.0)[0]
        for risk, interval in zip(simulated.losses.mean(axis=1), rms, strict=True)
    ]
    rate = np.mean(simulated.means > np.array(values))
    assert np.sum(simulated.means > np.array(values)) > allowed(trials)
    assert rate == pytest.approx(0.11, abs=0.02)


@pytest.mark.parametrize("name", PROCESSES)
def test_certificates_cover_with_sampling(name):
    """The whole entry, L = 0, n draws with replacement of m positions; the draws get nearly all of delta."""
    trials, m, n = 1000, 1000, 100
    rng = np.random.default_rng(11)
    simulated = PROCESSES[name](rng, trials, m)
    positions = rng.integers(0, m, (trials, n))
    violations = 0
    for index in range(trials):
        losses, before = (
            array[positions[index]]
            for array in (simulated.losses[index], np.r_[0.0, simulated.losses[index][:-1]])
        )
        value = bounds.betting(
            losses, simulated.low, simulated.high, 0.0, m, DELTA, entropies=before, grids=QUICK
        )
        violations += simulated.means[index] > value + 1e-9
    assert violations <= allowed(trials)


@pytest.mark.parametrize("name", ["varying_alpha", "stopped_alpha"])
@pytest.mark.parametrize("method", [bounds.betting_bpd, bounds.azuma_rigorous_bpd])
def test_head_certificates_cover_with_sampling(name, method):
    trials, m, n = 400, 1000, 200
    rng = np.random.default_rng(13)
    simulated = PROCESSES[name](rng, trials, m)
    positions = rng.integers(0, m, (trials, n))
    violations = 0
    for index in range(trials):
        log2_q, alphas = (array[index][positions[index]] for array in (simulated.log2_q, simulated.alphas))
        value = method(
            log2_q, simulated.vocab_size, 2, m, alphas=alphas, alpha_range=simulated.alpha_range, grids=QUICK
        ).value
        violations += simulated.means[index] > value + 1e-9
    assert violations <= allowed(trials)


QUICK = Grids(
    bet_sizes=bounds.grids.logit_spaced(0.01, 0.99, 12),
    centre_linear=(0.0, 0.5),
    centre_quadratic=(0.0,),
    centre_widths=(0.6, 1.0),
)


@pytest.mark.parametrize("process", [processes.bernoulli, processes.skewed_beta, processes.rare_maximal])
@pytest.mark.parametrize("b", [0.05, 0.5, 0.98])
def test_limit_for_the_draws_covers(process, b):
    simulated = process(np.random.default_rng(17), 4000, 200)
    limit = bounds.iid_mean_upper(simulated.losses, b, DELTA)
    assert np.sum(simulated.means > limit) <= allowed(4000)
    if b == 0.05:  # a cautious bet is near the plain mean without delta2
        without = bounds.iid_mean_upper(simulated.losses, b, 1 - 1e-12)
        assert np.sum(simulated.means > without) > allowed(4000)


def test_many_hypotheses_are_covered_only_if_their_message_counts():
    """The best of 2^12 hypotheses that all guess: without the 12 bits of its message the bound is false."""
    m, counted, forgotten = 400, 0, 0
    rng = np.random.default_rng(19)
    bets = np.array(bounds.grids.logit_spaced(1e-3, 0.9995, 64))
    for _ in range(60):
        best = rng.binomial(m, 0.5, 2**12).min()
        losses = Sample((np.arange(m) < best).astype(float)[:, None], 0.0, 1.0, 0.0, 1.0)

        def value(bits, losses=losses):
            kappa = (math.log(2) * (bits + math.log2(len(bets))) + math.log(1 / DELTA)) / m
            return search.centred_values(losses, None, kappa, bets, search.NO_CENTRE)[0].min()

        counted += value(bounds.complexity_nats(12) / math.log(2)) < 0.5
        forgotten += value(0.0) < 0.5
    assert counted <= allowed(60) < forgotten


def test_results_selected_after_the_draws_are_covered_only_if_candidates_count():
    """The best of 100 models of one true error, each with its own draws: delta2 must be divided by 100."""
    rng = np.random.default_rng(23)
    results = {1: 0, 100: 0}
    for _ in range(20):
        ranks = rng.integers(0, 2, (100, 300))
        for candidates in results:
            values = [bounds.betting_topk(row, 1, 2, 2, 10**9, candidates=candidates).value for row in ranks]
            results[candidates] += min(values) < 0.5
    assert results[100] <= allowed(20) < results[1]


def test_option_chosen_and_estimated_on_the_same_draws_is_optimistic():
    """64 options with independent noise: the least limit over all is too small, the pilot's choice is not."""
    rng = np.random.default_rng(29)
    trials, n, options = 400, 200, 64
    same = fresh = 0
    for _ in range(trials):
        draws = rng.random((options, n))
        chosen = draws[:, :20].mean(axis=1).argmin()
        same += bounds.iid_mean_upper(draws, 0.3, DELTA).min() < 0.5
        fresh += bounds.iid_mean_upper(draws[chosen, 20:], 0.3, DELTA) < 0.5
    assert fresh <= allowed(trials) < same


def test_documents_cut_one_by_one_break_every_bound():
    """Ragged tails dropped per document: the kept losses average 1/4 while M = 1/2, the bound fails."""
    simulated = processes.document_tails(np.random.default_rng(31), 50, 2000)
    kept = np.nanmean(simulated.losses, axis=1)
    assert kept.mean() == pytest.approx(0.25, abs=0.01)
    values = [bounds.betting(losses[~np.isnan(losses)], 0, 1, 0.0, 2000) for losses in simulated.losses]
    assert np.mean(np.array(values) < simulated.means) > 0.9


def test_processes_have_the_means_they_claim():
    for name, process in PROCESSES.items():
        simulated = process(np.random.default_rng(37), 3000, 200)
        gap = simulated.losses.mean(axis=1) - simulated.means
        assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(3000), name
        assert simulated.losses.min() >= simulated.low and simulated.losses.max() <= simulated.high
