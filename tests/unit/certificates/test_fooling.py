"""Attempts to fool a verifier, by somebody who makes hashes, sidecars and certificate fit what he forged."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.forgery import failures, forge
from support.messages import body_of, framed
from support.messages import forge as message_of
from support.runs import ARITHMETIC, PARTS, SCHEMES, certificate_path, context_of, make, write_run

from tokenbounds.certificates import rescore as rescoring
from tokenbounds.certificates.checks import most_faults
from tokenbounds.certificates.files import read_certificate, write_certificate
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.codecs import frame
from tokenbounds.codecs.bits import Reader
from tokenbounds.codecs.decode import read_model
from tokenbounds.codecs.header_text import unpack
from tokenbounds.corpus.store import CorpusIndex, TokenStore
from tokenbounds.errors import InputError
from tokenbounds.io.files import canonical_json, read_json, sha256_file, write_json
from tokenbounds.models.smoothing_head import AlphaHead
from tokenbounds.scoring.draws import draw_items, message_draws
from tokenbounds.scoring.parts import records_table
from tokenbounds.scoring.records import SCHEMA, write_records
from tokenbounds.scoring.reproducibility import Reproducibility
from tokenbounds.scoring.score import score_items

MESSAGE, RISK = "messages/gpt.levels.bin", "risk/gpt.levels.text.token"


def seal(run, sampling="token"):
    """Make sidecars of the records and the certificate fit all files as they are now."""
    for part in range(PARTS):
        records = run / f"risk/gpt.levels.text.{sampling}/{part:05d}.parquet"
        content = read_json(records.with_suffix(".json"))
        names = {"gpt.levels.bin": run / MESSAGE, "index.json": run / "tokens/text/train/index.json"}
        inputs = {name: sha256_file(names[name.rpartition("/")[2]]) for name in content["inputs"]}
        write_json(records.with_suffix(".json"), content | {"inputs": inputs, "sha256": sha256_file(records)})
    write_certificate(certificate_path(run, sampling), make(run, sampling))


def seal_entries(run, sampling="token"):
    """Make only the certificate's hashes fit: where none can be made, an old one is all there is."""
    path = certificate_path(run, sampling)
    found = read_certificate(path)
    for item in (found["hypothesis"]["message"], found["corpus"]["index"], *found["records"]):
        item["sha256"] = sha256_file(run / item["path"])
    write_json(path, found)


def change_records(run, change, part=0, folder=RISK):
    """Rewrite the records of a part through a function of their table's columns."""
    path = run / f"{folder}/{part:05d}.parquet"
    columns = {
        name: column.to_numpy().copy() for name, column in zip(SCHEMA.names, pq.read_table(path), strict=True)
    }
    change(columns)
    pq.write_table(pa.table(columns, schema=SCHEMA), path)


def parts_of(data):
    """Split a message into its header, a dict, and what its codec wrote."""
    body = body_of(data)
    reader = Reader(body, "message")
    reader.section("header")
    header = json.loads(unpack(reader.take(reader.varint()), 1 << 20))
    return header, body[reader.position :]


def change_header(run, change):
    """Forge the header of the message, checksum and all."""
    header, content = parts_of((run / MESSAGE).read_bytes())
    change(header)
    (run / MESSAGE).write_bytes(message_of(header, content))


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header["config"].update(compressed_bytes=-1000),
        lambda header: header["config"].update(compressed_bytes=1),
        lambda header: header["config"].update(note="first try"),
        lambda header: header["config"]["hypothesis"].update(note="first try"),
        lambda header: header["config"]["contexts"]["schemes"].reverse(),
        lambda header: header["config"]["contexts"]["schemes"].append(
            {"mode": "token", "context_length": 16}
        ),
        lambda header: header["config"]["contexts"]["arithmetic"].update(dtype="float64"),
        lambda header: header["codec"].update(levels=6),
        lambda header: header["codec"].update(method="kmeans"),
        lambda header: header.update(codec={"kind": "float16"}),
    ],
)
def test_a_header_with_anything_else(run, change):
    """Fewer bits, or only another hash and with it other draws: a message says what it must in one way."""
    change_header(run, change)
    with pytest.raises(InputError):
        seal(run)
    seal_entries(run)
    assert "message" in failures(run)


