"""Decoder-only causal language models of the transformers library: LLaMA, Mistral, GPT-2, Pythia (GPT-NeoX), Qwen2 and others.

They are trained here from scratch, or read from a folder that holds a published checkpoint in safetensors. Only the library's own classes
run: no code from a folder or the hub does. The library is imported where it is needed, for that takes seconds.

A model that saw later tokens, or whose prediction depended on how much padding follows, would give a bound that is too small. Every model
is therefore tested before its first prediction: see `CausalLM.check_predictions`.

Shapes in comments: B sequences, T tokens, W width, V vocabulary. The model may have rows of padding in its vocabulary, which are cut off.
"""

import contextlib
import json
import math
import re
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import nn

from tokenbounds.errors import InputError
from tokenbounds.files import canonical_json, read_json
from tokenbounds.models import CONFIG_FILE, WEIGHTS_FILE, checked, errors_named, fill_model
from tokenbounds.models.layers import fill_nan, mean_loss_nats
from tokenbounds.sections import HypothesisConfig
from tokenbounds.streams import generator, normals

INDEX_FILE = "model.safetensors.index.json"

# Keys of a transformers config that decide no prediction. Dropout (any key with "drop" in it) is one of them: it is always zero here.
_BOOKKEEPING = re.compile(
    r"_.*|.*drop.*|summary_.*|architectures|auto_map|(torch_)?dtype|transformers_version|(b|e)os_token_id|use_cache|initializer_range|"
    r"pretraining_tp|output_(hidden_states|attentions)|return_dict|chunk_size_feed_forward|is_encoder_decoder|id2label|label2id|"
    r"problem_type|attn_implementation|experts_implementation|fusion_config|transformers_weights"
)
# Constants that old checkpoints hold beside their weights: causal masks and rotary frequencies, which the library computes.
_CONSTANTS = re.compile(r"(^|\.)((attn|attention)\.(bias|masked_bias)|rotary_emb\.inv_freq)$")
# Layers that write to the residual stream.
_RESIDUAL = re.compile(r"\.(o_proj|down_proj|c_proj|attention\.dense|dense_4h_to_h)\.weight$")
_PROBE_TOKENS = 64
_PROBE_TOLERANCE = 1e-3  # relative; rounding in float32 makes 1e-6, one later token in the context of 32 more than 1e-2


class CausalLMConfig(HypothesisConfig):
    """Everything that defines a hypothesis of this family but its weights."""

    family: Literal["transformers"] = Field(description="Model family.")
    transformers: dict[str, Any] = Field(
        description="`model_type` and the other keys of its transformers configuration that decide predictions, each with its value: the "
        "library's defaults change with its version."
    )
    context_length: PositiveInt = Field(description="Longest input in tokens.")


