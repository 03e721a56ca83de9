"""The reader of tables: CSV, JSON lines, a JSON list, Parquet, a folder of `datasets`, or a dataset of the Hub.

In: a table with a path and a caption per clip. Out: records in the table's order, `where` = table:line (of Parquet and
`datasets` the row). Sizes, frames and rates that the table states go along as facts, so that a plan can be made without
opening the media. Values of a CSV in three double quotes lose the quotes that these leave around them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cinelora.base.errors import DataError, Problem
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import SourceOptions
from cinelora.data.readers import arrow
from cinelora.data.readers.columns import (
    CAPTION_COLUMNS,
    PATH_COLUMNS,
    column_of,
    fact_columns,
    facts_in,
    media_inside,
    text_in,
)
from cinelora.data.readers.entry import Entries, at
from cinelora.data.readers.rows import Row
from cinelora.data.readers.sheet import SHEET_SUFFIXES, columns_of, sheet_rows

SUFFIXES = (*SHEET_SUFFIXES, arrow.SUFFIX)

Opened = tuple[list[str], Callable[[Sequence[str]], Iterable[Row]]]
"""The columns of a table, and how to get its rows with some of them."""


def recognises(path: Path) -> bool:
    """True for files with a table's suffix, folders of `datasets`, and names of the Hub."""
    if str(path).startswith(arrow.HUB):
        return True
    return path.suffix.lower() in SUFFIXES if path.is_file() else arrow.is_datasets_folder(path)


def opened(path: Path, source: SourceOptions) -> Opened:
    """A table of any kind. Raises DataError where it is none."""
    if source.path.startswith(arrow.HUB):
        table = arrow.open_hub(source.path.removeprefix(arrow.HUB))
    elif path.is_dir():
        table = arrow.open_folder(path)
    elif path.suffix.lower() == arrow.SUFFIX:
        table = arrow.open_parquet(path)
    elif path.suffix.lower() in SHEET_SUFFIXES:
        rows = sheet_rows(path, unwrapping=True)
        return columns_of(rows), lambda _: rows
    else:
        found, allowed = path.suffix or "no suffix", " ".join(SUFFIXES)
        raise DataError(Problem("not a known kind of table", found=found, allowed=allowed, where=str(path)))
    return list(table.columns), table.rows


class TableReader:
    """Plays Reader on one table.

    `root` is the folder that its paths start from and may not leave; a folder of `datasets` without media_root is its
    own, and what the Hub's library fetched lies in that library's caches.
    """

    def __init__(self, path: Path, name: str, source: SourceOptions, *, root: Path):
        self.hub = source.path.startswith(arrow.HUB)
        self.path, self.source = path, source
        self.where = source.path if self.hub else str(path)
        self.root = (path if path.is_dir() and not source.media_root else root).resolve()
        self.entries = Entries(name, source)

    def read(self) -> Iterator[Record | LeftOut]:
        """Records in the table's order. Raises DataError where the file or its columns are not those of a table."""
        columns, rows_with = opened(self.path, self.source)
        path_column, caption_column = self._columns(columns)
        facts = fact_columns(columns)
        rows = list(rows_with([column for column in (path_column, caption_column, *facts.values()) if column]))
        self._check_rows(rows)
        self._check_places(row.values.get(path_column) for row in rows)
        for row in rows:
            yield self._entry(row, path_column, caption_column, facts)

    def _where(self, row: Row) -> str:
        return f"{self.where}:{row.place}"

    def _columns(self, columns: Sequence[str]) -> tuple[str, str]:
        """The columns of path and caption ("" = none needed)."""
        path, no_path = column_of("path", self.source.path_column, PATH_COLUMNS, columns, self.where)
        caption, no_caption = column_of("caption", self.source.caption_column, CAPTION_COLUMNS, columns, self.where)
        if self.source.empty_caption == "allow" and not self.source.caption_column:
            no_caption = []
        if no_path or no_caption:
            raise DataError(*no_path, *no_caption)
        return path, caption

    def _check_rows(self, rows: Sequence[Row]) -> None:
        if not rows:
            raise DataError(Problem("the table has no rows", where=self.where, do="name a table with clips"))

    def _check_places(self, values: Iterable[Any]) -> None:
        """Raise DataError where a dataset of the Hub names files that nobody says the place of."""
        if not self.hub or self.source.media_root:
            return
        named = next((value for value in values if isinstance(value, str)), None)
        if named is not None:
            what = "the dataset names files, but not where they lie"
            do = "set media_root of this source to the folder that holds them"
            raise DataError(Problem(what, found=named, where=self.where, do=do))

    def _entry(
        self, row: Row, path_column: str, caption_column: str, fact_columns: Mapping[str, str]
    ) -> Record | LeftOut:
        where = self._where(row)
        if row.problem:
            return self.entries.left_out(where, at(row.problem, where))
        problems: list[Problem] = []
        value = row.values.get(path_column)
        root = self._root_of(value)
        media = media_inside(root, value, problems)
        text = text_in(row.values.get(caption_column) if caption_column else None, problems)
        facts = facts_in(row.values, fact_columns, problems)
        if problems or media is None:
            return self.entries.left_out(where, *(at(problem, where) for problem in problems))
        inside = media.relative_to(root)
        if self.hub and not self.source.media_root:
            inside = _below_snapshot(inside)
        return self.entries.make(media, inside.as_posix(), text=text, where=where, facts=facts)

    def _root_of(self, value: Any) -> Path:
        """The folder that a row's media may not leave."""
        if not self.hub or self.source.media_root:
            return self.root
        import datasets
        from huggingface_hub import constants

        caches = [Path(constants.HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE)]
        path = Path(str(value.get("path"))) if isinstance(value, Mapping) else Path()
        return next((cache for cache in caches if path.is_relative_to(cache)), caches[0]).resolve()


def _below_snapshot(path: Path) -> Path:
    """A path of the Hub's cache without what changes with each revision: the part after snapshots/REVISION."""
    parts = path.parts
    return Path(*parts[parts.index("snapshots") + 2 :]) if "snapshots" in parts[:-2] else path
