"""Owns the recipe of `cinelora import` as text: sections in the recipe's order, behind each value where it comes from.

In: an `Imported`. Out: TOML. A comment that is too long for its line stands above the key.
"""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from cinelora.base.errors import printable
from cinelora.config.importing.imported import Imported, comment_of, launch_notes
from cinelora.config.importing.translate import Entry, places
from cinelora.config.recipe import Recipe
from cinelora.config.schema import fields_at

_WIDTH = 120
Keyed = Mapping[tuple[str | int, ...], Entry]


def text_of(done: Imported) -> str:
    """The commented recipe."""
    entries = dict(places(done.outcome.entries))
    lines = [*_head(done)]
    for section in Recipe.model_fields:
        lines += _section(section, done, entries)
    lines += _unsaid(done)
    return "\n".join(lines).rstrip() + "\n"


def _head(done: Imported) -> Iterator[str]:
    reading = done.reading
    others = [file for file in reading.files if not (reading.launch and file == reading.launch.file)]
    files = " and ".join([reading.where] * bool(reading.launch) + others)
    yield from _comment(f"{reading.dialect.title}, from {files}, by `cinelora import`.")
    yield from _comment(f"Check: cinelora check {done.file}")
    yield f"# Launch: {printable(done.launch)}"
    yield from (line for note in launch_notes(reading) for line in _comment(note[:1].upper() + note[1:] + "."))
    yield from _comment("Relative paths start from this file's folder; run.folder from the one you start in.")
    yield ""


def _comment(text: str) -> list[str]:
    return textwrap.wrap(printable(" ".join(text.split())), _WIDTH - 2, initial_indent="# ", subsequent_indent="# ")


def _section(section: str, done: Imported, entries: Keyed) -> Iterator[str]:
    """A section with its tables, and its lists of tables behind them."""
    table = done.tables.get(section)
    if not isinstance(table, dict):
        return
    yield from _table((section,), table, done, entries)


def _table(place: tuple[str | int, ...], table: Mapping[str, Any], done: Imported, entries: Keyed) -> Iterator[str]:
    order = {name: number for number, name in enumerate(fields_at(Recipe, place))}
    names = sorted(table, key=lambda name: order.get(name, len(order)))
    plain = [name for name in names if not _is_table(table[name])]
    dotted = ".".join(str(name) for name in place if isinstance(name, str))
    if plain:
        yield f"[[{dotted}]]" if isinstance(place[-1], int) else f"[{dotted}]"
    for name in plain:
        yield from _key(name, table[name], entries.get((*place, name)), done)
    if plain:
        yield ""
    for name in (name for name in names if name not in plain):
        inner = table[name]
        for number, one in enumerate(inner) if isinstance(inner, list) else ((None, inner),):
            at = (*place, name) if number is None else (*place, name, number)
            if number is not None and all(map(_is_table, one.values())):
                yield f"[[{'.'.join(str(part) for part in at if isinstance(part, str))}]]"
            yield from _table(at, one, done, entries)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _key(name: str, value: Any, entry: Entry | None, done: Imported) -> Iterator[str]:
    line = f"{_name(name)} = {_value(value)}"
    if entry is None or entry.value != value:
        yield f"{line}  # --set"
        return
    comment = printable(" ".join(comment_of(entry, done.reading).split()))
    if len(line) + len(comment) + 4 <= _WIDTH:
        yield f"{line}  # {comment}"
    else:
        yield from _comment(comment)
        yield line


def _name(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.A) else _value(name)


def _value(value: Any) -> str:
    """A value on one line; JSON's scalars and lists are TOML's, but for DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _unsaid(done: Imported) -> Iterator[str]:
    """What a recipe needs and nobody has said."""
    for problem in done.open:
        where = f" ({problem.where})" if problem.where else ""
        found = f": {problem.found}" if problem.found else ""
        yield from _comment(f"TO DO: {problem.what}{found}{where}; {problem.do}")
