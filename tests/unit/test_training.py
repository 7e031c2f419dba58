"""Training: it learns, and a killed one ends in the same bytes as one that was never killed."""

import csv
import hashlib
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenbounds import devices, training
from tokenbounds.corpus import build_index
from tokenbounds.errors import InputError
from tokenbounds.files import write_json
from tokenbounds.models import load_model
from tokenbounds.sections import Training
from tokenbounds.streams import generator
from tokenbounds.training import CURVE_COLUMNS, learning_rate, run, sample, train

VOCAB, EOT = 23, 0
CPU = torch.device("cpu")
OUTPUTS = {"model.safetensors", "config.json", "curve.csv", "curve.png"}


def chain(m, seed=0, noise=0.1):
    """Tokens on 1..22: the next is a fixed function of the last, but uniform with probability `noise`; each document has 50 tokens."""
    rng = np.random.default_rng(seed)
    tokens = np.empty(m, np.uint16)
    x = 1
    for i in range(m):
        x = int(rng.integers(1, VOCAB)) if rng.random() < noise else x * 5 % 22 + 1
        tokens[i] = x
    tokens[49::50] = EOT
    tokens[-1] = EOT
    return tokens


class Store:
    """A token store in memory."""

    vocab_size, eot_id = VOCAB, EOT

    def __init__(self, tokens):
        self.array, self.m = tokens, len(tokens)

    def tokens(self, start, stop):
        assert 0 <= start < stop <= self.m
        return self.array[start:stop].copy()


class Crash(Exception):
    pass


class CrashingStore(Store):
    """Fails at the n-th read, as a power cut would."""

    def __init__(self, tokens, reads):
        super().__init__(tokens)
        self.reads = reads

    def tokens(self, start, stop):
        self.reads -= 1
        if self.reads < 0:
            raise Crash
        return super().tokens(start, stop)


def model(**options):
    architecture = {"layers": 1, "heads": 2, "width": 16, "context_length": 16, **options.pop("architecture", {})}
    defaults = {
        "steps": 12,
        "batch_size": 2,
        "learning_rate": 0.01,
        "warmup": 3,
        "eval_every": 5,
        "eval_batches": 2,
        "dtype": "float32",
        "threads": 1,
    }
    return {"family": "gpt", "corpus": "chain", "architecture": architecture, "training": {**defaults, **options}, "start_token": "always"}


def train_in(folder, model, train_tokens=None, val_tokens=None, name="small", seed=5):
    return train(
        model,
        name=name,
        seed=seed,
        train_tokens=Store(chain(3000)) if train_tokens is None else train_tokens,
        val_tokens=Store(chain(500, seed=1)) if val_tokens is None else val_tokens,
        out_dir=folder / "out",
        checkpoint_dir=folder / "checkpoints",
        device="cpu",
    )


def results(folder):
    """What must not depend on interruptions."""
    with open(folder / "out/curve.csv", newline="") as handle:
        curve = [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(handle)]
    return {name: (folder / "out" / name).read_bytes() for name in ("model.safetensors", "config.json")}, curve


# ---------------------------------------------------------------- what is learned


