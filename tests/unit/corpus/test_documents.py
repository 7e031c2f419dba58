"""Documents of a corpus: disjoint roles of the requested sizes, and a manifest that shows every edit."""

import hashlib
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stores import store_of

from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.documents import (
    TOKENIZER,
    TRAIN,
    VALIDATION,
    document_roles,
    drawing_of,
    manifest_digest,
    read_manifest,
    split_documents,
    write_manifest,
)
from tokenbounds.corpus.sources import SourceFile
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, write_json


def test_split_is_that_of_datasets():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"number": range(1003)}).train_test_split(
        test_size=0.0215, seed=2357, shuffle=True
    )
    assert split_documents(1003, 0.0215, 2357).tolist() == data["test"]["number"]


def test_openwebtext_split():
    # The size as published for the 8,013,769 documents, and the test split that datasets 5.2 makes of ten.
    held = split_documents(8_013_769, 0.0005, 2357)
    assert len(held) == 4007 and len(set(held.tolist())) == 4007
    assert split_documents(10, 0.25, 2357).tolist() == [8, 3, 0]
    assert len(split_documents(10, 0.0, 2357)) == 0


def corpus_of(val=0.0, fraction=None, **more):
    tokenizer = (
        {"file": "tokenizer.json"}
        if fraction is None
        else {"train": {"vocab_size": 300, "fraction": fraction}}
    )
    return Corpus(source={"files": ["*.jsonl"]}, tokenizer=tokenizer, split={"val": val}, **more)


@given(
    documents=st.integers(1, 300),
    val=st.sampled_from([0.0, 0.01, 0.3]),
    fraction=st.sampled_from([None, 0.1, 0.5]),
)
def test_roles_are_disjoint_and_of_the_asked_sizes(documents, val, fraction):
    roles = document_roles(drawing_of(corpus_of(val, fraction), 137, "text"), documents)
    held = math.ceil(val * documents)
    trained = 0 if fraction is None else min(math.ceil(fraction * documents), documents - held)
    assert [(roles == role).sum() for role in (TRAIN, VALIDATION, TOKENIZER)] == [
        documents - held - trained,
        held,
        trained,
    ]
    assert set(np.flatnonzero(roles == VALIDATION)) == set(split_documents(documents, val, 2357))


def test_the_tokenizer_sample_has_its_own_stream():
    roles = [
        document_roles(drawing_of(corpus_of(0.1, 0.3), seed, name), 500)
        for seed, name in [(1, "a"), (1, "a"), (2, "a"), (1, "b")]
    ]
    assert np.array_equal(roles[0], roles[1])
    assert not np.array_equal(roles[0], roles[2]) and not np.array_equal(roles[0], roles[3])
    for other in roles[2:]:
        assert np.array_equal(roles[0] == VALIDATION, other == VALIDATION)  # the split has its own seed


def jsonl(path, count):
    path.write_text("".join(json.dumps({"text": f"{path.stem} {number}"}) + "\n" for number in range(count)))
    return SourceFile(str(path))


def test_manifest(tmp_path):
    files = [jsonl(tmp_path / "a.jsonl", 5), jsonl(tmp_path / "b.jsonl", 0), jsonl(tmp_path / "c.jsonl", 6)]
    write_manifest(
        corpus_of(0.2, shards=3), 137, "text", files, tmp_path / "documents.json", tmp_path / "roles.bin"
    )
    manifest, counted, roles = read_manifest(tmp_path / "documents.json", tmp_path / "roles.bin")
    assert manifest["documents"] == 11 and manifest["shards"] == [[0, 3], [3, 7], [7, 11]]
    assert manifest["roles"] == {"train": 8, "val": 3, "tokenizer": 0} and len(roles) == 11
    hashes = [hashlib.sha256(file.location.read_bytes()).hexdigest() for file in files]
    assert counted == [
        (file, file.bytes(), *more) for file, *more in zip(files, (5, 0, 6), hashes, strict=True)
    ]
    assert manifest["provenance"]["seed"] == 137


def test_an_edit_of_the_same_length_changes_the_manifest(tmp_path):
    files = [SourceFile(str(tmp_path / "a.txt"))]
    manifests = []
    for text in ("one", "two"):
        (tmp_path / "a.txt").write_text(text)
        write_manifest(corpus_of(), 137, "text", files, tmp_path / "documents.json", tmp_path / "roles.bin")
        manifests.append((tmp_path / "documents.json").read_bytes())
    assert len(manifests[0]) == len(manifests[1]) and manifests[0] != manifests[1]


@pytest.fixture
def written(tmp_path):
    """The paths of a manifest and its roles."""
    paths = tmp_path / "documents.json", tmp_path / "roles.bin"
    write_manifest(corpus_of(0.2), 137, "text", [jsonl(tmp_path / "a.jsonl", 5)], *paths)
    return paths


