"""Models to messages and back: the hypothesis that is scored is the one decoded here."""

import dataclasses
from pathlib import Path

import torch

from tokenbounds import published
from tokenbounds.errors import InputError
from tokenbounds.files import atomic_path, read_json
from tokenbounds.message import Message, decode, encode, message_bits, split
from tokenbounds.models import build_model, context_length_of, fill_model, layout_of, load_config, load_model
from tokenbounds.scoring import ContextRule
from tokenbounds.smoothing import AlphaHead


def tensors_of(model):
    """Tensors of the message of a model, by name, as NumPy arrays."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().cpu().numpy() for name, _ in model.layout()}


def encode_model(folder, codec, contexts, tensors=None):
    """Code the model in a folder.

    Parameters
    ----------
    folder : path
        With ``config.json`` and ``model.safetensors``.
    codec : dict
        As for `tokenbounds.message.encode`.
    contexts : dict
        What each sampling scheme lets a prediction see, by name: part of the hypothesis, so part of the message.
    tensors : dict of str to ndarray, optional
        In place of the model's own, e.g. tuned ones.

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
    """The message `data` of a model followed by that of its smoothing head (a `tokenbounds.smoothing.AlphaHead`), in float16."""
    tensors = {name: parameter.detach().numpy() for name, parameter in head.named_parameters()}
    return bytes(data) + encode(tensors, {"alpha_head": {"low": head.low, "high": head.high}}, codec={"kind": "float16"})


def _layout(config):
    if "hypothesis" not in config:
        raise InputError("message: its config has no hypothesis")
    if "files" in config:
        return []  # the hypothesis is published files
    return layout_of(config["hypothesis"], "message")


def write_message(path, data):
    """Write a message and read it back: what is on disk decodes."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return read_message(path)


def read_message(path, expect=None) -> Message:
    """Decode the message in a file, with that of its smoothing head if it has one; `expect` is the configuration it must hold."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    return decode_message(data, expect, str(path))


def decode_message(data, expect=None, name="message") -> Message:
    """Decode the message of a model, with that of its smoothing head if one follows."""
    first, *others = split(data, name)
    message = decode(first, layout=_layout, expect=expect, name=name)
    if not others:
        return message
    if len(others) > 1:
        raise InputError(f"{name}: {len(others) + 1} messages; expected that of a model and perhaps that of its smoothing head")
    head = decode(others[0], name=f"{name} (smoothing head)")
    alpha_head(head, name)  # it must be one
    return dataclasses.replace(message, head=head, section_bytes={**message.section_bytes, "alpha head": len(others[0])})


def complexity_bits(path, message):
    """C(h) in bits of the decoded `message` in the file at `path`: 8 times its bytes and the compressed bytes of files that it names."""
    return message_bits(path) + 8 * message.config.get("compressed_bytes", 0)


def alpha_head(head, where="message"):
    """The smoothing head that a decoded message describes."""
    if set(head.config) != {"alpha_head"} or set(head.tensors) != {"weight", "bias"}:
        keys = ", ".join([*head.config, *head.tensors])
        raise InputError(f"{where}: what follows the model is not a smoothing head (found {keys}; expected alpha_head, weight, bias)")
    try:
        low, high = (head.config["alpha_head"][key] for key in ("low", "high"))
        if len(head.config["alpha_head"]) != 2 or head.tensors["weight"].ndim != 1:
            raise ValueError("other keys or shapes")
        found = AlphaHead(head.tensors["weight"].size - 1, low, high)
        with torch.no_grad():
            for name, parameter in found.named_parameters():
                parameter.copy_(torch.from_numpy(head.tensors[name]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: what follows the model is not a smoothing head ({type(error).__name__}: {error})") from None
    return found.eval()


def read_model(path, device="cpu"):
    """Message and model in a file; where the message names published files, these are looked for as its sidecar says, and checked."""
    message = read_message(path)
    if "files" not in message.config:
        return message, model_of(message, str(path)).to(device)
    folder = published_folder(path)
    published.check_files(message, folder, str(path))
    return message, published.published_model(message, folder, str(path), device).to(device)


def published_folder(path):
    """Folder of the published files that the message at ``results/{run}/messages/{name}.bin`` is about, from its sidecar."""
    path = Path(path).resolve()
    return path.parents[3] / read_json(path.with_suffix(".json"))["folder"]


def model_of(message, where="message"):
    """The model that a decoded message describes, in float32 on the CPU, in evaluation mode; its head is its attribute `alpha_head`."""
    hypothesis = message.config["hypothesis"]
    model = fill_model(build_model(hypothesis, where), message.tensors, where)
    if hypothesis.get("subspace"):
        model = model.materialize()
    model.alpha_head = alpha_head(message.head, where) if message.head else None
    if model.alpha_head is not None:
        _check_width(model, model.alpha_head, where)
    return model


def _check_width(model, head, where):
    with torch.inference_mode():
        width = model.hidden(torch.zeros(1, 1, dtype=torch.int64)).shape[-1]
    if len(head.weight) - 1 not in (0, width):
        raise InputError(f"{where}: a smoothing head for states of width {len(head.weight) - 1}; expected {width}, or 0 (entropy only)")


def context_rule(message, sampling, where="message"):
    """What a prediction of the decoded hypothesis sees under the sampling scheme of that name."""
    contexts, hypothesis = message.config["contexts"], message.config["hypothesis"]
    if sampling not in contexts:
        raise InputError(f"{where}: the message knows the sampling schemes {', '.join(contexts)}; expected '{sampling}' among them")
    length = min(contexts[sampling]["context_length"], context_length_of(hypothesis))
    window = contexts[sampling].get("window")
    if window is not None and window > length:
        raise InputError(f"{where}: window {window} is longer than the model's context of {length} tokens")
    return ContextRule(length, hypothesis["start_token"], hypothesis["eot_id"])
