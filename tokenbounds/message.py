"""The coded message: one byte string from which `decode` rebuilds a hypothesis bit for bit; its length in bits is the complexity C(h).

Format, version 1 (the same in docs/message-format.md). A varint is an unsigned LEB128 integer; multi-byte numbers are little endian.

====================  ==================================================================================================================
bytes                 content
====================  ==================================================================================================================
4                     ``TBM`` and the version, 1
varint                B, the number of bytes between this number and the checksum
varint H, H bytes     header: raw deflate of the canonical JSON of ``{"codec": ..., "config": ..., "layout": ...}``. ``layout`` is the
                      list of ``[name, shape]`` in order or, where the decoder derives that list from the config, the CRC32 of its
                      canonical JSON
rest of B             what the codec wrote
4                     CRC32 of everything before
====================  ==================================================================================================================

The message is self-delimiting, so messages form a prefix-free code: a file may hold several, one after the other (`split`).
Nothing in it is evaluated, and every length is checked against
the bytes that remain before anything is allocated.

Codec ``levels``: the tensors, flattened in C order, form one run per tensor (``codebook: tensor``) or one run in all (``shared``).
Per run: the number of codewords K (varint), K float16 codewords, most frequent first, and the K counts, packed: with r values and j
codewords left and the previous count c, the next count lies in [ceil(r/j), min(c, r-j+1)] and its excess over the lower end takes as many
bits as the width of that interval has (the last count takes none); zero bits fill the last byte. Then one range-coded stream of all runs
(constriction's queue coder: 32-bit words, 64-bit state, 24-bit probabilities) to the end of the body; a run with K = 1 codes nothing.

Codec ``lattice``: see `tokenbounds.lattice.LatticeCodec`. Codec ``counts``: see `tokenbounds.count_codec.CountsCodec`. Codec ``float16``:
the tensors as raw float16. Codec ``zip``: nothing; the config names files, whose compressed bytes follow the frame and are counted, but not
stored (`tokenbounds.published`).

`decode` is exact: it returns ``codebook[symbols]``. Encoding its result again need not give the same bytes: the uniform grid of a quantized
tensor differs from the grid of the original. (``method: kmeans`` keeps a tensor that has at most ``levels`` distinct float16 values.)
"""

import dataclasses
import json
import math
import zlib
from pathlib import Path
from typing import ClassVar

import constriction
import numpy as np

from tokenbounds.compressors import ZipCodec
from tokenbounds.count_codec import CountsCodec
from tokenbounds.errors import InputError
from tokenbounds.files import canonical_json
from tokenbounds.lattice import LatticeCodec, Quantized
from tokenbounds.quantize import check_levels, check_values, kmeans_levels, uniform_levels

MAGIC = b"TBM"
VERSION = 1
MAX_HEADER_BYTES = 1 << 24  # of JSON
_CHECKSUM_BYTES = 4
_CHUNK = 1 << 22  # symbols coded per step, to keep the int32 copies of a large tensor small


