"""What the workflow's scripts share: one line per error, the log, and who counts as a running Snakemake."""

import importlib
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import common
import launch
import psutil
import pytest
import train

from tokenbounds.errors import InputError
from tokenbounds.io.files import write_json

SCRIPTS = [
    "alpha_head",
    "bound",
    "compress",
    "documents",
    "download",
    "families",
    "figure",
    "gate",
    "generate",
    "index",
    "markov",
    "meaning_figure",
    "meaning_table",
    "message",
    "positions",
    "pretrained",
    "recall",
    "recall_figure",
    "resample",
    "score",
    "score_resampled",
    "sequences",
    "smoothing_figure",
    "table",
    "tokenize_shard",
    "tokenizer",
    "train",
]


@pytest.fixture
def snakemake(tmp_path, monkeypatch):
    """A job as a script sees it; errors for the launcher go to errors.txt."""
    monkeypatch.setenv("TOKENBOUNDS_ERRORS", str(tmp_path / "errors.txt"))
    monkeypatch.setattr(common, "die_with_snakemake", lambda: None)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield SimpleNamespace(rule="score", log=[str(tmp_path / "rule.log")])
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


def test_a_job_that_succeeds_logs_and_prints_nothing(snakemake, tmp_path, capsys):
    with common.job(snakemake):
        logging.getLogger("tokenbounds.x").info("half way")
    assert "tokenbounds.x half way" in (tmp_path / "rule.log").read_text()
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "errors.txt").exists()


