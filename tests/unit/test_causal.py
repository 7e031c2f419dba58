"""Models of the transformers library: the library's own predictions, checkpoints as they are published, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from stores import random_documents, write_store
from stories import encode, read_pieces, stories_checkpoint, stories_tokenizer

from tokenbounds import models
from tokenbounds.errors import InputError
from tokenbounds.hypothesis import decode_message, encode_model, model_of
from tokenbounds.models.causal import INDEX_FILE, CausalLM, CausalLMConfig, read_folder
from tokenbounds.scoring import ContextRule, document_items, score_items, token_items

VOCAB = 50  # of 53 rows
SHAPE = {"vocab_size": 53, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 32}
LLAMA = {"model_type": "llama", **SHAPE, "num_key_value_heads": 2, "intermediate_size": 24}
KINDS = {
    "llama": LLAMA,
    "llama-tied": {**LLAMA, "tie_word_embeddings": True},
    "llama-yarn": {**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}},
    "gpt2": {"model_type": "gpt2", **SHAPE},
    "gpt_neox": {"model_type": "gpt_neox", **SHAPE, "intermediate_size": 40},
    "mistral": {"model_type": "mistral", **SHAPE, "num_key_value_heads": 2, "intermediate_size": 24, "head_dim": 4, "sliding_window": 5},
    "gemma2": {
        **{"model_type": "gemma2", **SHAPE, "num_key_value_heads": 2, "intermediate_size": 24, "head_dim": 4},
        **{"attn_logit_softcapping": 0.5, "final_logit_softcapping": None},
    },
    "qwen2": {"model_type": "qwen2", **SHAPE, "num_key_value_heads": 2, "intermediate_size": 24},
}


def hypothesis(entries, **changes):
    return {"family": "transformers", "vocab_size": VOCAB, "transformers": entries, "context_length": 32, "start_token": "first"} | {
        "eot_id": 0,
        **changes,
    }


def random_ids(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, VOCAB, shape))


def library_model(entries, seed=0):
    """A model that the library builds by itself, all its parameters random: norms and biases too must matter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**entries)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A function: the model of a kind and the folder to which the library saved it."""
    made = {}

    def checkpoint(kind):
        if kind not in made:
            model, folder = library_model(KINDS[kind]), tmp_path_factory.mktemp(kind)
            model.save_pretrained(folder)
            made[kind] = model, folder
        return made[kind]

    return checkpoint


@pytest.fixture
def copy(checkpoints, tmp_path):
    """A function: a copy of the checkpoint of a kind to damage: its folder, with its tensors and its config changed."""

    def make(kind="llama", change=None, **entries):
        _, folder = checkpoints(kind)
        config = json.loads((folder / "config.json").read_text()) | entries
        (tmp_path / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))
        found = load_file(folder / "model.safetensors")
        if change:
            change(found)
        save_file(found, tmp_path / "model.safetensors", metadata={"format": "pt"})
        return tmp_path

    return make


def read(folder, **options):
    return read_folder(folder, **{"vocab_size": VOCAB, "eot_id": 0, **options})


def logits_of(model, ids):
    with torch.no_grad():
        return model.head(model.hidden(ids))


def library_logits(model, ids):
    with torch.no_grad():
        return model(ids).logits[..., :VOCAB]


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
    torch.testing.assert_close(logits_of(model, ids[:, :20]), got[:, :20], rtol=1e-5, atol=1e-5)  # right padding is not seen

    # The layout: the file's names, a tied head once, the same on the meta device.
    stored = {name.replace("embed_out", "lm_head"): tuple(tensor.shape) for name, tensor in load_file(folder / "model.safetensors").items()}
    assert dict(model.layout()) == stored  # GPT-NeoX's head has one name in files and another in the library
    assert [name for name, _ in model.layout()] == [name for name, _ in model.named_parameters()]
    with torch.device("meta"):
        assert CausalLM.from_config(config).layout() == model.layout()

    # The configuration is plain, complete and closed under reading; what decides no prediction is left out.
    assert json.loads(json.dumps(config)) == config == CausalLMConfig.model_validate(config).model_dump()
    assert not {"architectures", "dtype", "transformers_version", "attention_dropout", "use_cache"} & config["transformers"].keys()
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
        tensors["h.0.attn.bias"], tensors["h.0.attn.masked_bias"] = torch.ones(1, 1, 32, 32), torch.tensor(-1e4)
        tensors["lm_head.weight"] = tensors["wte.weight"].clone()

    model, _ = read(copy("gpt2", old, n_ctx=32, task_specific_params={"a": {"b": 1}}))
    reference, _ = checkpoints("gpt2")
    torch.testing.assert_close(logits_of(model, random_ids((2, 9))), library_logits(reference, random_ids((2, 9))), rtol=1e-5, atol=1e-5)

    def old_and_wrong(tensors):
        old(tensors)
        tensors["lm_head.weight"][3, 4] += 1

    with pytest.raises(InputError, match=r"model\.safetensors: tensor 'lm_head\.weight' is not the embedding"):
        read(copy("gpt2", old_and_wrong))


def test_tensors_that_the_library_packs_otherwise(tmp_path):
    """Mixtral's files hold each expert by itself, the library all experts of a layer as one tensor."""
    entries = {"model_type": "mixtral", **SHAPE, "num_key_value_heads": 2, "intermediate_size": 24, "num_local_experts": 4}
    reference = library_model(entries)
    reference.save_pretrained(tmp_path)
    assert "model.layers.0.block_sparse_moe.experts.0.w1.weight" in load_file(tmp_path / "model.safetensors")
    model, _ = read(tmp_path)
    assert dict(model.layout())["model.layers.0.mlp.experts.gate_up_proj"] == (4, 48, 16)
    torch.testing.assert_close(logits_of(model, random_ids((2, 9))), library_logits(reference, random_ids((2, 9))), rtol=1e-5, atol=1e-5)


