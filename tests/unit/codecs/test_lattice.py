"""Lattice quantization: nearest points against a full search, the rounding against the reference's, decoding
against integer arithmetic."""

import dataclasses
import math
import zlib

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import load_file

from tokenbounds.codecs.base import Float16Codec
from tokenbounds.codecs.bits import Reader, Writer
from tokenbounds.codecs.calibration import hessians
from tokenbounds.codecs.e8p_rounding import nearest_e8p
from tokenbounds.codecs.lattice import Quantized, check_shape, quantize_linear, quantize_model, reconstruct
from tokenbounds.codecs.lattice_codec import LatticeCodec
from tokenbounds.codecs.levels import LevelsCodec
from tokenbounds.errors import InputError
from tokenbounds.models.quip.codebooks import e8p_table, e81b_table
from tokenbounds.models.quip.hadamard import hadamard, hadamard_order
from tokenbounds.models.quip.linear import dequantize, unpack_e8p

BITS = (2, 3, 4)
CODEBOOKS = {2: ("E8P12", 1), 3: ("E8P12RVQ3B", 0), 4: ("E8P12RVQ4B", 1)}


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def correlated_hessian(n, seed=1):
    x = gaussian(2 * n, n, seed=seed) @ gaussian(n, n, seed=seed + 1)
    return x.T @ x / len(x)


def proxy(weight, hessian, approximation):
    """tr((W - W^) H (W - W^)^T) / tr(W H W^T)."""
    weight, hessian, approximation = (
        np.asarray(part, np.float64) for part in (weight, hessian, approximation)
    )
    error = weight - approximation
    return np.sum(error @ hessian * error) / np.sum(weight @ hessian * weight)


