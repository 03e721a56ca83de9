"""The reader of EasyAnimate's and VideoX-Fun's tables: file_path, text, type (video or image), width, height.

In: a JSON list or a CSV. Out: records in the table's order, `where` = file:line; sizes go along as facts. A row without
a type is an image, as it is in EasyAnimate; where no row has one at all, the files themselves say what they are.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cinelora.base.errors import DataError, Problem, nearest
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import SourceOptions
from cinelora.data.readers.columns import column_of, fact_columns, facts_in, first_known, media_inside, text_in
from cinelora.data.readers.entry import SUFFIXES, Entries, at
from cinelora.data.readers.rows import Row
from cinelora.data.readers.sheet import columns_of, has_columns, is_sheet, sheet_rows
from cinelora.media.moving import MOVING_SUFFIXES
from cinelora.media.probe import is_image

_PATH, _TEXT, _TYPE = "file_path", "text", "type"
_TYPES = ("video", "image")


def recognises(path: Path) -> bool:
    """True for tables with columns file_path and text."""
    return is_sheet(path) and has_columns(path, _PATH, _TEXT)


class EasyAnimateReader:
    """Plays Reader on one table."""

    def __init__(self, path: Path, name: str, source: SourceOptions, *, root: Path):
        self.path, self.source, self.root = path, source, root
        self.entries = Entries(name, source)

    def read(self) -> Iterator[Record | LeftOut]:
        """Records in the table's order. Raises DataError where the file or its columns are not those of a table."""
        rows = sheet_rows(self.path, unwrapping=True)
        columns = columns_of(rows)
        path, no_path = column_of("path", self.source.path_column, (_PATH,), columns, self.path)
        text, no_text = column_of("caption", self.source.caption_column, (_TEXT,), columns, self.path)
        if self.source.empty_caption == "allow" and not self.source.caption_column:
            no_text = []
        if no_path or no_text:
            raise DataError(*no_path, *no_text)
        kind, facts = first_known((_TYPE,), columns), fact_columns(columns)
        if not any(_stated(row.values.get(kind)) for row in rows):
            kind = ""
        for row in rows:
            yield self._entry(row, {"path": path, "text": text, "type": kind}, facts)

    def _entry(self, row: Row, columns: dict[str, str], facts: dict[str, str]) -> Record | LeftOut:
        where = f"{self.path}:{row.place}"
        if row.problem:
            return self.entries.left_out(where, at(row.problem, where))
        problems: list[Problem] = []
        media = media_inside(self.root, row.values.get(columns["path"]), problems)
        text = text_in(row.values.get(columns["text"]), problems)
        stated = facts_in(row.values, facts, problems)
        if columns["type"]:
            problems += _type_problems(row.values.get(columns["type"]), media)
        problems = [at(problem, where) for problem in problems]
        if media is None:
            return self.entries.left_out(where, *problems)
        inside = media.relative_to(self.root.resolve()).as_posix()
        entry = self.entries.make(media, inside, text=text, where=where, facts=stated)
        if isinstance(entry, LeftOut):
            problems += entry.problems
        return self.entries.left_out(where, *problems) if problems else entry


def _stated(value: Any) -> bool:
    return value is not None and not (isinstance(value, str) and not value.strip())


def _type_problems(value: Any, media: Path | None) -> list[Problem]:
    """What is wrong with a row's type: no word for a kind, or not the kind that the file is of."""
    word = value.strip() if isinstance(value, str) else value
    if not _stated(word):
        word = "image"
    elif word not in _TYPES:
        near = nearest(str(word).lower(), _TYPES, count=1)
        what, allowed = "not a known type", "video, image, or nothing (= image)"
        return [Problem(what, found=f"{value!r:.60}", allowed=allowed, nearest=near)]
    if media is None or media.suffix.lower() not in SUFFIXES:
        return []
    if media.suffix.lower() in MOVING_SUFFIXES and not os.path.isfile(media):  # only the file tells
        return []
    real = "image" if is_image(media) else "video"
    if word == real:
        return []
    found = f"type {word!r}" if _stated(value) else "no type, which means 'image'"
    do = f"write {real!r} as its type, or name {'an image' if word == 'image' else 'a video'}"
    return [Problem("the type contradicts the file", found=f"{found}, and {media.name}", allowed=real, do=do)]
