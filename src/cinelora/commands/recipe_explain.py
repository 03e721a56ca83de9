"""Owns the verb `recipe explain`: what a key means, what it costs, where it is used; without a key, the list of all."""

import json
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from cinelora.base.errors import printable
from cinelora.base.log import console, open_console
from cinelora.config.explained import Explained, explained, find, in_short, listed
from cinelora.config.old_names import OldName
from cinelora.config.schema import Key
from cinelora.config.write import as_toml
from cinelora.families.registry import FAMILIES

_LABEL = 14
_WIDEST = 100
"""Columns of text, where the terminal has more."""


def explain(word: str, *, as_json: bool) -> None:
    """Print what a word means: a key, a section, nothing for all. Raises RecipeError with the nearest keys."""
    keys, note = find(word) if word else (listed(), "")
    if note:
        console.print(printable(note))
    if as_json:
        rows = [_row(explained(key)) for key in keys] if word else [_brief(key) for key in keys]
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return
    width = min(open_console().width, _WIDEST)
    blocks = [_section(key) if key.table else _key(explained(key), width) for key in keys]
    sys.stdout.write("\n\n".join("\n".join(block) for block in blocks) + "\n")
    if not word:
        sys.stdout.write("\nnext: cinelora recipe explain KEY\n")


def _section(section: Key) -> list[str]:
    """A table's header with what it is, and a line for each of its keys."""
    assert section.table is not None
    lines = [f"{section.header}  {section.info.description}"]
    for name, info in section.table.model_fields.items():
        key = Key((*section.names, name), section.table, info)
        default = f"a table, {key.header}" if key.table else _default(key)
        lines.append(f"  {name:<24} {_cut(default, 22):<22} {in_short(key)}")
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _default(key: Key) -> str:
    if key.info.is_required():
        return "required"
    return "left out" if key.default is None else as_toml(key.default)


def _key(told: Explained, width: int) -> list[str]:
    """All there is to tell of a key, a paragraph for each matter."""
    lines = [told.key.dotted]
    for label, text in _matters(told):
        inside = textwrap.wrap(text, width - _LABEL - 2, break_long_words=False, break_on_hyphens=False)
        lines += [f"  {label if number == 0 else '':<{_LABEL}}{line}" for number, line in enumerate(inside)]
    return lines


def _matters(told: Explained) -> Iterator[tuple[str, str]]:
    yield "meaning", told.key.info.description or ""
    yield "type", told.kind
    if told.unit:
        yield "unit", told.unit
    yield "default", _default(told.key)
    for number, (value, names) in enumerate(told.of_variants):
        yield "by variant" if number == 0 else "", f"{as_toml(value)}: {_variants(names)}"
    for value, method in told.of_methods:
        yield "by method", f"{as_toml(value)}: method.name = {method!r}"
    if told.needs:
        yield "effect", f"only with {', and '.join(told.needs)}"
    if told.costs:
        yield "costs", told.costs
    yield "declared", told.declared or "the source is not at hand"
    for label, places in (("used", told.used), ("checked", told.checked)):
        if places:
            yield label, "; ".join(_by_file(places))
    for number, line in enumerate(_old(told.old)):
        yield "old names" if number == 0 else "", line


def _variants(names: Iterable[str]) -> str:
    """Variants by family, "wan t2v-1.3b, t2v-14b; cogvideox (all)"."""
    families: dict[str, list[str]] = defaultdict(list)
    for name in names:
        family, _, variant = name.partition("/")
        families[family].append(variant)
    whole = {family for family, some in families.items() if len(some) == len(FAMILIES[family].variants)}
    return "; ".join(
        f"{family} (all)" if family in whole else f"{family} {', '.join(some)}" for family, some in families.items()
    )


def _by_file(places: Iterable[str]) -> list[str]:
    """FILE:LINE, LINE of each file."""
    files: dict[str, list[str]] = defaultdict(list)
    for place in places:
        file, _, line = place.rpartition(":")
        files[file].append(line)
    return [f"{file}:{', '.join(sorted(lines, key=int))}" for file, lines in files.items()]


def _old(names: Sequence[OldName]) -> list[str]:
    """One line for each old name with all the trainers that have it."""
    trainers: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        trainers[name.name, name.how].append(name.trainer)
    return [
        f"{name}{f' ({how})' if how else ''}: {', '.join(dict.fromkeys(of))}" for (name, how), of in trainers.items()
    ]


def _brief(key: Key) -> dict[str, Any]:
    """A key of the list of all."""
    rows = [] if key.table is None else [f"{key.dotted}.{name}" for name in key.table.model_fields]
    return {"key": key.dotted, "meaning": key.info.description, "keys": rows}


def _row(told: Explained) -> dict[str, Any]:
    key = told.key
    return {
        "key": key.dotted,
        "meaning": key.info.description,
        "type": told.kind,
        "unit": told.unit,
        "required": key.info.is_required(),
        "default": None if key.table else key.default,
        "by_variant": [{"value": value, "variants": names} for value, names in told.of_variants],
        "by_method": [{"value": value, "method": method} for value, method in told.of_methods],
        "only_with": list(told.needs),
        "costs": told.costs,
        "declared": told.declared,
        "used": told.used,
        "checked": told.checked,
        "old_names": [asdict(name) for name in told.old],
        "keys": list(key.table.model_fields) if key.table else [],
    }
