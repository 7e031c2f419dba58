"""The coded message: one byte string from which `decode` rebuilds a hypothesis bit for bit; its length in
bits is the complexity C(h).

Format, version 2 (the same in docs/message-format.md)::

    TBM 2 | B | H | header, H bytes | written by the codec | CRC32
               '----------------- B bytes ----------------'

=================  =====================================================================================
bytes              content
=================  =====================================================================================
4                  ``TBM`` and the version, 2
varint             B, the number of bytes between this number and the checksum
varint H, H bytes  header: the canonical JSON of ``{"codec": ..., "config": ..., "layout": ...}``, coded by
                   `tokenbounds.codecs.header_text`. ``layout`` is the list of ``[name, shape]`` in order
                   or, where the decoder derives that list from the config, the CRC32 of its canonical JSON
rest of B          written by the codec
4                  CRC32 of everything before
=================  =====================================================================================

A varint is an unsigned LEB128 integer (`tokenbounds.codecs.bits`); multi-byte numbers are little endian.

The message is self-delimiting, so messages form a prefix-free code: a file may hold several, one after the
other (`split`). Nothing in it is evaluated, and every length is checked against the bytes that remain before
anything is allocated.

======================  ================================================================================
codec                   content
======================  ================================================================================
``levels``              codebooks and range-coded symbols (`tokenbounds.codecs.levels.LevelsCodec`)
``sequential``          numbers and steps, range coded (`tokenbounds.codecs.sequential`)
``lattice``             points of the E8 lattice (`tokenbounds.codecs.lattice_codec.LatticeCodec`)
``counts``              n-gram counts of a Markov chain (`tokenbounds.codecs.counts.CountsCodec`)
``float16``             the tensors as raw float16 (`tokenbounds.codecs.base.Float16Codec`)
``zip``                 nothing; the config names files, whose compressed bytes are counted besides, but
                        not stored (`tokenbounds.codecs.archive`)
======================  ================================================================================

A message is canonical: `decode` writes the fields that it has read, header and body, again, and refuses the
message unless the bytes are the same. So draws that are derived from a message cannot be chosen by
changing bytes that mean nothing; docs/message-format.md lists the equivalent messages that are left.
"""

import dataclasses
import functools
import json
import math
import zlib
from pathlib import Path

from tokenbounds.codecs.bits import Reader, Writer
from tokenbounds.codecs.header_text import pack, unpack
from tokenbounds.config.schema.codecs import CODECS as SECTIONS
from tokenbounds.errors import InputError
from tokenbounds.io.files import canonical_json
from tokenbounds.plugins import load

MAGIC = b"TBM"
VERSION = 2
MAX_HEADER_BYTES = 1 << 15  # of JSON
_CHECKSUM_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Message:
    """A decoded message.

    Attributes
    ----------
    config : dict
        All that the decoder needs besides the tensors, as given to `encode`.
    codec : dict
        The codec and those of its options that decoding depends on.
    tensors : dict of str to ndarray of float32 (int32 for codec ``counts``)
        In the order in which they were given to `encode`.
    section_bytes : dict of str to int
        Bytes of each part; they add up to the length of the message.
    head : Message or None
        The smoothing head's message that follows in the same file, its bytes counted in `section_bytes`.
    """

    config: dict
    codec: dict
    tensors: dict
    section_bytes: dict
    head: "Message | None" = None


