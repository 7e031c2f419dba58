"""`tokenbounds plan` counts the jobs that Snakemake counts, and its costs can be checked by hand."""

import collections
import contextlib
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
from support.checkouts import make_checkout

from tokenbounds import planning
from tokenbounds.cli import main
from tokenbounds.config.load import load_config
from tokenbounds.config.run import Config
from tokenbounds.errors import InputError
from tokenbounds.planning.summary import output_paths


@dataclass(frozen=True)
class Plan:
    """A configuration, its jobs and their costs."""

    config: Config
    graph: planning.JobGraph
    costs: planning.Costs

    def outputs(self):
        """The jobs behind each table and figure, by name."""
        return {name: self.graph.needed_for(path) for name, path in output_paths(self.config)}


def plan(folder, *files, vocab_size=None):
    """Plan the run that these files configure in a folder."""
    with contextlib.chdir(folder):
        config = load_config(*files)
        return Plan(config, planning.list_jobs(*files), planning.Costs(config, vocab_size))


def counted(jobs):
    return dict(collections.Counter(job.rule for job in jobs if job.rule != "all"))


def stats(output):
    """Snakemake's table of jobs by rule, its total left out."""
    table = re.search(r"^Job stats:\njob +count\n[- ]+\n(.*?)\n\n", output, re.MULTILINE | re.DOTALL)[1]
    return {
        rule: int(count) for rule, count in map(str.split, table.splitlines()) if rule not in ("total", "all")
    }


@pytest.fixture(scope="module")
def empty(tmp_path_factory, root):
    """A checkout in which nothing has run."""
    return make_checkout(tmp_path_factory.mktemp("plan") / "empty", root)


@pytest.fixture(scope="module")
def begun(tmp_path_factory, root):
    """A checkout in which a corpus is tokenized."""
    checkout = make_checkout(tmp_path_factory.mktemp("plan") / "begun", root)
    checkout.snakemake("results/test/tokens/text/train/index.json")
    return checkout


@pytest.fixture(scope="module")
def paper(empty):
    return plan(empty.folder, "config.yaml", vocab_size=50257)


def test_jobs_of_a_small_run(empty):
    made = plan(empty.folder, "config.yaml", empty.overlay)
    assert counted(made.graph.jobs) == stats(empty.dry_run())
    # No table or figure is left out, and none needs more.
    assert set().union(*made.outputs().values()) == {job for job in made.graph.jobs if job.rule != "all"}
    assert all(made.costs.gpu_hours(job) > 0 for job in made.graph.jobs if job.gpus)


def test_jobs_of_single_targets_of_a_run_that_has_begun(begun):
    """Finished jobs count as well: a plan says what a run takes, not what is left of it."""
    made = plan(begun.folder, "config.yaml", begun.overlay)
    paths, outputs = dict(output_paths(made.config)), made.outputs()
    for name in ("table1", "table7", "table9", "figure2", "figure3", "figure4"):
        assert counted(outputs[name]) == stats(begun.dry_run(paths[name], "--forceall")), name
    assert "tokenize" in counted(outputs["table1"])
    assert "tokenize" not in stats(begun.dry_run(paths["table1"]))


def test_only_the_given_files_count(empty, tmp_path):
    """In a checkout a run always begins with its config.yaml; a plan begins with the first file that is
    given."""
    whole = tmp_path / "whole.yaml"
    whole.write_text(
        "{run: other, "
        "corpora: {text: {source: {files: [resources/test/*.txt]}, tokenizer: {train: {vocab_size: 300}}}}, "
        "models: {markov: {family: markov, corpus: text, order: 1}}, codecs: {counts: {kind: counts}}, "
        "tables: {table1: {rows: [{label: Markov, model: markov, codec: counts, corpus: text}]}}}"
    )
    made = plan(empty.folder, whole)
    corpus = ("documents", "tokenizer", "tokenize", "index")
    once = (*corpus, "markov", "message", "score", "bound", "table")
    assert counted(made.graph.jobs) == dict.fromkeys(once, 1)
    assert {job.wildcards["run"] for job in made.graph.jobs if job.rule != "all"} == {"other"}


