"""Hadamard matrices, and the fast orthogonal transform that QuIP# applies to weights.

H_n = (M_K (x) S_{n/K}) / sqrt(n), where M_K is a Hadamard matrix of order K (`hadamard`) and S Sylvester's
matrix of a power of two; (x) is the Kronecker product.
"""

import functools
import math

import numpy as np
import scipy.linalg
import torch

from tokenbounds.errors import InputError
from tokenbounds.models.quip.codebooks import read_only

# Orders of Hadamard matrices, in the order in which a width is tried for a divisor.
HADAMARD_ORDERS = (172, 156, 140, 124, 116, 108, 60, 52, 36, 28, 20, 12)
_PALEY_2_ORDERS = (28, 36)
# First halves x[0..(t-1)/2] of the symmetric rows of the four circulant blocks A, B, C, D [Williamson 1944].
# They come from a search: there is no formula.
_WILLIAMSON = {
    52: ("+-+--++", "+---+++", "++-+--+", "+----+-"),
    116: ("++--+--+-+++-++", "++++-++-+---+++", "+-+---++--+-+++", "+++---++--+-+--"),
    124: ("+--+++-+--+----+", "+--+++-+--+----+", "+-----+++-+-+--+", "++++++---+-+-++-"),
    156: ("+++--+-+-----+--++--", "++++---+--++----+-+-", "+++--++-+---+-+--+--", "+---++-+-+-----+++-+"),
    172: (
        "+---++--++++-+-+++-++-",
        "++-++++++----+-+--++-+",
        "+++-+-++--+-+-++++-+--",
        "++---++++-+--+--++----",
    ),
}
# Size of Sylvester's matrix that is applied as one matrix product: more arithmetic than four butterflies of
# two, but one pass over memory instead of four.
_SYLVESTER_BLOCK = 16


@functools.cache
def hadamard(order):
    """Build the Hadamard matrix M_K of the format.

    It is Paley's first construction or, for the orders of `_PALEY_2_ORDERS`, his second [1933], or for those
    of `_WILLIAMSON` Williamson's [1944].

    Parameters
    ----------
    order : int
        One of `HADAMARD_ORDERS`.

    Returns
    -------
    ndarray of int8, shape (order, order)
        Entries +-1, M M^T = order * I; in general not symmetric. Read-only.
    """
    if order not in HADAMARD_ORDERS:
        raise InputError(
            f"Hadamard order {order} is not known; expected one of {', '.join(map(str, HADAMARD_ORDERS))}"
        )
    if order in _WILLIAMSON:
        a, b, c, d = (
            _circulant([1 if sign == "+" else -1 for sign in half + half[:0:-1]])
            for half in _WILLIAMSON[order]
        )
        matrix = np.block([[a, b, c, d], [-b, a, -d, c], [-c, d, a, -b], [-d, -c, b, a]])
    elif order in _PALEY_2_ORDERS:
        core = _residues(order // 2 - 1)
        conference = np.block([[np.zeros((1, 1)), np.ones((1, len(core)))], [np.ones((len(core), 1)), core]])
        identity = np.eye(order // 2)
        matrix = np.block(
            [[conference + identity, conference - identity], [conference - identity, -conference - identity]]
        )
    else:
        matrix = np.ones((order, order))
        matrix[0, 1:] = -1
        matrix[1:, 1:] = np.eye(order - 1) - _residues(order - 1)
    return read_only(matrix.astype(np.int8))


def _circulant(row):
    return scipy.linalg.circulant(row).T  # X[i, j] = row[j - i]


def _residues(q):
    """Build Q[i, j]: 1 if j - i is a nonzero square modulo the prime q, 0 if it is zero, and otherwise -1."""
    squares = {i * i % q for i in range(1, q)}
    return _circulant([0] + [1 if i in squares else -1 for i in range(1, q)])


def hadamard_order(size):
    """Find the order K of H_size: the first of `HADAMARD_ORDERS` that divides `size`, or 1.

    Raises
    ------
    InputError
        The cofactor size / K is no power of two.
    """
    order = next((K for K in HADAMARD_ORDERS if size % K == 0), 1)
    if not _is_power_of_two(size // order):
        raise InputError(
            f"width {size} has no Hadamard matrix: {size // order} (= {size} / {order}) is not a power of two"
        )
    return order


def _is_power_of_two(n):
    return n > 0 and n & (n - 1) == 0


def hadamard_transform(x):
    """Compute H_n x, where H_n = (M_K (x) S_{n/K}) / sqrt(n) is never formed.

    Parameters
    ----------
    x : Tensor of floating point, shape (n, columns)

    Returns
    -------
    Tensor
        Of the same type, shape and device.

    Raises
    ------
    InputError
        There is no H_n (see `hadamard_order`).
    """
    n, columns = x.shape
    order = hadamard_order(n)
    remaining, inner = n // order, columns
    while remaining > 1:  # S_ab = S_a (x) S_b: a block at a time, from the last
        size = min(remaining, _SYLVESTER_BLOCK)
        block = torch.from_numpy(scipy.linalg.hadamard(size)).to(x)
        batch = x.reshape(-1, size, inner)
        x = torch.bmm(block.expand(len(batch), size, size), batch)
        remaining, inner = remaining // size, inner * size
    if order > 1:
        x = torch.tensor(hadamard(order)).to(x) @ x.reshape(order, inner)
    return x.reshape(n, columns) / math.sqrt(n)
