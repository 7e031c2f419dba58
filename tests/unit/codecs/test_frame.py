"""The coded message: exact round trips, sizes against the published accounting, and refusal of everything
that is not a whole message."""

import json
import math
import re
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tokenbounds.codecs import frame as message
from tokenbounds.codecs import levels
from tokenbounds.codecs.bits import Reader, Writer
from tokenbounds.codecs.frame import Message, decode, encode, message_bits
from tokenbounds.codecs.scalar import kmeans_levels, uniform_levels
from tokenbounds.errors import InputError
from tokenbounds.io.files import canonical_json

VECTORS = Path(__file__).parents[2] / "vectors"
ROWS = json.loads((VECTORS / "quantize.json").read_text())["rows"]
WRITTEN_BEFORE = json.loads((VECTORS / "message_v1.json").read_text())
METHODS = {"uniform": uniform_levels, "kmeans": kmeans_levels}
CONFIG = {
    "family": "gpt",
    "architecture": {"layers": 2, "heads": 4},
    "seed": 137,
    "context_length": 64,
    "start_token": "first",
}
UNIFORM11 = {"kind": "levels", "levels": 11, "method": "uniform", "codebook": "tensor"}
SMALL = {"a": np.array([[0.5, -1.0, 0.5], [0.5, 0.25, 0.5]], np.float32), "b": np.float32([1.5, 1.5])}

