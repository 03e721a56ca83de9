"""Owns what is known of a record's media: stated by the dataset, or measured.

In: a Record. Out: `MediaFacts` and notes for the report. A dataset that states width, height, frames and fps is
believed for the plan, so that large tables are planned without opening a file; clips check it when they are decoded.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from cinelora.base.errors import DataError, Problem
from cinelora.base.workers import each
from cinelora.contracts.flow import Record
from cinelora.data.masks import check_mask
from cinelora.data.tracks import check_tracks
from cinelora.media.probe import MediaFacts, even_times, probe

_NEEDED = {"video": ("width", "height", "frames", "fps"), "image": ("width", "height")}
_REMEMBERED = 512
"""Files whose facts are kept: what is planned, encoded and shown again soon is measured once."""


def is_stated(record: Record) -> bool:
    """True where the dataset itself says all that a plan needs."""
    return all(name in record.facts for name in _NEEDED.get(record.kind, ("",)))


def facts_of(record: Record) -> MediaFacts:
    """Stated facts where they are complete, else measured ones. Raises DataError for media that cannot be used."""
    return _stated(record) if is_stated(record) else measured(record)


def measured(record: Record) -> MediaFacts:
    """What the file itself says; of a pair, its first picture. Raises DataError naming the record where it is unusable.

    A file that has not changed its size and time of change is not opened again.
    """
    return measured_each(record)[0]


def measured_each(record: Record) -> tuple[MediaFacts, ...]:
    """The facts of the record's file, or of both pictures of a pair. Raises DataError as `measured` does."""
    with naming(record):
        facts = tuple(_measured_file(path) for path in record.media[: 2 if record.kind == "pair" else 1])
        for path, own in zip(record.media, facts, strict=False):
            if record.kind == "pair" and own.kind != "image":
                what, do = "a pair is made of two pictures", "save its frame as a picture"
                raise DataError(Problem(what, found=f"a video of {own.frames} frames", where=str(path), do=do))
    return facts


def measure_all(records: Sequence[Record], *, seconds: float, num_threads: int = 0) -> Iterator[MediaFacts | DataError]:
    """The facts of every record in order, or why it, or its mask, cannot be used; stated ones without opening the file.

    Works in threads (0 = one per core); a file that takes longer than `seconds` is given up.
    """
    found = each(_facts_or_error, records, num_threads=num_threads, seconds=seconds)
    for record, facts in zip(records, found, strict=True):
        if isinstance(facts, TimeoutError):
            do = "encode it again, take it out, or raise data.seconds_per_file"
            yield DataError(
                Problem("takes too long to measure", found=f"over {seconds:g} s", where=place_of(record), do=do)
            )
        else:
            yield facts


def _facts_or_error(record: Record) -> MediaFacts | DataError:
    try:
        facts = facts_of(record)
        check_mask(record, facts)
        check_tracks(record, facts)
    except DataError as error:
        return error
    return facts


@contextmanager
def naming(record: Record) -> Iterator[None]:
    """Turn problems of files into problems of the record they belong to."""
    try:
        yield
    except DataError as error:
        raise DataError(*(_named(problem, record) for problem in error.problems)) from error


def _measured_file(path: Path) -> MediaFacts:
    try:
        status = path.stat()
    except OSError:
        return probe(path)  # which says what is wrong with it
    return _remembered(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=_REMEMBERED)
def _remembered(path: Path, num_bytes: int, changed_ns: int) -> MediaFacts:
    return probe(path)


def check_stated(record: Record, facts: MediaFacts) -> None:
    """Raise DataError where a plan was made from stated facts that the file contradicts."""
    wrong = disagreements(record, facts)
    if wrong and is_stated(record):
        what = "the dataset states other facts than the file has"
        do = "correct the table, or take the columns out so that files are measured"
        raise DataError(Problem(what, found="; ".join(wrong), where=place_of(record), do=do))


def disagreements(record: Record, facts: MediaFacts) -> list[str]:
    """Each stated fact that differs from the measured one; rates may differ by 1 %."""
    wrong = []
    for name in ("width", "height") if facts.kind == "image" else ("width", "height", "frames", "fps"):
        stated, true = record.facts.get(name), getattr(facts, name)
        close = 0.01 * true if name == "fps" else 0
        if stated is not None and abs(stated - true) > close:
            wrong.append(f"{name} {stated:g} stated, {true:g} measured")
    return wrong


def place_of(record: Record) -> str:
    """What a message points to: the entry, and the file where there is one that is not the same."""
    if not record.media:
        return record.where
    media = str(record.media[0])
    return media if record.where == media else f"{record.where} ({media})"


def _named(problem: Problem, record: Record) -> Problem:
    if problem.where not in map(str, record.media):
        return problem if problem.where else replace(problem, where=place_of(record))
    media = problem.where
    return problem if record.where == media else replace(problem, where=f"{record.where} ({media})")


def _stated(record: Record) -> MediaFacts:
    width, height = int(record.facts["width"]), int(record.facts["height"])
    if record.kind == "image":
        return MediaFacts("image", width, height, 1, 0.0, 0.0, np.zeros(1), np.zeros(1, dtype=np.int64))
    frames, fps = int(record.facts["frames"]), float(record.facts["fps"])
    times, ticks = even_times(frames, fps), np.arange(frames, dtype=np.int64)
    return MediaFacts("video", width, height, frames, fps, frames / fps, times, ticks, tick_seconds=1 / fps)
