"""Certificates: verification passes on what was computed, and names whatever was changed afterwards."""

import copy
import json
import math
import random
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.runs import CHOICES, PARTS, SCHEMES, SETTINGS, certificate_path, write_run

from tokenbounds.bounds.methods import METHODS
from tokenbounds.certificates.describe import describe_certificate
from tokenbounds.certificates.evaluate import metrics
from tokenbounds.certificates.files import read_certificate, write_certificate
from tokenbounds.certificates.make import make_certificate, records_of
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.codecs.decode import read_message
from tokenbounds.codecs.frame import encode
from tokenbounds.corpus.sampling import read_positions
from tokenbounds.corpus.store import CorpusIndex
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, sha256_file, write_json
from tokenbounds.models.registry import layout_of
from tokenbounds.scoring.records import SCHEMA


@pytest.fixture(scope="session")
def untouched(tmp_path_factory):
    torch.set_num_threads(1)
    return write_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def run(untouched, tmp_path):
    """A copy to damage."""
    shutil.copytree(untouched, tmp_path / "run")
    return tmp_path / "run"


def failures(run, sampling="token", rescore=0):
    """Names and details of the checks that did not hold."""
    return {
        check.name: check.detail
        for check in verify_certificate(certificate_path(run, sampling), rescore)
        if not check.held
    }


def forge(run, changes, sampling="token", recompute=True):
    """Change fields of a certificate, e.g. {"hypothesis.message_bits": 8}, and compute its bounds anew."""
    path = certificate_path(run, sampling)
    found = read_json(path)
    for key, value in changes.items():
        *parents, last = key.split(".")
        place = found
        for parent in parents:
            place = place[parent]
        place[last] = value
    if recompute:
        message_bits = found["hypothesis"]["message_bits"]
        paths = [run / item["path"] for item in found["records"]]
        index = CorpusIndex((run / found["corpus"]["index"]["path"]).parent)
        draws = read_positions(run / found["sampling"]["draws"]["path"])
        message = read_message(run / found["hypothesis"]["message"]["path"])
        records = records_of(paths, draws, message, found["sampling"]["name"], index)
        facts = {
            key: found[key]
            for key in ("delta", "m", "n", "vocab_size", "choices_bits", "epsilon_nats", "settings")
        }
        found["metrics"] = metrics(records, message_bits, **facts)
        found["config"] = {
            "delta": found["delta"],
            "bounds": found["settings"],
            "choices_bits": found["choices_bits"],
        }
    write_json(path, found)