elements = st.one_of(st.floats(-65504, 65504, width=32), st.sampled_from([0.0, -0.0, 1.0, 0.5, 1e-30]))
arrays = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, max_side=8), elements=elements)
tensor_dicts = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12), arrays, min_size=1, max_size=4
)
codecs = st.fixed_dictionaries(
    {
        "kind": st.just("levels"),
        "levels": st.integers(2, 400),
        "method": st.sampled_from(["uniform", "kmeans"]),
        "codebook": st.sampled_from(["tensor", "shared"]),
    }
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


def layout_of(tensors):
    return [(name, np.shape(tensor)) for name, tensor in tensors.items()]


def frame(body):
    """A message with this body and a right checksum."""
    data = Writer()
    data.write(b"TBM\x01")
    data.varint(len(body))
    data.write(body)
    data.write(zlib.crc32(data.data).to_bytes(4, "little"))
    return bytes(data.data)


def body_of(data):
    reader = Reader(data, "message")
    reader.section("all")
    reader.take(4)
    return bytes(reader.take(reader.varint()))


def forge(header, content):
    """A message with a header of one's own making (a JSON value, or the bytes of a text) and any content."""
    text = header if isinstance(header, bytes) else canonical_json(header).encode()
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflate.compress(text) + deflate.flush()
    body = Writer()
    body.varint(len(packed))
    body.write(packed)
    body.write(content)
    return frame(body.data)


def header_with(layout, **codec):
    return {"codec": {**UNIFORM11, **codec}, "config": {}, "layout": layout}


def check_refused(data, match, **options):
    with pytest.raises(InputError, match=match) as error:
        decode(data, **options)
    assert "\n" not in str(error.value)


def check_refused_in_little_memory(data, match, **options):
    tracemalloc.start()
    try:
        check_refused(data, match, **options)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


# Round trips


@settings(deadline=None)
@given(
    tensor_dicts,
    codecs,
    st.dictionaries(st.text(st.characters(codec="utf-8")), json_values, max_size=3),
    st.booleans(),
)
def test_round_trip(tensors, codec, config, derive):
    layout = layout_of(tensors) if derive else None
    data = encode(tensors, config, codec=codec, layout=layout)
    assert data == encode(tensors, config, codec=codec, layout=layout)
    decoded = decode(data, layout=layout, expect=config)

    assert isinstance(decoded, Message)
    assert canonical_json(decoded.config) == canonical_json(config)
    assert decoded.codec == codec
    assert list(decoded.tensors) == list(tensors)
    assert sum(decoded.section_bytes.values()) == len(data)
    flat = [tensor.ravel() for tensor in tensors.values()]
    runs = flat if codec["codebook"] == "tensor" else [np.concatenate(flat)]
    expected = []
    for run in runs:
        symbols, codebook = METHODS[codec["method"]](run, codec["levels"])
        expected.append(codebook[symbols].astype(np.float32))
    assert all(
        tensor.dtype == np.float32 and tensor.shape == tensors[name].shape
        for name, tensor in decoded.tensors.items()
    )
    assert b"".join(tensor.tobytes() for tensor in decoded.tensors.values()) == b"".join(
        run.tobytes() for run in expected
    )


@settings(deadline=None)
@given(tensor_dicts)
def test_round_trip_float16(tensors):
    decoded = decode(encode(tensors, {}, codec={"kind": "float16"})).tensors
    assert list(decoded) == list(tensors)
    for name, tensor in tensors.items():
        assert decoded[name].shape == tensor.shape
        assert decoded[name].tobytes() == tensor.astype(np.float16).astype(np.float32).tobytes()


@settings(deadline=None)
@given(tensor_dicts, codecs)
def test_kmeans_codes_a_decoded_message_again_without_loss(tensors, codec):
    once = decode(encode(tensors, {}, codec=codec)).tensors
    twice = decode(encode(once, {}, codec={**codec, "method": "kmeans"})).tensors
    assert all(np.array_equal(once[name], twice[name]) for name in once)


@pytest.mark.parametrize("entry", WRITTEN_BEFORE["messages"], ids=lambda entry: entry["codec"]["kind"])
def test_messages_written_before_still_decode(entry):
    """Fails if the range coder's or NumPy's arithmetic ever decodes version 1 differently; then the version
    must change."""
    decoded = decode(bytes.fromhex(entry["hex"]))
    assert decoded.codec == entry["codec"]
    assert decoded.config == WRITTEN_BEFORE["config"]
    assert {name: tensor.tolist() for name, tensor in decoded.tensors.items()} == entry["tensors"]


def test_format_by_hand():
    """The bytes of a small message, taken apart as docs/message-format.md says, without the package's
    reader."""
    tensor = np.float32([2.0] * 5 + [-1.0] * 2 + [0.5])
    data = encode({"w": tensor}, {"a": [1, "é"]}, codec={"kind": "levels", "levels": 9, "method": "kmeans"})
    assert data[:4] == b"TBM\x01"
    assert data[4] == len(data) - 9
    assert int.from_bytes(data[-4:], "little") == zlib.crc32(data[:-4])
    header = zlib.decompress(data[6 : 6 + data[5]], -15).decode()
    codec = '{"codebook":"tensor","kind":"levels","levels":9,"method":"kmeans"}'
    assert header == f'{{"codec":{codec},"config":{{"a":[1,"é"]}},"layout":[["w",[8]]]}}'
    content = data[6 + data[5] : -4]
    assert content[0] == 3
    assert np.frombuffer(content[1:7], "<f2").tolist() == [2.0, -1.0, 0.5]
    # counts 5, 2, 1: the first lies in [3, 6] and is 3 + 0b10; the second in [2, 2] and the last in [1, 1]
    # take no bits
    assert content[7] == 0b10_000000
    assert len(content) % 4 == 0  # 8 bytes of codebook, then whole words


def test_default_options_are_written_out():
    assert decode(encode(SMALL, {}, codec={"kind": "levels"})).codec == UNIFORM11


def test_float16_and_other_byte_orders_are_the_same_tensor():
    tensor = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float16)
    expected = encode({"w": tensor.astype(np.float32)}, {}, codec=UNIFORM11)
    for same in (tensor, tensor.astype(">f4"), np.asfortranarray(tensor)):
        assert encode({"w": same}, {}, codec=UNIFORM11) == expected


def test_chunks_do_not_show(monkeypatch):
    tensors = {
        "a": np.random.default_rng(0).normal(size=1000).astype(np.float32),
        "b": np.zeros(70, np.float32),
    }
    data = encode(tensors, {}, codec=UNIFORM11)
    whole = decode(data).tensors
    monkeypatch.setattr(levels, "_CHUNK", 7)
    assert encode(tensors, {}, codec=UNIFORM11) == data
    parts = decode(data).tensors
    assert all(np.array_equal(whole[name], parts[name]) for name in tensors)