def test_a_context_more_for_other_draws_costs_bits(run):
    """A scheme that nobody uses is another message; that it could have been chosen is a term."""
    more = {"mode": "token", "context_length": 15}
    change_header(
        run,
        lambda header: header["config"]["contexts"].update(
            schemes=sorted([*header["config"]["contexts"]["schemes"], more], key=canonical_json)
        ),
    )
    rescored(run)
    seal(run)
    assert failures(run).keys() == {"choices"}


def rescored(run):
    """Score the draws of the present message anew."""
    message, model = read_model(run / MESSAGE)
    store, context = TokenStore(run / "tokens/text/train"), context_of(SCHEMES["token"])
    draws, _ = message_draws(run / MESSAGE, store, context, SCHEMES["token"].n)
    for part in range(PARTS):
        items = list(draw_items(message, store, draws, context, part=part, parts=PARTS))
        table = records_table(items, score_items(model, items, arithmetic=ARITHMETIC))
        write_records(run / f"{RISK}/{part:05d}.parquet", table)


@pytest.mark.parametrize("what", ["a second model", "bytes after it", "longer integers"])
def test_a_message_with_more_in_it(run, what):
    data = (run / MESSAGE).read_bytes()
    forged = {
        "a second model": data + data,
        "bytes after it": framed(body_of(data) + b"\0"),
        # A varint with a needless last byte of zeros: the same number in another hash.
        "longer integers": data[:4] + bytes([data[4] | 0x80, data[5] | 0x80, 0]) + data[6:],
    }
    assert data[4] & 0x80 and not data[5] & 0x80  # its length has two bytes
    (run / MESSAGE).write_bytes(forged[what])
    with pytest.raises(InputError):
        seal(run)
    seal_entries(run)
    assert "message" in failures(run)


@pytest.fixture(scope="module")
def with_head(tmp_path_factory):
    return write_run(
        tmp_path_factory.mktemp("head") / "run", {"token": SCHEMES["token"]}, head=AlphaHead(8, 0.01, 0.5)
    )


def test_a_smoothing_head_with_hidden_parameters(with_head):
    path = with_head / MESSAGE
    whole = path.read_bytes()
    model, _ = (bytes(part) for part in frame.split(whole))
    tensors = {
        "weight": np.zeros(9, np.float32),
        "bias": np.zeros(1, np.float32),
        "more": np.ones(3, np.float32),
    }
    config = {"alpha_head": {"low": 0.01, "high": 0.5}}
    for forged in (
        frame.encode(tensors, config, codec={"kind": "float16"}),
        frame.encode(
            {"weight": tensors["weight"], "bias": tensors["bias"]},
            config | {"more": 1},
            codec={"kind": "float16"},
        ),
    ):
        path.write_bytes(model + forged)
        seal_entries(with_head)
        assert "message" in failures(with_head)
    path.write_bytes(whole)
    seal_entries(with_head)
    assert failures(with_head, rescore="all") == {}


# ---------------------------------------------------------------- records


def test_records_of_another_part(run):
    for suffix in (".parquet", ".json"):
        (run / f"{RISK}/00001{suffix}").write_bytes((run / f"{RISK}/00000{suffix}").read_bytes())
    with pytest.raises(InputError, match="draws are missing or out of order"):
        seal(run)
    seal_entries(run)
    assert "bounds" in failures(run)


@pytest.mark.parametrize("numbered", [False, True])
def test_duplicated_records(run, numbered):
    """The draw with the least loss in the place of that with the largest, with its number or with its own."""

    def duplicate(columns):
        best, worst = columns["log2_q"].argmax(), columns["log2_q"].argmin()
        for name in columns:
            if numbered or name != "draw":
                columns[name][worst] = columns[name][best]

    change_records(run, duplicate)
    with pytest.raises(InputError, match="draws are missing or out of order" if numbered else "positions"):
        seal(run)


