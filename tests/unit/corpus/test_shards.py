"""Shards: the documents in order, however they were made, and nothing left behind by one that failed."""

import itertools
import json
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import tokenizers
from pydantic import ValidationError
from support.documents import corpus_of, sample_texts, write_documents

import tokenbounds.corpus.shards
from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.documents import SPLITS, TOKENIZER, write_manifest
from tokenbounds.corpus.indexing import build_index
from tokenbounds.corpus.shards import tokenize_shard
from tokenbounds.corpus.sources import list_files
from tokenbounds.corpus.store import TokenStore
from tokenbounds.corpus.tokenizers import prepare_tokenizer, training_documents
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json


def tokenized(folder, corpus, tokenizer_dir, processes=1, seed=137):
    """All shards of a corpus, indexed; {split: TokenStore}."""
    folder.mkdir(exist_ok=True)
    write_manifest(
        corpus, seed, "text", list_files(corpus.source), folder / "documents.json", folder / "roles.bin"
    )
    for shard in range(corpus.shards):
        tokenize_shard(
            corpus, folder / "documents.json", folder / "roles.bin", tokenizer_dir, shard, folder, processes
        )
    for split in SPLITS:
        build_index([folder / split / f"{shard:05d}.json" for shard in range(corpus.shards)], folder / split)
    return {split: TokenStore(folder / split) for split in SPLITS}


def test_shards_hold_the_documents_in_order(trained, trained_dir, tmp_path, monkeypatch):
    documents = sample_texts(50)
    path = write_documents(tmp_path / "a.jsonl", documents)
    corpus = corpus_of({"train": {"vocab_size": 300, "fraction": 0.2}}, path, split={"val": 0.1}, shards=3)
    monkeypatch.setattr(tokenbounds.corpus.shards, "_BATCH_DOCUMENTS", 4)
    stores = tokenized(tmp_path / "tokens", corpus, trained_dir)
    roles = np.fromfile(tmp_path / "tokens/roles.bin", np.uint8)
    assert np.bincount(roles).tolist() == [35, 5, 10]
    for split, role in SPLITS.items():
        expected = [
            token
            for text, its_role in zip(documents, roles, strict=True)
            if its_role == role
            for token in [*trained.encode_batch([text])[0], trained.eot_id]
        ]
        assert stores[split].tokens(0, stores[split].m).tolist() == expected
        assert stores[split].documents == (roles == role).sum()
    assert list(
        training_documents(corpus, tmp_path / "tokens/documents.json", tmp_path / "tokens/roles.bin")
    ) == [text for text, role in zip(documents, roles, strict=True) if role == TOKENIZER]
    sidecar = read_json(tmp_path / "tokens/train/00000.json")
    assert sidecar["provenance"]["seed"] == 137 and sidecar["dtype"] == "uint16"


def test_processes_do_not_change_the_shards(trained_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenbounds.corpus.shards, "_BATCH_DOCUMENTS", 3)
    path = write_documents(tmp_path / "a.jsonl", sample_texts(60))
    corpus = corpus_of({"file": str(trained_dir / "tokenizer.json")}, path, split={"val": 0.2})
    for processes in (1, 2):
        tokenized(tmp_path / str(processes), corpus, trained_dir, processes)
    for split in SPLITS:
        for name in ("00000.bin", "00000.ends.bin", "ends.bin"):
            assert (tmp_path / "1" / split / name).read_bytes() == (
                tmp_path / "2" / split / name
            ).read_bytes()


