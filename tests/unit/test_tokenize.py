"""Tokenizers and shards: known encodings, special tokens in text, and shards that do not depend on how they were made."""

import itertools
import json
import shutil
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import tokenbounds.tokenize
from tokenbounds.corpus import SPLITS, TOKENIZER, TokenStore, build_index, write_manifest
from tokenbounds.errors import InputError
from tokenbounds.files import read_json
from tokenbounds.sections import Corpus
from tokenbounds.sources import list_files
from tokenbounds.tokenize import load_tokenizer, prepare_tokenizer, tokenize_shard, train_tokenizer, training_documents

EOT = "<|endoftext|>"


def corpus_of(tokenizer, files="none.txt", **more):
    return Corpus(source={"files": [str(files)]}, tokenizer=tokenizer, **more)


def prepared(folder, tokenizer, documents=None, hub_files=None, **more):
    prepare_tokenizer(corpus_of(tokenizer, **more), folder, documents=documents, hub_files=hub_files)
    return load_tokenizer(folder)


def sample_texts(count=200):
    rng = np.random.default_rng(0)
    words = ["def", "return", "x", "(", ")", "\n    ", "\n", "import", EOT, "naïve", "🙂", "1234", "  "]
    return [" ".join(rng.choice(words, size=rng.integers(1, 60))) for _ in range(count)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("trained") / "tokenizer", {"train": {"vocab_size": 300}}, documents=sample_texts())


@pytest.fixture(scope="module")
def trained_dir(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained_dir") / "tokenizer"
    prepare_tokenizer(corpus_of({"train": {"vocab_size": 300}}), folder, documents=sample_texts())
    return folder


@pytest.fixture(scope="module")
def piece_model(tmp_path_factory):
    """A small SentencePiece BPE with byte fallback, as LLaMA's is."""
    path = tmp_path_factory.mktemp("piece") / "tokenizer.model"
    with path.open("wb") as handle:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample_texts()), model_writer=handle, vocab_size=320, model_type="bpe", byte_fallback=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False, hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
    return path


# ---------------------------------------------------------------- tokenizers


def test_training_is_deterministic_across_processes(trained, root):
    program = (
        "import json, sys; from tokenbounds.tokenize import train_tokenizer; "
        "texts = json.load(sys.stdin); print(train_tokenizer(texts, 300, '<|endoftext|>').to_str())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=json.dumps(sample_texts()), capture_output=True, text=True, cwd=root, check=True
    )
    assert json.loads(done.stdout) == json.loads(train_tokenizer(sample_texts(), 300, EOT).to_str())
    assert trained.vocab_size == 300 and trained.eot_id == 0 and trained.eot == EOT


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from([EOT, f"a{EOT}b", f"{EOT}{EOT}", "\0", " \n"]), max_size=4
    )
)
def test_byte_level_round_trip_never_gives_the_eot(trained, texts):
    encoded = trained.encode_batch(texts)
    assert [trained.decode(ids) for ids in encoded] == texts
    for ids in encoded:
        assert ids.dtype == np.uint32
        assert (ids != trained.eot_id).all() and (ids < trained.vocab_size).all()
    assert trained.decode([trained.eot_id]) == EOT


def test_gpt2_known_encodings(shared, tmp_path):
    tokenizer = prepared(tmp_path / "tokenizer", {"gpt2": str(shared / "data/tokenizers/gpt2")})
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (50257, 50256)
    # Reference ids as published with the GPT-2 encoder and repeated in its ports' documentation.
    assert tokenizer.encode_batch(["Hello world", "Hello, my dog is cute", ""])[0].tolist() == [15496, 995]
    assert tokenizer.encode_batch(["Hello, my dog is cute"])[0].tolist() == [15496, 11, 616, 3290, 318, 13779]
    # The text that spells the EOT is seven ordinary tokens, not 50256.
    (ids,) = tokenizer.encode_batch([EOT])
    assert ids.tolist() == [27, 91, 437, 1659, 5239, 91, 29]
    assert tokenizer.decode(ids) == EOT


