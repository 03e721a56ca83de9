"""Owns pydantic's findings in the house's words.

In: what `ValidationError.errors()` lists, the raw tables. Out: one `Problem` for each option, with its place.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cinelora.base.errors import Problem, nearest
from cinelora.config.recipe import Recipe
from cinelora.config.schema import Place, fields_at, help_at

Detail = Mapping[str, Any]


def problems_of(details: Sequence[Any], tables: Mapping[str, Any], where: Callable[[Place], str]) -> list[Problem]:
    """One problem for each option that does not fit; where several types would do, it says all of them."""
    grouped: dict[Place, list[Detail]] = {}
    for detail in details:
        place = detail["loc"] if detail["type"] == "missing" else _said(detail["loc"], tables)
        grouped.setdefault(tuple(place), []).append(detail)
    return [_problem(place, found, where(place)) for place, found in grouped.items()]


def _said(place: Sequence[str | int], tables: Any) -> Place:
    """The part of a place that stands in the tables: behind it pydantic names which of several types was tried."""
    said: list[str | int] = []
    for name in place:
        inside = name in tables if isinstance(tables, dict) else isinstance(tables, list) and isinstance(name, int)
        if not inside:
            break
        said.append(name)
        tables = tables[name]
    return tuple(said)


def _problem(place: Place, details: Sequence[Detail], where: str) -> Problem:
    shown, first = ".".join(map(str, place)), details[0]
    if first["type"] == "extra_forbidden":
        fields = fields_at(Recipe, place[:-1])
        near = nearest(str(place[-1]), fields)
        return Problem(
            f"unknown key {shown}",
            allowed="" if near else ", ".join(fields),
            nearest=near,
            where=where,
            do="correct or remove it; `cinelora init` lists every key",
        )
    means = next(filter(None, (help_at(Recipe, place[:size]) for size in range(len(place), 0, -1))), "")
    if first["type"] == "missing":
        return Problem(f"{shown} is missing", where=where, do=f"add it; it means: {means}")
    # A whole section as `found` would bury the message, which names what it is about.
    found = "" if isinstance(first["input"], dict | list) and first["type"] == "value_error" else repr(first["input"])
    do = "" if first["type"] == "value_error" or not means else f"correct it; it means: {means}"
    what = f"{shown}: {' or '.join(dict.fromkeys(map(_words, details)))}"
    return Problem(what, found=found, nearest=_near(first), where=where, do=do)


def _near(detail: Detail) -> str:
    """The words most like the one found, where only certain words are allowed."""
    if detail["type"] != "literal_error":
        return ""
    return nearest(str(detail["input"]).lower(), re.findall(r"'([^']+)'", detail["ctx"]["expected"]), count=1)


_KINDS = {
    **dict.fromkeys(("model_type", "dict_type"), "should be a table"),
    **dict.fromkeys(("tuple_type", "list_type"), "should be a list in brackets"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "should be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "should be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "should be true or false"),
}
"""What pydantic's findings of wrong types mean to who writes TOML."""


def _words(detail: Detail) -> str:
    if detail["type"] in _KINDS:
        return _KINDS[detail["type"]]
    words = str(detail["msg"]).removeprefix("Value error, ")
    return words.removeprefix("Input ") if words.startswith("Input ") else words[:1].lower() + words[1:]
