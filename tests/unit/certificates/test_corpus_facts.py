"""A certificate's corpus: every file behind the tokens is hashed, and what differs is named."""

import hashlib
import math

import numpy as np
import pytest
from support.corpora import EOT, make_corpus, write_corpus
from support.documents import corpus_of, sample_texts, write_documents
from support.stores import random_documents

from tokenbounds.certificates.corpus_facts import check_repetition, corpus_facts, tokenizer_bits
from tokenbounds.corpus.documents import manifest_digest
from tokenbounds.corpus.store import CorpusIndex
from tokenbounds.corpus.tokenizer_folder import archive_bytes, tokenizer_digest
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, sha256_file, write_json


@pytest.fixture
def run(tmp_path):
    """A run with corpus `text`, whose tokenizer was trained on left-out documents."""
    path = write_documents(
        tmp_path / "text.jsonl", [f"{i} {text}" for i, text in enumerate(sample_texts(60))]
    )
    corpus = corpus_of({"train": {"vocab_size": 300, "fraction": 0.2}}, path, split={"val": 0.1}, shards=2)
    make_corpus(tmp_path / "run/tokens/text", corpus)
    return tmp_path / "run"


def test_facts_of_a_trained_tokenizer(run):
    facts, folder = corpus_facts(run, "text"), run / "tokens/text"
    assert facts["documents_by_role"] == {"train": 42, "val": 6, "tokenizer": 12}
    assert facts["documents_left_out"] == {"tokenizer": 12, "validation": 6}
    assert facts["tokenizer"] == {
        "kind": "train",
        "sha256": sha256_file(folder / "tokenizer/tokenizer.json"),
        "eot": EOT,
        "eot_id": 0,
        "files_sha256": tokenizer_digest(folder / "tokenizer"),
        "standing": {"kind": "trained"},
        "bits": 0,
        "assumes": "nothing: trained on 12 documents that are left out of m",
    }
    assert facts["manifest_sha256"] == manifest_digest(read_json(folder / "documents.json"))
    assert facts["roles_sha256"] == sha256_file(folder / "roles.bin")
    assert facts["duplicate_documents"] == 0 and facts["repeated_contexts"]["context_length"] == 4
    assert tokenizer_bits(corpus_facts(run, "text")) == {}
    check_repetition(run, "text")


def test_who_pays_for_the_tokenizer(tmp_path):
    documents = random_documents(np.random.default_rng(1), 20)
    write_corpus(tmp_path / "tokens/paid", documents)
    words = "published in 2019, the documents are of 2024"
    write_corpus(tmp_path / "tokens/assumed", documents, standing="assumed", fixed_before=words)
    size = archive_bytes(tmp_path / "tokens/paid/tokenizer")
    assert tokenizer_bits(corpus_facts(tmp_path, "paid")) == {
        "tokenizer": 8 * size,
        "tokenizer length": 2 * math.log2(8 * size),
    }
    assert corpus_facts(tmp_path, "paid")["tokenizer"]["bits"] == 8 * size
    assert tokenizer_bits(corpus_facts(tmp_path, "assumed")) == {}
    assumed = corpus_facts(tmp_path, "assumed")["tokenizer"]
    assert (
        assumed["assumes"] == f"the tokenizer was fixed before the corpus: {words}" and assumed["bits"] == 0
    )


def edit(path, **changes):
    write_json(path, read_json(path) | changes)


def refused(run, corpus="text"):
    with pytest.raises(InputError) as error:
        corpus_facts(run, corpus)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_edited_manifest(run):
    path = run / "tokens/text/documents.json"
    manifest = read_json(path)
    edit(path, provenance={})
    corpus_facts(run, "text")  # who counted the documents is not what they are
    edit(path, files=[manifest["files"][0] | {"sha256": "0" * 64}])
    assert refused(run).startswith(f"{path}: not what {run}/tokens/text/train/index.json was made with (mani")
    edit(path, files=manifest["files"], drawing=manifest["drawing"] | {"seed": 1})
    assert "documents.json: not what" in refused(run)


def swap_roles(folder, swapped=(0, 2)):
    """Give one document of each of two roles the other's role; hashes in the manifest are made anew."""
    roles = np.fromfile(folder / "roles.bin", np.uint8)
    first, second = (int(np.flatnonzero(roles == role)[0]) for role in swapped)
    roles[[first, second]] = roles[[second, first]]
    (folder / "roles.bin").write_bytes(roles.tobytes())
    edit(folder / "documents.json", roles_sha256=hashlib.sha256(roles.tobytes()).hexdigest())


