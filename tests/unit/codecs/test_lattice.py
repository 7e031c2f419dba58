"""Lattice quantization: the rounding against the reference's, decoding against integer arithmetic."""

import dataclasses
import math
import zlib

import numpy as np
import pytest
import scipy.linalg
import torch
from safetensors.torch import load_file
from support.lattice import BITS, correlated_hessian, gaussian, random_result

from tokenbounds.codecs.lattice import Quantized, check_shape, quantize_linear, quantize_model, reconstruct
from tokenbounds.errors import InputError
from tokenbounds.models.quip.codebooks import e8p_table, e81b_table
from tokenbounds.models.quip.hadamard import hadamard, hadamard_order
from tokenbounds.models.quip.linear import dequantize, unpack_e8p

CODEBOOKS = {2: ("E8P12", 1), 3: ("E8P12RVQ3B", 0), 4: ("E8P12RVQ4B", 1)}


def proxy(weight, hessian, approximation):
    """tr((W - W^) H (W - W^)^T) / tr(W H W^T)."""
    weight, hessian, approximation = (
        np.asarray(part, np.float64) for part in (weight, hessian, approximation)
    )
    error = weight - approximation
    return np.sum(error @ hessian * error) / np.sum(weight @ hessian * weight)


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
    for part, decoded in zip(parts, np.split(reconstruct(result), [32, 48]), strict=True):
        assert proxy(part, hessian, decoded) < 0.1


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
    decoded = reconstruct(result)
    assert decoded.dtype == np.float32 and decoded.shape == (m, n)
    assert np.array_equal(decoded, expected)


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
    decoded = reconstruct(Quantized(bits, 0, "weight", tuple(codes), scale, (112,)))
    assert np.abs(decoded - dense).max() <= 5e-6 * np.sqrt(np.mean(dense**2))


def test_decoded_weights_are_pinned():
    """The meaning of a message never changes: signs and weights of a fixed result, as checksums of their
    bytes."""
    result = random_result(24, 64, 4)
    codes = tuple(
        (np.arange(24 * 8).reshape(24, 8) * factor % 65536).astype(np.uint16) for factor in (331, 1009)
    )
    decoded = reconstruct(dataclasses.replace(result, codes=codes))
    assert zlib.crc32(result.SU.astype("<f2").tobytes() + result.SV.astype("<f2").tobytes()) == SIGNS_CRC
    assert zlib.crc32(decoded.astype("<f4").tobytes()) == WEIGHTS_CRC


SIGNS_CRC, WEIGHTS_CRC = 3857051934, 3481521622
