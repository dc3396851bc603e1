"""Running independent pieces of work: one after another, or on threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["run_tasks"]

_Task = TypeVar("_Task")


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
