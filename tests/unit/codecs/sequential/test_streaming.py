"""Memory of codec ``sequential``: second moments of a group of layers at a time, feedback on disk, and the
numbers of one candidate, with the same results as if all were in memory."""

import errno
import logging
import tempfile
import weakref

import numpy as np
import pytest
import torch
from support.causal_models import LLAMA, SHAPE, hypothesis
from support.sequential import body, same_field
from support.trainings import CPU, VOCAB, Store, chain

from tokenbounds.codecs import best_size
from tokenbounds.codecs.best_size import Predictor
from tokenbounds.codecs.sequential import moments, prepare
from tokenbounds.codecs.sequential.moments import measure
from tokenbounds.codecs.sequential.prepare import Rounder, calibrated
from tokenbounds.errors import InputError
from tokenbounds.io import progress
from tokenbounds.models.registry import new_model
from tokenbounds.randomness import generator

LENGTH = 16
CODEC = {"tokens": 3000, "gradient_tokens": 1000, "damping": 0.01}
# bytes of second moments of a layer of 16 inputs, and of one of 64
NARROW, WIDE = 8 * 16**2, 8 * 64**2
ALL = 2 * (3 * NARROW + WIDE)  # of the GPT of two blocks


def gpt(**changes):
    architecture = {"layers": 2, "heads": 2, "width": 16, "context_length": LENGTH}
    base = {"family": "gpt", "vocab_size": VOCAB, "start_token": "first", "eot_id": 0}
    return {**base, "architecture": architecture, **changes}


def causal(**entries):
    return hypothesis({**LLAMA, "vocab_size": VOCAB, **entries}, vocab_size=VOCAB, context_length=LENGTH)


CONFIGS = {
    "gpt": gpt(),
    "llama": causal(),
    "llama-tied": causal(tie_word_embeddings=True),
    "gpt2": hypothesis(
        {"model_type": "gpt2", **SHAPE, "vocab_size": VOCAB}, vocab_size=VOCAB, context_length=LENGTH
    ),
    "lora": gpt(structure={"kind": "lora", "rank": 2}),
    "subspace": gpt(subspace={"dimension": 400}),
}


def made(kind):
    """A model in which norms and biases matter too."""
    model, _ = new_model(CONFIGS[kind], 1)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
    return model.eval()


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder that temporary files are in; it is empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(best_size, "TOKENS", 600)
    yield folder
    assert not [*folder.iterdir()]


@pytest.fixture(scope="module")
def store():
    return Store(chain(5000))


def rounder_of(model, store, **options):
    return calibrated(model, CODEC, store, LENGTH, name="m", seed=1, **options)


def batches_of(count=3):
    rng = np.random.default_rng(2)
    return [torch.from_numpy(rng.integers(0, VOCAB, (2, LENGTH))) for _ in range(count)]


def groups_of(model, batches, group_bytes, with_gradients=2):
    options = {"frequency": torch.full((VOCAB,), 1 / VOCAB).double(), "seed": 7, "group_bytes": group_bytes}
    return measure(model, batches, with_gradients=with_gradients, **options)


# ---------------------------------------------------------------- groups


@pytest.mark.parametrize("group_bytes", [1, 3 * NARROW, 5 * NARROW])
@pytest.mark.parametrize("kind", CONFIGS)
def test_groups_measure_what_one_measures(kind, group_bytes):
    model, batches = made(kind), batches_of()
    (whole,) = groups_of(model, batches, 1 << 30)
    groups = list(groups_of(model, batches, group_bytes))
    assert len(groups) > 1 or kind in ("lora", "subspace")
    assert sorted(name for group in groups for name in group) == sorted(whole)
    for name, part in (item for group in groups for item in group.items()):
        assert part.transposed == whole[name].transposed
        assert torch.equal(part.rows, whole[name].rows), name
        assert torch.equal(part.columns, whole[name].columns), name
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_layers_with_one_input_are_in_one_group():
    """And the first group has all that is no weight of a linear layer."""
    model = made("llama")
    groups = list(groups_of(model, batches_of(), 1))
    assert len(groups) == 2 * 4
    for layer in range(2):
        names = [f"model.layers.{layer}.self_attn.{part}_proj.weight" for part in "qkv"]
        (group,) = (group for group in groups if names[0] in group)
        assert all(group[name].columns is group[names[0]].columns for name in names)
    others = {name for name, _ in model.layout() if "proj" not in name}
    assert others < set(groups[0]) and not any(others & set(group) for group in groups[1:])


