"""Model families, and models in folders.

A hypothesis is a self-contained configuration (for a GPT ``family``, ``vocab_size``, ``architecture``, ``start_token``, ``eot_id``) and
tensors. A folder holds them as ``config.json`` and ``model.safetensors``. Nothing here loads torch until a model is asked for.

A family is a class with

- ``Config``: the closed schema of its hypothesis configuration (a `tokenbounds.sections.Section`);
- ``from_config(config)``: the model, without the weights of its message, with all that is drawn from a seed;
- ``create(config, seed)``: a new model for training, and its configuration;
- ``layout()``: (name, shape) of each tensor of its message, in a fixed order, also on the meta device;
- ``hidden(ids)`` and ``head(hidden)``: states (B, T, W), and their float32 logits (B, T, V) over the real tokens.
"""

import importlib
import re
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from tokenbounds.errors import InputError
from tokenbounds.files import atomic_path, read_json, write_json

FAMILIES = {
    "gpt": "tokenbounds.models.gpt:GPT",
    "transformers": "tokenbounds.models.causal:CausalLM",
    "markov": "tokenbounds.models.markov:MarkovChain",
}

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def _family(config, where):
    """Class of the family that a checked `config` names."""
    name = config.get("family") if isinstance(config, dict) else None
    if name not in FAMILIES:
        raise InputError(f"{where}: family {name!r} is not known; expected one of {', '.join(FAMILIES)}")
    family = _class_of(name)
    checked(family.Config, config, where)
    return family


def _class_of(name):
    module, _, attribute = FAMILIES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def checked(section, data, where):
    """`data` as the schema `section` (a `tokenbounds.sections.Section`); an `InputError` names `where`, the key and the value."""
    try:
        return section.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, _in_data(first["loc"], data))) or "the configuration"
        found = re.sub(r"\s+", " ", repr(first["input"]))
        raise InputError(f"{where}: {key}: {first['msg'].removeprefix('Value error, ')} (found {found:.60})") from None


def _in_data(location, data):
    """A location without the parts that are no keys of the data: the kinds that choose between sections."""
    kept = []
    for number, part in enumerate(location, start=1):
        if isinstance(data, dict) and part not in data and number < len(location):
            continue
        kept.append(part)
        data = data.get(part) if isinstance(data, dict) else None
    return kept


def build_model(config, where="model config"):
    """A model without weights from a hypothesis configuration; `InputError` names `where` when the configuration is not one."""
    return errors_named(where, _family(config, where).from_config, config)


def new_model(config, seed, where="model config"):
    """A new model for training, and its hypothesis configuration (`config` and what of its draws a decoder needs)."""
    name = config.get("family")
    if name not in FAMILIES:
        raise InputError(f"{where}: family {name!r} is not known; expected one of {', '.join(FAMILIES)}")
    return errors_named(where, _class_of(name).create, config, seed)


def errors_named(where, function, *arguments):
    """`function(*arguments)`, its `InputError` beginning with `where`."""
    try:
        return function(*arguments)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def context_length_of(config):
    """Longest input in tokens that a hypothesis configuration allows, the start token not counted where it is 0."""
    if config["family"] == "markov":
        return config["order"]
    length = config["architecture"]["context_length"] if "architecture" in config else config["context_length"]
    return length if config.get("last_tokens") is None else min(length, config["last_tokens"])


def layout_of(config, where="model config"):
    """(name, shape) of each tensor of the hypothesis, in a fixed order, from its configuration alone: nothing is allocated.

    Returns
    -------
    list of (str, tuple of int)
    """
    import torch

    with torch.device("meta"):
        return build_model(config, where).layout()


def fill_model(model, tensors, where):
    """Give `model` its weights, and evaluation mode.

    Parameters
    ----------
    model : torch.nn.Module
        As `build_model` returns it.
    tensors : dict of str to array or torch.Tensor
        Exactly the tensors of ``model.layout()``.
    where : str
        What the tensors were read from, for messages.

    Raises
    ------
    InputError
        A tensor is missing, unexpected, of another shape, not of floating point (int32 for a Markov chain), or holds a NaN or an
        infinity.
    """
    import torch

    tensors = {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in tensors.items()}
    shapes = dict(model.layout())
    for problem, names in (("is missing", shapes.keys() - tensors.keys()), ("is not one of the model's", tensors.keys() - shapes.keys())):
        if names:
            raise InputError(f"{where}: tensor '{min(names)}' {problem}; expected exactly the {len(shapes)} tensors of its config")
    parameters = dict(model.named_parameters())
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise InputError(f"{where}: tensor '{name}' has shape {list(tensor.shape)}, expected {list(shape)}")
        floating, expected = parameters[name].is_floating_point(), parameters[name].dtype
        if not (tensor.is_floating_point() if floating else tensor.dtype == expected):
            expected = "floating point" if floating else expected
            raise InputError(f"{where}: tensor '{name}' has type {tensor.dtype}, expected {expected}")
        check_finite(where, name, tensor)
        parameters[name].data.copy_(tensor)
    return model.eval()


def check_finite(where, name, tensor):
    """Refuse a tensor that holds a NaN or an infinity, with an `InputError` that begins with `where`."""
    bad = tensor.numel() - int(tensor.isfinite().sum())
    if bad:
        raise InputError(f"{where}: tensor '{name}' holds {bad} values that are NaN or infinite, expected none")


def load_model(folder):
    """Model and hypothesis configuration in `folder`.

    Returns
    -------
    model : torch.nn.Module
        In evaluation mode, float32, on the CPU.
    config : dict
        The hypothesis configuration, without the provenance.

    Raises
    ------
    InputError
        A file is absent or torn, the configuration is not one, or the tensors are not exactly its tensors, finite and of its shapes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(folder) / WEIGHTS_FILE
    config = load_config(folder)
    model = build_model(config, Path(folder) / CONFIG_FILE)
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a whole safetensors file ({error})") from None
    return fill_model(model, tensors, path), config


def load_config(folder):
    """Hypothesis configuration (dict) of the model in `folder`, checked against its family's schema."""
    path = Path(folder) / CONFIG_FILE
    config = read_json(path)
    if isinstance(config, dict):
        config.pop("provenance", None)
    _family(config, path)
    return config


def save_model(folder, model, config, provenance):
    """Write `model` (float32), its hypothesis `config` and its provenance (dict) to `folder`: weights first, each file atomically.

    Raises
    ------
    InputError
        The configuration is not one of its family, or a weight is not finite.
    """
    from safetensors.torch import save_file

    path = Path(folder) / WEIGHTS_FILE
    _family(config, Path(folder) / CONFIG_FILE)
    parameters = dict(model.named_parameters())
    tensors = {name: parameters[name].detach().cpu().contiguous() for name, _ in model.layout()}
    tensors = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        check_finite(path, name, tensor)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)
    write_json(Path(folder) / CONFIG_FILE, {**config, "provenance": provenance})
