"""Hadamard matrices and the transform, against their definitions and reference files."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.quip_reference import explicit_hadamard, sha256

from tokenbounds.errors import InputError
from tokenbounds.models.quip.hadamard import HADAMARD_ORDERS, hadamard, hadamard_order, hadamard_transform


@pytest.mark.parametrize("order", HADAMARD_ORDERS)
def test_hadamard_matrices_are_orthogonal(order):
    matrix = hadamard(order).astype(int)
    assert set(np.unique(matrix)) == {-1, 1}
    assert np.array_equal(matrix @ matrix.T, order * np.eye(order))


HADAMARD_SHA256 = {  # first 16 digits
    **{
        12: "67507aecbe2abee5",
        20: "f54960fecf1ccf70",
        28: "a6cb994c78f9acd4",
        52: "9ee082772819b105",
        60: "091e76fba0aef583",
    },
    **{108: "690a34c6c9ed2f0e", 140: "b9ff01506ffe4db5", 156: "99a1b852ce559ffd", 172: "378ef12c7cc31f3e"},
}


@pytest.mark.parametrize("order", HADAMARD_SHA256)
def test_hadamard_matrices_are_those_of_the_format(order):
    assert sha256(hadamard(order), 1).startswith(HADAMARD_SHA256[order])


def test_hadamard_matrices_of_the_reference(shared):
    for name, matrix in load_file(shared / "vectors/quip/hadamard_int8.safetensors").items():
        assert np.array_equal(hadamard(int(name.removeprefix("had"))), matrix.numpy()), name


@pytest.mark.parametrize("n", [1, 2, 64, 512, 12, 12 * 32, 20 * 16, 28 * 4, 52 * 4, 172, 172 * 8])
def test_hadamard_transform_is_the_product_with_the_matrix(n):
    x = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    np.testing.assert_allclose(hadamard_transform(x), explicit_hadamard(n) @ x.numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "size, order",
    [(4096, 1), (12288, 12), (22016, 172), (11008, 172), (27648, 108), (19968, 156), (57344, 28)],
)
def test_hadamard_orders_of_published_widths(size, order):
    assert hadamard_order(size) == order


@pytest.mark.parametrize("size", [7, 11 * 64, 12 * 11, 172 * 3])
def test_widths_without_a_hadamard_matrix(size):
    with pytest.raises(InputError, match=f"width {size} has no Hadamard matrix"):
        hadamard_order(size)
