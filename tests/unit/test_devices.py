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


def flags():
    matmul = torch.backends.cuda.matmul
    return (
        torch.get_float32_matmul_precision(),
        matmul.allow_bf16_reduced_precision_reduction,
        matmul.allow_fp16_reduced_precision_reduction,
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
    )


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_the_arithmetic_of_a_block_ends_with_it(arithmetic):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        outside = flags()
        with devices.arithmetic_of(arithmetic, CPU):
            assert flags() == ("highest", False, False, True, False)
        assert flags() == outside
        with pytest.raises(ZeroDivisionError), devices.arithmetic_of(arithmetic, CPU):
            1 / 0  # noqa: B018
        assert flags() == outside
    finally:
        torch.set_float32_matmul_precision(before)


def test_attention_and_products_on_a_gpu():
    """Only the choice of kernels: it needs no GPU."""
    gpu = torch.device("cuda")
    for arithmetic, flash in (("float32", False), ("tf32", False), ("bfloat16", True)):
        with devices.arithmetic_of(arithmetic, gpu):
            precision = "high" if arithmetic == "tf32" else "highest"
            assert flags() == (precision, False, False, flash, not flash)
            assert torch.backends.cuda.math_sdp_enabled() and not torch.backends.cuda.cudnn_sdp_enabled()


def test_no_tf32_without_a_gpu():
    with (
        pytest.raises(InputError, match="arithmetic tf32 on device cpu; expected a CUDA GPU"),
        devices.arithmetic_of("tf32", CPU),
    ):
        pass