def sharded(folder):
    """Split the weights of a folder in two, with an index; returns the index's weight_map."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"model-{1 + i % 2:05d}-of-00002.safetensors" for i, name in enumerate(sorted(tensors))}
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
    torch.testing.assert_close(logits_of(model, random_ids((2, 9))), library_logits(reference, random_ids((2, 9))), rtol=1e-5, atol=1e-5)


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
            r"model-00001-of-00002\.safetensors: tensor 'absent\.weight': missing, where model\.safetensors\.in",
        ),
        ({name: second}, rf"{second}: tensor '{name}': missing, where model\.safetensors\.index\.json names it"),
        ({other: first.name}, rf"{first.name}: tensor '{other}': missing, where model\.safetensors\.index\.json names it"),
        ({name: "../model.safetensors"}, r"index\.json: tensor .* is in '\.\./model\.safetensors'; expected the name of a"),
        ({name: "pytorch_model.bin"}, r"index\.json: tensor .* is in 'pytorch_model\.bin'; expected the name of a safetensors file"),
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
        ("llama", put("extra", torch.ones(2)), {}, r"model\.safetensors: tensor 'extra' is not one of the model's"),
        ("llama", put("model.norm.weight", torch.ones(17)), {}, r"tensor 'model\.norm\.weight' has shape \[17\], expected \[16\]"),
        ("llama", put("model.norm.weight", torch.ones(16).long()), {}, r"tensor 'model\.norm\.weight' has type torch\.int64"),
        ("llama", put("model.norm.weight", torch.full((16,), math.nan)), {}, r"tensor 'model\.norm\.weight' holds 16 values"),
        ("llama", None, {"vocab_size": 49}, r"config\.json: the model's vocabulary has 49 rows, expected at least the tokenizer's 50"),
        ("llama", None, {"model_type": "bert-like"}, r"config\.json: transformers\.model_type: 'bert-like'; expected a decoder-only"),
        ("llama", None, {"model_type": "absent"}, r"config\.json: transformers\.model_type: None; expected a decoder-only"),
        ("llama", None, {"model_type": "t5"}, r"transformers\.model_type: 't5'; expected a decoder-only"),
        ("llama", None, {"model_type": "bart"}, r"transformers\.model_type: 'bart' is an encoder and a decoder"),
        ("llama", None, {"quantization_config": {"quant_method": "gptq"}}, r"quantization_config: found one"),
        ("llama", None, {"hidden_size": "wide"}, r"config\.json: transformers: not a configuration of model_type 'llama'"),
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
    with pytest.raises(InputError, match=r"found pytorch_model\.bin; expected safetensors"):
        read(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json: a list; expected keys with values"):
        read(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        read(folder)


# ---------------------------------------------------------------- predictions that would break a bound


def test_a_model_that_sees_later_tokens_is_refused():
    """BERT is in the library's list of causal models, and with its default configuration it is none."""
    entries = {"model_type": "bert", **SHAPE, "intermediate_size": 24}
    with pytest.raises(InputError, match=r"model_type 'bert': what it predicts after 16 tokens changes with the tokens that follow"):
        CausalLM.create(hypothesis(entries), 1)


