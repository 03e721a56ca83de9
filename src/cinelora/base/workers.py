"""Owns work on many items in threads, with a limit of time for each item.

In: a function, items. Out: results in the items' order. Threads are enough where the work is decoding, resizing or
hashing, which let go of Python's lock; an item that hangs is given up and its thread left behind, so nothing waits for
it, not even the end of the program.
"""

import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread, current_thread
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_LOOK_SECONDS = 0.1
_PATIENCE_SECONDS = 2.0
"""How long threads that are still at work are waited for when nobody wants their results any more."""
_AHEAD = 4
"""Items in work or waiting to be given out, per thread: enough to keep threads busy, few enough to bound memory."""


@dataclass
class _Job:
    """One item on its way; `started` is 0 until a thread takes it."""

    item: object
    thread: Thread | None = None
    started: float = 0.0
    result: object = None
    error: BaseException | None = None
    done: bool = False


@dataclass
class _Team:
    """The threads, and what lies between them and who asked."""

    function: Callable
    todo: SimpleQueue = field(default_factory=SimpleQueue)
    finished: SimpleQueue = field(default_factory=SimpleQueue)
    threads: list[Thread] = field(default_factory=list)

    def hire(self) -> None:
        """Start one more thread."""
        self.threads.append(Thread(target=self._work, daemon=True))
        self.threads[-1].start()

    def dismiss(self) -> None:
        """End the threads and wait for them, not for long: a program that ends under a thread in C++ is aborted."""
        for _ in self.threads:
            self.todo.put(None)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (job := self.todo.get()) is not None:
            job.thread, job.started = current_thread(), time.monotonic()
            try:
                job.result = self.function(job.item)
            except BaseException as error:
                job.error = error  # raised where the result is waited for
                if not isinstance(error, Exception):
                    job.done = True
                    self.finished.put(job)
                    raise
            given_up = job.done
            job.done = True
            self.finished.put(job)
            if given_up:
                return
            del job  # results are let go of by who asked for them, not by an idle thread


def available_threads() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    num_threads: int = 0,
    num_ahead: int = 0,
    seconds: float = 60.0,
) -> Generator[Result | TimeoutError, None, None]:
    """`function` of every item, in order; a TimeoutError in place of a result that took longer than `seconds`.

    `num_threads` 0 = one per core. At most `num_ahead` items, the one handed out among them, are in work or waiting;
    0 = a few per thread. What `function` raises is raised here, when its item's turn comes.
    """
    team = _Team(function)
    num_threads = min(num_threads or available_threads(), max(1, len(items)))
    num_ahead = num_ahead or _AHEAD * num_threads
    jobs: list[_Job] = []
    try:
        for _ in range(num_threads):
            team.hire()
        for index in range(len(items)):
            while len(jobs) < min(len(items), index + num_ahead):
                jobs.append(_Job(items[len(jobs)]))
                team.todo.put(jobs[-1])
            yield _result(team, jobs, index, seconds)
            jobs[index].item = jobs[index].result = None
    finally:
        team.dismiss()


def _result(team: _Team, jobs: list[_Job], index: int, seconds: float) -> Result | TimeoutError:
    job = jobs[index]
    while not job.done:
        try:
            team.finished.get(timeout=_LOOK_SECONDS)
        except Empty:
            _give_up(team, jobs[index:], seconds)
    if job.error is not None:
        raise job.error
    return job.result  # type: ignore[return-value]


def _give_up(team: _Team, jobs: Sequence[_Job], seconds: float) -> None:
    """Take jobs that run for too long for lost, and hire in place of the threads that hang on them."""
    for job in jobs:
        if job.started and not job.done and time.monotonic() - job.started > seconds:
            job.result, job.done = TimeoutError(f"no result after {seconds:g} s"), True
            if job.thread in team.threads:
                team.threads.remove(job.thread)
            team.hire()