def test_probabilities_below_the_resolution_of_the_coder():
    tensor = np.zeros(17_000_000, np.float32)  # more than 2^24 values
    tensor[[5, 16_999_999]] = 1.0, -1.0
    data = encode({"w": tensor}, {}, codec=UNIFORM11)
    assert np.array_equal(decode(data).tensors["w"], tensor)
    assert len(data) < 200


def test_message_bits(tmp_path):
    data = encode(SMALL, CONFIG, codec=UNIFORM11)
    path = tmp_path / "m.bin"
    path.write_bytes(data)
    assert (
        message_bits(data)
        == message_bits(bytearray(data))
        == message_bits(path)
        == message_bits(str(path))
        == 8 * len(data)
    )
    with pytest.raises(InputError, match=r"absent\.bin: no such file"):
        message_bits(tmp_path / "absent.bin")


# Sizes


def entropy_bits(values):
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum()), counts.size


def check_size(data, tensors, codebook="tensor"):
    """Within 0.5% and 256 bytes of entropy, codewords and plain counts, computed here from the decoded
    values."""
    flat = [tensor.ravel() for tensor in decode(data, layout=layout_of(tensors)).tensors.values()]
    bits = 0
    for run in flat if codebook == "tensor" else [np.concatenate(flat)]:
        entropy, codewords = entropy_bits(run)
        bits += entropy + codewords * (16 + math.ceil(math.log2(run.size)))
    assert message_bits(data) <= 1.005 * bits + 8 * 256


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['file']}-{row['levels']}")
def test_size_on_gpt2(row, shared):
    tensors = {"w": np.fromfile(shared / "data/models/gpt2_124M_decoder1" / row["file"], ">f4")}
    data = encode(tensors, {}, codec={"kind": "levels", "levels": row["levels"]}, layout=layout_of(tensors))
    decoded = decode(data, layout=layout_of(tensors)).tensors["w"]
    assert np.mean((tensors["w"].astype(np.float64) - decoded) ** 2) == pytest.approx(row["mse"], rel=1e-10)
    assert message_bits(data) <= row["message_bits"] + 8 * 256
    assert (
        message_bits(data) >= entropy_bits(decoded)[0]
    )  # as any code of these symbols must, on average over their orders
    check_size(data, tensors)


@pytest.mark.parametrize("levels", [2, 3, 11, 300, 65536])
@pytest.mark.parametrize("codebook", ["tensor", "shared"])
def test_size_on_synthetic_weights(levels, codebook):
    rng = np.random.default_rng(5)
    tensors = {
        f"h.{i}": (rng.standard_t(5, size) * 0.02).astype(np.float32)
        for i, size in enumerate([768, 200_000, (300, 400), 1])
    }
    data = encode(
        tensors,
        CONFIG,
        codec={"kind": "levels", "levels": levels, "codebook": codebook},
        layout=layout_of(tensors),
    )
    check_size(data, tensors, codebook)


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=60))
def test_counts_never_cost_more_than_plain_counts(counts):
    counts = sorted(counts, reverse=True)
    total = sum(counts)
    intervals = list(levels._count_intervals(counts, total, len(counts)))
    assert all(low <= count <= high for count, (low, high) in zip(counts, intervals, strict=True))
    assert sum((high - low).bit_length() for low, high in intervals) <= len(counts) * math.ceil(
        math.log2(total)
    )


def test_names_and_shapes_the_decoder_derives_are_not_stored():
    tensors = {f"transformer.h.{i}.attention.weight": np.full((3, i + 1), 0.5, np.float32) for i in range(20)}
    stored = encode(tensors, CONFIG, codec=UNIFORM11)
    derived = encode(tensors, CONFIG, codec=UNIFORM11, layout=layout_of(tensors))
    assert len(derived) < len(stored) - 100
    for layout in (layout_of(tensors), lambda config: layout_of(tensors) if config == CONFIG else None):
        assert encode(tensors, CONFIG, codec=UNIFORM11, layout=layout) == derived
        decoded = decode(derived, layout=layout)
        assert [(name, tensor.shape) for name, tensor in decoded.tensors.items()] == layout_of(tensors)
    assert encode(tensors, CONFIG, codec=UNIFORM11, layout=layout_of(tensors)[::-1]) == stored