def encode(tensors, config, *, codec, layout=None):
    """Code `tensors` and `config` as one message. Deterministic.

    Parameters
    ----------
    tensors : dict of str to ndarray of float32 or float16, or to Quantized or Stepped
        Any shapes, at least one value each, in the order in which they are to be coded; lattice points
        (`tokenbounds.codecs.lattice.Quantized`) for codec ``lattice`` only, numbers with steps
        (`tokenbounds.codecs.sequential.matrix.Stepped`) for codec ``sequential`` only, and for codec
        ``counts`` arrays of integers.
    config : dict
        JSON values: family, architecture, seeds, context and start-token rule, ... Tuples become lists.
    codec : dict
        ``{"kind": "levels", "levels": 11, "method": "uniform" | "kmeans", "codebook": "tensor" | "shared"}``
        (the defaults are 11, uniform, tensor; the message holds the codebook only), or ``{"kind":
        "float16"}``.
    layout : list of (name, shape), or callable config -> such a list, optional
        Names and shapes that the decoder can derive from the config. Where they equal those of `tensors`,
        they are not stored.

    Returns
    -------
    bytes

    Raises
    ------
    InputError
        No tensors; a tensor that is no float array, is empty, or holds a NaN, an infinity or a value beyond
        float16; a config that is not JSON; an unknown codec or option.
    """
    options = _resolve(codec)
    coder = codec_of(options["kind"])
    if coder.needs_tensors and not tensors:
        raise InputError("no tensors to encode; expected at least one")
    flat, shapes = {}, []
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not name:
            raise InputError(f"tensor name {name!r}; expected a non-empty string")
        flat[name] = coder.flat(name, tensor)
        shapes.append([name, list(tensor.shape)])
    if not isinstance(config, dict):
        raise InputError(f"config is a {type(config).__name__}; expected a dict")
    try:
        config = json.loads(canonical_json(config).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"config cannot be coded as JSON ({error})") from None
    derived = _plain_layout(layout, config)
    fields = coder.quantize(flat, options)
    stated = coder.stated(options, fields)
    header = canonical_json(
        {
            "codec": stated,
            "config": config,
            "layout": _layout_crc(shapes) if derived == shapes else shapes,
        }
    ).encode()
    if len(header) > MAX_HEADER_BYTES:
        raise InputError(
            f"the message header would have {len(header)} bytes of JSON; expected at most {MAX_HEADER_BYTES}"
        )

    packed = pack(header)
    body = Writer()
    body.varint(len(packed))
    body.write(packed)
    coder.write(body, fields, stated)

    data = Writer()
    data.write(MAGIC + bytes([VERSION]))
    data.varint(len(body.data))
    data.write(body.data)
    data.write(zlib.crc32(data.data).to_bytes(_CHECKSUM_BYTES, "little"))
    values, limit = sum(math.prod(shape) for _, shape in shapes), _most_values(len(data.data))
    if values > limit:
        size = len(data.data)
        raise InputError(
            f"{values} values in a message of {size} bytes; expected at most {limit}: nearly all are equal"
        )
    return bytes(data.data)


def decode(data, *, layout=None, check=None, expect=None, name="message"):
    """Rebuild the tensors and config that `encode` coded, the tensors quantized.

    Parameters
    ----------
    data : bytes
    layout : list of (name, shape), or callable config -> such a list, optional
        Names and shapes; where the message does not store them it must have been coded with these, and it
        must not store these.
    check : callable (config, codec, layout), optional
        Function that raises an `InputError` for a header that its caller does not accept, before anything
        else is read.
    expect : dict, optional
        The config that the message must hold.
    name : str
        Name of the message in errors, e.g. that of its file.

    Returns
    -------
    Message

    Raises
    ------
    InputError
        Truncated, corrupt or of another format; not canonical; leftover bytes; a config other than `expect`
        (names the first key that differs); names and shapes other than `layout`.
    """
    reader = _checked(data, name)
    config, codec, stored = _read_header(reader)
    if check is not None:
        check(config, codec, stored)
    if expect is not None and (difference := _first_difference(config, json.loads(canonical_json(expect)))):
        raise reader.error(f"coded for another model: {difference}")
    shapes = _checked_layout(reader, stored, _plain_layout(layout, config))
    values = sum(math.prod(shape) for _, shape in shapes)
    if values > _most_values(len(data)):
        raise reader.error(
            f"states {values} values in {len(data)} bytes; expected at most {_most_values(len(data))}"
        )

    coder, begin = codec_of(codec["kind"]), reader.position
    if coder.needs_tensors and not shapes:
        raise reader.error("no tensors; expected at least one")
    fields = coder.read(reader, shapes, codec)
    if reader.position != reader.end:
        raise reader.error(f"{reader.end - reader.position} leftover bytes inside the message")
    named = {key: field for (key, _), field in zip(shapes, fields, strict=True)}
    _check_canonical(reader, begin, coder, named, codec)
    reader.section("frame")
    reader.end += _CHECKSUM_BYTES
    reader.take(_CHECKSUM_BYTES)
    tensors = {key: coder.values(named[key]).reshape(shape) for key, shape in shapes}
    return Message(config=config, codec=codec, tensors=tensors, section_bytes=reader.sections)


