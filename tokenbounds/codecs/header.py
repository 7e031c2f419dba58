"""A message's header: the description of the hypothesis besides its tensors. Reading it needs no torch."""

import dataclasses
from pathlib import Path

from tokenbounds.codecs import frame
from tokenbounds.codecs.config_checks import FILES_CODEC, check_config, check_head, check_whole
from tokenbounds.config.schema.codecs import CODECS as SECTIONS
from tokenbounds.errors import InputError
from tokenbounds.io.files import file_size, read_json


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
    """Read the header of the message in a file, whose checksum must hold; the tensors are not decoded.

    Its config is checked (`tokenbounds.codecs.config_checks`), but for what the family's schema says of the
    hypothesis: that needs torch, and is checked when the message is decoded.
    """
    name = str(path)
    first, *others = split_model(read_bytes(path), name)
    config, codec, _ = frame.header(first, name)
    check_model(config, codec, bool(others), name)
    if not others:
        return Header(config, codec)
    head = head_name(name)
    head_config, head_codec, layout = frame.header(others[0], head)
    check_head(head_config, head_codec, layout, head)
    return Header(config, codec, Header(head_config, head_codec))


def check_model(config, codec, has_head, name="message"):
    """Refuse the header of a model's message that holds anything but what it must, or that a smoothing head
    follows though its codec takes none."""
    kind = codec.get("kind")
    if not isinstance(kind, str):
        raise InputError(f"{name}: codec kind is {kind!r:.80}; expected a name")
    check_config(config, kind, name)
    if has_head and kind in SECTIONS and not SECTIONS[kind].takes_head:
        raise InputError(f"{name}: a smoothing head follows a message of codec '{kind}'; expected none")


def head_name(name):
    """Return the name of the smoothing head's message in errors, from that of the file."""
    return f"{name} (smoothing head)"


def split_model(data, name):
    """Split bytes into the message of a model and, where it has one, that of its smoothing head."""
    messages = frame.split(data, name)
    if len(messages) > 2:
        expected = "that of a model and perhaps that of its smoothing head"
        raise InputError(f"{name}: {len(messages)} messages; expected {expected}")
    return messages


def read_bytes(path):
    """Read a message's file."""
    file_size(path)  # a regular file
    return Path(path).read_bytes()


def complexity_bits(path, message):
    """Return C(h) in bits of the `message` in the file at `path`: 8 times the sum of its bytes and the
    compressed bytes of files that it names; an `InputError` where these are no whole number of at least 1."""
    named = message.codec["kind"] == FILES_CODEC
    if named != ("compressed_bytes" in message.config):
        where = "missing" if named else "there"
        raise InputError(f"{path}: compressed_bytes is {where}; expected it for codec '{FILES_CODEC}' only")
    if not named:
        return frame.message_bits(path)
    check_whole(message.config["compressed_bytes"], f"{path}: compressed_bytes")
    return frame.message_bits(path) + 8 * message.config["compressed_bytes"]


def published_folder(path):
    """Return the folder of the published files of the message at ``results/{run}/messages/{name}.bin``, as
    its sidecar states it."""
    sidecar = Path(path).resolve().with_suffix(".json")
    content = read_json(sidecar)
    folder = content.get("folder") if isinstance(content, dict) else None
    if not isinstance(folder, str) or "\0" in folder or not (found := sidecar.parents[3] / folder).is_dir():
        raise InputError(f"{sidecar}: folder is {folder!r:.80}; expected that of the published files")
    return found