def test_jobs_of_the_paper_and_what_counting_them_takes(empty, paper):
    """`snakemake -n` of the whole configuration: seconds of a core, and less than 1 GB."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--quiet", "rules"]
    with open(empty.folder / "paper.log", "w+") as log:
        process = subprocess.Popen(
            command, cwd=empty.folder, env=empty.environment, stdout=log, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        output = log.read()
    assert process.returncode == 0, output[-2000:]
    assert counted(paper.graph.jobs) == stats(output)
    # kB; 15 s on an idle machine
    assert usage.ru_utime + usage.ru_stime < 60 and usage.ru_maxrss < 1_000_000
    start = time.process_time()
    plan(empty.folder, "config.yaml")
    assert time.process_time() - start < 30  # 10 s on an idle machine


def test_a_training_of_the_paper(paper):
    """GPT-2 small: 123,653,376 parameters, 12 layers of width 768, 600,000 steps of 320 sequences of 1024
    tokens, an A100 at 30 %."""
    operations = 600_000 * 320 * 1024 * (6 * 123_653_376 + 12 * 12 * 768 * 1024)
    (job,) = (
        job
        for job in paper.outputs()["table1"]
        if job.rule == "train" and job.wildcards["model"] == "gpt2-monarch-4"
    )
    assert paper.costs.gpu_hours(job) == pytest.approx(operations / (312e12 * 0.3) / 3600 + 1 / 60)


def test_scoring_a_70b_model(paper):
    """A quarter of 10,000 contexts of 1024 tokens through 69e9 parameters in float32, on an A100 at 60 %."""
    job = next(
        job
        for job in paper.outputs()["table3"]
        if job.rule == "score" and job.wildcards["model"] == "llama2-70b-2bit"
    )
    assert paper.costs.gpu_hours(job) == pytest.approx(
        2500 * 1024 * 2 * 69e9 / (19.5e12 * 0.6) / 3600 + 1 / 60
    )


def test_frames(paper):
    frame = planning.by_output(paper.config, paper.graph, paper.costs).set_index("output")
    assert list(frame.index) == [*paper.outputs(), "all"]
    # Shared work counts once in all, so it is at most the sum and at least the largest.
    for column in frame:
        parts = frame[column].iloc[:-1]
        assert parts.max() <= frame.loc["all", column] <= parts.sum()
    rules = planning.by_rule(paper.graph, paper.costs)
    assert rules["jobs"].sum() + 1 == frame.loc["all", "jobs"]  # rule all itself
    assert math.isclose(rules["gpu_hours"].sum(), frame.loc["all", "gpu_hours"])
    # Four files of weights and the corpus; its tokens in two bytes each.
    assert frame.loc["table2", "download_gb"] == pytest.approx(24 + 0.55 + 1.52 + 3.25 + 6.43)
    assert frame.loc["table2", "results_gb"] > 18.08


def test_command(root, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no run has tokens
    files = [str(root / "config.yaml"), str(root / "profiles/quickstart/config.yaml")]
    assert main(["plan", *files]) == 0
    shown = capsys.readouterr()
    assert shown.err == "" and shown.out.splitlines()[-1].split()[0] == "all"
    assert not list(tmp_path.iterdir())  # nothing of Snakemake's is left

    def hours(*options):
        assert main(["plan", files[0], "--rules", *options]) == 0
        rows = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
        return {row[0]: float(row[3].replace(",", "")) for row in rows}

    slow, fast = hours(), hours("--teraflops", "624", "--teraflops-32", "195")
    assert fast["train"] == pytest.approx(slow["train"] / 2, rel=1e-3)  # but for the minute of each start
    assert slow["score"] / 10 < fast["score"] < slow["score"] / 5
    assert main(["plan", files[0], "--utilization", "30"]) == 1
    assert "error: --utilization 30: expected more than 0 and at most 1" in capsys.readouterr().err


def test_unknown_sizes_are_said(root, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overlay = tmp_path / "config.yaml"
    overlay.write_text("models: {gpt2-124m: {expected: null}}\n")
    assert main(["plan", str(root / "config.yaml"), str(overlay)]) == 0
    shown = capsys.readouterr()
    lines = {line.split()[0]: line.split() for line in shown.out.splitlines()}
    assert lines["table2"][3:] == ["-", "-", "-"] and "-" not in lines["table4"]
    assert shown.err == "-: sizes that the key `expected` of corpora and published models would give\n"


def test_one_line_for_what_snakemake_refuses(empty, tmp_path):
    overlay = tmp_path / "local.yaml"
    overlay.write_text(
        "{models: {local: {family: pretrained, folder: absent, corpus: text}}, "
        "tables: {local: {rows: [{label: local, model: local, codec: levels11, corpus: text}]}}}"
    )
    with pytest.raises(InputError, match=r"^Snakemake lists no jobs: .*rule pretrained.*absent/config.json$"):
        plan(empty.folder, "config.yaml", empty.overlay, overlay)
