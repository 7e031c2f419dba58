"""The code that a rule's fingerprint covers is the code that its jobs load, and light jobs load little."""

import json
import re

import pytest

from tokenbounds.config.load import load_config
from tokenbounds.io.fingerprint import LEFT_OUT, closure

NO_TORCH = ("bound", "table", "figure", "smoothing_figure", "index", "documents", "sequences")


@pytest.fixture(scope="module")
def config(finished):
    return load_config(finished.folder / "config.yaml", finished.overlay)


@pytest.fixture(scope="module")
def jobs(finished):
    """Every job of the finished run: rule, wildcards and the modules that it had loaded when it ended."""
    return [json.loads(path.read_text()) for path in finished.trace.iterdir()]


@pytest.fixture(scope="module")
def entries(root):
    """By rule, the arguments of `code(...)` in rules/*.smk."""
    rules = {}
    for path in sorted((root / "rules").glob("*.smk")):
        for name, block in re.findall(r"^rule (\w+):\n((?:(?:    .*)?\n)+)", path.read_text(), re.MULTILINE):
            if call := re.search(r"code=code\(([^)]*)\)", block):
                rules[name] = call[1]
    return rules


def covered(job, entries, config):
    """Modules that the fingerprint of a job covers."""
    rule, wildcards = job["rule"], job["wildcards"]
    if "table" in wildcards:
        table = config.every_table[wildcards["table"]]
        pairs, names = table.hypotheses(), [table.implementation]
    elif rule in ("figure", "smoothing_figure"):
        pairs, names = [], [config.figures[wildcards["figure"]].implementation]
    else:
        call = entries[rule]
        names = re.findall(r'"([\w.]+)"', call)
        pairs = [(wildcards["model"], wildcards.get("codec"))] if "hypotheses=own" in call else []
        if "hypotheses=evaluated" in call:
            pairs = config.figures[wildcards["figure"]].hypotheses()
        if "preparation=True" in call and (prepare := config.codecs[wildcards["codec"]].preparation):
            names.append(prepare)
    return closure(*names, *(name for pair in pairs for name in config.implementations(*pair)))


def decides(module):
    own = module == "tokenbounds" or module.startswith("tokenbounds.")
    return own and not any(module == room or module.startswith(f"{room}.") for room in LEFT_OUT)


def test_every_job_left_a_trace(jobs, finished):
    assert len(jobs) == len(list((finished.results / "logs").rglob("*.log")))


def test_a_fingerprint_covers_all_that_a_job_loads(jobs, entries, config):
    missed = {}
    for job in jobs:
        loaded = {module for module in job["modules"] if decides(module)}
        missed.setdefault(job["rule"], set()).update(loaded - covered(job, entries, config))
    assert not {rule: sorted(modules) for rule, modules in missed.items() if modules}


def test_light_jobs_import_no_torch(jobs):
    for job in jobs:
        heavy = job["rule"] == "table" and job["wildcards"]["table"] == "table9"  # with generated text
        if job["rule"] in NO_TORCH and not heavy:
            assert "torch" not in job["modules"], (job["rule"], job["wildcards"])
