"""Owns the page of a dataset: every clip as a strip of pictures, what becomes of it, and what is wrong with it.

In: a `DataFacts` of plain tables, one a clip. Out: `report.html`, `clips.json`, `problems.csv` in a folder. Clips with
errors come first, then those with warnings. Pictures lie in the page, or beside it where a clip's table names a file.
"""

import csv
import io
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cinelora.base.files import write_text
from cinelora.report.clips import buckets_part, data_line, tone_of
from cinelora.report.film import film
from cinelora.report.markup import Markup, joined, tag
from cinelora.report.rows import HELD_OUT, LEFT_OUT, USED, ClipRow, read_rows, source_text, target_text
from cinelora.report.shell import document, notes_section, tile

MOST_CARDS = 2000
"""Clips shown in the page; `clips.json` has every one."""
PROBLEM_COLUMNS = ("key", "file", "kind", "what", "found", "do")
_FORMULA = ("=", "+", "-", "@")


@dataclass(frozen=True)
class DataFacts:
    """What is known of a data.

    `entries` are the plan's rows as tables, with "captions" and "tokens" (lists), "tasks" (tables of PROBLEM_COLUMNS)
    and, where a clip was looked into, "strip", "stretch", "cuts" and "tracks". `token_limit` is how many tokens the
    text encoder reads, 0 where they were not counted; `stops` says that errors keep the training from starting;
    `warnings` are about the dataset as a whole.
    """

    name: str
    model: str
    entries: Sequence[Mapping[str, Any]]
    token_limit: int = 0
    stops: bool = True
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()


def write_data_page(folder: Path, data: DataFacts) -> Path:
    """Write the three files, each whole or not at all, and return the page's path."""
    write_text(folder / "problems.csv", problems_csv(data))
    write_text(folder / "clips.json", json.dumps([_without_image(one) for one in data.entries], indent=1))
    page = folder / "report.html"
    write_text(page, data_text(data))
    return page


def problems_csv(data: DataFacts) -> str:
    """One line for each error and warning, errors first. No cell is read as a formula by a spreadsheet."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(PROBLEM_COLUMNS)
    tasks = [task for entry in data.entries for task in _tasks(entry)]
    for task in sorted(tasks, key=lambda task: task.get("kind") != "error"):
        writer.writerow([cell(task.get(name, "")) for name in PROBLEM_COLUMNS])
    return file.getvalue()


def cell(value: object) -> str:
    """A value as a cell: one line of printable text, with an apostrophe before what a spreadsheet would compute."""
    text = str(value).encode("utf-8", "backslashreplace").decode()
    line = " ".join("".join(" " if unicodedata.category(letter) == "Cc" else letter for letter in text).split())
    return "'" + line if line.startswith(_FORMULA) else line


def data_text(data: DataFacts) -> str:
    """The page, as HTML."""
    rows, row_notes = read_rows(data.entries)
    cards = sorted(data.entries, key=_rank)
    return document(
        data.name,
        _header(data, rows),
        tag(
            "section",
            tag("h2", "Data"),
            tag("p", data_line(rows), class_="lead"),
            _warnings(data.warnings),
            buckets_part(rows),
            _legend() if any(one.get("strip") for one in cards) else None,
            _filters(cards),
            tag("div", *(_card(one, read_rows([one])[0][0], data) for one in cards[:MOST_CARDS]), class_="films"),
            _beyond(len(cards)),
            id="data",
        ),
        notes_section([*data.notes, *row_notes]),
    )


def _header(data: DataFacts, rows: Sequence[ClipRow]) -> Markup:
    errors, warnings = (_count(data, kind) for kind in ("error", "warning"))
    tone, word = ("bad", "errors") if errors else ("warn", "warnings") if warnings else ("good", "no problem found")
    return tag(
        "header",
        tag(
            "div",
            tag("span", "cinelora dataset", class_="over"),
            tag("span", word, class_="pill " + tone),
            class_="top",
        ),
        tag("h1", data.name),
        tag("p", data.model, class_="trained"),
        tag("p", _verdict(data, rows, errors, warnings), class_="verdict"),
        _tiles(data, rows, errors, warnings),
    )


def _verdict(data: DataFacts, rows: Sequence[ClipRow], errors: int, warnings: int) -> str:
    used = sum(row.status == USED for row in rows)
    said = f"{used:,} clip{'s' * (used != 1)} to train on"
    if errors and data.stops:
        return f"Training would not start: {_said(errors, 'error')}. {said} without them."
    left = f", {_said(errors, 'error')} left out" if errors else ""
    return f"{said}{left}, {_said(warnings, 'warning') if warnings else 'nothing to warn of'}."


def _said(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _tiles(data: DataFacts, rows: Sequence[ClipRow], errors: int, warnings: int) -> Markup:
    counts = {status: sum(row.status == status for row in rows) for status in (USED, HELD_OUT, LEFT_OUT)}
    under = ", ".join(f"{counts[status]:,} {status}" for status in (HELD_OUT, LEFT_OUT) if counts[status])
    seen, lost = sum(row.frames_used or 0 for row in rows), sum(row.frames_lost or 0 for row in rows)
    seconds = sum(row.seconds or 0 for row in rows)
    tiles = [tile("clips used", f"{counts[USED]:,}", under), tile("errors", f"{errors:,}", "in problems.csv")]
    tiles.append(tile("warnings", f"{warnings:,}", "in problems.csv"))
    if seen + lost:
        tiles.append(tile("frames seen", f"{seen / (seen + lost):.0%}", f"of {seconds:,.0f} s of video"))
    tokens = [count for entry in data.entries for count in entry.get("tokens") or ()]
    if tokens and data.token_limit:
        cut = sum(count > data.token_limit for count in tokens)
        under = f"of {data.token_limit} that are read; {_said(cut, 'caption')} cut"
        tiles.append(tile("longest caption, tokens", f"{max(tokens):,}", under))
    return tag("dl", *tiles, class_="tiles")


def _warnings(said: Sequence[str]) -> Markup | None:
    return tag("ul", *(tag("li", one) for one in said), class_="tasks whole") if said else None


def _legend() -> Markup:
    return tag(
        "p",
        "Each strip is spread over the whole source. What the frame leaves out is cropped away; a picture that is dark "
        "as a whole lies outside the stretch that is used. Everything to work through stands in problems.csv.",
        class_="quiet",
    )


def _filters(cards: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Buttons that the script brings to life; hidden until then."""
    if len(cards) < 2:
        return None
    kinds = [_kind(one) for one in cards]
    words = (("", "all"), ("error", "errors"), ("warning", "warnings"), ("fine", "used as they are"))
    buttons = [
        tag("button", f"{said} {kinds.count(kind) if kind else len(kinds):,}", type="button", data_show=kind or "all")
        for kind, said in words
    ]
    find = tag(
        "input", type="search", placeholder="find in names and captions", aria_label="find in names and captions"
    )
    return tag("div", *buttons, find, tag("output", ""), class_="filters", hidden=True)