def test_a_killed_run_leaves_no_shard_and_no_process(trained_dir, tmp_path, root):
    corpus = corpus_of(
        {"file": str(trained_dir / "tokenizer.json")},
        write_documents(tmp_path / "a.jsonl", sample_texts(20_000)),
    )
    write_manifest(
        corpus, 1, "text", list_files(corpus.source), tmp_path / "documents.json", tmp_path / "roles.bin"
    )
    program = (
        "import sys; from pathlib import Path\n"
        "from tokenbounds.config.schema import Corpus; from tokenbounds.corpus.shards import tokenize_shard\n"
        "if __name__ == '__main__':\n"
        "    here = Path(sys.argv[1]); corpus = Corpus.model_validate_json(sys.argv[3])\n"
        "    paths = here / 'documents.json', here / 'roles.bin'\n"
        "    tokenize_shard(corpus, *paths, sys.argv[2], 0, here, processes=2)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(trained_dir), corpus.model_dump_json()]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL) as run:
        wait_until(lambda: any(path.stat().st_size for path in (tmp_path / "train").glob(".00000.bin.*")))
        children = psutil.Process(run.pid).children(recursive=True)
        run.kill()
    assert children
    wait_until(
        lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    )
    assert not [
        path.name
        for split in SPLITS
        for path in (tmp_path / split).iterdir()
        if not path.name.startswith(".")
    ]


def test_memory_does_not_grow_with_the_corpus(trained_dir, tmp_path, root):
    """Compare the peak memory of processes that count and tokenize 14 MB and 2 MB; a batch is 1 MB."""
    program = (
        "import sys; from pathlib import Path; from tokenbounds.config.schema import Corpus\n"
        "from tokenbounds.corpus.documents import write_manifest\n"
        "from tokenbounds.corpus.shards import tokenize_shard\n"
        "from tokenbounds.corpus.sources import list_files\n"
        "here = Path(sys.argv[1]); corpus = Corpus.model_validate_json(sys.argv[3])\n"
        "paths = here / 'documents.json', here / 'roles.bin'\n"
        "write_manifest(corpus, 1, 'text', list_files(corpus.source), *paths)\n"
        "tokenize_shard(corpus, *paths, sys.argv[2], 0, here)\n"
        # Not ru_maxrss, which a process inherits from the one that started it.
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM:')))\n"
    )
    document, peaks = "x = tokenization_of_a_long_identifier\n" * 1000, []
    for megabytes in (2, 14):
        folder = tmp_path / str(megabytes)
        folder.mkdir()
        path = write_documents(
            folder / "a.jsonl", itertools.repeat(document, megabytes * 10**6 // len(document))
        )
        assert path.stat().st_size > megabytes * 10**6
        corpus = corpus_of({"file": str(trained_dir / "tokenizer.json")}, path).model_dump_json()
        command = [sys.executable, "-c", program, str(folder), str(trained_dir), corpus]
        peaks.append(
            int(subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout)
            / 1024
        )
    assert peaks[1] - peaks[0] < 9, f"{peaks} MiB"


def wait_until(condition, seconds=60):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_in_a_document_leaves_nothing(tmp_path, processes):
    base = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "end": 1, "?": 2}, unk_token="?"))
    base.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    base.save(str(tmp_path / "given.json"))
    path = write_documents(tmp_path / "a.jsonl", ["a", "a a", "a end"])
    corpus = corpus_of({"file": str(tmp_path / "given.json")}, path, eot="end")
    prepare_tokenizer(corpus, tmp_path / "tokenizer")
    with pytest.raises(InputError, match=f"^{path}:3: the text's own ids hold the end-of-text id 1"):
        tokenized(tmp_path / "tokens", corpus, tmp_path / "tokenizer", processes)
    assert not [
        file for file in (tmp_path / "tokens").rglob("*") if file.is_file() and file.parent.name in SPLITS
    ]


def test_empty_documents(trained_dir, tmp_path):
    path = write_documents(tmp_path / "a.jsonl", ["x", "", "def", ""])
    corpus = corpus_of({"file": str(trained_dir / "tokenizer.json")}, path)
    with pytest.raises(InputError) as error:
        tokenized(tmp_path / "error", corpus, trained_dir)
    assert str(error.value) == f"{path}:2: a document without text; expected text, or empty_documents: skip"
    stores = tokenized(tmp_path / "skip", corpus.model_copy(update={"empty_documents": "skip"}), trained_dir)
    assert stores["train"].documents == 2  # no EOT stands for the others
    assert read_json(tmp_path / "skip/documents.json")["documents"] == 4


def test_a_shard_that_does_not_exist(trained_dir, tmp_path):
    path = write_documents(tmp_path / "a.jsonl", ["x"])
    corpus = corpus_of({"file": str(trained_dir / "tokenizer.json")}, path)
    write_manifest(
        corpus, 1, "text", list_files(corpus.source), tmp_path / "documents.json", tmp_path / "roles.bin"
    )
    with pytest.raises(InputError, match=r"documents.json: shard 1 does not exist, expected 0 to 0$"):
        tokenize_shard(corpus, tmp_path / "documents.json", tmp_path / "roles.bin", trained_dir, 1, tmp_path)
    (tmp_path / "roles.bin").write_bytes(b"\1")
    with pytest.raises(InputError, match=r"roles.bin: not the roles that"):
        tokenize_shard(corpus, tmp_path / "documents.json", tmp_path / "roles.bin", trained_dir, 0, tmp_path)


