"""The codebooks of QuIP#, built from their definitions: tables from codes to 8 weights on the lattice E8.

=================  ==========================  ===============================
codebook           first stage                 second stage, scaled
=================  ==========================  ===============================
E8P12 (2 bits)     `e8p_table`, 16-bit codes   none
E8P12RVQ3B (3)     `e8p_table`                 `e81b_table`, 8-bit codes
E8P12RVQ4B (4)     `e8p_table`                 `e8p_table`
=================  ==========================  ===============================
"""

import functools
import itertools

import numpy as np

# The 29 magnitudes of squared norm 12 that complete the E8P codebook: positions of the three 1/2 among five
# 3/2.
_E8P_HALVES = "123023013012367357347356346345267257247256246245167157147156146045067057047056046014237"
_E8P_COORDINATES = [0, 2, 4, 6, 1, 3, 5, 7]  # coordinates of the sign bits 0..7


def read_only(array):
    """Make an array read-only, because its cached copy is shared, and return it."""
    array.flags.writeable = False
    return array


@functools.cache
def e8p_table():
    """Build the E8P codebook: the lattice E8 shifted by 1/4, 16 bits for 8 weights.

    ::

        bits of a code    15 ... 8      7 ... 0
                          magnitudes    signs

    The high byte is a row of 256 magnitudes: all of {1/2, 3/2, 5/2}^8 with squared norm <= 10, and 29 of
    squared norm 12. The low byte holds seven free signs; the eighth follows from the parity, and the
    remaining bit says whether 1/4 is added or subtracted.

    Returns
    -------
    ndarray of float32, shape (65536, 8)
        Odd multiples of 1/4, at most 2.75 in magnitude. Read-only.
    """
    doubled = np.array(list(itertools.product((1, 3, 5), repeat=8)))
    small = doubled[(doubled**2).sum(axis=1) <= 40]
    halves = np.array([int(digit) for digit in _E8P_HALVES]).reshape(-1, 3)
    large = np.full((len(halves), 8), 3)
    np.put_along_axis(large, halves, 1, axis=1)
    magnitudes = np.concatenate([small, large])
    odd = magnitudes.sum(axis=1) // 2 % 2 == 1
    magnitudes[odd, 7] *= -1

    signs = np.arange(256)
    parity = (signs[:, None] >> np.arange(8) & 1).sum(axis=1) % 2
    bits = (signs ^ parity)[:, None] >> np.arange(8) & 1
    flips = np.empty((256, 8), dtype=int)
    flips[:, _E8P_COORDINATES] = 1 - 2 * bits
    quarters = 2 * magnitudes[:, None] * flips + (1 - 2 * parity)[:, None]  # (256 magnitudes, 256 signs, 8)
    return read_only((quarters.reshape(-1, 8) / 4).astype(np.float32))


@functools.cache
def e81b_table():
    """Build the second stage of the 3-bit codebook: 256 short vectors of E8, 8 bits for 8 weights.

    Returns
    -------
    ndarray of float32, shape (256, 8)
        Multiples of 1/2. Read-only.
    """
    integers = np.array(
        [v for v in itertools.product((-1, 0, 1), repeat=8) if sum(v) % 2 == 0 and np.dot(v, v) <= 2]
    )
    halves = np.array([v for v in itertools.product((-0.5, 0.5), repeat=8) if sum(v) % 2 == 0])
    axes = 2 * np.concatenate([np.eye(8), -np.eye(8)[:7]])
    return read_only(np.concatenate([integers, halves, axes]).astype(np.float32))
