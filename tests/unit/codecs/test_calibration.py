"""Calibration: Hessians are the second moments of the layers' inputs, and lower the error of the outputs."""

import math

import pytest
import torch
from support.lattice import gaussian

from tokenbounds.codecs.calibration import hessians
from tokenbounds.codecs.lattice import quantize_linear, reconstruct
from tokenbounds.errors import InputError


def small_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Embedding(50, 16), torch.nn.Linear(16, 24), torch.nn.GELU(), torch.nn.Linear(24, 8)
    )


def test_hessians_are_second_moments_of_the_inputs():
    model, ids = small_model(), torch.arange(60).reshape(4, 15) % 50
    measured = hessians(model, ids.split([1, 3]))
    first = model[0](ids).detach().flatten(0, 1).double()
    second = model[2](model[1](model[0](ids))).detach().flatten(0, 1).double()
    assert list(measured) == ["1.weight", "3.weight"]
    for name, x in (("1.weight", first), ("3.weight", second)):
        assert measured[name].dtype == torch.float64
        torch.testing.assert_close(
            measured[name], x.T @ x / 60, rtol=1e-6, atol=1e-9
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
    """On inputs of a few directions, Hessians bring the layer's output nearer than without them."""
    layer = torch.nn.Linear(64, 32, bias=False)
    layer.weight.data = torch.from_numpy(gaussian(32, 64)).float()
    x = torch.from_numpy(gaussian(500, 12) @ gaussian(12, 64, seed=2)).float()
    measured = hessians(layer, [x])
    assert list(measured) == ["weight"]

    def output_error(hessian):
        approximation = torch.from_numpy(
            reconstruct(quantize_linear(layer.weight.detach(), hessian, 2, seed=0))
        )
        return (x @ (layer.weight.detach() - approximation).T).square().mean()

    assert output_error(measured["weight"]) < 0.2 * output_error(torch.eye(64))