# Refusals


DATA = encode(SMALL, CONFIG, codec=UNIFORM11)


@pytest.mark.parametrize("length", range(len(DATA)))
def test_truncated_at_every_byte(length):
    check_refused(DATA[:length], r"^h\.bin: truncated message \(", name="h.bin")


@pytest.mark.parametrize("position", range(len(DATA)))
def test_any_corrupt_byte(position):
    for flip in (1, 0x80, 0xFF):
        data = bytearray(DATA)
        data[position] ^= flip
        check_refused(data, "^message: ")


@pytest.mark.parametrize("extra", [b"\0", b"TBM\x01", bytes(1000)])
def test_leftover_bytes_after_the_message(extra):
    check_refused(DATA + extra, f"message: {len(extra)} leftover bytes after the message")


def test_other_formats_and_versions():
    check_refused(
        b"PK\x03\x04" + DATA[4:],
        r"^x\.zip: not a tokenbounds message \(starts with b'PK.x03'; expected b'TBM'\)",
        name="x.zip",
    )
    check_refused(b"TBM\x02" + DATA[4:], "message: message format version 2; expected 1")


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"seed": 138}, "'seed' is 137; expected 138"),
        ({"seed": 137.0}, "'seed' is 137; expected 137.0"),
        ({"seed": True}, "'seed' is 137; expected true"),
        ({"architecture": {"layers": 12, "heads": 12}}, "'architecture.heads' is 4; expected 12"),
        (
            {"architecture": {"layers": 2, "heads": 4, "width": 8}},
            "'architecture.width' is absent; expected 8",
        ),
        ({"architecture": {"layers": 2}}, "'architecture.heads' is 4; expected no such key"),
        ({"architecture": None}, """'architecture' is {"heads":4,"layers":2}; expected null"""),
        ({"alpha": "head", "zeta": 0}, """'alpha' is absent; expected "head\""""),
    ],
)
def test_decoded_as_another_model(change, difference):
    error = re.escape(f"m.bin: coded for another model: config key {difference}") + "$"
    check_refused(DATA, error, expect={**CONFIG, **change}, name="m.bin")


def test_expected_model():
    assert decode(DATA, expect=dict(reversed(CONFIG.items()))).config == CONFIG
    config = {"betas": (0.9, 0.95)}
    assert decode(encode(SMALL, config, codec=UNIFORM11), expect=config).config == {"betas": [0.9, 0.95]}


def test_layout_mismatch():
    layout = layout_of(SMALL)
    derived = encode(SMALL, {}, codec=UNIFORM11, layout=layout)
    check_refused(derived, "m: names and shapes are not stored in the message; expected a layout", name="m")
    for other in ([("a", (3, 2)), ("b", (2,))], layout[:1], [("c", (2, 3)), ("b", (2,))], []):
        check_refused(
            derived,
            "the names and shapes derived from its config are not those it was coded with",
            layout=other,
        )
    stored = encode(SMALL, {}, codec=UNIFORM11)
    check_refused(
        stored,
        r"holds the tensor 'a' of shape \(2, 3\); expected 'a' of shape \(3, 2\)",
        layout=[("a", (3, 2)), ("b", (2,))],
    )
    check_refused(stored, r"holds the tensor 'b' of shape \(2,\); expected none", layout=layout[:1])
    check_refused(stored, r"holds the tensor none; expected 'c' of shape \(\)", layout=[*layout, ("c", ())])
    assert list(decode(stored, layout=layout).tensors) == ["a", "b"]


