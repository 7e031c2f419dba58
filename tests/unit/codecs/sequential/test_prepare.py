"""Preparation of codec ``sequential``: the size that is asked for, a model that predicts as before, the same
bytes every time, and one line where it cannot be."""

import logging
import math
import re

import numpy as np
import pytest
import torch
from support.causal_models import LLAMA, SHAPE, hypothesis
from support.configurations import line_for
from support.messages import contexts_of
from support.stores import write_store

from tokenbounds.codecs.best_size import Predictor
from tokenbounds.codecs.decode import decode_message, model_of
from tokenbounds.codecs.encode import code_model
from tokenbounds.codecs.sequential import prepare
from tokenbounds.codecs.sequential.matrix import step
from tokenbounds.codecs.sequential.moments import Importance
from tokenbounds.codecs.sequential.prepare import Rounder, sequentially
from tokenbounds.config.schema.base import checked
from tokenbounds.config.schema.codecs import CODECS
from tokenbounds.corpus.store import TokenStore
from tokenbounds.errors import InputError
from tokenbounds.io import progress
from tokenbounds.models.folders import load_model, save_model
from tokenbounds.models.registry import new_model
from tokenbounds.randomness import generator
from tokenbounds.training.batches import sample

VOCAB, LENGTH, CPU = 40, 16, torch.device("cpu")
CONTEXTS = contexts_of(("token", LENGTH))
SECTION = {"kind": "sequential", "tokens": 1024, "gradient_tokens": 512, "damping": 0.01}


def gpt(width=32, layers=2, **more):
    architecture = {"layers": layers, "heads": 2, "width": width, "context_length": LENGTH}
    base = {"family": "gpt", "vocab_size": VOCAB, "start_token": "first", "eot_id": 0}
    return {**base, "architecture": architecture, **more}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """Documents that count upwards in steps of 1 or 3, from a random start."""
    starts = np.random.default_rng(0).integers(1, VOCAB, size=150).tolist()
    documents = [
        [1 + (start + i * step) % (VOCAB - 1) for i in range(30)] for start in starts for step in (1, 3)
    ]
    folder = tmp_path_factory.mktemp("tokens") / "store"
    write_store(folder, documents, vocab_size=VOCAB)
    return folder


def written(folder, config, tokens, steps=0):
    """Write a model, trained for some steps."""
    model, config = new_model(config, 1)
    optimizer, store = torch.optim.AdamW(model.parameters(), lr=4e-3), TokenStore(tokens)
    for number in range(steps):
        optimizer.zero_grad()
        model(*sample(store, generator(0, "order", number), 8, LENGTH, CPU)).backward()
        optimizer.step()
    folder.mkdir(exist_ok=True)
    save_model(folder, model.eval(), config, {})
    return folder


@pytest.fixture(scope="module")
def trained(tokens, tmp_path_factory):
    """A GPT of 27,000 parameters that has learned to count."""
    return written(tmp_path_factory.mktemp("model"), gpt(), tokens, steps=200)


def coded(folder, tokens, bits, seed=3, **changes):
    section = {**SECTION, "bits": bits, **changes}
    return code_model(folder, section, CONTEXTS, name="gpt", seed=seed, tokens=tokens, device="cpu")


@torch.no_grad()
def loss(model, tokens):
    """Loss in bits per token on tokens that nothing is calibrated on."""
    ids, targets = sample(TokenStore(tokens), generator(9, "loss"), 128, LENGTH, CPU)
    return float(model(ids, targets)) / math.log(2)


# ---------------------------------------------------------------- size and quality


@pytest.fixture(scope="module")
def larger(tokens, tmp_path_factory):
    """A GPT of 228,000 parameters, as drawn: large enough that its lengths come in small steps."""
    return written(tmp_path_factory.mktemp("larger"), gpt(96), tokens)


@pytest.mark.parametrize("bits", [1.5, 3.0, 5.0])
def test_the_size_that_is_asked_for(larger, tokens, bits):
    data, report = coded(larger, tokens, bits)
    message, (model, _) = decode_message(data), load_model(larger)
    parameters = sum(math.prod(shape) for _, shape in model.layout())
    reached = 8 * message.section_bytes["numbers"] / parameters
    assert message.codec == {"kind": "sequential"}
    assert report["sequential"]["bits_asked"] == bits
    assert report["sequential"]["bits_reached"] == reached
    assert 0.99 * bits <= reached <= bits


