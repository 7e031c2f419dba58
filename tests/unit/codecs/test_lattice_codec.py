"""Codec ``lattice``: messages decode bit for bit, have the size of the codes' entropy, and are refused when
damaged."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from support.lattice import BITS, correlated_hessian, gaussian, random_result

from tokenbounds.codecs.base import Float16Codec
from tokenbounds.codecs.bits import Reader, Writer
from tokenbounds.codecs.e8p_rounding import nearest_e8p
from tokenbounds.codecs.lattice import Quantized, quantize_linear, reconstruct
from tokenbounds.codecs.lattice_codec import LatticeCodec
from tokenbounds.codecs.levels import LevelsCodec
from tokenbounds.errors import InputError

CODEC = LatticeCodec(LevelsCodec())


def written(tensors, options, codec=CODEC):
    writer = Writer()
    codec.write(writer, codec.quantize(tensors, options), options)
    return bytes(writer.data)


def read(data, layout, options, codec=CODEC):
    """Values of a body that must be what its fields are written as."""
    reader, again = Reader(memoryview(data), "m.bin"), Writer()
    fields = codec.read(reader, layout, options)
    assert reader.position == reader.end and sum(reader.sections.values()) == len(data)
    codec.write(again, dict(zip([name for name, _ in layout], fields, strict=True)), options)
    if again.data != data:
        raise InputError("m.bin: not canonical")
    return [codec.values(field) for field in fields]


def mixed_tensors(bits, seed=0):
    """Two lattice tensors around dense ones, of which one has a Hadamard matrix all the same."""
    first = quantize_linear(
        gaussian(32, 64), correlated_hessian(64), bits, seed=seed, name="first", tuning_rounds=1
    )
    last = quantize_linear(
        gaussian(24, 32, seed=2), np.eye(32), bits, seed=seed, name="last", tuning_rounds=1
    )
    dense = {"gain": np.float32([1, 2, 1, 2, 1]), "table": np.repeat(np.float32([0.5, 0.25]), 64)}
    tensors = {"first": first, **dense, "last": last}
    return tensors, [["first", [32, 64]], ["gain", [5]], ["table", [16, 8]], ["last", [24, 32]]]


@pytest.mark.parametrize("others", [LevelsCodec(), Float16Codec()])
@pytest.mark.parametrize("bits", BITS)
def test_message_decodes_bit_for_bit(bits, others):
    codec = LatticeCodec(others)
    options = {**codec.defaults, "bits": bits, "seed": 7}
    codec.check(options)
    tensors, layout = mixed_tensors(bits, seed=7)
    data = written(tensors, options, codec)
    assert data == written(tensors, options, codec)
    decoded = read(data, layout, options, codec)
    for (name, _), values in zip(layout, decoded, strict=True):
        expected = (
            reconstruct(tensors[name]).ravel() if isinstance(tensors[name], Quantized) else tensors[name]
        )
        assert values.dtype == np.float32 and np.array_equal(values, expected)


def test_message_of_lattice_tensors_only():
    tensors, _ = mixed_tensors(2)
    options = {**CODEC.defaults, "codebook": "shared"}
    data = written({"first": tensors["first"]}, options)
    assert np.array_equal(
        read(data, [["first", [32, 64]]], options)[0], reconstruct(tensors["first"]).ravel()
    )


def test_message_holds_every_code():
    """Uniform codes reach points of all lengths, also the only E81B point of length 0."""
    options = {**CODEC.defaults, "bits": 3}
    codes = (
        np.arange(65536).astype(np.uint16).reshape(64, 1024),
        np.arange(65536).astype(np.uint8).reshape(64, 1024),
    )
    result = dataclasses.replace(random_result(64, 8192, 3), codes=codes)
    assert np.array_equal(
        read(written({"w": result}, options), [["w", [64, 8192]]], options)[0], reconstruct(result).ravel()
    )


def test_gaussian_weights_cost_less_than_their_raw_bits():
    """Bits per code against the entropy of all 65,536 codes over 2^20 of a Gaussian (the plug-in estimate and
    its first-order bias).

    The estimate is 14.93 at the root mean square of 0.9. Coding by length cannot be below it but for the
    sample, and comes within 0.02."""
    x = torch.from_numpy(0.9 * gaussian(1 << 17, 8, seed=8)).float()
    result = Quantized(
        2, 0, "w", (nearest_e8p(x).numpy().astype(np.uint16).reshape(1024, 128),), np.float32([1]), (1024,)
    )
    bits_per_code = 8 * len(written({"w": result}, CODEC.defaults)) / (1 << 17)
    assert 14.91 < bits_per_code < 14.95


@pytest.mark.parametrize(
    "change,message",
    [
        ({"bits": 3}, "tensor 'w' was quantized with .*; expected .*'bits': 2"),
        ({"seed": 4}, "tensor 'w' was quantized with .*'seed': 4"),
        ({"name": "v"}, "tensor 'w' was quantized with .*'name': 'v'"),
        ({"sizes": (8, 8)}, "tensor 'w' was quantized with .*'blocks': 2"),
    ],
)
def test_write_refuses_what_would_decode_otherwise(change, message):
    with pytest.raises(InputError, match=message):
        written({"w": dataclasses.replace(random_result(16, 64, 2), **change)}, CODEC.defaults)


def test_write_needs_a_lattice_tensor():
    with pytest.raises(InputError, match="no tensor is on the lattice"):
        written({"w": np.ones(3, np.float32)}, CODEC.defaults)


@pytest.mark.parametrize(
    "change,message",
    [({"bits": 1}, "bits is 1"), ({"seed": 0.5}, "seed is 0.5"), ({"levels": 1}, "levels is 1")],
)
def test_options(change, message):
    with pytest.raises(InputError, match=message):
        CODEC.check({**CODEC.defaults, **change})


def test_corrupt_messages():
    """Every cut and any changed byte ends in one error, or in other values: a changed scale or level is
    another message."""
    tensors, layout = mixed_tensors(3)
    options = {**CODEC.defaults, "bits": 3}
    data = written(tensors, options)
    model = [value.tobytes() for value in read(data, layout, options)]
    for end in range(0, len(data), 7):
        with pytest.raises(InputError, match=r"^m\.bin: "):
            read(data[:end], layout, options)
    refused = 0
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x41
        try:
            values = read(bytes(changed), layout, options)
        except InputError:
            refused += 1
        else:
            assert [value.size for value in values] == [math.prod(shape) for _, shape in layout]
            assert [value.tobytes() for value in values] != model
    assert refused > 0.1 * len(data)


def test_corrupt_fields():
    result = random_result(16, 64, 2)
    data, layout = written({"w": result}, CODEC.defaults), [["w", [16, 64]]]
    for changed, message in (
        (b"\x00" + data[1:], "no tensor is on the lattice"),
        (b"\xff" + data[1:], "filling bits"),
        (
            data[:1] + np.float32(-1).astype("<f4").tobytes() + data[5:],
            "scale is not a number from .* to 65504",
        ),
        (
            data[:1] + np.float32("nan").astype("<f4").tobytes() + data[5:],
            "scale is not a number from .* to 65504",
        ),
        (data[:5] + b"\xff\x7f" + data[6:], "points in shells; expected at most 128"),
    ):
        with pytest.raises(InputError, match=message):
            read(changed, layout, CODEC.defaults)
    for shape, message in (([16, 63], "not a multiple of 8"), ([1024], "has 1 dimensions")):
        with pytest.raises(InputError, match=message):
            read(data, [["w", shape]], CODEC.defaults)


def test_counts_and_words_that_no_encoder_writes():
    """A message that decodes, but not to the counts and points that it states: counts of the shells
    exchanged; words after the last that a decoder reads."""
    result, layout = random_result(16, 64, 2), [["w", [16, 64]]]
    data = written({"w": result}, CODEC.defaults)
    reader = Reader(memoryview(data), "m.bin")
    reader.section("all")
    head = bytes(reader.take(5))
    counts = [reader.varint() for _ in range(16)]
    words = np.frombuffer(reader.take(4 * reader.varint()), "<u4")

    def message(counts, words):
        writer = Writer()
        writer.write(head)
        for value in (*counts, len(words)):
            writer.varint(value)
        writer.write(words.astype("<u4").tobytes())
        return bytes(writer.data)

    assert message(counts, words) == data
    exchanged = [*counts[:-2], counts[-1], counts[-2]]
    assert exchanged != counts
    with pytest.raises(InputError, match="not canonical"):
        read(message(exchanged, words), layout, CODEC.defaults)
    with pytest.raises(InputError, match="not canonical"):
        read(message(counts, np.append(words, np.uint32(0))), layout, CODEC.defaults)


def test_zeros_are_no_points():
    """With a scale of 0 the points and the signs would not matter: a message could hold anything in them."""
    zero = dataclasses.replace(random_result(16, 64, 2), scales=np.float32([0]), name="zero")
    tensors = {"w": random_result(16, 64, 2), "zero": zero}
    fields = CODEC.quantize(tensors, CODEC.defaults)
    assert not isinstance(fields["zero"], Quantized) and not CODEC.values(fields["zero"]).any()
    layout = [["w", [16, 64]], ["zero", [16, 64]]]
    assert not read(written(tensors, CODEC.defaults), layout, CODEC.defaults)[1].any()
    for scale in (0.0, 1e-30):
        changed = dataclasses.replace(random_result(16, 64, 2), scales=np.float32([scale]))
        writer = Writer()
        CODEC.write(writer, {"w": changed}, CODEC.defaults)
        with pytest.raises(InputError, match="scale is not a number from"):
            read(bytes(writer.data), layout[:1], CODEC.defaults)


def test_a_message_states_what_decoding_depends_on():
    options = {**CODEC.defaults, "kind": "lattice", "codebook": "shared"}
    fields = CODEC.quantize(mixed_tensors(2)[0], options)
    assert CODEC.stated(options, fields) == {"kind": "lattice", "bits": 2, "seed": 0, "codebook": "shared"}
    alone = {"first": fields["first"], "gain": fields["gain"]}
    assert CODEC.stated(options, alone)["codebook"] == "tensor"
