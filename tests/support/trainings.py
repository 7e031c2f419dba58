"""Small trainings for tests: tokens with a known entropy, a model of some thousand parameters."""

import csv
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from tokenbounds.io.files import write_json
from tokenbounds.training.loop import train

ROOT = Path(__file__).resolve().parents[2]
VOCAB, EOT = 23, 0
CPU = torch.device("cpu")
OUTPUTS = {"model.safetensors", "config.json", "curve.csv", "curve.png"}
EVERY_STEP = 1e-9  # checkpoint_minutes


def chain(m, seed=0, noise=0.1):
    """Draw tokens on 1..22 in documents of 50 tokens.

    The next token is a fixed function of the last, but uniform with probability `noise`.
    """
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
    architecture = {
        "layers": 1,
        "heads": 2,
        "width": 16,
        "context_length": 16,
        **options.pop("architecture", {}),
    }
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
    return {
        "family": "gpt",
        "corpus": "chain",
        "architecture": architecture,
        "training": {**defaults, **options},
        "start_token": "always",
    }


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
    """Read all results that must not depend on interruptions."""
    with open(folder / "out/curve.csv", newline="") as handle:
        curve = [
            {key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(handle)
        ]
    return {
        name: (folder / "out" / name).read_bytes() for name in ("model.safetensors", "config.json")
    }, curve


def specification(stores, folder, model, seed=5):
    paths = {
        "train_tokens": stores / "train",
        "val_tokens": stores / "val",
        "out_dir": folder / "out",
        "checkpoint_dir": folder / "checkpoints",
    }
    return {
        "name": "small",
        "seed": seed,
        "model": model,
        "device": "cpu",
        **{key: str(path) for key, path in paths.items()},
    }


def start(folder, spec):
    """Start ``python -m tokenbounds.training.loop`` as a user's shell would."""
    write_json(folder / "spec.json", spec)
    command = [sys.executable, "-m", "tokenbounds.training.loop", str(folder / "spec.json")]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, (
            f"ended with {process.returncode} before it could be interrupted: {process.stderr.read()}"
        )
        assert time.monotonic() < end
        time.sleep(0.002)


def last_checkpoint(folder):
    return max(
        (int(path.stem.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*.json")),
        default=0,
    )