def test_decoding_gives_the_values_of_the_fields(trained, tokens):
    data, report = coded(trained, tokens, 3.0)
    options, fields, again = sequentially(
        *(trained, {**SECTION, "bits": 3.0}),
        **{"name": "gpt", "seed": 3, "tokens": TokenStore(tokens), "device": "cpu", "contexts": CONTEXTS},
    )
    assert options == {"kind": "sequential"} and again == report
    message, (model, _) = decode_message(data), load_model(trained)
    assert [(name, value.shape) for name, value in message.tensors.items()] == model.layout()
    for name, value in message.tensors.items():
        assert value.tobytes() == fields[name].values().tobytes()


def test_losses_of_sizes_and_of_levels(trained, tokens):
    """Finer messages lose less, down to nothing, and 3 bits less than 11 levels, which take more."""
    before = loss(load_model(trained)[0], tokens)
    rises = [
        loss(model_of(decode_message(coded(trained, tokens, bits)[0])), tokens) - before
        for bits in (1.5, 3.0, 6.0)
    ]
    assert rises[0] > 4 * rises[1] > 0 and rises[1] < 0.15 and abs(rises[2]) < 0.005
    levels = {"kind": "levels", "levels": 11, "method": "kmeans", "codebook": "tensor"}
    data, _ = code_model(trained, levels, CONTEXTS, name="gpt", seed=3)
    parameters = sum(math.prod(shape) for _, shape in load_model(trained)[0].layout())
    assert 8 * len(data) / parameters > 3.0
    assert loss(model_of(decode_message(data)), tokens) - before > 1.5 * rises[1]


def test_the_same_bytes_every_time(trained, tokens):
    first, second, other = (coded(trained, tokens, 3.0, seed)[0] for seed in (3, 3, 4))
    assert first == second != other


@pytest.mark.parametrize(
    "config",
    [
        gpt(16, 1, structure={"kind": "lora", "rank": 2}),
        gpt(16, 1, structure={"kind": "kronecker", "out_factor": 4, "in_factor": 2}),
        gpt(16, 1, structure={"kind": "monarch", "blocks": 2}),
        gpt(16, 1, subspace={"dimension": 90}),
        gpt(16, 1, last_tokens=0),
        hypothesis({**LLAMA, "vocab_size": VOCAB}, vocab_size=VOCAB, context_length=LENGTH),
        hypothesis(
            {"model_type": "gpt2", **SHAPE, "vocab_size": 43}, vocab_size=VOCAB, context_length=LENGTH
        ),
    ],
    ids=["lora", "kronecker", "monarch", "subspace", "no-context", "llama", "gpt2"],
)
def test_models_of_all_kinds(config, tokens, tmp_path):
    """With 8 bits per parameter a model predicts as before."""
    folder = written(tmp_path / "model", config, tokens, steps=10)
    contexts = contexts_of(("token", 1)) if "last_tokens" in config else CONTEXTS
    section = {**SECTION, "bits": 8.0}
    data, _ = code_model(folder, section, contexts, name="m", seed=1, tokens=tokens, device="cpu")
    model, decoded = load_model(folder)[0], model_of(decode_message(data))
    ids = torch.arange(2 * LENGTH).reshape(2, LENGTH)[:, : 1 if "last_tokens" in config else LENGTH]
    with torch.no_grad():
        before, after = (net.head(net.hidden(ids)) for net in (model, decoded))
    assert not torch.equal(before, after)
    assert float((before - after).square().mean()) < 1e-3 * float(before.square().mean())


# ---------------------------------------------------------------- sizes that cannot be


@pytest.mark.parametrize("bits", [0.25, 0.3])
def test_a_size_below_the_least(tokens, tmp_path, bits):
    """Many tensors of few values: what each takes at least is more."""
    folder = written(tmp_path / "model", gpt(4, 8), tokens)
    expected = rf"^bits is {bits}; the smallest message reached has 0\.\d{{3}} bits per parameter, expected"
    with pytest.raises(InputError, match=expected) as error:
        coded(folder, tokens, bits)
    assert "\n" not in str(error.value)
    assert float(re.search(r"has ([\d.]+) bits", str(error.value))[1]) > bits


@pytest.mark.parametrize("bits", [0.7, 1.0, 1.3, 2.0, 2.6])
def test_a_size_that_a_small_model_does_not_meet_exactly(tokens, tmp_path, bits):
    """Its lengths come in steps: the longest message that is short enough, of those that were tried."""
    folder = written(tmp_path / "model", gpt(16, 1), tokens)
    reached = coded(folder, tokens, bits)[1]["sequential"]["bits_reached"]
    assert 0.9 * bits < reached <= bits


