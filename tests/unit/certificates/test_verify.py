"""Certificates: verification passes on what was computed, and names whatever was changed afterwards."""

import copy
import json
import shutil

import pytest
from support.forgery import coarsened, failures, flip
from support.runs import CHOICES, CONFIG, PARTS, SCHEMES, SETTINGS, certificate_path, make, write_run

from tokenbounds.bounds import Bpd, TopK
from tokenbounds.bounds.methods import ADDED, METHODS
from tokenbounds.certificates.describe import describe_certificate
from tokenbounds.certificates.files import read_certificate
from tokenbounds.certificates.make import make_certificate
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.config.schema import slice_of
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, sha256_file, write_json


@pytest.mark.parametrize("sampling", SCHEMES)
def test_verifies(untouched, sampling):
    checks = list(verify_certificate(certificate_path(untouched, sampling), rescored=10))
    assert [check.name for check in checks if not check.held] == []
    names = ["message file", "index file", "records file 0", "records file 1"]
    assert [check.name for check in checks] == [
        *names,
        "corpus",
        "message",
        "choices",
        "bounds",
        "reproducible",
        "rescore",
        "strength",
    ]
    details = {check.name: check.detail for check in checks}
    assert f"10 of {SCHEMES[sampling].n} draws scored again" in details["rescore"]
    own = [method for name, method in METHODS.items() if name not in ADDED]
    bounds = sum((Bpd in method.can_bound) + 2 * (TopK in method.can_bound) for method in own)
    assert f"{bounds} bounds recomputed" in details["bounds"]


def test_verifies_a_model_without_context(tmp_path):
    run = write_run(tmp_path / "run", {"token": SCHEMES["token"]}, config={**CONFIG, "last_tokens": 0})
    path = certificate_path(run, "token")
    assert read_certificate(path)["sampling"]["effective_context_length"] == 0
    assert not failures(run, rescore=10)


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
    scheme = slice_of(SCHEMES[sampling])
    found, dearer, surer = (
        make_certificate(
            untouched,
            f"gpt.levels.text.{sampling}",
            delta=delta,
            settings=SETTINGS,
            choices_bits={"sampling scheme": bits},
            parts=PARTS,
            scheme=scheme,
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


@pytest.mark.parametrize(
    ("name", "found_by", "named"),
    [
        ("messages/gpt.levels.bin", {"message file", "message"}, "messages/gpt.levels.bin"),
        ("tokens/text/train/index.json", {"index file"}, "index.json"),
        ("tokens/text/train/ends.bin", {"corpus", "bounds"}, "ends.bin"),
        ("tokens/text/train/00001.bin", {"corpus"}, "00001.bin"),
        ("risk/gpt.levels.text.token/00001.parquet", {"records file 1", "bounds"}, "00001.parquet"),
    ],
)
@pytest.mark.parametrize("where", [0.1, 0.5, 0.95])
def test_a_changed_byte(run, name, found_by, named, where):
    path = run / name
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
    [("epsilon_nats", 0.001), ("entropy_epsilon_bits", 0.001), ("device", "cuda"), ("sha256", "0" * 64)],
)
def test_a_changed_sidecar_of_the_records(run, key, value):
    path = run / "risk/gpt.levels.text.token/00000.json"
    for number in range(PARTS):
        other = path.with_name(f"{number:05d}.json")
        write_json(other, read_json(other) | {key: value})
    assert "bounds" in failures(run)


@pytest.mark.parametrize(
    "name",
    [
        "messages/gpt.levels.bin",
        "tokens/text/train/index.json",
        "tokens/text/train/ends.bin",
        "tokens/text/train/00002.bin",
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
    """A message of fewer bytes than the scored one, with a certificate made anew: bounds too small."""
    path = run / "messages/gpt.levels.bin"
    coarse = coarsened(path)
    assert len(coarse) < path.stat().st_size
    path.write_bytes(coarse)
    with pytest.raises(
        InputError,
        match=r"00000\.parquet: computed from another gpt\.levels\.bin \(sha256 \w+\.\.\.\), "
        r"expected the present",
    ):
        make(run, "token")


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
    path.write_text('{"certificate": 2}')  # with keys of before
    with pytest.raises(InputError, match="version 3"):
        read_certificate(path)
    with pytest.raises(InputError, match="no such file"):
        list(verify_certificate(tmp_path / "absent.json"))


def test_describe(untouched):
    found = read_certificate(certificate_path(untouched, "token"))
    text = describe_certificate(found)
    lines = text.splitlines()
    assert lines[0] == "gpt.levels.text.token"
    assert (
        f"C(h) = {found['hypothesis']['message_bytes']:,} bytes" in lines[1]
        and f"m = {found['m']:,} tokens" in lines[1]
    )
    count = sum(len(entry["bounds"]) for entry in found["metrics"].values())
    notes = ["  " + line for line in [*found["assumes"], METHODS["azuma"].note]]
    assert set(notes) <= set(lines[3 + count :]) and lines[3 + count + 1].startswith("  tokenizer: nothing")
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
