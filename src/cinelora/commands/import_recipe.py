"""Owns the verb `import`: an old trainer's command or configuration becomes a recipe, and what became of it is told."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cinelora.base.errors import Problem, RunError, printable
from cinelora.base.files import write_text
from cinelora.base.log import open_console
from cinelora.commands.init import split
from cinelora.config.importing.imported import Imported, imported, launch_notes
from cinelora.config.importing.recipe_text import text_of
from cinelora.config.importing.said import Said
from cinelora.config.importing.sources import read_sources
from cinelora.config.importing.translate import Row, translate

_FATES = {
    "dead": "did nothing there",
    "wrong": "was wrong there",
    "always": "is always so here",
    "launch": "is on the launch line",
    "elsewhere": "not in the recipe",
    "impossible": "as it is here",
}


_LONGEST = 160
"""Characters of a table's cell; longer ones, such as prompts, are cut: the recipe has them whole."""


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for."""

    out: Path | None = None
    force: bool = False
    as_json: bool = False
    dialect: str = ""
    model: str = ""
    command: int = 0
    sets: tuple[str, ...] = ()


def import_recipe(sources: Sequence[str], wishes: Wishes) -> None:
    """Write the recipe and tell what became of every setting. Raises RecipeError with all problems."""
    out = wishes.out
    if out is not None and out.exists() and not wishes.force:
        raise RunError(Problem("this file exists", found=str(out), do="choose another name, or add --force"))
    if wishes.model:
        split(wishes.model)
    reading = read_sources(sources, dialect=wishes.dialect, command=wishes.command)
    done = imported(reading, translate(reading), model=wishes.model, sets=wishes.sets, out=out)
    text = text_of(done)
    if out is not None:
        write_text(out, text)
    if wishes.as_json:
        sys.stdout.write(json.dumps(report(done, text), ensure_ascii=False, indent=2, default=str) + "\n")
        return
    if out is None:
        sys.stdout.write(text)
        sys.stdout.flush()
    _tell(done, open_console(stderr=out is None))


def _tell(done: Imported, console: Console) -> None:
    for table in (moved_table(done), defaults_table(done), others_table(done)):
        if table.row_count:
            console.print(table)
    title = done.reading.dialect.title
    for note in (*done.reading.notes, *launch_notes(done.reading)):
        console.print(f"note: {printable(note)}")
    for note in done.reading.dialect.notes:
        console.print(f"of {title}: {note}")
    for problem in done.open:
        console.print(f"to do: {str(problem)}")
    if done.out is not None:
        console.print(f"wrote {printable(str(done.out))}")
    console.print(f"check:  cinelora check {printable(done.file)}")
    console.print(f"launch: {printable(done.launch)}")


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _table(title: str, names: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold", ratio=2 if name == "to know" else None)
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row(*(Text(printable(shorten(cell))) for cell in cells))


def shorten(cell: str) -> str:
    """The beginning and the end of what is too long for a table, each line of it by itself."""
    half = _LONGEST // 2
    lines = cell.splitlines()
    return "\n".join(line if len(line) <= _LONGEST else f"{line[:half]} ... {line[-half:]}" for line in lines)


def moved_table(done: Imported) -> Table:
    """What moved where: settings that were said, each with all of its keys."""
    table = _table("what moved where", ("there", "line", "here", "to know"))
    for one in done.reading.said.values():
        keys = [(key, entry) for key, entry in done.outcome.entries.items() if one in entry.said]
        here = "\n".join(f"{key} = {_value(entry.value)}" for key, entry in keys)
        why = "; ".join(dict.fromkeys(entry.why for _, entry in keys if entry.why))
        if keys:
            _add(table, one.shown, _line(one, done), here, why)
    return table


def _line(one: Said, done: Imported) -> str:
    """Where a setting stands; the line alone where there is one file."""
    return one.where.rpartition(":")[2] if len(done.reading.files) == 1 else one.where


def defaults_table(done: Imported) -> Table:
    """What nobody said: defaults of the old program, and what it always did, now in the recipe."""
    table = _table("what was not said, and is in the recipe as the old program has it", ("there", "here", "to know"))
    for key, entry in done.outcome.entries.items():
        if entry.by_default:
            there = ", ".join(one.shown for one in entry.said) or "always"
            _add(table, there, f"{key} = {_value(entry.value)}", entry.why)
    return table


def others_table(done: Imported) -> Table:
    """What has no key: ignored, wrong or not needed, and keys without an effect in this run."""
    table = _table("what has no key of its own, and why", ("there", "line", "what becomes of it", "to know"))
    for row in _others(done):
        there = ", ".join(one.shown for one in row.said)
        what = f"{row.key} left out" if row.key else _FATES.get(row.fate or "", "no key by itself")
        _add(table, there, ", ".join(filter(None, (_line(one, done) for one in row.said))), what, row.why)
    return table


def _others(done: Imported) -> Iterator[Row]:
    """Rows worth telling: not those of defaults that have no effect anyway."""
    yield from (row for row in done.outcome.rows if any(not one.default for one in row.said))


def report(done: Imported, text: str) -> dict[str, Any]:
    """The same as --json."""
    reading, outcome = done.reading, done.outcome
    keys = [
        {"key": key, "value": entry.value, "from": [one.shown for one in entry.said], "by_default": entry.by_default}
        | {"where": [one.where for one in entry.said if one.where], "why": entry.why}
        for key, entry in outcome.entries.items()
    ]
    others = [
        {"from": [one.shown for one in row.said], "where": [one.where for one in row.said if one.where]}
        | {"fate": row.fate or "", "key": row.key, "why": row.why}
        for row in _others(done)
    ]
    return {
        "dialect": reading.dialect.name,
        "sources": reading.files,
        "recipe": text,
        "keys": keys,
        "others": others,
        "notes": [*reading.notes, *launch_notes(reading), *reading.dialect.notes],
        "to_do": [{"what": one.what, "found": one.found, "where": one.where, "do": one.do} for one in done.open],
        "written": str(done.out) if done.out else "",
        "check": f"cinelora check {done.file}",
        "launch": done.launch,
    }
