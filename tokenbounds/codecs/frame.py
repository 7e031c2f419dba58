"""The coded message: one byte string from which `decode` rebuilds a hypothesis bit for bit; its length in
bits is the complexity C(h).

Format, version 1 (the same in docs/message-format.md)::

    TBM 1 | B | H | header, H bytes | written by the codec | CRC32
               '----------------- B bytes ----------------'

=================  =====================================================================================
bytes              content
=================  =====================================================================================
4                  ``TBM`` and the version, 1
varint             B, the number of bytes between this number and the checksum
varint H, H bytes  header: raw deflate of the canonical JSON of ``{"codec": ..., "config": ...,
                   "layout": ...}``. ``layout`` is the list of ``[name, shape]`` in order or, where the
                   decoder derives that list from the config, the CRC32 of its canonical JSON
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
``lattice``             points of the E8 lattice (`tokenbounds.codecs.lattice_codec.LatticeCodec`)
``counts``              n-gram counts of a Markov chain (`tokenbounds.codecs.counts.CountsCodec`)
``float16``             the tensors as raw float16 (`tokenbounds.codecs.base.Float16Codec`)
``zip``                 nothing; the config names files, whose compressed bytes are counted besides, but
                        not stored (`tokenbounds.codecs.archive`)
======================  ================================================================================

`decode` is exact: it returns ``codebook[symbols]``. Encoding its result again need not give the same bytes:
the uniform grid of a quantized tensor differs from the grid of the original. (``method: kmeans`` keeps a
tensor that has at most ``levels`` distinct float16 values.)
"""

import dataclasses
import functools
import json
import math
import zlib
from pathlib import Path

from tokenbounds.codecs.bits import Reader, Writer
from tokenbounds.config.schema.codecs import CODECS as SECTIONS
from tokenbounds.errors import InputError
from tokenbounds.io.files import canonical_json
from tokenbounds.plugins import load

MAGIC = b"TBM"
VERSION = 1
MAX_HEADER_BYTES = 1 << 24  # of JSON
_CHECKSUM_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Message:
    """A decoded message.

    Attributes
    ----------
    config : dict
        All that the decoder needs besides the tensors, as given to `encode`.
    codec : dict
        The codec and all its options.
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
    tensors : dict of str to ndarray of float32 or float16, or to tokenbounds.codecs.lattice.Quantized
        Any shapes, at least one value each, in the order in which they are to be coded; lattice points for
        codec ``lattice`` only, and for codec ``counts`` arrays of integers.
    config : dict
        JSON values: family, architecture, seeds, context and start-token rule, ... Tuples become lists.
    codec : dict
        ``{"kind": "levels", "levels": 11, "method": "uniform" | "kmeans", "codebook": "tensor" | "shared"}``
        (the defaults are 11, uniform, tensor), or ``{"kind": "float16"}``.
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
    header = canonical_json(
        {"codec": options, "config": config, "layout": _layout_crc(shapes) if derived == shapes else shapes}
    ).encode()
    if len(header) > MAX_HEADER_BYTES:
        raise InputError(
            f"the message header would have {len(header)} bytes of JSON; expected at most {MAX_HEADER_BYTES}"
        )

    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflate.compress(header) + deflate.flush()
    body = Writer()
    body.varint(len(packed))
    body.write(packed)
    coder.write(body, flat, options)

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


def decode(data, *, layout=None, expect=None, name="message"):
    """Rebuild the tensors and config that `encode` coded, the tensors quantized.

    Parameters
    ----------
    data : bytes
    layout : list of (name, shape), or callable config -> such a list, optional
        Needed where the message does not store names and shapes; checked where it does.
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
        Truncated, corrupt or of another format; leftover bytes; a config other than `expect` (names the first
        key that differs); names and shapes other than `layout`.
    """
    reader = _checked(data, name)
    config, codec, stored = _read_header(reader)
    if expect is not None and (difference := _first_difference(config, json.loads(canonical_json(expect)))):
        raise reader.error(f"coded for another model: {difference}")
    shapes = _checked_layout(reader, stored, _plain_layout(layout, config))
    values = sum(math.prod(shape) for _, shape in shapes)
    if values > _most_values(len(data)):
        raise reader.error(
            f"states {values} values in {len(data)} bytes; expected at most {_most_values(len(data))}"
        )

    flat = codec_of(codec["kind"]).read(reader, shapes, codec)
    if reader.position != reader.end:
        raise reader.error(f"{reader.end - reader.position} leftover bytes inside the message")
    reader.section("frame")
    reader.end += _CHECKSUM_BYTES
    reader.take(_CHECKSUM_BYTES)
    tensors = {key: values.reshape(shape) for (key, shape), values in zip(shapes, flat, strict=True)}
    return Message(config=config, codec=codec, tensors=tensors, section_bytes=reader.sections)


def header(data, name="message"):
    """Read config and codec of one message after checking frame and checksum; its tensors are not decoded."""
    config, codec, _ = _read_header(_checked(data, name), resolved=False)  # so that no codec need be imported
    return config, codec


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
    inflate = zlib.decompressobj(-15)
    try:
        text = inflate.decompress(packed, MAX_HEADER_BYTES)
        header = json.loads(text)
        whole = inflate.eof and not inflate.unused_data and canonical_json(header).encode() == text
        config, codec, layout = header["config"], header["codec"], header["layout"]
        if not (
            whole
            and len(header) == 3
            and isinstance(config, dict)
            and isinstance(codec, dict)
            and (not resolved or _resolve(codec) == codec)
        ):
            raise ValueError("not in canonical form")
    except InputError as error:
        raise reader.error(str(error)) from None
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
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
    if isinstance(stored, int):
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
    if derived is not None and derived != stored:
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
