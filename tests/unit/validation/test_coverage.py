"""The coverage experiment: it runs, its verdicts can fail, and docs/ holds the results of these scenarios."""

import shutil
import subprocess
import sys

import pandas as pd
import pytest

from tokenbounds.errors import InputError
from tokenbounds.validation import coverage
from tokenbounds.validation.coverage_common import RMS
from tokenbounds.validation.coverage_scenarios import Scenario

TRIALS = 400  # the least at which, with this seed, every bound that must fail is seen to


@pytest.fixture(scope="module")
def quick(root, tmp_path_factory):
    """Folder with the outputs of a quick run."""
    out = tmp_path_factory.mktemp("docs")
    shutil.copy(root / "docs" / "validity.md", out)
    command = [
        sys.executable,
        "-m",
        "tokenbounds.validation.coverage",
        "--trials",
        str(TRIALS),
        "--out",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_quick_run_gives_the_expected_verdicts(quick):
    table = pd.read_csv(quick / "validity" / "coverage.csv")
    assert (table["trials"] == TRIALS).all()
    claimed = table[table["expected"] != "no claim"]
    assert (claimed["verdict"] == claimed["expected"]).all()
    assert table["rate_low"].le(table["rate"]).all() and table["rate"].le(table["rate_high"]).all()
    formula = table[table["method"] == RMS]
    assert set(formula.loc[formula["expected"] == "fails", "process"].str.split(",").str[0]) == {
        "stopped α",
        "α decided by the context",
    }


def test_quick_run_follows_the_attempts_and_the_largest_m(quick, root):
    """The last value is what is judged, and docs/ holds the same rows."""
    now, committed, table = (
        pd.read_csv(folder / "validity" / name)
        for folder, name in (
            (quick, "attempts.csv"),
            (root / "docs", "attempts.csv"),
            (quick, "coverage.csv"),
        )
    )
    columns = ["section", "process", "method", "along", "value"]
    assert committed[columns].equals(now[columns])
    assert (committed["trials"] == 20_000).all() and now["rate_low"].le(now["rate_high"]).all()
    last = now.groupby(["process", "method"])["violations"].last()
    judged = table.set_index(["process", "method"])["violations"]
    assert len(last) == 24 and last.eq(judged.loc[last.index]).all()
    for name in ("coverage.png", "attempts.png"):
        assert (quick / "validity" / name).read_bytes().startswith(b"\x89PNG")


def test_quick_run_fills_the_page(quick, root):
    page, committed = (
        (folder / "validity.md").read_text(encoding="utf-8") for folder in (quick, root / "docs")
    )
    assert f"{TRIALS} trials per row" in page and "are refused: `losses is nan" in page
    assert coverage.fill(page, coverage="", projection="") == coverage.fill(
        committed, coverage="", projection=""
    )
    assert "| k 1 | k 2 | k 5 | k 10 | k 20 | k 50 | interval of the last |" in page
    projection = pd.read_csv(quick / "validity" / "projection.csv")
    assert (abs(projection["azuma"] - projection["paper"]) < 0.01).all()
    assert (projection["betting"] < projection["theorem_a"]).all() and (
        projection["theorem_a"] < projection["azuma_certified"]
    ).all()


def test_results_in_docs_are_those_of_the_scenarios(quick, root):
    now, committed = (pd.read_csv(folder / "validity" / "coverage.csv") for folder in (quick, root / "docs"))
    columns = ["section", "process", "method", "expected"]
    assert committed[columns].equals(now[columns])
    assert (committed["trials"] == 20_000).all()
    assert (committed["verdict"] == committed["expected"])[committed["expected"] != "no claim"].all()


def test_a_verdict_that_is_not_expected_ends_with_status_1(tmp_path, monkeypatch, root, capsys):
    """The same methods with what is expected of them exchanged."""

    def run(rng, trials):
        return {"always": rng.random(trials) < 2, "never": rng.random(trials) < 0}

    shutil.copy(root / "docs" / "validity.md", tmp_path)
    monkeypatch.setattr(coverage, "POINTS", dict(list(coverage.POINTS.items())[:1]))
    monkeypatch.setattr(coverage, "ProcessPoolExecutor", _Here)
    for breaks, status in ((("always",), 0), (("never",), 1)):
        monkeypatch.setattr(coverage, "SCENARIOS", [Scenario("section", "process", run, breaks=breaks)])
        assert coverage.main(100, tmp_path) == status
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "process: always fails, expected: holds (100 violations)",
        "process: never holds, expected: fails (0 violations)",
    ]


class _Here:
    """Stands for a pool: what is patched in this process is not patched in others."""

    def __init__(self, workers):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *arguments):
        from concurrent.futures import Future

        job = Future()
        job.set_result(function(*arguments))
        return job


def test_violations_are_summed_over_trials_and_the_worst_choice_counts(monkeypatch):
    counts = [{"one": pd.Series([56]).to_numpy(), "several": pd.Series([10, 74, 0]).to_numpy()}]
    monkeypatch.setattr(coverage, "SCENARIOS", [Scenario("section", "process", None)])
    table = coverage.verdicts(counts, 1000).set_index("method")
    assert table["violations"].to_dict() == {"one": 56, "several": 74}
    assert table["allowed"].iloc[0] == 73 and table["verdict"].to_dict() == {
        "one": "holds",
        "several": "fails",
    }


def test_where_a_scenario_goes_along_a_number_the_last_counts(monkeypatch):
    counts = [{"falls": pd.Series([300, 56]).to_numpy(), "rises": pd.Series([56, 300]).to_numpy()}]
    scenario = Scenario("section", "process", None, breaks=("rises",), along="k", values=(1, 50))
    monkeypatch.setattr(coverage, "SCENARIOS", [scenario])
    table = coverage.verdicts(counts, 1000).set_index("method")
    assert table["violations"].to_dict() == {"falls": 56, "rises": 300} and table["as_expected"].all()
    curves = coverage.curves(counts, 1000)
    assert curves["violations"].tolist() == [300, 56, 56, 300] and curves["value"].tolist() == [1, 50, 1, 50]
    assert (curves["along"] == "k").all()


def test_a_page_without_its_marks_is_refused():
    assert (
        coverage.fill("a <!-- x -->old<!-- end of x --> b", x="new")
        == "a <!-- x -->\nnew\n<!-- end of x --> b"
    )
    with pytest.raises(InputError, match="expected both marks"):
        coverage.fill("a <!-- x --> b", x="new")
