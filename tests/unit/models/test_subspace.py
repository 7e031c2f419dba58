"""The random projection, against its definition and bit for bit, and models that train in its image."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tokenbounds.errors import InputError
from tokenbounds.models.gpt import GPT
from tokenbounds.models.subspace import Projector, Subspace
from tokenbounds.randomness import normals, stream_seed

ARCHITECTURE = {"layers": 2, "heads": 2, "width": 16, "context_length": 12}
VOCAB = 37
SIZES = [
    (1, 1),
    (1, 7),
    (7, 7),
    (4, 9),
    (9, 9),
    (16, 16),
    (15, 16),
    (2, 4),
    (24, 25),
    (6, 30),
    (5, 31),
    (97, 101),
    (30, 101),
    (37, 400),
]
# Entries are off by at most 2^-9 times a power of two below 2 / sqrt(rows), so a column by 2^-8, a product of
# two columns by:
FACTOR_TOLERANCE = 2 * 2**-8 + 2**-16
TOLERANCE = (1 + FACTOR_TOLERANCE) ** 2 - 1  # and those of the Kronecker product by this


def explicit(projector):
    """P (D, d) in float64, column by column."""
    return torch.stack(
        [projector(unit) for unit in torch.eye(projector.dimension, dtype=torch.float64)], dim=1
    ).numpy()


def make(dimension=300, seed=3, **options):
    return Subspace(GPT({**ARCHITECTURE, **options}, VOCAB).initialize(5), dimension, seed)


def moved(subspace, scale=0.1):
    """`subspace` at a w that is not zero."""
    with torch.no_grad():
        subspace.w.copy_(scale * torch.from_numpy(normals(1, "w", shape=(subspace.w.numel(),))))
    return subspace


def batch():
    return torch.from_numpy(np.random.default_rng(0).integers(0, VOCAB, (2, 4, 12)))


# ---------------------------------------------------------------- the projection


@pytest.mark.parametrize(("dimension", "size"), SIZES)
def test_projection_is_its_definition(dimension, size):
    projector = Projector(dimension, size, 5)
    left, right, remainder = (
        factor.double().numpy() for factor in (projector.left, projector.right, projector.remainder)
    )
    product = np.kron(left, right)
    block = np.zeros((size, dimension))
    block[: product.shape[0], : product.shape[1]] = product
    block[product.shape[0] :, product.shape[1] :] = remainder
    np.testing.assert_allclose(explicit(projector), block[projector.permutation.numpy()], rtol=0, atol=1e-15)


@pytest.mark.parametrize(("dimension", "size"), SIZES)
def test_factors_are_rounded_orthogonal_factors_of_the_normals(dimension, size):
    projector = Projector(dimension, size, 5)
    for name in ("left", "right", "remainder"):
        factor = getattr(projector, name).double().numpy()
        rows, columns = factor.shape
        assert rows >= columns
        if not columns:
            continue
        gaussian = normals(5, "subspace", name, shape=(columns, rows)).astype(np.float64).T
        q, r = np.linalg.qr(gaussian)
        power = 2.0 ** -np.floor(np.log2(rows) / 2)
        assert 1 <= power * np.sqrt(rows) < 2
        steps = factor / (power * 2**-8)
        np.testing.assert_array_equal(steps, np.rint(steps))
        np.testing.assert_allclose(factor, q * np.sign(np.diag(r)), rtol=0, atol=power * 2**-9 * (1 + 1e-9))


def test_permutation_sorts_keys_of_the_stream():
    size, dimension = 101, 30
    digest = hashlib.shake_128(f"{stream_seed(5, 'subspace', 'permutation')}/0".encode()).digest(8 * size)
    keys = np.frombuffer(digest, "<u8") >> 7  # 101 indices take 7 bits
    np.testing.assert_array_equal(
        Projector(dimension, size, 5).permutation.numpy(), np.argsort(keys, kind="stable")
    )


def test_every_size_has_orthonormal_columns():
    """So P has rank d: every w has an effect, and no two the same."""
    for size in range(1, 31):
        for dimension in range(1, size + 1):
            P = explicit(Projector(dimension, size, size))
            np.testing.assert_allclose(
                P.T @ P, np.eye(dimension), rtol=0, atol=TOLERANCE, err_msg=f"{dimension} of {size}"
            )


@pytest.mark.parametrize(("dimension", "size"), SIZES)
def test_gradient_is_the_transpose(dimension, size):
    projector = Projector(dimension, size, 5)
    w = torch.ones(dimension, dtype=torch.float64, requires_grad=True)
    g = torch.from_numpy(normals(2, "g", shape=(size,))).double()
    projector(w).backward(g)
    np.testing.assert_allclose(w.grad.numpy(), explicit(projector).T @ g.numpy(), rtol=1e-12, atol=1e-12)


def test_float32_even_under_autocast():
    projector, w = Projector(900, 5000, 5), torch.from_numpy(normals(3, "w", shape=(900,)))
    with torch.autocast("cpu", torch.bfloat16):
        got = projector(w)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), projector(w.double()).numpy(), rtol=0, atol=1e-5)


def test_pinned():
    """Messages name a seed, so the projection drawn from it must never change."""
    projector = Projector(7, 30, 5)
    assert projector.permutation[:6].tolist() == [4, 21, 23, 5, 6, 27]
    assert (projector.left * 2**9).tolist() == [
        [-143, 353],
        [-295, -111],
        [-195, -322],
        [-333, 116],
        [-75, 87],
    ]
    assert (projector.remainder[0] * 2**9).tolist() == [-245, -173, 270]
    assert projector.check() == 1904665613


def test_check_tells_seeds_and_tensors_apart():
    projector = Projector(7, 30, 5)
    known = projector.check()
    assert known == Projector(7, 30, 5).check() != Projector(7, 30, 6).check()
    for name in ("left", "right", "remainder", "permutation"):
        tensor = getattr(projector, name).flatten()
        kept = tensor[-1].clone()
        tensor[-1] += 1
        assert projector.check() != known, name
        tensor[-1] = kept
    assert projector.check() == known


def test_same_bits_with_other_threads_and_instructions():
    """LAPACK's own results differ in their last bits here (on x86; elsewhere OpenBLAS passes over the
    processor's name)."""
    code = "from tokenbounds.models.subspace import Projector; print(Projector(40_000, 90_000, 5).check())"
    environment = os.environ | {
        "OMP_NUM_THREADS": "2",
        "OPENBLAS_NUM_THREADS": "2",
        "OPENBLAS_CORETYPE": "Prescott",
    }
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert int(output) == Projector(40_000, 90_000, 5).check()