def _card(entry: Mapping[str, Any], row: ClipRow, data: DataFacts) -> Markup:
    """One clip."""
    said = source_text(row)
    becomes = target_text(row)
    way = [said, " → " if said and becomes else None, tag("b", becomes) if becomes else None]
    if row.scale and becomes:
        way.append(f", scaled {row.scale:.2f} times")
    return tag(
        "article",
        film(entry, row),
        tag("div", tag("h3", row.key), tag("span", row.status, class_="pill " + tone_of(row)), class_="top"),
        tag("p", *way, class_="way") if said or becomes else None,
        tag("p", _lost(row, entry.get("stretch")), class_="quiet") if row.frames_used else None,
        _tracks(entry),
        _captions(entry, data.token_limit),
        _tasks_list(entry),
        class_="clipcard",
        data_kind=_kind(entry),
        title=row.where or None,
    )


def _tracks(entry: Mapping[str, Any]) -> Markup | None:
    """How many tracks a clip has; those that move most are drawn over its strip."""
    tracks = entry.get("tracks")
    count = tracks.get("count") if isinstance(tracks, Mapping) else None
    return None if count is None else tag("p", _said(int(count), "track"), class_="quiet")


def _lost(row: ClipRow, stretch: Any) -> str:
    """How many frames an epoch shows, and of which seconds."""
    seen, lost = row.frames_used or 0, row.frames_lost or 0
    said = f"{seen:,.0f} of {seen + lost:,.0f} frames are seen" if lost else "every frame is seen"
    if not row.seconds or not isinstance(stretch, list | tuple) or not stretch[1]:
        return said
    return f"{said}, from {stretch[0]:.1f} s to {stretch[1]:.1f} s"


def _captions(entry: Mapping[str, Any], limit: int) -> Markup | None:
    """The first caption with its tokens, the others folded."""
    captions = [str(one) for one in entry.get("captions") or ()]
    tokens = [*(entry.get("tokens") or ()), *[None] * len(captions)]
    said = [_caption(text, count, limit) for text, count in zip(captions, tokens, strict=False)]
    if len(said) < 2:
        return said[0] if said else None
    return joined(said[0], tag("details", tag("summary", _said(len(said) - 1, "further caption")), *said[1:]))


def _caption(text: str, count: int | None, limit: int) -> Markup:
    words = tag("span", " ".join(text.split()) or "no caption", class_="words")
    if count is None:
        return tag("p", words, class_="said")
    over = limit and count > limit
    told = f"{count:,} tokens, the last {count - limit:,} cut off" if over else _said(count, "token")
    return tag("p", words, " ", tag("span", told, class_="pill " + ("warn" if over else "plain")), class_="said")


def _tasks_list(entry: Mapping[str, Any]) -> Markup | None:
    lines = []
    for task in _tasks(entry):
        found, do = str(task.get("found") or ""), str(task.get("do") or "")
        what = str(task.get("what", "")) + (": " if found else "")
        lines.append(tag("li", tag("b", what), found, tag("span", do) if do else None, class_=str(task.get("kind"))))
    return tag("ul", *lines, class_="tasks") if lines else None


def _beyond(count: int) -> Markup | None:
    said = f"{count - MOST_CARDS:,} further clips stand in clips.json."
    return tag("p", said, class_="quiet") if count > MOST_CARDS else None


def _tasks(entry: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return entry.get("tasks") or ()


def _count(data: DataFacts, kind: str) -> int:
    return sum(task.get("kind") == kind for entry in data.entries for task in _tasks(entry))


def _kind(entry: Mapping[str, Any]) -> str:
    kinds = {task.get("kind") for task in _tasks(entry)}
    return "error" if "error" in kinds else "warning" if kinds else "fine"


def _rank(entry: Mapping[str, Any]) -> int:
    return ("error", "warning", "fine").index(_kind(entry))


def _without_image(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The table without pictures that the page carries itself."""
    strip = entry.get("strip")
    if isinstance(strip, Mapping) and str(strip.get("image", "")).startswith("data:"):
        return {**entry, "strip": {name: value for name, value in strip.items() if name != "image"}}
    return dict(entry)
