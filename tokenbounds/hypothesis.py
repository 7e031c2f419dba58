"""Models to messages and back: the hypothesis that is scored is the one decoded here."""

from pathlib import Path

from tokenbounds.errors import InputError
from tokenbounds.files import atomic_path
from tokenbounds.message import Message, decode, encode
from tokenbounds.models import build_model, fill_model, layout_of, load_model
from tokenbounds.scoring import ContextRule


def encode_model(folder, codec, contexts):
    """Code the model in a folder.

    Parameters
    ----------
    folder : path
        With ``config.json`` and ``model.safetensors``.
    codec : dict
        As for `tokenbounds.message.encode`.
    contexts : dict
        What each sampling scheme lets a prediction see, by name: part of the hypothesis, so part of the message.

    Returns
    -------
    bytes
    """
    model, config = load_model(folder)
    parameters = dict(model.named_parameters())
    tensors = {name: parameters[name].detach().numpy() for name, _ in model.layout()}
    return encode(tensors, {"hypothesis": config, "contexts": contexts}, codec=codec, layout=_layout)


def _layout(config):
    return layout_of(config["hypothesis"], "message")


def write_message(path, data):
    """Write a message and read it back: what is on disk decodes."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return read_message(path)


def read_message(path, expect=None) -> Message:
    """Decode the message in a file; `expect` is the configuration it must hold."""
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    return decode(data, layout=_layout, expect=expect, name=str(path))


def model_of(message, where="message"):
    """The model that a decoded message describes, in float32 on the CPU, in evaluation mode."""
    return fill_model(build_model(message.config["hypothesis"], where), message.tensors, where)


def context_rule(message, sampling, where="message"):
    """What a prediction of the decoded hypothesis sees under the sampling scheme of that name."""
    contexts, hypothesis = message.config["contexts"], message.config["hypothesis"]
    if sampling not in contexts:
        raise InputError(f"{where}: the message knows the sampling schemes {', '.join(contexts)}; expected '{sampling}' among them")
    length = min(contexts[sampling]["context_length"], hypothesis["architecture"]["context_length"])
    window = contexts[sampling].get("window")
    if window is not None and window > length:
        raise InputError(f"{where}: window {window} is longer than the model's context of {length} tokens")
    return ContextRule(length, hypothesis["start_token"], hypothesis["eot_id"])
