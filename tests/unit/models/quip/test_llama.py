"""The model: predictions of an ordinary LLaMA with the same weights, and of reference files."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.quip_checkpoints import CONFIG, write_checkpoint
from support.quip_reference import KV_HEADS

from tokenbounds.errors import InputError
from tokenbounds.models.precision import cast
from tokenbounds.models.quip import llama
from tokenbounds.models.quip.checkpoint import QuipCheckpoint
from tokenbounds.models.quip.config import QuipParams
from tokenbounds.models.quip.llama import QuipLlama

VOCAB = CONFIG["vocab_size"]


def ids(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, VOCAB, shape))


@pytest.fixture(scope="module")
def dense_model(folder):
    """The same weights in an ordinary Hugging Face LLaMA."""
    from transformers import LlamaConfig, LlamaForCausalLM

    checkpoint = QuipCheckpoint(folder)
    keys = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "rms_norm_eps",
    )
    rope = {"rope_type": "default", "rope_theta": 500.0}
    model = LlamaForCausalLM(
        LlamaConfig(**{key: CONFIG[key] for key in keys}, num_key_value_heads=KV_HEADS, rope_parameters=rope)
    ).eval()
    state = {
        name: checkpoint.weights(name)
        for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    }
    for i in range(2):
        for name, tensor in checkpoint.layer(i).items():
            part = {
                "q": "self_attn.",
                "k": "self_attn.",
                "v": "self_attn.",
                "o": "self_attn.",
                "u": "mlp.",
                "g": "mlp.",
                "d": "mlp.",
            }
            state[f"model.layers.{i}.{part[name[0]] if 'proj' in name else ''}{name}.weight"] = tensor
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("part_tokens", [8192, 30])  # the batch in one part, and in parts of two rows and one
def test_the_model_is_that_llama(folder, dense_model, monkeypatch, part_tokens):
    monkeypatch.setattr(llama, "_PART_TOKENS", part_tokens)
    model, x = QuipLlama(QuipCheckpoint(folder)), ids(3, 15)
    with torch.no_grad():
        expected = dense_model(x).logits
    hidden = model.hidden(x)
    logits = model.head(hidden)
    assert hidden.shape == (3, 15, 64) and logits.shape == (3, 15, VOCAB) and logits.dtype == torch.float32
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)


def test_layers_take_parts_of_equally_many_rows(folder, monkeypatch):
    """So that no result depends on the row: five rows in parts of at most two are three parts of two."""
    monkeypatch.setattr(llama, "_PART_TOKENS", 16)
    model, x, shapes = QuipLlama(QuipCheckpoint(folder)), ids(5, 8), []
    layer = model._layer[0]
    monkeypatch.setattr(
        layer, "forward", lambda x, *args, f=layer.forward, **kw: shapes.append(x.shape) or f(x, *args, **kw)
    )
    hidden = model.hidden(x)
    assert hidden.shape == (5, 8, 64)
    assert {tuple(shape) for shape in shapes} == {(2, 8, 64)} and len(shapes) == 2 * 3
    assert torch.equal(model.hidden(x.flip(0)).flip(0), hidden)


def test_bfloat16(folder, dense_model):
    """The same function up to the rounding of its weights and activations, in bfloat16 throughout."""
    model, x = QuipLlama(QuipCheckpoint(folder)), ids(3, 15)
    exact = model.head(model.hidden(x))
    cast(model, {"dtype": "bfloat16"})
    hidden = model.hidden(x)
    logits = model.head(hidden)
    assert hidden.dtype == torch.bfloat16 and logits.dtype == torch.float32
    assert 1e-4 < (logits - exact).abs().max() < 0.1 * exact.std()
    assert torch.equal(logits, logits.bfloat16().float())


def test_a_state_sees_nothing_after_it(folder):
    model, x = QuipLlama(QuipCheckpoint(folder)), ids(2, 12)
    torch.testing.assert_close(model.hidden(x)[:, :5], model.hidden(x[:, :5]), rtol=0, atol=2e-5)
    with pytest.raises(InputError, match="a sequence of 25 tokens is longer than the model's 24 positions"):
        model.hidden(ids(1, 25))


def test_packed_tensors_in_memory_or_on_disk(folder, monkeypatch):
    x, resident = ids(2, 8), QuipCheckpoint(folder, resident=True)
    model = QuipLlama(resident)
    first = model.hidden(x)
    assert torch.equal(first, QuipLlama(QuipCheckpoint(folder)).hidden(x))
    reads = []
    monkeypatch.setattr(
        resident, "tensor", lambda name: reads.append(name) or QuipCheckpoint.tensor(resident, name)
    )
    assert torch.equal(model.hidden(x), first)
    assert reads and all("norm" in name for name in reads)


def test_keys_that_older_configurations_leave_out(tmp_path):
    """As many key and value heads as heads, base 10000: as in LLaMA-1."""
    short = write_checkpoint(tmp_path / "short")
    full = write_checkpoint(tmp_path / "full", {**CONFIG, "num_key_value_heads": 4, "rope_theta": 10000.0})
    assert torch.equal(*(QuipLlama(QuipCheckpoint(path)).hidden(ids(1, 8)) for path in (short, full)))


def test_the_layout_names_every_tensor(folder):
    model = QuipLlama(QuipCheckpoint(folder))
    stored = load_file(folder / "model.safetensors")
    assert dict(model.layout()) == {name: tuple(tensor.shape) for name, tensor in stored.items()}
    assert QuipParams.model_validate(model.config.quip_params) == model.config.quip_params


@pytest.mark.parametrize("name", ["tiny_e8p12", "tiny_rvq3b"])
def test_whole_checkpoints_of_the_reference(shared, name):
    folder = shared / "vectors/quip" / name
    expected = load_file(folder / "expected.safetensors")
    model = QuipLlama(QuipCheckpoint(folder))
    logits = model.head(model.hidden(expected["input_ids"]))
    # The files' stated tolerances; the reference's own arithmetic is in float16.
    for key, tolerance in (
        ("logits_dense_fp32", 1e-4),
        ("logits_ref_act32", 2e-2),
        ("logits_ref_fp16", 3e-2),
    ):
        assert (logits - expected[key]).abs().max() <= tolerance, key
