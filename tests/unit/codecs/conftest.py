"""Fixtures of the tests of codecs."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.compressors import RNG, weights


@pytest.fixture
def checkpoint(tmp_path):
    """Two shards, with tensors of 2, 4 and 1 bytes, an empty one and an odd number of pieces, and a
    configuration."""
    first, second = tmp_path / "model-1.safetensors", tmp_path / "model-2.safetensors"
    bfloat16 = (RNG.standard_normal(501).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    save_file(
        {
            "a": weights(100, 900),
            "b": RNG.standard_normal(33).astype(np.float32),
            "e": np.zeros(0, np.float16),
        },
        first,
        {"k": "v"},
    )
    save_file({"c": bfloat16, "d": RNG.integers(0, 9, 1001).astype(np.uint8), "f": weights(100, 700)}, second)
    config = tmp_path / "config.json"
    config.write_text('{"n_layer": 2}')
    return [first, second, config]
