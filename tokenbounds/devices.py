"""The device a computation runs on, and its compute type, chosen by a short measurement and not by the device's name."""

import time

import torch

from tokenbounds.errors import InputError

_SPEEDUP = 1.5  # bfloat16 gives away 16 bits: take it where it clearly pays, and not where a noisy timing happens to favour it


def choose_device(requested="auto"):
    """The torch device `requested`, or for ``"auto"`` the first GPU, the CPU if there is none.

    Raises
    ------
    InputError
        The device is unknown to torch or not present.
    """
    if requested == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(requested)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition(". ")[0].splitlines()[0]
        raise InputError(f"device '{requested}' cannot be used ({reason:.100}); expected auto or a torch device that is present") from None
    return device


def choose_dtype(device, requested="auto"):
    """Compute type on `device`: as requested; for ``"auto"`` bfloat16 if that makes a matrix product 1.5 times as fast, else float32."""
    if requested != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[requested]
    faster = matmul_seconds(device, torch.float32) >= _SPEEDUP * matmul_seconds(device, torch.bfloat16)
    return torch.bfloat16 if faster else torch.float32


def matmul_seconds(device, dtype):
    """Seconds for one square matrix product, 192 wide on a CPU (50 ms even at .3 GFLOP/s), 4096 on a GPU.

    The least of a fifth of a second of repetitions, three at least: on a busy machine most of them measure the other processes.
    """
    size = 192 if device.type == "cpu" else 4096
    a = torch.ones(size, size, device=device, dtype=dtype)
    times = []
    start = time.perf_counter()
    while len(times) < 4 or time.perf_counter() - start < 0.2:
        begin = time.perf_counter()
        (a @ a)[0, 0].item()  # item() waits for the device
        times.append(time.perf_counter() - begin)
    return min(times[1:])  # the first one also loads the library