@pytest.mark.parametrize("key", ["roles_sha256", "shards", "files", "reading", "drawing"])
def test_a_manifest_that_lacks_a_key(written, key):
    manifest = read_json(written[0])
    del manifest[key]
    write_json(written[0], manifest)
    with pytest.raises(InputError) as error:
        read_manifest(*written)
    assert str(error.value) == f"{written[0]}: not a manifest of documents (key '{key}' is missing)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"documents": 6}, "5 documents in its files, expected 6"),
        ({"documents": -5}, "documents is -5"),
        ({"documents": True}, "documents is true"),
        ({"roles": {"train": 5, "val": 0, "tokenizer": 0}}, "roles.bin: 5 documents (4 train, 1 val, 0 tok"),
        ({"roles": {"train": 4, "val": 0, "tokenizer": 0}}, "4 documents in its roles, expected 5"),
        ({"shards": [[0, 4]]}, "its shards do not divide 5 documents evenly, in order"),
        ({"shards": [[0, 3], [3, 5]]}, "its shards do not divide 5 documents evenly, in order"),
        ({"files": [{"path": 3, "bytes": 1, "documents": 5, "sha256": "0" * 64}]}, "a file is {"),
        ({"files": [{"path": "a", "bytes": 1, "documents": 5, "sha256": "0"}]}, "a file is {"),
        ({"files": ["a"]}, "key 'path' is missing"),
        ({"reading": {"field": "text"}}, 'reading is {"field":"text"}'),
        ({"drawing": {"val": 2.0, "seed": 1, "tokenizer": None}}, "drawing is {"),
        ({"drawing": {"val": 0, "seed": 1, "tokenizer": {"fraction": 1}}}, "drawing is {"),
    ],
)
def test_a_manifest_edited_by_hand(written, change, message):
    write_json(written[0], read_json(written[0]) | change)
    with pytest.raises(InputError) as error:
        read_manifest(*written)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_digest_of_a_manifest(written):
    manifest = read_json(written[0])
    digest = manifest_digest(manifest)
    moved = [
        entry | {"path": f"/elsewhere/{entry['path'].rpartition('/')[2]}"} for entry in manifest["files"]
    ]
    assert manifest_digest(manifest | {"provenance": {"commit": "other"}, "files": moved}) == digest
    (entry,) = manifest["files"]
    for other in (
        {"drawing": manifest["drawing"] | {"seed": 1}},
        {"reading": manifest["reading"] | {"extract": "docstrings"}},
        {"roles_sha256": "0" * 64},
        {"files": [entry | {"sha256": "0" * 64}]},
        {"files": [entry | {"path": "a.json"}]},
        {"files": [entry | {"package": "torch"}]},
    ):
        assert manifest_digest(manifest | other) != digest


def test_the_roles_follow_from_the_manifest(tmp_path):
    files = [jsonl(tmp_path / "a.jsonl", 90)]
    paths = tmp_path / "documents.json", tmp_path / "roles.bin"
    write_manifest(corpus_of(0.1, 0.3), 5, "text", files, *paths)
    manifest, _, roles = read_manifest(*paths)
    assert np.array_equal(document_roles(manifest["drawing"], 90), roles) and set(roles) == {0, 1, 2}


def test_empty_corpus(tmp_path):
    files = [jsonl(tmp_path / "a.jsonl", 0)]
    with pytest.raises(InputError) as error:
        write_manifest(corpus_of(), 137, "text", files, tmp_path / "documents.json", tmp_path / "roles.bin")
    assert (
        str(error.value)
        == f"corpora.text: no documents in 1 files ({tmp_path}/a.jsonl, ...); a corpus cannot be empty"
    )
    with pytest.raises(InputError) as error:
        write_manifest(
            corpus_of(0.1),
            137,
            "text",
            [jsonl(tmp_path / "a.jsonl", 1)],
            tmp_path / "documents.json",
            tmp_path / "roles.bin",
        )
    assert (
        str(error.value)
        == "corpora.text: of 1 documents 1 are for validation and 0 for the tokenizer; none is left to count"
    )
    assert not (tmp_path / "documents.json").exists() and not (tmp_path / "roles.bin").exists()
    with pytest.raises(InputError) as error:
        store_of(tmp_path / "train", [[], []])
    assert str(error.value) == f"{tmp_path}/train: the train split has no tokens; a corpus cannot be empty"
    assert not (tmp_path / "train/index.json").exists() and not (tmp_path / "train/ends.bin").exists()
    empty = store_of(tmp_path / "val", [[], []], split="val")
    assert (empty.m, empty.documents, len(empty.tokens(0, 0))) == (0, 0, 0)
