"""The curves of bounds against complexity: their order, and that docs/ holds what the program draws."""

import math

import numpy as np
import pandas as pd
import pytest

from tokenbounds.validation import projection
from tokenbounds.validation.projection import ALL_TOKENS, CURVES, KAPPAS, N_PAPER, curves, draw_curves, main


@pytest.fixture(scope="module")
def committed(root):
    return pd.read_csv(root / "docs" / "validity" / "kappa.csv")


def test_the_curves_in_docs_are_those_of_the_program(committed):
    kappa = KAPPAS[len(KAPPAS) // 2]
    now = curves(repeats=8, kappas=[kappa])
    then = committed[np.isclose(committed["kappa"], kappa, rtol=1e-4)]
    assert np.allclose(now[list(CURVES)], then[list(CURVES)], rtol=1e-5) and len(then) == 2
    assert np.allclose(sorted(set(committed["kappa"])), KAPPAS, rtol=1e-5)
    assert set(committed["n"]) == {N_PAPER, math.inf} and ALL_TOKENS == 60_000


def test_betting_is_lowest_and_everything_rises_with_complexity(committed):
    """With n = 10,000 at the smallest kappa freedman and betting differ by the noise of their choices."""
    for n, rows in committed.groupby("n"):
        slack = 0 if n == math.inf else 0.005
        assert (rows["betting"] < rows["freedman"] + slack).all()
        assert (rows["betting"] < rows["azuma"] - 0.3).all()
        assert (np.diff(rows[list(CURVES)], axis=0) >= 0).all()
    gaps = committed.eval("freedman - betting")[committed["n"] == math.inf]
    assert gaps.iloc[0] < 0.001 and gaps.max() > 1


def test_the_draws_cost_something(committed):
    by_n = {n: rows.reset_index(drop=True) for n, rows in committed.groupby("n")}
    difference = by_n[N_PAPER][list(CURVES)] - by_n[math.inf][list(CURVES)]
    assert (difference > -1e-9).all(axis=None) and (difference.iloc[:-2] > 0.05).all(axis=None)


def test_files(committed, tmp_path, monkeypatch):
    monkeypatch.setattr(projection, "curves", lambda repeats: committed)
    main(tmp_path)
    assert pd.read_csv(tmp_path / "kappa.csv").equals(committed)
    first = (tmp_path / "kappa.png").read_bytes()
    draw_curves(committed, tmp_path / "again.png")
    assert first.startswith(b"\x89PNG") and first == (tmp_path / "again.png").read_bytes()
