"""Rounding to the E8P lattice codebook of QuIP#, in one stage or two.

A vector of eight weights becomes a point of the first stage's codebook; with 3 or 4 bits per weight, a second
stage rounds the rest. Nearest points of E8P are exact, without a search over its 65,536 points.
"""

import functools

import numpy as np
import torch

from tokenbounds.models.quip.codebooks import e8p_table, e81b_table

# By bits: table and multiplier of each stage. A = sum over stages of point * multiplier, divided by the
# first multiplier; products are integers. The residual scales of QuIP#, 2.04 and 3.45, are the ratios 204 /
# 100 and 276 / 80.
STAGES = {
    2: ((e8p_table, 4),),
    3: ((e8p_table, 204), (e81b_table, 100)),
    4: ((e8p_table, 276), (e8p_table, 80)),
}
DIMENSION = 8
_NEAREST_ROWS = 1 << 16  # vectors rounded at a time: temporaries stay small
# Magnitudes of the E8P codebook: n3 coordinates are 3/2, n5 are 5/2, the rest 1/2. It holds all placements of
# these seven combinations, and 29 of the 56 placements of five 3/2.
_N3 = (0, 1, 2, 3, 4, 0, 1)
_N5 = (0, 0, 0, 0, 0, 1, 1)
_PARTIAL_N3 = 5
_E8P_COORDINATES = (0, 2, 4, 6, 1, 3, 5, 7)  # coordinates of the sign bits 0..7 of a code


def nearest_e8p(x):
    """Return the codes of the E8P points nearest to vectors: exact, without a search over the codebook.

    A codebook point is a magnitude row times signs of one parity, plus or minus 1/4. For a given shift, the
    best signs are those of the vector, except where the parity requires one more flip, which costs least at
    the smallest product of magnitudes; and the best placement of given magnitudes has the order of the
    vector's. Only rows with five 3/2 are tried one by one, as the codebook has only 29 of their 56
    placements, and only for vectors for which the best of the 56 would win.

    Parameters
    ----------
    x : Tensor of floating point, shape (N, 8)

    Returns
    -------
    Tensor of int32, shape (N,)
        Rows of `e8p_table`, on the device of `x`.
    """
    return torch.cat([_nearest_e8p(part) for part in x.split(_NEAREST_ROWS)])


def _nearest_e8p(x):
    n3, n5 = torch.tensor(_N3, device=x.device), torch.tensor(_N5, device=x.device)
    y = torch.stack([x - 0.25, x + 0.25])  # (2, N, 8)
    negative = y < 0
    odd = negative.sum(-1, keepdim=True) & 1
    magnitude = y.abs()
    ordered, order = magnitude.sort(-1, descending=True)
    top = torch.nn.functional.pad(ordered.cumsum(-1), (1, 0))  # sum of the j largest at j
    flip_cost, total = 2 * ordered[..., -1:], top[..., -1:]

    # |y|^2 - distance^2 of the best placement of each kind of magnitudes
    gains = (
        total + 2 * (top[..., n3 + n5] + top[..., n5] - 1 - n3 - 3 * n5) - flip_cost * (odd ^ (n3 & 1))
    )  # (2, N, 7)
    gain, kind = gains.max(-1)
    key_sums = torch.nn.functional.pad((3 ** (7 - order)).cumsum(-1), (1, 0))
    high = n5[kind]
    key = (key_sums.gather(-1, (n3[kind] + high)[..., None]) + key_sums.gather(-1, high[..., None])).squeeze(
        -1
    )
    flip = odd.squeeze(-1) ^ (n3[kind] & 1)
    flipped = order[..., -1]

    bound = (total + 2 * (top[..., _PARTIAL_N3, None] - 1 - _PARTIAL_N3) - flip_cost * (odd ^ 1)).squeeze(-1)
    at = torch.nonzero(bound > gain, as_tuple=True)
    rows, keys = (torch.tensor(part, device=x.device) for part in _partial_rows())
    products = magnitude[at][:, None] * rows.to(x)  # (vectors at `at`, 29, 8)
    smallest, coordinate = products.min(-1)
    row_flip = odd[at] ^ 1
    row_gain, row = (2 * products.sum(-1) - 12 - 4 * smallest * row_flip).max(-1)
    better = row_gain > gain[at]
    at, row = tuple(index[better] for index in at), row[better]
    gain[at], key[at], flip[at] = row_gain[better], keys[row], row_flip[better].squeeze(-1)
    flipped[at] = coordinate[better].gather(-1, row[:, None]).squeeze(-1)

    shift = (y.square().sum(-1) - gain).argmin(0)  # 0: +1/4, 1: -1/4
    pick = (shift, torch.arange(len(x), device=x.device))
    index, negated = _e8p_rows(x.device)
    index, negated = index[key[pick]], negated[key[pick]]
    signs = negative[pick].int()
    signs.scatter_add_(-1, flipped[pick][:, None], flip[pick][:, None].int())
    signs[:, -1] += negated
    signs = (signs[:, list(_E8P_COORDINATES)] & 1) << torch.arange(
        DIMENSION, device=x.device, dtype=torch.int32
    )
    return index << 8 | signs.sum(-1, dtype=torch.int32) ^ shift.int()


@functools.cache
def _magnitudes():
    """Return the magnitude rows of the E8P codebook, doubled, (256, 8), and whether coordinate 7 of each is
    negated, (256,)."""
    rows = e8p_table()[::256] - 0.25  # code 0 of each row: no sign flipped, 1/4 added
    return np.abs(2 * rows).astype(np.int64), rows[:, 7] < 0


def _keys(doubled):
    return (doubled - 1) // 2 @ 3 ** np.arange(7, -1, -1)


@functools.cache
def _partial_rows():
    doubled, _ = _magnitudes()
    doubled = doubled[(doubled == 3).sum(1) == _PARTIAL_N3]
    return doubled / 2, _keys(doubled)


@functools.cache
def _e8p_rows(device):
    """Return, by key of a magnitude row, its number and whether coordinate 7 is negated; int32 (6561,)."""
    doubled, negated = _magnitudes()
    index, negative = np.zeros((2, 3**8), np.int32)
    index[_keys(doubled)], negative[_keys(doubled)] = np.arange(256), negated
    return torch.from_numpy(index).to(device), torch.from_numpy(negative).to(device)


def _nearest_e81b(x):
    table = torch.tensor(e81b_table()).to(x)
    return (x @ table.T - table.square().sum(1) / 2).argmax(1).int()


def round_to_lattice(x, bits):
    """Round vectors (N, 8), each stage the remainder of the one before.

    Returns
    -------
    codes : list of Tensor of int32, shape (N,)
        One per stage.
    points : Tensor, shape (N, 8)
        The lattice points of these codes.
    """
    stages = STAGES[bits]
    codes, points = [], torch.zeros_like(x)
    for table, multiplier in stages:
        factor = multiplier / stages[0][1]
        nearest = nearest_e8p if table is e8p_table else _nearest_e81b
        codes.append(nearest((x - points) / factor))
        points = points + _device_table(table, x.device)[codes[-1].long()].to(x) * factor
    return codes, points


@functools.cache
def _device_table(table, device):
    return torch.tensor(table(), device=device)
