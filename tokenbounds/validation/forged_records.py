"""Measure how often forged records pass `verify --rescore N`, beside what the hypergeometric law says.

A forger halves the recorded loss of some draws and computes hashes and certificate anew, so that only scoring
again can tell. Run on a copy of a finished run's certificate by ``python -m
tokenbounds.validation.forged_records``; writes docs/validity/forged_records.csv and the table in
docs/validity.md.
"""

import argparse
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy.stats import hypergeom
from tqdm import tqdm

from tokenbounds.bounds import clopper_pearson_upper
from tokenbounds.certificates.files import read_certificate, write_certificate
from tokenbounds.certificates.make import make_certificate
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.io.files import read_json, sha256_file, write_json, write_text
from tokenbounds.randomness import generator
from tokenbounds.scoring.records import write_records
from tokenbounds.validation.coverage_common import SEED
from tokenbounds.validation.coverage_report import fill, markdown

SHARES, COUNTS = (0.001, 0.01, 0.05), (50, 1000, "all")
TRIALS = {50: 200, 1000: 100, "all": 20}  # the more items, the longer each takes
INTERVAL = 0.05  # of the measured share: 95%, both sides
LEAST_BITS = 0.01  # of forgery: a draw whose loss is smaller is not worth it


def chance_of_passing(draws, forged, count):
    """Compute the chance that none of `forged` among `draws` draws is among `count` scored again.

    Parameters
    ----------
    draws, forged : int
    count : int or "all"
        Drawn without replacement; "all" or more than `draws`: every draw.

    Returns
    -------
    float

    Examples
    --------
    >>> round(chance_of_passing(10_000, 100, 50), 3), chance_of_passing(10_000, 1, "all")
    (0.604, 0.0)
    """
    count = draws if count == "all" else min(count, draws)
    return float(hypergeom.pmf(0, draws, forged, count))


def forged_records_table(verify_once, shares, counts, trials, draws, candidates=None, seed=SEED):
    """Measure how often a verification passes although a share of the records is forged.

    Parameters
    ----------
    verify_once : callable
        ``verify_once(forged, count)``: forges the records of the draws `forged`, (k,) of int, and tells
        whether all checks hold with `count` draws scored again. The verifier's sample is its own.
    shares : sequence of float
        Forged share of the draws; at least one draw is forged.
    counts : sequence of int or "all"
    trials : int or dict
        Verifications for each row, the same for all or by count.
    draws : int
        n.
    candidates : numpy.ndarray of int, optional
        Draws that are worth forging; all by default.
    seed : int

    Returns
    -------
    DataFrame
        A row for each share and count: ``share``, ``forged``, ``draws``, ``count``, ``chance``, ``trials``,
        ``passed``, ``rate`` with its exact 95% interval ``rate_low``, ``rate_high``.
    """
    candidates, rows = np.arange(draws) if candidates is None else candidates, []
    jobs = [(share, count) for share in shares for count in counts]
    for share, count in tqdm(jobs, desc="forged records", unit="row", disable=None):
        forged, repeats = max(1, round(share * draws)), trials[count] if isinstance(trials, dict) else trials
        rng = generator(seed, "forged records", share, count)
        passed = sum(
            bool(verify_once(np.sort(rng.choice(candidates, forged, replace=False)), count))
            for _ in range(repeats)
        )
        low = 1 - clopper_pearson_upper(repeats - passed, repeats, INTERVAL / 2)
        high = clopper_pearson_upper(passed, repeats, INTERVAL / 2)
        row = {"share": share, "forged": forged, "draws": draws, "count": count}
        row |= {"chance": chance_of_passing(draws, forged, count), "trials": repeats, "passed": passed}
        rows.append(row | {"rate": passed / repeats, "rate_low": low, "rate_high": high})
    return pd.DataFrame(rows)