@pytest.mark.parametrize(
    ("kind", "group_bytes", "groups"),
    [
        ("gpt", ALL, 1),
        ("gpt", ALL - 1, 2),
        ("gpt", 3 * NARROW + WIDE, 2),
        ("gpt", 1, 8),
        ("llama", 1, 8),
        ("lora", 1, 1),
        ("subspace", 1, 1),
    ],
)
def test_number_of_predictions(kind, group_bytes, groups, monkeypatch):
    """Each batch once for each group, beside those that find the layers."""
    model, batches, seen = made(kind), batches_of(), []
    hidden = model.hidden
    monkeypatch.setattr(model, "hidden", lambda ids: seen.append(ids) or hidden(ids))
    assert len(list(groups_of(model, batches, group_bytes))) == groups
    assert all(len(ids) == 1 and ids.numel() <= 2 for ids in seen[:2])
    assert len(seen) == 2 + groups * len(batches)
    assert all(ids is batches[place % len(batches)] for place, ids in enumerate(seen[2:]))


def test_a_later_pass_ends_with_the_last_layer_of_its_group():
    model, batches, ran = made("gpt"), batches_of(), []
    for place, block in enumerate(model.blocks):
        block.mlp.output.register_forward_hook(lambda *_, place=place: ran.append(place))
    groups = groups_of(model, batches, 3 * NARROW)  # of block 0: all but the output, that, and so on
    counts = []
    for _ in groups:
        counts.append([ran.count(place) for place in range(2)])
        ran.clear()
    finding = 2
    assert counts == [[finding + 3, finding + 3], [0, 0], [3, 0], [3, 0]]


def test_layers_that_are_used_twice():
    """Their inputs are those of both uses, in whatever group they are."""
    model, batches = made("gpt"), batches_of()
    model.blocks[1].mlp = model.blocks[0].mlp
    (whole,) = groups_of(model, batches, 1 << 30)
    groups = list(groups_of(model, batches, 1))
    assert len(groups) == 6
    for name, part in (item for group in groups for item in group.items()):
        assert torch.equal(part.columns, whole[name].columns)


@pytest.mark.parametrize("kind", CONFIGS)
def test_messages_of_groups_are_those_of_one(kind, store):
    model, messages = made(kind), set()
    for group_bytes in (1 << 30, 3 * NARROW + WIDE, 1):
        with rounder_of(model, store, group_bytes=group_bytes) as rounder:
            messages.add(body(rounder.of_size(4.0)[0]))
    assert len(messages) == 1


def test_progress_of_groups(store, monkeypatch, caplog):
    monkeypatch.setattr(progress, "_LOG_SECONDS", -1.0)
    with caplog.at_level(logging.INFO), rounder_of(made("gpt"), store, group_bytes=3 * NARROW + WIDE):
        pass
    assert "second moments, group 1 of 2: 3 of 3, 0 s left" in caplog.text
    assert "second moments, group 2 of 2: 3 of 3, 0 s left" in caplog.text


# ---------------------------------------------------------------- memory


@pytest.fixture
def watched(monkeypatch):
    """Largest number of bytes that sums over inputs of linear layers had at any time."""
    refs, most = [], [0]
    add = moments._add_products

    def adding(sums, name, x):
        add(sums, name, x)
        if name.startswith("blocks."):
            refs.append(weakref.ref(sums[name]))
        alive = {id(ref()): ref().nbytes for ref in refs if ref() is not None}
        most[0] = max(most[0], sum(alive.values()))

    monkeypatch.setattr(moments, "_add_products", adding)
    return most


@pytest.mark.parametrize("group_bytes", [WIDE, 3 * NARROW + WIDE, 6 * NARROW + WIDE, ALL, 1 << 30])
def test_second_moments_in_memory(store, watched, group_bytes):
    with rounder_of(made("gpt"), store, group_bytes=group_bytes) as rounder:
        rounder.of_size(4.0)
    assert WIDE <= watched[0] <= min(group_bytes, ALL)
    if group_bytes >= ALL:
        assert watched[0] == ALL


class Watched(Rounder):
    """Checks that no candidate is in memory when the next one is made."""

    refs, units = (), ()

    def fields(self, unit):
        assert not any(ref() is not None for ref in self.refs)
        fields = super().fields(unit)
        self.refs = [weakref.ref(field) for field in fields.values()]
        self.units = (*self.units, unit)
        return fields