def test_not_gpt2(shared, tmp_path):
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copyfile(shared / "data/tokenizers/gpt2" / name, tmp_path / name)
    vocabulary = json.loads((tmp_path / "encoder.json").read_text())
    vocabulary["Hello"], vocabulary["world"] = vocabulary["world"], vocabulary["Hello"]
    (tmp_path / "encoder.json").write_text(json.dumps(vocabulary))
    with pytest.raises(InputError, match=f"^{tmp_path}: not GPT-2's vocabulary: 'Hello, my dog is cute' gives"):
        prepared(tmp_path / "tokenizer", {"gpt2": str(tmp_path)})
    assert not (tmp_path / "tokenizer").exists()
    with pytest.raises(InputError, match=f"^{tmp_path}/none/encoder.json: no such file; expected encoder.json and vocab.bpe of GPT-2$"):
        prepared(tmp_path / "tokenizer", {"gpt2": str(tmp_path / "none")})


def test_llama_adds_nothing(shared, tmp_path):
    tokenizer = prepared(tmp_path / "tokenizer", {"sentencepiece": str(shared / "data/tokenizers/llama/tokenizer.model")}, eot="</s>")
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (32000, 2)
    # Reference: "Hello world" is 15043 3186 after the BOS in LLaMA's own documentation.
    assert tokenizer.encode_batch(["Hello world"])[0].tolist() == [15043, 3186]
    (ids,) = tokenizer.encode_batch(["a</s>b<s>"])
    assert not set(ids.tolist()) & {1, 2} and tokenizer.decode(ids) == "a</s>b<s>"


@settings(max_examples=40, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters=" "), max_size=40))
def test_sentencepiece_round_trip(piece_model, text):
    tokenizer = tokenbounds.tokenize._SentencePiece(piece_model, "</s>")
    (ids,) = tokenizer.encode_batch([text])
    # The symbol that SentencePiece writes a space as cannot be told from one.
    assert tokenizer.decode(ids) == text.replace("\u2581", " ").removeprefix(" " if text.startswith("\u2581") else "")


def test_settings_of_a_given_tokenizer_that_would_change_text_are_off(tmp_path):
    base = train_tokenizer(sample_texts(), 300, "<s>")
    expected = base.encode("import naïve return x").ids
    base.enable_truncation(3)
    base.enable_padding(length=50)
    base.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A <s>", special_tokens=[("<s>", 0)])
    base.model.dropout = 0.9
    base.save(str(tmp_path / "given.json"))
    tokenizer = prepared(tmp_path / "tokenizer", {"file": str(tmp_path / "given.json")}, eot="<s>")
    assert tokenizer.encode_batch(["import naïve return x"])[0].tolist() == expected


def test_an_eot_that_the_file_does_not_mark_as_special(tmp_path):
    base = train_tokenizer(sample_texts(), 300, "<s>")
    base.add_tokens([EOT])
    assert base.encode(f"a{EOT}b").ids[1] == 300
    base.save(str(tmp_path / "given.json"))
    tokenizer = prepared(tmp_path / "tokenizer", {"file": str(tmp_path / "given.json")})
    assert tokenizer.eot_id == 300 and tokenizer.vocab_size == 301
    (ids,) = tokenizer.encode_batch([f"a{EOT}b"])
    assert 300 not in ids and tokenizer.decode(ids) == f"a{EOT}b"


def test_an_eot_that_text_can_be_encoded_with_is_refused(tmp_path):
    base = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "end": 1, "?": 2}, unk_token="?"))
    base.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    base.save(str(tmp_path / "given.json"))
    tokenizer = prepared(tmp_path / "tokenizer", {"file": str(tmp_path / "given.json")}, eot="end")
    assert tokenizer.encode_batch(["a a"])[0].tolist() == [0, 0]
    with pytest.raises(
        InputError, match=r"^x\.jsonl:7: the text's own ids hold the end-of-text id 1 \('end'\), which only ends documents$"
    ):
        tokenizer.encode_batch(["a", "a end"], ["x.jsonl:6", "x.jsonl:7"])


def test_gaps_in_the_ids_count_as_vocabulary(tmp_path):
    base = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 5, "end": 1, "?": 70_000}, unk_token="?"))
    base.save(str(tmp_path / "given.json"))
    assert prepared(tmp_path / "tokenizer", {"file": str(tmp_path / "given.json")}, eot="end").vocab_size == 70_001


def test_missing_eot_gives_a_hint(piece_model, trained_dir, tmp_path):
    for tokenizer, special in [({"sentencepiece": str(piece_model)}, "<s>, </s>"), ({"file": str(trained_dir / "tokenizer.json")}, EOT)]:
        path = next(iter(tokenizer.values()))
        with pytest.raises(InputError) as error:
            prepared(tmp_path / "tokenizer", tokenizer, eot="<|end|>")
        vocabulary = f"its vocabulary of {read_size(path)}; its special tokens are {special}"
        assert str(error.value) == f"{path}: the end-of-text token '<|end|>' (key eot) is not in {vocabulary}"
    assert not any(tmp_path.iterdir())


