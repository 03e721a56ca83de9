"""Owns the parsing of table files into rows: CSV (comma, semicolon, tab), JSON lines, one JSON list.

In: the text. Out: `Row`s, each with the line it starts on; a row that cannot be parsed carries its problem instead.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from cinelora.base.errors import Problem

DELIMITERS = ",;\t"
_LONGEST_FIELD = 1 << 24
_LOOKED_AT = 50
_KEEP = "write it anew, or remove the row"
_CLOSES_FIRST = re.compile(r'[^"]*[^\s"(\[{-]"')


@dataclass(frozen=True)
class Row:
    """One entry of a table: the line where it starts, its values by column, or what is wrong with it.

    `entry` counts the table's entries from 1 where several stand on one line, and is 0 elsewhere.
    """

    line: int
    values: dict[str, Any] = field(default_factory=dict)
    problem: Problem | None = None
    entry: int = 0

    @property
    def place(self) -> str:
        """The line, and the entry where the line does not tell it."""
        return f"{self.line} (entry {self.entry})" if self.entry else str(self.line)


def csv_rows(text: str) -> Iterator[Row]:
    """Rows of a CSV with a header; the delimiter is the one by which most rows fit a header of several columns.

    Empty lines are passed over. A row with more or fewer fields than the header has a problem.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    delimiter = max(DELIMITERS, key=lambda mark: _fit(text, mark))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # what follows a broken quote cannot be told apart, so the table ends here
            said = "a double quote that is never closed" if "unexpected end" in str(error) else str(error)
            yield Row(line, problem=Problem("the table is broken from here on", found=said, do=_KEEP))
            return
        if not any(value.strip() for value in values):
            continue
        if columns is None:
            columns = [value.strip() for value in values]
            twice = sorted({column for column in columns if columns.count(column) > 1})
            if twice:
                found, do = ", ".join(map(repr, twice)), "rename one of them"
                yield Row(line, problem=Problem("the header names a column twice", found=found, do=do))
                return
        elif len(values) != len(columns):
            found = f"{len(values)} fields"
            allowed = f"{len(columns)}, as in the header"
            do = "put fields that contain the delimiter in double quotes"
            if len(values) < len(columns):
                do = "write the fields that are missing; those without a value stay empty between delimiters"
            yield Row(line, problem=Problem("the row does not fit the header", found=found, allowed=allowed, do=do))
        else:
            yield Row(line, dict(zip(columns, values, strict=True)))


def json_line_rows(text: str) -> Iterator[Row]:
    """One JSON object per line; empty lines are passed over."""
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            value = json.loads(content, object_pairs_hook=_keys_noted)
        except (ValueError, RecursionError) as error:
            said = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            yield Row(line, problem=_not_json(said))
            continue
        yield _object(line, value)


def json_list_rows(text: str) -> Iterator[Row]:
    """The objects of one JSON list, each with the line that it starts on."""
    decoder = json.JSONDecoder(object_pairs_hook=_keys_noted)
    position = _skip(text, 0)
    if text[position : position + 1] != "[":
        found, do = repr(text[position : position + 20]), "name it .jsonl if every line is an object of its own"
        yield Row(1, problem=Problem("the file is not a JSON list", found=found, allowed="[{...}, {...}]", do=do))
        return
    position, line, counted, last_line, entry = _skip(text, position + 1), 1, 0, 0, 0
    while text[position : position + 1] != "]":
        line, counted = line + text.count("\n", counted, position), position
        entry += 1
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            yield Row(line, problem=_not_json(str(error)))
            return
        yield _object(line, value, entry if line == last_line else 0)
        last_line = line
        position = _skip(text, position)
        mark = text[position : position + 1]
        if mark not in (",", "]"):
            yield Row(line, problem=Problem("the list is broken after this entry", found=repr(mark), allowed=", or ]"))
            return
        position = _skip(text, position + 1) if mark == "," else position
    rest = text[position + 1 :].strip()
    if rest:
        yield Row(line, problem=Problem("something follows the JSON list", found=repr(rest[:20]), do="remove it"))


def unwrapped(value: str) -> str:
    """Without the quotes around the whole of it, which a value in three double quotes keeps.

    Quotes that belong to a part ("Stop," he said, "now") stay: there the next quote after the first one closes.
    """
    inner = value[1:-1]
    wrapped = len(value) > 1 and value[0] == value[-1] == '"' and not _CLOSES_FIRST.match(inner)
    return inner if wrapped else value


def _fit(text: str, delimiter: str) -> tuple[float, int]:
    """The share of the first rows that have as many fields as the header, and how many these are."""
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        header, *rows = islice((line for line in lines if any(value.strip() for value in line)), _LOOKED_AT)
    except (csv.Error, ValueError):
        return 0.0, 0
    fits = sum(len(row) == len(header) for row in rows) if len(header) > 1 else 0
    return fits / max(1, len(rows)), len(header)


class _KeyTwice(dict[str, Any]):
    """A JSON object that names a key twice, of which Python would keep the last."""


def _keys_noted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    return values if len(values) == len(pairs) else _KeyTwice(pairs)


def _object(line: int, value: Any, entry: int = 0) -> Row:
    if isinstance(value, _KeyTwice):
        problem = Problem("the entry names a key twice", found=f"keys {', '.join(value)}", do="keep one of the two")
        return Row(line, problem=problem, entry=entry)
    if isinstance(value, dict):
        return Row(line, value, entry=entry)
    problem = Problem("the entry is not a JSON object", found=type(value).__name__, allowed="{...}")
    return Row(line, problem=problem, entry=entry)


def _not_json(said: str) -> Problem:
    return Problem("not valid JSON", found=said, do=_KEEP)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
