"""Quantisation-aware tuning: the gradients are the stated ones, the quantized model loses less, and a message
keeps it bit for bit."""

import copy

import numpy as np
import pytest
import torch
from support.stores import write_store
from torch import nn
from torch.func import functional_call

from tokenbounds.codecs.frame import decode, encode
from tokenbounds.codecs.quantization_aware import Run, straight_through, tune
from tokenbounds.codecs.scalar import kmeans_levels, uniform_levels
from tokenbounds.errors import InputError
from tokenbounds.models.gpt import GPT
from tokenbounds.randomness import generator
from tokenbounds.training.batches import sample

VOCAB, LENGTH, BATCH, SEED = 40, 16, 8, 5
CPU = torch.device("cpu")
LEVELS = 4
QUICK = {
    "steps": 30,
    "batch_size": BATCH,
    "sequence_length": LENGTH,
    "seed": SEED,
    "eval_every": 10,
    "eval_batches": 4,
}
RATES = {"learning_rate": 0.05, "centroid_learning_rate": 5e-5}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Documents that count upwards in steps of 1 or 3, from a random start."""
    rng = np.random.default_rng(0)
    starts = rng.integers(1, VOCAB, size=150).tolist()
    documents = [
        [1 + (start + i * step) % (VOCAB - 1) for i in range(30)] for start in starts for step in (1, 3)
    ]
    return write_store(tmp_path_factory.mktemp("tuning") / "tokens", documents, vocab_size=VOCAB)


@pytest.fixture(scope="module")
def trained(store):
    """A GPT of 2 layers that has learned to count."""
    net = GPT({"layers": 2, "heads": 2, "width": 32, "context_length": LENGTH}, VOCAB).initialize(1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3)
    for step in range(150):
        optimizer.zero_grad()
        net(*sample(store, generator(0, "data_order", step), BATCH, LENGTH, CPU)).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net.eval()


@torch.no_grad()
def held_out_loss(model, tensors, store):
    """Loss of `model` with `tensors` on the batches that a result is chosen by."""
    values = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    batches = [
        sample(store, generator(SEED, "tuning", "evaluation", i), BATCH, LENGTH, CPU)
        for i in range(QUICK["eval_batches"])
    ]
    return float(np.mean([functional_call(model, values, pair).item() for pair in batches]))


def quantized(model, method, codebook):
    """The tensors of `model`, quantized and not tuned."""
    quantizer = {"uniform": uniform_levels, "kmeans": kmeans_levels}[method]
    tensors = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    if codebook == "tensor":
        results = {name: quantizer(tensor, LEVELS) for name, tensor in tensors.items()}
        return {
            name: words[symbols].astype(np.float32).reshape(tensors[name].shape)
            for name, (symbols, words) in results.items()
        }
    symbols, words = quantizer(np.concatenate([tensor.ravel() for tensor in tensors.values()]), LEVELS)
    parts = np.split(
        words[symbols].astype(np.float32), np.cumsum([tensor.size for tensor in tensors.values()])[:-1]
    )
    return {
        name: part.reshape(tensor.shape) for (name, tensor), part in zip(tensors.items(), parts, strict=True)
    }


def same_bits(first, second):
    assert list(first) == list(second)
    for name in first:
        assert first[name].dtype == second[name].dtype == np.float32
        np.testing.assert_array_equal(first[name].view(np.uint32), second[name].view(np.uint32))


@pytest.mark.parametrize(
    ("method", "codebook"),
    [("uniform", "tensor"), ("kmeans", "tensor"), ("uniform", "shared"), ("kmeans", "shared")],
)
def test_the_tuned_model_loses_less_and_a_message_keeps_it_bit_for_bit(trained, store, method, codebook):
    before = quantized(trained, method, codebook)
    tensors, report = tune(trained, store, levels=LEVELS, method=method, codebook=codebook, **QUICK, **RATES)
    assert report["steps"] == QUICK["steps"]
    assert report["best_step"] in (10, 20, 30)
    assert report["loss_before_nats"] == pytest.approx(held_out_loss(trained, before, store), rel=1e-6)
    assert report["loss_after_nats"] == pytest.approx(held_out_loss(trained, tensors, store), rel=1e-6)
    assert report["loss_after_nats"] < report["loss_before_nats"] - 0.02

    assert [(name, tensor.shape) for name, tensor in tensors.items()] == trained.layout()
    groups = (
        list(tensors.values())
        if codebook == "tensor"
        else [np.concatenate([tensor.ravel() for tensor in tensors.values()])]
    )
    assert max(np.unique(group).size for group in groups) <= LEVELS
    message = encode(
        tensors, {}, codec={"kind": "levels", "levels": LEVELS, "method": "kmeans", "codebook": codebook}
    )
    same_bits(decode(message).tensors, tensors)


def test_the_same_result_again_and_the_model_as_it_was(trained, store):
    net = copy.deepcopy(trained).train()
    results = [tune(net, store, levels=LEVELS, **QUICK, **RATES) for _ in range(2)]
    same_bits(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    other, _ = tune(net, store, levels=LEVELS, **QUICK | {"seed": SEED + 1}, **RATES)
    assert any((other[name] != results[0][0][name]).any() for name in other)
    assert net.training
    for parameter, original in zip(net.parameters(), trained.parameters(), strict=True):
        assert torch.equal(parameter, original)
        assert parameter.requires_grad
        assert parameter.grad is None


@pytest.mark.parametrize("codebook", ["tensor", "shared"])
def test_gradients_are_straight_through(trained, store, codebook):
    """Against torch's own derivative of ``c[s] + w - stop(w)``, and of the dense loss at the quantized
    weights."""
    net = copy.deepcopy(trained)
    weights = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    runs = (
        [Run(weights, LEVELS, "uniform")]
        if codebook == "shared"
        else [Run({k: w}, LEVELS, "uniform") for k, w in weights.items()]
    )
    pair = sample(store, generator(SEED, "x"), BATCH, LENGTH, CPU)
    loss = straight_through(net, runs, *pair)

    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    centroids = [run.centroids.clone().requires_grad_() for run in runs]
    values = {}
    for run, own in zip(runs, centroids, strict=True):
        for name in run.weights:
            nearest = (leaves[name].detach()[..., None] - own.detach()).abs().argmin(-1)
            values[name] = own[nearest] + leaves[name] - leaves[name].detach()
    expected = functional_call(net, values, pair)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert sum(run.centroids.grad.abs().sum() for run in runs) > 0
    for name, weight in weights.items():
        torch.testing.assert_close(weight.grad, leaves[name].grad, rtol=1e-4, atol=1e-6)
    for run, own in zip(runs, centroids, strict=True):
        torch.testing.assert_close(run.centroids.grad, own.grad, rtol=1e-4, atol=1e-5)

    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(values[name])
    net(*pair).backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(weights[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)


class Vector(nn.Module):
    """A model whose only parameter is a vector w, with the loss ``scale |w - target|^2``; beside it a
    parameter that is not coded."""

    def __init__(self, w, target, scale=1.0):
        super().__init__()
        self.w, self.frozen = nn.Parameter(torch.tensor(w)), nn.Parameter(torch.tensor(target))
        self.scale = scale

    def layout(self):
        return [("w", tuple(self.w.shape))]

    def forward(self, ids, targets):
        return self.scale * ((self.w - self.frozen) ** 2).sum()


@pytest.mark.parametrize("codebook", ["tensor", "shared"])
def test_one_step_of_a_vector_by_hand(store, codebook):
    # bins [-1, 0] and [0, 1]: codewords -0.75 and 0.75, gradients 2 (c - target) = -3 and -1 below, 1 and 3
    # above
    model = Vector([-1.0, -0.5, 0.5, 1.0], [0.75, -0.25, 0.25, -0.75])
    tensors, report = tune(
        model, store, levels=2, codebook=codebook, **QUICK | {"steps": 1}, learning_rate=1 / 16, momentum=0.0
    )
    # centroids: -0.75 + 4/16, 0.75 - 4/16; the weights stay on their sides of 0
    assert tensors["w"].tolist() == [-0.5, -0.5, 0.5, 0.5]
    assert report == {"loss_before_nats": 5.0, "loss_after_nats": 3.25, "best_step": 1, "steps": 1}


def test_tuning_that_only_makes_it_worse_returns_the_quantized_model(store):
    # the bins meet at 0 but the codewords' midpoint is -0.3: -0.125 is in the lower bin and nearer to the
    # upper codeword
    w = [-1.0, -1.0, -1.0, -0.125, 0.125, 0.25]
    start = [-0.78125] * 4 + [0.1875] * 2
    model = Vector(w, [value + 0.125 for value in start])
    tensors, report = tune(
        model, store, levels=2, **QUICK | {"steps": 3, "eval_every": 1}, learning_rate=10.0
    )
    assert tensors["w"].tolist() == start
    assert report == {"loss_before_nats": 6 / 64, "loss_after_nats": 6 / 64, "best_step": 0, "steps": 3}


def test_weights_change_their_codeword(store):
    """Symbols are found anew at each step; with fixed centroids this is all that can happen."""
    model = Vector([-1.0, -0.5, 0.5, 1.0], [0.75, -0.75, 0.75, -0.75])
    tensors, report = tune(model, store, levels=2, **QUICK, learning_rate=1 / 16, centroid_learning_rate=0.0)
    assert tensors["w"].tolist() == [0.75, -0.75, 0.75, -0.75]
    assert report["loss_before_nats"] == 4.5
    assert report["loss_after_nats"] == 0.0


def test_centroids_that_overtake_one_another(store):
    run = Run({"w": torch.tensor([-1.0, -0.9, 0.0, 0.9, 1.0])}, 3, "kmeans")
    run.centroids.copy_(torch.tensor([1.0, -0.0, -1.0]))
    values, symbols = run.quantized()
    assert symbols["w"].tolist() == [2, 2, 1, 0, 0]
    assert values["w"].tolist() == [-1.0, -1.0, 0.0, 1.0, 1.0]
    assert not torch.signbit(values["w"][2])


def test_a_loss_that_is_not_finite_names_the_step(store):
    model = Vector([-1.0, -0.5, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0], scale=1e6)
    with pytest.raises(
        InputError, match=r"tuning: loss (nan|inf) at step [1-9]\d*, expected a finite number"
    ) as caught:
        tune(model, store, levels=2, **QUICK)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 1}, "levels is 1"),
        ({"method": "lattice"}, "method is 'lattice'"),
        ({"codebook": "layer"}, "codebook is 'layer'"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 2.5}, r"batch_size is 2\.5"),
        ({"learning_rate": -1.0}, r"learning_rate is -1\.0"),
        ({"centroid_learning_rate": float("nan")}, "centroid_learning_rate is nan"),
        ({"momentum": 1.0}, r"momentum is 1\.0"),
        ({"sequence_length": 10**6}, "expected more than sequence_length = 1000000"),
    ],
)
def test_bad_options(store, options, message):
    with pytest.raises(InputError, match=message):
        tune(Vector([0.0, 1.0], [0.0, 0.0]), store, **{"levels": 2} | QUICK | options)


def test_weights_that_cannot_be_quantized(store):
    with pytest.raises(InputError, match="tensor 'w' holds a NaN"):
        tune(Vector([0.0, float("nan")], [0.0, 0.0]), store, levels=2, **QUICK)
