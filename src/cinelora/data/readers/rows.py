"""Owns the parsing of table files into rows: CSV (comma, semicolon, tab), JSON lines, one JSON list.

In: the text. Out: `Row`s, each with the line it starts on; a row that cannot be parsed carries its problem instead.
"""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cinelora.base.errors import Problem

DELIMITERS = ",;\t"
_LONGEST_FIELD = 1 << 24
_KEEP = "write it anew, or remove the row"


@dataclass(frozen=True)
class Row:
    """One entry of a table: the line where it starts, its values by column, or what is wrong with it."""

    line: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: Problem | None = None


def csv_rows(text: str) -> Iterator[Row]:
    """Rows of a CSV with a header; the delimiter is the one that splits the header into most columns.

    Empty lines are passed over. A row with more or fewer fields than the header has a problem.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    delimiter = max(DELIMITERS, key=lambda mark: len(_header(text, mark)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # what follows a broken quote cannot be told apart, so the table ends here
            yield Row(line, problem=Problem("the table is broken from here on", found=str(error), do=_KEEP))
            return
        if not any(value.strip() for value in values):
            continue
        if columns is None:
            columns = [value.strip() for value in values]
            twice = sorted({column for column in columns if columns.count(column) > 1})
            if twice:
                yield Row(line, problem=Problem("the header names a column twice", found=", ".join(map(repr, twice))))
                return
        elif len(values) != len(columns):
            found = f"{len(values)} fields"
            allowed = f"{len(columns)}, as in the header"
            do = "put fields that contain the delimiter in double quotes"
            yield Row(line, problem=Problem("the row does not fit the header", found=found, allowed=allowed, do=do))
        else:
            yield Row(line, dict(zip(columns, values, strict=True)))


def json_line_rows(text: str) -> Iterator[Row]:
    """One JSON object per line; empty lines are passed over."""
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            value = json.loads(content)
        except (ValueError, RecursionError) as error:
            yield Row(line, problem=_not_json(error))
            continue
        yield _object(line, value)


def json_list_rows(text: str) -> Iterator[Row]:
    """The objects of one JSON list, each with the line that it starts on."""
    decoder = json.JSONDecoder()
    position = _skip(text, 0)
    if text[position : position + 1] != "[":
        found = repr(text[position : position + 20])
        yield Row(1, problem=Problem("the file is not a JSON list", found=found, allowed="[{...}, {...}]"))
        return
    position, line, counted = _skip(text, position + 1), 1, 0
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            yield Row(line, problem=_not_json(error))
            return
        yield _object(line, value)
        position = _skip(text, position)
        mark = text[position : position + 1]
        if mark not in (",", "]"):
            yield Row(line, problem=Problem("the list is broken after this entry", found=repr(mark), allowed=", or ]"))
            return
        position = _skip(text, position + 1) if mark == "," else position
    rest = text[position + 1 :].strip()
    if rest:
        yield Row(line, problem=Problem("something follows the JSON list", found=repr(rest[:20]), do="remove it"))


def _header(text: str, delimiter: str) -> list[str]:
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        return next((values for values in lines if any(value.strip() for value in values)), [])
    except csv.Error:
        return []


def _object(line: int, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(line, value)
    return Row(line, problem=Problem("the entry is not a JSON object", found=type(value).__name__, allowed="{...}"))


def _not_json(error: Exception) -> Problem:
    return Problem("not valid JSON", found=str(error), do=_KEEP)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
