"""Tokenizers: known encodings, special tokens in text, and files that cannot be read."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.documents import EOT, corpus_of, sample_texts

import tokenbounds.corpus.text_tokenizers
from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.tokenizers import load_tokenizer, prepare_tokenizer, train_tokenizer
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json


def prepared(folder, tokenizer, hub_files=None, **more):
    prepare_tokenizer(corpus_of(tokenizer, **more), folder, hub_files=hub_files)
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def piece_model(tmp_path_factory):
    """A small SentencePiece BPE with byte fallback, as LLaMA's is."""
    path = tmp_path_factory.mktemp("piece") / "tokenizer.model"
    with path.open("wb") as handle:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample_texts()),
            model_writer=handle,
            vocab_size=320,
            model_type="bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    return path


def test_training_is_deterministic_across_processes(trained, root):
    program = (
        "import json, sys; from tokenbounds.corpus.tokenizers import train_tokenizer; "
        "texts = json.load(sys.stdin); print(train_tokenizer(texts, 300, '<|endoftext|>').to_str())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(sample_texts()),
        capture_output=True,
        text=True,
        cwd=root,
        check=True,
    )
    assert json.loads(done.stdout) == json.loads(train_tokenizer(sample_texts(), 300, EOT).to_str())
    assert trained.vocab_size == 300 and trained.eot_id == 0 and trained.eot == EOT


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.text(st.characters(codec="utf-8"), max_size=40)
        | st.sampled_from([EOT, f"a{EOT}b", f"{EOT}{EOT}", "\0", " \n"]),
        max_size=4,
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
    with pytest.raises(
        InputError, match=f"^{tmp_path}: not GPT-2's vocabulary: 'Hello, my dog is cute' gives"
    ):
        prepared(tmp_path / "tokenizer", {"gpt2": str(tmp_path)})
    assert not (tmp_path / "tokenizer").exists()
    with pytest.raises(
        InputError,
        match=f"^{tmp_path}/none/encoder.json: no such file; expected encoder.json and vocab.bpe of GPT-2$",
    ):
        prepared(tmp_path / "tokenizer", {"gpt2": str(tmp_path / "none")})


def test_llama_adds_nothing(shared, tmp_path):
    tokenizer = prepared(
        tmp_path / "tokenizer",
        {"sentencepiece": str(shared / "data/tokenizers/llama/tokenizer.model")},
        eot="</s>",
    )
    assert (tokenizer.vocab_size, tokenizer.eot_id) == (32000, 2)
    # Reference: "Hello world" is 15043 3186 after the BOS in LLaMA's own documentation.
    assert tokenizer.encode_batch(["Hello world"])[0].tolist() == [15043, 3186]
    (ids,) = tokenizer.encode_batch(["a</s>b<s>"])
    assert not set(ids.tolist()) & {1, 2} and tokenizer.decode(ids) == "a</s>b<s>"


@settings(max_examples=40, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters=" "), max_size=40))
def test_sentencepiece_round_trip(piece_model, text):
    tokenizer = tokenbounds.corpus.text_tokenizers._SentencePiece(piece_model, "</s>")
    (ids,) = tokenizer.encode_batch([text])
    # The symbol that SentencePiece writes a space as cannot be told from one.
    assert tokenizer.decode(ids) == text.replace("\u2581", " ").removeprefix(
        " " if text.startswith("\u2581") else ""
    )


def test_settings_of_a_given_tokenizer_that_would_change_text_are_off(tmp_path):
    base = train_tokenizer(sample_texts(), 300, "<s>")
    expected = base.encode("import naïve return x").ids
    base.enable_truncation(3)
    base.enable_padding(length=50)
    base.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A <s>", special_tokens=[("<s>", 0)]
    )
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
    message = r"the text's own ids hold the end-of-text id 1 \('end'\), which only ends documents"
    with pytest.raises(InputError, match=rf"^x\.jsonl:7: {message}$"):
        tokenizer.encode_batch(["a", "a end"], ["x.jsonl:6", "x.jsonl:7"])


