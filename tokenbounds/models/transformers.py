"""Decoder-only causal language models of the transformers library: LLaMA, Mistral, GPT-2, Pythia (GPT-NeoX),
Qwen2 and others.

They are trained here from scratch, or read from a folder with a published checkpoint in safetensors. Only the
library's own classes run: no code from a folder or the hub does. The library is imported inside functions,
because the import takes seconds.

A model that saw later tokens, or whose prediction depended on the amount of padding after it, would give a
bound that is too small. Every model is therefore tested before its first prediction: see
`CausalLM.check_predictions`.

Shapes in comments: B sequences, T tokens, W width, V vocabulary. The model may have rows of padding in its
vocabulary, which are cut off.
"""

import contextlib
import math
import re
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import nn

from tokenbounds.config.schema import HypothesisConfig
from tokenbounds.errors import InputError
from tokenbounds.io.files import canonical_json
from tokenbounds.models.layers import fill_nan, mean_loss_nats
from tokenbounds.models.prediction_keys import canonical_entries, check_direction, check_experts
from tokenbounds.randomness import generator, normals

# Weights that write to the residual stream.
_RESIDUAL = re.compile(r"\.(o_proj|down_proj|c_proj|attention\.dense|dense_4h_to_h)\.weight$")
_PROBE_TOKENS = 64
# Relative difference; rounding in float32 causes 1e-6, one later token in a context of 32 more than 1e-2.
_PROBE_TOLERANCE = 1e-3


class CausalLMConfig(HypothesisConfig):
    """Hypothesis configuration of this family: everything that defines a model but its weights."""

    family: Literal["transformers"] = Field(description="Model family.")
    transformers: dict[str, Any] = Field(
        description="`model_type` and all other keys of the transformers configuration that affect "
        "predictions, and no others, each with its value: the library's defaults change with its version."
    )
    context_length: PositiveInt = Field(description="Longest input in tokens.")


