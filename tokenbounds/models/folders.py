"""Models in folders: ``config.json`` and ``model.safetensors``, written and read.

=====================  =================================================================================
``config.json``        The hypothesis configuration, and under ``provenance`` how the model was made
``model.safetensors``  The tensors of the family's `layout`, in float32 (int32 for a Markov chain)
=====================  =================================================================================
"""

from pathlib import Path

from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_path, read_json, write_json
from tokenbounds.models.registry import build_model, check_finite, family_class, fill_model

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def load_model(folder):
    """Load the model and the hypothesis configuration of a folder.

    Returns
    -------
    model : torch.nn.Module
        In evaluation mode, float32, on the CPU.
    config : dict
        The hypothesis configuration, without the provenance.

    Raises
    ------
    InputError
        A file is absent or torn, the configuration is invalid, or a tensor is missing, unexpected, of another
        shape or not finite.
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
    """Load the hypothesis configuration (dict) of a folder, checked against its family's schema."""
    path = Path(folder) / CONFIG_FILE
    config = read_json(path)
    if isinstance(config, dict):
        config.pop("provenance", None)
    family_class(config, path)
    return config


def save_model(folder, model, config, provenance):
    """Write a model to a folder: the weights first, each file atomically.

    Parameters
    ----------
    folder : path
    model : torch.nn.Module
        Its weights are written as float32, counts as they are.
    config : dict
        Its hypothesis configuration.
    provenance : dict
        Record of how it was made, written beside the configuration.

    Raises
    ------
    InputError
        The configuration does not fit the schema of its family, or a weight is not finite.
    """
    from safetensors.torch import save_file

    path = Path(folder) / WEIGHTS_FILE
    family_class(config, Path(folder) / CONFIG_FILE)
    parameters = dict(model.named_parameters())
    tensors = {name: parameters[name].detach().cpu().contiguous() for name, _ in model.layout()}
    tensors = {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }
    for name, tensor in tensors.items():
        check_finite(path, name, tensor)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary)
    write_json(Path(folder) / CONFIG_FILE, {**config, "provenance": provenance})
