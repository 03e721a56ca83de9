"""Owns the checks that look at more than one option: dead settings, and what the family's geometry allows."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from cinelora.base.errors import Problems, RecipeError, nearest
from cinelora.config.schema import Place, options_at
from cinelora.config.told import check_script, check_told
from cinelora.contracts.card import Family, Variant
from cinelora.data.buckets import check_options
from cinelora.data.rules import check_weights, source_names
from cinelora.methods.options import check_method, learns_from_clips
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
    for place, other, current, values in effectless(model, said, merged):
        problems.add(
            f"{'.'.join(map(str, place))} has no effect in this run",
            found=f"{other} = {current!r}",
            allowed=f"{other} = {' or '.join(map(repr, values))}",
            where=where(place),
            do=f"remove {place[-1]}, or change {other}",
        )


def effectless(
    model: type[BaseModel], said: Mapping[str, Any], merged: Mapping[str, Any]
) -> Iterator[tuple[Place, str, Any, list[Any]]]:
    """Every option that was set without an effect: its place, the option that decides, its value, and what it wants."""
    for place, options, table in _tables(model, said, merged):
        for name in table[0]:
            extra = options.model_fields[name].json_schema_extra if name in options.model_fields else None
            if not isinstance(extra, dict) or "only_if" not in extra:
                continue
            other, values = extra["only_if"]  # type: ignore[misc]
            current = table[1].get(other, options.model_fields[other].get_default(call_default_factory=True))
            if current not in values:
                yield (*place, name), other, current, values


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
        ("data", lambda: _check_shown(recipe)),
        ("preview", lambda: preview_bucket(recipe.preview, variant.geometry)),
        ("method", lambda: check_method(recipe.method, noise=recipe.noise, parts=recipe.lora.parts)),
    )
    for section, look in looks:
        try:
            look()
        except RecipeError as error:
            for problem in error.problems:
                problems.found.append(source.located(replace(problem, where=problem.where or section)))
    check_told(recipe, family, variant, problems, source)
    check_script(recipe, variant, problems, source)
    check_experts(recipe, variant, problems, source)
    check_base_facts(recipe, variant, problems, source)
    if all(recipe.lora.parts.get(part) == "frozen" for part in variant.parts):
        where, do = source.where(("lora", "parts")), "let one of them learn: lora or full"
        problems.add("nothing is left to train", found="lora.parts freezes every part", where=where, do=do)
    names = [("lora.files names no adapter layout of", name, family.adapter_files) for name in recipe.lora.files]
    names += [("lora.parts names no part of", part, variant.parts) for part in _denoisers(recipe, problems, source)]
    for what, name, known in names:
        if name not in known:
            problems.add(
                f"{what} {family.name}/{variant.name}",
                found=name,
                allowed=", ".join(known),
                nearest=nearest(name, known),
                where=source.where(("lora", what.split()[0].partition(".")[2], name)),
            )


def _denoisers(recipe: "Recipe", problems: Problems, source: "Source") -> list[str]:
    """The parts that lora.parts names, but for text encoders, of which is told why they cannot learn."""
    encoders = [part for part in recipe.lora.parts if part.startswith("text_encoder")]
    for part in encoders:
        problems.add(
            "text encoders do not learn",
            found=f"lora.parts.{part}",
            where=source.where(("lora", "parts", part)),
            do="remove it: texts come from the cache, and no text encoder is in memory while the denoiser learns",
        )
    return [part for part in recipe.lora.parts if part not in encoders]


def check_base_facts(recipe: "Recipe", variant: Variant, problems: Problems, source: "Source") -> None:
    """Note settings that the variant's base cannot follow: noise levels that it never saw."""
    for name, is_wider in (("t_min", float.__lt__), ("t_max", float.__gt__)):
        said, own = getattr(recipe.noise, name), variant.process.get(name)
        if own is not None and is_wider(said, own):
            problems.add(
                f"noise.{name} asks for noise levels that {variant.title} was not made for",
                found=f"{said:g}",
                allowed=f"{'from' if name == 't_min' else 'up to'} {own:g}",
                where=source.where(("noise", name)),
                do=f"leave noise.{name} out: the variant brings its own",
            )


def check_experts(recipe: "Recipe", variant: Variant, problems: Problems, source: "Source") -> None:
    """Note settings of experts where a variant has none, and experts that cannot learn as the recipe says."""
    said = (("model", "experts_in_memory"), ("method", "expert_stretch"))
    for section, name in said:
        options = getattr(recipe, section)
        changed = getattr(options, name) != type(options).model_fields[name].default
        if not variant.experts and changed:  # a run's own recipe spells every value out
            what, do = f"{section}.{name} has no effect in this run", f"remove {name}, or let two experts learn"
            problems.add(what, found="one denoiser", where=source.where((section, name)), do=do)
    full = [part for part, mode in recipe.lora.parts.items() if mode == "full"]
    if variant.experts and full and recipe.model.experts_in_memory == "one":
        what, do = "a part that learns in full must stay with its optimizer", 'set model.experts_in_memory = "all"'
        problems.add(what, found=", ".join(full), where=source.where(("lora", "parts")), do=do)
    for name, expert in variant.experts.items():
        levels = expert.within(recipe.noise.t_min, recipe.noise.t_max)
        if levels["t_min"] >= levels["t_max"]:
            problems.add(
                f"noise.t_min and noise.t_max leave the {name} expert nothing to learn",
                found=f"{recipe.noise.t_min:g} to {recipe.noise.t_max:g}",
                allowed=f"some of {expert.levels[0]:g} to {expert.levels[1]:g}",
                where=source.where(("noise",)),
                do="leave them out, or name the other expert alone in model.experts",
            )


def _check_shown(recipe: "Recipe") -> None:
    """Raise RecipeError where a method learns from clips and the run is shown none."""
    reason = learns_from_clips(recipe.method, t_max=recipe.noise.t_max)
    if recipe.data.show != "clips" and reason:
        problems = Problems(RecipeError)
        what, do = "this run learns from clips, and it is shown none", "set data.show = 'clips', or change the other"
        problems.add(what, found=f"data.show = '{recipe.data.show}', {reason}", where="data.show", do=do)
        problems.raise_if_any()


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