def test_decoded_weights_are_checked_before_the_first_prediction(checkpoints):
    """Also where nothing but from_config and the tensors made the model: a causal model whose mask fails is found by `hidden`."""
    _, folder = checkpoints("llama")
    model, _ = read(folder)
    model._checked = False
    for layer in model.lm.model.layers:
        layer.self_attn.forward = lambda hidden_states, **_: (hidden_states.mean(1, keepdim=True).expand_as(hidden_states), None)
    with pytest.raises(InputError, match="changes with the tokens that follow"):
        model.hidden(random_ids((1, 8)))


def test_logits_that_are_not_the_head_of_the_last_state_are_refused():
    """Cohere scales its logits, Gemma 2 caps them at 30, which small ones do not show."""
    entries = {"model_type": "cohere", **SHAPE, "num_key_value_heads": 2, "intermediate_size": 24}
    with pytest.raises(InputError, match="'cohere' does more than apply its head to its last state"):
        CausalLM.create(hypothesis(entries), 1)
    with pytest.raises(InputError, match=r"transformers\.final_logit_softcapping: 30\.0; expected null"):
        CausalLM.create(hypothesis({**KINDS["gemma2"], "final_logit_softcapping": 30.0}), 1)


def test_a_model_that_cannot_predict_is_refused():
    """RoBERTa numbers its positions from 2, so that its table of 32 ends at 30."""
    entries = {"model_type": "roberta", **SHAPE, "intermediate_size": 24, "is_decoder": True}
    with pytest.raises(InputError, match=r"model_type 'roberta' cannot predict with this configuration \(\w+: ") as error:
        CausalLM.create(hypothesis(entries), 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rotary_frequencies_that_depend_on_the_padded_length_are_refused(kind):
    rotary = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 16}
    if kind == "longrope":
        rotary |= {"short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0]}
    entries = {**LLAMA, "rope_parameters": rotary}
    with pytest.raises(InputError, match=f"with rope_type {kind}, predictions depend on the padded length beyond 16 tokens"):
        CausalLM.create(hypothesis(entries), 1)
    model, _ = CausalLM.create(hypothesis(entries, context_length=16), 1)
    assert logits_of(model, random_ids((1, 16))).isfinite().all()


def test_a_configuration_that_the_library_reads_otherwise_is_refused():
    _, config = CausalLM.create(hypothesis(LLAMA), 1)
    entries = config["transformers"]
    older = {key: value for key, value in entries.items() if key != "rope_parameters"} | {"rope_theta": 5.0}
    for changed, match in (
        (older, "rope_theta: the installed transformers reads nothing, expected 5.0"),
        (entries | {"num_key_value_heads": None}, "num_key_value_heads: the installed transformers reads 4, expected None"),
        (entries | {"attention_dropout": 0.1}, "attention_dropout: the installed transformers reads nothing, expected 0.1"),
    ):
        with pytest.raises(InputError, match=match):
            CausalLM.from_config(config | {"transformers": changed})


# ---------------------------------------------------------------- new models


def test_a_new_model_is_a_function_of_its_seed():
    state = torch.random.get_rng_state()
    model, config = CausalLM.create(
        hypothesis(
            {
                "model_type": "llama",
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "initializer_range": 0.1,
            }
        ),
        5,
    )
    again, _ = CausalLM.create(config, 5)
    assert torch.equal(state, torch.random.get_rng_state())
    assert config["transformers"]["vocab_size"] == VOCAB and "initializer_range" not in config["transformers"]
    tensors = dict(model.named_parameters())
    assert tensors["lm_head.weight"].std().item() == pytest.approx(0.1, rel=0.03)
    assert tensors["model.layers.1.self_attn.o_proj.weight"].std().item() == pytest.approx(0.05, rel=0.03)
    assert torch.equal(tensors["model.norm.weight"], torch.ones(64))
    other, _ = CausalLM.create(hypothesis({**config["transformers"], "initializer_range": 0.1}), 6)
    same, _ = CausalLM.create(hypothesis({**config["transformers"], "initializer_range": 0.1}), 5)
    for name, parameter in same.named_parameters():
        assert torch.equal(parameter, tensors[name])
        assert parameter.ndim < 2 or not torch.equal(parameter, dict(other.named_parameters())[name])
    assert not torch.equal(tensors["lm_head.weight"], dict(again.named_parameters())["lm_head.weight"])  # its range is the default again

    ids = random_ids((4, 17))
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(5):
        loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(VOCAB), abs=0.5) and losses[-1] < losses[0] - 0.1