@pytest.mark.parametrize(
    ("tensors", "error"),
    [
        ({}, "no tensors to encode; expected at least one"),
        ({"h.0.attn.weight": np.float32([0, np.nan])}, "tensor 'h.0.attn.weight' holds a NaN"),
        ({"ok": np.zeros(2, np.float32), "w": np.float16([[0, -np.inf]])}, "tensor 'w' holds an infinity"),
        ({"w": np.float32([7e4])}, "tensor 'w' holds 70000; expected magnitudes within the float16 range"),
        ({"w": np.zeros((3, 0), np.float32)}, "tensor 'w' is empty"),
        ({"w": np.zeros(3)}, "tensor 'w' is float64; expected a float32 or float16 array"),
        ({"w": np.zeros(3, np.int8)}, "tensor 'w' is int8; expected a float32 or float16 array"),
        ({"w": [1.0, 2.0]}, "tensor 'w' is list; expected a float32 or float16 array"),
        ({"": np.zeros(3, np.float32)}, "tensor name ''; expected a non-empty string"),
        ({3: np.zeros(3, np.float32)}, "tensor name 3; expected a non-empty string"),
    ],
)
@pytest.mark.parametrize(
    "codec", [UNIFORM11, {"kind": "levels", "codebook": "shared", "method": "kmeans"}, {"kind": "float16"}]
)
def test_bad_tensors(tensors, error, codec):
    with pytest.raises(InputError, match=re.escape(error)):
        encode(tensors, {}, codec=codec)


@pytest.mark.parametrize(
    ("codec", "error"),
    [
        ({}, "codec kind is None; expected one of levels, float16"),
        ({"kind": "pickle"}, "codec kind is 'pickle'; expected one of levels, float16"),
        (
            {"kind": "levels", "level": 3},
            "codec 'levels' has no option 'level'; expected one of levels, method, codebook",
        ),
        ({"kind": "float16", "levels": 3}, "codec 'float16' has no option 'levels'; expected one of none"),
        ({"kind": "levels", "levels": 1}, "levels is 1; expected an integer from 2 to 65536"),
        ({"kind": "levels", "method": "lloyd"}, "method is 'lloyd'; expected one of uniform, kmeans"),
        ({"kind": "levels", "codebook": "layer"}, "codebook is 'layer'; expected one of tensor, shared"),
    ],
)
def test_bad_codecs(codec, error):
    with pytest.raises(InputError, match=re.escape(error)):
        encode(SMALL, {}, codec=codec)
    data = forge({"codec": codec, "config": {}, "layout": [["w", [1]]]}, b"")
    check_refused(data, re.escape(f"message: {error}"))


@pytest.mark.parametrize(
    "config", [{"a": float("nan")}, {"a": np.float32(1)}, {"a": {1, 2}}, {1: 0, "b": 1}, {"a": "\ud800"}]
)
def test_configs_that_are_not_json(config):
    with pytest.raises(InputError, match="config cannot be coded as JSON"):
        encode(SMALL, config, codec=UNIFORM11)


def test_config_must_be_a_dict_of_bounded_size():
    with pytest.raises(InputError, match="config is a list; expected a dict"):
        encode(SMALL, [], codec=UNIFORM11)
    with pytest.raises(
        InputError, match=r"the message header would have .* bytes of JSON; expected at most 16777216"
    ):
        encode(SMALL, {"a": "x" * (1 << 24)}, codec=UNIFORM11)


def test_too_many_equal_values():
    with pytest.raises(InputError, match=r"18000000 values in a message of .* nearly all are equal"):
        encode({"w": np.zeros(18_000_000, np.float32)}, {}, codec=UNIFORM11)


# Messages with a right checksum that no encoder wrote


