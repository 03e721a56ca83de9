"""Owns `events.jsonl`, the diary of a run: one JSON object to a line, only ever added to.

In: a kind ("start", "step", "held_out", "checkpoint", "preview", "resume", "stop", "end", "export") and its facts.
Out: the events, in order, each with "kind" and "time" (seconds since 1970). A line is one write, so several readers
and a kill at any moment leave whole lines and at most one torn last one. Numbers that are not finite are written as
the strings "nan", "inf" and "-inf", since JSON has none. The environment is never written.
"""

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cinelora.base.errors import Problem, RunError
from cinelora.base.files import write_bytes
from cinelora.base.log import logger

Event = dict[str, Any]


class Events:
    """The diary of one run, open for adding; a last line torn by a kill is taken off first."""

    def __init__(self, path: Path):
        self.path = path
        _mend(path)

    def tell(self, kind: str, **facts: Any) -> None:
        """Add one event. Raises RunError where the disk is full or the file cannot be written."""
        event = {"kind": kind, "time": round(time.time(), 3), **facts}
        line = (json.dumps(_plain(event), ensure_ascii=False, allow_nan=False) + "\n").encode(errors="backslashreplace")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                written = os.write(descriptor, line)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unwritten(self.path, str(error.strerror or error)) from error
        if written != len(line):
            raise _unwritten(self.path, f"{written} of {len(line)} bytes were taken")


def read_events(path: Path, *, tell: Callable[[str], None] = logger.warning) -> list[Event]:
    """All events of a file; none where there is no file.

    A torn last line is left out and told through `tell`. Raises RunError naming the line of any other damage.
    """
    lines, torn = _lines(path)
    if torn:
        tell(f"{path.name}: the last line is torn ({len(torn)} bytes) and left out; a run was killed as it wrote it")
    return [_event(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def cut_after(path: Path, step: int) -> int:
    """Rewrite the file whole without the events of later steps, as a resume from `step` makes them again.

    Events without a step stay. Returns how many were taken out. Raises RunError as `read_events` does.
    """
    if not path.exists():
        return 0
    events = read_events(path)
    kept = [event for event in events if not _is_later(event, step)]
    lines = (json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n" for event in kept)
    write_bytes(path, "".join(lines).encode(errors="backslashreplace"))
    return len(events) - len(kept)


def _is_later(event: Event, step: int) -> bool:
    return isinstance(event.get("step"), int) and event["step"] > step


def _lines(path: Path) -> tuple[list[bytes], bytes]:
    """The whole lines, and what is left of a torn last one. A last line that only lacks its newline is whole."""
    if not path.exists():
        return [], b""
    *lines, rest = path.read_bytes().split(b"\n")
    if rest and _parsed(rest) is not None:
        return [*lines, rest], b""
    return lines, rest


def _parsed(line: bytes) -> Event | None:
    try:
        event = json.loads(line.decode(), parse_constant=str)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("kind"), str) else None


def _event(path: Path, number: int, line: bytes) -> Event:
    event = _parsed(line)
    if event is None:
        raise RunError(
            Problem(
                "the run's diary is damaged",
                found=line[:80].decode(errors="replace"),
                allowed='one JSON object to a line, with a "kind"',
                where=f"{path}:{number}",
                do="take the line out, or put the file back from a copy",
            )
        )
    return event


def _mend(path: Path) -> None:
    """Let the file end with a newline, so that the next line starts on its own."""
    lines, torn = _lines(path)
    if torn:
        logger.warning("%s: took off a torn last line (%d bytes)", path.name, len(torn))
        write_bytes(path, b"".join(line + b"\n" for line in lines))
    elif path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        write_bytes(path, path.read_bytes() + b"\n")


def _plain(value: Any) -> Any:
    """The value in what JSON has: paths as text, numbers of numpy and torch as numbers, tuples as lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if callable(getattr(value, "item", None)):
        return _plain(value.item())
    raise TypeError(f"an event cannot hold a {type(value).__name__}: {value!r}")


def _unwritten(path: Path, found: str) -> RunError:
    return RunError(Problem(f"cannot write {path}", found=found, do="free some space, or name another run folder"))
