"""The scripts of the rules: importable, short, and all of them tested."""

import importlib
import re

import pytest

SCRIPTS = [
    "alpha_head",
    "bound",
    "compress",
    "documents",
    "download",
    "families",
    "index",
    "markov",
    "memorization",
    "message",
    "pretrained",
    "report",
    "resample",
    "sanity_check",
    "score",
    "score_resampled",
    "sequences",
    "tokenize_shard",
    "tokenizer",
    "train",
]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_importable_and_short(name, root):
    """Importing one runs nothing: only a script that Snakemake starts has a `snakemake`."""
    script = importlib.import_module(name)
    assert callable(script.main) and script.__doc__ and script.main.__doc__
    assert len((root / f"workflow_scripts/{name}.py").read_text().splitlines()) <= 25


def test_every_script_of_a_rule_is_tested(root):
    named = {
        name
        for path in (root / "rules").glob("*.smk")
        for name in re.findall(r"workflow_scripts/(\w+)\.py", path.read_text())
    }
    assert named - {"common"} == set(SCRIPTS)


def test_every_script_belongs_to_a_rule(root):
    files = {path.stem for path in (root / "workflow_scripts").glob("*.py")}
    assert files - {"common", "launch"} == set(SCRIPTS)