def test_a_rank_moved_within_an_epsilon_that_the_scorer_states(run):
    """The scorer claims that its scores are off by up to .01 nats, and moves ranks by as much."""
    for part in range(PARTS):
        change_records(run, lambda columns: columns.update(rank=np.maximum(columns["rank"] - 1, 0)), part)
        path = run / f"{RISK}/{part:05d}.json"
        write_json(path, read_json(path) | {"epsilon_nats": 0.0099, "entropy_epsilon_bits": 0.0099})
    with pytest.raises(InputError, match="tokens beyond near-ties may change places"):
        seal(run)
    for part in range(PARTS):
        path = run / f"{RISK}/{part:05d}.json"
        write_json(path, read_json(path) | {"epsilon_nats": 5e-5})
    seal(run)
    assert failures(run) == {}
    assert "not as recorded: rank of draw" in failures(run, rescore="all")["rescore"]


def test_scores_of_another_arithmetic(run):
    """Losses that are a little lower, as another arithmetic might give."""
    for part in range(PARTS):
        change_records(run, lambda columns: columns.update(log2_q=columns["log2_q"] + 2e-4), part)
    seal(run)
    assert failures(run) == {} and "log2_q of draw" in failures(run, rescore=1)["rescore"]


def test_one_forged_record(run):
    """All that are scored again are looked at, and a sample says what it may have missed."""
    change_records(run, lambda columns: columns["log2_q"].__setitem__(7, -0.01))
    seal(run)
    assert failures(run) == {}
    assert failures(run, rescore="all").keys() == {"rescore"}
    held = [not failures(run, rescore=4) for _ in range(12)]
    assert any(held)  # 4 of 40 draws miss it nine times out of ten


def test_the_bound_widened_by_what_a_sample_leaves_open(untouched):
    """At least as large as with the worst forgery of so many records that one can think of here."""
    (detail,) = strength(untouched, 30)
    assert f"({most_faults(40, 30)} of 40) can be forged, 95%; were they the worst" in detail
    for metric in ("bpd", "top1"):
        words = detail.split(f"{metric} would be ")[1].split()
        assert float(words[0]) >= float(words[3].rstrip(","))
    (everything,) = strength(untouched, "all")
    assert everything == "all 40 draws were scored again: no record is off by more than 0.0001 nats"


def strength(run, count):
    """Return what verification says about the strength of scoring so many draws again."""
    checks = verify_certificate(certificate_path(run, "token"), rescored=count)
    return [check.detail for check in checks if check.name == "strength"]


@pytest.mark.parametrize("device", ["meta", "cuda:99999999999999999999", "cpu:7", "", 3, None, ["cpu"]])
def test_a_device_that_is_none(run, device):
    """Refused, or not taken at its word: never a crash."""
    for part in range(PARTS):
        path = run / f"{RISK}/{part:05d}.json"
        write_json(path, read_json(path) | {"device": device})
    found = read_certificate(certificate_path(run, "token"))
    write_json(certificate_path(run, "token"), found | {"scored_on": {"device": device, "dtype": "float32"}})
    found = failures(run, rescore=2)
    assert found and all("\n" not in detail for detail in found.values())


