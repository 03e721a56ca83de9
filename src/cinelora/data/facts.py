"""Owns what is known of a record's media: stated by the dataset, or measured.

In: a Record. Out: `MediaFacts` and notes for the report. A dataset that states width, height, frames and fps is
believed for the plan, so that large tables are planned without opening a file; clips check it when they are decoded.
"""

from dataclasses import replace

import numpy as np

from cinelora.base.errors import DataError, Problem
from cinelora.contracts.flow import Record
from cinelora.media.probe import MediaFacts, even_times, probe

_NEEDED = {"video": ("width", "height", "frames", "fps"), "image": ("width", "height")}


def is_stated(record: Record) -> bool:
    """True where the dataset itself says all that a plan needs."""
    return all(name in record.facts for name in _NEEDED.get(record.kind, ("",)))


def facts_of(record: Record) -> MediaFacts:
    """Stated facts where they are complete, else measured ones. Raises DataError for media that cannot be used."""
    return _stated(record) if is_stated(record) else measured(record)


def measured(record: Record) -> MediaFacts:
    """What the file itself says. Raises DataError naming the record where it cannot be used."""
    try:
        return probe(record.media[0])
    except DataError as error:
        raise DataError(*(_named(problem, record) for problem in error.problems)) from error


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
    """What a message points to: the entry, and the file where that is not the same."""
    media = str(record.media[0])
    return media if record.where == media else f"{record.where} ({media})"


def _named(problem: Problem, record: Record) -> Problem:
    return replace(problem, where=place_of(record))


def _stated(record: Record) -> MediaFacts:
    width, height = int(record.facts["width"]), int(record.facts["height"])
    if record.kind == "image":
        return MediaFacts("image", width, height, 1, 0.0, 0.0, np.zeros(1), np.zeros(1, dtype=np.int64))
    frames, fps = int(record.facts["frames"]), float(record.facts["fps"])
    times, ticks = even_times(frames, fps), np.arange(frames, dtype=np.int64)
    return MediaFacts("video", width, height, frames, fps, frames / fps, times, ticks, tick_seconds=1 / fps)