def test_learns_a_chain_to_its_entropy(tmp_path):
    tokens, held_out = chain(40000), chain(4000, seed=1)
    options = {"steps": 250, "batch_size": 16, "warmup": 10, "eval_batches": 20, "architecture": {"context_length": 8, "width": 32}}
    last = train_in(tmp_path, model(**options), Store(tokens), Store(held_out))
    # A token that is no EOT follows a known one with .9 + .1/22 and each of 21 others with .1/22; an EOT's place is not seen in 8 tokens.
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
    architecture = {"layers": 1, "heads": 2, "width": 16, "context_length": 16, "positions": "rotary", "bias": False}
    assert config == {"family": "gpt", "vocab_size": VOCAB, "architecture": architecture, "start_token": "always", "eot_id": EOT}
    assert source["seed"] == 5 and source["dtype"] == "float32" and source["device"] == "cpu" and source["m_tokens"] == 3000
    assert source["config"]["training"]["steps"] == 12 and source["final"]["val_loss_nats"] == last["val_loss_nats"]
    assert "seconds" not in json.dumps(source) and "created" not in source
    with open(tmp_path / "out/curve.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == CURVE_COLUMNS
    assert [(int(row["step"]), int(row["tokens"])) for row in rows] == [(5, 5 * 32), (10, 10 * 32), (12, 12 * 32)]
    assert float(rows[-1]["learning_rate"]) == pytest.approx(0.001)
    assert (tmp_path / "out/curve.png").read_bytes().startswith(b"\x89PNG")

    loaded, _ = load_model(tmp_path / "out")
    with torch.no_grad():
        batches = [sample(Store(chain(500, seed=1)), generator(5, "validation", "small", i), 2, 16, CPU) for i in range(2)]
        losses = [loaded(*batch).item() for batch in batches]
    assert np.mean(losses) == pytest.approx(last["val_loss_nats"], rel=1e-6)


def test_training_loss_of_a_row_is_the_mean_since_the_row_before(tmp_path):
    train_in(tmp_path / "each", model(eval_every=1))
    train_in(tmp_path / "some", model(eval_every=5))
    each, some = ([float(row["train_loss_nats"]) for row in results(tmp_path / folder)[1]] for folder in ("each", "some"))
    assert some == pytest.approx([np.mean(each[:5]), np.mean(each[5:10]), np.mean(each[10:])], rel=1e-12)


def test_streams_depend_on_seed_and_name(tmp_path):
    trained = {}
    for folder, name, seed in (("a", "small", 5), ("b", "small", 5), ("c", "other", 5), ("d", "small", 6)):
        train_in(tmp_path / folder, model(), name=name, seed=seed)
        trained[folder] = (tmp_path / folder / "out/model.safetensors").read_bytes()
    assert trained["a"] == trained["b"] and len(set(trained.values())) == 3


def test_dropout_is_used_and_leaves_nothing_behind(tmp_path):
    torch.manual_seed(3)
    torch_state, numpy_state, handler = torch.get_rng_state(), np.random.get_state()[1].copy(), signal.getsignal(signal.SIGTERM)  # noqa: NPY002
    train_in(tmp_path / "with", model(architecture={"dropout": 0.2}))
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002
    assert signal.getsignal(signal.SIGTERM) is handler
    train_in(tmp_path / "without", model())
    assert results(tmp_path / "with")[0]["model.safetensors"] != results(tmp_path / "without")[0]["model.safetensors"]


def test_every_micro_batch_has_its_own_dropout():
    def mask(*names):
        with training._dropout_stream(0.5, CPU, 5, *names):
            return torch.dropout(torch.ones(64), 0.5, True)

    masks = [mask("dropout", "small", step, micro) for step in (1, 2) for micro in (0, 1)]
    assert len({tuple(m.tolist()) for m in masks}) == 4
    torch.rand(3)
    assert torch.equal(mask("dropout", "small", 2, 1), masks[3])


def test_bfloat16_changes_little(tmp_path):
    last = {dtype: train_in(tmp_path / dtype, model(dtype=dtype, steps=40)) for dtype in ("float32", "bfloat16")}
    assert json.loads((tmp_path / "bfloat16/out/config.json").read_text())["provenance"]["dtype"] == "bfloat16"
    losses = [row["val_loss_nats"] for row in last.values()]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.02)
    assert load_model(tmp_path / "bfloat16/out")[0].embedding.weight.dtype == torch.float32


# ---------------------------------------------------------------- parts


def test_learning_rate():
    options = Training(steps=110, warmup=10, learning_rate=1.0, min_learning_rate=0.2)
    assert [learning_rate(options, step) for step in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])
    assert [learning_rate(options, step) for step in (60, 110)] == pytest.approx([0.6, 0.2])
    assert learning_rate(Training(steps=9, warmup=0, learning_rate=3.0), 9) == pytest.approx(0.3)
    assert learning_rate(Training(steps=10, warmup=10, learning_rate=1.0), 5) == pytest.approx(0.5)
    assert learning_rate(Training(steps=10, warmup=10, learning_rate=1.0), 10) == pytest.approx(1.0)


def test_sample_takes_every_window_and_shifts_by_one():
    store = Store(np.arange(VOCAB, dtype=np.uint16)[:20])
    ids, targets = sample(store, np.random.default_rng(0), 500, 16, CPU)
    assert ids.shape == targets.shape == (500, 16) and ids.dtype == torch.int64
    assert (targets == ids + 1).all()
    assert set(ids[:, 0].tolist()) == {0, 1, 2, 3}  # 20 tokens hold 4 windows of 17


def test_weight_decay_on_matrices_only():
    from tokenbounds.models.gpt import GPT

    net = GPT({"layers": 2, "heads": 2, "width": 8, "context_length": 8, "bias": True, "positions": "learned"}, VOCAB)
    matrices, vectors = training._optimizer(net, Training(steps=1, warmup=0, weight_decay=0.3)).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert all(p.ndim == 2 for p in matrices["params"]) and all(p.ndim == 1 for p in vectors["params"])
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(net.parameters()))
    assert matrices["betas"] == (0.9, 0.95)