@pytest.mark.parametrize(("dimension", "size"), [(8, 7), (0, 7), (-1, 7), (1, 0), (5, 2**31)])
def test_refuses_impossible_sizes(dimension, size):
    with pytest.raises(InputError, match=f"dimension {dimension} for {size} parameters"):
        Projector(dimension, size, 5)


# ---------------------------------------------------------------- models in a subspace


def test_check_covers_initial_values_and_projection():
    known = make().check()
    assert known == moved(make()).check()  # w is in the message
    assert known != make(seed=4).check()
    other = make()
    with torch.no_grad():
        other.inner.final_norm.weight[3] += 1e-6
    assert known != other.check()


@pytest.mark.parametrize("training", [False, True])
def test_zero_is_the_initial_model(training):
    ids, targets = batch()
    plain = GPT(ARCHITECTURE, VOCAB).initialize(5)
    subspace = make().train(training)
    assert (
        [(name, tuple(p.shape)) for name, p in subspace.named_parameters()]
        == subspace.layout()
        == [("w", (300,))]
    )
    assert list(subspace.state_dict()) == ["w"]
    assert (subspace.architecture, subspace.vocab_size) == (plain.architecture, VOCAB)
    assert subspace.projector.size == sum(p.numel() for p in plain.parameters())
    assert subspace(ids, targets).item() == plain(ids, targets).item()
    with torch.no_grad():
        assert subspace(ids, targets).item() == plain(ids, targets).item()
        assert moved(subspace)(ids, targets).item() != plain(ids, targets).item()
        assert subspace.initialize()(ids, targets).item() == plain(ids, targets).item()


def test_theta_is_the_definition():
    """Parameters in order, each read in C order, plus P w in float64, rounded once."""
    subspace, plain = moved(make()), GPT(ARCHITECTURE, VOCAB).initialize(5)
    start = np.concatenate([p.detach().numpy().ravel() for p in plain.parameters()]).astype(np.float64)
    theta = (start + explicit(subspace.projector) @ subspace.w.detach().double().numpy()).astype(np.float32)
    model = subspace.materialize()
    assert model.layout() == plain.layout() and not model.training
    got = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])
    np.testing.assert_allclose(
        got, theta, rtol=0, atol=2**-24
    )  # a sum in another order may round the other way
    assert np.mean(got == theta) > 0.999


def test_gradient_is_the_finite_difference():
    ids, targets = batch()
    subspace = moved(make())
    subspace(ids, targets).backward()
    gradient = subspace.w.grad.clone()
    direction, step = gradient / gradient.norm(), 0.02
    losses = []
    with torch.no_grad():
        for sign in (1, -1):
            subspace.w += sign * step * direction
            losses.append(subspace.train()(ids, targets).item())
            subspace.w -= sign * step * direction
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(gradient.norm().item(), rel=5e-3)


