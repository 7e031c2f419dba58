"""Importance of tensors: second moments against hooks of our own, gradients against the exact Fisher
information, for every family and structure."""

import copy
import functools
import math

import numpy as np
import pytest
import torch
from support.causal_models import LLAMA, SHAPE, hypothesis
from torch import nn
from torch.func import functional_call

from tokenbounds.codecs.sequential.moments import measure
from tokenbounds.errors import InputError
from tokenbounds.models.registry import new_model

V, LENGTH = 11, 6
ARCHITECTURE = {"layers": 2, "heads": 2, "width": 8, "context_length": LENGTH}
SMALL = {"vocab_size": 13, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY_LLAMA = {**LLAMA, **SMALL, "intermediate_size": 12, "num_key_value_heads": 1}
GPT2 = {"model_type": "gpt2", **SHAPE, **SMALL}


def gpt(**changes):
    architecture = {**ARCHITECTURE, **changes.pop("architecture", {})}
    return {"family": "gpt", "vocab_size": V, "start_token": "first", "eot_id": 0} | {
        "architecture": architecture,
        **changes,
    }


def transformer(entries):
    return hypothesis(entries, vocab_size=V, context_length=LENGTH)


MODELS = {
    "gpt": gpt(),
    "gpt-learned": gpt(architecture={"positions": "learned", "bias": False}),
    "llama": transformer(TINY_LLAMA),
    "llama-tied": transformer({**TINY_LLAMA, "tie_word_embeddings": True}),
    "gpt2": transformer(GPT2),
    "lora": gpt(structure={"kind": "lora", "rank": 2, "dropout": 0.0}),
    "lora-attention": gpt(structure={"kind": "lora", "rank": 2, "layers": "attention"}),
    "kronecker": gpt(structure={"kind": "kronecker", "out_factor": 4, "in_factor": 2}),
    "monarch": gpt(structure={"kind": "monarch", "blocks": 2}),
    "subspace": gpt(subspace={"dimension": 30}),
    "lora-subspace": gpt(structure={"kind": "lora", "rank": 2}, subspace={"dimension": 30}),
}


def made(kind):
    """A model in which every tensor matters."""
    model, _ = new_model(copy.deepcopy(MODELS[kind]), 3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def ids_of(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, V, shape))


def groups_of(model, batches, with_gradients=1, frequency=None, seed=7, **options):
    frequency = torch.full((V,), 1 / V, dtype=torch.float64) if frequency is None else frequency
    options |= {"with_gradients": with_gradients, "frequency": frequency, "seed": seed}
    return measure(model, batches, **options)


def measured(*arguments, **options):
    groups = groups_of(*arguments, **options)
    return {name: part for group in groups for name, part in group.items()}


@functools.cache
def many(kind):
    """A model, two sequences, and what 500 draws of targets on them measure."""
    model, ids = made(kind), ids_of(2, LENGTH)
    return model, ids, measured(model, [ids.repeat(50, 1)] * 10, 10)


# ---------------------------------------------------------------- inputs


def inputs_of(model, batches):
    """Mean x x^T of the inputs of each linear layer but the head, by name of its weight, with hooks of our
    own."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    sums, handles = {}, []

    def hook(name):
        def add(module, inputs):
            x = inputs[0].detach().flatten(0, -2).double()
            sums[name] = sums.get(name, 0) + x.T @ x

        return add

    head = model.head_weight()
    for module in model.modules():
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D") and module.weight is not head:
            handles.append(module.register_forward_pre_hook(hook(names[id(module.weight)])))
    with torch.no_grad():
        states = [model.hidden(ids).flatten(0, 1).double() for ids in batches]
    for handle in handles:
        handle.remove()
    count = sum(ids.numel() for ids in batches)
    head_inputs = sum(x.T @ x for x in states) / count
    return {name: total / count for name, total in sums.items()}, head_inputs


@pytest.mark.parametrize("kind", ["gpt", "gpt-learned", "llama", "gpt2"])
def test_second_moments_are_those_of_the_inputs(kind):
    """On all batches, also those without gradients."""
    model, batches = made(kind), [ids_of(3, LENGTH, seed=seed) for seed in range(4)]
    found = measured(model, batches)
    expected, head_inputs = inputs_of(model, batches)
    assert len(expected) == {"gpt": 8, "gpt-learned": 8, "llama": 7, "gpt2": 4}[kind]
    for name, moments in expected.items():
        assert found[name].columns.dtype == torch.float64
        torch.testing.assert_close(found[name].columns, moments, rtol=1e-4, atol=1e-5)
        assert found[name].transposed == (kind == "gpt2")
    if kind == "llama":  # a head that is nothing else
        columns = found["lm_head.weight"].columns
        torch.testing.assert_close(columns / columns.trace(), head_inputs / head_inputs.trace())


def test_layers_that_read_one_input_share_its_moments():
    found = measured(made("llama"), [ids_of(3, LENGTH, seed=seed) for seed in range(2)])
    layer = "model.layers.0"
    groups = {
        "attention": [f"{layer}.self_attn.{part}_proj.weight" for part in "qkv"],
        "mlp": [f"{layer}.mlp.{part}_proj.weight" for part in ("gate", "up")],
        "output": [f"{layer}.self_attn.o_proj.weight"],
        "down": [f"{layer}.mlp.down_proj.weight"],
    }
    assert len({id(found[name].columns) for names in groups.values() for name in names}) == len(groups)
    for names in groups.values():
        assert all(found[name].columns is found[names[0]].columns for name in names)


# ---------------------------------------------------------------- gradients


def fisher(model, ids, evaluate):
    """Exact Fisher information: the sum over positions of loss, and over targets weighted by their
    probability, of evaluate(logarithm of that probability), which may be a dict of tensors; per token."""
    total = {}
    for row in ids:
        logits = model.head(model.hidden(row[None]))[0]
        shares = torch.softmax(logits.detach().double(), -1)
        losses = torch.log_softmax(logits, -1)
        for position in range(len(row)):
            for target in range(V):
                for name, value in evaluate(losses[position, target]).items():
                    total[name] = total.get(name, 0) + shares[position, target] * value.double()
    return {name: value / ids.numel() for name, value in total.items()}


def outputs_fisher(model, ids, names):
    """Exact mean squared gradients of the outputs of layers, by name of their weight."""
    outputs = {}
    modules = {
        name: next(module for module in model.modules() if getattr(module, "weight", None) is parameter)
        for name, parameter in model.named_parameters()
        if name in names
    }

    def keep(name):
        return lambda _, __, output: outputs.__setitem__(name, output)

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]

    def evaluate(loss):
        gradients = torch.autograd.grad(loss, list(outputs.values()), retain_graph=True)
        return {
            name: (gradient.flatten(0, -2) ** 2).sum(0)
            for name, gradient in zip(outputs, gradients, strict=True)
        }

    for parameter in model.parameters():
        parameter.requires_grad_(True)
    exact = fisher(model, ids, evaluate)
    for handle in handles:
        handle.remove()
    return exact


@pytest.mark.parametrize("kind", ["gpt", "llama", "gpt2"])
def test_rows_of_linear_layers_are_fisher_information(kind):
    model, ids, found = many(kind)
    names = {name for name, part in found.items() if part.columns.dim() == 2}
    names -= {"embedding.weight", "lm_head.weight", "model.embed_tokens.weight"}
    names -= {"transformer.wte.weight", "transformer.wpe.weight"}
    exact = outputs_fisher(model, ids, names)
    assert len(exact) == {"gpt": 8, "llama": 7, "gpt2": 4}[kind]
    for name, expected in exact.items():
        rows = found[name].rows
        assert rows.shape == expected.shape
        torch.testing.assert_close(rows, expected, rtol=0.3, atol=0.1 * float(expected.mean()))


@pytest.mark.parametrize("kind", ["gpt-learned", "kronecker", "subspace"])
def test_other_tensors_have_mean_squared_gradients(kind):
    """Norms, biases, factors and the vector of a subspace: the mean over each row, and over each column
    relative to that of all. A batch's squared gradient is one draw: 500 scatter by some 7%."""
    model, ids = made(kind), ids_of(2, LENGTH)
    found = measured(model, [ids] * 500, 500)
    others = [name for name, part in found.items() if part.columns.dim() == 1]
    assert others
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    model.train()

    def evaluate(loss):
        gradients = torch.autograd.grad(loss, [parameters[name] for name in others], retain_graph=True)
        return {name: gradient.double() ** 2 for name, gradient in zip(others, gradients, strict=True)}

    exact = fisher(model, ids, evaluate)
    model.eval()
    for name, squares in exact.items():
        squares = squares.reshape((1, -1) if squares.dim() < 2 else (len(squares), -1))
        mean = float(squares.mean())
        torch.testing.assert_close(found[name].rows, squares.mean(1), rtol=0.35, atol=0.1 * mean)
        if mean > 1e-12:
            torch.testing.assert_close(found[name].columns, squares.mean(0) / mean, rtol=0.35, atol=0.1)


def test_embedding_that_is_no_head():
    """Rows by frequency, columns by the second moments of the gradients behind it."""
    model, ids, _ = many("llama")
    frequency = torch.arange(V, dtype=torch.float64) / 55
    found = measured(model, [ids.repeat(50, 1)] * 10, 10, frequency=frequency)["model.embed_tokens.weight"]
    embedding, outputs = model.lm.get_input_embeddings(), []
    embedding.weight.requires_grad_(True)
    handle = embedding.register_forward_hook(lambda _, __, output: outputs.append(output))

    def evaluate(loss):
        gradient = torch.autograd.grad(loss, outputs[-1], retain_graph=True)[0].flatten(0, -2).double()
        return {"columns": gradient.T @ gradient}

    exact = fisher(model, ids, evaluate)["columns"]
    handle.remove()
    columns = found.columns / found.columns.diagonal().mean()
    torch.testing.assert_close(columns, exact / exact.diagonal().mean(), rtol=0.2, atol=0.15)
    # rows and columns together are the Fisher information, and rows alone the frequency
    assert float(found.rows.sum() * found.columns.trace()) == pytest.approx(float(exact.trace()), rel=0.2)
    rows = torch.zeros(13, dtype=torch.float64)
    rows[:V] = frequency
    torch.testing.assert_close(found.rows / found.rows.sum(), (rows + 1e-3 / 13) / (1 + 1e-3))


def test_positions_matter_by_how_often_they_are_used():
    """GPT-2 looks positions up once for all sequences; each is used by every sequence all the same."""
    model, ids, _ = many("gpt2")
    found = measured(model, [ids[:, :4].repeat(20, 1)] * 5, 5)["transformer.wpe.weight"]
    used = torch.zeros(32, dtype=torch.float64)
    used[:4] = 1 / 4
    torch.testing.assert_close(found.rows / found.rows.sum(), (used + 1e-3 / 32) / (1 + 1e-3))
    once = measured(model, [ids[:1, :4], ids[1:, :4]] * 100, 200)["transformer.wpe.weight"]
    together = [float(part.rows[0] * part.columns.trace()) for part in (found, once)]
    assert together[0] == pytest.approx(together[1], rel=0.5)


def test_head_rows_are_the_spread_of_its_predictions():
    """Mean p (1 - p) of each token, or half its frequency, if that is more: nothing for padding."""
    model, ids, _ = many("llama")
    with torch.no_grad():
        shares = torch.softmax(model.head(model.hidden(ids)).double(), -1).flatten(0, 1)
    spread = (shares * (1 - shares)).mean(0)
    for often in (0.0, 0.8):
        frequency = torch.full((V,), 0.2 / (V - 1), dtype=torch.float64)
        frequency[3] = often
        found = measured(model, [ids], frequency=frequency)["lm_head.weight"]
        expected = torch.full((13,), 1e-3 / 13, dtype=torch.float64)
        expected[:V] += torch.maximum(spread, frequency / 2)
        torch.testing.assert_close(
            found.rows / found.rows.sum(), expected / expected.sum(), rtol=1e-4, atol=0
        )


@pytest.mark.parametrize("kind", ["gpt", "llama-tied"])
def test_a_tied_head_has_both_uses(kind):
    model, ids, found = many(kind)
    part = found["embedding.weight" if kind == "gpt" else "model.embed_tokens.weight"]
    _, head_inputs = inputs_of(model, [ids])
    rest = part.columns / part.columns.trace()
    assert torch.linalg.eigvalsh(rest).min() > -1e-9
    assert not torch.allclose(rest, head_inputs / head_inputs.trace(), rtol=1e-2)
    assert (part.rows > 0).all()


# ---------------------------------------------------------------- all models


@pytest.mark.parametrize("kind", MODELS)
def test_every_tensor_has_an_importance_of_its_shape(kind):
    model = made(kind)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    found = measured(model, [ids_of(4, LENGTH, seed=seed) for seed in range(2)])
    assert [*found] == [name for name, _ in model.layout()]
    for name, shape in model.layout():
        part = found[name]
        rows, columns = (1, math.prod(shape)) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))
        rows, columns = (columns, rows) if part.transposed else (rows, columns)
        assert part.rows.shape == (rows,), name
        assert part.columns.shape in ((columns,), (columns, columns)), name
        assert part.rows.isfinite().all() and part.columns.isfinite().all()
        assert (part.rows >= 0).all() and part.rows.max() > 0, name
        if part.columns.dim() == 2:
            torch.testing.assert_close(part.columns, part.columns.T)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_same_measurement_twice_and_another_with_another_seed():
    model, ids = made("gpt"), [ids_of(4, LENGTH)]
    first, second, other = (measured(model, ids, seed=seed) for seed in (7, 7, 8))
    assert all(torch.equal(first[name].rows, second[name].rows) for name in first)
    assert any(not torch.equal(first[name].rows, other[name].rows) for name in first)
    linear = "blocks.0.mlp.input.weight"
    assert torch.equal(first[linear].columns, other[linear].columns)


