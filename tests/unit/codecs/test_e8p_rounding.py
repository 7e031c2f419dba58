"""Nearest points of the E8P codebook, against a full search."""

import pytest
import torch
from support.lattice import gaussian

from tokenbounds.codecs.e8p_rounding import nearest_e8p
from tokenbounds.models.quip.codebooks import e8p_table


def test_a_codebook_point_is_its_own_nearest():
    assert torch.equal(nearest_e8p(torch.tensor(e8p_table())), torch.arange(65536, dtype=torch.int32))


@pytest.mark.parametrize("spread", [0.3, 0.9, 1.5, 4.0])
def test_nearest_point_is_that_of_a_full_search(spread):
    """Also where vectors lie outside the codebook (4.0), or in reach of the rows of norm 12 (1.5)."""
    x = torch.from_numpy(spread * gaussian(250, 8, seed=3))
    table = torch.tensor(e8p_table()).double()
    distances = (x - table[nearest_e8p(x).long()]).square().sum(1)
    best = torch.stack([(table - vector).square().sum(1).min() for vector in x])
    assert torch.equal(distances, best)
