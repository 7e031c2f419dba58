"""Damage a run in thousands of ways and check that verifying it stays safe.

Whoever verifies a certificate reads a stranger's files. Each case damages a copy of a finished run, repairs
the hashes as a forger would in half of them, and verifies a certificate of it in another process, which may
use 2 GB more than it does at rest and 30 s. What must not be:

* an exception other than an `InputError`, a check or refusal that is not one printable line;
* the process's end by a signal, no answer in time, more memory;
* an open of anything but the run, published files that it names, Python's own files and a temporary folder,
  which alone is written to; a process or connection that is started;
* all checks held although files that they rest on were changed (without repaired hashes).

``python -m tokenbounds.validation.fuzz --run results/RUN ...`` exits with status 1 if something was that must
not be; with ``--out`` it writes ``validity/fuzz.csv``. ``--first N --cases 1`` repeats case N.
"""

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from tokenbounds.errors import InputError
from tokenbounds.io.files import write_text
from tokenbounds.validation import fuzz_mutations as mutations
from tokenbounds.validation.fuzz_files import Copy, seal
from tokenbounds.validation.fuzz_worker import serve

CASES, SEED, SECONDS = 20_000, 137, 30.0
_START_SECONDS = 300
_ONE_IN = 20  # cases that are also scored and tokenized again
_CERTIFICATES = "results/run/bounds/*.json"
_MESSAGES = "results/run/messages/*.bin"
_RECORDS = "results/run/risk/*/*.parquet"
_TOKENS = ("*/train/*.bin", "*/tokens/*/roles.bin")
_JSON = (
    *("results/run/bounds/*.json", "results/run/messages/*.json", "results/run/risk/*/*.json"),
    *("*/tokens/*/documents.json", "*/tokens/*/tokenizer/*.json", "*/train/index.json", "*/train/*.json"),
    "published/*/*.json",
)
_ALL = (_CERTIFICATES, _MESSAGES, _RECORDS, *_TOKENS, *_JSON, "*/tokenizer/*", "published/*/*")
_SOURCES = ("*/tokens/*/source.*", "*/train/*.json", "*/tokens/*/documents.json", "*/tokens/*/roles.bin")

# kind: damage, files, how often of 100
KINDS = {
    "bytes": (mutations.damage_bytes, _ALL, 14),
    "bytes of a certificate": (mutations.damage_bytes, (_CERTIFICATES,), 6),
    "values of a certificate": (mutations.damage_json, (_CERTIFICATES,), 14),
    "values of other JSON": (mutations.damage_json, _JSON[1:], 14),
    "bytes of records": (mutations.damage_bytes, (_RECORDS,), 8),
    "parquet": (mutations.damage_parquet, (_RECORDS,), 9),
    "message": (mutations.damage_message, (_MESSAGES,), 10),
    "tokens": (mutations.damage_tokens, _TOKENS, 6),
    "links, pipes, folders": (mutations.damage_place, _ALL, 8),
    "sources": (mutations.damage_bytes, _SOURCES, 3),
    "safetensors": (mutations.damage_safetensors, ("published/*/*.safetensors",), 8),
}


class Worker:
    """The process that verifies, started again when it has died.

    Parameters
    ----------
    copy : Copy
    temporary : path
    """

    def __init__(self, copy, temporary):
        self._context = multiprocessing.get_context("spawn")
        self._copy, self._temporary, self._process = copy, temporary, None

    def start(self):
        """Start the process, if there is none, and wait until it is ready; the copy must be whole."""
        if self._process is not None:
            return
        self._pipe, other = self._context.Pipe()
        certificates = [self._copy.folder / name for name in self._copy.names(_CERTIFICATES)]
        arguments = (other, [self._copy.folder], self._temporary, certificates)
        self._process = self._context.Process(target=serve, args=arguments, daemon=True)
        self._process.start()
        other.close()
        answer = self._answer(_START_SECONDS)
        if "ready" not in answer:
            self.stop()
            reason = answer.get("failed") or answer["wrong"][0]
            raise InputError(f"the run does not verify as it is ({reason}); expected a finished one")

    def check(self, *task):
        """Verify one certificate; return what `serve` says, or only ``wrong`` for a process that is gone."""
        self._pipe.send(task)
        return self._answer(SECONDS)

    def _answer(self, seconds):
        """Wait for the process's answer for so many seconds of its own time, or ten times as long: another
        program may have the processor."""
        started, end = self._used(), time.monotonic() + 10 * seconds
        try:
            while time.monotonic() < end and self._used() - started < seconds:
                if self._pipe.poll(1):
                    return self._pipe.recv()
            wrong = f"no answer in {seconds:g} s"
        except (EOFError, OSError):
            self._process.join(10)
            wrong = f"ended with status {self._process.exitcode}"
        self.stop()
        return {"wrong": [wrong]}

    def _used(self):
        """Return the seconds of processor time that the process has used."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended: the pipe says so
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def same(found, expected):
    """Tell whether two JSON values say the same: equal, numbers to a relative 1e-11."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[key], expected[key]) for key in expected)
        )
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(same, found, expected))
    numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in (found, expected)]
    if all(numbers):
        return math.isclose(found, expected, rel_tol=1e-11, abs_tol=1e-11)
    return type(found) is type(expected) and found == expected


