"""Devices: the device of a computation, its compute type, chosen by a short measurement of its speed, and the
arithmetic in which predictions are computed."""

import contextlib
import time

import torch

from tokenbounds.errors import InputError

_ARITHMETICS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
# bfloat16 loses 16 bits of precision: the speedup must be clear, not the noise of a timing
_SPEEDUP = 1.5


def choose_device(requested="auto"):
    """Choose the torch device `requested`; ``"auto"`` means the first GPU, or the CPU if there is none.

    Parameters
    ----------
    requested : str
        Name of a torch device, or ``"auto"``.

    Returns
    -------
    torch.device

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
        expected = "expected auto or a torch device that is present"
        raise InputError(f"device '{requested}' cannot be used ({reason:.100}); {expected}") from None
    return device


def choose_dtype(device, requested="auto"):
    """Choose the compute type on `device`: float32 or bfloat16.

    ``"auto"`` means bfloat16 if it makes a matrix product 1.5 times as fast, else float32."""
    if requested != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[requested]
    faster = matmul_seconds(device, torch.float32) >= _SPEEDUP * matmul_seconds(device, torch.bfloat16)
    return torch.bfloat16 if faster else torch.float32


def matmul_seconds(device, dtype):
    """Measure the seconds of one square matrix product: 192 wide on a CPU, 4096 on a GPU.

    The product is repeated for a fifth of a second, three times at least, and the least time counts, because
    on a busy machine most times include other processes. On a CPU one product takes 50 ms even at .3
    GFLOP/s."""
    size = 192 if device.type == "cpu" else 4096
    a = torch.ones(size, size, device=device, dtype=dtype)
    times = []
    start = time.perf_counter()
    while len(times) < 4 or time.perf_counter() - start < 0.2:
        begin = time.perf_counter()
        (a @ a)[0, 0].item()  # item() waits for the device
        times.append(time.perf_counter() - begin)
    return min(times[1:])  # the first one also loads the library


def torch_dtype(arithmetic):
    """Return the torch type of the weights and activations of an arithmetic: float32, tf32 or bfloat16."""
    return _ARITHMETICS[arithmetic]


@contextlib.contextmanager
def arithmetic_of(arithmetic, device):
    """Fix how matrix products and attention are computed while a block runs (docs/theory.md, section 13).

    ==========  ====================================================  ==========================
    name        matrix products                                       attention on a GPU
    ==========  ====================================================  ==========================
    float32     float32                                               memory-efficient, or plain
    tf32        factors rounded to 10 bits, sums in float32           memory-efficient, or plain
    bfloat16    factors in bfloat16, sums in float32, never reduced   flash, or plain
    ==========  ====================================================  ==========================

    Attention is plain where a model's mask or scores rule the other kernel out; on a CPU it is flash, or
    plain. Which one runs depends on the shapes only. Everything that these models compute is deterministic on
    one stream, so torch's slower algorithms, which are deterministic with any, are not asked for.

    Parameters
    ----------
    arithmetic : {"float32", "tf32", "bfloat16"}
    device : torch.device

    Raises
    ------
    InputError
        tf32 on a device that is not a CUDA GPU, where there is no such arithmetic.
    """
    if arithmetic == "tf32" and device.type != "cuda":
        raise InputError(f"arithmetic tf32 on device {device}; expected a CUDA GPU, no other device has it")
    from torch.nn.attention import SDPBackend, sdpa_kernel

    matmul = torch.backends.cuda.matmul
    reductions = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
    before = torch.get_float32_matmul_precision(), [getattr(matmul, name) for name in reductions]
    fast = SDPBackend.FLASH_ATTENTION
    if device.type == "cuda" and arithmetic != "bfloat16":
        fast = SDPBackend.EFFICIENT_ATTENTION
    try:
        torch.set_float32_matmul_precision("high" if arithmetic == "tf32" else "highest")
        for name in reductions:
            setattr(matmul, name, False)
        with sdpa_kernel([fast, SDPBackend.MATH]):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        for name, value in zip(reductions, before[1], strict=True):
            setattr(matmul, name, value)
