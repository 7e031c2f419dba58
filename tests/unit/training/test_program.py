"""The program ``python -m tokenbounds.training.loop``: interrupted, continued, or in error."""

import json
import re
import signal

import pytest
from support.trainings import (
    EVERY_STEP,
    OUTPUTS,
    last_checkpoint,
    model,
    results,
    specification,
    start,
    wait_for,
)

from tokenbounds.io.files import write_json
from tokenbounds.training.loop import main, run

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
    assert (
        killed_files["config.json"].decode().replace(minutes.format(EVERY_STEP), minutes.format(10.0))
        == files["config.json"].decode()
    )


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


def test_run_trains_in_this_process(tmp_path, stores, threads):
    run(specification(stores, tmp_path, model()))
    assert {path.name for path in (tmp_path / "out").iterdir()} == OUTPUTS
    inputs = json.loads((tmp_path / "out/config.json").read_text())["provenance"]["inputs"]
    assert set(inputs) == {str(stores / split / "index.json") for split in ("train", "val")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": model(learning_rate=1e38, warmup=0)},
            r"error: model 'small': (loss|gradient norm) (nan|inf) at step 2",
        ),
        (
            {"model": model(processes=2, accumulation=2)},
            "error: 1 training processes were started, expected `processes` = 2",
        ),
        ({"modle": 1}, r"error: \S+/spec.json: modle: Extra inputs are not permitted \(found 1\)"),
        (
            {"model": model(steps=0)},
            r"error: \S+/spec.json: model.training.steps: Input should be greater than 0 \(found 0\)",
        ),
        (
            {"model": {"family": "markov", "corpus": "chain", "order": 2}},
            r"error: \S+/spec.json: model: family 'markov' is not trained here",
        ),
        ({"train_tokens": "nowhere"}, "error: nowhere/index.json: no such file"),
    ],
)
def test_input_error_is_one_line_of_the_program(tmp_path, stores, threads, capsys, change, message):
    write_json(tmp_path / "spec.json", {**specification(stores, tmp_path, model()), **change})
    assert main(tmp_path / "spec.json") == 1
    printed = capsys.readouterr().err.splitlines()
    assert re.match(message, printed[-1]) and not any("Traceback" in line for line in printed)
