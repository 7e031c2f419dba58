"""The device and the compute type: as requested, or by measurement."""

import pytest
import torch
from support.trainings import CPU

from tokenbounds import devices
from tokenbounds.errors import InputError


@pytest.mark.parametrize(
    ("float32", "bfloat16", "expected"),
    [(3.0, 1.0, "bfloat16"), (1.2, 1.0, "float32"), (1.0, 400.0, "float32")],
)
def test_dtype_by_measurement(monkeypatch, float32, bfloat16, expected):
    seconds = {torch.float32: float32, torch.bfloat16: bfloat16}
    monkeypatch.setattr(devices, "matmul_seconds", lambda device, dtype: seconds[dtype])
    assert devices.choose_dtype(CPU) == getattr(torch, expected)
    assert (
        devices.choose_dtype(CPU, "bfloat16") is torch.bfloat16
        and devices.choose_dtype(CPU, "float32") is torch.float32
    )


def test_matmul_is_timed():
    assert 0 < devices.matmul_seconds(CPU, torch.float32) < 1


def test_device():
    assert devices.choose_device("cpu") == CPU
    assert devices.choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="device 'warp' cannot be used"):
        devices.choose_device("warp")
