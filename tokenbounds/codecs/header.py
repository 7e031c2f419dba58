"""A message's header: the description of the hypothesis besides its tensors. Reading it needs no torch."""

import dataclasses
from pathlib import Path

from tokenbounds.codecs import frame
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json


@dataclasses.dataclass(frozen=True)
class Header:
    """Header of the message of a model, and of that of its smoothing head.

    Attributes
    ----------
    config, codec : dict
        The same as those of a `tokenbounds.codecs.frame.Message`.
    head : Header or None
        That of the smoothing head's message, which follows in the same file.
    """

    config: dict
    codec: dict
    head: "Header | None" = None


def read_header(path):
    """Read the header of the message in a file, whose checksum must hold; the tensors are not decoded."""
    name = str(path)
    first, *others = split_model(read_bytes(path), name)
    config, codec = frame.header(first, name)
    if not {"hypothesis", "contexts"} <= config.keys():
        raise InputError(f"{name}: holds {', '.join(config) or 'nothing'}; expected hypothesis and contexts")
    if not others:
        return Header(config, codec)
    head = Header(*frame.header(others[0], f"{name} (smoothing head)"))
    ends = head.config.get("alpha_head")
    if len(head.config) != 1 or not isinstance(ends, dict) or ends.keys() != {"low", "high"}:
        keys = ", ".join(head.config)
        raise InputError(f"{name}: the second message holds {keys}; expected a smoothing head (alpha_head)")
    return Header(config, codec, head)


def split_model(data, name):
    """Split bytes into the message of a model and, where it has one, that of its smoothing head."""
    messages = frame.split(data, name)
    if len(messages) > 2:
        expected = "that of a model and perhaps that of its smoothing head"
        raise InputError(f"{name}: {len(messages)} messages; expected {expected}")
    return messages


def read_bytes(path):
    """Read a message's file."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


def complexity_bits(path, message):
    """Return C(h) in bits of the `message` in the file at `path`: 8 times the sum of its bytes and the
    compressed bytes of files that it names."""
    return frame.message_bits(path) + 8 * message.config.get("compressed_bytes", 0)


def published_folder(path):
    """Return the folder of the published files of the message at ``results/{run}/messages/{name}.bin``, as
    its sidecar states it."""
    path = Path(path).resolve()
    return path.parents[3] / read_json(path.with_suffix(".json"))["folder"]
