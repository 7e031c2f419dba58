"""A run that was killed continues with the same command and ends in the same bytes; no process of it outlives
it."""

import json
import os
import platform
import signal

import psutil
from support.checkouts import OF_MEDIUM

SHOWN = [f"tables/table2.{suffix}" for suffix in ("csv", "md", "tex")]
SHOWN += [f"figures/figure1.{suffix}" for suffix in ("csv", "png", "pdf")]


def checkpoints(checkout):
    return sorted(checkout.results.glob("checkpoints/medium/*/step-*.json"))


def scripts(checkout):
    """Processes of rules' scripts."""
    return [
        process
        for process in checkout.processes()
        if any(".snakemake/scripts/" in part for part in process.cmdline())
    ]


def killed_while_training(copy):
    """Remove what is of one model, start a run, and kill it when there is a checkpoint; the number of its
    process."""
    copy.remove(*OF_MEDIUM, *SHOWN)
    with copy.launched() as process:
        copy.wait_for(lambda: checkpoints(copy), "a checkpoint")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        copy.wait_for(lambda: not copy.processes(), "the end of all processes")
    return process.pid


def test_killed_in_the_middle_of_training(copy, finished):
    """`finished` is the same run without interruption."""
    kept = {
        path: path.stat().st_mtime_ns
        for name in ("tokens", "models/small")
        for path in (copy.results / name).rglob("*.*")
    }

    process = killed_while_training(copy)
    assert not list((copy.results / "models/medium").glob("model.safetensors"))
    steps = json.loads(checkpoints(copy)[-1].read_text())["state"]["step"]
    assert 0 < steps < 300
    assert list((copy.folder / ".snakemake/locks").iterdir())
    half = copy.results / f"figures/.figure4.pdf.{process}.tmp"  # as if one was being drawn
    half.write_text("half")

    # How checkpoints are written and how tokens are scored are nobody's result; a null leaves the default.
    copy.change("models.medium.training.checkpoint_minutes", 0.002)
    copy.change("scoring.device", None)
    output = copy.launch()
    assert "a run was cut off here: removing its lock and continuing" in output
    log = (copy.results / "logs/train/medium.log").read_text()
    assert f"continuing after step {steps}" in log and f"steps {steps + 1} to 300" in log
    compared = [path.relative_to(finished.results) for path in finished.results.glob("bounds/*.json")] + SHOWN
    compared += [
        "models/medium/model.safetensors",
        "models/medium/config.json",
        "messages/medium.levels11.bin",
        "risk/medium.levels11.text.token/00001.parquet",
    ]
    for name in compared:
        assert (copy.results / name).read_bytes() == (finished.results / name).read_bytes(), name
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not (copy.results / "checkpoints").exists() and not list(copy.results.rglob("*.tmp"))


def test_killed_and_edited_starts_anew(copy):
    """A checkpoint of other code is not continued, and not kept."""
    killed_while_training(copy)
    module = copy.folder / "tokenbounds/models/gpt.py"
    module.write_text(module.read_text() + "\n_edited = 1\n")
    copy.snakemake("--unlock")
    copy.snakemake("results/test/models/medium/model.safetensors")
    log = (copy.results / "logs/train/medium.log").read_text()
    assert "continuing after step" not in log and "steps 1 to 300" in log
    assert not (copy.results / "checkpoints").exists()


def test_script_dies_with_snakemake_and_the_lock_is_refused_only_while_it_lives(copy):
    copy.change("models.medium.training.steps", 1_000_000)
    with copy.launched() as process:
        copy.wait_for(lambda: checkpoints(copy), "a checkpoint")
        snakemake = next(
            child for child in psutil.Process(process.pid).children() if "snakemake" in child.cmdline()
        )
        orphans = scripts(copy)
        assert orphans

        refused = copy.launch(check=False)
        assert refused.strip() == (
            f"error: Snakemake is already running in {copy.folder} "
            f"(process {snakemake.pid}); wait for it or stop it"
        )
        assert snakemake.is_running() and scripts(copy) == orphans

        snakemake.kill()
        copy.wait_for(
            lambda: not any(orphan.is_running() for orphan in orphans),
            "the end of the orphaned script",
            seconds=30,
        )
        assert process.wait(timeout=60) != 0
    assert not copy.processes()
    assert not (copy.results / "models/medium/model.safetensors").exists()

    # The tables are those of the configuration before the change, so there is nothing left to do but to
    # remove the lock.
    copy.change("models.medium.training.steps", 300)
    assert list((copy.folder / ".snakemake/locks").iterdir())
    output = copy.launch()
    assert (
        "a run was cut off here: removing its lock and continuing" in output
        and "Nothing to be done" in output
    )
    assert not list((copy.folder / ".snakemake").glob("locks/*"))


def test_run_of_another_machine_is_not_taken_for_dead(copy):
    note = copy.folder / ".snakemake/launched-on"
    assert not note.exists()
    note.write_text("login2")
    refused = copy.launch(check=False)
    assert refused.startswith(
        "error: a run was started on login2 and has not ended"
    ) and refused.strip().endswith(f"remove {note}")
    assert note.exists()
    note.write_text(platform.node())
    assert "Nothing to be done" in copy.launch()
    assert not note.exists()


def test_interrupted_from_the_keyboard(copy):
    """Ctrl-C reaches every process of the terminal: Snakemake ends its jobs and unlocks, and the launcher
    waits for that."""
    copy.change("models.medium.training.steps", 1_000_000)
    with copy.launched() as process:
        copy.wait_for(lambda: checkpoints(copy), "a checkpoint")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) not in (0, -signal.SIGKILL)
        copy.wait_for(lambda: not copy.processes(), "the end of all processes")
    state = copy.folder / ".snakemake"
    assert not (state / "launched-on").exists() and not list((state / "locks").glob("*"))
