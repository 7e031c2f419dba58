"""Listing jobs: the set behind a file, what is refused, what stays in the working directory."""

import subprocess
import sys

import pytest

from tokenbounds.cli import main
from tokenbounds.errors import InputError
from tokenbounds.planning import Job, JobGraph, jobs, list_jobs


def test_jobs_behind_a_file():
    """A diamond, and a job beside it."""
    top, left, right, bottom, other = (Job(name, {}) for name in ("top", "left", "right", "bottom", "other"))
    dependencies = {bottom: [left, right], left: [top], right: [top], top: [], other: []}
    graph = JobGraph(dependencies, {job.rule: job for job in dependencies})
    assert graph.jobs == {top, left, right, bottom, other}
    assert graph.needed_for("bottom") == {top, left, right, bottom}
    assert graph.needed_for("left") == {top, left}
    assert graph.needed_for("other") == {other}


def test_jobs_of_the_same_rule_are_different():
    assert len({Job("score", {"part": "00000"}), Job("score", {"part": "00000"})}) == 2


EXPECTED = "expected a checkout with the Snakefile, and the extra `pipeline` of its packages"


def test_one_line_without_a_snakefile(root, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(jobs, "CHECKOUT", tmp_path)
    assert main(["plan", str(root / "config.yaml")]) == 1
    assert capsys.readouterr() == ("", f"error: plan: no Snakefile in {tmp_path}; {EXPECTED}\n")


def test_one_line_without_snakemake(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "snakemake.exceptions", None)
    with pytest.raises(InputError, match=f"^plan: Snakemake is not installed; {EXPECTED}$"):
        list_jobs(root / "config.yaml")


def test_message_in_one_line():
    details = "    output: a, b\n    wildcards: run=r\n    affected files:\n        c"
    error = RuntimeError(f"Missing input files for rule x:\n{details}\nTraceback:\n  File 'y', line 1")
    assert jobs._one_line(error) == "Missing input files for rule x: wildcards: run=r; affected files: c"


@pytest.mark.parametrize("existed", [False, True])
def test_what_stays_in_the_working_directory(existed, tmp_path):
    """Where a run has been, nothing is removed; elsewhere empty folders and the cache, and nothing else."""
    folder = tmp_path / ".snakemake"
    if existed:
        folder.mkdir()
    with jobs._clean_up(folder):
        (folder / "iocache").mkdir(parents=True)
        (folder / "iocache" / "latest.pkl").touch()
        (folder / "locks").mkdir()
    assert (folder / "locks").exists() == (folder / "iocache/latest.pkl").exists() == existed
    assert folder.exists() == existed
    with jobs._clean_up(tmp_path / "new"):
        (tmp_path / "new" / "metadata").mkdir(parents=True)
        (tmp_path / "new" / "metadata" / "record").touch()
    assert (tmp_path / "new" / "metadata" / "record").exists()


def test_importing_loads_neither_torch_nor_snakemake():
    code = "import sys, tokenbounds.planning; print({'torch', 'snakemake'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