def test_gaps_in_the_ids_count_as_vocabulary(tmp_path):
    base = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 5, "end": 1, "?": 70_000}, unk_token="?"))
    base.save(str(tmp_path / "given.json"))
    assert (
        prepared(tmp_path / "tokenizer", {"file": str(tmp_path / "given.json")}, eot="end").vocab_size
        == 70_001
    )


def test_missing_eot_gives_a_hint(piece_model, trained_dir, tmp_path):
    for tokenizer, special in [
        ({"sentencepiece": str(piece_model)}, "<s>, </s>"),
        ({"file": str(trained_dir / "tokenizer.json")}, EOT),
    ]:
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
    both = [
        {"name": "tokenizer.model", "path": str(piece_model)},
        {"name": "tokenizer.json", "path": str(trained_dir / "tokenizer.json")},
    ]
    assert prepared(tmp_path / "a", hub, hub_files=both).vocab_size == 300
    assert prepared(tmp_path / "b", hub, hub_files=both[:1], eot="</s>").eot_id == 2
    with pytest.raises(
        InputError, match=r"^owner/name: found vocab.txt; expected tokenizer.json or tokenizer.model$"
    ):
        prepared(tmp_path / "c", hub, hub_files=[{"name": "vocab.txt", "path": "vocab.txt"}])


def test_tokenizer_of_another_corpus(trained, trained_dir, tmp_path):
    prepare_tokenizer(corpus_of({"corpus": "other"}), tmp_path / "tokenizer", other=trained_dir)
    copied = load_tokenizer(tmp_path / "tokenizer")
    text = "def naïve(x):\n    return x"
    ours, theirs = (list(tokenizer.encode_batch([text], ["a"])[0]) for tokenizer in (copied, trained))
    assert ours == theirs and copied.vocab_size == trained.vocab_size
    # It was not made from documents that this corpus leaves out, so certificates must not say so.
    assert read_json(tmp_path / "tokenizer/info.json")["kind"] == "corpus"
    with pytest.raises(InputError, match="no such file"):
        prepare_tokenizer(corpus_of({"corpus": "other"}), tmp_path / "absent", other=tmp_path / "nothing")


def test_a_changed_tokenizer_is_named(trained_dir, tmp_path):
    folder = shutil.copytree(trained_dir, tmp_path / "tokenizer")
    info = read_json(folder / "info.json")
    assert (info["kind"], info["file"], info["vocab_size"], info["eot"], info["eot_id"]) == (
        "train",
        "tokenizer.json",
        300,
        EOT,
        0,
    )
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    with pytest.raises(InputError, match=f"^{folder}/tokenizer.json: changed since it was written"):
        load_tokenizer(folder)


def test_a_huge_document_is_encoded_as_a_whole_would_be(trained, monkeypatch):
    text = "\n".join(line.strip() for line in sample_texts(60)) + "\n\n  y"
    whole = trained.encode_batch([text])[0]
    monkeypatch.setattr(tokenbounds.corpus.text_tokenizers, "_PIECE_CHARACTERS", 500)
    pieces = list(tokenbounds.corpus.text_tokenizers._pieces(text))
    assert "".join(pieces) == text and len(pieces) > 4 and max(map(len, pieces)) <= 1000
    assert np.array_equal(trained.encode_batch([text])[0], whole)
    # Without a place to cut, it is cut all the same, and nothing is lost.
    assert trained.decode(trained.encode_batch(["z" * 5000])[0]) == "z" * 5000
    for length in (0, 499, 500, 501, 999, 1000, 1001, 1500):
        assert "".join(tokenbounds.corpus.text_tokenizers._pieces("z" * length)) == "z" * length


def test_listed_vocabulary(tmp_path):
    config = {
        "source": {"files": ["x"]},
        "tokenizer": {"vocabulary": ["[CLS]", "[ClSep]", "[SEP]", "A", "C", "AC"]},
        "eot": "[SEP]",
    }
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
