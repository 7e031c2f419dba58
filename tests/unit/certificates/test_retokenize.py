"""Tokens made again from the source files: forgeries whose hashes all agree are found here, and only here."""

import hashlib
import shutil

import numpy as np
import pytest
from support.corpora import make_corpus
from support.documents import corpus_of, sample_texts, write_documents

from tokenbounds.certificates.corpus_facts import corpus_facts
from tokenbounds.certificates.retokenize import retokenize
from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.documents import manifest_digest
from tokenbounds.corpus.indexing import build_index
from tokenbounds.corpus.tokenizer_folder import tokenizer_digest, write_trained_on
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, sha256_file, write_json

CERTIFICATE = {"corpus": {"name": "text"}}
TRAINED = {"train": {"vocab_size": 300, "fraction": 0.2}}
ALL = ["index", "sources", "roles", "tokens", "repetition", "tokenizer"]


def numbered_texts(count):
    return [f"{number} {text}" for number, text in enumerate(sample_texts(count))]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """A run with corpus `text`: some documents without text, a trained tokenizer, two files, three shards."""
    folder = tmp_path_factory.mktemp("retokenize")
    texts = numbered_texts(90)
    texts[7] = texts[50] = texts[51] = ""
    write_documents(folder / "a.jsonl", texts[:40])
    write_documents(folder / "b.jsonl", texts[40:])
    corpus = corpus_of(TRAINED, folder / "*.jsonl", split={"val": 0.1}, shards=3, empty_documents="skip")
    make_corpus(folder / "run/tokens/text", corpus)
    return folder


@pytest.fixture
def folder(untouched, tmp_path):
    """``tokens/text`` of a copy of the run to damage; the source files are in the copy too."""
    shutil.copytree(untouched, tmp_path / "copy")
    path = tmp_path / "copy/run/tokens/text/documents.json"
    files = read_json(path)["files"]
    moved = [
        entry | {"path": entry["path"].replace(str(untouched), str(tmp_path / "copy"))} for entry in files
    ]
    edit(path, files=moved)
    return tmp_path / "copy/run/tokens/text"


def edit(path, **changes):
    write_json(path, read_json(path) | changes)


def checks(folder, count="all"):
    found = list(retokenize(folder.parents[1], CERTIFICATE, count))
    assert all("\n" not in check.detail for check in found)
    return found


def failures(folder, count="all"):
    return {check.name: check.detail for check in checks(folder, count) if not check.held}


def rehash(folder):
    """Make sidecars, manifest and index of the counted documents agree with what is in the folder now."""
    edit(folder / "documents.json", roles_sha256=sha256_file(folder / "roles.bin"))
    hashes = {
        "manifest_sha256": manifest_digest(read_json(folder / "documents.json")),
        "roles_sha256": sha256_file(folder / "roles.bin"),
        "tokenizer_sha256": tokenizer_digest(folder / "tokenizer"),
        "roles": read_json(folder / "documents.json")["roles"],
    }
    paths = sorted((folder / "train").glob("0000?.json"))
    for path in paths:
        tokens = {"sha256": path.with_suffix(".bin"), "ends_sha256": path.with_suffix(".ends.bin")}
        edit(path, **hashes, **{key: sha256_file(name) for key, name in tokens.items()})
    build_index(paths, folder / "train", 4)
    corpus_facts(folder.parents[1], "text")  # nothing but the source files contradicts it


def test_all_documents(untouched):
    found = checks(untouched / "run/tokens/text")
    assert [check.name for check in found] == ALL and all(check.held for check in found)
    details = {check.name: check.detail for check in found}
    assert details["tokens"].startswith("all 63 documents, ") and "in order" in details["tokens"]
    assert details["tokenizer"].startswith("training on the 18 documents that are left out")
    assert "2 files" in details["sources"] and "9 validation and 18 tokenizer documents" in details["roles"]


def test_some_documents(untouched):
    found = checks(untouched / "run/tokens/text", 20)
    assert [check.name for check in found] == ALL[:4] and all(check.held for check in found)
    assert found[-1].detail.startswith("20 random documents, ")
    assert found[-1].detail.endswith("at most 14% of the documents differ (95%)")  # 1 - .05^(1/20) = .139
    everything = checks(untouched / "run/tokens/text", 1000)
    assert everything[-1].detail.startswith("all 63 documents")


def test_what_a_sample_excludes_is_true():
    """With a share of 13.9% of the documents forged, 20 drawn ones are all in order in 5% of the cases."""
    rng = np.random.default_rng(0)
    passed = np.mean([not (rng.random(20) < 1 - 0.05 ** (1 / 20)).any() for _ in range(20_000)])
    assert abs(passed - 0.05) < 0.006


