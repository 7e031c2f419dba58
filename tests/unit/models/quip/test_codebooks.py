"""The codebooks: checksums of the published tables."""

import numpy as np
import pytest
from support.quip_reference import sha256

from tokenbounds.models.quip.codebooks import e8p_table, e81b_table


def test_e8p_table():
    table = e8p_table()
    assert table.shape == (65536, 8) and table.dtype == np.float32
    assert sha256(table, 4) == "ea3883a85a627590ca74626320a2a691943386a8c89ac72cdb6388bfe7da5cc0"
    assert table[0x8A5C].tolist() == [0.75, -1.25, 1.75, 1.75, -0.25, -1.25, -0.25, 0.75]
    with pytest.raises(ValueError, match="read-only"):
        table[0, 0] = 0


def test_e81b_table():
    table = e81b_table()
    assert table.shape == (256, 8) and table.dtype == np.float32
    assert sha256(table, 2) == "37ce1a66345c1bbc51427c9e13e355558727bc02828e09f751b4d46fd7f816ec"
