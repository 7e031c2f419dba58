"""Forged records, certificates and indices: verification finds each."""

import json
import math
import random
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.forgery import coarsened, failures, forge
from support.runs import ARITHMETIC, PARTS, SCHEMES, certificate_path, context_of, make

from tokenbounds.certificates.files import read_certificate, write_certificate
from tokenbounds.codecs.decode import read_model
from tokenbounds.corpus.store import TokenStore
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, sha256_file, write_json
from tokenbounds.scoring.draws import draw_items, message_draws
from tokenbounds.scoring.parts import records_table
from tokenbounds.scoring.records import SCHEMA, write_records
from tokenbounds.scoring.score import score_items


def test_a_smaller_message_has_other_draws(run):
    """A message of fewer bytes in the place of the scored one, sidecars and hashes forged as well."""
    path = run / "messages/gpt.levels.bin"
    path.write_bytes(coarsened(path))
    for number in range(PARTS):
        change_sidecar(run / f"risk/gpt.levels.text.token/{number:05d}.json", {path.name: sha256_file(path)})
    with pytest.raises(InputError, match="positions are not the message's draws"):
        make(run, "token")


def test_records_of_another_model_are_found_by_rescoring(run):
    """The better model scores the draws of the smaller message: then only the model itself can tell."""
    path, context = run / "messages/gpt.levels.bin", context_of(SCHEMES["token"])
    message, model = read_model(path)
    path.write_bytes(coarsened(path))
    store = TokenStore(run / "tokens/text/train")
    draws, _ = message_draws(path, store, context, SCHEMES["token"].n)
    for part in range(PARTS):
        items = list(draw_items(message, store, draws, context, part=part, parts=PARTS))
        records = run / f"risk/gpt.levels.text.token/{part:05d}.parquet"
        write_records(records, records_table(items, score_items(model, items, arithmetic=ARITHMETIC)))
        change_sidecar(
            records.with_suffix(".json"), {path.name: sha256_file(path)}, sha256=sha256_file(records)
        )
    write_certificate(certificate_path(run, "token"), make(run, "token"))
    assert failures(run) == {}
    assert set(failures(run, rescore=5)) == {"rescore"}


def change_sidecar(path, inputs, **facts):
    """Forge a sidecar: hashes of inputs, by the file's name, and other facts."""
    content = read_json(path)
    known = {name: inputs.get(name.rpartition("/")[2], digest) for name, digest in content["inputs"].items()}
    write_json(path, content | {"inputs": known} | facts)


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
    write_certificate(certificate_path(run, sampling), make(run, sampling))
    assert failures(run, sampling) == {}
    found = failures(run, sampling, rescore=1000)
    assert found.keys() == {"rescore"}
    if column != "log2_q":
        assert f"not as recorded: {column} of draw" in found["rescore"]


@pytest.mark.parametrize(("epsilon", "shown"), [(1.0, "1.0"), (-1.0, "-1.0")])
def test_epsilon_that_no_scoring_run_has(run, epsilon, shown):
    path = run / "risk/gpt.levels.text.token/00001.json"
    path.write_text(json.dumps(read_json(path) | {"epsilon_nats": epsilon}))
    with pytest.raises(
        InputError,
        match=rf"00001\.parquet: epsilon_nats is {shown}: scores differ .*; expected at most 0\.01",
    ):
        make(run, "token")


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
        make(run, "token", parts=1)


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
    assert failures(run).keys() <= {"certificate", "refused"} and failures(run)


@pytest.mark.parametrize(
    "removed",
    ["metrics.bpd.bounds.azuma", "metrics.top1", "hypothesis", "settings", "sampling.beacon", "n", "records"],
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
        ({"epsilon_nats": 1e-5}, {"bounds"}),
        ({"tokenizer_bits": {"less": 0.0}}, {"bounds"}),
        ({"corpus.identity": "0" * 64}, {"corpus", "bounds"}),
        ({"corpus.documents": 10**6}, {"bounds"}),
        ({"hypothesis.codec": {"kind": "levels", "levels": 3}}, {"message", "bounds"}),
        ({"assumes": []}, {"bounds"}),
        ({"name": "other.levels.text.token"}, {"bounds"}),
        ({"scored_on": {"device": "NVIDIA H100", "dtype": "float32"}}, {"bounds"}),
    ],
)
def test_a_certificate_forged_with_its_bounds_computed_anew(run, changes, found_by):
    """Whatever follows from the files is found, also where all numbers in the certificate fit each other."""
    forge(run, changes)
    assert failures(run).keys() == found_by


def test_draws_fewer_than_they_were(run):
    """The first half of the draws: another number of draws is other draws."""
    with pytest.raises(InputError, match="positions are not the message's draws"):
        forge(run, {"n": 20})
    forge(run, {"n": 20}, recompute=False)
    assert failures(run).keys() == {"bounds"}


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("beacon", "round 7", "positions are not the message's draws"),
        ("context_length", 1024, "context_length"),
    ],
)
def test_a_scheme_named_afterwards(run, key, value, found):
    with pytest.raises(InputError):
        forge(run, {f"sampling.{key}": value})
    forge(run, {f"sampling.{key}": value}, recompute=False)
    assert found in failures(run)["bounds"]


@pytest.mark.parametrize("changes", [{"delta": 0.2}, {"settings.alpha": [0.1]}])
def test_what_cannot_be_found(run, changes):
    """Delta and the grids are the certificate's own statement: computed anew, it could have been made so.

    That they were fixed before the draws were seen is nothing that files can show (listed by
    `taken_as_stated`).
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
