"""Owns what an option of a recipe is: a typed, documented, frozen field of a section.

Each room declares its own section (`data/options.py` and so on) with `Options` and `option`; `config/` composes them.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo


class Options(BaseModel):
    """Base of every section: unknown keys and infinite numbers are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def option(
    default: Any = ...,
    help: str = "",
    *,
    only_if: tuple[str, tuple[Any, ...]] | None = None,
    unit: str = "",
    costs: str = "",
    **limits: Any,
) -> Any:
    """A field with its help text; `limits` are pydantic's (ge, gt, le, lt, min_length, pattern).

    `only_if` names a field of the same section and the values under which this option has an effect; setting it
    otherwise is an error of the recipe, so that no setting is silently dead. `unit` is what its numbers count, `costs`
    what setting or raising it takes of memory, time or disk; options without a cost say nothing. Use `default_factory`
    in `limits` for lists and tables.
    """
    said = {"only_if": [only_if[0], list(only_if[1])] if only_if else None, "unit": unit, "costs": costs}
    extra: dict[str, Any] | None = {name: value for name, value in said.items() if value} or None
    if "default_factory" in limits:
        return Field(description=help, json_schema_extra=extra, **limits)
    return Field(default, description=help, json_schema_extra=extra, **limits)


def noted(info: FieldInfo, name: str) -> str:
    """What an option says of its "unit" or "costs"; empty where it says nothing."""
    extra = info.json_schema_extra
    return str(extra.get(name, "")) if isinstance(extra, dict) else ""


def condition(info: FieldInfo) -> tuple[str, tuple[Any, ...]] | None:
    """The other field of the section, and its values under which the option has an effect; None where it always has."""
    extra: Any = info.json_schema_extra
    if not isinstance(extra, dict) or "only_if" not in extra:
        return None
    other, values = extra["only_if"]
    return str(other), tuple(values)
