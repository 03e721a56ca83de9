"""Owns what an option of a recipe is: a typed, documented, frozen field of a section.

Each room declares its own section (`data/options.py` and so on) with `Options` and `option`; `config/` composes them.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Base of every section: unknown keys and infinite numbers are errors, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def option(
    default: Any = ..., help: str = "", *, only_if: tuple[str, tuple[Any, ...]] | None = None, **limits: Any
) -> Any:
    """A field with its help text; `limits` are pydantic's (ge, gt, le, lt, min_length, pattern).

    `only_if` names a field of the same section and the values under which this option has an effect; setting it
    otherwise is an error of the recipe, so that no setting is silently dead. Use `default_factory` in `limits` for
    lists and tables.
    """
    extra: dict[str, Any] | None = {"only_if": [only_if[0], list(only_if[1])]} if only_if else None
    if "default_factory" in limits:
        return Field(description=help, json_schema_extra=extra, **limits)
    return Field(default, description=help, json_schema_extra=extra, **limits)
