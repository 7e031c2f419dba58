"""Decoding of one quantized linear, against its formula and reference files; and tensors that are refused."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.quip_checkpoints import PARAMS, packed_linear
from support.quip_reference import plain_codes, plain_dequantize

from tokenbounds.errors import InputError
from tokenbounds.models.quip import linear
from tokenbounds.models.quip.linear import dequantize, unpack_e8p


def test_unpacking_against_single_bits():
    words = packed_linear(2, 48, 192, seed=1)["Qidxs"]
    assert np.array_equal(unpack_e8p(words), plain_codes(words.numpy()))


@pytest.mark.parametrize("slab", [1, 1 << 20])  # many slabs, the last one smaller, and one
@pytest.mark.parametrize(
    "bits, override, scale, fuse_sizes, scale_wh",
    [
        (2, -1, None, None, True),
        (3, -1, 2.04, (96, 48, 48), False),
        (4, -1, 3.45, None, False),
        (4, 1.5, 1.5, (96, 96), True),
    ],
)
def test_dequantize_is_the_formula(monkeypatch, bits, override, scale, fuse_sizes, scale_wh, slab):
    monkeypatch.setattr(linear, "_SLAB", slab)
    tensors = packed_linear(bits, 192, 320, fuse_sizes, scale_wh, seed=bits)
    params = {**PARAMS[bits], "resid_scale_override": override, "rescale_WH": scale_wh}
    got, expected = (
        dequantize(tensors, params, fuse_sizes),
        plain_dequantize(tensors, bits, scale, fuse_sizes),
    )
    assert got.dtype == torch.float32 and got.shape == (192, 320)
    # Two transforms in float32, sums of 20 to 500 terms: a few units in the last place of the largest
    # intermediate.
    np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def test_dequantize_agrees_with_the_reference(shared):
    folder = shared / "vectors/quip"
    files = {
        name: about
        for name, about in json.loads((folder / "README.json").read_text())["files"].items()
        if "fuse_sizes" in about
    }
    assert len(files) >= 30
    for name, about in files.items():
        stored = load_file(folder / name)
        expected = {
            key.removeprefix("expected."): stored.pop(key)
            for key in list(stored)
            if key.startswith("expected.")
        }
        inputs = about["in_features"]
        assert torch.equal(unpack_e8p(stored["Qidxs"][:, : inputs // 32]), expected["codes"]), name
        if about["quip_params"]["codebook"] == "E8P12RVQ4B":
            assert torch.equal(unpack_e8p(stored["Qidxs"][:, inputs // 32 :]), expected["resid_codes"]), name
        weight = dequantize(stored, about["quip_params"], about["fuse_sizes"]).double()
        rms = expected["W"].double().square().mean().sqrt()
        assert (weight - expected["W"]).abs().max() <= 5e-6 * rms, name  # the files' stated tolerance
        y = expected["x"].double() @ weight.T
        for key, rows in (("y_ref_batch", y), ("y_ref_single", y[:1])):
            assert (expected[key] - rows).norm() <= 1e-3 * rows.norm(), (name, key)


PARAMETER_FAULTS = [
    ({"codebook": "E8P12", "codebook_version": 0}, "codebook E8P12 version 0 is not known"),
    ({"codebook": "E8P12"}, "codebook E8P12 version None is not known"),
    ({"codebook": "D4", "codebook_version": 1}, "codebook D4 version 1 is not known"),
    ({"lora_rank": 32}, r"lora_rank: .*\(found 32\)"),
    ({"outlier_channel_split": True}, r"outlier_channel_split: .*\(found True\)"),
    ({"fused": False}, r"fused: .*\(found False\)"),
    ({"resid_scale_override": 0}, "resid_scale_override 0.0 is neither positive nor -1"),
    ({"resid_scale_override": math.nan}, "resid_scale_override: .*finite"),
    ({"permutation": "random"}, r"permutation: .*\(found 'random'\)"),
    ({"rescale_WH": True}, "tensor 'scaleWH' is missing"),
]


@pytest.mark.parametrize("fault, message", PARAMETER_FAULTS)
def test_parameters_that_need_another_decoder(fault, message):
    params = fault if "codebook" in fault else {**PARAMS[2], **fault}
    with pytest.raises(InputError, match=message) as caught:
        dequantize(packed_linear(2, 32, 64), params)
    assert "\n" not in str(caught.value)


def with_nan(tensor):
    tensor = tensor.clone()
    tensor.view(-1)[0] = math.nan
    return tensor


TENSOR_FAULTS = [
    ("SU", with_nan, "tensor 'SU' holds 1 values that are NaN"),
    ("SV", with_nan, "tensor 'SV' holds 1 values that are NaN"),
    ("Wscale", with_nan, "tensor 'Wscale' holds 1 values that are NaN"),
    ("SU", lambda tensor: tensor[:48], "input width 48 is not a multiple of 64"),
    ("SV", lambda tensor: tensor[:24], "output width 24 is not a multiple of 16"),
    ("SV", lambda tensor: tensor.repeat(7)[: 112 * 3], "output width 336 has no Hadamard matrix"),
    ("SU", lambda tensor: tensor[None], r"tensor 'SU' has shape \[1, 64\], expected one dimension"),
    ("SU", lambda tensor: None, "tensor 'SU' has shape none"),
    ("Wscale", lambda tensor: None, "tensor 'Wscale' is missing"),
    ("SU", lambda tensor: tensor.float(), "tensor 'SU' is torch.float32 of shape"),
    ("Qidxs", lambda tensor: tensor.int(), "tensor 'Qidxs' is torch.int32 of shape"),
    (
        "Qidxs",
        lambda tensor: tensor[:, :1],
        r"tensor 'Qidxs' is I64 of shape \[64, 1\], expected I64 of shape \[64, 2\]",
    ),
    ("codebook_id", lambda tensor: torch.tensor(17), "codebook_id 17, expected 7 for E8P12"),
    ("bias", lambda tensor: torch.zeros(64), "tensor 'bias' is not one of the model's"),
]


@pytest.mark.parametrize("name, change, message", TENSOR_FAULTS)
def test_tensors_that_do_not_fit(name, change, message):
    tensors = packed_linear(2, 64, 64)
    tensors[name] = change(tensors.get(name))
    with pytest.raises(InputError, match=message) as caught:
        dequantize(
            {key: tensor for key, tensor in tensors.items() if tensor is not None},
            PARAMS[2],
            where="layers.3.o_proj",
        )
    assert str(caught.value).startswith("layers.3.o_proj: ") and "\n" not in str(caught.value)


def test_fused_blocks_that_do_not_fit():
    with pytest.raises(InputError, match=r"fuse_sizes \[32, 16\] add up to 48, expected the 64 rows"):
        dequantize(packed_linear(2, 64, 64, (32, 32)), PARAMS[2], (32, 16))
    with pytest.raises(InputError, match="tensor 'fuse_scales' is missing"):
        dequantize(packed_linear(2, 64, 64), PARAMS[2], (32, 32))
    with pytest.raises(InputError, match="tensor 'fuse_scales' is not one of"):
        dequantize(packed_linear(2, 64, 64, (32, 32)), PARAMS[2])
    tensors = packed_linear(2, 64, 64, scale_wh=True)
    tensors["scaleWH"][3] = 0
    with pytest.raises(InputError, match="tensor 'scaleWH' holds a zero"):
        dequantize(tensors, {**PARAMS[2], "rescale_WH": True})