def read_size(path):
    if path.endswith(".model"):
        return sentencepiece.SentencePieceProcessor(model_file=path).get_piece_size()
    return tokenizers.Tokenizer.from_file(path).get_vocab_size()


def test_unreadable_tokenizers(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "bad.model").write_text("no model")
    for tokenizer, message in [
        ({"file": f"{tmp_path}/none.json"}, f"tokenizer.file: {tmp_path}/none.json: no such file"),
        ({"file": f"{tmp_path}/bad.json"}, f"{tmp_path}/bad.json: not a tokenizer.json ("),
        ({"sentencepiece": f"{tmp_path}/bad.model"}, f"{tmp_path}/bad.model: not a SentencePiece model ("),
    ]:
        with pytest.raises(InputError) as error:
            prepared(tmp_path / "tokenizer", tokenizer)
        assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_hub_tokenizers(piece_model, trained_dir, tmp_path):
    hub = {"hub": "owner/name", "revision": "0" * 40}
    both = [{"name": "tokenizer.model", "path": str(piece_model)}, {"name": "tokenizer.json", "path": str(trained_dir / "tokenizer.json")}]
    assert prepared(tmp_path / "a", hub, hub_files=both).vocab_size == 300
    assert prepared(tmp_path / "b", hub, hub_files=both[:1], eot="</s>").eot_id == 2
    with pytest.raises(InputError, match=r"^owner/name: found vocab.txt; expected tokenizer.json or tokenizer.model$"):
        prepared(tmp_path / "c", hub, hub_files=[{"name": "vocab.txt", "path": "vocab.txt"}])


def test_tokenizer_of_another_corpus(trained, trained_dir, tmp_path):
    prepare_tokenizer(corpus_of({"corpus": "other"}), tmp_path / "tokenizer", other=trained_dir)
    found = load_tokenizer(tmp_path / "tokenizer")
    text = "def naïve(x):\n    return x"
    ours, theirs = (list(tokenizer.encode_batch([text], ["a"])[0]) for tokenizer in (found, trained))
    assert ours == theirs and found.vocab_size == trained.vocab_size
    # It was not made from documents that this corpus leaves out, so certificates must not say so.
    assert read_json(tmp_path / "tokenizer/info.json")["kind"] == "corpus"
    with pytest.raises(InputError, match="no such file"):
        prepare_tokenizer(corpus_of({"corpus": "other"}), tmp_path / "absent", other=tmp_path / "nothing")


def test_a_changed_tokenizer_is_named(trained_dir, tmp_path):
    folder = shutil.copytree(trained_dir, tmp_path / "tokenizer")
    info = read_json(folder / "info.json")
    assert (info["kind"], info["file"], info["vocab_size"], info["eot"], info["eot_id"]) == ("train", "tokenizer.json", 300, EOT, 0)
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    with pytest.raises(InputError, match=f"^{folder}/tokenizer.json: changed since it was written"):
        load_tokenizer(folder)


def test_a_huge_document_is_encoded_as_a_whole_would_be(trained, monkeypatch):
    text = "\n".join(line.strip() for line in sample_texts(60)) + "\n\n  y"
    whole = trained.encode_batch([text])[0]
    monkeypatch.setattr(tokenbounds.tokenize, "_PIECE_CHARACTERS", 500)
    pieces = list(tokenbounds.tokenize._pieces(text))
    assert "".join(pieces) == text and len(pieces) > 4 and max(map(len, pieces)) <= 1000
    assert np.array_equal(trained.encode_batch([text])[0], whole)
    # Without a place to cut, it is cut all the same, and nothing is lost.
    assert trained.decode(trained.encode_batch(["z" * 5000])[0]) == "z" * 5000
    for length in (0, 499, 500, 501, 999, 1000, 1001, 1500):
        assert "".join(tokenbounds.tokenize._pieces("z" * length)) == "z" * length


# ---------------------------------------------------------------- shards


def write_documents(path, documents):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


def tokenized(folder, corpus, tokenizer_dir, processes=1, seed=137):
    """All shards of a corpus, indexed; {split: TokenStore}."""
    folder.mkdir(exist_ok=True)
    write_manifest(corpus, seed, "text", list_files(corpus.source), folder / "documents.json", folder / "roles.bin")
    for shard in range(corpus.shards):
        tokenize_shard(corpus, folder / "documents.json", folder / "roles.bin", tokenizer_dir, shard, folder, processes)
    for split in SPLITS:
        build_index([folder / split / f"{shard:05d}.json" for shard in range(corpus.shards)], folder / split)
    return {split: TokenStore(folder / split) for split in SPLITS}


