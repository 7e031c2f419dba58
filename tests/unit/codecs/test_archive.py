"""Published checkpoints as hypotheses: frames that name files, their sizes, and the models in them."""

import subprocess

import pytest
import torch
from support.published import CODEC, CONTEXTS, ENTRY, OPTIONS, TOKENS, tokenizer_of, write_published
from support.quip_checkpoints import CONFIG, write_checkpoint

from tokenbounds.codecs.archive import check_files, compressed_again, published_model, zip_message
from tokenbounds.codecs.compressors import compressed_bytes
from tokenbounds.codecs.contexts import context_rule
from tokenbounds.codecs.decode import decode_message, read_model
from tokenbounds.codecs.header import complexity_bits
from tokenbounds.errors import InputError
from tokenbounds.models.quip.checkpoint import QuipCheckpoint
from tokenbounds.models.quip.llama import QuipLlama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("published") / "model", shards=2)


def test_the_message_is_a_frame_and_the_compressed_files(tmp_path, folder):
    path, message, record = write_published(tmp_path, folder)
    files = QuipCheckpoint(folder).files
    assert [entry["name"] for entry in message.config["files"]] == [path.name for path in files]
    compressed = compressed_bytes(files, "gzip", progress=False)
    assert message.config["compressed_bytes"] == record["bytes"] == compressed
    assert complexity_bits(path, message) == 8 * (path.stat().st_size + compressed)
    assert sum(message.section_bytes.values()) == path.stat().st_size
    assert (
        message.codec == {"kind": "zip", "tool": "gzip", "level": 6, "split_planes": False}
        and message.tensors == {}
    )
    assert message.config["hypothesis"]["context_length"] == CONFIG["max_position_embeddings"]
    assert context_rule(message, ENTRY).length == 16
    assert compressed_again(message, folder) == compressed


def test_the_best_of_several_compressors_is_named_in_the_message(tmp_path, folder):
    _, message, record = write_published(
        tmp_path, folder, codec={"tool": ["gzip", "xz"], "split_planes": True}
    )
    sizes = {tried["tool"]: tried["bytes"] for tried in record["tried"]}
    assert message.codec["tool"] == min(sizes, key=sizes.get) and message.codec["split_planes"]
    assert compressed_again(message, folder) == min(sizes.values())


def test_a_single_file_with_its_configuration(tmp_path):
    folder = write_checkpoint(tmp_path / "model")
    _, message, _ = write_published(tmp_path, folder)
    assert [entry["name"] for entry in message.config["files"]] == ["config.json", "model.safetensors"]
    archive = subprocess.run(
        [
            "tar",
            "--format=gnu",
            "--mode=0644",
            "--mtime=@0",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "-cf",
            "-",
            "config.json",
            "model.safetensors",
        ],
        cwd=folder,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    gzipped = subprocess.run(["gzip", "-n", "-c"], input=archive, stdout=subprocess.PIPE, check=True).stdout
    assert message.config["compressed_bytes"] == len(gzipped)


def test_the_model_predicts_the_tokens_of_the_corpus_only(tmp_path, folder):
    path, message, _ = write_published(tmp_path, folder)
    again, model = read_model(path)
    assert again.config == message.config
    ids = torch.tensor([[3, 7, 1]])
    logits = model.head(model.hidden(ids))
    whole = QuipLlama(QuipCheckpoint(folder))
    assert logits.shape == (1, 3, 30) and torch.equal(logits, whole.head(whole.hidden(ids))[..., :30])


def test_files_that_are_not_those_of_the_message(tmp_path):
    folder = write_checkpoint(tmp_path / "model")
    path, message, _ = write_published(tmp_path, folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    for check in (
        lambda: read_model(path),
        lambda: check_files(message, folder),
        lambda: compressed_again(message, folder),
    ):
        with pytest.raises(InputError, match=r"model\.safetensors: not the file that .* is about"):
            check()
    weights.unlink()
    with pytest.raises(InputError, match=r"model\.safetensors: no such file"):
        read_model(path)


def test_a_name_that_leaves_the_folder(folder):
    frame, _ = zip_message(folder, CODEC, OPTIONS, TOKENS, CONTEXTS, progress=False)
    message = decode_message(frame)
    message.config["files"][0]["name"] = "../config.json"
    with pytest.raises(InputError, match="expected a name without a folder"):
        check_files(message, folder)


def test_checkpoints_that_do_not_fit_the_corpus(folder):
    with pytest.raises(
        InputError, match="the model knows 37 tokens; expected the 40 of the corpus' tokenizer at least"
    ):
        zip_message(
            folder,
            CODEC,
            OPTIONS,
            tokenizer_of(40),
            CONTEXTS,
            progress=False,
        )
    with pytest.raises(InputError, match="context_length 25 is longer than the model's 24 positions"):
        zip_message(folder, CODEC, {**OPTIONS, "context_length": 25}, TOKENS, CONTEXTS, progress=False)


def test_a_checkpoint_of_transformers(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 24,
    }
    torch.manual_seed(0)
    lm = LlamaForCausalLM(LlamaConfig(vocab_size=30, **shape)).eval()
    lm.save_pretrained(tmp_path / "model")
    path, message, _ = write_published(
        tmp_path,
        str(tmp_path / "model"),  # as the workflow passes it
        {"family": "pretrained", "start_token": "first"},
    )
    assert message.config["hypothesis"] == {
        "family": "pretrained",
        "context_length": 24,
        "start_token": "first",
        "vocab_size": TOKENS.vocab_size,
        "eot_id": TOKENS.eot_id,
    }
    _, model = read_model(path)
    ids = torch.tensor([[3, 7, 1]])
    with torch.no_grad():
        torch.testing.assert_close(
            published_model(message, tmp_path / "model").head(model.hidden(ids)),
            lm(ids).logits,
            rtol=0,
            atol=1e-6,
        )