def test_sequences_of_one_token():
    found = measured(made("gpt"), [ids_of(50, 1)])
    assert all(part.rows.isfinite().all() for part in found.values())


@pytest.mark.parametrize("kind", ["gpt", "llama", "lora"])
@pytest.mark.parametrize("with_gradients", [1, 2])
def test_predictions_that_are_no_numbers(kind, with_gradients):
    model = made(kind)
    with torch.no_grad():
        next(parameter for parameter in model.parameters() if parameter.dim() > 1)[:] = math.nan
    with pytest.raises(InputError, match="not finite; expected numbers") as error:
        measured(model, [ids_of(2, LENGTH)] * 2, with_gradients)
    assert "\n" not in str(error.value)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_no_batches():
    with pytest.raises(InputError, match="no tokens to calibrate on; expected at least one sequence"):
        measured(made("gpt"), [])


def test_the_model_still_predicts_as_before():
    model, ids = made("gpt2"), ids_of(3, LENGTH)
    with torch.no_grad():
        before = model.head(model.hidden(ids))
    measured(model, [ids])
    with torch.no_grad():
        assert torch.equal(model.head(model.hidden(ids)), before)
    theta = dict(model.lm.named_parameters())
    assert functional_call(model.lm, theta, (ids,)).logits.shape[-1] == 13
