"""Owns the checks that look at more than one option: dead settings, and what the family's geometry allows."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from cinelora.base.errors import Problems, RecipeError, nearest
from cinelora.config.schema import Place, options_at
from cinelora.contracts.card import Family, Variant
from cinelora.data.buckets import check_options
from cinelora.preview.options import preview_bucket

if TYPE_CHECKING:
    from cinelora.config.load import Source
    from cinelora.config.recipe import Recipe


def check_effects(
    model: type[BaseModel],
    said: Mapping[str, Any],
    merged: Mapping[str, Any],
    problems: Problems,
    where: Callable[[Place], str],
) -> None:
    """Note every option that was set although another option's value takes its effect away."""
    for place, options, table in _tables(model, said, merged):
        for name in table[0]:
            extra = options.model_fields[name].json_schema_extra if name in options.model_fields else None
            if not isinstance(extra, dict) or "only_if" not in extra:
                continue
            other, values = extra["only_if"]  # type: ignore[misc]
            current = table[1].get(other, options.model_fields[other].get_default(call_default_factory=True))
            if current not in values:
                problems.add(
                    f"{'.'.join(map(str, (*place, name)))} has no effect in this run",
                    found=f"{other} = {current!r}",
                    allowed=f"{other} = {' or '.join(map(repr, values))}",
                    where=where((*place, name)),
                    do=f"remove {name}, or change {other}",
                )


def _tables(
    model: type[BaseModel], said: Any, merged: Any, place: Place = ()
) -> Iterator[tuple[Place, type[BaseModel], tuple[dict[str, Any], dict[str, Any]]]]:
    """Every table of the recipe with its options class: as said, and with the variant's defaults."""
    if not isinstance(said, dict) or not isinstance(merged, dict):
        return
    yield place, model, (said, merged)
    for name, value in said.items():
        inner = options_at(model, (name,))
        if inner is None:
            continue
        pairs = [((name,), value, merged.get(name))]
        if isinstance(value, list) and isinstance(merged.get(name), list):
            pairs = [((name, k), v, m) for k, (v, m) in enumerate(zip(value, merged[name], strict=True))]
        for tail, value_said, value_merged in pairs:
            yield from _tables(inner, value_said, value_merged, (*place, *tail))


def check_sections(recipe: "Recipe", family: Family, variant: Variant, problems: Problems, source: "Source") -> None:
    """Note what single sections cannot see: geometry, part names, settings of something that is switched off."""
    sized = (
        ("data", lambda: check_options(recipe.data, variant.geometry)),
        ("preview", lambda: preview_bucket(recipe.preview, variant.geometry)),
    )
    for section, look in sized:
        try:
            look()
        except RecipeError as error:
            for problem in error.problems:
                problems.add(**{**problem.__dict__, "where": problem.where or source.where((section,))})
    for part in recipe.lora.parts:
        if part not in variant.parts:
            problems.add(
                f"lora.parts names no part of {family.name}/{variant.name}",
                found=part,
                allowed=", ".join(variant.parts),
                nearest=nearest(part, variant.parts),
                where=source.where(("lora", "parts", part)),
            )
    said = source.tables
    if said.get("preview") and not recipe.preview.prompts:
        problems.add(
            "[preview] has no effect in this run",
            found=f"preview.prompts is empty, but {', '.join(said['preview'])} is set",
            where=source.where(("preview",)),
            do="add preview.prompts, or remove the section",
        )
    if said.get("held_out") and recipe.data.held_out == 0:
        problems.add(
            "[held_out] has no effect in this run",
            found="data.held_out = 0",
            where=source.where(("held_out",)),
            do="give data.held_out a share above 0, or remove the section",
        )
