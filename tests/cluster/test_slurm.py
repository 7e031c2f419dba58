"""Runs through a real Slurm, undisturbed and disturbed: they end with the same certificates."""

import contextlib
import os
import re
import signal
import subprocess
import time

import pytest
import yaml
from support.checkouts import OF_MEDIUM

STEPS = 2000  # of the medium GPT's training, as in conftest.py


def states(jobs, rule, wildcards):
    """States of a rule's jobs, in the order of submission."""
    return [
        job["state"]
        for _, job in sorted(jobs.items())
        if (job["rule"], job["wildcards"]) == (rule, f"test_{wildcards}")
    ]


def test_jobs_ask_for_what_their_rules_say(slurm, finished):
    jobs = slurm.jobs(finished.folder)
    assert {job["state"] for job in jobs.values()} == {"COMPLETED"}
    rules = [job["rule"] for job in jobs.values()]
    assert {rule: rules.count(rule) for rule in rules} == {
        **{"documents": 1, "tokenizer": 1, "tokenize": 1, "index": 2},
        **{"train": 2, "message": 2, "score": 4},
    }  # downloads, draws, certificates and tables are made where Snakemake runs
    for number, job in jobs.items():
        asked = slurm("scontrol", "show", "job", str(number))
        assert re.search(r"NumNodes=1 .*NumTasks=1 ", asked)
        # A training asks with --gpus, scoring with --gres, as the profile has it; gpu=0, as of messages, asks
        # for none.
        assert ("TresPerJob=gres:gpu:1" in asked) == (job["rule"] == "train"), asked
        assert ("TresPerNode=gres:gpu:1" in asked) == (job["rule"] == "score"), asked
        assert job["partition"] == ("gpu" if job["rule"] in ("train", "score") else "cpu")
    limits = {job["rule"]: (job["tres"].split(",")[1], job["limit"]) for job in jobs.values()}
    assert limits["train"] == ("mem=8000M", "7-00:00:00") and limits["tokenize"] == ("mem=8000M", "12:00:00")


def test_jobs_cancelled_killed_out_of_time_and_out_of_memory(slurm, copy, finished):
    copy.remove("models", "messages", "risk", "bounds", "tables")
    # Training has a minute; coding a model needs more than 300 MB, and has them the second time.
    limits = {"train": {"runtime": 1}, "message": {"mem_mb": "300 if attempt == 1 else 4000"}}
    copy.change_profile(**{"set-resources": limits})
    with copy.launched() as process:
        small = copy.wait_for(
            lambda: [n for n, job in slurm.jobs(copy.folder).items() if is_running(job, "train", "small")],
            "a job",
        )
        slurm("scancel", *map(str, small))

        # Killed while it writes a checkpoint, and the second time stopped until its time is over.
        first = copy.wait_for(lambda: copy.script("model=medium"), "the training's process")
        copy.wait_for(lambda: copy.checkpoints(), "a checkpoint")
        first.suspend()
        copy.wait_for(
            lambda: is_stopped_while_writing(first, copy), "a checkpoint that is being written", every=0
        )
        first.kill()
        second = copy.wait_for(
            lambda: (script := copy.script("model=medium")) and script.pid != first.pid and script,
            "the second attempt",
        )
        copy.wait_for(lambda: "continuing after step" in train_log(copy), "the checkpoint's use")
        second.suspend()
        assert process.wait(timeout=400) == 1
    assert "error: snakemake ended with status 1" in copy.launch_log()
    jobs = slurm.jobs(copy.folder)
    assert states(jobs, "train", "small") == ["CANCELLED", "COMPLETED"]
    assert states(jobs, "train", "medium") == ["FAILED", "TIMEOUT"]
    assert states(jobs, "message", "small_levels11") == ["FAILED", "COMPLETED"]
    killed = next(number for number, job in jobs.items() if job["rule"] == "message")
    assert (
        "exceeded memory limit"
        in next(copy.folder.glob(f".snakemake/slurm_logs/rule_message/*/{killed}.log")).read_text()
    )
    memory = [job["tres"].split(",")[1] for _, job in sorted(jobs.items()) if job["rule"] == "message"]
    assert memory == ["mem=300M", "mem=4000M"]
    assert not list(copy.results.glob("models/medium/model*"))

    copy.launch()
    assert "continuing after step" in train_log(copy)
    assert copy.certificates() == finished.certificates()
    assert not list(copy.results.rglob("*.tmp"))


