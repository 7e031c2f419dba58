"""Files of a stranger: whatever they hold, verifying is safe, and ends with one line per failed check."""

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.causal_models import LLAMA, VOCAB, library_model, read
from support.forgery import failures
from support.fuzzed_runs import NAME, SETTINGS, write_published_run
from support.messages import json_values
from support.runs import ARCHITECTURE, CONFIG, certificate_path, write_run

from tokenbounds.bounds.result import Bound
from tokenbounds.certificates.checks import printable
from tokenbounds.certificates.commit import commitment_of
from tokenbounds.certificates.confined import check_run
from tokenbounds.certificates.describe import describe_certificate
from tokenbounds.certificates.files import read_certificate
from tokenbounds.certificates.shape import _Bound, check_shape
from tokenbounds.certificates.verify import taken_as_stated, verify_certificate
from tokenbounds.codecs.header import published_folder
from tokenbounds.errors import InputError
from tokenbounds.io.files import MOST_JSON_BYTES, read_json, sha256_file, write_json
from tokenbounds.models.registry import layout_of
from tokenbounds.scoring.records import SCHEMA, check_draws, read_records
from tokenbounds.validation import fuzz
from tokenbounds.validation.fuzz_files import Copy

MESSAGE, RISK = "messages/gpt.levels.bin", "risk/gpt.levels.text.token"


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A run whose bounds have few grid points."""
    return write_run(tmp_path_factory.mktemp("quick") / "results/run", settings=SETTINGS)


# ---------------------------------------------------------------- random damage


def test_random_damage(quick):
    """In another process of little memory, watched; ``make fuzz`` runs a hundred times as many."""
    before = {path: path.read_bytes() for path in quick.rglob("*") if path.is_file()}
    results = fuzz.fuzz(quick, 160, seed=1)
    assert [result for result in results if result["outcome"] == "wrong"] == []
    assert {result["outcome"] for result in results} == {"all held", "failed", "refused"}
    table = fuzz.summary(results)
    assert table["cases"].iloc[-1] == 160 and set(table["damage"]) >= {"message", "parquet", "bytes"}
    assert before == {path: path.read_bytes() for path in quick.rglob("*") if path.is_file()}


class Gullible:
    """A process for which all checks hold, whatever it reads."""

    def start(self):
        pass

    def check(self, *task):
        return {"wrong": [], "refused": None, "failed": []}


def test_the_fuzz_finds_a_verifier_that_believes_everything(quick, tmp_path):
    folder = Copy(quick, tmp_path / "copy")
    results = [fuzz.one_case(number, 2, folder, Gullible()) for number in range(60)]
    believed = [result for result in results if result["outcome"] == "wrong"]
    assert len(believed) > 10 and not any(result["sealed"] for result in believed)
    assert all("all checks held, but" in result["detail"] for result in believed)
    assert not folder.changed()


WATCHED = """
import sys, tempfile
from tokenbounds.validation.fuzz_worker import Watch
watch = Watch([sys.prefix, sys.base_prefix], sys.argv[1])
watch.active = True
open("/etc/passwd").close()
open(sys.argv[1] + "/allowed", "w").close()
open(sys.argv[2], "w").close()
watch.active = False
print(watch.found)
"""


def test_the_fuzz_sees_what_is_opened(tmp_path):
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-c", WATCHED, str(tmp_path / "temporary"), str(tmp_path / "outside")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(["read /etc/passwd", f"write {tmp_path / 'outside'}"])


# ---------------------------------------------------------------- certificates


def test_the_shape_is_that_of_a_bound():
    assert _Bound.model_fields.keys() == Bound.__dataclass_fields__.keys() | {"assumes"}


def leaves(value, place=()):
    """All places in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for key, part in inner for found in leaves(part, (*place, key)))]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), value=json_values)
