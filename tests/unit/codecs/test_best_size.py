"""Choice of a size: the least of a convex function on its grid, and the bound that the loss predicts."""

import math

import numpy as np
import pytest
import torch
from support.trainings import CPU, VOCAB, Store, chain

from tokenbounds.bounds import Bpd, Claim
from tokenbounds.bounds.methods import METHODS
from tokenbounds.codecs import best_size
from tokenbounds.codecs.best_size import Predictor, least, predicted, scored_length
from tokenbounds.codecs.decode import tensors_of
from tokenbounds.codecs.frame import encode
from tokenbounds.models.registry import new_model
from tokenbounds.randomness import generator

GRID = [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]


# ---------------------------------------------------------------- least


@pytest.mark.parametrize("refine", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("lowest", [-1.7, -1.0, -0.3, 0.12, 0.5, 1.44, 2.9])
@pytest.mark.parametrize("power", [1, 2, 4])
def test_least_of_a_convex_function(lowest, refine, power):
    """As near as its grid of the finest spacing lies, with two evaluations at most for each refinement."""
    tried = []

    def evaluate(value):
        tried.append(value)
        return abs(value - lowest) ** power

    found = least(GRID, evaluate, refine=refine)
    assert abs(found - lowest) <= 2.0**-refine / 2 + 1e-12
    assert len(tried) == len(set(tried)) <= len(GRID) + 2 * refine
    assert found == min(tried, key=lambda value: abs(value - lowest))


@pytest.mark.parametrize(("slope", "expected"), [(1.0, -2.0), (-1.0, 3.0)])
def test_least_at_an_end_is_looked_for_beyond_it(slope, expected):
    assert least(GRID, lambda value: slope * value, refine=0) == expected
    assert least(GRID, lambda value: slope * value, refine=2) == expected - slope * 0.75


def test_least_beyond_the_last_candidate():
    """As long as it falls, and no further."""
    tried = []

    def evaluate(value):
        tried.append(value)
        return abs(value - 5.2)

    assert least(GRID, evaluate, refine=1, beyond=4) == 5.0
    assert max(tried) == 6.0
    assert least(GRID, lambda value: -value, refine=0, beyond=2) == 5.0


def test_least_of_one_candidate_and_of_equal_ones():
    assert least([4.0], lambda value: 1.0, refine=2) == 4.0
    assert least(GRID, lambda value: 1.0, refine=0) == -2.0
    bumps = {-2.0: 5.0, -1.0: 1.0, 0.0: 4.0, 1.0: 0.5, 2.0: 4.0, 3.0: 5.0}
    assert least(GRID, lambda value: bumps.get(value, 9.0), refine=2) == 1.0


# ---------------------------------------------------------------- predictor


def small(context_length=8):
    architecture = {"layers": 1, "heads": 2, "width": 16, "context_length": context_length}
    config = {"family": "gpt", "vocab_size": VOCAB, "start_token": "first", "eot_id": 0}
    return new_model({**config, "architecture": architecture}, 2)[0].eval()


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    monkeypatch.setattr(best_size, "TOKENS", 1000)


@pytest.fixture(scope="module")
def store():
    return Store(chain(5000))


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_loss_is_that_of_the_later_half_of_each_context(store, length):
    model, predictor = small(), Predictor(store, generator(1, "size"), length, CPU)
    log2_q, entropy = predictor.loss(model)
    half = length // 2
    assert len(log2_q) == len(predictor.ids) * (length - half) >= 1000
    with torch.no_grad():
        shares = torch.log_softmax(model.head(model.hidden(predictor.ids)).double(), -1) / math.log(2)
    expected = shares.gather(-1, predictor.targets[..., None])[:, half:, 0].flatten()
    np.testing.assert_allclose(log2_q, expected, rtol=1e-5)
    expected = -(shares.exp2() * shares).sum(-1)[:, half:].flatten()
    np.testing.assert_allclose(entropy, expected, rtol=1e-5)


def test_bound_is_the_betting_bound_at_the_corpus_tokens(store):
    model, predictor = small(), Predictor(store, generator(1, "size"), 8, CPU)
    log2_q, entropy = predictor.loss(model)
    losses = Bpd(log2_q, VOCAB, entropies=entropy)
    for bits in (100, 3000, 10**7):
        bound, loss = predictor.bound(model, bits)
        claim = Claim(message_bits=bits, m=max(5000, len(log2_q)))
        assert bound == METHODS["betting"].bound(losses, claim).value
        assert loss == pytest.approx(-log2_q.mean())
    assert predictor.bound(model, 100)[0] < predictor.bound(model, 3000)[0]


def test_prediction_of_coded_tensors(store):
    """Of the values that decode, with the length of their message."""
    model, predictor = small(), Predictor(store, generator(1, "size"), 8, CPU)
    tensors = {name: value.copy() for name, value in tensors_of(model).items()}
    results = [
        predicted(model, predictor, tensors, {"kind": "levels", "levels": levels}) for levels in (2, 16, 256)
    ]
    lengths = [bits for _, _, bits in results]
    codecs = [{"kind": "levels", "levels": levels} for levels in (2, 16, 256)]
    assert lengths == [8 * len(encode(tensors, {}, codec=codec)) for codec in codecs]
    assert lengths == sorted(lengths)
    whole = predictor.bound(small(), 100)[1]
    assert abs(results[2][1] - whole) < abs(results[0][1] - whole)
    # the model holds the values of the last message
    bound, loss, bits = results[2]
    assert predictor.bound(model, bits) == (bound, loss)


@pytest.mark.parametrize(
    ("lengths", "longest", "expected"), [([16, 12], 64, 16), ([64], 16, 16), ([3], 0, 0)]
)
def test_scored_length(lengths, longest, expected):
    schemes = [{"mode": "token", "context_length": length} for length in lengths]
    assert scored_length({"schemes": schemes}, longest) == expected
