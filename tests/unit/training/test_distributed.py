"""Several processes: they train the model of one, and end together."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from support.trainings import EVERY_STEP, ROOT, last_checkpoint, model, results, specification, wait_for

from tokenbounds.errors import InputError
from tokenbounds.io.files import write_json
from tokenbounds.models.folders import load_model
from tokenbounds.training.loop import run


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
    """Interrupt a process that has called `run` for two; return it and its descendants still alive."""
    psutil = pytest.importorskip("psutil")
    described = model(steps=5000, accumulation=2, eval_every=1000, processes=2, checkpoint_minutes=EVERY_STEP)
    write_json(tmp_path / "run.json", specification(stores, tmp_path, described))
    code = "import json, sys; from tokenbounds.training.loop import run; run(json.load(open(sys.argv[1])))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run.json")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    wait_for(lambda: last_checkpoint(tmp_path) >= 5, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3  # torchrun and two processes
    process.send_signal(signal_number)
    process.wait(60)
    end = time.monotonic() + 20
    while (
        alive := [
            child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        ]
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
