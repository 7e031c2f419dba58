"""Several processes that compute as one: started by torchrun, ended together, with one line of error."""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import torch
import torch.distributed as dist

from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError

log = logging.getLogger(__name__)

SIGTERM_STATUS = 128 + signal.SIGTERM
_ERROR_MARK = "tokenbounds-input-error: "  # how a process hands its one line to the one that called `torchrun`
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Group:
    """This process among those that train together."""

    def __init__(self):
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    def sum(self, values):
        """Sum over the processes of a list of numbers, as floats; also a barrier."""
        if self.size == 1:
            return [float(value) for value in values]
        values = torch.tensor(values, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(values)
        return values.tolist()


def torchrun(module, path, processes):
    """Run ``python -m module path`` in several processes under torchrun; they die with this one, and what they print goes to the log.

    Raises
    ------
    InputError
        One was raised in a process (see `worker`).
    RuntimeError
        A process failed in another way.
    SystemExit
        With status 143, after SIGTERM was passed on and the processes have ended.
    """
    root = str(Path(__file__).resolve().parent.parent)
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", module, str(path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    errors = []
    with subprocess.Popen(command, env=environment, preexec_fn=_die_with_parent, **pipes) as child, on_sigterm(child.terminate) as stop:
        for line in child.stdout:
            if line.startswith(_ERROR_MARK):
                errors.append(line.removeprefix(_ERROR_MARK).strip())
            else:
                log.info(line.rstrip())
    if stop.is_set():
        raise SystemExit(SIGTERM_STATUS)
    if errors:
        raise InputError(errors[0])
    if child.returncode:
        raise RuntimeError(f"torchrun of {module} {path} ended with status {child.returncode}; its output is in the log")


def worker(body):
    """Call `body` as the whole work of a program, alone or under torchrun: the first process logs; returns the exit status.

    An `InputError` becomes one line on standard error and status 1.
    """
    started_by_torchrun = "LOCAL_RANK" in os.environ
    if started_by_torchrun:
        _die_with_parent()
    logging.basicConfig(level=logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING, format="%(message)s")
    try:
        body()
    except InputError as error:
        print(f"{_ERROR_MARK if started_by_torchrun else 'error: '}{error}", file=sys.stderr, flush=True)
        return 1
    return 0


@contextlib.contextmanager
def process_group(processes, device):
    """Join the processes that torchrun started, if it did; yields the device of this one."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world != processes:
        raise InputError(f"{world} training processes were started, expected `processes` = {processes}")
    if world == 1:
        yield device
        return
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        device = str(choose_device(f"cuda:{os.environ['LOCAL_RANK']}"))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def on_sigterm(action=lambda: None):
    """Within, SIGTERM sets the event that is yielded and calls `action`. (In another thread than the main one, signals are not ours.)"""
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(*_):
        received.set()
        action()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def _die_with_parent():
    """Ask the kernel to kill this process when the one that started it ends, however it ends (Linux only)."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