def test_weights_before_a_checkpoint_are_nan_and_nothing_is_drawn():
    _, config = CausalLM.create(hypothesis(KINDS["gpt2"]), 1)
    state = torch.random.get_rng_state()
    model = CausalLM.from_config(config)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(parameter.isnan().all() for parameter in model.parameters())
    assert logits_of(model.eval(), random_ids((1, 4))).isnan().all()


def test_training_is_without_dropout():
    """GPT-2's default is 0.1: two passes in training mode agree, and agree with evaluation."""
    model, _ = CausalLM.create(hypothesis(KINDS["gpt2"]), 1)
    ids = random_ids((2, 9))
    with torch.no_grad():
        losses = [model.train(mode)(ids, ids).item() for mode in (True, True, False)]
    assert losses[0] == losses[1] == pytest.approx(losses[2], abs=1e-6)
    with pytest.raises(InputError, match=r"transformers\.resid_pdrop: 0\.2; expected 0"):
        CausalLM.create(hypothesis(KINDS["gpt2"] | {"resid_pdrop": 0.2}), 1)


def test_a_misspelt_key_of_a_new_model_is_refused():
    with pytest.raises(InputError, match=r"transformers\.num_hiden_layers: not a key of model_type 'llama'"):
        CausalLM.create(hypothesis(LLAMA | {"num_hiden_layers": 3}), 1)


def test_a_sequence_longer_than_the_context_is_refused():
    model, _ = CausalLM.create(hypothesis(LLAMA, context_length=8), 1)
    with pytest.raises(InputError, match="a sequence of 9 tokens is longer than the model's context_length 8"):
        model.hidden(random_ids((1, 9)))


def test_the_head_is_float32_under_autocast(checkpoints):
    model, _ = read(checkpoints("llama")[1])
    hidden = model.hidden(random_ids((1, 4))).detach()
    expected = model.head(hidden)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(model.lm.lm_head(hidden)[..., :VOCAB].float(), expected)
        assert torch.equal(model.head(hidden), expected)