def change_token(folder, shard=1):
    path = folder / f"train/{shard:05d}.bin"
    tokens = np.fromfile(path, "<u2")
    tokens[3] = tokens[3] % 200 + 1
    path.write_bytes(tokens.tobytes())


def test_a_token_edited_with_all_hashes(folder):
    change_token(folder)
    rehash(folder)
    found = failures(folder)
    assert list(found) == ["tokens"]
    assert "jsonl:" in found["tokens"] and "but" in found["tokens"] and "in its source" in found["tokens"]
    # in a sample: as often as the document is drawn
    caught = [bool(failures(folder, 30)) for _ in range(25)]
    assert any(caught) and not all(caught)


def test_two_documents_exchanged(folder):
    path = folder / "train/00000.bin"
    tokens, ends = np.fromfile(path, "<u2"), np.fromfile(path.with_suffix(".ends.bin"), "<u8").astype(int)
    first, second = tokens[: ends[0]], tokens[ends[0] : ends[1]]
    path.write_bytes(np.concatenate([second, first, tokens[ends[1] :]]).tobytes())
    new = np.concatenate([[ends[1] - ends[0]], ends[1:]]).astype("<u8")
    path.with_suffix(".ends.bin").write_bytes(new.tobytes())
    rehash(folder)
    assert list(failures(folder)) == ["tokens"]


def test_a_document_left_out_as_one_without_text(folder):
    """A document that the model predicts badly is said to be empty."""
    path = folder / "train/00000.bin"
    tokens, ends = np.fromfile(path, "<u2"), np.fromfile(path.with_suffix(".ends.bin"), "<u8").astype(int)
    path.write_bytes(tokens[ends[0] :].tobytes())
    path.with_suffix(".ends.bin").write_bytes((ends[1:] - ends[0]).astype("<u8").tobytes())
    roles = np.fromfile(folder / "roles.bin", np.uint8)
    first = int(np.flatnonzero(roles == 0)[0])
    skipped = read_json(path.with_suffix(".json"))["skipped_documents"]
    edit(
        path.with_suffix(".json"),
        tokens=int(len(tokens) - ends[0]),
        documents=len(ends) - 1,
        skipped_documents=sorted([first, *skipped]),
    )
    rehash(folder)
    assert "left out as a document without text, but it has" in failures(folder)["tokens"]


def test_swapped_roles(folder):
    """A counted document is said to be one of the tokenizer's, and the reverse; all hashes agree."""
    roles = np.fromfile(folder / "roles.bin", np.uint8)
    first, second = int(np.flatnonzero(roles == 0)[0]), int(np.flatnonzero(roles == 2)[0])
    roles[[first, second]] = roles[[second, first]]
    (folder / "roles.bin").write_bytes(roles.tobytes())
    rehash(folder)
    found = failures(folder)
    at = min(first, second)
    assert found == {
        "roles": f"{folder}/roles.bin: 2 documents have another role; the first is {at}, "
        f"role {roles[at]} in place of {2 - roles[at]}"
    }


def test_a_repeated_corpus_that_says_nothing(folder):
    rehash(folder)
    edit(folder / "train/index.json", duplicate_documents=1)
    assert "duplicate_documents is 1, counted again 0" in failures(folder)["repetition"]


def test_source_files_that_are_not_there_or_others(folder):
    source = folder.parents[2] / "b.jsonl"
    data = source.read_bytes()
    source.write_bytes(data[:-4] + b'x"}\n')
    assert failures(folder) == {"sources": f"{source}: not the file whose documents were counted"}
    source.write_bytes(data + b'{"text": "more"}\n')
    assert list(failures(folder)) == ["sources"]
    source.unlink()
    assert failures(folder) == {"sources": f"{source}: the source file is not there (or no file)"}
    source.mkdir()
    assert list(failures(folder)) == ["sources"]
    # a file that the run made itself is found in the run, wherever the run is now
    source.rmdir()
    (folder / "b.jsonl").write_bytes(data)
    assert not failures(folder)


def test_a_manifest_that_states_other_numbers_of_documents(folder):
    """Two files exchange a document: totals agree, the documents' numbers do not."""
    path = folder / "documents.json"
    first, second = read_json(path)["files"]
    counts = {"documents": first["documents"] - 1}, {"documents": second["documents"] + 1}
    edit(path, files=[first | counts[0], second | counts[1]])
    rehash(folder)
    assert "a.jsonl: 40 documents, 39 are stated" in failures(folder)["sources"]


def test_a_tokenizer_that_was_trained_on_other_documents(folder):
    """Its digests, its folder's hash and the index agree: only training again shows it."""
    path = folder / "tokenizer/trained_on.bin"
    write_trained_on(folder / "tokenizer", [bytes([i]) * 16 for i in range(18)])
    assert path.stat().st_size == 18 * 16
    rehash(folder)
    found = failures(folder)
    assert "not trained on the 18 documents that are left out for it" in found["tokenizer"]