def test_progress_lines_without_a_terminal(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(training, "_LOG_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        train_in(tmp_path, model())
    assert re.search(r"model small: step 7 of 12, loss \d\.\d{4}, [\d,]+ tokens/s, \d+ s left", caplog.text)
    assert re.search(r"model small: step 10 of 12, nats per token: training \d\.\d{4}, validation \d\.\d{4}", caplog.text)


@pytest.mark.parametrize(("float32", "bfloat16", "expected"), [(3.0, 1.0, "bfloat16"), (1.2, 1.0, "float32"), (1.0, 400.0, "float32")])
def test_dtype_by_measurement(monkeypatch, float32, bfloat16, expected):
    seconds = {torch.float32: float32, torch.bfloat16: bfloat16}
    monkeypatch.setattr(devices, "matmul_seconds", lambda device, dtype: seconds[dtype])
    assert devices.choose_dtype(CPU) == getattr(torch, expected)
    assert devices.choose_dtype(CPU, "bfloat16") is torch.bfloat16 and devices.choose_dtype(CPU, "float32") is torch.float32


def test_matmul_is_timed():
    assert 0 < devices.matmul_seconds(CPU, torch.float32) < 1


def test_device():
    assert devices.choose_device("cpu") == CPU
    assert devices.choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="device 'warp' cannot be used"):
        devices.choose_device("warp")


# ---------------------------------------------------------------- input errors


def test_too_few_tokens(tmp_path):
    with pytest.raises(InputError, match="model 'small': the training split has 16 tokens, expected more than sequence_length = 16"):
        train_in(tmp_path, model(), Store(chain(16)))
    train_in(tmp_path, model(), Store(chain(17)))


def test_sequence_longer_than_the_context(tmp_path):
    with pytest.raises(InputError, match=r"model 'small': .*sequence_length 17 is longer than the model's context_length 16"):
        train_in(tmp_path, model(sequence_length=17))


def test_without_validation_tokens(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        last = train_in(tmp_path, model(), val_tokens=Store(chain(16)))
    assert last["val_loss_nats"] is None and {row["val_loss_nats"] for row in results(tmp_path)[1]} == {""}
    assert "the validation split has 16 tokens, too few for a sequence of 16: no validation" in caplog.text


def test_diverged(tmp_path):
    with pytest.raises(InputError, match=r"model 'small': (loss|gradient norm) (nan|inf) at step 2, expected a finite number"):
        train_in(tmp_path, model(learning_rate=1e38, warmup=0))
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- interruptions

EVERY_STEP = 1e-9  # checkpoint_minutes


def crashed(folder, reads, **options):
    described = model(checkpoint_minutes=EVERY_STEP, accumulation=2, architecture={"dropout": 0.1}, **options)
    with pytest.raises(Crash):
        train_in(folder, described, CrashingStore(chain(3000), reads))
    return described


def test_only_the_last_two_checkpoints_are_kept(tmp_path):
    crashed(tmp_path, reads=7 * 4 + 1)  # 4 windows a step
    found = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert found == [f"step-{step:09d}.{suffix}" for step in (6, 7) for suffix in ("json", "safetensors")]


def cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
@pytest.mark.parametrize("damage", [cut, flip, Path.unlink])
def test_damaged_checkpoint_is_passed_over(tmp_path, caplog, suffix, damage):
    described = crashed(tmp_path / "crashed", reads=7 * 4)
    train_in(tmp_path / "whole", described)
    damage(tmp_path / f"crashed/checkpoints/step-000000007.{suffix}")
    if (suffix, damage) == ("json", flip):  # of what its JSON text says, the sha256 of the tensors is checked
        path = tmp_path / "crashed/checkpoints/step-000000007.json"
        content = json.loads(path.with_name("step-000000006.json").read_text())
        path.write_text(json.dumps({**content, "sha256": "0" * 64}))
    with caplog.at_level(logging.INFO):
        train_in(tmp_path / "crashed", described)
    assert "continuing after step 6" in caplog.text
    assert ("passed over" in caplog.text) == ((suffix, damage) != ("json", Path.unlink))
    assert results(tmp_path / "crashed") == results(tmp_path / "whole")


def test_no_whole_checkpoint_means_from_the_start(tmp_path, caplog):
    described = crashed(tmp_path / "crashed", reads=5 * 4)
    for path in (tmp_path / "crashed/checkpoints").glob("*.safetensors"):
        cut(path)
    train_in(tmp_path / "crashed", described)
    train_in(tmp_path / "whole", described)
    assert results(tmp_path / "crashed") == results(tmp_path / "whole")
    assert caplog.text.count("passed over") == 2


def test_checkpoint_of_another_training(tmp_path):
    described = crashed(tmp_path, reads=5 * 4)
    with pytest.raises(InputError, match=r"step-000000005\.json: checkpoint of another training"):
        train_in(tmp_path, described, seed=6)


def test_how_often_a_checkpoint_is_written_may_change(tmp_path, caplog):
    described = crashed(tmp_path / "crashed", reads=5 * 4)
    train_in(tmp_path / "whole", described)
    described["training"]["checkpoint_minutes"] = 7.0
    with caplog.at_level(logging.INFO):
        train_in(tmp_path / "crashed", described)
    assert "continuing after step 5" in caplog.text
    assert results(tmp_path / "crashed") == results(tmp_path / "whole")


def test_the_dtype_of_a_continued_training_is_not_measured_again(tmp_path, monkeypatch):
    seconds = {torch.float32: 1.0, torch.bfloat16: 9.0}
    monkeypatch.setattr(devices, "matmul_seconds", lambda device, dtype: seconds[dtype])
    described = crashed(tmp_path / "crashed", reads=5 * 4, dtype="auto")
    train_in(tmp_path / "whole", described)
    seconds[torch.bfloat16] = 0.1
    train_in(tmp_path / "crashed", described)
    assert results(tmp_path / "crashed") == results(tmp_path / "whole")


def write_store(folder, split, tokens):
    """A token store of one shard on disk."""
    folder.mkdir(parents=True)
    tokens = tokens.astype("<u2")
    ends = (np.flatnonzero(tokens == EOT) + 1).astype("<u8")
    (folder / "00000.bin").write_bytes(tokens.tobytes())
    (folder / "00000.ends.bin").write_bytes(ends.tobytes())
    facts = {"split": split, "shard": 0, "shards": 1, "dtype": "uint16", "vocab_size": VOCAB, "eot_id": EOT, "tokenizer_sha256": "0" * 64}
    hashes = {"sha256": hashlib.sha256(tokens.tobytes()).hexdigest(), "ends_sha256": hashlib.sha256(ends.tobytes()).hexdigest()}
    sidecar = {**facts, **hashes, "tokens": len(tokens), "documents": len(ends), "provenance": {"config": {}}}
    write_json(folder / "00000.json", sidecar)
    build_index([folder / "00000.json"], folder)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    write_store(folder / "train", "train", chain(3000))
    write_store(folder / "val", "val", chain(500, seed=1))
    return folder


def specification(stores, folder, model, seed=5):
    paths = {
        "train_tokens": stores / "train",
        "val_tokens": stores / "val",
        "out_dir": folder / "out",
        "checkpoint_dir": folder / "checkpoints",
    }
    return {"name": "small", "seed": seed, "model": model, "device": "cpu", **{key: str(path) for key, path in paths.items()}}


def start(folder, spec):
    """``python -m tokenbounds.training`` as a user's shell would start it."""
    write_json(folder / "spec.json", spec)
    command = [sys.executable, "-m", "tokenbounds.training", str(folder / "spec.json")]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=Path(training.__file__).parent.parent)


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode} before it could be interrupted: {process.stderr.read()}"
        assert time.monotonic() < end
        time.sleep(0.002)