def test_killed_head_leaves_jobs_that_the_next_run_cancels(slurm, copy, finished):
    copy.remove(*OF_MEDIUM, "tables")
    copy.change("models.medium.training.steps", 1_000_000)
    with copy.launched() as process:
        copy.wait_for(lambda: copy.checkpoints(), "a checkpoint")
        orphan = next(number for number, job in slurm.jobs(copy.folder).items() if job["state"] == "RUNNING")
        refused = copy.launch(check=False)
        assert "error: Snakemake is already running in" in refused
        assert slurm.jobs(copy.folder)[orphan]["state"] == "RUNNING"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = copy.checkpoints()
    copy.wait_for(lambda: copy.checkpoints() != before, "a checkpoint of the orphan, which goes on")
    own = int(
        slurm(
            "sbatch",
            "--parsable",
            "--mem=100",
            f"--chdir={copy.folder}",
            "--output=/dev/null",
            "--wrap=sleep 600",
        )
    )

    copy.change("models.medium.training.steps", STEPS)
    with copy.launched() as process:
        copy.wait_for(
            lambda: "continuing after step" in train_log(copy) or f"steps 1 to {STEPS}" in train_log(copy),
            "the new training",
        )
        assert slurm.jobs(copy.folder)[orphan]["state"] == "CANCELLED"
        assert process.wait(timeout=400) == 0
    assert (
        slurm.jobs(copy.folder)[own]["state"] == "RUNNING"
    )  # not Snakemake's, so none of the launcher's business
    slurm("scancel", str(own))
    log = copy.launch_log()
    assert f"a run was cut off here: cancelling its Slurm jobs {orphan}\n" in log
    assert "a run was cut off here: removing its lock and continuing" in log
    assert copy.certificates() == finished.certificates()
    assert states(slurm.jobs(copy.folder), "train", "medium") == ["CANCELLED", "COMPLETED"]


def test_accounting_database_away_for_a_minute(slurm, copy, finished, root):
    """The shipped way of asking, sacct five seconds apart, while a database that answers from squeue's list
    is away."""
    copy.remove(*OF_MEDIUM, "tables")
    away = copy.folder / "away"
    refusal = (
        "sacct: error: slurm_persist_conn_open_without_init: "
        "failed to open persistent connection to host:localhost:6819"
    )
    answer = "squeue --states=all --noheader --format='%i|%T' --name"
    copy.put_first(
        "sacct",
        f'#!/bin/sh\nif [ -e {away} ]; then echo >&2 "{refusal}"; exit 1; fi\n'
        f'for name; do :; done\n{answer} "$name"\n',
    )
    profile = yaml.safe_load((root / "profiles/slurm/profile.yaml").read_text())
    asking = {key: profile[key] for key in ("max-status-checks-per-second", "slurm-status-attempts")}
    copy.change_profile(**asking, **{"slurm-status-command": "sacct"})
    with copy.launched() as process:
        copy.wait_for(
            lambda: any(job["state"] == "RUNNING" for job in slurm.jobs(copy.folder).values()), "a job"
        )
        away.touch()
        end = time.monotonic() + 60
        copy.wait_for(
            lambda: states(slurm.jobs(copy.folder), "train", "medium") == ["COMPLETED"],
            "a training that ends meanwhile",
        )
        time.sleep(max(0, end - time.monotonic()))
        # Its model waits for an answer: nothing goes on, and nothing is given up.
        assert not states(slurm.jobs(copy.folder), "message", "medium_levels11") and process.poll() is None
        away.unlink()
        assert process.wait(timeout=400) == 0
    assert copy.certificates() == finished.certificates()
    assert {job["state"] for job in slurm.jobs(copy.folder).values()} == {"COMPLETED"}


def test_full_disk(slurm, copy, finished):
    """The model's folder is a disk of 64 kB, then a larger one. The jobs run here, without Slurm: it knows
    nothing of disks."""
    copy.remove(*OF_MEDIUM, "tables")
    disk = copy.results / "models/medium"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        local = ("--executor", "local", "--cores", "2")
        output = copy.launch(*local, check=False)
        assert "No space left on device" in output
        assert not list(disk.iterdir())
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        copy.launch(*local)
        assert copy.certificates() == finished.certificates()
    finally:
        subprocess.run(["umount", disk], check=True)


def is_stopped_while_writing(script, checkout):
    """Let a stopped training go on for a millisecond. Merely looking for the file of a running one misses it
    on a busy machine, and a fast one ends meanwhile."""
    script.resume()
    time.sleep(0.001)
    script.suspend()
    return checkout.checkpoints(".step-*.tmp")


def is_running(job, rule, model):
    return (job["state"], job["rule"], job["wildcards"]) == ("RUNNING", rule, f"test_{model}")


def train_log(checkout):
    with contextlib.suppress(FileNotFoundError):
        return (checkout.results / "logs/train/medium.log").read_text()
    return ""
