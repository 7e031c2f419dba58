"""Training in this process: it learns, and writes its results; input errors name the model."""

import csv
import json
import logging
import math
import signal

import numpy as np
import pytest
import torch
from support.trainings import CPU, EOT, OUTPUTS, VOCAB, Store, chain, model, results, train_in

from tokenbounds.errors import InputError
from tokenbounds.models.folders import load_model
from tokenbounds.randomness import generator
from tokenbounds.training.batches import sample
from tokenbounds.training.curve import CURVE_COLUMNS

# ---------------------------------------------------------------- learning


def test_learns_a_chain_to_its_entropy(tmp_path):
    tokens, held_out = chain(40000), chain(4000, seed=1)
    options = {
        "steps": 250,
        "batch_size": 16,
        "warmup": 10,
        "eval_batches": 20,
        "architecture": {"context_length": 8, "width": 32},
    }
    last = train_in(tmp_path, model(**options), Store(tokens), Store(held_out))
    # A token that is no EOT follows a known one with .9 + .1/22 and each of 21 others with .1/22; an EOT's
    # place is not seen in 8 tokens.
    p = 0.9 + 0.1 / 22
    entropy = -p * math.log(p) - 21 * 0.1 / 22 * math.log(0.1 / 22)
    least = 0.98 * entropy  # EOTs only add to it; the loss is an estimate of 320 windows
    assert least < last["val_loss_nats"] < entropy + 0.3
    assert last["val_loss_nats"] < math.log(VOCAB) / 3


def test_what_is_written(tmp_path):
    described = model(architecture={"dropout": 0.1})
    last = train_in(tmp_path, described)
    assert {path.name for path in (tmp_path / "out").iterdir()} == OUTPUTS
    assert not list((tmp_path / "checkpoints").glob("*step*"))
    config = json.loads((tmp_path / "out/config.json").read_text())
    source = config.pop("provenance")
    architecture = {
        "layers": 1,
        "heads": 2,
        "width": 16,
        "context_length": 16,
        "positions": "rotary",
        "bias": False,
    }
    assert config == {
        "family": "gpt",
        "vocab_size": VOCAB,
        "architecture": architecture,
        "start_token": "always",
        "eot_id": EOT,
    }
    assert (
        source["seed"] == 5
        and source["dtype"] == "float32"
        and source["device"] == "cpu"
        and source["m_tokens"] == 3000
    )
    assert (
        source["config"]["training"]["steps"] == 12
        and source["final"]["val_loss_nats"] == last["val_loss_nats"]
    )
    assert "seconds" not in json.dumps(source) and "created" not in source
    with open(tmp_path / "out/curve.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == CURVE_COLUMNS
    assert [(int(row["step"]), int(row["tokens"])) for row in rows] == [
        (5, 5 * 32),
        (10, 10 * 32),
        (12, 12 * 32),
    ]
    assert float(rows[-1]["learning_rate"]) == pytest.approx(0.001)
    assert (tmp_path / "out/curve.png").read_bytes().startswith(b"\x89PNG")

    loaded, _ = load_model(tmp_path / "out")
    with torch.no_grad():
        batches = [
            sample(Store(chain(500, seed=1)), generator(5, "validation", "small", i), 2, 16, CPU)
            for i in range(2)
        ]
        losses = [loaded(*batch).item() for batch in batches]
    assert np.mean(losses) == pytest.approx(last["val_loss_nats"], rel=1e-6)


def test_training_loss_of_a_row_is_the_mean_since_the_row_before(tmp_path):
    train_in(tmp_path / "each", model(eval_every=1))
    train_in(tmp_path / "some", model(eval_every=5))
    each, some = (
        [float(row["train_loss_nats"]) for row in results(tmp_path / folder)[1]]
        for folder in ("each", "some")
    )
    assert some == pytest.approx([np.mean(each[:5]), np.mean(each[5:10]), np.mean(each[10:])], rel=1e-12)


def test_streams_depend_on_seed_and_name(tmp_path):
    trained = {}
    for folder, name, seed in (("a", "small", 5), ("b", "small", 5), ("c", "other", 5), ("d", "small", 6)):
        train_in(tmp_path / folder, model(), name=name, seed=seed)
        trained[folder] = (tmp_path / folder / "out/model.safetensors").read_bytes()
    assert trained["a"] == trained["b"] and len(set(trained.values())) == 3


def test_dropout_is_used_and_leaves_nothing_behind(tmp_path):
    torch.manual_seed(3)
    torch_state, handler = torch.get_rng_state(), signal.getsignal(signal.SIGTERM)
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    train_in(tmp_path / "with", model(architecture={"dropout": 0.2}))
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002
    assert signal.getsignal(signal.SIGTERM) is handler
    train_in(tmp_path / "without", model())
    assert (
        results(tmp_path / "with")[0]["model.safetensors"]
        != results(tmp_path / "without")[0]["model.safetensors"]
    )


def test_bfloat16_changes_little(tmp_path):
    last = {
        dtype: train_in(tmp_path / dtype, model(dtype=dtype, steps=40)) for dtype in ("float32", "bfloat16")
    }
    assert (
        json.loads((tmp_path / "bfloat16/out/config.json").read_text())["provenance"]["dtype"] == "bfloat16"
    )
    losses = [row["val_loss_nats"] for row in last.values()]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)
    assert load_model(tmp_path / "bfloat16/out")[0].embedding.weight.dtype == torch.float32


# ---------------------------------------------------------------- input errors


def test_too_few_tokens(tmp_path):
    with pytest.raises(
        InputError,
        match="model 'small': the training split has 16 tokens, expected more than sequence_length = 16",
    ):
        train_in(tmp_path, model(), Store(chain(16)))
    train_in(tmp_path, model(), Store(chain(17)))


def test_sequence_longer_than_the_context(tmp_path):
    with pytest.raises(
        InputError, match=r"model 'small': .*sequence_length 17 is longer than the model's context_length 16"
    ):
        train_in(tmp_path, model(sequence_length=17))


@pytest.mark.parametrize("family", ["markov", "pretrained", "unknown", None])
def test_family_that_is_not_trained(tmp_path, family):
    with pytest.raises(
        InputError,
        match=f"model 'small': family {family!r} is not trained here; expected one of gpt, transformers",
    ):
        train_in(tmp_path, {**model(), "family": family})


def test_without_validation_tokens(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        last = train_in(tmp_path, model(), val_tokens=Store(chain(16)))
    assert last["val_loss_nats"] is None and {row["val_loss_nats"] for row in results(tmp_path)[1]} == {""}
    assert "the validation split has 16 tokens, too few for a sequence of 16: no validation" in caplog.text


def test_diverged(tmp_path):
    with pytest.raises(
        InputError, match=r"model 'small': (loss|gradient norm) (nan|inf) at step 2, expected a finite number"
    ):
        train_in(tmp_path, model(learning_rate=1e38, warmup=0))
    assert not (tmp_path / "out").exists()
