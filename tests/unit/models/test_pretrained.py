"""Checkpoints as they are published: the library's own predictions, and files that are refused."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.causal_models import (
    KINDS,
    LLAMA,
    SHAPE,
    VOCAB,
    library_logits,
    library_model,
    logits_of,
    random_ids,
    read,
)
from support.stores import write_store
from support.stories import encode, read_pieces, stories_checkpoint, stories_tokenizer

from tokenbounds.config.schema import slice_of
from tokenbounds.corpus.contexts import ContextRule, document_items, token_items
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, write_json
from tokenbounds.models.prediction_keys import check_direction, check_experts
from tokenbounds.models.pretrained import INDEX_FILE, read_folder
from tokenbounds.models.transformers import CausalLM, CausalLMConfig
from tokenbounds.scoring.score import score_items

ARITHMETIC = {"dtype": "float32", "multiple": 64, "batch_tokens": 4096}


@pytest.fixture
def copy(checkpoints, tmp_path):
    """A function: a copy of the checkpoint of a kind to damage: its folder, with its tensors and its config
    changed."""

    def make(kind="llama", change=None, **entries):
        _, folder = checkpoints(kind)
        config = json.loads((folder / "config.json").read_text()) | entries
        (tmp_path / "config.json").write_text(
            json.dumps({key: value for key, value in config.items() if value != "absent"})
        )
        tensors = load_file(folder / "model.safetensors")
        if change:
            change(tensors)
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
        return tmp_path

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_checkpoint_predicts_as_in_the_library(kind, checkpoints, capfd):
    reference, folder = checkpoints(kind)
    capfd.readouterr()
    model, config = read(folder)
    assert capfd.readouterr() == ("", "")
    ids = random_ids((3, 32))
    got = logits_of(model, ids)
    assert got.dtype == torch.float32 and got.shape == (3, 32, VOCAB)
    torch.testing.assert_close(got, library_logits(reference, ids), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        logits_of(model, ids[:, :20]), got[:, :20], rtol=1e-5, atol=1e-5
    )  # right padding is not seen

    # The layout: the file's names, a tied head once, the same on the meta device.
    stored = {
        name.replace("embed_out", "lm_head"): tuple(tensor.shape)
        for name, tensor in load_file(folder / "model.safetensors").items()
    }
    assert dict(model.layout()) == stored  # GPT-NeoX's head has one name in files and another in the library
    assert [name for name, _ in model.layout()] == [name for name, _ in model.named_parameters()]
    with torch.device("meta"):
        assert CausalLM.from_config(config).layout() == model.layout()

    # The configuration is plain, complete and closed under reading, without keys that affect no prediction.
    assert json.loads(json.dumps(config)) == config == slice_of(CausalLMConfig.model_validate(config))
    assert (
        not {"architectures", "dtype", "transformers_version", "attention_dropout", "use_cache"}
        & config["transformers"].keys()
    )
    with torch.no_grad():
        loss = model(ids[:, :-1], ids[:, 1:])
    expected = torch.nn.functional.cross_entropy(got[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype, checkpoints, copy):
    def halve(tensors):
        tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})

    model, _ = read(copy("gpt2", halve, dtype=str(dtype).removeprefix("torch.")))
    reference, _ = checkpoints("gpt2")
    for (_, got), (_, expected) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        assert got.dtype == torch.float32 and torch.equal(got, expected.to(dtype).float())


def test_a_base_model_with_old_constants_and_a_second_copy_of_the_tied_head(checkpoints, copy):
    """As openai-community/gpt2 is published: no prefix, and masks among the tensors."""

    def old(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"], tensors["h.0.attn.masked_bias"] = (
            torch.ones(1, 1, 32, 32),
            torch.tensor(-1e4),
        )
        tensors["lm_head.weight"] = tensors["wte.weight"].clone()

    model, _ = read(copy("gpt2", old, n_ctx=32, task_specific_params={"a": {"b": 1}}))
    reference, _ = checkpoints("gpt2")
    torch.testing.assert_close(
        logits_of(model, random_ids((2, 9))),
        library_logits(reference, random_ids((2, 9))),
        rtol=1e-5,
        atol=1e-5,
    )

    def old_and_wrong(tensors):
        old(tensors)
        tensors["lm_head.weight"][3, 4] += 1

    with pytest.raises(
        InputError, match=r"model\.safetensors: tensor 'lm_head\.weight' is not the embedding"
    ):
        read(copy("gpt2", old_and_wrong))


def test_tensors_that_the_library_packs_otherwise(tmp_path):
    """Mixtral's files hold each expert by itself, the library all experts of a layer as one tensor."""
    entries = {
        "model_type": "mixtral",
        **SHAPE,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "num_local_experts": 4,
    }
    reference = library_model(entries)
    reference.save_pretrained(tmp_path)
    assert "model.layers.0.block_sparse_moe.experts.0.w1.weight" in load_file(tmp_path / "model.safetensors")
    model, _ = read(tmp_path)
    assert dict(model.layout())["model.layers.0.mlp.experts.gate_up_proj"] == (4, 48, 16)
    torch.testing.assert_close(
        logits_of(model, random_ids((2, 9))),
        library_logits(reference, random_ids((2, 9))),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("entries", [{"use_bidirectional_attention": True}, {"text": {"is_causal": False}}])
def test_attention_to_later_tokens_is_refused(entries):
    with pytest.raises(InputError, match="expected a model that sees no later token"):
        check_direction({"model_type": "gemma3_text"} | entries)
    check_direction({"use_bidirectional_attention": False, "text": {"is_causal": True}})


@pytest.mark.parametrize("key", ["expert_capacity", "moe_capacity_factor"])
def test_experts_with_a_capacity_are_refused(key):
    """An expert leaves out tokens when others of the batch are many."""
    with pytest.raises(InputError, match=rf"transformers\.{key}: 64; expected experts without a capacity"):
        check_experts({"model_type": "mixtral", key: 64})


def test_a_checkpoint_quantized_with_scales_of_the_activations_is_refused(tmp_path):
    """They are computed from all rows of a batch."""
    library_model(LLAMA).save_pretrained(tmp_path)
    config = read_json(tmp_path / "config.json")
    scales = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    write_json(tmp_path / "config.json", config | {"quantization_config": scales})
    with pytest.raises(InputError, match=r"config\.json: transformers\.quantization_config: found one"):
        read(tmp_path)


def sharded(folder):
    """Split the weights of a folder in two, with an index; returns the index's weight_map."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {
        name: f"model-{1 + i % 2:05d}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))
    }
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in tensors if weight_map[name] == file}, folder / file)
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return weight_map


def test_shards_are_read_as_the_index_says(checkpoints, copy):
    folder = copy("gpt_neox")
    sharded(folder)
    save_file({"other": torch.ones(1)}, folder / "other.safetensors")  # which no index names
    model, _ = read(folder)
    reference, _ = checkpoints("gpt_neox")
    torch.testing.assert_close(
        logits_of(model, random_ids((2, 9))),
        library_logits(reference, random_ids((2, 9))),
        rtol=1e-5,
        atol=1e-5,
    )


def test_shards_that_are_not_as_the_index_says(copy):
    folder = copy("llama")
    weight_map = sharded(folder)
    second = "model-00002-of-00002.safetensors"
    first = folder / "model-00001-of-00002.safetensors"
    whole = first.read_bytes()

    def refused(match):
        with pytest.raises(InputError, match=match) as error:
            read(folder)
        assert "\n" not in str(error.value)

    first.write_bytes(whole[:-5])
    refused(r"model-00001-of-00002\.safetensors: not a whole safetensors file")
    first.write_bytes(b"")
    refused(r"model-00001-of-00002\.safetensors: not a whole safetensors file")
    first.unlink()
    refused(r"model-00001-of-00002\.safetensors: no such file")
    first.write_bytes(whole)
    name, other = "lm_head.weight", next(name for name, file in weight_map.items() if file == second)
    for change, match in (
        (
            {"absent.weight": first.name},
            r"model-00001-of-00002\.safetensors: tensor 'absent\.weight': missing, "
            r"where model\.safetensors\.in",
        ),
        (
            {name: second},
            rf"{second}: tensor '{name}': missing, where model\.safetensors\.index\.json names it",
        ),
        (
            {other: first.name},
            rf"{first.name}: tensor '{other}': missing, where model\.safetensors\.index\.json names it",
        ),
        (
            {name: "../model.safetensors"},
            r"index\.json: tensor .* is in '\.\./model\.safetensors'; expected the name of a",
        ),
        (
            {name: "pytorch_model.bin"},
            r"index\.json: tensor .* is in 'pytorch_model\.bin'; expected the name of a safetensors file",
        ),
    ):
        (folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map | change}))
        refused(match)
    unnamed = {key: file for key, file in weight_map.items() if key != name}
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": unnamed}))
    refused(rf"{first.name}: tensor '{name}': model\.safetensors\.index\.json does not name it there")
    (folder / INDEX_FILE).write_text("[]")
    refused(r"index\.json: no weight_map")


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, tensor):
    return lambda tensors: tensors.update({name: tensor})


@pytest.mark.parametrize(
    ("kind", "change", "entries", "match"),
    [
        ("llama", drop("lm_head.weight"), {}, r"model\.safetensors: tensor 'lm_head\.weight' is missing"),
        (
            "llama",
            put("extra", torch.ones(2)),
            {},
            r"model\.safetensors: tensor 'extra' is not one of the model's",
        ),
        (
            "llama",
            put("model.norm.weight", torch.ones(17)),
            {},
            r"tensor 'model\.norm\.weight' has shape \[17\], expected \[16\]",
        ),
        (
            "llama",
            put("model.norm.weight", torch.ones(16).long()),
            {},
            r"tensor 'model\.norm\.weight' has type torch\.int64",
        ),
        (
            "llama",
            put("model.norm.weight", torch.full((16,), math.nan)),
            {},
            r"tensor 'model\.norm\.weight' holds 16 values",
        ),
        (
            "llama",
            None,
            {"vocab_size": 49},
            r"config\.json: the model's vocabulary has 49 rows, expected at least the tokenizer's 50",
        ),
        (
            "llama",
            None,
            {"model_type": "bert-like"},
            r"config\.json: transformers\.model_type: 'bert-like'; expected a decoder-only",
        ),
        (
            "llama",
            None,
            {"model_type": "absent"},
            r"config\.json: transformers\.model_type: None; expected a decoder-only",
        ),
        ("llama", None, {"model_type": "t5"}, r"transformers\.model_type: 't5'; expected a decoder-only"),
        (
            "llama",
            None,
            {"model_type": "bart"},
            r"transformers\.model_type: 'bart' is an encoder and a decoder",
        ),
        ("llama", None, {"quantization_config": {"quant_method": "gptq"}}, r"quantization_config: found one"),
        (
            "llama",
            None,
            {"hidden_size": "wide"},
            r"config\.json: transformers: not a configuration of model_type 'llama'",
        ),
        ("llama", None, {"num_attention_heads": 0}, r"config\.json: transformers: .*model_type 'llama'"),
        ("gpt2", None, {"n_embd": 15}, r"config\.json: transformers: model_type 'gpt2' cannot be built"),
    ],
)
def test_a_checkpoint_that_is_refused(kind, change, entries, match, copy):
    with pytest.raises(InputError, match=match) as error:
        read(copy(kind, change, **entries))
    assert "\n" not in str(error.value)


def test_files_that_are_refused(copy):
    folder = copy()
    with pytest.raises(InputError, match=r"config\.json: eot_id: |eot_id 50 is outside the vocabulary of 50"):
        read(folder, eot_id=50)
    with pytest.raises(InputError, match="context_length 33 is longer than the model's 32 positions"):
        read(folder, context_length=33)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"found pytorch_model\.bin, a pickle, .*; expected safetensors"):
        read(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json: a list; expected keys with values"):
        read(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        read(folder)


def test_a_real_model_predicts_real_text(shared, tmp_path):
    """llama2.c's doc/stories260K.md gives a validation loss of 1.2968 nats = 1.871 bits per token; 7.4 with
    the pairs not permuted."""
    stories_checkpoint(shared / "data/models/stories260K/stories260K.bin", tmp_path)
    model, _ = read_folder(tmp_path, vocab_size=512, eot_id=1, start_token="always")
    pieces = read_pieces(shared / "data/models/stories260K/tok512.bin")
    text = (shared / "data/tinystories/tinystories_sample_2MiB.txt").read_text(
        encoding="utf-8", errors="ignore"
    )
    stories = [story.strip() for story in text.split("<|endoftext|>")[:60]]
    library = stories_tokenizer(
        shared / "data/models/stories260K/tok512.bin"
    )  # which tests/pipeline/test_published.py uses
    assert [library.encode(story).ids for story in stories] == [encode(story, pieces) for story in stories]
    # Documents end with token 1, which begins the next, as in the model's training.
    store = write_store(
        tmp_path / "tokens", [encode(story, pieces) for story in stories], vocab_size=512, eot_id=1
    )
    rule = ContextRule(512, "always", 1)
    whole = list(document_items(store, np.arange(len(stories)), rule))
    scored = score_items(model, whole, arithmetic=ARITHMETIC)
    bits = -np.concatenate([log2_q for log2_q, _, _ in scored])
    assert bits.size > 20000 and bits.mean() == pytest.approx(1.2968 / math.log(2), abs=0.05)

    # Drawn tokens have the same bits as in the pass over their document.
    at = {
        position: value
        for item, (log2_q, _, _) in zip(whole, scored, strict=True)
        for position, value in zip(item.positions, log2_q, strict=True)
    }
    drawn = [
        position for position in np.random.default_rng(0).integers(0, store.m, 60).tolist() if position in at
    ]
    single = score_items(model, list(token_items(store, drawn, rule)), arithmetic=ARITHMETIC)
    np.testing.assert_allclose(
        [log2_q[0] for log2_q, _, _ in single], [at[position] for position in drawn], atol=1e-4
    )
