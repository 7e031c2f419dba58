"""Keys of a transformers configuration that affect predictions: no others are part of a hypothesis.

=================================  ===================================================================
key                                in a hypothesis
=================================  ===================================================================
not declared by the model's class  no: nothing says that the class reads it
`BOOKKEEPING`                      no: names, versions, token ids, training, outputs
`PREDICTIVE`                       yes, with its value
any other                          yes, with the library's default, which is the only value accepted: what
                                   it does is not known here
a source of ``layer_types``        no: these say it
in ``rope_parameters``             those that its ``rope_type`` reads (`_ROTARY`)
=================================  ===================================================================

Numbers are stored in the type of the default: 10000.0 and not 10000 for an angle's base.
"""

import json
import re

from tokenbounds.errors import InputError
from tokenbounds.io.files import canonical_json

# Keys that affect no prediction. Dropout (any key with "drop" in it) is among them, because it is always zero
# here.
BOOKKEEPING = re.compile(
    r"_.*|.*drop.*|summary_.*|architectures|auto_map|(torch_)?dtype|transformers_version|.*token_(id|index)|"
    r"use_cache|init(ializer)?_.*|pretraining_tp|output_.*|return_dict|gradient_checkpointing|torchscript|"
    r"chunk_size_feed_forward|is_encoder_decoder|id2label|label2id|problem_type|attn_implementation|"
    r"experts_implementation|fusion_config|transformers_weights|task_specific_params|tokenizer_class|"
    r"router_(aux_loss_coef|jitter_noise)|(aux|z)_loss_coef(ficient)?|model_max_length|name_or_path"
)
# Keys that the forward pass of decoder-only models reads: shapes, functions, constants, positions.
PREDICTIVE = re.compile(
    r"model_type|vocab_size|tie_word_embeddings|is_decoder|(hidden|intermediate|embedding)_size|d_model|"
    r"(max_position_embeddings|n_positions|n_ctx|max_seq_len)|num_(hidden_)?layers|n_layers?|n_embd|n_inner|"
    r"num_(attention|key_value|kv)_heads|num_heads|n_heads?|head_dim|ffn_dim|"
    r"hidden_act(ivation)?|activation(_function)?|(rms_)?norm_eps|layer_norm_(eps|epsilon)|norm_epsilon|eps|"
    r"(attention|mlp|lm_head|conv|use|use_qkv)_bias|bias|scale_(attn_weights|attn_by_inverse_layer_idx|emb|"
    r"embedding|depth)|reorder_and_upcast_attn|attention_(multiplier|value_scale|softmax_in_fp32)|"
    r"(embedding|residual|logits|logit|lm_head)_(multiplier|scaling|scale)|dim_model_base|"
    r"query_pre_attn_scalar|(attn|final)_logit_softcapping|logits_soft_cap|use_bidirectional_attention|"
    r"rope_(parameters|theta|scaling|interleave)|rotary_dim|partial_rotary_factor|"
    r"original_max_position_embeddings|no_rope_layers|layer_types|layers_block_type|attention_(types|layers)|"
    r"(use_)?sliding_window(_size)?|window_size|use_parallel_residual|"
    r"parallel_attn|new_decoder_architecture|alibi|multi_query|use_qk_norm|(qk|q|k)_layernorm|clip_qkv|"
    r"num_(local_)?experts(_per_tok(en)?)?|n_(routed|shared)_experts|num_shared_experts|n_group|topk_group|"
    r"norm_topk_prob|routed_scaling_factor|scoring_func|topk_method|first_k_dense_replace|decoder_sparse_step|"
    r"mlp_(layer_types|only_layers)|(moe|shared_expert)_intermediate_size|(kv|q)_lora_rank|"
    r"(qk_rope|qk_nope|qk|v)_head_dim|do_layer_norm_before|word_embed_proj_dim"
)
# Keys from which the library derives ``layer_types``, which hypotheses hold.
_DERIVING = ("max_window_layers", "sliding_window_pattern", "no_rope_layer_interval")
_ANGLES = {"rope_theta", "rope_type", "partial_rotary_factor"}
_STRETCHED = _ANGLES | {"factor", "original_max_position_embeddings"}
# Keys that each rotary type reads.
_ROTARY = {
    "default": _ANGLES,
    "linear": _ANGLES | {"factor"},
    "dynamic": _STRETCHED,
    "proportional": _ANGLES | {"factor"},
    "yarn": _STRETCHED
    | {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    "longrope": _STRETCHED | {"attention_factor", "short_factor", "long_factor"},
    "llama3": _STRETCHED | {"low_freq_factor", "high_freq_factor"},
}


def canonical_entries(lm_config):
    """Select the keys of a library configuration that affect predictions, as plain JSON data.

    Parameters
    ----------
    lm_config : transformers.PreTrainedConfig

    Returns
    -------
    dict
        Keys with their values, defaults included.

    Raises
    ------
    InputError
        A value is not JSON; a key that is not known here to affect predictions has another value than the
        library's default; an unknown rotary type.
    """
    entries, defaults = _entries(lm_config), _entries(type(lm_config)())
    kept = {}
    for key, value in entries.items():
        if key not in defaults or BOOKKEEPING.fullmatch(key) or _is_idle(key, entries.get("layer_types")):
            continue
        value = _like(key, value, defaults[key])
        if key == "rope_parameters" and isinstance(value, dict):
            value = _rotary(value)
        elif not PREDICTIVE.fullmatch(key) and value != defaults[key]:
            raise InputError(
                f"transformers.{key}: {value!r:.60}; expected {defaults[key]!r:.60}, the default: "
                f"what else it does in model_type '{lm_config.model_type}' is not known"
            )
        kept[key] = value
    return kept


def _entries(lm_config):
    try:
        return json.loads(canonical_json(lm_config.to_dict()))
    except (TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split()):.160}"
        raise InputError(
            f"transformers: a value of model_type '{lm_config.model_type}' is not JSON ({reason})"
        ) from None


