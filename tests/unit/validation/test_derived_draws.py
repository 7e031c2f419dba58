"""Draws derived from a message behave as independent uniform ones: what the coverage experiment models.

The keys are those of different messages; a real SHA-256 stands behind them, so each number here is fixed.
"""

import hashlib

import numpy as np
import pytest
from scipy.stats import chi2, chi2_contingency, chisquare, norm
from support.stores import write_store

from tokenbounds.corpus.sampling import draw, draw_key

KEYS, N = 100, 300
CONTEXTS = {
    "token": {"mode": "token", "context_length": 16},
    "window": {"mode": "window", "context_length": 16, "window": 8},
    "document": {"mode": "document", "context_length": 16},
}
COLUMNS = {"token": "position", "window": "window", "document": "document"}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Documents of 1 to 11 tokens."""
    documents = [[1 + i % 7] * (i % 11) for i in range(800)]
    return write_store(tmp_path_factory.mktemp("store"), documents)


def keys(index, context, count=KEYS, n=N, beacon=""):
    """Keys of messages 0, 1, ... ."""
    messages = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]
    return [draw_key(message, index.identity, context, n, beacon) for message in messages]


@pytest.mark.parametrize("mode", CONTEXTS)
def test_every_place_is_drawn_equally_often(index, mode):
    context, column = CONTEXTS[mode], COLUMNS[mode]
    drawn = np.concatenate([draw(index, context, N, key)[column] for key in keys(index, context)])
    limit = {"token": index.m, "window": index.m // 8, "document": len(index.ends)}[mode]
    counts = np.bincount(drawn, minlength=limit)
    assert len(counts) == limit and drawn.size == KEYS * N
    assert chisquare(counts).pvalue > 1e-3
    # Neither is it too even: draws are with replacement.
    assert chi2.sf(chisquare(counts).statistic, limit - 1) < 1 - 1e-3


def test_draws_of_two_messages_are_independent(index):
    """Draw by draw, in a table of 10 x 10 tenths of the corpus, over pairs of neighbouring messages."""
    drawn = [tenths(index, key) for key in keys(index, CONTEXTS["token"])]
    pairs = zip(drawn[::2], drawn[1::2], strict=True)
    table = sum(np.histogram2d(a, b, bins=10, range=[[0, 10]] * 2)[0] for a, b in pairs)
    assert table.sum() == KEYS // 2 * N and chi2_contingency(table).pvalue > 1e-3


def test_draws_of_one_message_are_independent_of_those_before(index):
    drawn = [tenths(index, key) for key in keys(index, CONTEXTS["token"])]
    table = sum(np.histogram2d(a[:-1], a[1:], bins=10, range=[[0, 10]] * 2)[0] for a in drawn)
    assert chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("change", ["message", "index", "scheme", "n", "beacon"])
def test_any_change_gives_independent_draws(index, change):
    """Whatever changes: means of the first draws of both are uncorrelated over messages."""
    context = CONTEXTS["token"]
    other = context | {"context_length": 17} if change == "scheme" else context
    pairs = []
    for number in range(200):
        message = hashlib.sha256(str(number).encode()).hexdigest()
        changed = hashlib.sha256(f"{number}'".encode()).hexdigest() if change == "message" else message
        identity = "0" * 64 if change == "index" else index.identity
        n, beacon = 50 + (change == "n"), "heads" if change == "beacon" else ""
        before = draw(index, context, 50, draw_key(message, index.identity, context, 50, ""))
        after = draw(index, other, n, draw_key(changed, identity, other, n, beacon))
        assert not np.array_equal(before["position"], after["position"][:50])
        pairs.append((before["position"].mean(), after["position"][:50].mean()))
    correlation = np.corrcoef(np.transpose(pairs))[0, 1]
    assert abs(correlation) < norm.isf(5e-4) / np.sqrt(len(pairs))


def test_the_share_of_a_set_of_tokens_among_the_draws_is_binomial(index):
    """A set that is fixed beforehand, as a model's errors are: what the limits for the draws rest on."""
    errors = np.random.default_rng(5).random(index.m) < 0.3
    counts = np.array(
        [
            errors[draw(index, CONTEXTS["token"], N, key)["position"]].sum()
            for key in keys(index, CONTEXTS["token"])
        ]
    )
    p = errors.mean()
    assert abs(counts.mean() / N - p) < norm.isf(5e-4) * np.sqrt(p * (1 - p) / N / KEYS)
    spread = ((counts - N * p) ** 2).sum() / (N * p * (1 - p))
    assert chi2.ppf(5e-4, KEYS) < spread < chi2.isf(5e-4, KEYS)


def tenths(index, key):
    positions = draw(index, CONTEXTS["token"], N, key)["position"].to_numpy()
    return positions * 10 // index.m
