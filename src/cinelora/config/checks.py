"""Owns the checks that look at more than one option: dead settings, and what the family's geometry allows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from cinelora.base.errors import Problems, RecipeError, nearest
from cinelora.config.schema import Place, options_at
from cinelora.contracts.card import Family, Variant
from cinelora.data.buckets import check_options
from cinelora.data.rules import check_weights, source_names
from cinelora.methods.options import check_method
from cinelora.preview.options import preview_bucket

if TYPE_CHECKING:
    from cinelora.config.load import Source
    from cinelora.config.recipe import Recipe


_REVIVALS = {
    "preview": "give preview.prompts something to draw",
    "held_out": "let a source give clips: data.held_out above 0, and held_out = true in one [[data.source]]",
}


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
    """Note what single sections cannot see: geometry, names of sources and parts."""
    looks: tuple[tuple[str, Callable[[], object]], ...] = (
        ("data", lambda: check_options(recipe.data, variant.geometry)),
        ("data", lambda: source_names(recipe.data)),
        ("data", lambda: check_weights(recipe.data)),
        ("preview", lambda: preview_bucket(recipe.preview, variant.geometry)),
        ("method", lambda: check_method(recipe.method, process=recipe.noise.kind, parts=recipe.lora.parts)),
    )
    for section, look in looks:
        try:
            look()
        except RecipeError as error:
            for problem in error.problems:
                problems.found.append(source.located(replace(problem, where=problem.where or section)))
    if all(recipe.lora.parts.get(part) == "frozen" for part in variant.parts):
        where, do = source.where(("lora", "parts")), "let one of them learn: lora or full"
        problems.add("nothing is left to train", found="lora.parts freezes every part", where=where, do=do)
    for part in recipe.lora.parts:
        if part not in variant.parts:
            problems.add(
                f"lora.parts names no part of {family.name}/{variant.name}",
                found=part,
                allowed=", ".join(variant.parts),
                nearest=nearest(part, variant.parts),
                where=source.where(("lora", "parts", part)),
            )


def has_idle_weight(tables: Mapping[str, Any]) -> bool:
    """True where a single source has a weight: there is nothing to weigh it against."""
    data = tables.get("data")
    sources = data.get("source") if isinstance(data, Mapping) else None
    return (
        isinstance(sources, list) and len(sources) == 1 and isinstance(sources[0], Mapping) and "weight" in sources[0]
    )


def dead_weight(source: "Source", problems: Problems) -> None:
    """Note a weight where there is nothing to weigh it against."""
    if has_idle_weight(source.tables):
        problems.add(
            "data.source.0.weight has no effect in this run",
            found="one source",
            where=source.where(("data", "source", 0, "weight")),
            do="remove it, or add the other source",
        )


def idle_sections(tables: Mapping[str, Any]) -> dict[str, str]:
    """Sections that nothing reads in a run with these tables: {name: why}."""
    idle: dict[str, str] = {}
    preview, data = tables.get("preview"), tables.get("data")
    if isinstance(preview, Mapping) and not preview.get("prompts"):
        idle["preview"] = "no preview.prompts"
    if isinstance(data, Mapping):
        sources = data.get("source")
        if data.get("held_out") == 0:
            idle["held_out"] = "data.held_out = 0"
        elif sources and all(isinstance(one, Mapping) and one.get("held_out") is False for one in sources):
            idle["held_out"] = "held_out = false in every [[data.source]]"
    return idle


def dead_sections(source: "Source", problems: Problems) -> None:
    """Note every section that was set although nothing reads it."""
    for name, why in idle_sections(source.tables).items():
        table = source.tables.get(name)
        keys = [key for key in table if key != "prompts"] if isinstance(table, Mapping) else []
        if keys:
            problems.add(
                f"[{name}] has no effect in this run",
                found=f"{why}, but [{name}] sets {', '.join(keys)}",
                where=source.where((name,)),
                do=f"remove [{name}], or {_REVIVALS[name]}",
            )