def _is_idle(key, layer_types):
    """Tell whether a key has no effect beside the kinds of the layers: what they were derived from, and a
    window that no layer has."""
    if not isinstance(layer_types, list):
        return False
    return key in _DERIVING or (key == "sliding_window" and not any("sliding" in str(k) for k in layer_types))


def _like(key, value, default):
    """Return a number in the type of the default; a truth value stands for no number, nor the reverse."""
    if type(default) is float and type(value) is int:
        return float(value)
    if type(default) is int and type(value) is float and value.is_integer():
        return int(value)
    truth = (type(value) is bool, type(default) is bool)
    if truth[0] != truth[1] and None not in (value, default):
        raise InputError(f"transformers.{key}: {value!r:.60}; expected a value like {default!r:.60}")
    return value


def _rotary(parameters):
    """Return what is read of rotary parameters: one set for all layers, or one for each kind of layer."""
    if all(value is None or isinstance(value, dict) for value in parameters.values()):
        return {kind: value if value is None else _rotary(value) for kind, value in parameters.items()}
    kind = parameters.get("rope_type")
    if not isinstance(kind, str) or kind not in _ROTARY:
        expected = f"one of {', '.join(_ROTARY)}"
        raise InputError(f"transformers.rope_parameters: rope_type {kind!r:.60}; expected {expected}")
    return {
        key: float(value) if type(value) is int and key != "original_max_position_embeddings" else value
        for key, value in parameters.items()
        if key in _ROTARY[kind] and value is not None
    }


# An expert with a capacity refuses tokens when others of the batch are many.
_CAPACITY = re.compile(r".*(expert_capacity|capacity_factor).*")
# Switches that let a prediction see later tokens, with the values that do.
_BOTH_WAYS = {"use_bidirectional_attention": (True, "all", "vision"), "is_causal": (False,)}


def check_direction(entries, prefix="transformers"):
    """Raise an `InputError` if attention is switched to both directions, at any depth of a configuration."""
    for key, value in entries.items():
        if isinstance(value, dict):
            check_direction(value, f"{prefix}.{key}")
        elif value in _BOTH_WAYS.get(key, ()):
            raise InputError(f"{prefix}.{key}: {value!r:.60}; expected a model that sees no later token")


def check_experts(entries, prefix="transformers"):
    """Raise an `InputError` if tokens are routed to experts with a capacity.

    Which tokens such an expert refuses depends on other inputs of the batch (docs/theory.md, section 13).
    Without a capacity only rounding does, which every run measures.
    """
    for key, value in entries.items():
        if isinstance(value, dict):
            check_experts(value, f"{prefix}.{key}")
        elif _CAPACITY.fullmatch(str(key)) and value not in (None, 0):
            raise InputError(
                f"{prefix}.{key}: {value!r:.60}; expected experts without a capacity: with one a prediction "
                "depends on the other inputs of its batch"
            )
