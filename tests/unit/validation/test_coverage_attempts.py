"""Many certificates, one reported: people do what is said of them, and each payment is needed."""

import numpy as np
import pytest

from tokenbounds.bounds import Bounded, Claim, TopK
from tokenbounds.randomness import generator
from tokenbounds.validation import coverage_attempts as attempts
from tokenbounds.validation.coverage_common import BETTING, DELTA, GRIDS, LARGE_M, MESSAGE_BITS

TRIALS, LAST = 300, -1  # LAST: the column of 50 attempts
ALLOWED = 27 / TRIALS  # a rate of 5% exceeds it less than once in a thousand times


@pytest.fixture(autouse=True)
def _two_columns(monkeypatch):
    monkeypatch.setattr(attempts, "SHOWN", (1, attempts.ATTEMPTS))


def rates(scenario, shared):
    failed = scenario(shared)(generator(137, "test", scenario.__name__, shared), TRIALS)
    return {label: fails.mean(axis=0)[LAST] for label, fails in failed.items()}


@pytest.mark.parametrize(("kind", "candidates"), [("betting_topk", 1), ("betting", 50)])
def test_bounds_from_counts_are_those_of_the_draws(kind, candidates):
    """In any order of the draws within the pilot and after it."""
    rng = np.random.default_rng(1)
    drawn = (rng.random(attempts.DRAWS) < 0.3).astype(float)
    losses = TopK(drawn, 2, 1) if kind == "betting_topk" else Bounded(drawn, 0, 1)
    claim = Claim(MESSAGE_BITS, LARGE_M, delta=DELTA, candidates=candidates, grids=GRIDS)
    counts = [np.full((2, 3), int(part.sum())) for part in (drawn[: attempts.PILOT], drawn)]
    found = attempts.certified(kind, attempts.Attempts(np.zeros((2, 3)), *counts), candidates)
    assert found == pytest.approx(np.full((2, 3), BETTING.bound(losses, claim).value), abs=1e-12)


def test_each_attempt_may_have_its_own_share_of_delta():
    tried = attempts.variants(generator(137, "test"), 5, shared=False)
    shares = np.arange(1, attempts.ATTEMPTS + 1)
    found = attempts.certified("betting_topk", tried, shares)
    one_by_one = [attempts.certified("betting_topk", tried, int(share))[:, share - 1] for share in shares]
    assert found.tolist() == np.stack(one_by_one, axis=1).tolist()


def test_the_tuner_fits_shared_draws_and_not_those_of_the_message():
    shared, own = (attempts.tuned(generator(137, "test", x), TRIALS, x) for x in (True, False))
    gap, own_gap = ((tried.means - tried.errors / attempts.DRAWS).mean(axis=0) for tried in (shared, own))
    deviation = np.sqrt(0.25 / attempts.DRAWS / TRIALS)
    assert abs(gap[0]) < 4 * deviation and gap[LAST] > 0.04
    assert (abs(own_gap) < 4 * deviation).all()
    assert shared.means[:, LAST].mean() < attempts.ERROR - 0.03  # he did make the model better


def test_the_true_error_of_a_tuned_model_is_that_of_draws_it_was_not_tuned_on(monkeypatch):
    """Half of the draws decide which change is kept; the other half is left out."""
    half = attempts.DRAWS // 2
    monkeypatch.setattr(
        attempts, "_errors", lambda drawn: (drawn[:, :half].sum(axis=1), drawn[:, half:].sum(axis=1))
    )
    tried = attempts.tuned(generator(137, "test"), 1000, shared=True)
    left_out, seen = (counts[:, LAST] / half for counts in (tried.pilot_errors, tried.errors))
    true = tried.means[:, LAST]
    assert abs((left_out - true).mean()) < 4 * np.sqrt(0.25 / half / 1000) < (true - seen).mean()


def test_variants_have_the_same_error_and_share_tokens_only_on_shared_draws():
    for shared, expected in ((True, 1 - attempts.VARIANT), (False, 0.0)):
        tried = attempts.variants(generator(137, "test", shared), 1000, shared)
        assert abs(tried.errors.mean() / attempts.DRAWS - attempts.ERROR) < 0.005
        correlation = np.corrcoef(tried.errors[:, 0], tried.errors[:, LAST])[0, 1]
        # Two variants agree where neither predicts otherwise.
        assert correlation == pytest.approx(expected**2, abs=0.12)


def test_the_last_certificate_is_false_on_shared_draws_only():
    shared, own = (rates(attempts.last, x) for x in (True, False))
    assert shared["betting_topk"] > 0.8 and shared["betting"] > 0.4
    assert max(own.values()) <= ALLOWED


@pytest.mark.parametrize("shared", [True, False])
def test_the_best_certificate_is_false_unless_paid(shared):
    found = rates(attempts.best, shared)
    assert found["betting_topk"] > 0.5 and found["betting"] > ALLOWED
    paid = [label for label in found if "candidates" in label or "pilots" in label]
    assert len(paid) == 3 and max(found[label] for label in paid) <= ALLOWED


@pytest.mark.parametrize("shared", [True, False])
def test_an_open_number_of_attempts_is_paid_by_growing_shares(shared):
    found = rates(attempts.satisfied, shared)
    assert found[attempts.UNPAID] > 0.5 and found[attempts.OPEN] <= ALLOWED