def unlike(copy, certificate):
    """List the changed files that all checks of a certificate rest on and that say something else now."""
    found = json.loads(copy.original[certificate])
    prefix = "results/run"
    corpus = f"{prefix}/tokens/{found['corpus']['name']}"
    parts = [f"{prefix}/{item['path']}" for item in found["records"]]
    whole = {f"{prefix}/{found['hypothesis']['message']['path']}", f"{corpus}/train/index.json", *parts}
    whole |= {f"{corpus}/train/ends.bin", f"{corpus}/roles.bin"}
    whole |= set(copy.names("published/*/*"))
    whole |= set(copy.names(f"{corpus}/train/?????.bin", f"{corpus}/tokenizer/tokenizer.*"))
    left_out = {  # of JSON that is compared by its content
        certificate: {"versions", "commit"},
        f"{corpus}/documents.json": {"provenance"},
        f"{corpus}/tokenizer/info.json": {"provenance"},
        **{part.removesuffix("parquet") + "json": {"seed", "config", "versions", "commit"} for part in parts},
    }
    wrong = []
    for name in copy.changed():
        if name in whole:
            wrong.append(name)
        elif name in left_out:
            now, before = copy.json(name), json.loads(copy.original[name])
            for value in (now, before) if isinstance(now, dict) else ():
                for key in left_out[name]:
                    value.pop(key, None)
                _reduce(name, value)
            if not same(now, before):
                wrong.append(name)
    return wrong


def _reduce(name, value):
    """Leave out what may differ: folders of source files, and of a sidecar's inputs."""
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        if name.endswith("documents.json"):
            for entry in value["files"]:
                entry["path"] = Path(entry["path"]).name
        if "/risk/" in name:
            value["inputs"] = {Path(key).name: digest for key, digest in value["inputs"].items()}
            # without these two, others that are listed do not count
            names = [key for key in value["inputs"] if key.endswith(".bin") or key == "index.json"]
            value["inputs"] = {key: value["inputs"][key] for key in sorted(names)}
            for key in value.keys() - {
                "sha256",
                "epsilon_nats",
                "entropy_epsilon_bits",
                "device",
                "dtype",
                "inputs",
            }:
                del value[key]


def one_case(number, seed, copy, worker):
    """Run one case; the copy is whole again afterwards.

    Returns
    -------
    dict
        ``kind``, ``sealed``, ``outcome`` (all held, failed, refused, or what must not be), ``detail``,
        ``peak``.
    """
    rng = random.Random(f"{seed}:{number}")
    certificate = rng.choice(copy.names(_CERTIFICATES))
    others = {Path(name).stem for name in copy.names(_CERTIFICATES)} - {Path(certificate).stem}
    chosen = {
        kind: [
            name for name in copy.names(*entry[1]) if not others & {Path(name).stem, Path(name).parent.name}
        ]
        for kind, entry in KINDS.items()
    }
    kinds = {kind: entry for kind, entry in KINDS.items() if chosen[kind]}
    kind = rng.choices(list(kinds), [share for *_, share in kinds.values()])[0]
    damage = kinds[kind][0]
    sealed = rng.random() < 0.5
    retokenized = int(kind == "sources" or rng.random() < 1 / _ONE_IN)
    rescored = int(rng.random() < (4 if copy.names("published/*/*") else 1) / _ONE_IN)
    worker.start()
    try:
        damage(rng, copy, chosen[kind])
        if sealed:
            seal(copy, certificate)
        before = time.monotonic()
        answer = worker.check(str(copy.folder / certificate), rescored, retokenized)
        seconds = time.monotonic() - before
        wrong = [*answer["wrong"], *(f"opened: {what}" for what in answer.get("foreign", ()))]
        held = not wrong and answer["refused"] is None and not answer["failed"]
        if held and not sealed and (changed := unlike(copy, certificate)):
            wrong.append(f"all checks held, but {', '.join(changed)} differ")
        changed = copy.changed()
    finally:
        copy.restore()
    outcome = "wrong" if wrong else "all held" if held else "refused" if answer["refused"] else "failed"
    detail = wrong or [answer.get("refused") or "; ".join(f"{a}: {b}" for a, b in answer.get("failed", []))]
    facts = {"number": number, "kind": kind, "sealed": sealed, "outcome": outcome, "seconds": seconds}
    return facts | {
        "files": changed,
        "detail": " | ".join(detail),
        "peak": answer.get("peak", 0),
        "failed": [name for name, _ in answer.get("failed", [])],
    }


