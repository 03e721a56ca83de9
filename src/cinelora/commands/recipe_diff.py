"""Owns the verb `recipe diff`: what differs between two recipes or runs, where it was said, and what it changes."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from cinelora.base.errors import printable
from cinelora.base.log import open_console
from cinelora.commands.recipe_target import Target, opened
from cinelora.commands.run_facts import Fact, facts_of
from cinelora.config.explained import in_short
from cinelora.config.origins import Value, idle_of, plain
from cinelora.config.recipe import Recipe
from cinelora.config.schema import Key
from cinelora.config.write import as_toml
from cinelora.contracts.options import condition


@dataclass(frozen=True)
class Side:
    """What one of the two has for a key: as TOML, where it was said; `value` None with `shown` saying why."""

    value: Any
    shown: str
    where: str


@dataclass(frozen=True)
class Difference:
    """A key with other values on the two sides, and what it is about."""

    key: str
    first: Side
    second: Side
    about: str


def diff(first: Path, second: Path, *, as_json: bool) -> bool:
    """Print what differs; True where something does. Raises RecipeError, RunError."""
    one, other = opened(first, []), opened(second, [])
    found, num_equal = differences(one, other)
    facts = facts_of(one, other)
    if as_json:
        told = {
            "first": str(first),
            "second": str(second),
            "keys": [asdict(row) for row in found],
            "facts": [asdict(fact) for fact in facts],
            "num_equal": num_equal,
        }
        sys.stdout.write(printable(json.dumps(told, indent=1)) + "\n")
    else:
        _tell(one, other, found, facts, num_equal)
    return bool(found or facts)


def differences(one: Target, other: Target) -> tuple[list[Difference], int]:
    """Keys whose values differ, in the recipe's order, and how many are equal.

    A key that has an effect on one side alone counts where it is not at its default there.
    """
    first, second = ({value.place: value for value in target.values} for target in (one, other))
    found: list[Difference] = []
    num_equal = 0
    for place in [*first, *(place for place in second if place not in first)]:
        mine, yours = first.get(place), second.get(place)
        there = mine or yours
        assert there is not None
        if mine and yours and plain(mine.value) == plain(yours.value):
            num_equal += 1
        elif (mine and yours) or there.origin != "default":
            sides = _side(one, mine, there.key, second=yours), _side(other, yours, there.key, second=mine)
            found.append(Difference(there.dotted, *sides, in_short(there.key)))
    sections = list(Recipe.model_fields)
    return sorted(found, key=lambda row: sections.index(row.key.partition(".")[0])), num_equal


def _side(target: Target, value: Value | None, key: Key, *, second: Value | None) -> Side:
    if value is not None:
        shown = "left out" if value.value is None else as_toml(plain(value.value))
        return Side(plain(value.value), shown, value.where)
    assert second is not None
    return Side(None, "no effect" if (why := _why_idle(target, second, key)) else "not there", why)


def _why_idle(target: Target, there: Value, key: Key) -> str:
    """Why a key of the other side has no effect on this one; empty where its very table is not there."""
    idle = idle_of(target.loaded)
    options: Any = target.loaded.recipe
    if why := idle.get(key.names[0]) or idle.get(key.dotted):
        return why
    for depth, name in enumerate(there.place[:-1]):
        step = options[name] if isinstance(name, int) and name < len(options) else getattr(options, str(name), None)
        if step is None:
            return ""
        info = type(options).model_fields[str(name)] if isinstance(name, str) else None
        needed = condition(info) if info else None
        if needed and getattr(options, needed[0]) not in needed[1]:
            return f"{'.'.join(map(str, (*there.place[:depth], needed[0])))} = {as_toml(getattr(options, needed[0]))}"
        options = step
    needed = condition(key.info)
    return f"{'.'.join(map(str, (*there.table, needed[0])))} = {as_toml(getattr(options, needed[0]))}" if needed else ""


def _tell(one: Target, other: Target, found: Sequence[Difference], facts: Sequence[Fact], num_equal: int) -> None:
    console = open_console()
    for letter, target in (("A", one), ("B", other)):
        console.print(Text(printable(f"{letter}: {target.title}")))
    if found:
        rows = [(row.key, _cell(row.first), _cell(row.second), row.about) for row in found]
        console.print(_table("keys that differ", ("key", "A", "B", "what it is"), rows))
    if facts:
        rows = [(fact.name, fact.first, fact.second, "") for fact in facts]
        console.print(_table("besides", ("", "A", "B"), [row[:3] for row in rows]))
    many = f"{len(found)} key{'s' * (len(found) != 1)} differ{'s' * (len(found) == 1)}"
    console.print(f"{many if found else 'no key differs'}, {num_equal} are equal")


def _cell(side: Side) -> str:
    return f"{side.shown}\n{side.where}" if side.where else side.shown


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table
