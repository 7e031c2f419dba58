"""Models to messages and back: every hypothesis that is scored is decoded here."""

import dataclasses

import torch

from tokenbounds.codecs.config_checks import FILES_CODEC, HEAD_CODEC, check_head
from tokenbounds.codecs.frame import Message, codec_of, decode, encode
from tokenbounds.codecs.header import check_model, head_name, published_folder, read_bytes, split_model
from tokenbounds.codecs.hypotheses import canonical_hypothesis, check_hypothesis
from tokenbounds.errors import InputError
from tokenbounds.io.files import atomic_path
from tokenbounds.models.folders import load_config, load_model
from tokenbounds.models.precision import cast
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
        How predictions are computed, `tokenbounds.config.run.Config.contexts` of the model: part of the
        hypothesis, so part of the message.
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
    described = {"hypothesis": canonical_hypothesis(config, folder), "contexts": contexts}
    check_model(described, codec, False)
    return encode(tensors, described, codec=codec, layout=_layout)


def with_head(data, head):
    """Append to the message `data` of a model that of its smoothing head (a
    `tokenbounds.models.smoothing_head.AlphaHead`), in float16."""
    tensors = {name: parameter.detach().numpy() for name, parameter in head.named_parameters()}
    return bytes(data) + encode(
        tensors, {"alpha_head": {"low": head.low, "high": head.high}}, codec=HEAD_CODEC
    )


def _layout(config):
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

    def check(config, codec, _):
        check_model(config, codec, bool(others), name)
        if codec["kind"] != FILES_CODEC:
            check_hypothesis(config["hypothesis"], name)
            for key in codec_of(codec["kind"]).from_hypothesis:
                if codec[key] != config["hypothesis"].get(key):
                    stated = f"{key} of the codec is {codec[key]}"
                    raise InputError(
                        f"{name}: {stated}; expected the hypothesis' {config['hypothesis'].get(key)}"
                    )

    message = decode(first, layout=_layout, check=check, expect=expect, name=name)
    if not others:
        return message
    what = head_name(name)
    head = decode(
        others[0], check=lambda config, codec, layout: check_head(config, codec, layout, what), name=what
    )
    return dataclasses.replace(
        message, head=head, section_bytes={**message.section_bytes, "alpha head": len(others[0])}
    )


def alpha_head(head, name="message"):
    """Build the smoothing head of a decoded message, `tokenbounds.codecs.frame.Message.head`."""
    ends = head.config["alpha_head"]
    module = AlphaHead(head.tensors["weight"].size - 1, ends["low"], ends["high"])
    with torch.no_grad():
        for key, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(head.tensors[key]))
    return module.eval()


def read_model(path, device="cpu"):
    """Read message and model from a message's file, in the arithmetic that the message names.

    Published files that the message names are read from the folder in its sidecar, and checked."""
    message = read_message(path)
    codec = codec_of(message.codec["kind"])
    if codec.opens_files:
        model = codec.open_model(message, published_folder(path), str(path), device)
    else:
        model = model_of(message, str(path))
    return message, cast(model, message.config["contexts"]["arithmetic"]).to(device)


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
