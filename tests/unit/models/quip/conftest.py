"""Checkpoints that several test files read."""

import pytest
from support.quip_checkpoints import CONFIG, random_tensors, write_checkpoint
from support.quip_reference import KV_HEADS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A 3-bit checkpoint with fewer heads of keys and values than of queries."""
    return write_checkpoint(
        tmp_path_factory.mktemp("quip") / "model",
        {**CONFIG, "num_key_value_heads": KV_HEADS, "rope_theta": 500.0},
    )


@pytest.fixture(scope="module")
def tensors():
    """The tensors of a checkpoint of `CONFIG`, to be changed as copies only."""
    return random_tensors(CONFIG)
