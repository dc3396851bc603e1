"""Groups side by side, each in a process of its own."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from types import FrameType
from typing import Any

from webbkg.errors import WebbkgError
from webbkg.jobs.group import Setting
from webbkg.jobs.options import JobOptions
from webbkg.jobs.outcome import Outcome, do_group, without_lost
from webbkg.jobs.state import RunState, remove_parts
from webbkg.jobs.talk import Silent
from webbkg.methods.i4i import I4iParams
from webbkg.methods.partners import GroupPlan
from webbkg.parallel import count_threads

__all__ = ["count_workers", "side_by_side"]

#: Memory for each group, of which one would have to do everything on disk [MB].
_LEAST_MEMORY = 64
#: A process takes seconds to import what it needs. That is worth it for groups with this many
#: pixels in all their exposures, far fewer if the pipeline makes the products.
_WORTH, _WORTH_CALIBRATED = 8e6, 4e6
#: Time that a process has to clean up after itself [s].
_PATIENCE = 10.0


def count_workers(plans: Sequence[GroupPlan], params: I4iParams, options: JobOptions) -> int:
    """
    Choose how many groups are done at the same time.

    Parameters
    ----------
    plans : sequence of GroupPlan
        Plans of the groups that are to be done.
    params : I4iParams
        Parameters; one worker for each thread at most, each with 64 MB of `max_memory` at least.
    options : JobOptions
        What is asked for.

    Returns
    -------
    int
        Number of workers; 1 if that is faster, because there is little to do.
    """
    worth = _WORTH_CALIBRATED if options.stage2 and options.reaches("subtract") else _WORTH
    sizes = (
        len(plan.group.members) * math.prod(plan.group.members[0].window.shape) for plan in plans
    )
    n_large = sum(size >= worth for size in sizes)
    by_memory = params.max_memory // _LEAST_MEMORY
    return max(1, min(n_large, count_threads(params.threads), by_memory))


def side_by_side(
    plans: Sequence[GroupPlan], setting: Setting, n_workers: int, lock: int
) -> list[Outcome]:
    """
    Do groups at the same time.

    Parameters
    ----------
    plans : sequence of GroupPlan
        Plans of the groups.
    setting : Setting
        What they share.
    n_workers : int
        Number of processes.
    lock : int
        Descriptor of the lock of the output directory. Processes keep it, so that nobody works
        there while one of them does, even if this one is killed.

    Returns
    -------
    list of Outcome
        What became of each, in order. A group whose process was killed has failed.

    Raises
    ------
    OutputError
        If a product cannot be written; the other groups are stopped then.
    """
    crew = _Crew(setting, lock)
    try:
        return crew.do(plans, n_workers)
    finally:
        crew.dismiss()
        remove_parts(setting.layout.output)


class _Held:
    """A descriptor that a process is given when it is started."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __getstate__(self) -> dict[str, Any]:
        return {"_descriptor": DupFd(self._descriptor)}