@dataclasses.dataclass(frozen=True)
class Message:
    """A decoded message.

    Attributes
    ----------
    config : dict
        Everything the decoder needs besides the tensors, as given to `encode`.
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
    tensors : dict of str to ndarray of float32 or float16, or to tokenbounds.lattice.Quantized
        Any shapes, at least one value each, in the order in which they are to be coded; lattice points for codec ``lattice`` only, and
        for codec ``counts`` arrays of integers.
    config : dict
        JSON values: family, architecture, seeds, context and start-token rule, ... Tuples become lists.
    codec : dict
        ``{"kind": "levels", "levels": 11, "method": "uniform" | "kmeans", "codebook": "tensor" | "shared"}`` (the defaults are 11, uniform,
        tensor), or ``{"kind": "float16"}``.
    layout : list of (name, shape), or callable config -> such a list, optional
        What the decoder can derive from the config by itself. Where it equals the names and shapes of `tensors`, they are not stored.

    Returns
    -------
    bytes

    Raises
    ------
    InputError
        No tensors; a tensor that is no float array, is empty, or holds a NaN, an infinity or a value beyond float16; a config that is not
        JSON; an unknown codec or option.
    """
    options = _resolve(codec)
    if not tensors and options["kind"] != "zip":
        raise InputError("no tensors to encode; expected at least one")
    integers = getattr(CODECS[options["kind"]], "integers", False)
    flat, shapes = {}, []
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not name:
            raise InputError(f"tensor name {name!r}; expected a non-empty string")
        on_lattice, kinds = isinstance(tensor, Quantized), "iu" if integers else "f"
        if not on_lattice and (not isinstance(tensor, np.ndarray) or tensor.dtype.kind not in kinds or tensor.itemsize > 4):
            expected = "an array of integers" if integers else "a float32 or float16 array"
            raise InputError(f"tensor {name!r} is {getattr(tensor, 'dtype', type(tensor).__name__)}; expected {expected}")
        flat[name] = tensor if on_lattice else tensor.ravel() if integers else check_values(tensor, f"tensor {name!r}")
        shapes.append([name, list(tensor.shape)])
    if not isinstance(config, dict):
        raise InputError(f"config is a {type(config).__name__}; expected a dict")
    try:
        config = json.loads(canonical_json(config).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"config cannot be coded as JSON ({error})") from None
    derived = _plain_layout(layout, config)
    header = canonical_json({"codec": options, "config": config, "layout": _layout_crc(shapes) if derived == shapes else shapes}).encode()
    if len(header) > MAX_HEADER_BYTES:
        raise InputError(f"the message header would have {len(header)} bytes of JSON; expected at most {MAX_HEADER_BYTES}")

    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflate.compress(header) + deflate.flush()
    body = Writer()
    body.varint(len(packed))
    body.write(packed)
    CODECS[options["kind"]].write(body, flat, options)

    data = Writer()
    data.write(MAGIC + bytes([VERSION]))
    data.varint(len(body.data))
    data.write(body.data)
    data.write(zlib.crc32(data.data).to_bytes(_CHECKSUM_BYTES, "little"))
    values = sum(math.prod(shape) for _, shape in shapes)
    if values > _most_values(len(data.data)):
        raise InputError(
            f"{values} values in a message of {len(data.data)} bytes; expected at most {_most_values(len(data.data))}: nearly all are equal"
        )
    return bytes(data.data)


def decode(data, *, layout=None, expect=None, name="message"):
    """Rebuild what `encode` was given, the tensors quantized.

    Parameters
    ----------
    data : bytes
    layout : list of (name, shape), or callable config -> such a list, optional
        Needed where the message does not store names and shapes; checked where it does.
    expect : dict, optional
        The config that the message must hold.
    name : str
        What error messages call the message, e.g. its file name.

    Returns
    -------
    Message

    Raises
    ------
    InputError
        Truncated, corrupt or of another format; leftover bytes; a config other than `expect` (names the first key that differs); names and
        shapes other than `layout`.
    """
    data = memoryview(data).cast("B")
    reader, end = _open(data, name)
    if len(data) < end:
        raise reader.error(f"truncated message ({len(data)} bytes; expected {end})")
    if len(data) > end:
        raise reader.error(f"{len(data) - end} leftover bytes after the message ({len(data)} bytes; expected {end})")
    if zlib.crc32(data[:-_CHECKSUM_BYTES]) != int.from_bytes(data[-_CHECKSUM_BYTES:], "little"):
        raise reader.error("corrupt message (its checksum does not match its content)")
    reader.end = end - _CHECKSUM_BYTES

    reader.section("header")
    config, codec, stored = _read_header(reader)
    if expect is not None and (difference := _first_difference(config, json.loads(canonical_json(expect)))):
        raise reader.error(f"coded for another model: {difference}")
    shapes = _checked_layout(reader, stored, _plain_layout(layout, config))
    values = sum(math.prod(shape) for _, shape in shapes)
    if values > _most_values(len(data)):
        raise reader.error(f"states {values} values in {len(data)} bytes; expected at most {_most_values(len(data))}")

    flat = CODECS[codec["kind"]].read(reader, shapes, codec)
    if reader.position != reader.end:
        raise reader.error(f"{reader.end - reader.position} leftover bytes inside the message")
    reader.section("frame")
    reader.end += _CHECKSUM_BYTES
    reader.take(_CHECKSUM_BYTES)
    tensors = {key: values.reshape(shape) for (key, shape), values in zip(shapes, flat, strict=True)}
    return Message(config=config, codec=codec, tensors=tensors, section_bytes=reader.sections)


def split(data, name="message"):
    """The messages that a byte string is made of, as views; `InputError` if it is not whole messages."""
    data, found = memoryview(data).cast("B"), []
    while not found or len(data):
        _, end = _open(data, name)
        found.append(data[:end])
        data = data[end:]
    return found


