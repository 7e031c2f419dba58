"""Layers of a model: those that a prediction runs through, which of them share an input, and their groups."""

import pytest
import torch
from support.causal_models import LLAMA, SHAPE, hypothesis

from tokenbounds.codecs.sequential.layers import Layers, find_layers
from tokenbounds.models.registry import new_model


def gpt(**changes):
    architecture = {"layers": 2, "heads": 2, "width": 8, "context_length": 6}
    base = {"family": "gpt", "vocab_size": 11, "start_token": "first", "eot_id": 0}
    return new_model({**base, "architecture": architecture, **changes}, 3)[0].eval()


def causal(entries):
    return new_model(hypothesis(entries), 3)[0].eval()


def named(model, *ends):
    """Names of parameters that end so, in their order."""
    return [name for name, _ in model.named_parameters() if name.endswith(ends)]


def test_layers_of_a_gpt():
    model = gpt()
    layers = find_layers(model)
    expected = named(model, "qkv.weight", "output.weight", "mlp.input.weight")
    assert list(layers.linear) == expected and len(expected) == 8
    assert layers.source == {name: name for name in expected}
    assert layers.inputs == {name: 32 if "mlp.output" in name else 8 for name in expected}
    assert layers.head == "embedding.weight" and list(layers.embeddings) == ["embedding.weight"]
    assert layers.used_once
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_layers_of_a_llama_share_inputs():
    model = causal(LLAMA)
    layers = find_layers(model)
    assert layers.head == "lm_head.weight" and layers.head not in layers.linear
    assert len(layers.linear) == 14
    for name, source in layers.source.items():
        first = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
        kind = name.split(".")[-2]
        assert source == name.replace(kind, first.get(kind, kind))
    order = [name.split(".")[-2] for name in layers.linear]
    assert order == 2 * ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_layers_of_gpt2_hold_their_inputs_first():
    layers = find_layers(causal({"model_type": "gpt2", **SHAPE}))
    assert {name.split(".", 3)[-1]: size for name, size in layers.inputs.items()} == {
        "attn.c_attn.weight": 16,
        "attn.c_proj.weight": 16,
        "mlp.c_fc.weight": 16,
        "mlp.c_proj.weight": 64,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"structure": {"kind": "kronecker", "out_factor": 4, "in_factor": 2}},
        {"subspace": {"dimension": 30}},
    ],
)
def test_models_without_linear_layers_have_one_empty_group(changes):
    layers = find_layers(gpt(**changes))
    assert not layers.linear and layers.groups(1) == [[]]


def test_a_model_of_one_token():
    assert len(find_layers(gpt(last_tokens=0)).linear) == 8


def test_a_layer_that_is_used_twice_comes_where_it_is_used_last():
    model = gpt()
    model.blocks[1].mlp = model.blocks[0].mlp
    layers = find_layers(model)
    assert not layers.used_once
    assert [name.split(".", 1)[1] for name in layers.linear] == [
        *("0.attention.qkv.weight", "0.attention.output.weight"),
        *("1.attention.qkv.weight", "1.attention.output.weight"),
        *("0.mlp.input.weight", "0.mlp.output.weight"),
    ]


# ---------------------------------------------------------------- groups


def layers_of(sizes, source=None):
    source = {name: name for name in sizes} | (source or {})
    return Layers(None, dict.fromkeys(sizes), {}, source, sizes, True)


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (10**9, [["a", "b", "c", "d"]]),
        (8 * 490, [["a", "b", "c", "d"]]),
        (8 * 489, [["a", "b", "c"], ["d"]]),
        (8 * 200, [["a", "b"], ["c"], ["d"]]),
        (8 * 199, [["a"], ["b"], ["c"], ["d"]]),
        (1, [["a"], ["b"], ["c"], ["d"]]),
    ],
)
def test_groups_in_forward_order(most, expected):
    """Of 100, 100, 289 and 1 numbers; a layer that is too large alone has a group of its own."""
    sizes = {"a": 10, "b": 10, "c": 17, "d": 1}
    assert layers_of(sizes).groups(most) == expected


def test_a_shared_input_counts_once_and_is_not_divided():
    layers = layers_of(dict.fromkeys("qkvo", 10), {"k": "q", "v": "q"})
    assert layers.groups(8 * 200) == [["q", "o"]]
    assert layers.groups(8 * 100) == [["q"], ["o"]]


def test_nothing_random_is_drawn():
    state = torch.random.get_rng_state()
    find_layers(gpt())
    assert torch.equal(torch.random.get_rng_state(), state)
