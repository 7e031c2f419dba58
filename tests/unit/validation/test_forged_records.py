"""Forged records: the hypergeometric law, and a table that measures what it is given."""

import itertools

import numpy as np
import pytest
from support.runs import write_run

from tokenbounds.certificates.checks import most_faults
from tokenbounds.validation.forged_records import (
    ForgedRun,
    chance_of_passing,
    forged_records_table,
    table_text,
)


def test_the_chance_is_that_of_all_samples():
    """Counted over every sample of 3 of 8 draws, of which 2 are forged."""
    samples = list(itertools.combinations(range(8), 3))
    clean = sum(not {0, 1} & set(sample) for sample in samples)
    assert chance_of_passing(8, 2, 3) == pytest.approx(clean / len(samples))
    assert chance_of_passing(8, 2, "all") == chance_of_passing(8, 2, 100) == 0.0
    assert chance_of_passing(8, 0, "all") == 1.0


@pytest.mark.parametrize("count", [50, 500, 1000])
def test_what_a_clean_sample_excludes_passes_with_5_percent_at_most(count):
    faults = most_faults(10_000, count)
    assert chance_of_passing(10_000, faults, count) >= 0.05 > chance_of_passing(10_000, faults + 1, count)


@pytest.fixture
def verifier():
    """A verifier that looks at a random sample, as `verify --rescore` does; and what it was asked."""
    rng, asked = np.random.default_rng(3), []

    def verify_once(forged, count):
        asked.append((forged, count))
        size = 400 if count == "all" else count
        return not np.isin(rng.choice(400, size, replace=False), forged).any()

    return verify_once, asked


def test_what_is_measured_agrees_with_the_law(verifier):
    verify_once, asked = verifier
    table = forged_records_table(verify_once, (0.001, 0.01, 0.1), (20, 200, "all"), 400, draws=400)
    assert table["forged"].tolist() == [1] * 3 + [4] * 3 + [40] * 3
    assert table["trials"].eq(400).all() and len(asked) == 9 * 400
    assert all(len(set(forged.tolist())) == forged.size for forged, _ in asked)
    assert len({forged.tobytes() for forged, _ in asked[:400]}) > 100  # another draw is forged each time
    deviation = np.sqrt(table["chance"] * (1 - table["chance"]) / 400)
    assert ((table["rate"] - table["chance"]).abs() <= 4 * deviation).all()
    assert (table["rate_low"] <= table["rate"]).all() and (table["rate"] <= table["rate_high"]).all()
    assert table.loc[table["count"] == "all", "passed"].eq(0).all()


def test_a_verifier_that_sees_nothing_is_seen_to(verifier):
    blind = forged_records_table(lambda forged, count: True, (0.1,), (200,), {200: 20}, draws=400)
    assert blind["rate"].tolist() == [1.0] and blind["chance"].max() < 1e-9 < blind["rate_low"].min()


def test_only_draws_worth_it_are_forged(verifier):
    verify_once, asked = verifier
    worth = np.array([3, 5, 8, 13])
    forged_records_table(verify_once, (0.005,), (1,), 30, draws=400, candidates=worth)
    assert all(forged.size == 2 and np.isin(forged, worth).all() for forged, _ in asked)


def test_the_table_as_text(verifier):
    verify_once, _ = verifier
    text = table_text(forged_records_table(verify_once, (0.1,), (20, "all"), 10, draws=400))
    lines = text.splitlines()
    assert lines[0].startswith("| forged records | verified with | chance to pass |") and len(lines) == 4
    assert lines[2].startswith("| 10% (40 of 400) | `--rescore 20` | 0.11")
    assert lines[3].startswith("| 10% (40 of 400) | `--rescore all` | 0.000 | 0.000 (0.000 to 0.308)")


def test_only_scoring_again_finds_a_forged_record(tmp_path):
    """The files around it agree with one another; once the record is as scored, all checks hold again."""
    forged = ForgedRun(write_run(tmp_path / "run"), "gpt.levels.text.token")
    assert forged.draws == 40 and forged.verify_once(np.array([7]), 0)
    assert not forged.verify_once(np.array([7]), "all")
    assert forged.verify_once(np.array([], dtype=int), "all")
