"""Published models in GGUF files: their weights, tokenizer and messages; and files that are refused."""

import functools
import shutil
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from support.gguf_files import BOS, CONTEXT, EOS, HEADS, TOKENS, WIDTH, write_gguf
from support.messages import contexts_of
from transformers import AutoModelForCausalLM

from tokenbounds.codecs.archive import compressed_again, zip_message
from tokenbounds.codecs.config_checks import check_config
from tokenbounds.codecs.decode import decode_message, read_model, write_message
from tokenbounds.config.schema import Corpus
from tokenbounds.config.schema.models import GGUFModel
from tokenbounds.corpus.tokenizers import load_tokenizer, prepare_tokenizer
from tokenbounds.errors import InputError
from tokenbounds.io.files import write_json
from tokenbounds.io.gguf import read_facts
from tokenbounds.models.gguf import read_gguf
from tokenbounds.models.published import read_published, start_facts

TYPES = gguf.GGMLQuantizationType
FACTS = {"vocab_size": len(TOKENS), "eot_id": EOS}
SECTION = {"family": "gguf", "corpus": "text"}
SOURCE = {"files": ["text.txt"]}


@pytest.fixture
def path(tmp_path):
    """A whole file, in 16 bits."""
    write_gguf(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def prepared(path, folder, **keys):
    corpus = Corpus.model_validate({"source": SOURCE, "tokenizer": {"model": "tiny"}, **keys})
    prepare_tokenizer(corpus, folder, gguf=path)
    return load_tokenizer(folder)


@pytest.mark.parametrize("kind", [TYPES.F16, TYPES.Q8_0, TYPES.Q4_0], ids=lambda kind: kind.name)
def test_weights_are_those_of_the_file(tmp_path, kind):
    stored = write_gguf(tmp_path / "tiny.gguf", kind)
    model, config = read_gguf(tmp_path / "tiny.gguf", **FACTS)
    assert config["family"] == "transformers" and config["context_length"] == CONTEXT
    weights = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    np.testing.assert_array_equal(weights["model.embed_tokens.weight"], stored["token_embd.weight"])
    np.testing.assert_array_equal(
        weights["model.layers.1.mlp.down_proj.weight"], stored["blk.1.ffn_down.weight"]
    )
    # llama.cpp stores the two halves of a rotary pair side by side
    turned = stored["blk.0.attn_q.weight"].reshape(HEADS, WIDTH // HEADS // 2, 2, WIDTH).swapaxes(1, 2)
    np.testing.assert_array_equal(
        weights["model.layers.0.self_attn.q_proj.weight"], turned.reshape(WIDTH, WIDTH)
    )
    library = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="tiny.gguf", dtype=torch.float32
    ).eval()
    ids = torch.tensor([[5, 100, 40, 7]])
    with torch.no_grad():
        torch.testing.assert_close(model.head(model.hidden(ids)), library(ids).logits, rtol=0, atol=1e-5)


def test_the_tokenizer_and_the_end_of_text_are_those_of_the_file(path, tmp_path):
    tokenizer = prepared(path, tmp_path / "tokenizer")
    assert (tokenizer.vocab_size, tokenizer.eot, tokenizer.eot_id, tokenizer.bos_id) == (
        261,
        "<end>",
        EOS,
        BOS,
    )
    (ids,) = tokenizer.encode_batch(["the th <start>"])
    assert tokenizer.decode(ids) == "the th <start>" and TOKENS[ids[0]] == "the" and BOS not in ids
    assert [tokenizer.spelling(token) for token in range(261)] == TOKENS
    assert prepared(path, tmp_path / "other", eot="<unk>").eot_id == 0


def test_a_file_whose_model_expects_no_token_before_a_text_has_no_bos(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", add_bos=False)
    assert prepared(tmp_path / "tiny.gguf", tmp_path / "tokenizer").bos_id is None


@pytest.mark.parametrize(
    ("section", "bos_id", "expected"),
    [
        ({}, None, {"start_token": "first"}),
        ({}, BOS, {"start_token": "always", "start_id": BOS}),
        ({}, EOS, {"start_token": "always"}),
        ({"start_id": 7}, BOS, {"start_token": "always", "start_id": 7}),
        ({"start_id": EOS}, BOS, {"start_token": "always"}),
        ({"start_token": "first"}, BOS, {"start_token": "first", "start_id": BOS}),
    ],
)
def test_the_start_token(section, bos_id, expected):
    assert start_facts(section, SimpleNamespace(eot_id=EOS, bos_id=bos_id)) == expected


def test_the_message_is_the_file_compressed(path, tmp_path):
    tokenizer = prepared(path, tmp_path / "tokenizer")
    contexts = contexts_of(("token", 16))
    codec = {"tool": ["gzip"], "split_planes": False}
    frame, record = zip_message(path, codec, SECTION, tokenizer, contexts, progress=False)
    target = tmp_path / "results/run/messages/tiny.zip.bin"
    message = write_message(target, frame)
    write_json(target.with_suffix(".json"), {"folder": str(tmp_path)})
    assert message.config["hypothesis"] == {
        "family": "gguf",
        "start_token": "always",
        "start_id": BOS,
        "context_length": CONTEXT,
        **FACTS,
    }
    assert [entry["name"] for entry in message.config["files"]] == ["tiny.gguf"]
    assert compressed_again(message, tmp_path) == message.config["compressed_bytes"] == record["bytes"]
    _, model = read_model(target)
    same, _ = read_published(path, SECTION, tokenizer)
    ids = torch.tensor([[3, 9, 27]])
    with torch.no_grad():
        assert torch.equal(model.hidden(ids), same.hidden(ids))
    write_gguf(path, seed=1)  # another model under the same name and of the same size
    with pytest.raises(InputError, match=r"tiny\.gguf: not the file that .* is about \(sha256"):
        read_model(target)


def test_a_message_of_a_gguf_file_names_one_file(path, tmp_path):
    tokenizer = prepared(path, tmp_path / "tokenizer")
    codec = {"tool": ["gzip"], "split_planes": False}
    frame, _ = zip_message(path, codec, SECTION, tokenizer, contexts_of(("token", 16)), progress=False)
    config = decode_message(frame).config
    entry = config["files"][0]
    for files in ([entry, {**entry, "name": "b.gguf"}], [{**entry, "name": "model.safetensors"}]):
        with pytest.raises(InputError, match="expected one GGUF file"):
            check_config({**config, "files": files}, "zip")
    with pytest.raises(InputError, match=r"files are tiny\.gguf; expected config\.json"):
        check_config({**config, "hypothesis": {**config["hypothesis"], "family": "pretrained"}}, "zip")


@pytest.mark.parametrize("share", [0.999, 0.6, 0.05, 0.001, 0.0])
def test_a_file_that_is_cut_off_is_refused(path, tmp_path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    prepare = functools.partial(prepared, folder=tmp_path / "tokenizer")
    for read in (read_facts, prepare, lambda name: read_gguf(name, **FACTS)):
        with pytest.raises(
            InputError, match=r"tiny\.gguf: cannot be read \(.*\); expected a whole GGUF file"
        ):
            read(path)


def test_files_that_are_refused(path, tmp_path):
    with pytest.raises(InputError, match=r"absent\.gguf: no such file"):
        read_facts(tmp_path / "absent.gguf")
    write_gguf(path, architecture="unheard")
    with pytest.raises(InputError, match=r"tiny\.gguf: architecture 'unheard' .*expected one that"):
        read_gguf(path, **FACTS)
    write_gguf(path, tokens=None)
    with pytest.raises(InputError, match=r"no tokenizer\.ggml\.tokens in it"):
        read_facts(path)
    write_gguf(path, eos=None)
    with pytest.raises(InputError, match="no eos_token_id in it"):
        prepared(path, tmp_path / "tokenizer")
    write_gguf(path, eos=999)
    with pytest.raises(InputError, match="eos_token_id is 999; expected a token below 261"):
        read_facts(path)


def test_a_tokenizer_that_is_not_the_file_s_is_refused(path, tmp_path):
    tokenizer = prepared(path, tmp_path / "tokenizer")
    write_gguf(path, tokens=[*TOKENS[:-2], "the", "th"])
    with pytest.raises(InputError, match=r"its token 259 is 'the', the corpus' tokenizer has 'th'"):
        read_published(path, SECTION, tokenizer)
    shutil.copy(path, tmp_path / "again.gguf")
    with pytest.raises(InputError, match="vocabulary has 261 rows, expected at least the tokenizer's 300"):
        read_gguf(tmp_path / "again.gguf", vocab_size=300, eot_id=1)


def test_tensors_that_share_bytes_are_refused(path):
    """A small file could otherwise be a model of any size."""
    data = bytearray(path.read_bytes())
    reader = gguf.GGUFReader(path)
    for tensor in reader.tensors:  # the last number of a tensor's entry is its offset
        place = int(tensor.field.offset) + sum(part.nbytes for part in tensor.field.parts[:-1])
        data[place : place + 8] = (0).to_bytes(8, "little")
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"tiny\.gguf: its tensors have \d+ bytes, the file has \d+"):
        read_facts(path)


def test_configuration():
    valid = GGUFModel.model_validate({"family": "gguf", "corpus": "c", "path": "m.gguf"})
    assert valid.local_path == "m.gguf" and valid.start_token is None
    folder = {"family": "gguf", "corpus": "c", "folder": "models", "file": "m.gguf"}
    assert GGUFModel.model_validate(folder).local_path == "models/m.gguf"
    for wrong, line in (
        ({"path": "m.gguf", "folder": "models"}, "exactly one of hub, folder, path"),
        ({"path": "m.gguf", "file": "m.gguf"}, "`file`"),
        ({"folder": "models"}, "`file`"),
        ({"hub": "a/b", "file": "m.gguf"}, "`revision`"),
        ({"folder": "models", "file": "m.bin"}, "pattern"),
    ):
        with pytest.raises(ValueError, match=line):
            GGUFModel.model_validate({"family": "gguf", "corpus": "c", **wrong})
