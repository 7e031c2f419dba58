"""Models of the transformers library: predictions that would break a bound are refused; new models, messages
and scores."""

import math

import numpy as np
import pytest
import torch
from support.causal_models import (
    KINDS,
    LLAMA,
    SHAPE,
    VOCAB,
    hypothesis,
    library_logits,
    logits_of,
    random_ids,
    read,
)
from support.messages import contexts_of
from support.stores import random_documents, write_store

from tokenbounds.codecs.decode import decode_message, encode_model, model_of
from tokenbounds.codecs.frame import encode
from tokenbounds.corpus.contexts import ContextRule, token_items
from tokenbounds.errors import InputError
from tokenbounds.models import folders, registry
from tokenbounds.models.prediction_keys import canonical_entries
from tokenbounds.models.transformers import CausalLM, library_config
from tokenbounds.scoring.score import score_items

# ---------------------------------------------------------------- predictions that would break a bound


def test_a_model_that_sees_later_tokens_is_refused():
    """BERT is in the library's list of causal models, and with its default configuration it is none."""
    entries = {"model_type": "bert", **SHAPE, "intermediate_size": 24}
    with pytest.raises(
        InputError,
        match=r"model_type 'bert': what it predicts after 16 tokens changes with the tokens that follow",
    ):
        CausalLM.create(hypothesis(entries), 1)


def test_decoded_weights_are_checked_before_the_first_prediction(checkpoints):
    """`hidden` refuses a causal model whose mask fails, also if only from_config and the tensors made it."""
    _, folder = checkpoints("llama")
    model, _ = read(folder)
    model._checked = False
    for layer in model.lm.model.layers:
        layer.self_attn.forward = lambda hidden_states, **_: (
            hidden_states.mean(1, keepdim=True).expand_as(hidden_states),
            None,
        )
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
    with pytest.raises(
        InputError, match=r"model_type 'roberta' cannot predict with this configuration \(\w+: "
    ) as error:
        CausalLM.create(hypothesis(entries), 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rotary_frequencies_that_depend_on_the_padded_length_are_refused(kind):
    rotary = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 16}
    if kind == "longrope":
        rotary |= {"short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0]}
    entries = {**LLAMA, "rope_parameters": rotary}
    with pytest.raises(
        InputError, match=f"with rope_type {kind}, predictions depend on the padded length beyond 16 tokens"
    ):
        CausalLM.create(hypothesis(entries), 1)
    model, _ = CausalLM.create(hypothesis(entries, context_length=16), 1)
    assert logits_of(model, random_ids((1, 16))).isfinite().all()


def test_a_configuration_that_the_library_reads_otherwise_is_refused():
    _, config = CausalLM.create(hypothesis(LLAMA), 1)
    entries = config["transformers"]
    older = {key: value for key, value in entries.items() if key != "rope_parameters"} | {"rope_theta": 5.0}
    for changed, match in (
        (older, "rope_theta: the installed transformers reads nothing, expected 5.0"),
        (
            entries | {"num_key_value_heads": None},
            "num_key_value_heads: the installed transformers reads 4, expected None",
        ),
        (
            entries | {"attention_dropout": 0.1},
            "attention_dropout: the installed transformers reads nothing, expected 0.1",
        ),
    ):
        with pytest.raises(InputError, match=match):
            CausalLM.from_config(config | {"transformers": changed})


# ---------------------------------------------------------------- what a hypothesis holds


def test_nothing_that_changes_no_prediction_is_part_of_a_hypothesis(tmp_path):
    """Names, versions, token ids, training: dropped from a published config.json, refused in a message."""
    model, config = CausalLM.create(hypothesis(LLAMA), 1)
    tensors = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    idle = {
        **{"_name_or_path": "mine", "transformers_version": "5.0", "architectures": ["LlamaForCausalLM"]},
        **{"initializer_range": 0.5, "attention_dropout": 0.25, "use_cache": False, "torch_dtype": "float16"},
        **{"bos_token_id": 7, "pad_token_id": 3, "task_specific_params": {"note": "x"}, "pretraining_tp": 2},
        **{"note": "free text", "unsloth_version": "1"},
    }
    read = library_config(config["transformers"] | {key: idle[key] for key in idle if key != "torch_dtype"})
    assert canonical_entries(read) == config["transformers"]

    def message(entries):
        described = {
            "hypothesis": {**config, "transformers": entries},
            "contexts": contexts_of(("token", 16)),
        }
        return encode(tensors, described, codec={"kind": "float16"}, layout=model.layout())

    entries = config["transformers"]
    assert decode_message(message(entries)).config["hypothesis"] == config
    rotary = entries["rope_parameters"]
    fewer = {key: value for key, value in entries.items() if key != "mlp_bias"}
    forms = [{**entries, key: value} for key, value in idle.items()]
    forms += [fewer, {**entries, "num_hidden_layers": 2.0}, {**entries, "mlp_bias": 0}]
    forms += [{**entries, "rope_parameters": {**rotary, "factor": 8.0}}]
    forms += [{**entries, "rope_parameters": {**rotary, "rope_theta": 10000}}]
    for changed in forms:
        with pytest.raises(InputError) as error:
            decode_message(message(changed))
        assert "\n" not in str(error.value)


def test_a_key_whose_effect_is_not_known_has_its_default():
    entries = {"model_type": "gpt2", **SHAPE, "add_cross_attention": True}
    with pytest.raises(
        InputError, match=r"transformers\.add_cross_attention: True; expected False, the default"
    ):
        CausalLM.create(hypothesis(entries), 1)
    rotary = {"rope_type": "mine", "rope_theta": 5.0}
    with pytest.raises(InputError):
        CausalLM.create(hypothesis({**LLAMA, "rope_parameters": rotary}), 1)


def test_what_the_kinds_of_layers_say_is_not_said_twice():
    entries = canonical_entries(library_config(KINDS["qwen2"] | {"max_window_layers": 1}))
    assert entries == canonical_entries(library_config(KINDS["qwen2"]))
    assert entries["layer_types"] == ["full_attention"] * 2 and "sliding_window" not in entries


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
    assert not torch.equal(
        tensors["lm_head.weight"], dict(again.named_parameters())["lm_head.weight"]
    )  # its range is the default again

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
    with pytest.raises(
        InputError, match="a sequence of 9 tokens is longer than the model's context_length 8"
    ):
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
    monkeypatch.setitem(registry.FAMILIES, "transformers", "tokenbounds.models.transformers:CausalLM")
    model, config = read(checkpoints("llama-tied")[1])
    folders.save_model(tmp_path, model, config, {})
    again, loaded_config = folders.load_model(tmp_path)
    assert loaded_config == config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    contexts = contexts_of(("token", 16))
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
    scored = score_items(model, items, arithmetic=contexts_of()["arithmetic"])
    for item, (log2_q, rank, _) in zip(items, scored, strict=True):
        logits = library_logits(reference, torch.from_numpy(item.ids[None]))[0, -1].double()
        chosen = logits[item.targets[0]]
        assert log2_q[0] == pytest.approx((chosen - logits.logsumexp(0)).item() / math.log(2), abs=1e-5)
        assert rank[0] == (logits >= chosen).sum().item() - 1
