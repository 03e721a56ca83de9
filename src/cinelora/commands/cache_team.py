"""Owns encoding in several processes of this machine: what each is dealt, what it tells, and what became of it.

In: what is to be made. Out: the events of all workers, as if one process had made everything. A worker is
`cinelora cache RECIPE --share i/N --dealt`: its hand comes on standard input, its events go to standard output, one
JSON line each. Nobody waits for anybody; a worker whose parent is gone ends with its next entry.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TextIO

from cinelora.base.errors import CineloraError, DataError, Problem, RecipeError, RunError, WeightsError
from cinelora.base.log import console
from cinelora.data.cache_fill import Event, Events, make
from cinelora.data.cache_work import TowerWork
from cinelora.data.encoding import Encoding

_KINDS: dict[str, type[CineloraError]] = {
    kind.__name__: kind for kind in (RecipeError, DataError, WeightsError, RunError)
}
_PATIENCE_SECONDS = 5.0
"""How long a worker may take to put things in order when it is asked to end."""


@dataclass(frozen=True)
class Hand:
    """What one worker is dealt: entries by tower, a device, and its part of the processor."""

    works: tuple[TowerWork, ...]
    device: str
    num_threads: int


class _Worker:
    """One process, and a thread that listens to it."""

    def __init__(self, command: Sequence[str], hand: Hand, said: "SimpleQueue[tuple[_Worker, dict | None]]"):
        self.hand, self.said = hand, said
        self.begun: Event | None = None
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (read when the process has ended)
        # A session of its own: Ctrl-C reaches the parent alone, which then ends its workers.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": str(hand.num_threads)},
        )
        Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            with self.process.stdin as pipe:
                pipe.write(pickle.dumps(self.hand))
        except BrokenPipeError:
            pass  # it died; its exit code says so below
        for line in self.process.stdout:
            if line.endswith(b"\n"):  # else it died in the middle of it
                self.said.put((self, json.loads(line)))
        self.process.wait()
        self.said.put((self, None))

    def words(self) -> list[str]:
        """What it wrote to standard error."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace").splitlines()

    def place(self) -> str:
        """What it was at last."""
        if self.begun is None:
            return "before its first entry"
        work = next(work for work in self.hand.works if work.facts.name == self.begun.tower)
        slot = work.wanted[self.begun.key][0]
        return f"{self.begun.tower} of {slot.caption[:80]!r}" if work.facts.reads == "caption" else f"{slot.name}"

    def end(self) -> None:
        """Ask it to end, and make it end."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


def gather(command: Callable[[int], Sequence[str]], hands: Sequence[Hand]) -> Events:
    """Start a worker for each hand (`command` of its number from 1) and pass on what they tell.

    What one cannot do (weights that do not fit, a full disk) ends all and is raised; one that dies is told as "broken",
    and the others go on.
    """
    said: SimpleQueue[tuple[_Worker, dict | None]] = SimpleQueue()
    workers: list[_Worker] = []
    try:
        with _terminable():
            workers += [_Worker(command(number), hand, said) for number, hand in enumerate(hands, 1)]
            running = len(workers)
            while running:
                worker, line = said.get()
                if line is not None:
                    yield _heard(worker, line)
                    continue
                running -= 1
                if worker.process.returncode:
                    yield Event("broken", problems=(_death(worker, workers.index(worker) + 1, len(workers)),))
        for words in dict.fromkeys(line for worker in workers for line in worker.words()):
            console.print(f"worker: {words}")
    finally:
        for worker in workers:
            worker.end()


def _heard(worker: _Worker, line: dict) -> Event:
    problems = tuple(Problem(**problem) for problem in line["problems"])
    if "error" in line:
        raise _KINDS[line["error"]](*problems)
    event = Event(line["kind"], line["tower"], line["key"], line["bytes"], problems)
    if event.kind == "begun":
        worker.begun = event
    return event


def _death(worker: _Worker, number: int, total: int) -> Problem:
    code, words = worker.process.returncode, worker.words()
    found = (
        f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}: {' '.join(words[-1:])}"
    )
    do = "start the same command again: what is made is kept, and it goes on from there"
    if code == -signal.SIGKILL:
        do += "; where memory ran out (the system then kills), take fewer --workers"
    return Problem(f"worker {number} of {total} died", found=found, where=f"it was at {worker.place()}", do=do)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM be as Ctrl-C is, so that workers are ended and nothing half-written stays."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def serve(encoding_on: Callable[[str], Encoding], folder: Path, *, by: str) -> None:
    """Be a worker: take the hand from standard input, make its entries, tell each step on standard output."""
    import torch

    with _terminable(), _told_apart() as out:
        hand = pickle.load(sys.stdin.buffer)
        torch.set_num_threads(hand.num_threads)
        try:
            with closing(make(hand.works, encoding_on(hand.device), folder, by=by)) as events:
                for event in events:
                    out.write(json.dumps(asdict(event)) + "\n")
        except CineloraError as error:
            problems = [asdict(problem) for problem in error.problems]
            out.write(json.dumps({"error": type(error).__name__, "problems": problems}) + "\n")


@contextmanager
def _told_apart() -> Iterator[TextIO]:
    """Standard output for the parent alone; what else is printed there goes to standard error."""
    with os.fdopen(os.dup(1), "w", buffering=1) as out:
        os.dup2(2, 1)
        yield out
