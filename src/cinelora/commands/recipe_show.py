"""Owns the verb `recipe show`: a recipe as it is after all defaults, each value with where it comes from."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from cinelora.base.errors import printable
from cinelora.commands.recipe_target import Target, opened
from cinelora.config.origins import Origin, Value, idle_of, plain
from cinelora.config.write import as_toml

_COLUMN = 48
"""Where remarks begin, but behind longer lines."""
_MOST = 120


def show(path: Path, *, sets: list[str], everything: bool, as_json: bool) -> None:
    """Print a recipe or run as TOML that loads to the same, or as JSON. Raises RecipeError, RunError."""
    target = opened(path, sets)
    text = json.dumps(in_tables(target, everything=everything), indent=1) if as_json else in_toml(target, everything)
    sys.stdout.write(printable(text) + "\n")


def in_toml(target: Target, everything: bool) -> str:
    """The recipe with a remark behind each value; values that nobody touched with `everything` alone."""
    lines = [f"# {line}" for line in _head(target, everything)]
    table: tuple[str | int, ...] = ()
    for value in _shown(target, everything):
        if value.table != table:
            table = value.table
            lines += ["", _header(value)]
        name, remark = str(value.place[-1]), _remark(value)
        line = f"# {name} is left out" if value.value is None else f"{name} = {as_toml(value.value)}"
        lines.append(f"{line:<{_COLUMN}}  # {remark}")
    return "\n".join(lines)


def _shown(target: Target, everything: bool) -> list[Value]:
    return [one for one in target.values if everything or one.origin not in ("default", "inherited")]


def _head(target: Target, everything: bool) -> list[str]:
    counts = Counter(value.origin for value in target.values)
    words: dict[Origin, str] = {
        "said": "said",
        "card": "of the variant's card",
        "method": "of the method",
        "inherited": "of sources as [data] says",
        "derived": "following from others",
    }
    told = [f"{counts[origin]} {word}" for origin, word in words.items() if counts[origin]]
    rest = f"{counts['default']} at their defaults" + ("" if everything else ", which --all shows")
    idle = [f"[{name}] has no effect: {why}" for name, why in idle_of(target.loaded).items() if "." not in name]
    return [target.title, f"values: {', '.join([*told, rest])}", *_paths(target), *idle]


def _paths(target: Target) -> list[str]:
    """Where relative paths start from, where it is not the file's own folder."""
    folder = target.loaded.folder
    return [f"relative paths start from {folder}"] if target.run else []


def _header(value: Value) -> str:
    """`[train]`, `[[data.source]]`, `[data.source.rules]`."""
    dotted = ".".join(name for name in value.table if isinstance(name, str))
    return f"[[{dotted}]]" if isinstance(value.table[-1], int) else f"[{dotted}]"


def _remark(value: Value) -> str:
    """Where the value comes from, and what it is said instead of."""
    remark = " ".join(value.where.split())
    remark = remark if len(remark) <= _MOST else remark[:_MOST] + "..."
    if value.origin != "said" or value.key.info.is_required():
        return remark
    if plain(value.value) == plain(value.unsaid):
        return f"{remark}, as the {value.by}" if value.by == "default" else f"{remark}, as on the {value.by}"
    if value.by == "default":
        return remark
    return f"{remark}; {as_toml(value.unsaid) if value.unsaid is not None else 'nothing'} by {value.by}"


def in_tables(target: Target, *, everything: bool) -> dict[str, Any]:
    """The same as plain tables: what it is, and a row for each value."""
    model, folder = target.loaded.recipe.model, target.loaded.folder
    return {
        "target": str(target.path),
        "is_run": target.run is not None,
        "family": model.family,
        "variant": model.variant,
        "folder": str(folder.resolve()),
        "idle": idle_of(target.loaded),
        "values": [_row(value) for value in _shown(target, everything)],
    }


def _row(value: Value) -> dict[str, Any]:
    return {
        "key": value.dotted,
        "value": plain(value.value),
        "origin": value.origin,
        "where": value.where,
        "unsaid": plain(value.unsaid),
        "by": value.by,
    }