class Lengths(Rounder):
    """A rounder whose messages have the lengths of a function."""

    def __init__(self, length):
        self.parameters, self._length, self.tried = 1000, length, []

    def guess(self, per_parameter):
        return 0.0

    def fields(self, unit):
        if unit > 2.0**20:
            raise InputError("a step of 2^21")
        self.tried.append(math.log2(unit))
        return self.tried[-1]

    def bits(self, fields):
        return self._length(fields)


@pytest.mark.parametrize("slope", [-1000, -600, -3000])
@pytest.mark.parametrize("target", [1.0, 3.0, 7.5])
def test_search_over_straight_lines(slope, target):
    rounder = Lengths(lambda unit: 4000 + slope * unit)
    _, report = rounder.of_size(target)
    assert 0.99 * target <= report["bits_reached"] <= target
    assert len(rounder.tried) <= 8


def test_search_over_stairs():
    """None of the steps is within 1%: the best of those tried, although the last one is too long."""
    rounder = Lengths(lambda unit: 4000 - 400 * math.floor(2 * unit))
    fields, report = rounder.of_size(3.1)
    assert report["bits_reached"] == 2.8 and report["unit"] == 2.0**fields
    assert rounder.bits(rounder.tried[-2]) > 3100 and rounder.tried[-1] == fields  # once more, at the end


def test_search_that_never_gets_short_enough():
    with pytest.raises(InputError, match=r"bits is 1; the smallest message reached has 2\.000 bits"):
        Lengths(lambda unit: 2000 + 2000 * 2.0**-unit).of_size(1.0)


def test_a_step_that_no_message_holds():
    """Found at once, it says so; beyond sizes that are too long, these are told instead."""
    rounder = Lengths(lambda unit: 2000)
    rounder.guess = lambda per_parameter: 21.0
    with pytest.raises(InputError, match=r"a step of 2\^21"):
        rounder.of_size(1.0)
    rounder.guess = lambda per_parameter: 18.0
    with pytest.raises(InputError, match=r"the smallest message reached has 2\.000 bits"):
        rounder.of_size(1.0)


# ---------------------------------------------------------------- best


def test_best_is_the_least_of_the_predicted_bounds(trained, tokens, caplog):
    with caplog.at_level(logging.INFO):
        data, report = coded(trained, tokens, "best")
    report = report["sequential"]
    line = re.compile(r"([\d.]+) bits per parameter: loss ([\d.]+), predicted bound ([\d.]+)")
    matches = [line.fullmatch(record.getMessage()) for record in caplog.records]
    tried = [tuple(map(float, match.groups())) for match in matches if match]
    assert len(tried) >= 8 and len({size for size, _, _ in tried}) == len(tried)
    assert report["predicted_bound"] == pytest.approx(min(bound for _, _, bound in tried), abs=1e-4)
    size, value, _ = min(tried, key=lambda part: part[2])
    assert report["bits_reached"] == pytest.approx(size, abs=1e-3)
    assert report["calibration_loss_bits"] == pytest.approx(value, abs=1e-4)
    message, store = decode_message(data), TokenStore(tokens)
    predictor = Predictor(store, generator(3, "size", "gpt"), LENGTH, CPU)
    bits = 8 * message.section_bytes["numbers"]
    bound, other = predictor.bound(model_of(message), bits)
    assert (bound, other) == pytest.approx((report["predicted_bound"], report["calibration_loss_bits"]))


# ---------------------------------------------------------------- steps of a model


def rounder_of(trained, scratch, damping=0.01, rows=1.0):
    model, _ = load_model(trained)
    parts = {}
    for name, shape in model.layout():
        count, width = (1, math.prod(shape)) if len(shape) < 2 else shape
        columns = torch.eye(width, dtype=torch.float64) if len(shape) == 2 else torch.ones(width)
        parts[name] = Importance(torch.full((count,), float(rows), dtype=torch.float64), columns)
    return model, parts, lambda: Rounder(model, [parts], damping, scratch)


def test_lengths_fall_with_the_unit(trained, tmp_path):
    rounder = rounder_of(trained, tmp_path)[2]()
    lengths = [rounder.bits(rounder.fields(2.0**unit)) for unit in range(-9, 3, 2)]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > 2 * lengths[-1]