HALF = np.float16(0.5).tobytes()
ONE_LEVEL = b"\x01" + HALF


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (
            forge(header_with([["w", [1 << 40]]]), ONE_LEVEL),
            "states 1099511627776 values in .* bytes; expected at most",
        ),
        (forge(header_with([["w", [1 << 20] * 32]]), ONE_LEVEL), "states .* values"),
        (
            forge({"codec": {"kind": "float16"}, "config": {}, "layout": [["w", [1 << 24]]]}, b""),
            "truncated message .needs 33554432 bytes",
        ),
        (
            forge(header_with([["w", [100_000]]], levels=65536), b"\xff\xff\x03"),
            "truncated message .needs 131070 bytes",
        ),
        (forge(header_with([["w", [3]]]), b"\x04" + 4 * HALF), "a codebook of 4 codewords; expected 1 to 3"),
        (
            forge(header_with([["w", [30]]]), b"\x0c" + 12 * HALF),
            "a codebook of 12 codewords; expected 1 to 11",
        ),
        (forge(header_with([["w", [3]]]), b"\x00"), "a codebook of 0 codewords; expected 1 to 3"),
        (forge(header_with([["w", [3]]]), b"\x81\x00" + HALF), "not a valid varint"),
        (forge(header_with([["w", [3]]]), b"\xff" * 20), "not a valid varint"),
        (
            forge(header_with([["w", [3]]]), b"\x01" + np.float16(np.nan).tobytes()),
            "a codeword is not finite",
        ),
        (
            forge(header_with([["w", [7]]]), b"\x02" + 2 * HALF + b"\xc0"),
            "a codeword's count of 7; expected at most 6",
        ),
        (
            forge(header_with([["w", [7]]]), b"\x02" + 2 * HALF + b"\x01"),
            "filling bits before byte .* are not zero",
        ),
        (
            forge(header_with([["w", [7]]]), b"\x02" + 2 * HALF + b"\x00abc"),
            "the coded symbols have 3 bytes; expected a multiple of 4",
        ),
        (
            forge(header_with([["w", [7]]]), b"\x02" + 2 * HALF + b"\x00"),
            "the decoded symbols do not have the stated counts",
        ),
        (
            forge(header_with([["w", [7]]]), b"\x02" + 2 * HALF + b"\x00" + b"\xff" * 8),
            "data that is invalid for the employed entropy model",
        ),
        (
            forge(header_with([["w", [3]]]), ONE_LEVEL + bytes(4)),
            "the coded symbols are not what their encoder writes",
        ),
        (forge(header_with([["w", []]]), b""), "truncated message"),
        (
            forge({"codec": {"kind": "float16"}, "config": {}, "layout": [["w", [1]]]}, 2 * HALF),
            "2 leftover bytes inside the message",
        ),
        (forge(b'{"codec":{},"codec":{},"config":{},"layout":0}', b""), "corrupt message header"),
        (
            forge(b'{"config":{},"codec":{"kind":"float16"},"layout":[["w",[1]]]}', b"\0\0"),
            "header .not in canonical form",
        ),
        (
            forge({"codec": {"kind": "levels"}, "config": {}, "layout": [["w", [1]]]}, ONE_LEVEL),
            "header .not in canonical form",
        ),
        (forge(b"\xff\xfe", b""), "corrupt message header"),
        (forge(b"[" * 1_000_000, b""), "corrupt message header"),
        (forge({"codec": UNIFORM11, "config": {}}, b""), "corrupt message header"),
        (forge({"codec": UNIFORM11, "config": [], "layout": 0}, b""), "corrupt message header"),
        (forge({"codec": UNIFORM11, "config": {}, "layout": 0}, b""), "names and shapes are not stored"),
        (frame(b"\x05hello"), "corrupt message header"),
        (frame(b"\xff\x7f"), "truncated message .needs 16383 bytes at byte 7; 0 remain"),
        (frame(b""), "truncated message"),
        *(
            (forge(header_with(layout), ONE_LEVEL), "names and shapes are not a list of .name, shape.")
            for layout in (
                [],
                {},
                "w",
                None,
                1.5,
                [1],
                ["w"],
                [["w", [0]]],
                [["w", [-1]]],
                [["w", [1.0]]],
                [["w", [True]]],
            )
        ),
        *(
            (forge(header_with(layout), ONE_LEVEL), "names and shapes are not a list of .name, shape.")
            for layout in (
                [["", [1]]],
                [[1, [1]]],
                [["w", {}]],
                [["w", "1"]],
                [["w", [1] * 33]],
                [["w", [1]], ["w", [1]]],
                [["w", [1], 2]],
            )
        ),
    ],
)
def test_malformed_messages_are_refused_without_allocating(data, error):
    check_refused_in_little_memory(data, f"^evil: .*{error}", name="evil")