class ForgedRun:
    """A run's folder whose records are forged again and again; its files are overwritten.

    Attributes
    ----------
    draws : int
        n.
    candidates : numpy.ndarray of int
        Draws whose loss is large enough to be worth forging.
    """

    def __init__(self, run, name):
        self.run, self.name, self.path = Path(run), name, Path(run) / "bounds" / f"{name}.json"
        self.certificate = read_certificate(self.path)
        self.parts = [self.run / entry["path"] for entry in self.certificate["records"]]
        self.tables = [pq.read_table(part) for part in self.parts]
        self.draws = self.certificate["n"]
        owner = np.concatenate([table["draw"].to_numpy() for table in self.tables])
        log2_q = np.concatenate([table["log2_q"].to_numpy() for table in self.tables])
        self.candidates = np.setdiff1d(np.arange(self.draws), owner[log2_q > -LEAST_BITS])

    def forge(self, forged):
        """Halve the losses of the draws `forged`, and compute hashes and certificate anew."""
        for path, table in zip(self.parts, self.tables, strict=True):
            log2_q = table["log2_q"].to_numpy().copy()
            log2_q[np.isin(table["draw"].to_numpy(), forged)] /= 2
            column = table.schema.get_field_index("log2_q")
            write_records(path, table.set_column(column, table.schema.field(column), [log2_q]))
            sidecar = path.with_suffix(".json")
            write_json(sidecar, read_json(sidecar) | {"sha256": sha256_file(path)})
        stated = {key: self.certificate[key] for key in ("delta", "settings", "choices_bits")}
        sampling = self.certificate["sampling"]
        names = ("mode", "context_length", "window", "beacon")
        scheme = {key: sampling[key] for key in names if key in sampling} | {"n": self.draws}
        again = make_certificate(self.run, self.name, **stated, parts=len(self.parts), scheme=scheme)
        write_certificate(self.path, again)

    def verify_once(self, forged, count):
        """Forge, verify, and tell whether every check holds."""
        self.forge(forged)
        return all(check.held for check in verify_certificate(self.path, rescored=count))


def table_text(table):
    """Format the table for validity.md."""
    lines = []
    for row in table.itertuples():
        chance = f"{row.chance:.3f}" if row.chance in (0, 1) or row.chance >= 5e-4 else f"{row.chance:.0e}"
        measured = f"{row.rate:.3f} ({row.rate_low:.3f} to {row.rate_high:.3f})"
        forged = f"{100 * row.share:g}% ({row.forged:,} of {row.draws:,})"
        scored = f"`--rescore {row.count}`"
        lines.append([forged, scored, chance, measured, f"{row.passed:,} of {row.trials:,}"])
    return markdown(["forged records", "verified with", "chance to pass", "measured (95%)", "passed"], lines)


def main(arguments=None):
    """Measure on a copy of a run, and write csv and table."""
    docs = Path(__file__).resolve().parents[2] / "docs"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument(
        "--certificate", required=True, help="name of its certificate: model.codec.corpus.scheme"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="trials, relative to those of the docs")
    parser.add_argument("--out", type=Path, default=docs, help="folder of validity.md")
    options = parser.parse_args(arguments)
    trials = {count: max(1, math.ceil(options.scale * number)) for count, number in TRIALS.items()}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / options.run.name
        shutil.copytree(options.run, copy)
        forged = ForgedRun(copy, options.certificate)
        if not all(check.held for check in verify_certificate(forged.path)):
            raise SystemExit(f"{options.certificate}: does not verify before anything is forged")
        arguments = forged.verify_once, SHARES, COUNTS, trials, forged.draws, forged.candidates
        table = forged_records_table(*arguments)
    write_text(
        options.out / "validity" / "forged_records.csv", table.to_csv(index=False, float_format="%.6g")
    )
    page = options.out / "validity.md"
    write_text(page, fill(page.read_text(encoding="utf-8"), **{"forged records": table_text(table)}))


if __name__ == "__main__":
    main()