def test_rows_and_columns_that_matter_have_small_steps(trained, tmp_path):
    _, parts, make = rounder_of(trained, tmp_path)
    name, inputs = "blocks.0.mlp.input.weight", torch.ones(32, dtype=torch.float64)
    inputs[5], rows = 400.0, torch.ones(128, dtype=torch.float64)
    rows[7] = 100.0
    parts[name] = Importance(rows, torch.diag(inputs))
    field = make().fields(0.01)[name]
    assert field.columns[5] == 0 and (np.delete(field.columns, 5) >= 4).all()
    assert field.rows[7] == 0 and (np.delete(field.rows, 7) >= 4).all()


def test_a_tensor_that_nothing_depends_on_costs_nearly_nothing(trained, tmp_path):
    model, parts, make = rounder_of(trained, tmp_path)
    name = "blocks.1.mlp.output.weight"
    parts[name] = Importance(torch.zeros(32, dtype=torch.float64), parts[name].columns)
    for unit in (0.001, 1.0):
        field = make().fields(unit)[name]
        assert np.abs(field.numbers).max() <= 1 and (field.numbers == 0).mean() > 0.5
        largest = float(dict(model.named_parameters())[name].detach().abs().max())
        assert step(np.array([field.exponent]))[0] == pytest.approx(largest, rel=0.1)


@pytest.mark.parametrize("most", [1 << 22, 3000])
def test_frequency_of_tokens(tokens, monkeypatch, most):
    monkeypatch.setattr(prepare, "_FREQUENCY_TOKENS", most)
    store = TokenStore(tokens)
    shares = prepare._frequency(store, generator(1, "f"), VOCAB)
    assert shares.shape == (VOCAB,) and float(shares.sum()) == pytest.approx(1)
    counts = np.bincount(store.tokens(0, store.m), minlength=VOCAB)
    np.testing.assert_allclose(shares, counts / counts.sum(), atol=0 if most > store.m else 0.02)


# ---------------------------------------------------------------- configuration and progress


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("bits", 0.1, "expected best, or a number from 0.25 to 10"),
        ("bits", 11, "expected best, or a number from 0.25 to 10"),
        ("bits", "beast", "expected best, or a number from 0.25 to 10"),
        ("tokens", 0, "Input should be greater than 0"),
        ("gradient_tokens", -1, "Input should be greater than 0"),
        ("damping", 0, "Input should be greater than 0"),
        ("damping", 2, "Input should be less than or equal to 1"),
    ],
)
def test_sections_that_do_not_fit(key, value, expected):
    line = line_for("codecs.levels11", {"kind": "sequential", key: value})
    assert line.startswith(f"codecs.levels11.{key}") and expected in line
    assert re.search(rf"""found ["']?{value}["']?(\)$|;)""", line)
    with pytest.raises(InputError, match=rf"^codec: {key}.*\(found {value!r}\)$"):
        checked(CODECS["sequential"], {"kind": "sequential", key: value}, "codec")


def test_a_key_of_another_codec():
    line = line_for("codecs.levels11", {"kind": "sequential", "levels": 11})
    assert line.startswith("unknown key 'codecs.levels11.levels' (value 11); valid keys: kind, bits, tokens")


def test_section_with_defaults():
    section = checked(CODECS["sequential"], {"kind": "sequential"}, "codec")
    assert section.bits == "best" and section.needs_tokens
    assert checked(CODECS["sequential"], {"kind": "sequential", "bits": 0.25}, "codec").bits_per_value == 0.25


def test_progress_lines_without_a_terminal(trained, tokens, monkeypatch, caplog):
    monkeypatch.setattr(progress, "_LOG_SECONDS", -1.0)
    with caplog.at_level(logging.INFO):
        coded(trained, tokens, 3.0)
    tensors = len(load_model(trained)[0].layout())
    for line in (
        "second moments: 1 of 1, 0 s left",
        rf"feedback: 3 of {tensors}, \d+ s left",
        rf"rounding: {tensors} of {tensors}, 0 s left",
        r"unit 2\^-\d+\.\d{3}: \d\.\d{3} bits per parameter",
    ):
        assert re.search(line, caplog.text), line


def test_no_progress_lines_of_short_work(caplog):
    with caplog.at_level(logging.INFO), progress.Steps("tensors", 3) as steps:
        for _ in range(3):
            steps.show()
    assert not caplog.text