def _check_canonical(reader, begin, coder, fields, options):
    """Refuse a body, from `begin` to the reader's end, that is not what the codec writes for its fields."""
    again = Writer()
    try:
        stated = coder.stated(options, fields)
        coder.write(again, fields, options)
    except InputError as error:
        raise reader.error(f"corrupt message ({error})") from None
    if canonical_json(stated) != canonical_json(options):
        raise reader.error(f"codec options {canonical_json(options)}; expected {canonical_json(stated)}")
    if again.data != reader.data[begin : reader.end]:
        raise reader.error("corrupt message (its content is not what its encoder writes)")


def header(data, name="message"):
    """Read config, codec and layout entry of one message after checking frame and checksum; its tensors are
    not decoded."""
    return _read_header(_checked(data, name), resolved=False)  # so that no codec need be imported


def _checked(data, name):
    """Return a reader at the header of a message; refuse one that is not whole, leftover bytes after it, and
    a checksum that does not match."""
    data = memoryview(data).cast("B")
    reader, end = _open(data, name)
    if len(data) < end:
        raise reader.error(f"truncated message ({len(data)} bytes; expected {end})")
    if len(data) > end:
        raise reader.error(
            f"{len(data) - end} leftover bytes after the message ({len(data)} bytes; expected {end})"
        )
    if zlib.crc32(data[:-_CHECKSUM_BYTES]) != int.from_bytes(data[-_CHECKSUM_BYTES:], "little"):
        raise reader.error("corrupt message (its checksum does not match its content)")
    reader.end = end - _CHECKSUM_BYTES

    reader.section("header")
    return reader


def split(data, name="message"):
    """Split a byte string into its messages, as views; an `InputError` unless these are whole."""
    messages: list[memoryview] = []
    data = memoryview(data).cast("B")
    while not messages or len(data):
        _, end = _open(data, name)
        messages.append(data[:end])
        data = data[end:]
    return messages


def _open(data, name):
    """Return a reader after B (see the module), and the position of the message's end."""
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise InputError(
            f"{name}: not a tokenbounds message (starts with {bytes(data[:3])!r}; expected {MAGIC!r})"
        )
    reader = Reader(data, name)
    reader.section("frame")
    version = reader.take(len(MAGIC) + 1)[-1]
    if version != VERSION:
        raise reader.error(f"message format version {version}; expected {VERSION}")
    body_bytes = reader.varint()
    return reader, reader.position + body_bytes + _CHECKSUM_BYTES


def message_bits(message):
    """Return a message's length in bits: 8 times the bytes of a byte string, or of the file at a path."""
    if isinstance(message, bytes | bytearray | memoryview):
        return 8 * memoryview(message).nbytes
    try:
        return 8 * Path(message).stat().st_size
    except FileNotFoundError:
        raise InputError(f"{message}: no such file") from None


# Every codec of a message, by kind; those of the configuration name theirs.
CODECS = {
    "float16": "tokenbounds.codecs.base:Float16Codec",
    **{kind: section.implementation for kind, section in SECTIONS.items() if section.implementation},
}


@functools.cache
def codec_of(kind):
    """Return the codec of a kind, a `tokenbounds.codecs.base.Codec`; an `InputError` for an unknown kind."""
    if kind not in CODECS:
        raise InputError(f"codec kind is {kind!r}; expected one of {', '.join(CODECS)}")
    return load(CODECS[kind])()