# LLaMA tokens with one </s> per document, as counted when the samples were published with the reference data.
REDPAJAMA = {
    "arxiv": (299, 299_253),
    "c4-rp": (1108, 1_107_698),
    "github": (439, 438_639),
    "stackexchange": (1077, 1_076_817),
}


@pytest.mark.parametrize("name", sorted(REDPAJAMA))
def test_redpajama_token_counts(shared, tmp_path, name):
    corpus = Corpus(
        source={"files": [str(shared / f"data/redpajama_v1/{name}/*.jsonl")]},
        tokenizer={"sentencepiece": str(shared / "data/tokenizers/llama/tokenizer.model")},
        eot="</s>",
        shards=2,
    )
    prepare_tokenizer(corpus, tmp_path / "tokenizer")
    train = tokenized(tmp_path / "tokens", corpus, tmp_path / "tokenizer")["train"]
    published_thousands, exact = REDPAJAMA[name]
    assert round(train.m / 1000) == published_thousands
    assert train.m == exact


def given_ids(folder, rows, **more):
    """A corpus of token ids of a listed vocabulary of 6, of which 2 ends documents."""
    (folder / "a.jsonl").write_text("".join(json.dumps({"token_ids": row}) + "\n" for row in rows))
    source = {"files": [str(folder / "a.jsonl")], "field": "token_ids", "eot_id": 2} | more.pop("source", {})
    corpus = Corpus.model_validate(
        {"source": source, "tokenizer": {"vocabulary": list("ab|cde")}, "eot": "|", **more}
    )
    prepare_tokenizer(corpus, folder / "tokenizer")
    return corpus


@pytest.mark.parametrize("shards", [1, 3])
def test_token_ids_in_place_of_text(tmp_path, shards):
    rows = [[0, 1, 2, 3], [4, 5], [2, 2, 1]]
    corpus = given_ids(tmp_path, rows, shards=shards, empty_documents="skip")
    train = tokenized(tmp_path / "tokens", corpus, tmp_path / "tokenizer")["train"]
    # The document without tokens is left out with its end, the last one gets the end that it lacks.
    assert train.tokens(0, train.m).tolist() == [0, 1, 2, 3, 4, 5, 2, 1, 2] and train.documents == 3
    with pytest.raises(InputError, match=r"a\.jsonl:3: a document without text"):
        tokenized(
            tmp_path / "error", corpus.model_copy(update={"empty_documents": "error"}), tmp_path / "tokenizer"
        )


def test_token_ids_that_do_not_fit_the_tokenizer(tmp_path):
    corpus = given_ids(tmp_path, [[0, 2], [1], [6, 2]])
    with pytest.raises(
        InputError, match=rf"^{tmp_path}/a\.jsonl:2-3: found id 6, outside the vocabulary of 6$"
    ):
        tokenized(tmp_path / "tokens", corpus, tmp_path / "tokenizer")
    corpus = given_ids(tmp_path, [[0, 1]], source={"eot_id": 1})
    with pytest.raises(InputError, match=r"^source\.eot_id: 1; expected 2, the tokenizer's id of '\|'$"):
        tokenized(tmp_path / "other", corpus, tmp_path / "tokenizer")
    for wrong in (
        {"tokenizer": {"train": {"vocab_size": 300}}},
        {"source": {"installed": ["tqdm"], "eot_id": 2}},
    ):
        with pytest.raises(ValidationError, match="eot_id"):
            Corpus.model_validate({**corpus.model_dump(exclude_none=True), **wrong})


def test_published_rows_of_amber(shared, tmp_path):
    """m is the ids of the file and the end of the last document; the ids are the file's."""
    path = shared / "data/amber/good_sample.jsonl"
    tokenizer = {"sentencepiece": str(shared / "data/tokenizers/llama/tokenizer.model")}
    corpus = Corpus(
        source={"files": [str(path)], "field": "token_ids", "eot_id": 2},
        tokenizer=tokenizer,
        eot="</s>",
        shards=2,
    )
    prepare_tokenizer(corpus, tmp_path / "tokenizer")
    train = tokenized(tmp_path / "tokens", corpus, tmp_path / "tokenizer")["train"]
    rows = [json.loads(line)["token_ids"] for line in path.read_text().splitlines()]
    assert (train.m, train.documents) == (9 * 2049 + 1, 35)
    assert train.tokens(0, train.m).tolist() == [*itertools.chain(*rows), 2]
