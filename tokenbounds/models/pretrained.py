"""Checkpoints of the transformers library in the form in which they are published.

A folder holds ``config.json`` and either one file of weights or several with an index:

================================  =========================================================
``model.safetensors``             All tensors; read in preference to an index, as the library does
``model.safetensors.index.json``  ``weight_map``: file name of each tensor
================================  =========================================================

Every tensor of the files is checked: against the index, and against the model that the configuration
describes.
"""

import contextlib
import math
import re
from pathlib import Path

import torch

from tokenbounds.config.schema.base import checked
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json
from tokenbounds.models.folders import CONFIG_FILE, WEIGHTS_FILE
from tokenbounds.models.prediction_keys import BOOKKEEPING, canonical_entries
from tokenbounds.models.registry import errors_named, fill_model
from tokenbounds.models.transformers import CausalLM, CausalLMConfig, library_config

INDEX_FILE = "model.safetensors.index.json"
# Causal masks and rotary frequencies: old checkpoints hold them beside their weights, the library computes
# them.
_CONSTANTS = re.compile(r"(^|\.)((attn|attention)\.(bias|masked_bias)|rotary_emb\.inv_freq)$")


def read_folder(folder, *, vocab_size, eot_id, start_token="first", start_id=None, context_length=None):
    """Read a published checkpoint: ``config.json`` and safetensors, in one file or several with an index.

    Parameters
    ----------
    folder : path
        Folder of the checkpoint. No other files are read; weights in float16 or bfloat16 become float32.
    vocab_size : int
        Number of tokens of its tokenizer: the model may have more rows.
    eot_id : int
        Id of the end-of-text token.
    start_token : {"first", "always"}
        Predictions that receive a leading start token.
    start_id : int, optional
        The start token, where it is not the EOT.
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
        A file is absent or torn, or differs from the index; the configuration is invalid for this family; a
        tensor is missing, unexpected, of another shape or not finite; the model is not causal.
    """
    folder = Path(folder)
    path = folder / CONFIG_FILE
    entries = read_json(path)
    if not isinstance(entries, dict):
        raise InputError(f"{path}: a {type(entries).__name__}; expected keys with values")
    facts = {"vocab_size": vocab_size, "eot_id": eot_id, "start_token": start_token}
    facts |= {"start_id": start_id, "context_length": context_length}
    return filled_model(path, entries, facts, lambda model: _load_tensors(folder, model))


def filled_model(path, entries, facts, load):
    """Build a published model from its library configuration and load its weights.

    Parameters
    ----------
    path : path
        File of the configuration, for errors.
    entries : dict
        Keys of the library's configuration.
    facts : dict
        ``vocab_size``, ``eot_id``, ``start_token``, ``start_id`` and ``context_length`` (the last two may be
        None) of the hypothesis.
    load : callable (CausalLM) -> transformers.PreTrainedModel
        Loads the library's model for one on the meta device.

    Returns
    -------
    model, config
        As `read_folder`.
    """
    entries = {key: value for key, value in entries.items() if not BOOKKEEPING.fullmatch(key)}
    lm_config = errors_named(path, library_config, entries)
    context_length = facts["context_length"] or getattr(lm_config, "max_position_embeddings", None)
    if context_length is None:
        raise InputError(f"{path}: it has no max_position_embeddings; expected a context_length beside it")
    config = {
        "family": "transformers",
        **{key: value for key, value in facts.items() if value is not None},
        "transformers": errors_named(path, canonical_entries, lm_config),
        "context_length": context_length,
    }
    checked(CausalLMConfig, config, path)
    with torch.device("meta"):
        model = errors_named(path, CausalLM.from_config, config)
    model.lm = load(model)
    # The weights are there already; `fill_model` checks them.
    fill_model(model, {name: parameter.detach() for name, parameter in model.named_parameters()}, path.parent)
    errors_named(path, model.check_predictions)
    return model, config


_SPARE_VALUES = 1 << 24


def _load_tensors(folder, model):
    """Load the library's model with the weights of a folder, renamed and packed as the library does."""
    listing, files = weight_files(folder)
    tensors, origin = {}, {}
    for path, names in files.items():
        for name, tensor in _read_tensors(path, names, listing):
            tensors[name], origin[name] = tensor, path
    check_size(listing, sum(tensor.numel() for tensor in tensors.values()), model)
    return from_library(model, listing, origin, None, state_dict=tensors)