@pytest.mark.parametrize("what", ["ranks", "pilot"])
def test_a_device_that_the_verifier_does_not_have(run, what):
    """Elsewhere a program rounds differently, but not to one side: not in ranks, and not only after the
    pilot."""
    draws = 40

    def better(columns):
        if what == "ranks":  # within what .05 nats allow, if tokens are nearly equally probable
            columns["rank"] = np.maximum(columns["rank"] - 2, 0)
        shift = np.where(columns["draw"] < draws // 10, -0.045, 0.005)
        columns["log2_q"] += shift if what == "pilot" else 0

    for part in range(PARTS):
        change_records(run, better, part)
        path = run / f"{RISK}/{part:05d}.json"
        write_json(path, read_json(path) | {"device": "mps"})
    seal(run)
    assert failures(run) == {} and "rescore" in failures(run, rescore="all")


def test_scores_that_are_less_reproducible_than_stated(run, monkeypatch):
    found = Reproducibility(40, 9e-4, 0.0, True, True)
    monkeypatch.setattr(rescoring, "reproducibility", lambda *arguments, **options: found)
    detail = failures(run, rescore=10)["reproducible"]
    assert "up to 0.0009 nats and 0 bits apart; 0 nats and 0 bits are stated" in detail


# ---------------------------------------------------------------- draws


def test_draws_of_ones_own(run):
    """The forty best tokens of the corpus in the place of the draws, honestly scored."""
    message, model = read_model(run / MESSAGE)
    store, context = TokenStore(run / "tokens/text/train"), context_of(SCHEMES["token"])
    draws, _ = message_draws(run / MESSAGE, store, context, 1000)
    items = list(draw_items(message, store, draws, context))
    scored = score_items(model, items, arithmetic=ARITHMETIC)
    best = np.sort(np.argsort([-columns[0][0] for columns in scored], kind="stable")[:40])
    for part, chosen in enumerate(np.split(best, PARTS)):
        table = records_table([items[i] for i in chosen], [scored[i] for i in chosen])
        numbers = pa.array(np.arange(20) + 20 * part)
        write_records(run / f"{RISK}/{part:05d}.parquet", table.set_column(0, SCHEMA.field("draw"), numbers))
    with pytest.raises(InputError, match="positions are not the message's draws"):
        seal(run)


def test_what_an_index_says_of_itself_is_in_no_draw(run):
    """Other counts, whether true or not, are not other draws."""
    path = run / "tokens/text/train/index.json"
    before = CorpusIndex(path.parent).identity
    write_json(path, read_json(path) | {"seen_documents": 10**6, "manifest_sha256": "0" * 64})
    assert CorpusIndex(path.parent).identity == before


@pytest.mark.parametrize(
    "change",
    [
        {"note": "again"},
        {"split": "Train"},
        {"cumulative_tokens": None},
        {"seen_documents": -1},
    ],
)
def test_an_index_with_cosmetic_changes_for_other_draws(run, change):
    path = run / "tokens/text/train/index.json"
    write_json(path, read_json(path) | change)
    with pytest.raises(InputError):
        seal(run)
    seal_entries(run)
    assert failures(run)


# ---------------------------------------------------------------- corpus


def test_an_index_with_a_shard_twice(run):
    """The same tokens again are more data points, and none more."""
    folder = run / "tokens/text/train"
    index, ends = read_json(folder / "index.json"), np.fromfile(folder / "ends.bin", "<u8")
    first = index["shards"][0]
    again = ends[: first["documents"]] + np.uint64(index["m_tokens"])
    np.concatenate([ends, again]).tofile(folder / "ends.bin")
    m, documents = index["m_tokens"] + first["tokens"], index["documents"] + first["documents"]
    index |= {"m_tokens": m, "documents": documents, "shards": [*index["shards"], first]}
    index |= {
        "cumulative_tokens": [*index["cumulative_tokens"], m],
        "ends_sha256": sha256_file(folder / "ends.bin"),
    }
    for changes in (
        {},
        {"shards": [*index["shards"][:-1], first | {"name": f"{len(index['shards']) - 1:05d}"}]},
    ):
        write_json(folder / "index.json", index | changes)
        with pytest.raises(InputError):
            seal(run)
        seal_entries(run)
        assert "corpus" in failures(run)


# ---------------------------------------------------------------- certificates


@pytest.mark.parametrize(
    "changes",
    [
        {"choices_bits": {"sampling scheme": 1.0, "discount": -1000.0}},
        {"tokenizer_bits": {"tokenizer": -1000.0}},
        {"settings": {"alpha": [0.1], "candidates": 0}},
        {"settings": {"alpha": [0.1], "candidates": 0.5}},
        {"delta": 1.5},
    ],
)
def test_terms_that_take_something_off(run, changes):
    path = certificate_path(run, "token")
    write_json(path, read_certificate(path) | changes)
    assert failures(run).keys() & {"bounds", "certificate"}


@pytest.mark.parametrize("place", ["hypothesis.message", "corpus.index"])
@pytest.mark.parametrize(
    "name", ["../outside.bin", "/etc/hostname", "messages", "messages/../../outside.bin"]
)
def test_files_outside_the_run(run, place, name):
    """A certificate cannot make its reader read anything else."""
    (run.parent / "outside.bin").write_bytes(b"secret")
    forge(run, {f"{place}.path": name}, recompute=False)
    (detail,) = failures(run, rescore=2).values()  # and nothing else is looked at
    assert f"{place}.path" in detail or name in detail