def test_an_input_error_is_one_line(snakemake, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught, common.job(snakemake):
        raise InputError("a.bin: 3 bytes, expected 4")
    line = "error in rule score: a.bin: 3 bytes, expected 4"
    assert caught.value.code == 1
    assert capsys.readouterr() == ("", line + "\n")
    assert (tmp_path / "errors.txt").read_text() == line + "\n"
    log = (tmp_path / "rule.log").read_text()
    assert log.endswith(line + "\n") and "Traceback" not in log


def test_errors_of_several_jobs_are_collected(snakemake, tmp_path):
    for text in ("one", "two"):
        with pytest.raises(SystemExit), common.job(snakemake):
            raise InputError(text)
    assert (tmp_path / "errors.txt").read_text().splitlines() == [
        "error in rule score: one",
        "error in rule score: two",
    ]


def test_any_other_error_keeps_its_traceback(snakemake, tmp_path):
    with pytest.raises(ZeroDivisionError), common.job(snakemake):
        print(1 / 0)
    log = (tmp_path / "rule.log").read_text()
    assert "unexpected error in rule score" in log and "Traceback" in log and "ZeroDivisionError" in log


def test_works_without_a_launcher(snakemake, monkeypatch):
    monkeypatch.delenv("TOKENBOUNDS_ERRORS")
    with pytest.raises(SystemExit), common.job(snakemake):
        raise InputError("x")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_importable_and_short(name, root):
    """Importing one runs nothing: only what Snakemake starts has a `snakemake`."""
    script = importlib.import_module(name)
    assert callable(script.main) and script.__doc__
    assert len((root / f"workflow_scripts/{name}.py").read_text().splitlines()) < 60


def test_every_script_of_a_rule_is_tested(root):
    named = {
        name
        for path in (root / "rules").glob("*.smk")
        for name in re.findall(r"workflow_scripts/(\w+)\.py", path.read_text())
    }
    assert named - {"common"} == set(SCRIPTS)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Call the script `train` with something changed; the specification that it would train."""
    for split in ("train", "val"):
        write_json(tmp_path / f"tokens/{split}/index.json", {"shards": [{"sha256": split}]})
    module = tmp_path / "module.py"
    module.write_text("x = 1\n")
    found = []

    def run(spec):
        found.append(spec)
        write_json(Path(spec["checkpoint_dir"]) / "step-1.json", {})

    monkeypatch.setattr(train, "run", run)

    def call(seed=1, checkpoint_minutes=10.0, gpus=None, **training):
        arguments = [
            str(path)
            for path in (
                tmp_path / "models/gpt/model.safetensors",
                *sorted(tmp_path.glob("tokens/*/index.json")),
            )
        ]
        options = {"seed": seed, "checkpoint_minutes": checkpoint_minutes, "gpus": gpus}
        train.main(*arguments, [str(module)], model={"training": {"steps": 3, **training}}, **options)
        return found[-1]

    return call


def test_checkpoints_are_those_of_the_same_tokens_code_and_configuration(trained, tmp_path):
    spec = trained()
    assert spec["model"] == {"training": {"steps": 3, "checkpoint_minutes": 10.0}} and spec["name"] == "gpt"
    folders = [spec["checkpoint_dir"], trained(seed=2)["checkpoint_dir"]]
    other = trained(checkpoint_minutes=1.0)
    assert other["checkpoint_dir"] == folders[0] and other["model"]["training"]["checkpoint_minutes"] == 1.0
    for change in ("tokens/train/index.json", "tokens/val/index.json"):
        write_json(tmp_path / change, {"shards": [{"sha256": "other"}]})
        folders.append(trained()["checkpoint_dir"])
    (tmp_path / "module.py").write_text("x = 2\n")
    folders.append(trained()["checkpoint_dir"])
    assert len(set(folders)) == 5


def test_no_more_training_processes_than_gpus_given(trained):
    """A profile for one GPU runs a configuration for four; without a GPU, as on a site that asks by gres, the
    configuration decides."""
    for gpus, processes in ((1, 1), (4, 4), (8, 4), (0, 4), (None, 4)):
        assert trained(gpus=gpus, processes=4)["model"]["training"]["processes"] == processes


def test_no_checkpoint_of_a_finished_model_is_kept(trained, tmp_path):
    """Nor the folder, but those of another model, whatever its name."""
    write_json(tmp_path / "checkpoints/gpt/0123456789abcdef/step-1.json", {})
    write_json(tmp_path / "checkpoints/gpt-2/0123456789abcdef/step-1.json", {})
    trained()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["gpt-2"]
    shutil.rmtree(tmp_path / "checkpoints/gpt-2")
    trained()
    assert not (tmp_path / "checkpoints").exists()


@pytest.fixture
def sleeper():
    """Start a process with the given arguments after its code."""
    started = []

    def start(*arguments, cwd):
        code = "import sys, time; print(flush=True); time.sleep(600)"
        started.append(
            subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=cwd, stdout=subprocess.PIPE)
        )
        started[-1].stdout.readline()
        return psutil.Process(started[-1].pid)

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_is_snakemake(sleeper, tmp_path):
    assert common.is_snakemake(sleeper("snakemake", cwd=tmp_path))
    assert not common.is_snakemake(sleeper("workflow_scripts/launch.py", cwd=tmp_path))
    assert not common.is_snakemake(sleeper("snakemake.log", cwd=tmp_path))
    ended = sleeper("snakemake", cwd=tmp_path)
    ended.kill()
    ended.wait()
    assert not common.is_snakemake(ended)


def test_running_is_only_in_this_checkout(sleeper, tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.setattr(launch, "ROOT", here)
    sleeper("snakemake", cwd=there)
    sleeper("something-else", cwd=here)
    assert launch.running() == []
    process = sleeper("snakemake", cwd=here)
    assert launch.running() == [process.pid]


def test_launcher_refuses_before_it_touches_a_lock(sleeper, root, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.yaml").write_text((root / "config.yaml").read_text())
    lock = tmp_path / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("x\n")
    monkeypatch.setattr(launch, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    process = sleeper("snakemake", cwd=tmp_path)
    assert launch.main(["--profile", "profiles/local"]) == 1
    assert (
        capsys.readouterr().err
        == f"error: Snakemake is already running in {tmp_path} (process {process.pid}); wait for it or stop it\n"
    )
    assert lock.exists()


def test_config_files_of_a_profile(root, monkeypatch):
    monkeypatch.chdir(root)
    assert [str(path) for path in launch.config_files("profiles/local")] == ["config.yaml"]
    assert [str(path) for path in launch.config_files("profiles/test")] == [
        "config.yaml",
        "profiles/test/config.yaml",
    ]


def test_a_script_started_by_hand_is_not_killed():
    """No Snakemake above it: nothing to die with."""
    code = "import common, threading; common.die_with_snakemake(); print([t.name for t in threading.enumerate()])"
    environment = os.environ | {"PYTHONPATH": os.path.dirname(common.__file__)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['MainThread']"