def random_result(m, n, bits, seed=0, name="w", scale=0.7):
    rng = np.random.default_rng(seed)
    second = {2: (), 3: ((256, np.uint8),), 4: ((65536, np.uint16),)}[bits]
    codes = tuple(
        rng.integers(0, size, (m, n // 8)).astype(kind) for size, kind in ((65536, np.uint16), *second)
    )
    return Quantized(bits, seed, name, codes, np.array([scale], np.float32), (m,))


# ---------------------------------------------------------------- nearest points


def test_a_codebook_point_is_its_own_nearest():
    assert torch.equal(nearest_e8p(torch.tensor(e8p_table())), torch.arange(65536, dtype=torch.int32))


@pytest.mark.parametrize("spread", [0.3, 0.9, 1.5, 4.0])
def test_nearest_point_is_that_of_a_full_search(spread):
    """Also where vectors lie outside the codebook (4.0), or in reach of the rows of norm 12 (1.5)."""
    x = torch.from_numpy(spread * gaussian(250, 8, seed=3))
    table = torch.tensor(e8p_table()).double()
    found = (x - table[nearest_e8p(x).long()]).square().sum(1)
    best = torch.stack([(table - vector).square().sum(1).min() for vector in x])
    assert torch.equal(found, best)


# ---------------------------------------------------------------- rounding


@pytest.fixture(scope="module")
def reference(shared):
    return load_file(shared / "vectors/quip/quantizer_112x256.safetensors")


def reference_case(reference, bits, rounds):
    """Weight and Hessian with signs such that ours and the reference's cancel, and the reference's result
    with the same signs."""
    codebook, version = CODEBOOKS[bits]
    packed = {
        name: reference[f"{codebook}.tune{rounds}.{name}"]
        for name in ("Qidxs", "SU", "SV", "Wscale", "codebook_id")
    }
    ours = random_result(112, 256, bits, seed=0, name="weight")
    columns, rows = packed["SU"].sign().numpy() * ours.SU, packed["SV"].sign().numpy() * ours.SV

    def turned(weight):
        return rows[:, None] * weight.double().numpy() * columns

    hessian = columns[:, None] * reference["H"].double().numpy() * columns
    dense = dequantize(packed, {"codebook": codebook, "codebook_version": version})
    return turned(reference["W"]), hessian, turned(dense), packed


@pytest.mark.parametrize("bits", BITS)
def test_rounding_is_the_reference_s(reference, bits):
    """The same signs, weight and Hessian: equal codes. 1 in 400 may differ, where another order of summation
    decides a near tie."""
    weight, hessian, dense, packed = reference_case(reference, bits, 0)
    result = quantize_linear(weight, hessian, bits, seed=0, tuning_rounds=0, damping=0.0)
    assert np.mean(result.codes[0] != unpack_e8p(packed["Qidxs"][:, :8]).numpy()) <= 1 / 400
    # float16 rounds the reference's scale by up to 2^-11
    assert result.scales[0] == pytest.approx(float(packed["SV"][0].abs()), rel=2**-11)
    assert proxy(weight, hessian, reconstruct(result)) <= proxy(weight, hessian, dense)


@pytest.mark.parametrize("bits", BITS)
def test_error_is_at_most_the_reference_s(reference, bits):
    weight, hessian, dense, _ = reference_case(reference, bits, 10)
    result = quantize_linear(weight, hessian, bits, seed=0, damping=0.0)
    assert proxy(weight, hessian, reconstruct(result)) <= proxy(weight, hessian, dense)
    # and with signs of our own
    weight, hessian = reference["W"], reference["H"]
    best = min(proxy(weight, hessian, dense) for dense in reference_weights(reference, bits))
    assert (
        proxy(weight, hessian, reconstruct(quantize_linear(weight, hessian, bits, seed=1, damping=0.0)))
        <= best
    )


def reference_weights(reference, bits):
    codebook, version = CODEBOOKS[bits]
    for rounds in (0, 10):
        packed = {
            name: reference[f"{codebook}.tune{rounds}.{name}"]
            for name in ("Qidxs", "SU", "SV", "Wscale", "codebook_id")
        }
        yield dequantize(packed, {"codebook": codebook, "codebook_version": version})


@pytest.mark.parametrize("bits", BITS)
def test_tuning_never_adds_error(bits):
    weight, hessian = gaussian(24, 160), correlated_hessian(160)
    errors = [
        proxy(
            weight,
            hessian,
            reconstruct(quantize_linear(weight, hessian, bits, seed=5, tuning_rounds=rounds, damping=0.0)),
        )
        for rounds in (0, 1, 2, 5)
    ]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0]


@pytest.mark.parametrize("m,n", [(1, 8), (20, 24), (64, 104), (12, 344), (56, 144)])
def test_error_has_the_size_that_the_bits_say(m, n):
    """Gaussian weights, white inputs: 0.099, 0.030 and 0.010 of the variance in the reference's run, more
    where few weights scatter.

    A wrong transform, sign or scale gives about 1 or more.
    """
    weight = gaussian(m, n, seed=m)
    errors = [
        proxy(
            weight, np.eye(n), reconstruct(quantize_linear(weight, np.eye(n), bits, seed=9, tuning_rounds=0))
        )
        for bits in BITS
    ]
    assert errors[0] < 0.16 and errors[1] < 0.05 and errors[2] < 0.02


def test_feedback_crosses_groups_of_columns():
    """A nearly singular Hessian over 320 columns (more than two groups of 128): errors are pushed where they
    cost nothing."""
    n = 320
    x = gaussian(n // 2, n, seed=4)
    weight, hessian = gaussian(16, n), x.T @ x / len(x)
    with_feedback = proxy(
        weight, hessian, reconstruct(quantize_linear(weight, hessian, 2, seed=0, tuning_rounds=0))
    )
    without = proxy(
        weight, hessian, reconstruct(quantize_linear(weight, np.eye(n), 2, seed=0, tuning_rounds=0))
    )
    assert with_feedback < 0.5 * without


def test_fused_blocks_have_their_own_scales():
    weight, hessian = gaussian(64, 64), correlated_hessian(64)
    parts = [weight[:32], 100 * weight[32:48], 0.01 * weight[48:]]
    result = quantize_linear(parts, hessian, 2, seed=0)
    assert result.sizes == (32, 16, 16) and result.shape == (64, 64)
    rms = [np.sqrt(np.mean(part**2)) for part in parts]
    np.testing.assert_allclose(result.scales, np.array(rms) / 0.9, rtol=1e-6)
    for part, found in zip(parts, np.split(reconstruct(result), [32, 48]), strict=True):
        assert proxy(part, hessian, found) < 0.1


def test_zeros_stay_zeros():
    result = quantize_linear([np.zeros((16, 64)), gaussian(16, 64)], np.eye(64), 2, seed=0)
    assert not reconstruct(result)[:16].any() and reconstruct(result)[16:].any(axis=1).all()


def test_same_arguments_same_result_and_names_draw_other_signs():
    weight, hessian = gaussian(32, 64), correlated_hessian(64)
    state = {"a": weight, "b": torch.from_numpy(weight)}
    first = quantize_model(state, {"a": hessian, "b": hessian}, 2, seed=3, tuning_rounds=1)
    again = quantize_model(state, {"a": hessian, "b": hessian}, 2, seed=3, tuning_rounds=1)
    for name, result in first.items():
        assert result.name == name and np.array_equal(result.codes[0], again[name].codes[0])
    assert not np.array_equal(first["a"].SU, first["b"].SU)
    assert set(first["a"].SU) == set(first["a"].SV) == {-1, 1}


@pytest.mark.parametrize(
    "change,message",
    [
        ({"bits": 5}, "bits is 5; expected one of 2, 3, 4"),
        ({"bits": True}, "bits is True"),
        ({"bits": 2.0}, "bits is 2.0"),
        ({"seed": -1}, "seed is -1; expected an integer from 0 to 4294967295"),
        ({"scale": 0.0}, "scale is 0.0; expected a positive number"),
        ({"damping": math.nan}, "damping is nan"),
        ({"blocks": gaussian(16, 63)}, "tensor 'w': input width 63 is not a multiple of 8"),
        ({"blocks": gaussian(7, 64)}, r"tensor 'w': output width 7 has no Hadamard matrix"),
        ({"blocks": gaussian(16, 88)}, r"tensor 'w': input width 88 has no Hadamard matrix"),
        ({"blocks": gaussian(16)}, "expected matrices of one width"),
        ({"blocks": [gaussian(16, 64), gaussian(16, 32)]}, "expected matrices of one width"),
        ({"hessian": np.eye(32)}, r"tensor 'w': the Hessian has shape \[32, 32\]; expected \[64, 64\]"),
        ({"hessian": np.full((64, 64), np.nan)}, "holds a NaN"),
        ({"blocks": np.full((16, 64), np.inf)}, "holds a NaN or an infinity"),
        ({"blocks": np.full((16, 64), 1e6)}, "root mean square of 1e\\+06; expected at most 58953.6"),
        ({"hessian": np.zeros((64, 64))}, "expected a positive number"),
        ({"hessian": np.ones((64, 64)), "damping": 0.0}, "not positive definite with a damping of 0.0"),
    ],
)
def test_bad_input(change, message):
    arguments = {
        "blocks": gaussian(16, 64),
        "hessian": np.eye(64),
        "bits": 2,
        "seed": 0,
        "name": "w",
        **change,
    }
    with pytest.raises(InputError, match=message):
        quantize_linear(**arguments)


def test_check_shape():
    for shape in ((64, 512), (8192, 64), (3 * 64, 64), (2048, 512), (1, 8), (2, 24)):
        check_shape(shape)
    with pytest.raises(InputError, match=r"^head: shape \[8\] has 1 dimensions; expected 2"):
        check_shape((8,), "head")
    with pytest.raises(InputError, match=r"^head: output width 50257 has no"):
        check_shape((50257, 64), "head")


def test_missing_hessian():
    with pytest.raises(InputError, match="tensor 'b' has no Hessian"):
        quantize_model({"a": gaussian(16, 64), "b": gaussian(16, 64)}, {"a": np.eye(64)}, 2, seed=0)


# ---------------------------------------------------------------- calibration


def small_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Embedding(50, 16), torch.nn.Linear(16, 24), torch.nn.GELU(), torch.nn.Linear(24, 8)
    )


def test_hessians_are_second_moments_of_the_inputs():
    model, ids = small_model(), torch.arange(60).reshape(4, 15) % 50
    found = hessians(model, ids.split([1, 3]))
    first = model[0](ids).detach().flatten(0, 1).double()
    second = model[2](model[1](model[0](ids))).detach().flatten(0, 1).double()
    assert list(found) == ["1.weight", "3.weight"]
    for name, x in (("1.weight", first), ("3.weight", second)):
        assert found[name].dtype == torch.float64
        torch.testing.assert_close(
            found[name], x.T @ x / 60, rtol=1e-6, atol=1e-9
        )  # the model computes in float32
    assert not model[1]._forward_pre_hooks


def test_hessians_of_part_of_a_model():
    model, ids = small_model(), torch.arange(10)[None]
    with pytest.raises(InputError, match=r"tensor '3\.weight': no calibration batch reached its layer"):
        hessians(model, [ids], forward=lambda batch: model[1](model[0](batch)))
    with pytest.raises(InputError, match="no calibration batch"):
        hessians(model, [])
    with pytest.raises(InputError, match=r"no torch\.nn\.Linear"):
        hessians(model[0], [ids])
    model[0].weight.data[3] = math.nan
    with pytest.raises(
        InputError, match=r"tensor '1\.weight': its layer's calibration inputs are not finite"
    ):
        hessians(model, [ids])


def test_calibration_lowers_the_error_of_the_output():
    """What Hessians are for: the layer's output, on inputs of a few directions, is nearer than without
    them."""
    layer = torch.nn.Linear(64, 32, bias=False)
    layer.weight.data = torch.from_numpy(gaussian(32, 64)).float()
    x = torch.from_numpy(gaussian(500, 12) @ gaussian(12, 64, seed=2)).float()
    found = hessians(layer, [x])
    assert list(found) == ["weight"]

    def output_error(hessian):
        approximation = torch.from_numpy(
            reconstruct(quantize_linear(layer.weight.detach(), hessian, 2, seed=0))
        )
        return (x @ (layer.weight.detach() - approximation).T).square().mean()

    assert output_error(found["weight"]) < 0.2 * output_error(torch.eye(64))


# ---------------------------------------------------------------- decoding


def integer_hadamard(n):
    order = hadamard_order(n)
    matrix = hadamard(order).astype(np.int64) if order > 1 else np.ones((1, 1), np.int64)
    return np.kron(matrix, scipy.linalg.hadamard(n // order, dtype=np.int64))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("m,n", [(16, 64), (20, 24), (104, 40), (2, 344), (48, 1024)])
def test_reconstruction_is_integer_arithmetic(m, n, bits):
    """Equal to the last bit: everything before the final factor in int64, where no order of summation
    matters."""
    result = random_result(m, n, bits, seed=m)
    table4, table2 = np.rint(4 * e8p_table()).astype(np.int64), np.rint(2 * e81b_table()).astype(np.int64)
    denominator = {2: 4, 3: 204, 4: 276}[bits]  # 3.45 = 69 / 20, 2.04 = 51 / 25
    points = {
        2: lambda one: table4[one],
        3: lambda one, two: 51 * table4[one] + 50 * table2[two],
        4: lambda one, two: 69 * table4[one] + 20 * table4[two],
    }[bits](*result.codes).reshape(m, n)
    sums = integer_hadamard(m) @ points @ integer_hadamard(n).T
    factor = float(result.scales[0]) / (denominator * math.sqrt(m * n))
    expected = (sums * factor * result.SV.astype(int)[:, None] * result.SU.astype(int)).astype(np.float32)
    found = reconstruct(result)
    assert found.dtype == np.float32 and found.shape == (m, n)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("bits", BITS)
def test_reconstruction_is_the_reference_decoder_s(reference, bits):
    """The reference's codes with our signs, against its own weight turned by both signs; the tolerance is
    that of the reference files."""
    _, _, dense, packed = reference_case(reference, bits, 10)
    codes = [unpack_e8p(packed["Qidxs"][:, :8]).numpy().astype(np.uint16)]
    if bits == 3:
        codes.append(packed["Qidxs"][:, 8:].contiguous().view(torch.uint8).numpy())
    if bits == 4:
        codes.append(unpack_e8p(packed["Qidxs"][:, 8:]).numpy().astype(np.uint16))
    scale = np.abs(packed["SV"][:1].float().numpy())
    found = reconstruct(Quantized(bits, 0, "weight", tuple(codes), scale, (112,)))
    assert np.abs(found - dense).max() <= 5e-6 * np.sqrt(np.mean(dense**2))


def test_decoded_weights_are_pinned():
    """What a message stands for never changes: signs and weights of a fixed result, as checksums of their
    bytes."""
    result = random_result(24, 64, 4)
    codes = tuple(
        (np.arange(24 * 8).reshape(24, 8) * factor % 65536).astype(np.uint16) for factor in (331, 1009)
    )
    found = reconstruct(dataclasses.replace(result, codes=codes))
    assert zlib.crc32(result.SU.astype("<f2").tobytes() + result.SV.astype("<f2").tobytes()) == SIGNS_CRC
    assert zlib.crc32(found.astype("<f4").tobytes()) == WEIGHTS_CRC


SIGNS_CRC, WEIGHTS_CRC = 3857051934, 3481521622


# ---------------------------------------------------------------- message


CODEC = LatticeCodec(LevelsCodec())


def written(tensors, options, codec=CODEC):
    writer = Writer()
    codec.write(writer, tensors, options)
    return bytes(writer.data)


def read(data, layout, options, codec=CODEC):
    reader = Reader(memoryview(data), "m.bin")
    values = codec.read(reader, layout, options)
    assert reader.position == reader.end and sum(reader.sections.values()) == len(data)
    return values


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
    found = read(data, layout, options, codec)
    for (name, _), values in zip(layout, found, strict=True):
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
    """Every cut and any changed byte ends in one error, or in values of the right shapes (a changed scale or
    level is another message)."""
    tensors, layout = mixed_tensors(3)
    options = {**CODEC.defaults, "bits": 3}
    data = written(tensors, options)
    for end in range(0, len(data), 7):
        with pytest.raises(InputError, match=r"^m\.bin: "):
            read(data[:end], layout, options)
    refused = 0
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x41
        try:
            values = read(bytes(changed), layout, options)
        except InputError as error:
            assert str(error).startswith("m.bin: ")
            refused += 1
        else:
            assert [value.size for value in values] == [math.prod(shape) for _, shape in layout]
    assert refused > 0.1 * len(data)


def test_corrupt_fields():
    result = random_result(16, 64, 2)
    data, layout = written({"w": result}, CODEC.defaults), [["w", [16, 64]]]
    for changed, message in (
        (b"\x00" + data[1:], "no tensor is on the lattice"),
        (b"\xff" + data[1:], "filling bits"),
        (
            data[:1] + np.float32(-1).astype("<f4").tobytes() + data[5:],
            "scale is not a number from 0 to 65504",
        ),
        (
            data[:1] + np.float32("nan").astype("<f4").tobytes() + data[5:],
            "scale is not a number from 0 to 65504",
        ),
        (data[:5] + b"\xff\x7f" + data[6:], "points in shells; expected at most 128"),
    ):
        with pytest.raises(InputError, match=message):
            read(changed, layout, CODEC.defaults)
    for shape, message in (([16, 63], "not a multiple of 8"), ([1024], "has 1 dimensions")):
        with pytest.raises(InputError, match=message):
            read(data, [["w", shape]], CODEC.defaults)


def test_counts_and_words_that_no_encoder_writes():
    """What decodes, but not to what the message states: counts of the shells exchanged; words after the last
    that a decoder reads."""
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
    with pytest.raises(InputError, match="the decoded points do not have the stated counts"):
        read(message(exchanged, words), layout, CODEC.defaults)
    with pytest.raises(InputError, match="the coded points are not what their encoder writes"):
        read(message(counts, np.append(words, np.uint32(0))), layout, CODEC.defaults)
