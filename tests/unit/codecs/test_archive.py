"""Published checkpoints as hypotheses: frames that name files, their sizes, the models in them, and the
sanity gate."""

import json
import math
import subprocess

import numpy as np
import pytest
import torch
from support.quip_checkpoints import CONFIG, random_tensors, write_checkpoint
from support.stores import random_documents, write_store

from tokenbounds.codecs.archive import check_files, compressed_again, published_model, zip_message
from tokenbounds.codecs.compressors import compressed_bytes
from tokenbounds.codecs.decode import decode_message, read_model, write_message
from tokenbounds.codecs.header import complexity_bits, context_rule
from tokenbounds.config.load import parse_config
from tokenbounds.errors import InputError
from tokenbounds.io.files import write_json
from tokenbounds.models.quip.checkpoint import QuipCheckpoint
from tokenbounds.models.quip.llama import QuipLlama
from tokenbounds.scoring.sanity_check import check_passed, loss_on_documents

TOKENS = {"vocab_size": 30, "eot_id": 0}
OPTIONS = {"family": "quip", "start_token": "always"}
CONTEXTS = {"token": {"mode": "token", "context_length": 16}}
CODEC = {"tool": ["gzip"], "split_planes": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("published") / "model", shards=2)


def write_run(root, folder, options=OPTIONS, codec=CODEC):
    """A message in results/run/messages, as rule `compress` leaves it."""
    frame, record = zip_message(folder, codec, options, TOKENS, CONTEXTS, progress=False)
    path = root / "results/run/messages/model.gzip.bin"
    message = write_message(path, frame)
    write_json(path.with_suffix(".json"), {"folder": str(folder)})
    return path, message, record


def test_the_message_is_a_frame_and_the_compressed_files(tmp_path, folder):
    path, message, record = write_run(tmp_path, folder)
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
    assert context_rule(message, "token").length == 16
    assert compressed_again(message, folder) == compressed


def test_the_best_of_several_compressors_is_named_in_the_message(tmp_path, folder):
    _, message, record = write_run(tmp_path, folder, codec={"tool": ["gzip", "xz"], "split_planes": True})
    sizes = {tried["tool"]: tried["bytes"] for tried in record["tried"]}
    assert message.codec["tool"] == min(sizes, key=sizes.get) and message.codec["split_planes"]
    assert compressed_again(message, folder) == min(sizes.values())


def test_a_single_file_with_its_configuration(tmp_path):
    folder = write_checkpoint(tmp_path / "model")
    _, message, _ = write_run(tmp_path, folder)
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
    path, message, _ = write_run(tmp_path, folder)
    again, model = read_model(path)
    assert again.config == message.config
    ids = torch.tensor([[3, 7, 1]])
    logits = model.head(model.hidden(ids))
    whole = QuipLlama(QuipCheckpoint(folder))
    assert logits.shape == (1, 3, 30) and torch.equal(logits, whole.head(whole.hidden(ids))[..., :30])


def test_files_that_are_not_those_of_the_message(tmp_path):
    folder = write_checkpoint(tmp_path / "model")
    path, message, _ = write_run(tmp_path, folder)
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
        zip_message(folder, CODEC, OPTIONS, {**TOKENS, "vocab_size": 40}, CONTEXTS, progress=False)
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
    path, message, _ = write_run(
        tmp_path, tmp_path / "model", {"family": "pretrained", "start_token": "first"}
    )
    assert message.config["hypothesis"] == {
        "family": "pretrained",
        "context_length": 24,
        "start_token": "first",
        **TOKENS,
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


def test_the_sanity_check(tmp_path, folder):
    store = write_store(
        tmp_path / "tokens", random_documents(np.random.default_rng(1), 40, vocab_size=30), vocab_size=30
    )
    options = {"name": "model.gzip", "seed": 1, "batch_tokens": 256, "device": "cpu"}
    path, _, _ = write_run(tmp_path, folder)
    facts = loss_on_documents(path, store.folder, **options)
    assert facts["bad"] and facts["bits_per_token"] > facts["random_guess"] / 2 == math.log2(30) / 2
    assert (
        facts
        == loss_on_documents(path, store.folder, **options)
        != loss_on_documents(path, store.folder, **{**options, "seed": 2})
    )
    check = tmp_path / "check.json"
    write_json(check, facts)
    with pytest.raises(
        InputError,
        match=r"model\.gzip: \d+\.\d\d bits per token on 20 documents; expected at most 2\.45, half",
    ):
        check_passed(check, False, "model.gzip")
    check_passed(check, True, "model.gzip")
    write_json(check, {**facts, "bad": False})
    check_passed(check, False, "model.gzip")


def test_a_model_that_predicts_its_documents_passes_the_sanity_check(tmp_path):
    """Documents of one token, and a head that always predicts the token after this one."""
    tensors = random_tensors(CONFIG)
    head = torch.zeros_like(tensors["lm_head.weight"])
    store = write_store(tmp_path / "tokens", [[5]] * 30, vocab_size=30)
    folder = write_checkpoint(tmp_path / "model", tensors={**tensors, "lm_head.weight": head})
    path, _, _ = write_run(tmp_path, folder)
    states = read_model(path)[1].hidden(torch.tensor([[0, 5]]))[
        0
    ]  # from which 5 and then 0 are to be predicted
    solved = torch.linalg.lstsq(states, 20 * torch.eye(2)).solution.T  # logits 20 and 0 in either state
    head[5], head[0] = solved.half()
    path, _, _ = write_run(
        tmp_path / "again", write_checkpoint(tmp_path / "good", tensors={**tensors, "lm_head.weight": head})
    )
    facts = loss_on_documents(path, store.folder, name="good", seed=1, batch_tokens=256, device="cpu")
    assert not facts["bad"] and facts["bits_per_token"] < 0.1 and facts["tokens"] == 40


BASE = {
    "run": "test",
    "corpora": {"text": {"source": {"files": ["*.txt"]}, "tokenizer": {"train": {"vocab_size": 300}}}},
    "models": {
        "quip": {"family": "quip", "corpus": "text", "folder": "x"},
        "gpt": {
            "family": "gpt",
            "corpus": "text",
            "architecture": {"layers": 1, "heads": 1, "width": 8},
            "training": {"steps": 1000},
        },
    },
    "codecs": {"gzip": {"kind": "zip", "tool": "gzip"}, "levels": {"kind": "levels"}},
}


@pytest.mark.parametrize(
    "model, codec, message",
    [
        (
            "gpt",
            "gzip",
            r"tables\.t\.rows\[0\]\.codec: 'gzip' compresses published files; 'gpt' is of family gpt",
        ),
        (
            "quip",
            "levels",
            r"rows\[0\]\.codec: 'levels' of kind levels for the QuIP# files of 'quip'; expected a codec of kind zip",
        ),
        ("quip", "gzip", None),
    ],
)
def test_codecs_and_families_that_do_not_go_together(model, codec, message):
    config = json.loads(json.dumps(BASE))
    config["tables"] = {"t": {"rows": [{"label": "x", "model": model, "codec": codec, "corpus": "text"}]}}
    if message is None:
        assert parse_config(config).codecs["gzip"].tool == ["gzip"]
        return
    with pytest.raises(InputError, match=message):
        parse_config(config)


def test_a_glob_removes_what_lies_below():
    config = json.loads(json.dumps(BASE))
    config["models"] |= {"gpt2-a": {"family": "no"}, "gpt2-b": 3, "gpt2-*": None, "gpt": None}
    assert list(parse_config(config).models) == ["quip"]
