"""The reader of WebVid's tables, which DynamiCrafter uses: videoid, page_dir, name; videos/PAGE_DIR/VIDEOID.mp4.

In: a CSV. Out: records in the table's order, `where` = file:line. All values are text, so that "00012" and "NA" stay
what they are, and other columns are not looked at. Rows that say the same video and caption once more, this format's
own way of showing a clip more often, count as repeats of the first.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from cinelora.base.errors import DataError, Problem
from cinelora.base.log import logger
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import SourceOptions
from cinelora.data.readers.columns import column_of, media_inside
from cinelora.data.readers.entry import Entries, at
from cinelora.data.readers.rows import Row
from cinelora.data.readers.sheet import CSV_SUFFIXES, columns_of, has_columns, is_sheet, sheet_rows

_COLUMNS = ("videoid", "page_dir", "name")
_FOLDER, _SUFFIX = "videos", ".mp4"


def recognises(path: Path) -> bool:
    """True for CSV tables with columns videoid, page_dir and name."""
    return is_table(path) and has_columns(path, *_COLUMNS)


def is_table(path: Path) -> bool:
    """True for files that this reader can try."""
    return is_sheet(path, CSV_SUFFIXES)


class WebvidReader:
    """Plays Reader on one table."""

    def __init__(self, path: Path, name: str, source: SourceOptions, *, root: Path):
        self.path, self.root = path, root
        self.entries = Entries(name, source)

    def read(self) -> Iterator[Record | LeftOut]:
        """Records in the table's order. Raises DataError where the table cannot be read or lacks a column."""
        rows = sheet_rows(self.path)
        columns = self._columns(rows)
        values = [tuple(str(row.values.get(column, "")) for column in columns) for row in rows]
        counts = Counter(value for row, value in zip(rows, values, strict=True) if not row.problem)
        again = sum(counts.values()) - len(counts)
        if again:
            logger.warning("%s: %d rows say a video and its caption once more: taken as repeats", self.path, again)
        for row, value in zip(rows, values, strict=True):
            if row.problem:
                where = self._where(row)
                yield self.entries.left_out(where, at(row.problem, where))
            elif count := counts.pop(value, 0):
                entry = self._entry(self._where(row), *value)
                yield replace(entry, repeats=entry.repeats * count) if isinstance(entry, Record) else entry

    def _where(self, row: Row) -> str:
        return f"{self.path}:{row.place}"

    def _columns(self, rows: Sequence[Row]) -> list[str]:
        known = columns_of(rows)
        found = [column_of(name, "", (name,), known, self.path) for name in _COLUMNS]
        do = f"the header needs {', '.join(_COLUMNS)}; or set reader = 'table' for other columns"
        problems = [
            replace(problem, what=f"the table has no column '{name}'", do=do)
            for name, (_, missing) in zip(_COLUMNS, found, strict=True)
            for problem in missing
        ]
        if problems:
            raise DataError(*problems)
        return [column for column, _ in found]

    def _entry(self, where: str, video: str, page: str, text: str) -> Record | LeftOut:
        problems = [
            Problem(f"the row has no {name}", do=f"fill it in: the file is {_FOLDER}/PAGE_DIR/VIDEOID{_SUFFIX}")
            for name, value in zip(_COLUMNS, (video, page), strict=False)
            if not value.strip()
        ]
        problems += [
            Problem(f"{name} leaves the folder {_FOLDER}", found=value, allowed="a path below it, without ..")
            for name, value in zip(_COLUMNS, (video, page), strict=False)
            if PurePosixPath(value).is_absolute() or ".." in PurePosixPath(value).parts
        ]
        media = None if problems else media_inside(self.root, f"{_FOLDER}/{page}/{video}{_SUFFIX}", problems)
        if media is None:
            return self.entries.left_out(where, *(at(problem, where) for problem in problems))
        inside = media.relative_to(self.root.resolve()).as_posix()
        return self.entries.make(media, inside, text=text, where=where)
