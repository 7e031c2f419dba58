"""Models in bfloat16 are the same functions up to rounding; what must stay exact does."""

import numpy as np
import pytest
import torch
from support.causal_models import KINDS, hypothesis, random_ids

from tokenbounds.errors import InputError
from tokenbounds.models.gpt import GPT
from tokenbounds.models.markov import chain_of
from tokenbounds.models.precision import cast
from tokenbounds.models.smoothing_head import AlphaHead
from tokenbounds.models.transformers import CausalLM

V = 50
BFLOAT16 = {"dtype": "bfloat16", "multiple": 8, "batch_tokens": 64}
SHAPE = {"layers": 2, "heads": 2, "width": 16, "context_length": 32, "positions": "rotary", "bias": True}
VARIANTS = {
    "dense": {},
    "learned positions": {"architecture": SHAPE | {"positions": "learned"}},
    "lora": {
        "structure": {"kind": "lora", "rank": 2, "dropout": 0, "layers": "attention", "train_norms": False}
    },
    "kronecker": {"structure": {"kind": "kronecker", "out_factor": 2, "in_factor": 2}},
    "monarch": {"structure": {"kind": "monarch", "blocks": 4}},
    "subspace": {"structure": {"kind": "lora", "rank": 2, "dropout": 0}, "subspace": {"dimension": 30}},
}


def made(variant):
    config = {"family": "gpt", "vocab_size": V, "architecture": SHAPE, "start_token": "first", "eot_id": 0}
    model, config = GPT.create(config | VARIANTS.get(variant, {}), 3)
    if "init" not in config:
        model.initialize(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    model.eval()
    return model.materialize() if "subspace" in config else model


def library(kind):
    return CausalLM.create(hypothesis(KINDS[kind] | {"initializer_range": 0.2}), 3)[0].eval()


@pytest.mark.parametrize("name", [*VARIANTS, *KINDS])
def test_bfloat16_is_the_same_function_up_to_rounding(name):
    model = made(name) if name in VARIANTS else library(name)
    ids = random_ids((3, 20))
    with torch.inference_mode():
        exact = model.head(model.hidden(ids))
    tied = len(list(model.parameters()))
    assert cast(model, BFLOAT16) is model
    assert {parameter.dtype for parameter in model.parameters()} <= {torch.bfloat16}
    assert len(list(model.parameters())) == tied
    with torch.inference_mode():
        hidden = model.hidden(ids)
        logits = model.head(hidden)
    assert hidden.dtype == torch.bfloat16 and logits.dtype == torch.float32
    assert torch.equal(logits, logits.bfloat16().float())  # of a product in bfloat16
    assert 0 < (logits - exact).abs().mean() < 0.1 * exact.std()


def test_tables_of_positions_and_a_smoothing_head_keep_their_precision():
    model = made("dense")
    model.alpha_head = AlphaHead(16, 0.01, 0.5)
    cast(model, BFLOAT16)
    assert model.cos.dtype == model.alpha_head.weight.dtype == torch.float32
    weights = model.alpha_head(torch.zeros(3, 16, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.float64))
    assert weights.dtype == torch.float64
    model = library("llama")
    cast(model, BFLOAT16)
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}


@pytest.mark.parametrize("dtype", ["float32", "tf32"])
def test_weights_of_other_arithmetics_stay_as_they_are(dtype):
    model = made("dense")
    before = [parameter.clone() for parameter in model.parameters()]
    cast(model, BFLOAT16 | {"dtype": dtype})
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))


def test_a_markov_chain_has_exact_probabilities_in_every_arithmetic():
    facts = {"vocab_size": 5, "eot_id": 0, "start_token": "first", "floor_bits": 20}
    model, _ = chain_of(np.array([[1, 2], [1, 3]], np.int32), np.array([2, 1], np.int32), **facts)
    logits = cast(model, BFLOAT16).head(model.hidden(torch.tensor([[1]])))
    assert logits.dtype == torch.float32
    assert logits.exp()[0, 0, 2].item() == pytest.approx(2 / 3, abs=1e-6)


def test_a_model_that_is_not_causal_is_found_before_its_weights_are_rounded(monkeypatch):
    model = library("llama")
    states = model._states
    monkeypatch.setattr(model, "_states", lambda ids: states(ids) + 1e-2 * ids.float().mean())
    model._checked = False
    with pytest.raises(InputError, match="changes with the tokens that follow"):
        cast(model, BFLOAT16)


@pytest.mark.parametrize(("last_tokens", "longest"), [(None, 32), (4, 4), (0, 1)])
def test_the_longest_input_of_a_restricted_gpt(last_tokens, longest):
    """It pads no input beyond what a prediction may see."""
    config = {"family": "gpt", "vocab_size": V, "architecture": SHAPE, "start_token": "first", "eot_id": 0}
    if last_tokens is not None:
        config["last_tokens"] = last_tokens
    assert GPT.from_config(config).longest == GPT.create(config, 1)[0].longest == longest
