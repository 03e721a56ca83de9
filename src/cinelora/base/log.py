"""Owns what a person sees while something runs: one logger, one kind of progress bar.

Bars appear where standard error is a terminal; elsewhere a plain line with the time left comes every ten seconds,
so that logs of long jobs show life without control codes.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console

T = TypeVar("T")

logger = logging.getLogger("cinelora")
_LINE_EVERY_SECONDS = 10.0
_LOG_COLUMNS = 140


def open_console(*, stderr: bool = False) -> Console:
    """A console that prints words as they stand: paths are not broken over lines, [brackets] are no markup.

    Tables fit the terminal; in a log or a pipe, which has no width, they get `_LOG_COLUMNS`.
    """
    opened = Console(stderr=stderr, highlight=False, markup=False, soft_wrap=True)
    if not opened.is_terminal and "COLUMNS" not in os.environ:
        opened.width = _LOG_COLUMNS
    return opened


console = open_console(stderr=True)

Advance = Callable[..., None]
"""Call with `count` (how many more are done, default 1) and `note` (a short text, such as the loss)."""


@contextmanager
def progress(label: str, total: int, *, done: int = 0) -> Iterator[Advance]:
    """Show how far a piece of work is and how long it will still take."""
    if console.is_terminal:
        yield from _bar(label, total, done)
    else:
        yield _lines(label, total, done)


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Go through `items` under a progress bar."""
    with progress(label, total) as advance:
        for item in items:
            yield item
            advance()


def _bar(label: str, total: int, done: int) -> Iterator[Advance]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(label, total=total, completed=done, note="")
        yield lambda count=1, note="": bar.update(task, advance=count, note=note)


def _lines(label: str, total: int, done: int) -> Advance:
    started = told = time.monotonic()
    now_done = done

    def advance(count: int = 1, note: str = "") -> None:
        nonlocal now_done, told
        now_done += count
        now = time.monotonic()
        if now - told < _LINE_EVERY_SECONDS and not (now_done >= total and now - started > 2):
            return
        told = now
        left = (now - started) / max(1, now_done - done) * (total - now_done)
        console.print(f"{label}: {now_done}/{total}, about {left:.0f} s left {note}".rstrip())

    return advance
