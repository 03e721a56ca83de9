"""Owns the reading of a text table whose columns are known by name: its rows, and a cheap look at its columns.

In: a CSV, JSON list or JSON lines file. Out: rows, or the names of the columns.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cinelora.base.errors import DataError, Problem
from cinelora.data.readers.entry import at, text_of
from cinelora.data.readers.rows import Row, csv_rows, json_line_rows, json_list_rows, unwrapped

CSV_SUFFIXES = (".csv", ".tsv")
SHEET_SUFFIXES = (*CSV_SUFFIXES, ".json", ".jsonl")
_PARSERS = {".csv": csv_rows, ".tsv": csv_rows, ".json": json_list_rows, ".jsonl": json_line_rows}
_LOOK_BYTES = 1 << 18


def is_sheet(path: Path, suffixes: Sequence[str] = SHEET_SUFFIXES) -> bool:
    """True for files with one of the suffixes."""
    return path.suffix.lower() in suffixes and path.is_file()


def has_columns(path: Path, *names: str) -> bool:
    """True where the beginning of a table has columns of these names, case aside; False where it cannot be parsed."""
    try:
        with path.open("rb") as file:
            text = file.read(_LOOK_BYTES).decode("utf-8-sig", errors="replace")
    except OSError:  # what is wrong with the file is told by the reader that opens it
        return False
    first = next((row for row in _PARSERS[path.suffix.lower()](text) if row.values), None)
    return first is not None and set(names) <= {str(column).lower() for column in first.values}


def sheet_rows(path: Path, *, unwrapping: bool = False) -> list[Row]:
    """All rows of a table. Raises DataError where it cannot be read, has none, or none that can be used.

    `unwrapping` takes the quotes off that three double quotes leave around the values of a CSV.
    """
    text, problem = text_of(path)
    if problem:
        raise DataError(problem)
    rows = list(_PARSERS[path.suffix.lower()](text))
    if not rows:
        raise DataError(Problem("the table has no rows", where=str(path), do="write one row per clip below the header"))
    if not any(row.values for row in rows):
        empty = Problem("the entry is empty", do="fill it or remove it")
        raise DataError(*(at(row.problem or empty, f"{path}:{row.place}") for row in rows))
    if unwrapping and path.suffix.lower() in CSV_SUFFIXES:
        return [replace(row, values={name: unwrapped(value) for name, value in row.values.items()}) for row in rows]
    return rows


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The names of all columns, in the order in which they come up."""
    return list(dict.fromkeys(str(column) for row in rows for column in row.values))