def test_shards_hold_the_documents_in_order(trained, trained_dir, tmp_path, monkeypatch):
    documents = sample_texts(50)
    path = write_documents(tmp_path / "a.jsonl", documents)
    corpus = corpus_of({"train": {"vocab_size": 300, "fraction": 0.2}}, path, split={"val": 0.1}, shards=3)
    monkeypatch.setattr(tokenbounds.tokenize, "_BATCH_DOCUMENTS", 4)
    stores = tokenized(tmp_path / "tokens", corpus, trained_dir)
    roles = np.fromfile(tmp_path / "tokens/roles.bin", np.uint8)
    assert np.bincount(roles).tolist() == [35, 5, 10]
    for split, role in SPLITS.items():
        expected = [
            token
            for text, found in zip(documents, roles, strict=True)
            if found == role
            for token in [*trained.encode_batch([text])[0], trained.eot_id]
        ]
        assert stores[split].tokens(0, stores[split].m).tolist() == expected
        assert stores[split].documents == (roles == role).sum()
    assert list(training_documents(corpus, tmp_path / "tokens/documents.json", tmp_path / "tokens/roles.bin")) == [
        text for text, role in zip(documents, roles, strict=True) if role == TOKENIZER
    ]
    sidecar = read_json(tmp_path / "tokens/train/00000.json")
    assert sidecar["provenance"]["seed"] == 137 and sidecar["dtype"] == "uint16"


def test_processes_do_not_change_the_shards(trained_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenbounds.tokenize, "_BATCH_DOCUMENTS", 3)
    path = write_documents(tmp_path / "a.jsonl", sample_texts(60))
    corpus = corpus_of({"file": str(trained_dir / "tokenizer.json")}, path, split={"val": 0.2})
    for processes in (1, 2):
        tokenized(tmp_path / str(processes), corpus, trained_dir, processes)
    for split in SPLITS:
        for name in ("00000.bin", "00000.ends.bin", "ends.bin"):
            assert (tmp_path / "1" / split / name).read_bytes() == (tmp_path / "2" / split / name).read_bytes()


def test_a_killed_run_leaves_no_shard_and_no_process(trained_dir, tmp_path, root):
    corpus = corpus_of({"file": str(trained_dir / "tokenizer.json")}, write_documents(tmp_path / "a.jsonl", sample_texts(20_000)))
    write_manifest(corpus, 1, "text", list_files(corpus.source), tmp_path / "documents.json", tmp_path / "roles.bin")
    program = (
        "import sys; from pathlib import Path; from tokenbounds.sections import Corpus; from tokenbounds.tokenize import tokenize_shard\n"
        "if __name__ == '__main__':\n"
        "    here = Path(sys.argv[1]); corpus = Corpus.model_validate_json(sys.argv[3])\n"
        "    tokenize_shard(corpus, here / 'documents.json', here / 'roles.bin', sys.argv[2], 0, here, processes=2)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(trained_dir), corpus.model_dump_json()]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL) as run:
        wait_until(lambda: any(path.stat().st_size for path in (tmp_path / "train").glob(".00000.bin.*")))
        children = psutil.Process(run.pid).children(recursive=True)
        run.kill()
    assert children
    wait_until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))
    assert not [path.name for split in SPLITS for path in (tmp_path / split).iterdir() if not path.name.startswith(".")]


