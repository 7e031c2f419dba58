"""Worker processes that never outlive the process that started them."""

import concurrent.futures
import multiprocessing
import os
import threading


def worker_pool(processes, initializer=None, arguments=()):
    """Start a pool of spawned processes that end with this one, even if it is killed.

    Parameters
    ----------
    processes : int
        Number of processes.
    initializer : callable, optional
        Function that each process calls first, with `arguments`.
    arguments : tuple
        Arguments of `initializer`.

    Returns
    -------
    concurrent.futures.ProcessPoolExecutor
    """
    return concurrent.futures.ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _start_worker, (initializer, arguments)
    )


def _start_worker(initializer, arguments):
    threading.Thread(target=_follow_parent, daemon=True).start()
    if initializer is not None:
        initializer(*arguments)


def _follow_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