def check_size(path, stored, model):
    """Refuse a model with many more values than the `stored` ones of its file: the library would make tensors
    that are missing or of another shape, of any size, before it says so."""
    if (needed := sum(math.prod(shape) for _, shape in model.layout())) > 2 * stored + _SPARE_VALUES:
        raise InputError(f"{path}: {stored} values in its tensors; expected the {needed} of the config")


def from_library(model, listing, origin, source, **options):
    """Let the library load the weights of `model`, and refuse tensors that are missing, unexpected or of
    another shape.

    Parameters
    ----------
    model : CausalLM
        On the meta device.
    listing : path
        The file, or the index of the files.
    origin : dict of str to path
        The file of each tensor, as far as known.
    source, options
        Of the library's ``from_pretrained``.

    Returns
    -------
    transformers.PreTrainedModel
    """
    with _quiet(), torch.random.fork_rng(devices=[]):
        lm, report = type(model.lm).from_pretrained(
            source,
            config=model.lm.config,
            dtype=torch.float32,
            attn_implementation=model.lm.config._attn_implementation,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # reported, and refused below
            output_loading_info=True,
            **options,
        )

    def file_of(name):  # in the file, names may lack the prefix
        return origin.get(name) or origin.get(name.removeprefix(f"{lm.base_model_prefix}.")) or listing

    for name, shape, expected in sorted(report["mismatched_keys"]):
        raise InputError(
            f"{file_of(name)}: tensor '{name}' has shape {list(shape)}, expected {list(expected)}"
        )
    for name in sorted(report["missing_keys"]):
        raise InputError(
            f"{listing}: tensor '{name}' is missing; expected all {len(model.layout())} tensors of the config"
        )
    for name in sorted(report["unexpected_keys"]):
        raise InputError(
            f"{file_of(name)}: tensor '{name}' is not one of the model's; expected the tensors of the config"
        )
    untied = dict(lm.named_parameters()).keys() - dict(model.layout()).keys()
    if untied:
        name = min(untied)
        raise InputError(
            f"{file_of(name)}: tensor '{name}' is not the embedding, expected the same: the config ties them"
        )
    return lm


def _read_tensors(path, names, index):
    """Yield (name, tensor) of a safetensors file.

    `names` are those that it holds according to `index`; None without an index.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            stored = set(handle.keys())
            if names is not None and stored != names:
                name = min(stored ^ names)
                problem = (
                    f"{index.name} does not name it there"
                    if name in stored
                    else f"missing, where {index.name} names it"
                )
                raise InputError(f"{path}: tensor '{name}': {problem}; expected the tensors of the index")
            for name in sorted(stored):
                if _CONSTANTS.search(name):
                    continue
                tensor = handle.get_tensor(name)
                if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
                    raise InputError(
                        f"{path}: tensor '{name}' has type {tensor.dtype}, "
                        "expected float32, float16 or bfloat16"
                    )
                yield name, tensor
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error})") from None


@contextlib.contextmanager
def _quiet():
    """Silence the library's log and progress bars: the report that it returns holds the same facts."""
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
    """List the files that hold a folder's weights.

    Returns
    -------
    listing : Path
        The file with the weights, or the index.
    files : dict of Path to (set of str or None)
        Files to read, each with the names of its tensors according to the index; None: any names.

    Raises
    ------
    InputError
        There are no safetensors, or the index is invalid.
    """
    folder = Path(folder)
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if single.exists():  # before an index, as the library does
        return single, {single: None}
    if not index.exists():
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        found = f"{pickled[0]}, a pickle, which is never opened: convert it" if pickled else "no weights"
        raise InputError(f"{folder}: found {found}; expected safetensors ({WEIGHTS_FILE} or {INDEX_FILE})")
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: no weight_map; expected one from tensors to files")
    files = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise InputError(
                f"{index}: tensor '{name}' is in {file!r:.60}; "
                "expected the name of a safetensors file in its folder"
            )
        files.setdefault(folder / file, set()).add(name)
    return index, files