class _Worker:
    """One process and the pipe to it."""

    def __init__(self, lock: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(other, _Held(lock)), daemon=True
        )
        # When it is started it unblocks the signal that is to stay blocked here.
        resource_tracker.ensure_running()
        # Ctrl-C reaches all processes of a terminal: this one alone decides what becomes of it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        other.close()

    def dismiss(self, *, at_once: bool) -> None:
        """End the process, which cleans up after itself unless it does not answer."""
        if at_once:
            self.process.terminate()
        # At the end of the pipe it ends of itself.
        self.pipe.close()
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class _Crew:
    """The processes, and which group each does."""

    def __init__(self, setting: Setting, lock: int) -> None:
        self._set = setting
        self._lock = lock
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, int]] = {}

    def do(self, plans: Sequence[GroupPlan], n_workers: int) -> list[Outcome]:
        waiting, outcomes = deque(range(len(plans))), dict[int, Outcome]()
        while waiting or self._busy:
            while waiting and len(self._busy) < n_workers:
                index = waiting.popleft()
                plan = without_lost(plans[index], self._set)
                if plan.error:
                    outcomes[index] = do_group(plan, self._set)
                else:
                    self._begin(index, plan, n_workers)
            for pipe in wait(list(self._busy)):
                if not isinstance(pipe, Connection):
                    continue
                worker, index = self._busy[pipe]
                try:
                    kind, *content = pipe.recv()
                except (EOFError, OSError):
                    outcome = self._killed(worker, plans[index].group.name)
                else:
                    if kind != "outcome":
                        self._take(kind, content)
                        continue
                    outcome = content[0]
                    self._idle.append(worker)
                del self._busy[pipe]
                outcomes[index] = outcome
        return [outcomes[index] for index in range(len(plans))]

    def dismiss(self) -> None:
        """End all processes; those that work are stopped."""
        busy = [worker for worker, _ in self._busy.values()]
        for worker in busy:
            worker.process.terminate()
        for worker in (*busy, *self._idle):
            worker.dismiss(at_once=worker in busy)

    def _begin(self, index: int, plan: GroupPlan, n_workers: int) -> None:
        worker = self._idle.pop() if self._idle else _Worker(self._lock)
        self._busy[worker.pipe] = (worker, index)
        maps = self._set.maps.known(plan.group.members)
        # Whom to tell stays here.
        setting = replace(self._set, maps=maps, talk=Silent(), share=n_workers)
        worker.pipe.send((plan, setting))

    def _take(self, kind: str, content: list[Any]) -> None:
        """Take a message of a process."""
        if kind == "crash":
            raise RuntimeError(f"a process that worked on a group has failed\n{content[0]}")
        if kind == "error":
            raise content[0]
        if kind == "talk":
            name, *words = content
            getattr(self._set.talk, name)(*words)
        elif kind == "finish":
            self._set.state.finish(*content[0], facts=content[1])
        else:
            self._set.state.forget(content[0])

    def _killed(self, worker: _Worker, name: str) -> Outcome:
        worker.dismiss(at_once=False)
        code = worker.process.exitcode or 0
        how = (
            f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with code {code}"
        )
        error = (
            f"{name}: the process that worked on it was ended {how}, maybe for lack of memory; "
            "call again to go on, with --threads 1 to do one group after another"
        )
        self._set.talk.fail(error)
        return Outcome(None, error)


# In a process


def _serve(pipe: Connection, _lock: _Held) -> None:
    """Do groups as they are sent, until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_follow_parent, daemon=True).start()
    with suppress(EOFError):
        while True:
            plan, given = pipe.recv()
            setting = replace(given, state=_ToldState(given.state, pipe), talk=_Telling(pipe))
            try:
                message: tuple[str, object] = "outcome", do_group(plan, setting)
            except WebbkgError as error:
                message = "error", error
            except Exception:  # noqa: BLE001
                # Only its text is sure to reach the other process.
                message = "crash", traceback.format_exc()
            pipe.send(message)


def _leave(_number: int, _frame: FrameType | None) -> None:
    """Clean up and end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def _follow_parent() -> None:
    """End if the process that started this one was killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    os._exit(1)


class _Telling:
    """Tells the process that talks to the user."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def say(self, text: str, level: int = 0) -> None:
        self._pipe.send(("talk", "say", text, level))

    def warn(self, text: str) -> None:
        self._pipe.send(("talk", "warn", text))

    def fail(self, text: str) -> None:
        self._pipe.send(("talk", "fail", text))

    def advance(self, fraction: float) -> None:
        self._pipe.send(("talk", "advance", fraction))


class _ToldState(RunState):
    """What a group has done; the process that holds the file is told."""

    def __init__(self, state: RunState, pipe: Connection) -> None:
        super().__init__(state.path, {}, state.steps(), resumed=state.resumed)
        self._pipe = pipe

    def finish(self, *step: str, facts: Any = None) -> None:
        super().finish(*step, facts=facts)
        self._pipe.send(("finish", step, facts))

    def forget(self, group: str) -> None:
        super().forget(group)
        self._pipe.send(("forget", group))

    def write(self) -> None:
        """Leave that to the other process."""
