"""Check by simulation the claims of docs/theory.md: bounds that must hold, and others that must fail.

Every bound is computed by the functions that the pipeline uses, on processes whose true mean is known. Writes
coverage.csv and .png, attempts.csv and .png, and projection.csv to ``validity/`` and fills the generated
parts of ``validity.md``. Run by ``make coverage``; exits with status 1 if a verdict is not the expected one.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binom
from tqdm import tqdm

from tokenbounds.bounds import clopper_pearson_upper
from tokenbounds.io.files import write_text
from tokenbounds.randomness import generator
from tokenbounds.validation.coverage_common import DELTA, SEED
from tokenbounds.validation.coverage_curves import COLUMNS, draw_curves
from tokenbounds.validation.coverage_draws import refusals
from tokenbounds.validation.coverage_report import coverage_text, draw, fill, projection_text
from tokenbounds.validation.coverage_scenarios import SCENARIOS
from tokenbounds.validation.projection import POINTS, SHAPES, project

CHUNK, WORKERS = 250, 2
SIGNIFICANCE = 1e-3


def count(number, trials, chunk):
    """Count the violations of one chunk of one scenario.

    A chunk's random stream depends on its place alone.

    Returns
    -------
    number : int
    violations : dict of str to numpy.ndarray, (choices,)
    """
    scenario = SCENARIOS[number]
    failed = scenario.run(generator(SEED, "coverage", scenario.process, chunk), trials)
    return number, {method: np.atleast_1d(fails.sum(axis=0)) for method, fails in failed.items()}


def verdicts(counts, trials):
    """Judge every bound: a row per scenario and method.

    Of several choices the one with the most violations counts, of several values along which a scenario goes
    the last. Bounds that hold may exceed delta as far as a fair binomial does once in a thousand; bounds that
    must fail must exceed it further.
    """
    allowed = int(binom.ppf(1 - SIGNIFICANCE, trials, DELTA))
    rows = []
    for scenario, methods in zip(SCENARIOS, counts, strict=True):
        expectations = dict.fromkeys(scenario.breaks, "fails") | dict.fromkeys(scenario.reported, "no claim")
        for method, by_choice in methods.items():
            violations = int(by_choice[-1] if scenario.along else by_choice.max())
            expected = expectations.get(method, "holds")
            verdict = "holds" if violations <= allowed else "fails"
            rows.append(
                {
                    "section": scenario.section,
                    "process": scenario.process,
                    "method": method,
                    "trials": trials,
                    **rates(violations, trials),
                    "allowed": allowed,
                    "expected": expected,
                    "verdict": verdict,
                    "as_expected": expected in ("no claim", verdict),
                }
            )
    return pd.DataFrame(rows)


def rates(violations, trials):
    """Compute the rate of violations with its exact 99.9% interval: columns of a table."""
    holding = clopper_pearson_upper(trials - violations, trials, SIGNIFICANCE / 2)
    return {
        "violations": violations,
        "rate": violations / trials,
        "rate_low": 1 - holding,
        "rate_high": clopper_pearson_upper(violations, trials, SIGNIFICANCE / 2),
    }


def curves(counts, trials):
    """List the rates of the scenarios that go along something: a row per scenario, method and value."""
    rows = [
        {"section": scenario.section, "process": scenario.process, "method": method, "along": scenario.along}
        | {"value": value, "trials": trials, **rates(int(violations), trials)}
        for scenario, methods in zip(SCENARIOS, counts, strict=True)
        for method, by_value in methods.items()
        for value, violations in zip(scenario.values, by_value, strict=bool(scenario.along))
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def main(trials, out):
    """Run everything; returns the exit status."""
    starts, numbers = range(0, trials, CHUNK), range(len(SCENARIOS))
    chunks = [(number, min(CHUNK, trials - first), first) for first in starts for number in numbers]
    repeats = max(1, trials // 2500)
    shapes = SHAPES if repeats > 1 else SHAPES[:2]
    counts = [{} for _ in SCENARIOS]
    with ProcessPoolExecutor(WORKERS) as pool:
        projected = [pool.submit(project, point, *shape, repeats) for point in POINTS for shape in shapes]
        counted = [pool.submit(count, *chunk) for chunk in chunks]
        jobs = projected + counted
        for job in tqdm(as_completed(jobs), total=len(jobs), desc="coverage", unit="job", disable=None):
            job.result()  # the first failure ends the run
    for job in counted:
        number, by_method = job.result()
        for method, violations in by_method.items():
            counts[number][method] = counts[number].get(method, 0) + violations
    table, projection = verdicts(counts, trials), pd.DataFrame([job.result() for job in projected])
    along = curves(counts, trials)
    blocks = {"coverage": coverage_text(table, along, refusals()), "projection": projection_text(projection)}
    text = fill((out / "validity.md").read_text(encoding="utf-8"), **blocks)
    frames = {"coverage": table.drop(columns="as_expected"), "attempts": along, "projection": projection}
    for name, frame in frames.items():
        write_text(out / "validity" / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))
    draw(table[~table["process"].isin(along["process"])], out / "validity" / "coverage.png")
    draw_curves(along, out / "validity" / "attempts.png")
    write_text(out / "validity.md", text)
    wrong = table[~table["as_expected"]]
    for row in wrong.itertuples():
        expected = f"expected: {row.expected} ({row.violations} violations)"
        print(f"{row.process}: {row.method} {row.verdict}, {expected}", file=sys.stderr)
    return int(len(wrong) > 0)


if __name__ == "__main__":
    docs = Path(__file__).resolve().parents[2] / "docs"
    trials_help = "simulated corpora per row; below 1000 a failure may not show"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=20_000, help=trials_help)
    parser.add_argument("--out", type=Path, default=docs, help="folder of validity.md")
    arguments = parser.parse_args()
    sys.exit(main(arguments.trials, arguments.out))
