"""Parts that the scripts share: arguments from the rule, one line per error, log, the end with Snakemake."""

import logging
import os
import runpy
import subprocess
import sys
from types import SimpleNamespace

import common
import pytest
from snakemake.iocontainers import InputFiles, OutputFiles, Params, Wildcards

from tokenbounds.errors import InputError

CONFIG = {
    "run": "r",
    "corpora": {"c": {"source": {"files": ["a.txt"]}, "tokenizer": {"file": "t.json"}}},
    "models": {"p": {"family": "pretrained", "corpus": "c", "folder": "f"}},
    "codecs": {"l": {"kind": "levels"}},
    "scoring": {"threads": 3},
}


@pytest.fixture
def snakemake(tmp_path, monkeypatch):
    """A job as a script sees it; errors for the launcher go to errors.txt."""
    monkeypatch.setenv("TOKENBOUNDS_ERRORS", str(tmp_path / "errors.txt"))
    monkeypatch.setattr(common, "die_with_snakemake", lambda: None)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield SimpleNamespace(
        rule="score",
        log=[str(tmp_path / "rule.log")],
        input=InputFiles(fromdict={"index": "index.json", "parts": ["0.parquet", "1.parquet"]}),
        output=OutputFiles(fromdict={"records": str(tmp_path / "records.txt")}),
        params=Params(fromdict={"section": {"n": 10}, "seed": 7}),
        wildcards=Wildcards(fromdict={"run": "r", "model": "p"}),
        threads=2,
        resources=SimpleNamespace(gpu=1),
        config=CONFIG,
    )
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


# ---------------------------------------------------------------- arguments


def test_a_name_is_that_of_an_output_input_param_or_wildcard(snakemake, tmp_path):
    def main(records, index, parts, section, seed, *, model): ...

    assert common.arguments(main, snakemake) == {
        "records": str(tmp_path / "records.txt"),
        "index": "index.json",  # also the name of a method of lists
        "parts": ["0.parquet", "1.parquet"],
        "section": {"n": 10},
        "seed": 7,
        "model": "p",
    }


@pytest.mark.parametrize("part", ["input", "output", "wildcards"])
def test_a_name_in_two_places_is_an_error(snakemake, part):
    def main(seed): ...

    setattr(snakemake, part, type(getattr(snakemake, part))(fromdict={"seed": "x"}))
    with pytest.raises(RuntimeError, match=r"^rule score: 2 values named 'seed'; expected one$"):
        common.arguments(main, snakemake)


def test_a_name_that_the_rule_lacks(snakemake):
    def main(absent): ...

    with pytest.raises(RuntimeError, match=r"^rule score: 0 values named 'absent'; expected one$"):
        common.arguments(main, snakemake)


def test_a_default_replaces_only_an_absent_value(snakemake):
    def main(seed=1, absent=None): ...

    assert common.arguments(main, snakemake) == {"seed": 7}
    snakemake.wildcards = Wildcards(fromdict={"seed": "x"})
    with pytest.raises(RuntimeError, match="2 values named 'seed'"):
        common.arguments(main, snakemake)


def test_names_of_the_rule_itself(snakemake):
    def main(input, output, threads, resources): ...

    given = common.arguments(main, snakemake)
    assert given["input"] is snakemake.input and given["output"] is snakemake.output
    assert given["threads"] == 2 and given["resources"].gpu == 1
    snakemake.params = Params(fromdict={"threads": 5})
    assert common.arguments(main, snakemake)["threads"] == 5


def test_config_and_scoring_are_sections_that_were_checked(snakemake):
    def main(config, scoring): ...

    given = common.arguments(main, snakemake)
    assert given["config"].models["p"].family == "pretrained" and given["scoring"].threads == 3
    assert given["scoring"] == given["config"].scoring
    snakemake.config = CONFIG | {"scoring": {"threads": "many"}}
    with pytest.raises(InputError, match=r"scoring\.threads"):
        common.arguments(main, snakemake)


# ---------------------------------------------------------------- a script

SCRIPT = """
from pathlib import Path

from common import script

from tokenbounds.errors import InputError


@script
def main(records, seed, parts):
    if seed == 0:
        raise InputError("seed: 0")
    Path(records).write_text(f"{seed} {len(parts)}")
"""


def test_a_script_runs_only_as_the_job_of_a_rule(snakemake, tmp_path, capsys):
    path, records = tmp_path / "example.py", tmp_path / "records.txt"
    path.write_text(SCRIPT)
    assert callable(runpy.run_path(path, run_name="__main__")["main"])  # by hand
    runpy.run_path(path, {"snakemake": snakemake}, run_name="__mp_main__")  # a process that the job started
    assert not records.exists()
    runpy.run_path(path, {"snakemake": snakemake}, run_name="__main__")
    assert records.read_text() == "7 2"
    snakemake.params = Params(fromdict={"seed": 0})
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(path, {"snakemake": snakemake}, run_name="__main__")
    assert caught.value.code == 1 and capsys.readouterr().err == "error in rule score: seed: 0\n"


# ---------------------------------------------------------------- log and errors


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


# ---------------------------------------------------------------- the Snakemake above


def test_is_snakemake(sleeper, tmp_path):
    assert common.is_snakemake(sleeper("snakemake", cwd=tmp_path))
    assert not common.is_snakemake(sleeper("workflow_scripts/launch.py", cwd=tmp_path))
    assert not common.is_snakemake(sleeper("snakemake.log", cwd=tmp_path))
    ended = sleeper("snakemake", cwd=tmp_path)
    ended.kill()
    ended.wait()
    assert not common.is_snakemake(ended)


def test_a_script_started_by_hand_is_not_killed():
    """Without a Snakemake above it there is nothing to die with."""
    code = (
        "import common, threading; common.die_with_snakemake()\n"
        "print([thread.name for thread in threading.enumerate()])"
    )
    environment = os.environ | {"PYTHONPATH": os.path.dirname(common.__file__)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['MainThread']"