@pytest.mark.parametrize("swapped", [(0, 2), (0, 1)])
def test_swapped_roles(run, swapped):
    folder = run / "tokens/text"
    swap_roles(folder, swapped)
    assert refused(run).startswith(f"{folder}/documents.json: not what")
    # also when the index is made to name the manifest
    edit(folder / "train/index.json", manifest_sha256=manifest_digest(read_json(folder / "documents.json")))
    assert refused(run).startswith(f"{folder}/roles.bin: not what")
    roles = np.fromfile(folder / "roles.bin", np.uint8)
    (folder / "roles.bin").write_bytes(np.where(roles == 1, 0, roles).astype(np.uint8).tobytes())
    assert "roles.bin: not the roles that" in refused(run)


@pytest.mark.parametrize("name", ["tokenizer.json", "trained_on.bin", "info.json", "another.json"])
def test_an_edited_file_of_the_tokenizer(run, name):
    folder = run / "tokens/text/tokenizer"
    if name == "info.json":
        edit(folder / name, eot="<|endoftext|>!")
    elif name == "trained_on.bin":
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(bytes(16) + data[16:])
    elif name == "another.json":
        (folder / name).write_text("{}")
    else:
        (folder / name).write_text(
            (folder / name).read_text().replace('"version": "1.0"', '"version": "1.0" ')
        )
        edit(folder / "info.json", sha256=sha256_file(folder / name))
    assert refused(run).startswith(str(folder))


def test_a_tokenizer_that_only_says_that_it_was_trained(tmp_path):
    """Its documents would have to be left out, and there would have to be as many."""
    write_corpus(tmp_path / "tokens/text", random_documents(np.random.default_rng(1), 20))
    folder = tmp_path / "tokens/text"
    (folder / "tokenizer/trained_on.bin").write_bytes(bytes(16))
    edit(folder / "tokenizer/info.json", kind="train", standing={"kind": "trained"})
    edit(folder / "train/index.json", tokenizer_sha256=tokenizer_digest(folder / "tokenizer"))
    assert "documents are not left out for a tokenizer, but the standing" in refused(tmp_path)


def test_fewer_documents_left_out_than_trained_on(run):
    folder = run / "tokens/text"
    data = (folder / "tokenizer/trained_on.bin").read_bytes()
    (folder / "tokenizer/trained_on.bin").write_bytes(data[16:])
    edit(folder / "train/index.json", tokenizer_sha256=tokenizer_digest(folder / "tokenizer"))
    assert "trained on 11 documents, but 12 documents are left out for it" in refused(run)


@pytest.mark.parametrize("name", ["documents.json", "roles.bin", "tokenizer/info.json", "train/index.json"])
def test_a_missing_file(run, name):
    (run / "tokens/text" / name).unlink()
    assert name.rpartition("/")[2] in refused(run)


def test_an_index_that_hides_repetition(tmp_path):
    documents = random_documents(np.random.default_rng(1), 10)
    write_corpus(tmp_path / "tokens/text", documents * 200)
    facts = corpus_facts(tmp_path, "text")
    assert facts["duplicate_documents"] == 199 * 10
    check_repetition(tmp_path, "text")
    path = tmp_path / "tokens/text/train/index.json"
    edit(path, duplicate_documents=0)
    with pytest.raises(InputError, match=f"index.json: duplicate_documents is 0, counted again {199 * 10}"):
        check_repetition(tmp_path, "text")
    edit(path, duplicate_documents=1990, repeated_contexts=facts["repeated_contexts"] | {"share": 0.0})
    with pytest.raises(InputError, match="repeated_contexts is"):
        check_repetition(tmp_path, "text")


def test_claims_do_not_change_the_identity(tmp_path):
    """Other words about the tokenizer give no other draws."""
    documents = random_documents(np.random.default_rng(1), 20)
    for words in ("a", "b"):
        write_corpus(tmp_path / words / "text", documents, standing="assumed", fixed_before=words)
    first, second = (CorpusIndex(tmp_path / words / "text/train").identity for words in ("a", "b"))
    assert first == second