class CausalLM(nn.Module):
    """A causal language model of the transformers library with the interface of a family (see `tokenbounds.models`).

    Parameters
    ----------
    config : CausalLMConfig
    transformers_config : transformers.PreTrainedConfig
        What ``config.transformers`` describes.
    draw : bool
        Whether the library gives it initial weights; otherwise it holds NaN.

    Raises
    ------
    InputError
        The library has no such model, or it is not one that this family can run; see `from_config`.
    """

    Config = CausalLMConfig

    def __init__(self, config, transformers_config, *, draw=False):
        super().__init__()
        self.vocab_size, self.context_length = config.vocab_size, config.context_length
        self.model_type = transformers_config.model_type
        _check_positions(transformers_config, config.context_length)
        self.lm = _new_lm(transformers_config, draw)
        self._checked = False
        output, base = self.lm.get_output_embeddings(), self.lm.base_model
        if base is self.lm or not isinstance(output, nn.Linear):
            raise InputError(f"model_type '{self.model_type}' has no linear head on a base model, expected one")
        rows = min(output.out_features, self.lm.get_input_embeddings().num_embeddings)
        if rows < config.vocab_size:
            raise InputError(f"the model's vocabulary has {rows} rows, expected at least the tokenizer's {config.vocab_size} tokens")
        buffers = self.lm.state_dict().keys() - dict(self.lm.named_parameters(remove_duplicate=False)).keys()
        if buffers:  # the message would lack them
            raise InputError(f"model_type '{self.model_type}' keeps '{min(buffers)}' outside its parameters, expected parameters only")

    @classmethod
    def from_config(cls, config):
        """The model of a checked hypothesis configuration (`CausalLMConfig` as a dictionary), without weights.

        Raises
        ------
        InputError
            ``transformers`` is no configuration of a decoder-only causal language model, or one that this version of the library reads
            differently; its vocabulary or positions are too few; its predictions would depend on the length of the input's padding.
        """
        config = CausalLMConfig.model_validate(config)
        found = _transformers_config(config.transformers)
        read = _canonical(found)
        for key, value in config.transformers.items():
            if key not in read or read[key] != value:
                instead = f"{read[key]!r:.60}" if key in read else "nothing"
                raise InputError(f"transformers.{key}: the installed transformers reads {instead}, expected {value!r:.60}")
        return cls(config, found)

    @classmethod
    def create(cls, config, seed):
        """A new model for training and its hypothesis configuration.

        Parameters
        ----------
        config : dict
            `CausalLMConfig`; ``transformers`` may leave out what the library has a default for, and ``vocab_size``. Its
            ``initializer_range`` is the standard deviation of the initial weights. There is no dropout.
        seed : int
            Everything that is drawn is a function of it.

        Returns
        -------
        model : CausalLM
        config : dict
            With ``transformers`` in full.
        """
        given = {"vocab_size": config["vocab_size"], **config["transformers"]}
        for key, value in given.items():
            if "drop" in key and value:
                raise InputError(f"transformers.{key}: {value!r:.60}; expected 0: models of this family train without dropout")
        found = _transformers_config(given)
        unknown = (given.keys() & found.to_dict().keys()) - type(found)().to_dict().keys()
        if unknown:  # the library itself would ignore a misspelt key
            raise InputError(f"transformers.{min(unknown)}: not a key of model_type '{found.model_type}' in the transformers library")
        config = config | {"transformers": _canonical(found)}
        with torch.random.fork_rng(devices=[]):  # what is not drawn below is as the library initializes it
            torch.default_generator.manual_seed(seed % 2**63)
            model = cls(CausalLMConfig.model_validate(config), found, draw=True)
        if not next(model.parameters()).is_meta:  # there only the layout is wanted
            model.initialize(seed, getattr(found, "initializer_range", 0.02)).eval().check_predictions()
        return model, config

    def initialize(self, seed, std):
        """Draw the weights of all linear layers and embeddings, a stream per tensor (see `streams.normals`).

        They are normal with standard deviation `std`, those that write to the residual stream with std / sqrt(2 layers) [Radford et al.
        2019]; biases are 0. All else is as the library initializes it: norms do nothing.
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
        """Parameters under the names that they have in a checkpoint; a smoothing head attached to the model has its own."""
        return self.lm.named_parameters(prefix, recurse, remove_duplicate)

    def layout(self):
        """(name, shape) of every tensor, in a fixed order; a tied head is the embedding and appears once."""
        return [(name, tuple(parameter.shape)) for name, parameter in self.named_parameters()]

    def hidden(self, ids):
        """Final normalised states (B, T, W) of `ids` (B, T): the state at t has seen ids[:, : t + 1]."""
        if self.context_length < ids.shape[1]:
            raise InputError(f"a sequence of {ids.shape[1]} tokens is longer than the model's context_length {self.context_length}")
        if not self._checked and not self.training:
            self.check_predictions()
        return self._states(ids)

    def head(self, hidden):
        """Logits (..., V) of states (..., W), computed in float32 even under autocast."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self._logits(hidden.float()).float()

    def forward(self, ids, targets):
        """Mean loss in nats per token of predicting `targets` (B, T) from `ids` (B, T); for training: autocast makes the logits coarse."""
        return mean_loss_nats(self._logits, self.hidden(ids), targets)

    def _states(self, ids):
        return self.lm.base_model(input_ids=ids, use_cache=False).last_hidden_state

    def _logits(self, hidden):
        return self.lm.get_output_embeddings()(hidden)[..., : self.vocab_size]

    @torch.no_grad()
    def check_predictions(self):
        """Test with some tokens that a state does not change with what follows it, and that `head` of it is the library's own prediction.

        `hidden` calls it once, in evaluation mode. A model that predicts NaN passes: every consumer refuses it.

        Raises
        ------
        InputError
            It is no causal model, or its logits are not its head applied to the last state of its base model.
        """
        device, length = next(self.parameters()).device, min(_PROBE_TOKENS, self.context_length)
        ids = torch.from_numpy(generator(0, "probe").integers(0, self.vocab_size, (1, length))).to(device)
        part = ids[:, : (length + 1) // 2]
        with torch.autocast(device.type, enabled=False):
            try:
                whole, states = self._states(ids)[:, : part.shape[1]], self._states(part)
                logits = self.lm(input_ids=part, use_cache=False).logits[..., : self.vocab_size]
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                raise InputError(f"model_type '{self.model_type}' cannot predict with this configuration ({_one_line(error)})") from None
            if _difference(states, whole) > _PROBE_TOLERANCE:
                raise InputError(
                    f"model_type '{self.model_type}': what it predicts after {part.shape[1]} tokens changes with the tokens that follow, "
                    "expected a decoder-only causal language model"
                )
            if _difference(logits, self.head(states)) > _PROBE_TOLERANCE:
                raise InputError(
                    f"model_type '{self.model_type}' does more than apply its head to its last state, expected logits that are linear in it"
                )
        self._checked = bool(logits.isfinite().all())


def _difference(a, b):
    """Largest relative difference of a position of a and b (1, T, D): a median over D, so that a few large entries hide nothing."""
    return ((a - b).abs().median(-1).values / a.abs().median(-1).values.clamp(min=1e-30)).max().item()


# ---------------------------------------------------------------- configurations of the library


def _transformers_config(entries):
    """The library's configuration object of a model_type and other keys, its dropout zero.

    Raises
    ------
    InputError
        The model_type is not one of a causal language model, or the library cannot make sense of a value.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = entries.get("model_type")
    example = "a decoder-only causal language model of the transformers library, such as llama, mistral, gpt2 or gpt_neox"
    if not isinstance(name, str) or name not in CONFIG_MAPPING or name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(f"transformers.model_type: {name!r:.60}; expected {example}")
    if entries.get("quantization_config"):
        raise InputError("transformers.quantization_config: found one; expected a checkpoint that is not quantized")
    try:
        found = CONFIG_MAPPING[name](**{key: value for key, value in entries.items() if key != "model_type"})
    except Exception as error:  # whatever the values run into in the library
        raise InputError(f"transformers: not a configuration of model_type '{name}' ({_one_line(error)})") from None
    if found.is_encoder_decoder:
        raise InputError(f"transformers.model_type: '{name}' is an encoder and a decoder; expected {example}")
    for key, value in found.to_dict().items():
        if "drop" in key and isinstance(value, float):
            setattr(found, key, 0.0)
    for key in ("final_logit_softcapping", "logits_soft_cap"):
        if getattr(found, key, None) is not None:  # small logits would hide it from `check_predictions`
            raise InputError(f"transformers.{key}: {getattr(found, key)}; expected null: the logits must be linear in the last state")
    return found


def _canonical(found):
    """The keys of a configuration of the library that decide predictions, defaults included, as plain JSON data."""
    try:
        entries = json.loads(canonical_json(found.to_dict()))
    except (TypeError, ValueError) as error:
        raise InputError(f"transformers: a value of model_type '{found.model_type}' is not JSON ({_one_line(error)})") from None
    return {key: value for key, value in entries.items() if not _BOOKKEEPING.fullmatch(key)}


def _check_positions(found, context_length):
    """Refuse inputs longer than the positions, or so long that their length decides the rotary frequencies of all their positions."""
    limit = getattr(found, "max_position_embeddings", None)
    if limit is not None and context_length > limit:
        raise InputError(f"context_length {context_length} is longer than the model's {limit} positions (max_position_embeddings)")
    rotary = getattr(found, "rope_parameters", None) or {}
    for entries in (rotary, *rotary.values()):  # one for all layers, or one per kind of layer
        if isinstance(entries, dict) and entries.get("rope_type") in ("dynamic", "longrope"):
            limit = entries.get("original_max_position_embeddings")
            if limit is not None and context_length > limit:
                raise InputError(
                    f"context_length {context_length}: with rope_type {entries['rope_type']}, predictions depend on the padded length "
                    f"beyond {limit} tokens, expected at most {limit}"
                )


def _new_lm(found, draw):
    """The library's causal language model in float32, on the current default device, drawing nothing from the global generator."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        # torch's own attention is the faster one, but cannot cap its scores.
        capped = getattr(found, "attn_logit_softcapping", None) is not None
        attention = "sdpa" if MODEL_FOR_CAUSAL_LM_MAPPING[type(found)]._supports_sdpa and not capped else "eager"
        with contextlib.nullcontext() if draw else no_init_weights():
            lm = AutoModelForCausalLM.from_config(found, dtype=torch.float32, attn_implementation=attention, trust_remote_code=False)
    except Exception as error:  # whatever the values run into in the library
        raise InputError(f"transformers: model_type '{found.model_type}' cannot be built ({_one_line(error)})") from None
    lm.tie_weights()
    if not draw:
        for module in lm.modules():
            fill_nan(module)
    return lm


def _one_line(error):
    return f"{type(error).__name__}: {' '.join(str(error).split()):.160}"


# ---------------------------------------------------------------- checkpoints


def read_folder(folder, *, vocab_size, eot_id, start_token="first", context_length=None):
    """Read a checkpoint as it is published: ``config.json`` and safetensors, in one file or several that an index names.

    Parameters
    ----------
    folder : path
        Nothing but these files is read; weights in float16 or bfloat16 become float32.
    vocab_size : int
        Number of tokens of its tokenizer: the model may have more rows.
    eot_id : int
        Id of the end-of-text token.
    start_token : {"first", "always"}
        Which predictions see a leading EOT.
    context_length : int, optional
        Longest input in tokens; default the model's ``max_position_embeddings``.

    Returns
    -------
    model : CausalLM
        In evaluation mode, float32, on the CPU.
    config : dict
        Its hypothesis configuration, a `CausalLMConfig`.

    Raises
    ------
    InputError
        A file is absent or torn, or not the one that the index describes; the configuration is not one of this family; the tensors are
        not exactly its tensors, of its shapes and finite; the model is not causal.
    """
    folder = Path(folder)
    path = folder / CONFIG_FILE
    entries = read_json(path)
    if not isinstance(entries, dict):
        raise InputError(f"{path}: a {type(entries).__name__}; expected keys with values")
    entries = {key: value for key, value in entries.items() if not _BOOKKEEPING.fullmatch(key)}
    found = errors_named(path, _transformers_config, entries)
    context_length = context_length or getattr(found, "max_position_embeddings", None)
    if context_length is None:
        raise InputError(f"{path}: it has no max_position_embeddings; expected a context_length beside it")
    config = {"family": "transformers", "vocab_size": vocab_size, "transformers": errors_named(path, _canonical, found)}
    config |= {"context_length": context_length, "start_token": start_token, "eot_id": eot_id}
    checked(CausalLMConfig, config, path)
    with torch.device("meta"):
        model = errors_named(path, CausalLM.from_config, config)
    model.lm = _load_tensors(folder, model)
    fill_model(model, {name: parameter.detach() for name, parameter in model.named_parameters()}, folder)  # which checks them
    errors_named(folder, model.check_predictions)
    return model, config


def _load_tensors(folder, model):
    """The library's model with the weights in a folder, under the names and in the packing that the library has for them."""
    where, files = weight_files(folder)
    tensors, origin = {}, {}
    for path, names in files.items():
        for name, tensor in _read_tensors(path, names, where):
            tensors[name], origin[name] = tensor, path
    with _quiet(), torch.random.fork_rng(devices=[]):
        lm, report = type(model.lm).from_pretrained(
            None,
            config=model.lm.config,
            state_dict=tensors,
            dtype=torch.float32,
            attn_implementation=model.lm.config._attn_implementation,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # reported, and refused below
            output_loading_info=True,
        )

    def file_of(name):  # in the file, names may lack the prefix
        return origin.get(name) or origin.get(name.removeprefix(f"{lm.base_model_prefix}.")) or where

    for name, found, expected in sorted(report["mismatched_keys"]):
        raise InputError(f"{file_of(name)}: tensor '{name}' has shape {list(found)}, expected {list(expected)}")
    for name in sorted(report["missing_keys"]):
        raise InputError(f"{where}: tensor '{name}' is missing; expected all {len(model.layout())} tensors of the config")
    for name in sorted(report["unexpected_keys"]):
        raise InputError(f"{file_of(name)}: tensor '{name}' is not one of the model's; expected the tensors of the config")
    untied = dict(lm.named_parameters()).keys() - dict(model.layout()).keys()
    if untied:
        name = min(untied)
        raise InputError(f"{file_of(name)}: tensor '{name}' is not the embedding, expected the same: the config ties them")
    return lm


def _read_tensors(path, names, where):
    """Yield (name, tensor) of a safetensors file that holds `names` according to the index `where` (None: there is no index)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            stored = set(handle.keys())
            if names is not None and stored != names:
                name = min(stored ^ names)
                problem = f"{where.name} does not name it there" if name in stored else f"missing, where {where.name} names it"
                raise InputError(f"{path}: tensor '{name}': {problem}; expected the tensors of the index")
            for name in sorted(stored):
                if _CONSTANTS.search(name):
                    continue
                tensor = handle.get_tensor(name)
                if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
                    raise InputError(f"{path}: tensor '{name}' has type {tensor.dtype}, expected float32, float16 or bfloat16")
                yield name, tensor
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error})") from None


@contextlib.contextmanager
def _quiet():
    """Within, the library neither logs nor shows a bar: what it would say is in the report that it returns."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def weight_files(folder):
    """The file with the weights or their index, and the files to read with the names that the index says they hold (None: any)."""
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if single.exists():  # before an index, as the library does
        return single, {single: None}
    if not index.exists():
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        raise InputError(
            f"{folder}: found {pickled[0] if pickled else 'no weights'}; expected safetensors ({WEIGHTS_FILE} or {INDEX_FILE})"
        )
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: no weight_map; expected one from tensors to files")
    files = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise InputError(f"{index}: tensor '{name}' is in {file!r:.60}; expected the name of a safetensors file in its folder")
        files.setdefault(folder / file, set()).add(name)
    return index, files
