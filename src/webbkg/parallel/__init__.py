"""Running independent pieces of work: one after another, or on threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["count_threads", "run_tasks"]

_Task = TypeVar("_Task")


def count_threads(asked: int | None) -> int:
    """
    Tell how many threads to work with.

    Parameters
    ----------
    asked : int or None
        What the user asked for.

    Returns
    -------
    int
        That number, or that of the processors this process may use.
    """
    if asked is not None:
        return asked
    if hasattr(os, "sched_getaffinity"):
        # A batch system may have given this process fewer processors than there are.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_tasks(work: Callable[[_Task], None], tasks: Iterable[_Task], n_threads: int) -> None:
    """
    Do a piece of work for each task.

    Parameters
    ----------
    work : callable
        Called once with each task; results go where the task says.
    tasks : iterable
        Tasks, independent of each other.
    n_threads : int
        Number of threads; 1 runs in the calling thread.

    Raises
    ------
    BaseException
        The first error of a task; tasks not yet begun are dropped.
    """
    if n_threads == 1:
        for task in tasks:
            work(task)
        return
    pool = ThreadPoolExecutor(n_threads)
    try:
        for future in [pool.submit(work, task) for task in tasks]:
            future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