def test_header_that_inflates_without_end():
    check_refused_in_little_memory(forge(b" " * (128 << 20), b""), "corrupt message header")


def test_words_after_the_coded_symbols():
    body = body_of(encode({"w": np.float32([1, 2, 3, 3] * 20)}, {}, codec=UNIFORM11))
    for extra in (bytes(4), b"abcd", bytes(400)):
        check_refused(frame(body + extra), "corrupt message")


BODIES = [
    body_of(encode(tensors, {"seed": 1}, codec=codec))
    for tensors in (SMALL, {"w": np.random.default_rng(0).normal(size=300).astype(np.float32)})
    for codec in (
        UNIFORM11,
        {**UNIFORM11, "method": "kmeans", "codebook": "shared", "levels": 4},
        {"kind": "float16"},
    )
]


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(BODIES),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4),
    st.data(),
)
def test_nothing_but_an_input_error_for_a_changed_body(body, changes, data):
    changed = bytearray(body)
    for position, value in changes:
        changed[position % len(changed)] = value
    start, stop = sorted(data.draw(st.tuples(st.integers(0, len(changed)), st.integers(0, len(changed)))))
    if data.draw(st.booleans()):
        del changed[start:stop]
    try:
        assert isinstance(decode(frame(bytes(changed))), Message)
    except InputError as error:
        assert "\n" not in str(error)


@settings(deadline=None)
@given(json_values, json_values, json_values, st.binary(max_size=20))
def test_nothing_but_an_input_error_for_any_header(codec, config, layout, content):
    headers = [
        codec,
        {"codec": codec, "config": config, "layout": layout},
        {"codec": UNIFORM11, "config": {}, "layout": layout},
        {"codec": {"kind": codec}, "config": {}, "layout": [["w", [3]]]},
    ]
    for header in headers:
        with pytest.raises(InputError):
            decode(forge(header, content))


# Codecs


def test_a_codec_is_one_object_and_one_registry_line(monkeypatch):
    class SignCodec:
        defaults = {"scale": 1.0}  # noqa: RUF012

        def check(self, options):
            assert options["scale"] > 0

        def write(self, writer, tensors, options):
            for values in tensors.values():
                for sign in (values < 0).tolist():
                    writer.bits(sign, 1)
                writer.align()

        def read(self, reader, layout, options):
            reader.section("signs")
            runs = []
            for _, shape in layout:
                signs = [1 - 2 * reader.bits(1) for _ in range(math.prod(shape))]
                reader.align()
                runs.append(np.float32(signs) * np.float32(options["scale"]))
            return runs

    monkeypatch.setitem(message.CODECS, "sign", SignCodec())
    decoded = decode(encode(SMALL, CONFIG, codec={"kind": "sign", "scale": 0.25}))
    assert decoded.tensors["a"].tolist() == [[0.25, -0.25, 0.25], [0.25, 0.25, 0.25]]
    assert decoded.tensors["b"].tolist() == [0.25, 0.25]
    assert decoded.section_bytes["signs"] == 2


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2**40 - 1), st.sampled_from([40, 41, 64]))), st.integers(0, 2**63 - 1)
)
def test_writer_and_reader_are_inverse(numbers, length):
    writer = Writer()
    writer.varint(length)
    for value, width in numbers:
        writer.bits(value, width)
    writer.align()
    writer.write(b"end")
    reader = Reader(memoryview(bytes(writer.data)), "bytes")
    reader.section("all")
    assert reader.varint() == length
    assert [reader.bits(width) for _, width in numbers] == [value for value, _ in numbers]
    reader.align()
    assert bytes(reader.rest()) == b"end"
    with pytest.raises(InputError, match="bytes: truncated message"):
        reader.take(1)
