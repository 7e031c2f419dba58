"""The registry of model families, and models from hypothesis configurations.

A hypothesis is a self-contained configuration (for a GPT ``family``, ``vocab_size``, ``architecture``,
``start_token``, ``eot_id``) and tensors. Nothing here loads torch until a model is asked for.

A family is a class with

=========================  ==============================================================================
``Config``                 Closed schema of its hypothesis configuration (a `Section` of the config room)
``from_config(config)``    Model without the weights of its message, but with everything drawn from a seed
``create(config, seed)``   New model for training, and its configuration
``layout()``               (name, shape) of each tensor of its message, in a fixed order, on any device
``hidden(ids)``            States (B, T, W) of token ids (B, T)
``head(hidden)``           Float32 logits (B, T, V) over the real tokens
``longest``                Longest input in tokens; optional: without it, inputs are padded beyond any limit
``frozen()``               (name, tensor) of weights that are no parameters; optional
=========================  ==============================================================================
"""

import numpy as np

from tokenbounds.config.schema.base import checked
from tokenbounds.config.schema.models import FAMILIES as SECTIONS
from tokenbounds.config.schema.models import PublishedSection
from tokenbounds.errors import InputError
from tokenbounds.plugins import load

# Published models are left out: they are hypotheses of another family (`transformers`), or files that their
# message names.
FAMILIES = {
    name: section.implementation
    for name, section in SECTIONS.items()
    if not issubclass(section, PublishedSection)
}


def family_class(config, where):
    """Check a hypothesis configuration, and return the class of its family.

    Parameters
    ----------
    config : dict
    where : path or str
        Source of the configuration, for errors.

    Raises
    ------
    InputError
        The family is not known, or the configuration does not fit its schema.
    """
    name = config.get("family") if isinstance(config, dict) else None
    if name not in FAMILIES:
        raise InputError(f"{where}: family {name!r} is not known; expected one of {', '.join(FAMILIES)}")
    family = class_of(name)
    checked(family.Config, config, where)
    return family


def class_of(name):
    """Import and return the class of a family by its name."""
    return load(FAMILIES[name])


def build_model(config, where="model config"):
    """Build a model without weights.

    Parameters
    ----------
    config : dict
        Hypothesis configuration.
    where : path or str
        Source of the configuration, for errors.

    Returns
    -------
    torch.nn.Module
        On the current default device; its parameters hold no weights yet.

    Raises
    ------
    InputError
        The configuration is invalid.
    """
    return errors_named(where, family_class(config, where).from_config, config)


def new_model(config, seed, where="model config"):
    """Build a model with initial weights, for training.

    Parameters
    ----------
    config : dict
        Hypothesis configuration without the entries that `create` of its family adds.
    seed : int
        Seed of all random draws.
    where : path or str
        Source of the configuration, for errors.

    Returns
    -------
    model : torch.nn.Module
    config : dict
        The hypothesis configuration in full, with everything that a decoder needs to repeat the draws.

    Raises
    ------
    InputError
        The configuration is invalid.
    """
    name = config.get("family")
    if name not in FAMILIES:
        raise InputError(f"{where}: family {name!r} is not known; expected one of {', '.join(FAMILIES)}")
    return errors_named(where, class_of(name).create, config, seed)


def errors_named(where, function, *arguments):
    """Call `function(*arguments)`, and let its `InputError` begin with `where`."""
    try:
        return function(*arguments)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def context_length_of(config):
    """Return the longest input in tokens that a hypothesis configuration allows.

    It is 0 for a model without context, which sees the start token alone.
    """
    if "order" in config:
        return config["order"]
    length = (
        config["architecture"]["context_length"] if "architecture" in config else config["context_length"]
    )
    return length if config.get("last_tokens") is None else min(length, config["last_tokens"])


def start_id_of(config):
    """Return the start token's id of a hypothesis configuration: the EOT where it names no other."""
    return config.get("start_id", config["eot_id"])


def layout_of(config, where="model config"):
    """List name and shape of each tensor of a hypothesis from its configuration alone.

    Parameters
    ----------
    config : dict
        Hypothesis configuration.
    where : path or str
        Source of the configuration, for errors.

    Returns
    -------
    list of (str, tuple of int)
        In a fixed order. Nothing is allocated: the model is built on the meta device.
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
    where : path or str
        Source of the tensors, for errors.

    Returns
    -------
    torch.nn.Module
        `model`, filled in place.

    Raises
    ------
    InputError
        A tensor is missing, unexpected, of another shape, not of floating point (int32 for a Markov chain),
        or holds a NaN or an infinity.
    """
    import torch

    tensors = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for name, value in tensors.items()
    }
    shapes = dict(model.layout())
    for problem, names in (
        ("is missing", shapes.keys() - tensors.keys()),
        ("is not one of the model's", tensors.keys() - shapes.keys()),
    ):
        if names:
            raise InputError(
                f"{where}: tensor '{min(names)}' {problem}; "
                f"expected exactly the {len(shapes)} tensors of its config"
            )
    parameters = dict(model.named_parameters())
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            raise InputError(
                f"{where}: tensor '{name}' has shape {list(tensor.shape)}, expected {list(shape)}"
            )
        floating, expected = parameters[name].is_floating_point(), parameters[name].dtype
        if not (tensor.is_floating_point() if floating else tensor.dtype == expected):
            expected = "floating point" if floating else expected
            raise InputError(f"{where}: tensor '{name}' has type {tensor.dtype}, expected {expected}")
        check_finite(where, name, tensor)
        parameters[name].data.copy_(tensor)
    return model.eval()


def check_finite(where, name, tensor):
    """Raise an `InputError` that begins with `where` if a tensor holds a NaN or an infinity."""
    bad = tensor.numel() - int(tensor.isfinite().sum())
    if bad:
        raise InputError(
            f"{where}: tensor '{name}' holds {bad} values that are NaN or infinite, expected none"
        )