def test_any_value_anywhere(untouched, data, value):
    """Accepted only if all that is done with a certificate, besides verifying it, works."""
    found = copy.deepcopy(read_certificate(certificate_path(untouched, "token")))
    *parents, last = data.draw(st.sampled_from(leaves(found)[1:]))
    place = found
    for key in parents:
        place = place[key]
    if data.draw(st.booleans()):
        place[last] = value
    elif isinstance(place, dict):
        place.pop(last)
    try:
        check_shape("c.json", found)
    except InputError as error:
        line = str(error)
        assert line.startswith("c.json: not a ") and line.isprintable() and len(line) < 500
        return
    text = describe_certificate(found)
    assert all(line.isprintable() for line in text.splitlines())
    assert all(map(str.isprintable, taken_as_stated(found)))
    assert len(commitment_of(found, "a beacon")) == 64


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("hypothesis.message.path", "../../secret.bin"),
        ("hypothesis.message.path", "messages/../messages/gpt.levels.bin"),
        ("hypothesis.message.path", "messages/gpt.levels.bin\n"),
        ("corpus.index.path", "/dev/zero"),
        ("name", "gpt.levels.text.token\x1b[2J"),
        ("metrics.bpd.bounds.azuma.capped", 0),
        ("metrics.bpd.bounds.azuma.value", "2.0"),
        ("n", 40.0),
        ("n", 0),
        ("delta", 0),
        ("choices_bits", {"discount": -1000.0}),
        ("settings.top_k", [1, 2, 10]),
        ("settings.candidates", True),
        ("versions", None),
        ("assumes", ["\ud800"]),
    ],
)
def test_values_that_no_certificate_has(run, place, value):
    path = certificate_path(run, "token")
    found = read_json(path)
    *parents, last = place.split(".")
    inner = found
    for key in parents:
        inner = inner[key]
    inner[last] = value
    path.write_text(json.dumps(found))
    if place == "assumes":
        assert "not valid JSON" in failures(run)["refused"]
        return
    assert failures(run).keys() == {"certificate"}
    with pytest.raises(InputError, match=r"token\.json: not a whole certificate, ") as error:
        read_certificate(path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"certificate": 3, "certificate": 3}', "'certificate' stands twice"),
        ('{"n": NaN}', "NaN is no number"),
        ('{"n": 1e999}', "1e999 is too large"),
        ('{"n": 1%s}' % ("0" * 5000), "a number of 5001 digits"),
        ("[" * 150 + "]" * 150, "more than 100 levels"),
        ("[" * 100_000 + "]" * 100_000, "more than 100 levels"),
        ('"\\ud800"', "surrogates not allowed"),
    ],
)
def test_json_that_no_writer_writes(tmp_path, text, reason):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"c\.json: not valid JSON \(.*{reason}"):
        read_json(path)


def test_json_that_is_too_long(tmp_path):
    path = tmp_path / "c.json"
    with open(path, "wb") as handle:
        handle.truncate(MOST_JSON_BYTES + 1)
    with pytest.raises(InputError, match=rf"c\.json: {MOST_JSON_BYTES + 1} bytes; expected at most"):
        read_json(path)


def test_details_are_one_line():
    assert printable("a\nb\t\x1b[2J\x00é") == "a b \\x1b[2J\\x00é"
    assert printable("x" * 10**6) == "x" * 476 + " ..."


# ---------------------------------------------------------------- the run's folder


@pytest.mark.parametrize("name", [MESSAGE, f"{RISK}/00000.parquet", "tokens/text/train/ends.bin"])
@pytest.mark.parametrize("kind", ["outside", "device", "pipe", "to a folder"])
def test_files_that_are_none_of_the_run(run, name, kind):
    """Nothing is opened, and nothing waits for a pipe that nobody writes to."""
    path, outside = run / name, run.parent / "outside"
    outside.write_bytes(path.read_bytes())
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"outside": outside, "device": "/dev/zero", "to a folder": run / "tokens"}[kind])
    found = failures(run)
    assert found.keys() == {"folder"} and str(path) in found["folder"]


@pytest.mark.parametrize("folder", ["tokens", RISK, "tokens/text/tokenizer"])
def test_folders_that_are_links(run, folder):
    (run / folder).rename(run.parent / "moved")
    (run / folder).symlink_to(run.parent / "moved")
    assert "outside the run's folder" in failures(run)["folder"]


def test_a_certificate_that_is_a_link_out_of_the_run(run, untouched):
    path = certificate_path(run, "token")
    path.unlink()
    path.symlink_to(certificate_path(untouched, "token"))
    with pytest.raises(InputError, match="outside the run's folder"):
        list(verify_certificate(path))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="a pipe or device"):
        list(verify_certificate(path))


def test_a_link_within_the_run_is_a_file(run):
    path = run / MESSAGE
    path.rename(run / "kept.bin")
    path.symlink_to(run / "kept.bin")
    assert failures(run) == {}


def test_a_message_that_is_too_long(run):
    certificate = read_certificate(certificate_path(run, "token"))
    os.truncate(run / MESSAGE, (1 << 30) + 1)
    with pytest.raises(InputError, match=r"gpt\.levels\.bin: 1073741825 bytes; expected at most"):
        check_run(run.resolve(), certificate, "gpt.levels.text.token")


# ---------------------------------------------------------------- published files