def fuzz(run, cases, *, seed=SEED, first=0, report=None):
    """Run cases on copies of a run.

    Parameters
    ----------
    run : path
        Folder of a finished run whose certificates verify; it is only read. A small one: each case verifies.
    cases : int
    seed, first : int
        Of the random damages; number of the first case.
    report : callable (dict), optional
        Called with each case.

    Returns
    -------
    list of dict
        See `one_case`.
    """
    results = []
    # not below the temporary folder, which the checked process may write to
    with tempfile.TemporaryDirectory(prefix="tokenbounds-fuzz-") as folder:
        temporary = Path(folder) / "temporary"
        temporary.mkdir()
        copy = Copy(run, Path(folder) / "copy")
        worker = Worker(copy, temporary)
        worker.start()
        expected = {path.name for path in temporary.iterdir()}  # a log, and a cache of torch
        try:
            for number in tqdm(range(first, first + cases), "fuzz", unit="case", disable=None):
                result = one_case(number, seed, copy, worker)
                if left := [path.name for path in temporary.iterdir() if path.name not in expected]:
                    result |= {"outcome": "wrong", "detail": f"left behind: {left[0]}"}
                    shutil.rmtree(temporary / left[0], ignore_errors=True)
                results.append(result)
                if report is not None:
                    report(result)
        finally:
            worker.stop()
    return results


def summary(results):
    """Count the outcomes of cases by kind, with and without repaired hashes, as a table."""
    outcomes = ("all held", "failed", "refused", "wrong")
    counts: dict = {}
    for result in results:
        key = result["kind"], "repaired" if result["sealed"] else "as they are"
        counts.setdefault(key, Counter())[result["outcome"]] += 1
    rows = [
        {"damage": kind, "hashes": hashes, "cases": count.total(), **{name: count[name] for name in outcomes}}
        for (kind, hashes), count in sorted(counts.items())
    ]
    table = pd.DataFrame(rows)
    total = {"damage": "all", "hashes": "", **table[["cases", *outcomes]].sum().to_dict()}
    table.loc[len(table)] = total
    return table


def main(arguments):
    """Run the command; return the exit status."""

    def report(result):
        if result["outcome"] == "wrong" or arguments.cases <= 10:
            files = ", ".join(result["files"])
            about = f"{result['kind']}{', hashes repaired' if result['sealed'] else ''} ({files})"
            line = f"case {result['number']}: {about}: {result['outcome']}: {result['detail']}"
            print(line, file=sys.stderr, flush=True)

    started = time.monotonic()
    results, runs = [], arguments.run
    for place, run in enumerate(runs):
        start, stop = (arguments.cases * number // len(runs) for number in (place, place + 1))
        first = arguments.first + start
        results += fuzz(run, stop - start, seed=arguments.seed, first=first, report=report)
    table = summary(results)
    if arguments.out is not None:
        write_text(arguments.out / "validity" / "fuzz.csv", table.to_csv(index=False))
    peak = max(result["peak"] for result in results)
    slowest = max(result["seconds"] for result in results)
    print(table.to_string(index=False))
    print(f"{len(results):,} cases in {time.monotonic() - started:.0f} s; the slowest took {slowest:.1f} s")
    print(f"memory: at most {peak / 1e9:.2f} GB more than at rest")
    return int((table["wrong"] > 0).any())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    runs = "folders of small finished runs, results/RUN: each gets its share of the cases"
    parser.add_argument("--run", type=Path, nargs="+", required=True, help=runs)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, help="folder of validity/fuzz.csv; default: it is not written")
    try:
        sys.exit(main(parser.parse_args()))
    except InputError as error:
        sys.exit(f"error: {error}")