def flip(path, where=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("sampling", SCHEMES)
def test_verifies(untouched, sampling):
    checks = list(verify_certificate(certificate_path(untouched, sampling), rescore=10))
    assert [check.name for check in checks if not check.held] == []
    names = ["message file", "index file", "draws file", "records file 0", "records file 1"]
    assert [check.name for check in checks] == [
        *names,
        "corpus",
        "message",
        "choices",
        "draws",
        "bounds",
        "rescore",
    ]
    details = {check.name: check.detail for check in checks}
    assert "10 items scored again" in details["rescore"]
    assert details["bounds"].startswith(f"{4 + 2 * 3} bounds recomputed")


def test_verifies_where_it_was_moved(untouched, tmp_path, monkeypatch):
    """The paths in it are relative to the run."""
    shutil.copytree(untouched, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert not failures(tmp_path / "elsewhere")


@pytest.mark.parametrize("sampling", SCHEMES)
def test_says_what_the_files_say(untouched, sampling):
    found = read_certificate(certificate_path(untouched, sampling))
    message = untouched / "messages/gpt.levels.bin"
    index = read_json(untouched / "tokens/text/train/index.json")
    window = SCHEMES[sampling].window
    assert (
        found["hypothesis"]["message_bits"]
        == 8 * message.stat().st_size
        == 8 * found["hypothesis"]["message_bytes"]
    )
    assert found["hypothesis"]["message"] == {
        "path": "messages/gpt.levels.bin",
        "sha256": sha256_file(message),
    }
    assert found["m"] == (index["m_tokens"] if window is None else index["m_tokens"] // window * window)
    assert (found["n"], found["delta"], found["choices_bits"]) == (SCHEMES[sampling].n, 0.05, CHOICES)
    for metric in found["metrics"].values():
        for bound in metric["bounds"].values():
            assert bound["value"] >= bound["empirical_risk"]
            assert bound["complexity_terms_bits"]["sampling scheme"] == 1.0
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("sampling", SCHEMES)
def test_more_terms_larger_bounds(untouched, sampling):
    """Nothing in a certificate comes for free: more delta is the only thing that may make it smaller."""
    name = f"gpt.levels.text.{sampling}"
    found, dearer, surer = (
        make_certificate(
            untouched,
            name,
            delta=delta,
            settings=SETTINGS,
            choices_bits={"sampling scheme": bits},
            parts=PARTS,
        )
        for delta, bits in ((0.05, 1.0), (0.05, 50.0), (0.005, 1.0))
    )
    for other in (dearer, surer):
        for metric, entry in found["metrics"].items():
            for method, bound in entry["bounds"].items():
                again = other["metrics"][metric]["bounds"][method]
                assert again["value"] > bound["value"] or (again["capped"] and bound["capped"]), (
                    metric,
                    method,
                )


# ---------------------------------------------------------------- changed files


@pytest.mark.parametrize(
    ("name", "found_by", "named"),
    [
        ("messages/gpt.levels.bin", {"message file", "message"}, "messages/gpt.levels.bin"),
        ("tokens/text/train/index.json", {"index file"}, "index.json"),
        ("tokens/text/train/ends.bin", {"corpus", "draws"}, "ends.bin"),
        ("tokens/text/train/00001.bin", {"corpus"}, "00001.bin"),
        ("positions/text.token.parquet", {"draws file", "draws"}, "text.token.parquet"),
        ("positions/text.token.json", {"draws"}, "text.token"),
        ("risk/gpt.levels.text.token/00001.parquet", {"records file 1", "bounds"}, "00001.parquet"),
    ],
)
@pytest.mark.parametrize("where", [0.1, 0.5, 0.95])
def test_a_changed_byte(run, name, found_by, named, where):
    path = run / name
    if name == "positions/text.token.json":
        path.write_text(path.read_text().replace('"sha256": "', '"sha256": "0', 1))
    else:
        flip(path, where)
    found = failures(run, rescore=3)
    assert found_by <= found.keys()
    assert all(named in found[check] for check in found_by)


@pytest.mark.parametrize("name", ["tokens/text/train/00000.bin", "tokens/text/train/00002.bin"])
def test_a_changed_byte_in_any_shard(run, name):
    flip(run / name)
    assert name.rpartition("/")[2] in failures(run)["corpus"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("epsilon_nats", 0.001), ("seed", 138), ("device", "cuda"), ("sha256", "0" * 64)],
)
def test_a_changed_sidecar_of_the_records(run, key, value):
    path = run / "risk/gpt.levels.text.token/00000.json"
    for number in range(PARTS):  # the largest epsilon of the parts counts
        other = path.with_name(f"{number:05d}.json")
        write_json(other, read_json(other) | {key: value})
    if key == "epsilon_nats":
        assert read_certificate(certificate_path(run, "token"))["epsilon_nats"] > 0
    assert "bounds" in failures(run)


@pytest.mark.parametrize(
    "name",
    [
        "messages/gpt.levels.bin",
        "tokens/text/train/index.json",
        "tokens/text/train/ends.bin",
        "tokens/text/train/00002.bin",
        "positions/text.token.parquet",
        "positions/text.token.json",
        "risk/gpt.levels.text.token/00000.parquet",
        "risk/gpt.levels.text.token/00000.json",
    ],
)
@pytest.mark.parametrize("how", ["missing", "empty", "truncated"])
def test_a_missing_or_torn_file(run, name, how):
    path = run / name
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if how == "empty" else data[: len(data) // 2])
    found = failures(run, rescore=3)
    assert any(path.name in detail for detail in found.values()), found


def test_records_of_another_message_are_refused(run):
    """A message of fewer bytes than the scored one, with a certificate made anew: its bounds are too small."""
    path = run / "messages/gpt.levels.bin"
    message = read_message(path)
    coarse = encode(
        message.tensors,
        message.config,
        codec={"kind": "levels", "levels": 2},
        layout=lambda c: layout_of(c["hypothesis"]),
    )
    assert len(coarse) < path.stat().st_size
    path.write_bytes(coarse)
    with pytest.raises(
        InputError,
        match=r"00000\.parquet: computed from another gpt\.levels\.bin \(sha256 \w+\.\.\.\), "
        r"expected the present",
    ):
        make_certificate(
            run, "gpt.levels.text.token", delta=0.05, settings=SETTINGS, choices_bits=CHOICES, parts=PARTS
        )


def test_records_of_another_message_are_found_by_rescoring(run):
    """The same, with sidecars and hashes forged as well: then only the model itself can tell."""
    path = run / "messages/gpt.levels.bin"
    message = read_message(path)
    coarse = encode(
        message.tensors,
        message.config,
        codec={"kind": "levels", "levels": 2},
        layout=lambda c: layout_of(c["hypothesis"]),
    )
    path.write_bytes(coarse)
    for number in range(PARTS):
        sidecar = run / f"risk/gpt.levels.text.token/{number:05d}.json"
        content = read_json(sidecar)
        content["inputs"] = {
            name: sha256_file(path) if name.endswith(".bin") else digest
            for name, digest in content["inputs"].items()
        }
        write_json(sidecar, content)
    forged = make_certificate(
        run, "gpt.levels.text.token", delta=0.05, settings=SETTINGS, choices_bits=CHOICES, parts=PARTS
    )
    write_certificate(certificate_path(run, "token"), forged)
    assert failures(run) == {}
    assert set(failures(run, rescore=5)) == {"rescore"}


@pytest.mark.parametrize("sampling", ["token", "windows"])
@pytest.mark.parametrize("column", ["rank", "entropy_bits", "log2_q", "context_length", "document"])
def test_forged_records_are_found_by_rescoring(run, column, sampling):
    """Records, sidecars and certificate all made anew from a false column: only scoring again can tell."""
    for part in range(PARTS):
        path = run / f"risk/gpt.levels.text.{sampling}/{part:05d}.parquet"
        frame = pd.read_parquet(path)
        forged = {
            "rank": 0,
            "entropy_bits": frame["entropy_bits"] / 2,
            "log2_q": frame["log2_q"] / 2,
            "context_length": 1,
            "document": 0,
        }
        frame[column] = np.broadcast_to(forged[column], len(frame)).astype(frame[column].dtype)
        pq.write_table(pa.Table.from_pandas(frame, schema=SCHEMA, preserve_index=False), path)
        sidecar = read_json(path.with_suffix(".json"))
        write_json(path.with_suffix(".json"), sidecar | {"sha256": sha256_file(path)})
    name = f"gpt.levels.text.{sampling}"
    made = make_certificate(run, name, delta=0.05, settings=SETTINGS, choices_bits=CHOICES, parts=PARTS)
    write_certificate(certificate_path(run, sampling), made)
    assert failures(run, sampling) == {}
    found = failures(run, sampling, rescore=1000)
    assert found.keys() == {"rescore"}
    if column != "log2_q":
        assert f"not as recorded: {column} of draw" in found["rescore"]


@pytest.mark.parametrize(("epsilon", "shown"), [(1.0, "1"), (-1.0, "-1"), (math.nan, "nan")])
def test_epsilon_that_no_scoring_run_has(run, epsilon, shown):
    path = run / "risk/gpt.levels.text.token/00001.json"
    path.write_text(json.dumps(read_json(path) | {"epsilon_nats": epsilon}))
    with pytest.raises(
        InputError,
        match=rf"00001\.parquet: scores differ by {shown} nats between batch shapes; expected at most 0\.01",
    ):
        make_certificate(
            run, "gpt.levels.text.token", delta=0.05, settings=SETTINGS, choices_bits=CHOICES, parts=PARTS
        )


def test_document_ends_of_an_index_made_to_leak(run):
    """An index that joins two documents, hashes and all, would let one into the contexts of the other."""
    folder = run / "tokens/text/train"
    ends = np.fromfile(folder / "ends.bin", "<u8")
    np.delete(ends, 3).tofile(folder / "ends.bin")
    index = read_json(folder / "index.json")
    index["shards"][0]["documents"] -= 1
    write_json(
        folder / "index.json",
        index | {"documents": len(ends) - 1, "ends_sha256": sha256_file(folder / "ends.bin")},
    )
    assert "documents" in failures(run)["corpus"]


def test_records_without_a_part(run):
    with pytest.raises(InputError, match="20 records for 40 draws"):
        make_certificate(
            run, "gpt.levels.text.token", delta=0.05, settings=SETTINGS, choices_bits=CHOICES, parts=1
        )


# ---------------------------------------------------------------- changed certificates


def test_a_bound_changed_in_the_ninth_digit(run):
    path = certificate_path(run, "token")
    value = read_certificate(path)["metrics"]["bpd"]["bounds"]["betting"]["value"]
    forge(run, {"metrics.bpd.bounds.betting.value": value - 1e-9}, recompute=False)
    assert failures(run).keys() == {"bounds"}
    assert "metrics.bpd.bounds.betting.value" in failures(run)["bounds"]


@pytest.mark.parametrize("value", [math.nan, -math.inf, None, "2.0", True, [2.0]])
def test_a_bound_that_is_no_number(run, value):
    path = certificate_path(run, "token")
    found = read_certificate(path)
    found["metrics"]["top1"]["bounds"]["azuma"]["value"] = value
    path.write_text(json.dumps(found))
    assert "metrics.top1.bounds.azuma.value" in failures(run)["bounds"]


@pytest.mark.parametrize(
    "removed",
    ["metrics.bpd.bounds.azuma", "metrics.top1", "hypothesis", "settings", "sampling.draws", "n", "records"],
)
def test_a_certificate_with_something_missing(run, removed):
    path = certificate_path(run, "token")
    found = read_certificate(path)
    *parents, last = removed.split(".")
    place = found
    for parent in parents:
        place = place[parent]
    del place[last]
    write_json(path, found)
    assert failures(run, rescore=2)


@pytest.mark.parametrize(
    ("changes", "found_by"),
    [
        ({"m": 10**6}, {"corpus", "bounds"}),
        ({"m": 10**6, "corpus.tokens": 10**6}, {"corpus", "bounds"}),
        ({"hypothesis.message_bits": 800}, {"message", "bounds"}),
        ({"hypothesis.message_bytes": 100}, {"bounds"}),
        ({"choices_bits": {"sampling scheme": 0.0}}, {"choices"}),
        ({"choices_bits": {}}, {"choices"}),
        ({"vocab_size": 51}, {"corpus", "bounds"}),
        ({"epsilon_nats": 0.0}, {"bounds"}),
        ({"sampling.seed": 138}, {"draws", "bounds"}),
        ({"sampling.context_length": 1024}, {"message", "bounds"}),
        ({"corpus.documents": 10**6}, {"bounds"}),
        ({"hypothesis.codec": {"kind": "levels", "levels": 3}}, {"bounds"}),
        ({"name": "other.levels.text.token"}, {"bounds"}),
        ({"scored_on": {"device": "NVIDIA H100", "dtype": "float32"}}, {"bounds"}),
    ],
)
def test_a_certificate_forged_with_its_bounds_computed_anew(run, changes, found_by):
    """Whatever follows from the files is found, also where all numbers in the certificate fit each other."""
    forge(run, changes)
    assert failures(run).keys() == found_by


def test_draws_fewer_than_they_were(run):
    with pytest.raises(InputError, match="40 draws in the records; expected n = 20"):
        forge(run, {"n": 20})
    forge(run, {"n": 20}, recompute=False)
    assert {"draws", "bounds"} <= failures(run).keys()


@pytest.mark.parametrize("changes", [{"delta": 0.2}, {"settings.alpha": [0.1]}])
def test_what_cannot_be_found(run, changes):
    """Delta and the grids are the certificate's own statement: computed anew, it could have been made so.

    That they were fixed before the draws were seen is nothing that files can show (documented in
    `certificate.verify`).
    """
    forge(run, changes)
    assert failures(run) == {}
    found = read_certificate(certificate_path(run, "token"))
    assert {"delta": found["delta"], "settings.alpha": found["settings"]["alpha"]}.items() >= changes.items()
    forge(run, {"delta": 0.05}, recompute=False)
    if "delta" in changes:
        assert failures(run).keys() == {"bounds"}


def test_a_certificate_under_another_name(run):
    certificate_path(run, "windows").unlink()
    shutil.copyfile(certificate_path(run, "token"), certificate_path(run, "windows"))
    assert "bounds" in failures(run, "windows")


def same(found, expected):
    """Whether two certificates say the same: equal, numbers to a relative 1e-11."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[key], expected[key]) for key in expected)
        )
    if isinstance(expected, int | float) and isinstance(found, int | float):
        return math.isclose(found, expected, rel_tol=1e-11, abs_tol=1e-11)
    return found == expected


@pytest.mark.parametrize("sampling", SCHEMES)
def test_any_changed_byte_of_the_certificate(run, sampling):
    """A byte anywhere is found, or changes nothing of substance (last digit of a number, versions)."""
    path = certificate_path(run, sampling)
    data = path.read_bytes()
    original = json.loads(data)
    rng, detected = random.Random(0), 0
    end = data.index(b'"versions"')
    for _ in range(60):
        changed = bytearray(data)
        changed[rng.randrange(end)] ^= 1 << rng.randrange(7)
        path.write_bytes(changed)
        try:
            found = failures(run, sampling)
        except InputError as error:
            assert str(path) in str(error)
            detected += 1
            continue
        if found:
            detected += 1
        else:
            assert same(json.loads(bytes(changed)), original)
    assert detected >= 40


def test_not_a_certificate(tmp_path):
    for text, expected in (
        ("{}", "not a tokenbounds certificate"),
        ("[1]", "not a tokenbounds certificate"),
        ("{", "not valid JSON"),
    ):
        path = tmp_path / "c.json"
        path.write_text(text)
        with pytest.raises(InputError, match=expected) as caught:
            read_certificate(path)
        assert str(path) in str(caught.value)
    path.write_text('{"certificate": 2}')
    with pytest.raises(InputError, match="version 1"):
        read_certificate(path)
    with pytest.raises(InputError, match="no such file"):
        list(verify_certificate(tmp_path / "absent.json"))


# ---------------------------------------------------------------- for people


def test_describe(untouched):
    found = read_certificate(certificate_path(untouched, "token"))
    text = describe_certificate(found)
    lines = text.splitlines()
    assert lines[0] == "gpt.levels.text.token"
    assert (
        f"C(h) = {found['hypothesis']['message_bytes']:,} bytes" in lines[1]
        and f"m = {found['m']:,} tokens" in lines[1]
    )
    assert len(lines) == 3 + 4 + 2 * 3 + 3
    assert f"{METHODS['azuma_certified'].label} assumes m fixed beforehand" in text
    for metric, entry in found["metrics"].items():
        for method, bound in entry["bounds"].items():
            label = METHODS[method].label
            line = next(
                line for line in lines[3:] if line.split()[0] == metric and line[10:].startswith(f"{label} ")
            )
            assert f"{bound['value']:.4f}" in line and f"{bound['complexity_term']:.4f}" in line
            assert line.endswith("vacuous") == (bound["value"] >= entry["random_guess"])
    better = copy.deepcopy(found)
    better["metrics"]["bpd"]["bounds"]["betting"]["value"] = 0.5
    assert describe_certificate(better).count("vacuous") == text.count("vacuous") - 1
