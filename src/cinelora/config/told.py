"""Owns the checks of what a variant's denoiser is told: settings of text, pictures and tracks that it does not take."""

from typing import TYPE_CHECKING, Any

from cinelora.base.errors import Problems
from cinelora.contracts.card import Family, Variant
from cinelora.families import registry

if TYPE_CHECKING:
    from cinelora.config.load import Source
    from cinelora.config.recipe import Recipe

_PICTURES = ("image", "ends", "inpaint")
"""How the names of conditions begin that are made of given pictures."""
_OF_CAPTIONS = (
    "caption_column",
    "caption_lines",
    "caption_prefix",
    "caption_suffix",
    "trigger",
    "trim_openings",
    "shuffle_tags",
    "keep_tags",
    "caption_dropout",
)
_OF_TEXT = (("model", "text_dropout"), ("preview", "negative_prompt"))
_OF_PICTURES = (("model", "image_dropout"),)
_OF_IDS = (("model", "motion_bucket"),)
_OF_PACE = (("preview", "pace"),)
_OF_GREY = (("preview", "image_guidance"),)
_OF_LATENTS = (("model", "image_noise"),)


def must_say(variant: Variant) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a recipe of this variant cannot leave out, of each source and of [lora]: {} for most."""
    source = {"track_suffix": "_tracks"} if "tracks" in variant.learns_from.values() else {}
    return source, {"parts": dict.fromkeys(variant.new_parts, "full")} if variant.new_parts else {}


def must_say_of(family: str, variant: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """`must_say` of a variant by name; {} of one that is unknown, which is told where the recipe is checked."""
    known = registry.FAMILIES.get(family)
    found = known.variants.get(variant) if known else None
    return must_say(found) if found else ({}, {})


def check_told(recipe: "Recipe", family: Family, variant: Variant, problems: Problems, source: "Source") -> None:
    """Note settings without an effect, and parts that could learn nothing of what they are shown."""
    title = f"{family.name}/{variant.name}"
    if not variant.reads_text:
        _refuse(recipe, _OF_TEXT, f"{title} reads no text", problems, source)
        for number, one in enumerate(recipe.data.source):
            for name in _changed(one, _OF_CAPTIONS):
                where = source.where(("data", "source", number, name))
                found = f"{title} reads no text"
                problems.add(f"{name} has no effect in this run", found=found, where=where, do=f"remove {name}")
    if not any(name.startswith(_PICTURES) for name in variant.conditions):
        _refuse(recipe, _OF_PICTURES, f"{variant.title} takes no pictures", problems, source)
    if "ids" not in variant.conditions:
        _refuse(recipe, _OF_IDS, f"{variant.title} is not told of motion", problems, source)
    if "fps" not in variant.conditions:
        _refuse(recipe, _OF_PACE, f"{variant.title} is not told of the pace of a clip", problems, source)
    if "grey" not in variant.conditions:  # what stands for no picture
        _refuse(recipe, _OF_GREY, f"{variant.title} cannot leave the picture out", problems, source)
        _refuse(recipe, _OF_LATENTS, f"{variant.title} is given pictures as they are", problems, source)
    _check_rates(recipe, variant, problems, source)
    _check_tracks(recipe, title, variant, problems, source)
    _check_new(recipe, title, variant, problems, source)


def _changed(options: Any, names: tuple[str, ...]) -> list[str]:
    """Options that are not at their defaults: a run's own recipe spells every value out."""
    fields = type(options).model_fields
    return [name for name in names if getattr(options, name) != fields[name].get_default(call_default_factory=True)]


def _refuse(
    recipe: "Recipe", places: tuple[tuple[str, str], ...], why: str, problems: Problems, source: "Source"
) -> None:
    for section, name in places:
        options = getattr(recipe, section)
        if _changed(options, (name,)):
            what, found = f"{section}.{name} has no effect: {why}", f"{getattr(options, name)}"
            where = source.where((section, name))
            problems.add(what, found=found, where=where, do=f"remove {name}, or choose a variant that takes it")


def _check_rates(recipe: "Recipe", variant: Variant, problems: Problems, source: "Source") -> None:
    """A rate of parts that learn in full, where none does, or all do."""
    modes = {recipe.lora.parts.get(part, "lora") for part in variant.parts} - {"frozen"}
    if recipe.train.lr_full is not None and modes != {"lora", "full"}:
        found = "every part that learns does so in full" if modes == {"full"} else "no part learns in full (lora.parts)"
        do = "set train.lr instead" if modes == {"full"} else "remove lr_full"
        where = source.where(("train", "lr_full"))
        problems.add("train.lr_full has no effect in this run", found=found, where=where, do=do)


def _check_tracks(recipe: "Recipe", title: str, variant: Variant, problems: Problems, source: "Source") -> None:
    """Files of tracks that nothing reads, and a part that learns from tracks where no source has any."""
    tracked = [one for one in recipe.data.source if one.track_suffix]
    if "tracks" not in variant.conditions:
        for number, one in enumerate(recipe.data.source):
            if one.track_suffix:
                where = source.where(("data", "source", number, "track_suffix"))
                found, do = f"track_suffix = {one.track_suffix!r}", "remove it, or take a variant with tracks"
                problems.add(f"{title} reads no tracks", found=found, where=where, do=do)
    for part, condition in variant.learns_from.items():
        if condition == "tracks" and not tracked and recipe.lora.parts.get(part, "lora") != "frozen":
            problems.add(
                f"part {part!r} learns from tracks, and no source has any",
                found="no track_suffix in [[data.source]]",
                where=source.where(("data", "source")),
                do=f"set track_suffix (`cinelora tracks FOLDER` makes such files), or freeze it: lora.parts.{part} = "
                "'frozen'",
            )


def _check_new(recipe: "Recipe", title: str, variant: Variant, problems: Problems, source: "Source") -> None:
    """A new part adds nothing until it learns, and what an adapter would change is multiplied by that nothing."""
    for part in variant.new_parts:
        mode = recipe.lora.parts.get(part, "lora")
        if mode != "full":
            problems.add(
                f"part {part!r} of {title} is new and begins by adding nothing, so that it can only learn in full",
                found=f"lora.parts.{part} = {mode!r}"
                + ("" if part in recipe.lora.parts else ", where nothing is said"),
                allowed="'full'",
                where=source.where(("lora", "parts", part)),
                do=f"set it to 'full', or take a base whose {part} is trained",
            )


def check_script(recipe: "Recipe", variant: Variant, problems: Problems, source: "Source") -> None:
    """Levels that were set although noise.compat draws its own."""
    said = source.tables.get("noise", {})
    if recipe.noise.compat == "none" or not isinstance(said, dict):
        return
    for name in ("p_mean", "p_std"):
        if name in said and said[name] != variant.process.get(name):
            where, do = source.where(("noise", name)), f"remove {name}, or noise.compat"
            what = f"noise.{name} has no effect in this run"
            problems.add(what, found=f"compat = {recipe.noise.compat!r}", where=where, do=do)