def test_a_tokenizer_edited_with_all_hashes(folder):
    path = folder / "tokenizer/tokenizer.json"
    text = path.read_text()
    path.write_text(text.replace('"version": "1.0"', '"version":  "1.0"'))
    edit(folder / "tokenizer/info.json", sha256=sha256_file(path))
    rehash(folder)
    found = failures(folder)
    assert list(found) == ["tokenizer"] and "not what training on 18 documents gives" in found["tokenizer"]


def test_training_again_gives_the_same_bytes(tmp_path):
    """Also when fewer merges are possible than were asked for."""
    path = write_documents(tmp_path / "a.jsonl", numbered_texts(100))
    corpus = corpus_of({"train": {"vocab_size": 5000, "fraction": 0.5}}, path)
    make_corpus(tmp_path / "run/tokens/text", corpus)
    assert read_json(tmp_path / "run/tokens/text/tokenizer/info.json")["vocab_size"] < 5000
    assert not failures(tmp_path / "run/tokens/text")


def test_the_tokenizer_of_another_corpus(untouched, tmp_path):
    tokens = tmp_path / "run/tokens"
    shutil.copytree(untouched / "run/tokens/text", tokens / "first")
    shutil.copytree(untouched / "run/tokens/text/tokenizer", tmp_path / "trained")
    manifest = read_json(tokens / "first/documents.json")
    drawing = manifest["drawing"]
    assert drawing["tokenizer"]["corpus"] == "text"
    path = write_documents(tmp_path / "second.jsonl", [text + " second" for text in numbered_texts(20)])
    corpus = Corpus(source={"files": [str(path)]}, tokenizer={"corpus": "first"})
    make_corpus(tokens / "text", corpus, other=tmp_path / "trained")
    found = {check.name: check.detail for check in checks(tokens / "text")}
    assert not failures(tokens / "text") and found["tokenizer"].startswith("training on the 18 documents")
    shutil.rmtree(tokens / "first")
    assert "not there, but the tokenizer was trained on" in failures(tokens / "text")["tokenizer"]


def test_docstrings_and_ids(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.py").write_text(f'"""Title {number}."""\nx = 1\n')
    corpus = corpus_of({"vocabulary": ["Title", " ", *"0123.", "<|endoftext|>"]}, tmp_path / "*.py")
    corpus = corpus.model_copy(update={"source": corpus.source.model_copy(update={"extract": "docstrings"})})
    make_corpus(tmp_path / "run/tokens/text", corpus)
    assert not failures(tmp_path / "run/tokens/text")
    assert not failures(tmp_path / "run/tokens/text", 2)
    (tmp_path / "ids.jsonl").write_text('{"ids": [1, 3, 2, 0, 1]}\n{"ids": [3, 2, 2, 1, 1]}\n')
    source = {"files": [str(tmp_path / "ids.jsonl")], "field": "ids", "eot_id": 2}
    corpus = Corpus(source=source, tokenizer={"vocabulary": list("ab|c")}, eot="|", empty_documents="skip")
    make_corpus(tmp_path / "ids/tokens/text", corpus)
    assert not failures(tmp_path / "ids/tokens/text")


def test_files_of_installed_packages(tmp_path):
    corpus = Corpus(source={"installed": ["tqdm"]}, tokenizer={"train": {"vocab_size": 400}})
    make_corpus(tmp_path / "run/tokens/text", corpus)
    found = checks(tmp_path / "run/tokens/text")
    assert all(check.held for check in found) and [check.name for check in found] == ALL


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", None, 3])
def test_a_corpus_outside_of_the_run(untouched, name):
    with pytest.raises(InputError, match="expected the name of a folder in"):
        list(retokenize(untouched / "run", {"corpus": {"name": name}}, 1))


def test_no_read_of_what_is_no_stated_file(folder, tmp_path):
    """A manifest of a stranger names any path: only a file of the stated size and hash is parsed."""
    path = folder / "documents.json"
    first, second = read_json(path)["files"]
    edit(path, files=[first, second | {"path": "/dev/zero"}])
    rehash(folder)
    assert failures(folder)["sources"] == "/dev/zero: the source file is not there (or no file)"
    secret = tmp_path / "secret.jsonl"
    secret.write_text("not json")
    digest = hashlib.sha256(b"other").hexdigest()
    edit(path, files=[first, second | {"path": str(secret), "bytes": 8, "sha256": digest}])
    rehash(folder)
    assert failures(folder)["sources"] == f"{secret}: not the file whose documents were counted"
