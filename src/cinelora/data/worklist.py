"""Owns the list to work through: every problem and every warning of a dataset, with what to do about each.

In: the plan, and scans where clips were looked into. Out: `Task`s, errors before warnings, in the order of the plan.
An error keeps the training from starting, or its clip out of it (data.on_bad); clips that the recipe itself asks to
leave out are warnings.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cinelora.base.errors import Problem
from cinelora.data.bucketing import TOO_SHORT
from cinelora.data.fate import Row
from cinelora.data.plan import Plan
from cinelora.data.scan import ClipScan

_DUPLICATE = "keep one of the two, so that neither counts twice"
_SAME, _SAID_TWICE = "the same file as", "the same caption as"
_NOTES = (
    ("enlarged", "use a larger source, or a smaller data.size, or set data.upscale = false"),
    ("things move", "set data.fps = 'family', or name the rate that suits the source"),
    ("the two pictures differ in size", "make both of one size"),
    ("stands in", "nothing, if these sizes are meant"),
    ("only", "set data.fps to the source's rate or less, or use a source of more frames per second"),
    ("variable frame rate", "nothing, if the clip looks right: frames are taken by their timestamps"),
    ("the table is wrong", "correct the table"),
    (_SAME, _DUPLICATE),
    (_SAID_TWICE, "keep one of the two, or leave both where it shall count twice"),
    (TOO_SHORT, "list a smaller number in data.frames, or use a longer clip"),
)
"""How notes of the plan begin, and what can be done."""


Kind = Literal["error", "warning"]


@dataclass(frozen=True)
class Task:
    """One thing to look after: of which clip, in which file, what is wrong, what was found, what to do."""

    key: str
    file: str
    kind: Kind
    what: str
    found: str = ""
    do: str = ""


def tasks_of(
    plan: Plan, scans: Sequence[ClipScan] = (), *, tokens: Mapping[str, Sequence[int]], limit: int = 0
) -> list[Task]:
    """All tasks. `tokens` counts those of each clip's captions by its key, `limit` is how many the encoder reads."""
    seen = {scan.key: scan for scan in scans}
    told = _problems_by_place(plan.problems)
    tasks: list[Task] = []
    for row in plan.rows:
        tasks += _of_row(row, told)
        if row.key in seen:
            tasks += _of_scan(row, seen[row.key])
        over = [count for count in tokens.get(row.key, ()) if limit and count > limit]
        if over:
            do = "shorten the caption: what stands beyond the limit is not read"
            tasks.append(
                Task(
                    row.key,
                    row.where,
                    "warning",
                    "the caption is longer than the text encoder reads",
                    f"{max(over)} of {limit} tokens",
                    do,
                )
            )
    return sorted(tasks, key=lambda task: task.kind != "error")


def _problems_by_place(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    """Problems by the place that they name.

    Of "table.csv:3 (a.mp4)" also by what stands before the bracket, of "table.csv:3 and table.csv:7" by the second.
    """
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        where = problem.where
        for place in {where, where.rpartition(" (")[0], where.rpartition(" and ")[2]} - {""}:
            found.setdefault(place, []).append(problem)
    return found


def _of_row(row: Row, told: Mapping[str, Sequence[Problem]]) -> list[Task]:
    """What the plan says of one entry."""
    tasks: list[Task] = []
    if row.status == "left out":
        known = told.get(row.where, ())
        tasks += [Task(row.key, row.where, "error", p.what, p.found or p.nearest, p.do) for p in known]
        if not known:
            what, _, found = row.reason.partition(": ")
            kind: Kind = "warning" if what == TOO_SHORT else "error"
            tasks.append(Task(row.key, row.where, kind, what, found, _what_to_do(what)))
    for note in row.notes:
        same = next((words for words in (_SAME, _SAID_TWICE) if note.startswith(words)), "")
        what, found = (same, note[len(same) :]) if same else note.partition(": ")[::2]
        tasks.append(Task(row.key, row.where, "warning", what, found.strip(), _what_to_do(note)))
    return tasks


def _what_to_do(note: str) -> str:
    return next((do for beginning, do in _NOTES if note.startswith(beginning)), "")


def _of_scan(row: Row, scan: ClipScan) -> list[Task]:
    """What the pictures say of a clip that is not left out; nothing that the plan has said already."""
    if row.status == "left out":
        return []
    tasks = [Task(row.key, row.where, "error", p.what, p.found, p.do) for p in scan.problems]
    warnings = [*_repeated(row, scan), *_seen(scan)]
    return tasks + [Task(row.key, row.where, "warning", *warning) for warning in warnings]


Warned = Iterator[tuple[str, str, str]]
"""What, found, do."""


def _repeated(row: Row, scan: ClipScan) -> Warned:
    if scan.like and not any(note.startswith(_SAME) for note in row.notes):
        what = "looks like another clip, mirrored" if scan.mirrored else "looks like another clip"
        yield what, scan.like, f"look at both; of a copy, {_DUPLICATE}"


def _seen(scan: ClipScan) -> Warned:
    if scan.black:
        do = "remove it, or leave the black out (data.drop_start, data.drop_end)"
        yield "black", "nine in ten frames or more", do
    elif scan.frozen:
        yield "nothing moves", "all frames are the same picture", "remove it, or use one picture of it"
    if scan.cuts:
        times = ", ".join(f"{time:.2f} s" for time in scan.cuts[:5]) + (" ..." if len(scan.cuts) > 5 else "")
        yield "the scene changes", f"at {times}", "cut the clip there: what changes abruptly is learned as it is"
    if scan.damaged_at is not None:
        found = f"from {scan.damaged_at:.2f} s on"
        yield "is damaged behind the part that is used", found, "encode it again, or get it again"