def _resolve(codec):
    """Return all options of a codec, with defaults for those not given."""
    kind = codec.get("kind")
    coder = codec_of(kind)
    defaults = coder.defaults
    for key in codec:
        if key != "kind" and key not in defaults:
            raise InputError(
                f"codec '{kind}' has no option {key!r}; expected one of {', '.join(defaults) or 'none'}"
            )
    options = {"kind": kind, **defaults, **codec}
    coder.check(options)
    return options


def _read_header(reader, resolved=True):
    """Read config, codec (checked if `resolved`) and layout entry of a message's header."""
    packed = reader.take(reader.varint())
    try:
        text = unpack(packed, MAX_HEADER_BYTES)
        header = json.loads(text)
        config, codec, layout = header["config"], header["codec"], header["layout"]
        if not (
            canonical_json(header).encode() == text
            and len(header) == 3
            and isinstance(config, dict)
            and isinstance(codec, dict)
        ):
            raise ValueError("not in canonical form")
        if resolved:
            options = _resolve(codec)
            stated = options.keys() - {*codec_of(options["kind"]).encoding_only}
            if codec.keys() != stated:
                expected = ", ".join(sorted(stated))
                raise ValueError(f"codec options {', '.join(sorted(codec))}; expected {expected}")
    except InputError as error:
        raise reader.error(str(error)) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise reader.error(f"corrupt message header ({error})") from None
    return config, codec, layout


def _plain_layout(layout, config):
    """Convert a layout (a list, a callable or None) to JSON's ``[[name, [int, ...]], ...]``."""
    layout = layout(config) if callable(layout) else layout
    return None if layout is None else [[name, [int(length) for length in shape]] for name, shape in layout]


def _layout_crc(layout):
    return zlib.crc32(canonical_json(layout).encode())


def _checked_layout(reader, stored, derived):
    """Return names and shapes of a message whose header holds `stored`, for a decoder that derived `derived`
    (or None)."""
    if type(stored) is int:
        if derived is None:
            raise reader.error(
                "names and shapes are not stored in the message; expected a layout derived from its config"
            )
        if _layout_crc(derived) != stored:
            raise reader.error("the names and shapes derived from its config are not those it was coded with")
        return derived
    try:
        valid = bool(stored) and all(
            isinstance(key, str)
            and key
            and isinstance(shape, list)
            and len(shape) <= 32
            and all(type(n) is int and n > 0 for n in shape)
            for key, shape in stored
        )
    except (TypeError, ValueError):
        valid = False
    if not valid or len({key for key, _ in stored}) != len(stored):
        raise reader.error("corrupt message header (names and shapes are not a list of [name, shape])")
    if derived == stored:
        raise reader.error("names and shapes are stored that follow from its config; expected their CRC32")
    if derived is not None:
        entry, expected = next(
            (a, b) for a, b in zip([*stored, None], [*derived, None], strict=False) if a != b
        )
        raise reader.error(f"holds the tensor {_describe(entry)}; expected {_describe(expected)}")
    return stored


def _describe(entry):
    return "none" if entry is None else f"{entry[0]!r} of shape {tuple(entry[1])}"


def _first_difference(stored, expected, path=""):
    """Describe the first key, in sorted order, at which two JSON values differ; None where they are equal."""
    if isinstance(stored, dict) and isinstance(expected, dict):
        for key in sorted({*stored, *expected}):
            inner = f"{path}.{key}" if path else key
            if key not in expected:
                return f"config key {inner!r} is {canonical_json(stored[key])}; expected no such key"
            if key not in stored:
                return f"config key {inner!r} is absent; expected {canonical_json(expected[key])}"
            if difference := _first_difference(stored[key], expected[key], inner):
                return difference
        return None
    # as text: 1, 1.0 and true are equal in Python
    stored, expected = canonical_json(stored), canonical_json(expected)
    return None if stored == expected else f"config key {path!r} is {stored}; expected {expected}"


def _most_values(message_bytes):
    """Return the largest number of values in a message: equal values cost no bits, and a few bytes must not
    make a decoder fill its memory."""
    return (1 << 24) + 4096 * message_bytes