def test_memory_does_not_grow_with_the_corpus(trained_dir, tmp_path, root):
    """Peak memory of a process that counts and tokenizes 14 MB, above that of one with 2 MB; a batch is 1 MB."""
    program = (
        "import sys; from pathlib import Path; from tokenbounds.sections import Corpus; from tokenbounds.corpus import write_manifest\n"
        "from tokenbounds.sources import list_files; from tokenbounds.tokenize import tokenize_shard\n"
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
        path = write_documents(folder / "a.jsonl", itertools.repeat(document, megabytes * 10**6 // len(document)))
        assert path.stat().st_size > megabytes * 10**6
        corpus = corpus_of({"file": str(trained_dir / "tokenizer.json")}, path).model_dump_json()
        command = [sys.executable, "-c", program, str(folder), str(trained_dir), corpus]
        peaks.append(int(subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout) / 1024)
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
    assert not [file for file in (tmp_path / "tokens").rglob("*") if file.is_file() and file.parent.name in SPLITS]


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
    write_manifest(corpus, 1, "text", list_files(corpus.source), tmp_path / "documents.json", tmp_path / "roles.bin")
    with pytest.raises(InputError, match=r"documents.json: shard 1 does not exist, expected 0 to 0$"):
        tokenize_shard(corpus, tmp_path / "documents.json", tmp_path / "roles.bin", trained_dir, 1, tmp_path)
    (tmp_path / "roles.bin").write_bytes(b"\1")
    with pytest.raises(InputError, match=r"roles.bin: not the roles that"):
        tokenize_shard(corpus, tmp_path / "documents.json", tmp_path / "roles.bin", trained_dir, 0, tmp_path)


# LLaMA tokens with one </s> per document, as counted when the samples were published with the reference data.
REDPAJAMA = {"arxiv": (299, 299_253), "c4-rp": (1108, 1_107_698), "github": (439, 438_639), "stackexchange": (1077, 1_076_817)}


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
    corpus = Corpus.model_validate({"source": source, "tokenizer": {"vocabulary": list("ab|cde")}, "eot": "|", **more})
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
        tokenized(tmp_path / "error", corpus.model_copy(update={"empty_documents": "error"}), tmp_path / "tokenizer")


def test_token_ids_that_do_not_fit_the_tokenizer(tmp_path):
    corpus = given_ids(tmp_path, [[0, 2], [1], [6, 2]])
    with pytest.raises(InputError, match=rf"^{tmp_path}/a\.jsonl:2-3: found id 6, outside the vocabulary of 6$"):
        tokenized(tmp_path / "tokens", corpus, tmp_path / "tokenizer")
    corpus = given_ids(tmp_path, [[0, 1]], source={"eot_id": 1})
    with pytest.raises(InputError, match=r"^source\.eot_id: 1; expected 2, the tokenizer's id of '\|'$"):
        tokenized(tmp_path / "other", corpus, tmp_path / "tokenizer")
    for wrong in ({"tokenizer": {"train": {"vocab_size": 300}}}, {"source": {"installed": ["tqdm"], "eot_id": 2}}):
        with pytest.raises(ValidationError, match="eot_id"):
            Corpus.model_validate({**corpus.model_dump(exclude_none=True), **wrong})


def test_published_rows_of_amber(shared, tmp_path):
    """m is the ids of the file and the end of the last document; the ids are the file's."""
    path = shared / "data/amber/good_sample.jsonl"
    tokenizer = {"sentencepiece": str(shared / "data/tokenizers/llama/tokenizer.model")}
    corpus = Corpus(source={"files": [str(path)], "field": "token_ids", "eot_id": 2}, tokenizer=tokenizer, eot="</s>", shards=2)
    prepare_tokenizer(corpus, tmp_path / "tokenizer")
    train = tokenized(tmp_path / "tokens", corpus, tmp_path / "tokenizer")["train"]
    rows = [json.loads(line)["token_ids"] for line in path.read_text().splitlines()]
    assert (train.m, train.documents) == (9 * 2049 + 1, 35)
    assert train.tokens(0, train.m).tolist() == [*itertools.chain(*rows), 2]


def test_listed_vocabulary(tmp_path):
    config = {"source": {"files": ["x"]}, "tokenizer": {"vocabulary": ["[CLS]", "[ClSep]", "[SEP]", "A", "C", "AC"]}, "eot": "[SEP]"}
    corpus = Corpus.model_validate(config)
    prepare_tokenizer(corpus, tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (6, 2)
    assert tokenizer.encode_batch(["[CLS]ACA[ClSep]C"])[0].tolist() == [0, 5, 3, 1, 4]
    assert tokenizer.decode([0, 5, 3, 1, 4]) == "[CLS]ACA[ClSep]C"
    with pytest.raises(InputError, match=r"family 7: the tokenizer cannot encode it"):
        tokenizer.encode_batch(["[CLS]AXA"], ["family 7"])
    with pytest.raises(InputError, match="end-of-text"):
        tokenizer.encode_batch(["[CLS][SEP]"])
    with pytest.raises(InputError, match="not in its vocabulary"):
        prepare_tokenizer(corpus.model_copy(update={"eot": "[EOS]"}), tmp_path / "other")
    with pytest.raises(ValidationError, match="listed twice"):
        Corpus.model_validate({**config, "tokenizer": {"vocabulary": ["A", "A"]}})
