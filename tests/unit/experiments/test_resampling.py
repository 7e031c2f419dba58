"""Resampled tokens come from the generator's distribution."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from support.resampled import Bigram, distributions, resampled_of
from support.runs import ARITHMETIC, SCHEMES, SEED, context_of
from support.stores import write_store

from tokenbounds.corpus.contexts import ContextRule
from tokenbounds.corpus.sampling import positions_of_stream
from tokenbounds.corpus.store import TokenStore
from tokenbounds.errors import InputError
from tokenbounds.experiments.resampling import contexts, continuations, quantiles, read_resampled, shortened
from tokenbounds.io.files import read_json

# ---------------------------------------------------------------- drawing


def test_quantiles_are_those_of_the_distribution():
    log_p = torch.tensor([[0.25, 0.0, 0.5, 0.25]], dtype=torch.float64).log().expand(6, 4)
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert quantiles(log_p, uniforms).tolist() == [0, 0, 2, 2, 3, 3]


def test_continuations_are_drawn_from_the_model():
    """Chi-square tests of the first token, and of the second given the first, at a level of 1e-3 each."""
    p, n = distributions(5), 20000
    p[:, 0] = 0.0001  # rarely ends
    p /= p.sum(axis=1, keepdims=True)
    inputs = [np.array([1, 2])] * n
    uniforms = np.random.default_rng(1).random((n, 2))
    drawn, log2_q = continuations(Bigram(p), inputs, uniforms, eot_id=0, arithmetic=ARITHMETIC)
    first = np.array([tokens[0] for tokens in drawn])
    assert (
        scipy.stats.chisquare(
            np.bincount(first, minlength=5)[1:], n * p[2, 1:] / p[2, 1:].sum() * (first > 0).mean()
        ).pvalue
        > 1e-3
    )
    pairs = [tokens for tokens in drawn if len(tokens) == 2 and tokens[0] == 3 and tokens[1] > 0]
    second = np.bincount([pair[1] for pair in pairs], minlength=5)[1:]
    assert len(pairs) > 500
    assert scipy.stats.chisquare(second, len(pairs) * p[3, 1:] / p[3, 1:].sum()).pvalue > 1e-3
    for tokens, value in itertools.islice(zip(drawn, log2_q, strict=True), 50):
        chain = [2, *tokens]
        assert value == pytest.approx(sum(math.log2(p[a, b]) for a, b in itertools.pairwise(chain)), abs=1e-4)


def test_a_continuation_ends_with_its_document():
    p = distributions(4)
    p[:, 0] = 1.0
    p /= p.sum(axis=1, keepdims=True)
    uniforms = np.random.default_rng(2).random((300, 3))
    drawn, _ = continuations(Bigram(p), [np.array([1])] * 300, uniforms, eot_id=0, arithmetic=ARITHMETIC)
    assert {len(tokens) for tokens in drawn} == {1, 2, 3}
    for tokens in drawn:
        assert 0 not in tokens[:-1]
        assert tokens[-1] == 0 or len(tokens) == 3


def test_draws_do_not_depend_on_the_batch():
    p, rng = distributions(6), np.random.default_rng(4)
    inputs = [rng.integers(1, 6, rng.integers(1, 9)) for _ in range(40)]
    uniforms = rng.random((40, 2))
    results = [
        continuations(
            Bigram(p),
            inputs,
            uniforms,
            eot_id=0,
            arithmetic=ARITHMETIC | {"batch_tokens": size, "multiple": 3},
        )
        for size in (1, 7, 1000)
    ]
    assert results[0][0] == results[1][0] == results[2][0]


def test_a_prediction_that_is_not_finite_is_refused():
    model = Bigram(np.full((3, 3), np.nan))
    with pytest.raises(InputError, match="g: a prediction is not finite"):
        continuations(model, [np.array([1])], np.zeros((1, 1)), eot_id=0, arithmetic=ARITHMETIC, name="g")


def test_contexts_stay_in_their_document(tmp_path):
    store = write_store(tmp_path / "train", [[1, 2, 3], [4, 5]], 10, 0)
    pairs = [(tokens.tolist(), start) for tokens, start in contexts(store, range(7), 2)]
    assert pairs == [
        ([], True),
        ([1], True),
        ([1, 2], True),
        ([2, 3], False),
        ([], True),
        ([4], True),
        ([4, 5], True),
    ]


def test_room_for_the_continuation():
    assert shortened(ContextRule(8, "first", 0), 3).length == 6
    with pytest.raises(InputError, match="g: a continuation of 9 tokens; expected at most the 8"):
        shortened(ContextRule(8, "first", 0), 9, "g")


# ---------------------------------------------------------------- files


def test_resampling_is_seeded(run, tmp_path):
    first, again, other = (
        resampled_of(run, tmp_path / str(i), seed=seed) for i, seed in enumerate((SEED, SEED, SEED + 1))
    )
    assert first.read_bytes() == again.read_bytes()
    assert read_resampled(first)["tokens"] != read_resampled(other)["tokens"]
    store = TokenStore(run / "tokens/text/train")
    drawn = positions_of_stream(store, 30, SEED, "contexts", "text")
    assert read_resampled(first)["position"].tolist() == drawn.tolist()
    scheme = context_of(SCHEMES["token"])
    assert read_json(first.with_suffix(".json"))["config"] == {"scheme": scheme, "draws": 30, "tokens": 1}


def test_a_scheme_that_the_message_does_not_list_is_refused(run, tmp_path):
    with pytest.raises(InputError, match="the message knows the sampling schemes"):
        resampled_of(run, tmp_path, scheme={"mode": "token", "context_length": 15})


def test_resampled_tokens_that_were_edited(run, tmp_path):
    path = resampled_of(run, tmp_path)
    frame = pd.read_parquet(path)
    frame.loc[0, "log2_q"] = -1.0
    frame.to_parquet(path, index=False)
    with pytest.raises(InputError, match=r"r\.parquet: changed since it was written"):
        read_resampled(path)