def test_training_reduces_the_loss():
    ids, targets = batch()
    subspace = make().train()
    optimizer = torch.optim.SGD(subspace.parameters(), lr=0.5)
    losses = []
    for _ in range(10):
        loss = subspace(ids, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3


def test_evaluation_is_the_materialized_model():
    ids, targets = batch()
    subspace = moved(make()).eval()
    model = subspace.materialize()
    recorded = subspace.head(subspace.hidden(ids))  # by functional_call, with P w in float32
    assert recorded.requires_grad
    with torch.no_grad():
        expected = model.head(model.hidden(ids))
        torch.testing.assert_close(recorded, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(subspace.head(subspace.hidden(ids)), expected)
        assert subspace(ids, targets).item() == model(ids, targets).item()
    with torch.inference_mode():
        assert torch.equal(subspace.head(subspace.hidden(ids)), expected)


def test_evaluation_follows_w(monkeypatch):
    """Whatever changes w, also behind autograd's back; and P w is not computed again while nothing does."""
    (ids, _), subspace, calls = batch(), make().eval(), []
    forward = Projector.forward
    monkeypatch.setattr(Projector, "forward", lambda self, w: calls.append(1) or forward(self, w))
    value = moved(make()).w.detach()

    def through_version():
        with torch.no_grad():
            subspace.w.copy_(value)

    changes = {
        "in place": through_version,
        "through data": lambda: subspace.w.data.mul_(2),
        "another tensor": lambda: setattr(subspace.w, "data", value.clone()),
        "state": lambda: subspace.load_state_dict({"w": -value}),
        "initialize": subspace.initialize,
    }
    with torch.inference_mode():
        before = subspace.head(subspace.hidden(ids))
        for name, change in changes.items():
            with torch.inference_mode(False):
                change()
                model = subspace.materialize()
            del calls[:]
            after = subspace.head(subspace.hidden(ids))
            assert not torch.equal(after, before), name
            assert torch.equal(after, model.head(model.hidden(ids))), name
            assert len(calls) == 1, name
            before = after
    subspace.train()(*batch()).backward()  # nothing made in inference mode is in the way
    assert subspace.w.grad.norm() > 0


def test_materialize_leaves_the_subspace_alone():
    ids, targets = batch()
    subspace = moved(make()).train()
    before = subspace(ids, targets).item()
    model = subspace.materialize()
    assert subspace.training and subspace.inner.training
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert subspace(ids, targets).item() == before


def test_training_mode_reaches_the_inner_model():
    ids, targets = batch()
    subspace = moved(make(dropout=0.5))
    with torch.no_grad():
        torch.manual_seed(0)
        first, second = (subspace.train()(ids, targets).item() for _ in range(2))
        assert first != second
        assert not torch.equal(subspace.hidden(ids), subspace.hidden(ids))
        first, second = (subspace.eval()(ids, targets).item() for _ in range(2))
        assert first == second


class Tied(nn.Module):
    """A tensor with two names and one that does not train."""

    architecture, vocab_size = None, 3

    def __init__(self):
        super().__init__()
        self.a, self.frozen, self.b = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight
        self.frozen.requires_grad_(False)

    def hidden(self, x):
        return self.frozen(self.a(x))

    def head(self, hidden):
        return self.b(hidden)

    def forward(self, x, targets):
        return nn.functional.cross_entropy(self.head(self.hidden(x)), targets)


def test_tied_and_frozen_parameters():
    torch.manual_seed(1)
    inner = Tied()
    start = {name: value.clone() for name, value in inner.state_dict().items()}
    subspace = moved(Subspace(inner, 12, 4).to("cpu"), scale=1.0)  # to() gives tied buffers a tensor each
    assert subspace.projector.size == 9 + 3
    model = subspace.materialize()
    assert [name for name, _ in subspace.named_parameters()] == ["w"]
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"a.weight", "a.bias"}
    assert model.b.weight is model.a.weight and not torch.equal(model.a.weight, start["a.weight"])
    assert torch.equal(model.frozen.weight, start["frozen.weight"]) and torch.equal(
        model.frozen.bias, start["frozen.bias"]
    )
    x, targets = torch.eye(3), torch.tensor([0, 1, 1])
    loss = subspace.train()(x, targets)
    assert loss.item() == pytest.approx(model(x, targets).item(), rel=1e-6)


def test_layout_needs_no_draws(monkeypatch):
    for name in ("normals", "random_bits"):
        monkeypatch.setattr(f"tokenbounds.models.subspace.{name}", None)
    with torch.device("meta"):
        subspace = Subspace(
            GPT({**ARCHITECTURE, "width": 768, "heads": 12, "layers": 12}, 50257), 15_000_000, 3
        )
    assert subspace.layout() == [("w", (15_000_000,))] and subspace.projector.size > 120e6


def test_too_large_a_dimension():
    with pytest.raises(InputError, match="dimension 7000 for 6816 parameters"):
        make(7000)


def test_distributed(tmp_path):
    ids, targets = batch()
    alone = moved(make()).train()
    alone(ids, targets).backward()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(moved(make()).train())
        wrapped(ids, targets).backward()
    finally:
        torch.distributed.destroy_process_group()
    assert torch.equal(wrapped.module.w.grad, alone.w.grad)