def _open(data, name):
    """A reader after the frame's beginning, and where the message ends."""
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise InputError(f"{name}: not a tokenbounds message (starts with {bytes(data[:3])!r}; expected {MAGIC!r})")
    reader = Reader(data, name)
    reader.section("frame")
    version = reader.take(len(MAGIC) + 1)[-1]
    if version != VERSION:
        raise reader.error(f"message format version {version}; expected {VERSION}")
    body_bytes = reader.varint()
    return reader, reader.position + body_bytes + _CHECKSUM_BYTES


def message_bits(message):
    """Length of a message in bits: 8 times the bytes of a byte string, or of the file at a path."""
    if isinstance(message, bytes | bytearray | memoryview):
        return 8 * memoryview(message).nbytes
    try:
        return 8 * Path(message).stat().st_size
    except FileNotFoundError:
        raise InputError(f"{message}: no such file") from None


class Writer:
    """Bytes, varints and bits, appended to `data`."""

    def __init__(self):
        self.data = bytearray()
        self._bits, self._width = 0, 0

    def write(self, data):
        self.data += data

    def varint(self, value):
        while value >= 0x80:
            self.data.append(value & 0x7F | 0x80)
            value >>= 7
        self.data.append(value)

    def bits(self, value, width):
        """Append the `width` bits of `value`, most significant first; `align` before anything but bits is written."""
        self._bits, self._width = self._bits << width | value, self._width + width
        while self._width >= 8:
            self._width -= 8
            self.data.append(self._bits >> self._width)
            self._bits &= (1 << self._width) - 1

    def align(self):
        """Fill the last byte with zero bits."""
        self.bits(0, -self._width % 8)