@pytest.fixture
def watching(monkeypatch):
    monkeypatch.setattr(prepare, "Rounder", Watched)


def predictor_of(store):
    return Predictor(store, generator(1, "size"), LENGTH, CPU)


@pytest.mark.parametrize("bits", [0.7, 2.0, 3.3, 5.0])
def test_candidates_of_a_size(store, watching, bits):
    """The best one is rounded again, if it is not the last: with what was measured of it."""
    with rounder_of(made("gpt"), store) as rounder:
        fields, report = rounder.of_size(bits)
        assert rounder.units[-1] == report["unit"]
        assert rounder.bits(fields) == report["bits_reached"] * rounder.parameters
        again = Rounder.fields(rounder, report["unit"])
    assert all(same_field(field, again[name]) for name, field in fields.items())


@pytest.mark.parametrize("kind", ["gpt", "llama-tied", "subspace"])
def test_candidates_of_the_best_size(store, watching, kind):
    """The report is about the fields that are returned, and the model is as it was."""
    model, predictor = made(kind), predictor_of(store)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with rounder_of(model, store) as rounder:
        fields, report = prepare._best(model, rounder, predictor)
        assert len(rounder.units) > len(set(rounder.units)) or rounder.units[-1] == report["unit"]
        bits = rounder.bits(fields)
    assert bits == report["bits_reached"] * rounder.parameters
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
    prepare._fill(model, fields)
    bound, loss = predictor.bound(model, bits)
    assert (bound, loss) == (report["predicted_bound"], report["calibration_loss_bits"])


def test_the_best_size_when_its_candidate_is_the_last_one(store, watching, monkeypatch):
    """Nothing is rounded again."""
    monkeypatch.setattr(prepare, "least", lambda candidates, evaluate, **_: evaluate(candidates[2]))
    model = made("gpt")
    with rounder_of(model, store) as rounder:
        fields, report = prepare._best(model, rounder, predictor_of(store))
        assert rounder.units == (report["unit"],)
        assert rounder.bits(fields) == report["bits_reached"] * rounder.parameters


def test_the_model_is_as_it_was(store):
    model = made("gpt")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with rounder_of(model, store) as rounder:
        rounder.of_size(3.0)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


# ---------------------------------------------------------------- scratch folder


def test_feedback_is_on_disk_once_for_layers_that_share_it(store, temporary):
    model = made("llama")
    with rounder_of(model, store) as rounder:
        (folder,) = temporary.iterdir()
        shapes = sorted(np.load(path).shape[0] for path in folder.iterdir())
        assert shapes == [16] * (2 * 3 + 2) + [24] * 2  # with embedding and head
        rounder.of_size(4.0)
    assert not [*temporary.iterdir()]


def test_the_folder_is_removed_after_errors(store, temporary, monkeypatch):
    """In the caller's code, in the search, in planning and in measuring."""
    model = made("gpt")
    with pytest.raises(RuntimeError, match="stop"), rounder_of(model, store):
        assert len([*temporary.iterdir()]) == 1
        raise RuntimeError("stop")
    assert not [*temporary.iterdir()]
    with (
        pytest.raises(InputError, match="smallest message reached"),
        rounder_of(model, store) as rounder,
    ):
        rounder.of_size(0.001)
    assert not [*temporary.iterdir()]
    with torch.no_grad():
        model.blocks[1].mlp.input.weight[:] = torch.nan
    with pytest.raises(InputError, match="not finite"), rounder_of(model, store):
        pass
    assert not [*temporary.iterdir()]

    def failing(*_):
        assert len([*temporary.iterdir()]) == 1
        raise InputError("singular")

    monkeypatch.setattr(prepare, "feedback", failing)
    with pytest.raises(InputError, match="singular"), rounder_of(made("gpt"), store):
        pass


def test_a_full_disk(store, temporary, monkeypatch):
    def full(path, array):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare.np, "save", full)
    expected = r"0\.npy: cannot be written \(.*No space left.*\); expected room for \d+ bytes .* TMPDIR$"
    with pytest.raises(InputError, match=expected) as error, rounder_of(made("gpt"), store):
        pass
    assert "\n" not in str(error.value) and str(error.value).startswith(str(temporary))
