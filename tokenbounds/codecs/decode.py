"""Models to messages and back: every hypothesis that is scored is decoded here."""

import dataclasses

import torch

from tokenbounds.codecs.frame import Message, codec_of, decode, encode
from tokenbounds.codecs.header import published_folder, read_bytes, split_model
from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_path
from tokenbounds.models.folders import load_config, load_model
from tokenbounds.models.registry import build_model, fill_model, layout_of
from tokenbounds.models.smoothing_head import AlphaHead


def tensors_of(model):
    """Return the tensors that a model's message holds, by name, as NumPy arrays."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().cpu().numpy() for name, _ in model.layout()}


def encode_model(folder, codec, contexts, tensors=None):
    """Code the model in a folder.

    Parameters
    ----------
    folder : path
        With ``config.json`` and ``model.safetensors``.
    codec : dict
        See `tokenbounds.codecs.frame.encode`.
    contexts : dict
        Contexts of predictions under each sampling scheme, by name: part of the hypothesis, so part of the
        message.
    tensors : dict of str to ndarray, optional
        Tensors in place of the model's own, e.g. tuned ones.

    Returns
    -------
    bytes
    """
    if tensors is None:
        model, config = load_model(folder)
        tensors = tensors_of(model)
    else:
        config = load_config(folder)
    return encode(tensors, {"hypothesis": config, "contexts": contexts}, codec=codec, layout=_layout)


def with_head(data, head):
    """Append to the message `data` of a model that of its smoothing head (a
    `tokenbounds.models.smoothing_head.AlphaHead`), in float16."""
    tensors = {name: parameter.detach().numpy() for name, parameter in head.named_parameters()}
    return bytes(data) + encode(
        tensors, {"alpha_head": {"low": head.low, "high": head.high}}, codec={"kind": "float16"}
    )


def _layout(config):
    if "hypothesis" not in config:
        raise InputError("message: its config has no hypothesis")
    if "files" in config:
        return []  # the hypothesis is published files
    return layout_of(config["hypothesis"], "message")


def write_message(path, data):
    """Write a message, and decode the written file, so that a bad message never goes unnoticed."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return read_message(path)


def read_message(path, expect=None) -> Message:
    """Decode the message in a file, with that of its smoothing head if it has one; `expect` is the
    configuration that it must hold."""
    return decode_message(read_bytes(path), expect, str(path))


def decode_message(data, expect=None, name="message") -> Message:
    """Decode the message of a model, with that of its smoothing head if one follows."""
    first, *others = split_model(data, name)
    message = decode(first, layout=_layout, expect=expect, name=name)
    if not others:
        return message
    head = decode(others[0], name=f"{name} (smoothing head)")
    alpha_head(head, name)  # raises an error where it is none
    return dataclasses.replace(
        message, head=head, section_bytes={**message.section_bytes, "alpha head": len(others[0])}
    )


def alpha_head(head, name="message"):
    """Build the smoothing head that a decoded message describes."""
    if set(head.config) != {"alpha_head"} or set(head.tensors) != {"weight", "bias"}:
        keys = ", ".join([*head.config, *head.tensors])
        expected = "alpha_head, weight, bias"
        raise InputError(
            f"{name}: what follows the model is not a smoothing head (found {keys}; expected {expected})"
        )
    try:
        low, high = (head.config["alpha_head"][key] for key in ("low", "high"))
        if len(head.config["alpha_head"]) != 2 or head.tensors["weight"].ndim != 1:
            raise ValueError("other keys or shapes")
        module = AlphaHead(head.tensors["weight"].size - 1, low, high)
        with torch.no_grad():
            for key, parameter in module.named_parameters():
                parameter.copy_(torch.from_numpy(head.tensors[key]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name}: what follows the model is not a smoothing head ({type(error).__name__}: {error})"
        ) from None
    return module.eval()


def read_model(path, device="cpu"):
    """Read message and model from a message's file. Published files that the message names are read from the
    folder in its sidecar, and checked."""
    message = read_message(path)
    codec = codec_of(message.codec["kind"])
    if not codec.opens_files:
        return message, model_of(message, str(path)).to(device)
    return message, codec.open_model(message, published_folder(path), str(path), device).to(device)


def model_of(message, name="message"):
    """Build the model that a decoded message describes, in float32 on the CPU, in evaluation mode; its
    smoothing head (or None) is its attribute `alpha_head`."""
    hypothesis = message.config["hypothesis"]
    model = fill_model(build_model(hypothesis, name), message.tensors, name)
    if hypothesis.get("subspace"):
        model = model.materialize()
    model.alpha_head = alpha_head(message.head, name) if message.head else None
    if model.alpha_head is not None:
        _check_width(model, model.alpha_head, name)
    return model


def _check_width(model, head, name):
    """Refuse a head that takes states of another width than the model's."""
    with torch.inference_mode():
        width = model.hidden(torch.zeros(1, 1, dtype=torch.int64)).shape[-1]
    taken = len(head.weight) - 1
    if taken not in (0, width):
        raise InputError(
            f"{name}: a smoothing head for states of width {taken}; expected {width}, or 0 (entropy only)"
        )