def test_published_files_that_are_links(tmp_path):
    """Those of a cache lead to its blobs; no others may lead out of the folder that the sidecar names."""
    run = write_published_run(tmp_path, "quip")
    path, snapshot = run / f"bounds/{NAME}.json", tmp_path / "cache/snapshots/revision"
    assert all(check.held for check in verify_certificate(path))
    snapshot.mkdir(parents=True)
    (tmp_path / "published").rename(tmp_path / "cache/blobs")
    for file in (tmp_path / "cache/blobs").iterdir():
        (snapshot / file.name).symlink_to(file)
    write_json(run / "messages/model.gzip.json", {"folder": "cache/snapshots/revision"})
    assert all(check.held for check in verify_certificate(path))
    (tmp_path / "cache/blobs").rename(tmp_path / "elsewhere")
    for file in (tmp_path / "elsewhere").iterdir():
        (snapshot / file.name).unlink()
        (snapshot / file.name).symlink_to(file)
    (check,) = (check for check in verify_certificate(path) if not check.held)
    assert check.name == "folder" and "outside the folder of published files" in check.detail


@pytest.mark.parametrize("folder", ["absent", "results", 3, ["published"], "a\0b", None])
def test_a_sidecar_that_names_no_published_files(tmp_path, folder):
    sidecar = tmp_path / "results/run/messages/model.gzip.json"
    write_json(sidecar, {"folder": folder})
    if folder == "results":
        assert published_folder(sidecar.with_suffix(".bin")) == tmp_path / "results"
        return
    with pytest.raises(InputError, match=r"model\.gzip\.json: folder is .*; expected that of the published"):
        published_folder(sidecar.with_suffix(".bin"))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"intermediate_size": 2**40}, r"5520 values in its tensors; expected the 105553116269712"),
        ({"hidden_size": 2**20}, "5520 values in its tensors; expected the"),
        ({"num_hidden_layers": 2**31}, "num_hidden_layers: 2147483648; expected at most 4096"),
    ],
)
def test_sizes_of_a_published_model_that_it_does_not_have(tmp_path, entries, reason):
    """Refused before anything of the size is made, or layers are built one by one."""
    library_model({**LLAMA, "vocab_size": VOCAB}).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    write_json(path, read_json(path) | entries)
    with pytest.raises(InputError, match=reason):
        read(tmp_path, start_token="first", context_length=16)


@pytest.mark.parametrize(
    "sizes", [{"layers": 2**31}, {"context_length": 2**53 + 1}, {"width": 2**40}, {"context_length": 2**31}]
)
def test_sizes_of_a_gpt_that_none_has(sizes):
    with pytest.raises(InputError, match="expected at most 4096, 2\\^20, and context times width per head"):
        layout_of(CONFIG | {"architecture": ARCHITECTURE | sizes})


# ---------------------------------------------------------------- records


def records(count, **columns):
    zeros = {field.name: np.zeros(count, field.type.to_pandas_dtype()) for field in SCHEMA}
    return zeros | {"draw": np.arange(count)} | columns


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (records(1 << 21), r"2097152 records in a file of \d+ bytes; expected at most one per byte"),
        (records(3, rank=["1", "2", "3"]), "column 'rank' holds string; expected int32"),
        (records(3, rank=pa.array([1, None, 3], pa.int32())), "1 values are absent"),
        (records(3, draw=[0, 2**62, 3]), "draws are missing or out of order"),
        (records(3, draw=[0, 1, -(2**63)]), "draws are missing or out of order"),
        (records(3, more=[1, 2, 3]), "columns draw, .*; expected"),
        (records(0), "no records"),
    ],
)
def test_records_that_no_scoring_writes(tmp_path, table, reason):
    path = tmp_path / "00000.parquet"
    if len(table["draw"]) > 1000:  # compressed to nothing
        table["draw"] = np.zeros(len(table["draw"]), np.int64)
    pq.write_table(pa.table(table), path, compression="zstd")
    with pytest.raises(InputError, match=rf"00000\.parquet: .*{reason}"):
        read_records([path])


def test_more_draws_than_records(run):
    """A number of draws that would fill the memory before it is found wrong."""
    paths = [run / f"{RISK}/{part:05d}.parquet" for part in range(2)]
    check_draws(paths, 40)
    with pytest.raises(InputError, match="40 records for 41 draws"):
        check_draws(paths, 41)


@pytest.mark.parametrize(
    ("key", "value"),
    [("inputs", {"a": 1}), ("inputs", []), ("device", ["cpu"]), ("dtype", None), ("epsilon_nats", "0")],
)
def test_a_sidecar_of_other_kinds_of_values(run, key, value):
    path = run / f"{RISK}/00000.json"
    write_json(path, read_json(path) | {key: value})
    assert f"00000.json: not a sidecar of records ({key} is " in failures(run)["bounds"]


def test_roles_of_more_documents_than_there_are(run):
    """A sparse file takes no space, and 3 GB of memory."""
    path = run / "tokens/text/roles.bin"
    os.truncate(path, 3 << 30)
    assert "expected a byte for each of 84 documents" in failures(run)["bounds"]


def test_hashes_of_a_folder(tmp_path):
    with pytest.raises(InputError, match="a folder; expected a file"):
        sha256_file(tmp_path)