class Reader:
    """What `Writer` wrote; every method raises an `InputError` instead of reading past `end`."""

    def __init__(self, data, name):
        self.data, self.name = data, name
        self.position, self.end = 0, len(data)
        self.sections = {}
        self._bits, self._width = 0, 0

    def error(self, text):
        return InputError(f"{self.name}: {text}")

    def section(self, name):
        """Account what is read from here on under `name`."""
        self._section = name
        self.sections.setdefault(name, 0)

    def take(self, size):
        """The next `size` bytes, as a view."""
        if size > self.end - self.position:
            raise self.error(f"truncated message (needs {size} bytes at byte {self.position}; {self.end - self.position} remain)")
        self.position += size
        self.sections[self._section] += size
        return self.data[self.position - size : self.position]

    def rest(self):
        """All remaining bytes."""
        return self.take(self.end - self.position)

    def varint(self):
        value = 0
        for shift in range(0, 63, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    break  # a shorter form exists
                return value
        raise self.error(f"corrupt message (a length that is not a valid varint before byte {self.position})")

    def bits(self, width):
        while self._width < width:
            self._bits, self._width = self._bits << 8 | self.take(1)[0], self._width + 8
        self._width -= width
        value = self._bits >> self._width
        self._bits &= (1 << self._width) - 1
        return value

    def align(self):
        if self._bits:
            raise self.error(f"corrupt message (filling bits before byte {self.position} are not zero)")
        self._width = 0


class LevelsCodec:
    """Scalar quantization to a small codebook, then range coding with the empirical frequencies."""

    defaults: ClassVar = {"levels": 11, "method": "uniform", "codebook": "tensor"}
    methods: ClassVar = {"uniform": uniform_levels, "kmeans": kmeans_levels}

    def check(self, options):
        check_levels(options["levels"])
        for key, known in (("method", tuple(self.methods)), ("codebook", ("tensor", "shared"))):
            if options[key] not in known:
                raise InputError(f"{key} is {options[key]!r}; expected one of {', '.join(known)}")

    def write(self, writer, tensors, options):
        if on_lattice := [name for name, values in tensors.items() if isinstance(values, Quantized)]:
            raise InputError(f"tensor {on_lattice[0]!r} is on a lattice; expected an array for codec 'levels'")
        flat = list(tensors.values())
        runs = flat if options["codebook"] == "tensor" else [np.concatenate(flat)]
        coded = []
        for run in runs:
            symbols, codebook = self.methods[options["method"]](run, options["levels"])
            counts = _count(symbols, codebook.size)
            order = np.argsort(-counts, kind="stable")
            rank = np.empty(codebook.size, symbols.dtype)
            rank[order] = np.arange(codebook.size)
            counts = counts[order].tolist()
            writer.varint(codebook.size)
            writer.write(codebook[order].astype("<f2").tobytes())
            for count, (low, high) in zip(counts, _count_intervals(counts, run.size, codebook.size), strict=True):
                writer.bits(count - low, (high - low).bit_length())
            writer.align()
            coded.append((rank[symbols], counts))
        encoder = constriction.stream.queue.RangeEncoder()
        for symbols, counts in coded:
            if len(counts) > 1:
                model = _entropy_model(counts)
                for start in range(0, symbols.size, _CHUNK):
                    encoder.encode(symbols[start : start + _CHUNK].astype(np.int32), model)
        writer.write(encoder.get_compressed().astype("<u4").tobytes())

    def read(self, reader, layout, options):
        sizes = [math.prod(shape) for _, shape in layout]
        run_sizes = sizes if options["codebook"] == "tensor" else [sum(sizes)]
        reader.section("codebooks")
        books = [self._read_codebook(reader, size, options["levels"]) for size in run_sizes]
        reader.section("symbols")
        payload = reader.rest()
        if len(payload) % 4:
            raise reader.error(f"corrupt message (the coded symbols have {len(payload)} bytes; expected a multiple of 4)")
        words = np.frombuffer(payload, "<u4").astype(np.uint32)
        decoder = constriction.stream.queue.RangeDecoder(words)
        encoder = constriction.stream.queue.RangeEncoder()
        runs = [self._read_symbols(reader, decoder, encoder, *book, size) for book, size in zip(books, run_sizes, strict=True)]
        if not np.array_equal(encoder.get_compressed(), words):  # the decoder alone cannot tell that words are left over
            raise reader.error("corrupt message (the coded symbols are not what their encoder writes)")
        return runs if options["codebook"] == "tensor" else np.split(runs[0], np.cumsum(sizes[:-1]))

    def _read_codebook(self, reader, size, levels):
        codewords = reader.varint()
        if not 1 <= codewords <= min(levels, size):
            raise reader.error(f"corrupt message (a codebook of {codewords} codewords; expected 1 to {min(levels, size)})")
        codebook = np.frombuffer(reader.take(2 * codewords), "<f2").astype(np.float32)
        if not np.isfinite(codebook).all():
            raise reader.error("corrupt message (a codeword is not finite)")
        counts = []
        for low, high in _count_intervals(counts, size, codewords):
            counts.append(low + reader.bits((high - low).bit_length()))
            if counts[-1] > high:
                raise reader.error(f"corrupt message (a codeword's count of {counts[-1]}; expected at most {high})")
        reader.align()
        return codebook, counts

    def _read_symbols(self, reader, decoder, encoder, codebook, counts, size):
        values = np.full(size, codebook[0])
        if len(counts) == 1:
            return values
        model = _entropy_model(counts)
        found = np.zeros(len(counts), np.int64)
        for start in range(0, size, _CHUNK):
            try:
                symbols = decoder.decode(model, min(_CHUNK, size - start))
            except AssertionError as error:
                raise reader.error(f"corrupt message ({error})") from None
            encoder.encode(symbols, model)
            found += np.bincount(symbols, minlength=len(counts))
            values[start : start + _CHUNK] = codebook[symbols]
        if not np.array_equal(found, counts):
            raise reader.error("corrupt message (the decoded symbols do not have the stated counts)")
        return values


class Float16Codec:
    """Raw float16, for comparison with the coded messages."""

    defaults: ClassVar = {}

    def check(self, options):
        pass

    def write(self, writer, tensors, options):
        for values in tensors.values():
            writer.write(values.astype("<f2").tobytes())

    def read(self, reader, layout, options):
        reader.section("values")
        return [np.frombuffer(reader.take(2 * math.prod(shape)), "<f2").astype(np.float32) for _, shape in layout]


# A codec has `defaults` (option -> value), `check(options)`, `write(writer, tensors, options)` for flat float32 arrays by name, and
# `read(reader, layout, options)`, which returns such arrays, quantized, in the order of the layout's [name, shape]. A codec of integers has
# `integers = True`. A new one is a module with such a class, and a line here.
CODECS = {
    "levels": LevelsCodec(),
    "float16": Float16Codec(),
    "lattice": LatticeCodec(LevelsCodec()),
    "zip": ZipCodec(),
    "counts": CountsCodec(),
}


def _resolve(codec):
    """All options of a codec, defaults filled in."""
    kind = codec.get("kind")
    if kind not in CODECS:
        raise InputError(f"codec kind is {kind!r}; expected one of {', '.join(CODECS)}")
    defaults = CODECS[kind].defaults
    for key in codec:
        if key != "kind" and key not in defaults:
            raise InputError(f"codec '{kind}' has no option {key!r}; expected one of {', '.join(defaults) or 'none'}")
    options = {"kind": kind, **defaults, **codec}
    CODECS[kind].check(options)
    return options


def _read_header(reader):
    """Config, codec and layout entry of a message's header."""
    packed = reader.take(reader.varint())
    inflate = zlib.decompressobj(-15)
    try:
        text = inflate.decompress(packed, MAX_HEADER_BYTES)
        header = json.loads(text)
        whole = inflate.eof and not inflate.unused_data and canonical_json(header).encode() == text
        config, codec, layout = header["config"], header["codec"], header["layout"]
        if not (whole and len(header) == 3 and isinstance(config, dict) and _resolve(codec) == codec):
            raise ValueError("not in canonical form")
    except InputError as error:
        raise reader.error(str(error)) from None
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise reader.error(f"corrupt message header ({error})") from None
    return config, codec, layout


def _plain_layout(layout, config):
    """A layout (a list, a callable or None) as JSON has it: ``[[name, [int, ...]], ...]``."""
    layout = layout(config) if callable(layout) else layout
    return None if layout is None else [[name, [int(length) for length in shape]] for name, shape in layout]


def _layout_crc(layout):
    return zlib.crc32(canonical_json(layout).encode())


def _checked_layout(reader, stored, derived):
    """Names and shapes of a message whose header holds `stored`, for a decoder that derived `derived` (or None)."""
    if isinstance(stored, int):
        if derived is None:
            raise reader.error("names and shapes are not stored in the message; expected a layout derived from its config")
        if _layout_crc(derived) != stored:
            raise reader.error("the names and shapes derived from its config are not those it was coded with")
        return derived
    try:
        valid = bool(stored) and all(
            isinstance(key, str) and key and isinstance(shape, list) and len(shape) <= 32 and all(type(n) is int and n > 0 for n in shape)
            for key, shape in stored
        )
    except (TypeError, ValueError):
        valid = False
    if not valid or len({key for key, _ in stored}) != len(stored):
        raise reader.error("corrupt message header (names and shapes are not a list of [name, shape])")
    if derived is not None and derived != stored:
        found, expected = next((a, b) for a, b in zip([*stored, None], [*derived, None], strict=False) if a != b)
        raise reader.error(f"holds the tensor {_describe(found)}; expected {_describe(expected)}")
    return stored


def _describe(entry):
    return "none" if entry is None else f"{entry[0]!r} of shape {tuple(entry[1])}"


def _first_difference(found, expected, path=""):
    """The first key, in sorted order, at which two JSON values differ, in words; None where they are equal."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted({*found, *expected}):
            where = f"{path}.{key}" if path else key
            if key not in expected:
                return f"config key {where!r} is {canonical_json(found[key])}; expected no such key"
            if key not in found:
                return f"config key {where!r} is absent; expected {canonical_json(expected[key])}"
            if difference := _first_difference(found[key], expected[key], where):
                return difference
        return None
    # as text: 1, 1.0 and true are equal in Python
    found, expected = canonical_json(found), canonical_json(expected)
    return None if found == expected else f"config key {path!r} is {found}; expected {expected}"


def _most_values(message_bytes):
    """Most tensor values in a message: equal values cost no bits, and a few bytes must not make a decoder fill its memory."""
    return (1 << 24) + 4096 * message_bytes


def _count(symbols, codewords):
    return sum(np.bincount(symbols[start : start + _CHUNK], minlength=codewords) for start in range(0, symbols.size, _CHUNK))


def _count_intervals(counts, total, codewords):
    """Interval of each of the descending `counts` given those before it; `counts` may grow while this is iterated."""
    remaining, previous = total, total
    for left in range(codewords, 0, -1):
        yield -(-remaining // left), min(previous, remaining - left + 1)
        previous = counts[codewords - left]
        remaining -= previous


def _entropy_model(counts):
    # float64 division is exact to the last bit everywhere, so that the decoder builds the same model
    counts = np.array(counts, np.float64)
    return constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
