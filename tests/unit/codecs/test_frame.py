"""The coded message: exact round trips, layouts, and refusal of everything that is not a whole message."""

import json
import math
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.messages import (
    CONFIG,
    LEVELS,
    SMALL,
    UNIFORM11,
    check_refused,
    codecs,
    forge,
    json_values,
    layout_of,
    tensor_dicts,
)

from tokenbounds.codecs import frame
from tokenbounds.codecs.base import Codec
from tokenbounds.codecs.frame import Message, decode, encode, message_bits
from tokenbounds.codecs.scalar import kmeans_levels, uniform_levels
from tokenbounds.errors import InputError
from tokenbounds.io.files import canonical_json

WRITTEN_BEFORE = json.loads((Path(__file__).parents[2] / "vectors/message_v2.json").read_text())
METHODS = {"uniform": uniform_levels, "kmeans": kmeans_levels}


# ---------------------------------------------------------------- round trips


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
    codebook = codec["codebook"] if len(tensors) > 1 else "tensor"
    assert decoded.codec == {"kind": "levels", "codebook": codebook}
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
        expected = tensor.astype(np.float16).astype(np.float32) + np.float32(0)  # no -0.0
        assert decoded[name].tobytes() == expected.tobytes()


@pytest.mark.parametrize("entry", WRITTEN_BEFORE["messages"], ids=lambda entry: entry["codec"]["kind"])
def test_messages_written_before_still_decode(entry):
    """Fails if the range coder's or NumPy's arithmetic ever decodes version 2 differently; then the version
    must change."""
    decoded = decode(bytes.fromhex(entry["hex"]))
    assert decoded.codec == entry["codec"]
    assert decoded.config == WRITTEN_BEFORE["config"]
    assert {name: tensor.tolist() for name, tensor in decoded.tensors.items()} == entry["tensors"]
    codec = {**decoded.codec, **({"method": "kmeans"} if decoded.codec["kind"] == "levels" else {})}
    assert encode(decoded.tensors, decoded.config, codec=codec).hex() == entry["hex"]


def test_a_message_holds_the_options_that_decoding_depends_on():
    assert decode(encode(SMALL, {}, codec={"kind": "levels"})).codec == LEVELS
    same = {"a": SMALL["a"]}
    written = [encode(same, {}, codec={**UNIFORM11, "levels": levels}) for levels in (11, 12)]
    assert written[0] == written[1]
    shared = {**UNIFORM11, "codebook": "shared"}
    assert decode(encode(SMALL, {}, codec=shared)).codec == {**LEVELS, "codebook": "shared"}
    assert encode(same, {}, codec=shared) == written[0]  # one tensor is one run


def test_float16_and_other_byte_orders_are_the_same_tensor():
    tensor = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float16)
    expected = encode({"w": tensor.astype(np.float32)}, {}, codec=UNIFORM11)
    for same in (tensor, tensor.astype(">f4"), np.asfortranarray(tensor)):
        assert encode({"w": same}, {}, codec=UNIFORM11) == expected


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


# ---------------------------------------------------------------- refusals


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


@pytest.mark.parametrize("extra", [b"\0", b"TBM\x02", bytes(1000)])
def test_leftover_bytes_after_the_message(extra):
    check_refused(DATA + extra, f"message: {len(extra)} leftover bytes after the message")


def test_other_formats_and_versions():
    check_refused(
        b"PK\x03\x04" + DATA[4:],
        r"^x\.zip: not a tokenbounds message \(starts with b'PK.x03'; expected b'TBM'\)",
        name="x.zip",
    )
    check_refused(b"TBM\x01" + DATA[4:], "message: message format version 1; expected 2")


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
    check_refused(stored, "names and shapes are stored that follow from its config", layout=layout)


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
        ({}, "codec kind is None; expected one of float16, levels"),
        ({"kind": "pickle"}, "codec kind is 'pickle'; expected one of float16, levels"),
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
    codec = {**LEVELS, **codec} if codec.get("kind") == "levels" else codec
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
        InputError, match=r"the message header would have .* bytes of JSON; expected at most 32768"
    ):
        encode(SMALL, {"a": "x" * (1 << 15)}, codec=UNIFORM11)


def test_too_many_equal_values():
    with pytest.raises(InputError, match=r"18000000 values in a message of .* nearly all are equal"):
        encode({"w": np.zeros(18_000_000, np.float32)}, {}, codec=UNIFORM11)


# ---------------------------------------------------------------- codecs


class SignCodec(Codec):
    """The sign of each value, times an option."""

    defaults = {"scale": 1.0}  # noqa: RUF012

    def check(self, options):
        assert options["scale"] > 0

    def write(self, writer, fields, options):
        for values in fields.values():
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


@pytest.fixture
def sign_codec(monkeypatch):
    """A codec of another module, registered by its name."""
    module = types.ModuleType("a_package_with_a_codec")
    module.SignCodec = SignCodec
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(frame.CODECS, "sign", f"{module.__name__}:SignCodec")
    yield
    frame.codec_of.cache_clear()


@pytest.mark.usefixtures("sign_codec")
def test_a_codec_is_one_class_and_one_registry_line():
    decoded = decode(encode(SMALL, CONFIG, codec={"kind": "sign", "scale": 0.25}))
    assert decoded.tensors["a"].tolist() == [[0.25, -0.25, 0.25], [0.25, 0.25, 0.25]]
    assert decoded.tensors["b"].tolist() == [0.25, 0.25]
    assert decoded.section_bytes["signs"] == 2


@pytest.mark.usefixtures("sign_codec")
def test_the_frame_refuses_what_a_codec_of_another_package_would_write_otherwise(monkeypatch):
    data = encode(SMALL, CONFIG, codec={"kind": "sign", "scale": 0.25})
    monkeypatch.setattr(SignCodec, "write", lambda self, writer, fields, options: writer.write(b"\0\0"))
    check_refused(data, "corrupt message .its content is not what its encoder writes")
