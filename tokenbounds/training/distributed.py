"""Several processes that train as one: started by torchrun, ended together, with one line of error."""

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
from torch.nn.parallel import DistributedDataParallel

from tokenbounds.devices import choose_device
from tokenbounds.errors import InputError

log = logging.getLogger(__name__)
SIGTERM_STATUS = 128 + signal.SIGTERM
_ERROR_MARK = "tokenbounds-input-error: "  # begins the line of error that goes to the caller of `torchrun`
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Group:
    """This process among those that train together.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and of all.
    """

    def __init__(self):
        started = dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if started else (0, 1)

    @property
    def is_first(self):
        """Whether this process writes and logs for all."""
        return self.rank == 0

    def share(self, count):
        """Return the numbers below `count` that this process computes."""
        return range(self.rank, count, self.size)

    def sum(self, values):
        """Sum numbers over the processes.

        Parameters
        ----------
        values : list of number
            As many in each process.

        Returns
        -------
        list of float
            The same in each process; none gets it before all have called.
        """
        if self.size == 1:
            return [float(value) for value in values]
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        values = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(values)
        return values.tolist()

    def wait(self):
        """Wait until every process has come here."""
        self.sum([0])


def in_parallel(net, group, device):
    """Wrap a model so that its gradients are means over the processes; alone, return it as it is.

    Parameters
    ----------
    net : torch.nn.Module
    group : Group
    device : torch.device
    """
    if group.size == 1:
        return net
    ids = [device.index] if device.type == "cuda" else None
    # Buffers are constants drawn from the seed, each process its own: nothing to send.
    return DistributedDataParallel(net, device_ids=ids, gradient_as_bucket_view=True, broadcast_buffers=False)


def torchrun(module, path, processes):
    """Run ``python -m module path`` in several processes under torchrun.

    They die with this process, and their output goes to the log.

    Parameters
    ----------
    module : str
        Its program is `worker`.
    path : path
        The program's argument.
    processes : int

    Raises
    ------
    InputError
        One was raised in a process (see `worker`).
    RuntimeError
        A process failed in another way.
    SystemExit
        With status 143, after SIGTERM was passed on and the processes have ended.
    """
    root = str(Path(__file__).resolve().parents[2])
    python_path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": python_path}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc-per-node", str(processes), "-m", module, str(path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    errors = []
    with (
        subprocess.Popen(command, env=environment, preexec_fn=_die_with_parent, **pipes) as child,
        on_sigterm(child.terminate) as stop,
    ):
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
        ending = f"ended with status {child.returncode}; its output is in the log"
        raise RuntimeError(f"torchrun of {module} {path} {ending}")


def worker(body):
    """Do the whole work of a program, alone or under torchrun; only the first process logs.

    Parameters
    ----------
    body : callable
        The work.

    Returns
    -------
    int
        The exit status: 1 after an `InputError`, which becomes one line on standard error, else 0.
    """
    started_by_torchrun = "LOCAL_RANK" in os.environ
    if started_by_torchrun:
        _die_with_parent()
    first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(message)s")
    try:
        body()
    except InputError as error:
        # The line and its end in one write: other processes fail at the same moment, into the same pipe.
        sys.stderr.write(f"{_ERROR_MARK if started_by_torchrun else 'error: '}{error}\n")
        sys.stderr.flush()
        return 1
    return 0


@contextlib.contextmanager
def process_group(processes, device):
    """Join the processes that torchrun started, if it did.

    Parameters
    ----------
    processes : int
        How many are expected.
    device : str
        A torch device, or ``"auto"``.

    Yields
    ------
    str
        The device of this process.

    Raises
    ------
    InputError
        There are more or fewer processes.
    """
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
    """Take note of SIGTERM, within; only the main thread can.

    Parameters
    ----------
    action : callable, optional
        Called when the signal comes, besides.

    Yields
    ------
    threading.Event
        Set when the signal came.
    """
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
