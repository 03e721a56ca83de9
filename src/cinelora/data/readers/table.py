"""The reader of tables: CSV, JSON lines or a JSON list with a path and a caption per clip.

In: a table file. Out: records in the table's order, `where` = file:line. Sizes, frames and rates that the table states
go along as facts, so that a plan can be made without opening the media.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cinelora.base.errors import DataError, Problem, nearest
from cinelora.base.files import stays_inside
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.captions import is_text
from cinelora.data.options import SourceOptions
from cinelora.data.readers.entry import Entries, at, text_of
from cinelora.data.readers.rows import Row, csv_rows, json_line_rows, json_list_rows

PARSERS = {".csv": csv_rows, ".tsv": csv_rows, ".jsonl": json_line_rows, ".json": json_list_rows}
PATH_COLUMNS = (
    "file_path", "path", "file", "video", "video_path", "media", "media_path", "filename", "file_name", "image",
    "image_path",
)  # fmt: skip
CAPTION_COLUMNS = ("caption", "text", "prompt", "description", "captions")
FACT_COLUMNS = {
    "width": ("width",),
    "height": ("height",),
    "frames": ("frames", "num_frames", "frame_count"),
    "fps": ("fps", "frame_rate"),
}


def recognises(path: Path) -> bool:
    """True for files with a table's suffix."""
    return path.is_file() and path.suffix.lower() in PARSERS


class TableReader:
    """Plays Reader on one table."""

    def __init__(self, path: Path, name: str, source: SourceOptions, *, root: Path):
        self.path, self.source, self.root = path, source, root
        self.entries = Entries(name, source)

    def read(self) -> Iterator[Record | LeftOut]:
        """Records in the table's order. Raises DataError where the file or its columns are not those of a table."""
        text, problem = text_of(self.path)
        if problem:
            raise DataError(problem)
        if self.path.suffix.lower() not in PARSERS:
            found, allowed = self.path.suffix or "no suffix", " ".join(PARSERS)
            raise DataError(Problem("not a known kind of table", found=found, allowed=allowed, where=str(self.path)))
        rows = list(PARSERS[self.path.suffix.lower()](text))
        if not rows:
            raise DataError(Problem("the table has no rows", where=str(self.path)))
        if not any(row.values for row in rows):
            raise DataError(*(self._problem(row) for row in rows))
        path_column, caption_column, facts = self._columns(rows)
        for row in rows:
            yield self._entry(row, path_column, caption_column, facts)

    def _problem(self, row: Row) -> Problem:
        return at(row.problem or Problem("the entry is empty"), self._where(row))

    def _where(self, row: Row) -> str:
        return f"{self.path}:{row.line}"

    def _columns(self, rows: Sequence[Row]) -> tuple[str, str, dict[str, str]]:
        """The columns of path, caption ("" = none needed) and facts."""
        columns = list(dict.fromkeys(str(column) for row in rows for column in row.values))
        path, no_path = self._column("path", self.source.path_column, PATH_COLUMNS, columns)
        caption, no_caption = self._column("caption", self.source.caption_column, CAPTION_COLUMNS, columns)
        if self.source.empty_caption == "allow" and not self.source.caption_column:
            no_caption = []
        if no_path or no_caption:
            raise DataError(*no_path, *no_caption)
        found = {fact: _first(names, columns) for fact, names in FACT_COLUMNS.items()}
        return path, caption, {fact: column for fact, column in found.items() if column}

    def _column(self, what: str, asked: str, known: Sequence[str], columns: list[str]) -> tuple[str, list[Problem]]:
        column = (asked if asked in columns else "") if asked else _first(known, columns)
        if column:
            return column, []
        near = nearest(asked, columns) if asked else ", ".join(dict.fromkeys(filter(None, _near(known, columns))))
        problem = Problem(
            f"the table has no column '{asked}'" if asked else f"the table has no known {what} column",
            found=", ".join(columns[:20]),
            allowed="" if asked else ", ".join(known),
            nearest=near,
            where=str(self.path),
            do=f"name it with {what}_column of this source",
        )
        return "", [problem]

    def _entry(self, row: Row, path_column: str, caption_column: str, columns: dict[str, str]) -> Record | LeftOut:
        where = self._where(row)
        if row.problem:
            return self.entries.left_out(where, at(row.problem, where))
        problems: list[Problem] = []
        media = self._media(row.values.get(path_column), problems)
        text = _text(row.values.get(caption_column) if caption_column else None, problems)
        facts = _facts(row.values, columns, problems)
        if problems or media is None:
            return self.entries.left_out(where, *(at(problem, where) for problem in problems))
        inside = media.relative_to(self.root.resolve()).as_posix()
        return self.entries.make(media, inside, text=text, where=where, facts=facts)

    def _media(self, value: Any, problems: list[Problem]) -> Path | None:
        if not isinstance(value, str) or not value.strip():
            problems.append(Problem("the entry names no media file", found=repr(value)))
            return None
        if "\0" in value or not is_text(value):
            problems.append(Problem("the path has broken characters in it", found=ascii(value)))
            return None
        media = self.root / value.strip()
        if not stays_inside(self.root, media):
            do = "set media_root of this source to a folder that holds all media, or correct the path"
            problems.append(
                Problem("the path leaves the media folder", found=value, allowed=f"below {self.root}", do=do)
            )
            return None
        return media.resolve()


def _first(names: Sequence[str], columns: Sequence[str]) -> str:
    """The column with the first of the known names, case aside; empty where there is none."""
    by_lower = {column.lower(): column for column in reversed(columns)}
    return next((by_lower[name] for name in names if name in by_lower), "")


def _near(known: Sequence[str], columns: Sequence[str]) -> Iterator[str]:
    return (nearest(name, columns, count=1) for name in known)


def _text(value: Any, problems: list[Problem]) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        problems.append(Problem("the caption is not text", found=f"{type(value).__name__} {value!r:.40}"))
        return ""
    return value


def _facts(values: dict[str, Any], columns: dict[str, str], problems: list[Problem]) -> dict[str, float]:
    """What the row states of its media, as positive numbers; whole ones but for fps."""
    facts: dict[str, float] = {}
    for fact, column in columns.items():
        value = values.get(column)
        if value is None or value == "":
            continue
        number = _number(value)
        if number is None or (fact != "fps" and number != int(number)):
            kind = "a positive number" if fact == "fps" else "a positive whole number"
            problems.append(Problem(f"{column} is not {kind}", found=repr(value)))
            continue
        facts[fact] = number if fact == "fps" else int(number)
    return facts


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number > 0 and not isinstance(value, bool) else None