class CausalLM(nn.Module):
    """A causal language model of the transformers library with the interface of a family (see
    `tokenbounds.models.registry`).

    Parameters
    ----------
    config : CausalLMConfig
    transformers_config : transformers.PreTrainedConfig
        Configuration of the library that ``config.transformers`` describes.
    draw : bool
        Whether the library gives it initial weights; otherwise it holds NaN.

    Raises
    ------
    InputError
        The library has no such model, or this family cannot run it; see `from_config`.
    """

    Config = CausalLMConfig

    def __init__(self, config, transformers_config, *, draw=False):
        super().__init__()
        self.vocab_size, self.context_length = config.vocab_size, config.context_length
        self.longest = config.context_length
        self.model_type = transformers_config.model_type
        _check_positions(transformers_config, config.context_length)
        self.lm = _new_lm(transformers_config, draw)
        self._checked = False
        output, base = self.lm.get_output_embeddings(), self.lm.base_model
        if base is self.lm or not isinstance(output, nn.Linear):
            raise InputError(
                f"model_type '{self.model_type}' has no linear head on a base model, expected one"
            )
        rows = min(output.out_features, self.lm.get_input_embeddings().num_embeddings)
        if rows < config.vocab_size:
            raise InputError(
                f"the model's vocabulary has {rows} rows, "
                f"expected at least the tokenizer's {config.vocab_size} tokens"
            )
        buffers = self.lm.state_dict().keys() - dict(self.lm.named_parameters(remove_duplicate=False)).keys()
        if buffers:  # the message would lack them
            raise InputError(
                f"model_type '{self.model_type}' keeps '{min(buffers)}' outside its parameters, "
                "expected parameters only"
            )

    @classmethod
    def from_config(cls, config):
        """Build the model of a valid hypothesis configuration, without weights.

        Parameters
        ----------
        config : dict
            A `CausalLMConfig` as a dictionary.

        Raises
        ------
        InputError
            ``transformers`` is no configuration of a decoder-only causal language model, or this version of
            the library reads it differently; the model has too few tokens or positions; its predictions would
            depend on the amount of padding after the input.
        """
        config = CausalLMConfig.model_validate(config)
        lm_config = library_config(config.transformers)
        read = canonical_entries(lm_config)
        for key, value in config.transformers.items():
            if key not in read or canonical_json(read[key]) != canonical_json(value):
                instead = f"{read[key]!r:.60}" if key in read else "nothing"
                raise InputError(
                    f"transformers.{key}: the installed transformers reads {instead}, expected {value!r:.60}"
                )
        return cls(config, lm_config)

    @classmethod
    def canonical(cls, config):
        """Return a hypothesis configuration with all keys of ``transformers`` that affect predictions, as the
        installed library reads them, and no others."""
        return config | {"transformers": canonical_entries(library_config(config["transformers"]))}

    @classmethod
    def create(cls, config, seed):
        """Build a model with initial weights, for training.

        Parameters
        ----------
        config : dict
            `CausalLMConfig`; ``transformers`` may omit ``vocab_size`` and all keys with a default in the
            library. Its ``initializer_range`` is the standard deviation of the initial weights. There is no
            dropout.
        seed : int
            Seed of all random draws.

        Returns
        -------
        model : CausalLM
        config : dict
            Its hypothesis configuration, with ``transformers`` in full.

        Raises
        ------
        InputError
            As for `from_config`; or a key is unknown to the library, or asks for dropout.
        """
        given = {"vocab_size": config["vocab_size"], **config["transformers"]}
        for key, value in given.items():
            if "drop" in key and value:
                raise InputError(
                    f"transformers.{key}: {value!r:.60}; expected 0: "
                    "models of this family train without dropout"
                )
        lm_config = library_config(given)
        unknown = (given.keys() & lm_config.to_dict().keys()) - type(lm_config)().to_dict().keys()
        if unknown:  # the library itself would ignore a misspelt key
            raise InputError(
                f"transformers.{min(unknown)}: "
                f"not a key of model_type '{lm_config.model_type}' in the transformers library"
            )
        config = config | {"transformers": canonical_entries(lm_config)}
        with torch.random.fork_rng(devices=[]):  # tensors that `initialize` skips keep the library's values
            torch.default_generator.manual_seed(seed % 2**63)
            model = cls(CausalLMConfig.model_validate(config), lm_config, draw=True)
        if not next(model.parameters()).is_meta:  # there only the layout is wanted
            model.initialize(seed, getattr(lm_config, "initializer_range", 0.02)).eval().check_predictions()
        return model, config

    def initialize(self, seed, std):
        """Draw the weights of all linear layers and embeddings, from a random stream per tensor.

        They are normal with standard deviation `std`, those that write to the residual stream with std /
        sqrt(2 layers) [Radford et al. 2019]; biases are 0. All other tensors keep the library's initial
        values: norms have no effect.

        Parameters
        ----------
        seed : int
            Seed of the streams; see `tokenbounds.randomness.normals`.
        std : float

        Returns
        -------
        CausalLM
            The model itself.
        """
        from transformers.pytorch_utils import Conv1D

        residual_std = std / math.sqrt(2 * self.lm.config.num_hidden_layers)
        done = set()
        with torch.no_grad():
            for module_name, module in self.lm.named_modules():
                if not isinstance(module, nn.Linear | nn.Embedding | Conv1D) or id(module.weight) in done:
                    continue
                done.add(id(module.weight))
                name = f"{module_name}.weight"
                drawn = torch.from_numpy(normals(seed, "init", name, shape=tuple(module.weight.shape)))
                module.weight.copy_(drawn * (residual_std if _RESIDUAL.search(name) else std))
                if getattr(module, "bias", None) is not None:
                    module.bias.zero_()
        return self

    def named_parameters(self, prefix="", recurse=True, remove_duplicate=True):
        """Yield the parameters under the names that they have in a checkpoint.

        Parameters of a smoothing head attached to the model are not among them.
        """
        return self.lm.named_parameters(prefix, recurse, remove_duplicate)

    def layout(self):
        """List (name, shape) of every tensor, in a fixed order; a tied head and embedding appear once."""
        return [(name, tuple(parameter.shape)) for name, parameter in self.named_parameters()]

    def hidden(self, ids):
        """Compute final normalised states (B, T, W) of `ids` (B, T): state t has seen ids[:, : t + 1]."""
        T = ids.shape[1]
        if self.context_length < T:
            raise InputError(
                f"a sequence of {T} tokens is longer than the model's context_length {self.context_length}"
            )
        if not self._checked and not self.training:
            self.check_predictions()
        return self._states(ids)

    def head(self, hidden):
        """Compute logits (..., V) of states (..., W), in the type of the weights even under autocast; float32
        numbers."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self._logits(hidden.to(self.lm.get_output_embeddings().weight.dtype)).float()

    def head_weight(self):
        """Return the parameter that is the head's matrix (V, W), which may be the embedding."""
        return self.lm.get_output_embeddings().weight

    def forward(self, ids, targets):
        """Compute the mean loss in nats per token of predicting `targets` (B, T) from `ids` (B, T).

        For training only: under autocast its logits are rounded.
        """
        return mean_loss_nats(self._logits, self.hidden(ids), targets)

    def _states(self, ids):
        return self.lm.base_model(input_ids=ids, use_cache=False).last_hidden_state

    def _logits(self, hidden):
        return self.lm.get_output_embeddings()(hidden)[..., : self.vocab_size]

    @torch.no_grad()
    def check_predictions(self):
        """Test on random tokens that states ignore later tokens, and that `head` gives the library's logits.

        ::

            ids     t0 t1 ... t31 t32 ... t63    states of the first half must be equal
            half    t0 t1 ... t31                with and without the second half

        `hidden` calls it once, in evaluation mode. A model that predicts NaN passes: every consumer refuses
        it.

        Raises
        ------
        InputError
            It is no causal model, or its logits are not its head applied to the last state of its base model.
        """
        device, length = next(self.parameters()).device, min(_PROBE_TOKENS, self.context_length)
        ids = torch.from_numpy(generator(0, "probe").integers(0, self.vocab_size, (1, length))).to(device)
        half = ids[:, : (length + 1) // 2]
        with torch.autocast(device.type, enabled=False):
            try:
                whole, states = self._states(ids)[:, : half.shape[1]], self._states(half)
                logits = self.lm(input_ids=half, use_cache=False).logits[..., : self.vocab_size]
            except (
                ArithmeticError,
                AttributeError,
                LookupError,
                RuntimeError,
                TypeError,
                ValueError,
            ) as error:
                raise InputError(
                    f"model_type '{self.model_type}' cannot predict with this configuration "
                    f"({one_line(error)})"
                ) from None
            if _difference(states, whole) > _PROBE_TOLERANCE:
                raise InputError(
                    f"model_type '{self.model_type}': what it predicts after {half.shape[1]} tokens changes "
                    "with the tokens that follow, expected a decoder-only causal language model"
                )
            if _difference(logits, self.head(states)) > _PROBE_TOLERANCE:
                raise InputError(
                    f"model_type '{self.model_type}' does more than apply its head to its last state, "
                    "expected logits that are linear in it"
                )
        self._checked = bool(logits.isfinite().all())


def _difference(a, b):
    """Compute the largest relative difference of a position of a and b (1, T, D).

    Each entry of the difference is compared with that entry and the median of all, so that neither a few
    large entries nor a single one that changes are hidden.
    """
    size = a.abs() + a.abs().median(-1, keepdim=True).values.clamp(min=1e-30)
    return ((a - b).abs() / size).max().item()


_MOST_LAYERS = 4096


def library_config(entries):
    """Build the library's configuration object, with zero dropout.

    Parameters
    ----------
    entries : dict
        ``model_type`` and other keys of a transformers configuration.

    Returns
    -------
    transformers.PreTrainedConfig

    Raises
    ------
    InputError
        The model_type is not that of a causal language model, or the library refuses a value.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = entries.get("model_type")
    example = (
        "a decoder-only causal language model of the transformers library, "
        "such as llama, mistral, gpt2 or gpt_neox"
    )
    if (
        not isinstance(name, str)
        or name not in CONFIG_MAPPING
        or name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    ):
        raise InputError(f"transformers.model_type: {name!r:.60}; expected {example}")
    if entries.get("quantization_config"):
        raise InputError(
            "transformers.quantization_config: found one; expected a checkpoint that is not quantized"
        )
    options = {key: value for key, value in entries.items() if key != "model_type"}
    for key, value in options.items():  # a stranger's: layers are built one by one before a weight is read
        if "layer" in key and type(value) is int and value > _MOST_LAYERS:
            raise InputError(f"transformers.{key:.60}: {value}; expected at most {_MOST_LAYERS}")
    try:
        lm_config = CONFIG_MAPPING[name](**options)
    except Exception as error:  # bad values raise many kinds of errors in the library
        raise InputError(
            f"transformers: not a configuration of model_type '{name}' ({one_line(error)})"
        ) from None
    check_experts(lm_config.to_dict())
    check_direction(lm_config.to_dict())
    if lm_config.is_encoder_decoder:
        raise InputError(f"transformers.model_type: '{name}' is an encoder and a decoder; expected {example}")
    for key, value in lm_config.to_dict().items():
        if "drop" in key and isinstance(value, float):
            setattr(lm_config, key, 0.0)
    for key in ("final_logit_softcapping", "logits_soft_cap"):
        cap = getattr(lm_config, key, None)
        if cap is not None:  # small logits would hide it from `check_predictions`
            raise InputError(
                f"transformers.{key}: {cap}; expected null: the logits must be linear in the last state"
            )
    return lm_config


def _check_positions(lm_config, context_length):
    """Raise an `InputError` if inputs may be too long for the positions.

    With some rotary types, the length of a long input changes the frequencies of all its positions, so that
    predictions would depend on padding.
    """
    limit = getattr(lm_config, "max_position_embeddings", None)
    if limit is not None and context_length > limit:
        raise InputError(
            f"context_length {context_length} is longer than the model's {limit} positions "
            "(max_position_embeddings)"
        )
    rotary = getattr(lm_config, "rope_parameters", None) or {}
    for entries in (rotary, *rotary.values()):  # one for all layers, or one per kind of layer
        if isinstance(entries, dict) and entries.get("rope_type") in ("dynamic", "longrope"):
            limit = entries.get("original_max_position_embeddings")
            if limit is not None and context_length > limit:
                raise InputError(
                    f"context_length {context_length}: with rope_type {entries['rope_type']}, predictions "
                    f"depend on the padded length beyond {limit} tokens, expected at most {limit}"
                )


def _new_lm(lm_config, draw):
    """Build the library's causal language model in float32 on the current default device.

    Without `draw` it holds NaN, and nothing is drawn from the global generator.
    """
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        # torch's own attention is faster, but cannot cap its scores.
        capped = getattr(lm_config, "attn_logit_softcapping", None) is not None
        supported = MODEL_FOR_CAUSAL_LM_MAPPING[type(lm_config)]._supports_sdpa
        attention = "sdpa" if supported and not capped else "eager"
        with contextlib.nullcontext() if draw else no_init_weights():
            lm = AutoModelForCausalLM.from_config(
                lm_config, dtype=torch.float32, attn_implementation=attention, trust_remote_code=False
            )
    except Exception as error:  # bad values raise many kinds of errors in the library
        raise InputError(
            f"transformers: model_type '{lm_config.model_type}' cannot be built ({one_line(error)})"
        ) from None
    lm.tie_weights()
    if not draw:
        for module in lm.modules():
            fill_nan(module)
    return lm


def one_line(error):
    """Describe an exception in one line of at most some 160 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.160}"
