"""A tokenizer's folder: all that changes a token is hashed, and who pays for it follows from what it is."""

import json

import numpy as np
import pytest
from pydantic import ValidationError
from support.corpora import make_corpus
from support.documents import EOT, corpus_of, sample_texts, write_documents

from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.shards import tokenize_shard
from tokenbounds.corpus.synthetic.vocabularies import ANTIBODIES, INTEGERS
from tokenbounds.corpus.tokenizer_folder import (
    archive_bytes,
    read_info,
    read_trained_on,
    text_digest,
    tokenizer_digest,
)
from tokenbounds.corpus.tokenizers import check_standing, load_tokenizer, prepare_tokenizer
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, write_json

WORDS = {"vocabulary": ["a", "b", EOT]}
ASSUMED = {"standing": "assumed", "fixed_before": "published in 2019, the documents are of 2024"}


def prepared(folder, tokenizer, eot=EOT, **more):
    prepare_tokenizer(corpus_of(tokenizer, eot=eot), folder, **more)
    return folder


def test_the_digest_is_that_of_all_that_changes_a_token(trained_dir, tmp_path):
    folder = prepared(tmp_path / "t", {"train": {"vocab_size": 300}}, documents=sample_texts())
    digest = tokenizer_digest(trained_dir)
    assert tokenizer_digest(folder) == digest  # equal texts in equal order
    (folder / ".snakemake_timestamp").touch()
    info = read_json(folder / "info.json")
    write_json(folder / "info.json", info | {"provenance": {"commit": "another"}})
    assert tokenizer_digest(folder) == digest  # nor who made it
    write_json(folder / "info.json", info | {"eot_id": 1})
    assert tokenizer_digest(folder) != digest
    write_json(folder / "info.json", info)
    for name in ("tokenizer.json", "trained_on.bin"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert tokenizer_digest(folder) != digest
        (folder / name).write_bytes(data)
    assert tokenizer_digest(folder) == digest
    (folder / "notes.txt").write_text("x")
    with pytest.raises(
        InputError, match=r"notes\.txt: does not belong to a tokenizer; expected info\.json, "
    ):
        tokenizer_digest(folder)
    (folder / "notes.txt").unlink()
    (folder / "trained_on.bin").unlink()
    with pytest.raises(InputError, match=r"trained_on\.bin: missing; expected"):
        tokenizer_digest(folder)


def test_claims_are_not_part_of_the_digest(tmp_path):
    """Other words about the same tokenizer are no other index, and no other draws."""
    folders = [prepared(tmp_path / "paid", WORDS), prepared(tmp_path / "assumed", WORDS | ASSUMED)]
    assert tokenizer_digest(folders[0]) == tokenizer_digest(folders[1])


@pytest.mark.parametrize(
    ("tokenizer", "eot", "standing"),
    [
        (WORDS | ASSUMED, EOT, {"kind": "assumed", "fixed_before": ASSUMED["fixed_before"]}),
        ({"vocabulary": [*INTEGERS, EOT]}, EOT, {"kind": "program"}),
        ({"vocabulary": ANTIBODIES}, "[SEP]", {"kind": "program"}),
    ],
)
def test_standing(tmp_path, tokenizer, eot, standing):
    assert check_standing(prepared(tmp_path / "t", tokenizer, eot))["standing"] == standing


def test_antibodies_are_those_of_the_published_vocabulary(shared):
    assert (shared / "data/oas/vocab.txt").read_text().split() == ANTIBODIES and len(ANTIBODIES) == 29


def test_a_trained_tokenizer_costs_nothing(trained_dir):
    assert check_standing(trained_dir)["standing"] == {"kind": "trained"}
    assert read_trained_on(trained_dir) == sorted(map(text_digest, sample_texts()))


def test_a_tokenizer_is_paid_unless_it_is_said_to_be_assumed(tmp_path, trained_dir):
    given = {"file": str(trained_dir / "tokenizer.json")}
    folder = prepared(tmp_path / "t", given)
    size = archive_bytes(folder)
    assert check_standing(folder)["standing"] == {"kind": "paid", "archive_bytes": size}
    whole = (folder / "tokenizer.json").stat().st_size
    assert 200 < size < whole  # compressed, and not nothing
    # One more token or another order costs its own; the program's digits in another order are not its own.
    more = prepared(tmp_path / "more", {"vocabulary": [*INTEGERS[::-1], EOT]})
    assert check_standing(more)["standing"]["kind"] == "paid"


def test_the_archive_is_the_same_on_every_day(tmp_path, monkeypatch):
    folder = prepared(tmp_path / "t", WORDS)
    size = archive_bytes(folder)
    monkeypatch.setattr("time.time", lambda: 1e9)
    (folder / "tokenizer.json").touch()
    assert archive_bytes(folder) == size


def test_standings_that_are_not_true(tmp_path, trained_dir):
    folder = prepared(tmp_path / "t", WORDS)
    info = read_json(folder / "info.json")
    size = info["standing"]["archive_bytes"]
    for standing, message in (
        ({"kind": "paid", "archive_bytes": size - 1}, f"take {size} bytes compressed, but standing says"),
        ({"kind": "program"}, "not a vocabulary that the program defines"),
        ({"kind": "taken", "corpus": "other"}, r"trained_on\.bin: no such file"),
        ({"kind": "trained"}, "trained goes with a tokenizer that was trained here only"),
        ({"kind": "free"}, "expected kind trained, taken, program, paid, assumed"),
        ({"kind": "assumed"}, "expected kind"),
        ({"kind": "assumed", "fixed_before": ""}, "expected kind"),
        ({"kind": "paid", "archive_bytes": -8}, "expected kind"),
        ({"kind": "paid", "archive_bytes": 8.0}, "expected kind"),
        ({"kind": ["paid"]}, "expected kind"),
    ):
        write_json(folder / "info.json", info | {"standing": standing})
        with pytest.raises(InputError, match=message):
            check_standing(folder)
    write_json(folder / "info.json", info | {"standing": {"kind": "paid", "archive_bytes": size + 9}})
    check_standing(folder)  # whoever pays more than is needed has paid
    write_json(folder / "info.json", info | {"file": "../../secret"})
    with pytest.raises(InputError, match=r"expected a kind of tokenizer, and file tokenizer\.json or"):
        load_tokenizer(folder)


def test_what_costs_nothing_need_not_be_assumed(tmp_path, trained_dir):
    with pytest.raises(InputError, match=r"tokenizer\.standing: assumed, but the tokenizer costs nothing"):
        prepared(tmp_path / "t", {"vocabulary": [*INTEGERS, EOT], **ASSUMED})
    with pytest.raises(InputError, match=r"costs nothing \(taken\)"):
        prepared(tmp_path / "t", {"corpus": "first", **ASSUMED}, other=trained_dir)
    for wrong in (
        {**WORDS, "standing": "assumed"},
        {**WORDS, "fixed_before": "why"},
        {**WORDS, "standing": "free"},
        {**WORDS, "standing": "assumed", "fixed_before": "two\nlines"},
        {"train": {"vocab_size": 300}, **ASSUMED},
    ):
        with pytest.raises(ValidationError):
            corpus_of(wrong)


@pytest.fixture
def first(tmp_path):
    """A corpus with a trained tokenizer, and the texts that this was trained on."""
    path = write_documents(tmp_path / "first.jsonl", sample_texts(60))
    corpus = corpus_of({"train": {"vocab_size": 300, "fraction": 0.2}}, path, eot=EOT)
    store = make_corpus(tmp_path / "first", corpus)
    roles = np.fromfile(tmp_path / "first/roles.bin", np.uint8)
    trained_on = [text for text, role in zip(sample_texts(60), roles, strict=True) if role == 2]
    assert len(trained_on) == 12 and store.documents == 48
    return tmp_path / "first/tokenizer", trained_on


def test_the_tokenizer_of_another_corpus(first, tmp_path):
    tokenizer, trained_on = first
    path = write_documents(tmp_path / "second.jsonl", [text + " more" for text in trained_on])
    corpus = corpus_of({"corpus": "first"}, path, eot=EOT)
    store = make_corpus(tmp_path / "second", corpus, other=tokenizer)
    info = check_standing(tmp_path / "second/tokenizer")
    assert info["standing"] == {"kind": "taken", "corpus": "first"} and store.index["seen_documents"] == 0
    assert read_trained_on(tmp_path / "second/tokenizer") == read_trained_on(tokenizer)


def test_documents_that_another_corpus_trained_its_tokenizer_on(first, tmp_path):
    tokenizer, trained_on = first
    texts = [*sample_texts(200)[100:], *trained_on[:3]]
    path = write_documents(tmp_path / "second.jsonl", texts)
    corpus = corpus_of({"corpus": "first"}, path, eot=EOT, shards=2)
    with pytest.raises(InputError) as error:
        make_corpus(tmp_path / "second", corpus, other=tokenizer)
    assert (
        "3 counted documents of shard 1 are ones that the tokenizer of corpus 'first' was trained on"
        in str(error.value)
    )


def test_ids_in_place_of_texts_are_compared_as_texts(first, tmp_path):
    tokenizer, trained_on = first
    ids = load_tokenizer(tokenizer).encode_batch(trained_on[:2])
    rows = "".join(json.dumps({"ids": [*part.tolist(), 0]}) + "\n" for part in ids)
    (tmp_path / "ids.jsonl").write_text(rows)
    source = {"files": [str(tmp_path / "ids.jsonl")], "field": "ids", "eot_id": 0}
    corpus = Corpus(source=source, tokenizer={"corpus": "first"}, eot=EOT)
    with pytest.raises(InputError, match="2 counted documents of shard 0 are ones that the tokenizer"):
        make_corpus(tmp_path / "second", corpus, other=tokenizer)


def test_copies_of_left_out_documents_are_counted_and_stated(tmp_path):
    """Documents that are left out count as known before; the index says how many counted ones are copies."""
    texts = [f"{number} {text}" for number, text in enumerate(sample_texts(40))]
    path = write_documents(tmp_path / "twice.jsonl", texts * 2)
    corpus = corpus_of({"train": {"vocab_size": 300, "fraction": 0.2}}, path, eot=EOT)
    store = make_corpus(tmp_path / "twice", corpus)
    roles = np.fromfile(tmp_path / "twice/roles.bin", np.uint8).reshape(2, 40) == 2
    assert store.index["seen_documents"] == (roles[0] ^ roles[1]).sum() > 0
    assert store.index["duplicate_documents"] == 40 - (roles[0] | roles[1]).sum()


def test_documents_counted_under_other_settings(first, tmp_path):
    path = write_documents(tmp_path / "a.jsonl", ["a b", "b"])
    corpus = corpus_of(WORDS, path, eot=EOT)
    make_corpus(tmp_path / "a", corpus_of({"vocabulary": ["a", "b", " ", EOT]}, path, eot=EOT))
    other = corpus.model_copy(update={"empty_documents": "skip"})
    paths = tmp_path / "a/documents.json", tmp_path / "a/roles.bin"
    with pytest.raises(InputError, match="counted with empty_documents error, expected skip; remove it"):
        tokenize_shard(other, *paths, tmp_path / "a/tokenizer", 0, tmp_path / "a")


@pytest.mark.parametrize(
    "change", [{"vocab_size": "3"}, {"standing": None}, {"eot_id": True}, {"kind": "magic"}]
)
def test_information_edited_by_hand(tmp_path, change):
    folder = prepared(tmp_path / "t", WORDS)
    write_json(folder / "info.json", read_json(folder / "info.json") | change)
    with pytest.raises(InputError, match=r"info\.json: "):
        read_info(folder)