# ---------------------------------------------------------------- messages and scoring


def test_a_model_survives_folder_and_message(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setitem(models.FAMILIES, "transformers", "tokenbounds.models.causal:CausalLM")
    model, config = read(checkpoints("llama-tied")[1])
    models.save_model(tmp_path, model, config, {})
    again, found = models.load_model(tmp_path)
    assert found == config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    contexts = {"token": {"mode": "token", "context_length": 16}}
    message = decode_message(encode_model(tmp_path, {"kind": "float16"}, contexts))
    decoded, ids = model_of(message), random_ids((2, 9))
    half = {name: parameter.detach().half().float() for name, parameter in model.named_parameters()}
    assert message.config == {"hypothesis": config, "contexts": contexts}
    assert all(torch.equal(parameter, half[name]) for name, parameter in decoded.named_parameters())
    torch.testing.assert_close(logits_of(decoded, ids), logits_of(model, ids), rtol=0.02, atol=0.02)


def test_tokens_are_scored_as_one_by_one(checkpoints, tmp_path):
    reference, folder = checkpoints("mistral")
    model, _ = read(folder)
    rng = np.random.default_rng(0)
    store = write_store(tmp_path / "tokens", random_documents(rng, 12), vocab_size=VOCAB)
    items = list(token_items(store, rng.integers(0, store.m, 40), ContextRule(16, "first", 0)))
    scored = score_items(model, items, batch_tokens=64)
    for item, (log2_q, rank, _) in zip(items, scored, strict=True):
        logits = library_logits(reference, torch.from_numpy(item.ids[None]))[0, -1].double()
        chosen = logits[item.targets[0]]
        assert log2_q[0] == pytest.approx((chosen - logits.logsumexp(0)).item() / math.log(2), abs=1e-5)
        assert rank[0] == (logits >= chosen).sum().item() - 1


# ---------------------------------------------------------------- a real model


def test_a_real_model_predicts_real_text(shared, tmp_path):
    """llama2.c's doc/stories260K.md gives a validation loss of 1.2968 nats = 1.871 bits per token; 7.4 with the pairs not permuted."""
    stories_checkpoint(shared / "data/models/stories260K/stories260K.bin", tmp_path)
    model, _ = read_folder(tmp_path, vocab_size=512, eot_id=1, start_token="always")
    pieces = read_pieces(shared / "data/models/stories260K/tok512.bin")
    text = (shared / "data/tinystories/tinystories_sample_2MiB.txt").read_text(encoding="utf-8", errors="ignore")
    stories = [story.strip() for story in text.split("<|endoftext|>")[:60]]
    library = stories_tokenizer(shared / "data/models/stories260K/tok512.bin")  # which tests/pipeline/test_published.py uses
    assert [library.encode(story).ids for story in stories] == [encode(story, pieces) for story in stories]
    # Documents end with token 1, which begins the next: what the model saw in training.
    store = write_store(tmp_path / "tokens", [encode(story, pieces) for story in stories], vocab_size=512, eot_id=1)
    rule = ContextRule(512, "always", 1)
    whole = list(document_items(store, np.arange(len(stories)), rule))
    scored = score_items(model, whole, batch_tokens=8192)
    bits = -np.concatenate([log2_q for log2_q, _, _ in scored])
    assert bits.size > 20000 and bits.mean() == pytest.approx(1.2968 / math.log(2), abs=0.05)

    # Drawn tokens get what they have in the pass over their document.
    at = {
        position: value
        for item, (log2_q, _, _) in zip(whole, scored, strict=True)
        for position, value in zip(item.positions, log2_q, strict=True)
    }
    drawn = [position for position in np.random.default_rng(0).integers(0, store.m, 60).tolist() if position in at]
    single = score_items(model, list(token_items(store, drawn, rule)), batch_tokens=4096)
    np.testing.assert_allclose([log2_q[0] for log2_q, _, _ in single], [at[position] for position in drawn], atol=1e-4)