def last_checkpoint(folder):
    return max((int(path.stem.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*.json")), default=0)


INTERRUPTED = {"steps": 150, "eval_every": 10, "accumulation": 2, "architecture": {"dropout": 0.1}}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, stores):
    folder = tmp_path_factory.mktemp("uninterrupted")
    process = start(folder, specification(stores, folder, model(**INTERRUPTED)))
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 0, stderr
    return results(folder)


def test_killed_and_continued_is_bit_for_bit_uninterrupted(tmp_path, stores, uninterrupted):
    """SIGKILL wherever it falls (also while a checkpoint is written), with dropout and accumulation."""
    spec = specification(stores, tmp_path, model(**INTERRUPTED, checkpoint_minutes=EVERY_STEP))
    process = start(tmp_path, spec)
    wait_for(lambda: last_checkpoint(tmp_path) >= 34, process)
    process.kill()
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "out").exists()
    at = last_checkpoint(tmp_path)
    process = start(tmp_path, spec)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 0, stderr
    assert int(re.search(r"continuing after step (\d+)", stderr)[1]) == at

    (files, curve), (killed_files, killed_curve) = uninterrupted, results(tmp_path)
    assert killed_files["model.safetensors"] == files["model.safetensors"]
    assert killed_curve == curve
    minutes = '"checkpoint_minutes": {}'  # the only difference between the two descriptions
    assert killed_files["config.json"].decode().replace(minutes.format(EVERY_STEP), minutes.format(10.0)) == files["config.json"].decode()


def test_sigterm_writes_a_checkpoint_and_continues(tmp_path, stores, uninterrupted):
    spec = specification(stores, tmp_path, model(**INTERRUPTED))
    process = start(tmp_path, spec)
    for line in process.stderr:
        if "step 20 of 150" in line:
            process.terminate()
            break
    stderr = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + signal.SIGTERM, stderr
    step = last_checkpoint(tmp_path)
    assert 20 <= step < 150 and f"stopped by SIGTERM after step {step}, checkpoint written" in stderr
    assert not (tmp_path / "out").exists()
    process = start(tmp_path, spec)
    assert f"continuing after step {step}" in process.communicate(timeout=60)[1]
    assert results(tmp_path) == uninterrupted


@pytest.fixture
def threads():
    """The entry sets the number of threads: set it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_run_trains_in_this_process(tmp_path, stores, threads):
    run(specification(stores, tmp_path, model()))
    assert {path.name for path in (tmp_path / "out").iterdir()} == OUTPUTS
    inputs = json.loads((tmp_path / "out/config.json").read_text())["provenance"]["inputs"]
    assert set(inputs) == {str(stores / split / "index.json") for split in ("train", "val")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": model(learning_rate=1e38, warmup=0)}, r"error: model 'small': (loss|gradient norm) (nan|inf) at step 2"),
        ({"model": model(processes=2, accumulation=2)}, "error: 1 training processes were started, expected `processes` = 2"),
        ({"modle": 1}, r"error: \S+/spec.json: modle: Extra inputs are not permitted \(found 1\)"),
        ({"model": model(steps=0)}, r"error: \S+/spec.json: model.training.steps: Input should be greater than 0 \(found 0\)"),
        ({"train_tokens": "nowhere"}, "error: nowhere/index.json: no such file"),
    ],
)
def test_input_error_is_one_line_of_the_program(tmp_path, stores, threads, capsys, change, message):
    write_json(tmp_path / "spec.json", {**specification(stores, tmp_path, model()), **change})
    assert training.main(tmp_path / "spec.json") == 1
    printed = capsys.readouterr().err.splitlines()
    assert re.match(message, printed[-1]) and not any("Traceback" in line for line in printed)


# ---------------------------------------------------------------- several processes


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(tmp_path, stores):
    options = {"steps": 30, "accumulation": 4, "architecture": {"dropout": 0.1}}
    run(specification(stores, tmp_path / "one", model(**options)))
    run(specification(stores, tmp_path / "two", model(**options, processes=2)))
    one, two = (load_model(tmp_path / folder / "out")[0].state_dict() for folder in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-5)
    first = next(iter(results(tmp_path / "one")[1])), next(iter(results(tmp_path / "two")[1]))
    assert float(first[0]["val_loss_nats"]) == pytest.approx(float(first[1]["val_loss_nats"]), abs=1e-5)


@pytest.mark.slow
def test_input_error_of_a_started_process(tmp_path, stores):
    with pytest.raises(InputError, match=r"^model 'small': .* at step 2, expected a finite number"):
        run(specification(stores, tmp_path, model(learning_rate=1e38, warmup=0, processes=2, accumulation=2)))


def interrupted_pair(tmp_path, stores, signal_number):
    """Interrupt a process that has called `run` for two processes; returns it, and those below it that are still alive."""
    psutil = pytest.importorskip("psutil")
    described = model(steps=5000, accumulation=2, eval_every=1000, processes=2, checkpoint_minutes=EVERY_STEP)
    write_json(tmp_path / "run.json", specification(stores, tmp_path, described))
    code = "import json, sys; from tokenbounds.training import run; run(json.load(open(sys.argv[1])))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run.json")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(training.__file__).parent.parent)},
    )
    wait_for(lambda: last_checkpoint(tmp_path) >= 5, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3  # torchrun and two processes
    process.send_signal(signal_number)
    process.wait(60)
    end = time.monotonic() + 20
    while (
        alive := [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    ) and time.monotonic() < end:
        time.sleep(0.05)
    for child in alive:
        child.kill()
    return process, alive


@pytest.mark.slow
def test_started_processes_die_with_the_one_that_started_them(tmp_path, stores):
    process, alive = interrupted_pair(tmp_path, stores, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not alive


@pytest.mark.slow
def test_sigterm_reaches_the_started_processes(tmp_path, stores):
    process, alive = interrupted_pair(tmp_path, stores, signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM and not alive
    assert last_checkpoint(tmp_path) >= 5
