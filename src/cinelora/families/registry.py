"""Owns the list of families: name -> card, and the opening of what a card names. Imports no torch by itself."""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cinelora.base.errors import Problem, Problems, RecipeError, WeightsError, nearest
from cinelora.contracts.card import Family, Variant
from cinelora.contracts.roles import AdapterLayout, Denoiser, Encoder
from cinelora.families.cogvideox.card import CARD as COGVIDEOX
from cinelora.families.dynamicrafter.card import CARD as DYNAMICRAFTER
from cinelora.families.easyanimate.card import CARD as EASYANIMATE
from cinelora.families.fake.card import CARD as FAKE
from cinelora.families.framer.card import CARD as FRAMER
from cinelora.families.wan.card import CARD as WAN

if TYPE_CHECKING:
    from torch import nn

_CARDS = (WAN, COGVIDEOX, EASYANIMATE, DYNAMICRAFTER, FRAMER, FAKE)
FAMILIES: dict[str, Family] = {card.name: card for card in _CARDS}
HIDDEN = ("fake",)
"""Families for tests, not shown to users."""


def find(name: str, variant: str) -> tuple[Family, Variant]:
    """The card and the variant. Raises RecipeError that names the nearest ones."""
    shown = [key for key in FAMILIES if key not in HIDDEN]
    if name not in FAMILIES:
        raise RecipeError(
            Problem(
                "no such family",
                found=name,
                allowed=", ".join(shown),
                nearest=nearest(name, shown),
                do="see `cinelora families`",
            )
        )
    variants = FAMILIES[name].variants
    if variant not in variants:
        raise RecipeError(
            Problem(
                f"{name} has no such variant",
                found=variant,
                allowed=", ".join(variants),
                nearest=nearest(variant, variants),
            )
        )
    return FAMILIES[name], variants[variant]


def named(target: str) -> Any:
    """Import what a card names as "module:attribute"."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)


def narrowed(family: Family, variant: Variant, experts: Sequence[str]) -> Variant:
    """The variant with the experts that a recipe names: all of them (or none named), or one, which is a variant itself.

    Raises RecipeError for names that it does not have.
    """
    if not experts:
        return variant
    if not variant.experts:
        having = [name for name, one in family.variants.items() if one.experts]
        do = f"choose {' or '.join(having)}, or remove model.experts" if having else "remove model.experts"
        what = f"{family.name}/{variant.name} has no experts to choose from"
        raise RecipeError(Problem(what, found=", ".join(experts), where="model.experts", do=do))
    unknown = [name for name in experts if name not in variant.experts]
    if unknown or len(set(experts)) < len(experts):
        raise RecipeError(
            Problem(
                "the variant has no such expert" if unknown else "model.experts names an expert twice",
                found=", ".join(map(str, experts)),
                allowed=", ".join(variant.experts),
                nearest=nearest(unknown[0], variant.experts) if unknown else "",
                where="model.experts",
            )
        )
    return variant.experts[experts[0]].variant if len(experts) == 1 else variant


def open_encoder(family: Family, variant: Variant, *, base: str, dtype: str) -> Encoder:
    """The family's Encoder on a base (folder, file or Hub id). No weights are read before a tower is used."""
    return named(family.open_encoder)(base, variant, dtype)


def open_denoiser(family: Family, variant: Variant, *, base: str, dtype: str, one_in_memory: bool = False) -> Denoiser:
    """The family's Denoiser with its weights, of a variant with experts the joint one of all.

    Raises WeightsError with all missing and extra keys.
    """
    open_one = named(family.open_denoiser)
    if not variant.experts:
        return open_one(base, variant, dtype)
    from cinelora.nets.experts import Experts, Member  # loads torch

    members = {
        name: Member(open_one(base, expert.variant, dtype), expert.part, expert.levels[0])
        for name, expert in variant.experts.items()
    }
    return Experts(members, one_in_memory=one_in_memory)


def skeleton(family: Family, variant: Variant) -> "dict[str, nn.Module]":
    """The denoiser's parts on the meta device: names and shapes."""
    make = named(family.skeleton)
    if not variant.experts:
        return make(variant)
    return {expert.part: next(iter(make(expert.variant).values())) for expert in variant.experts.values()}


def check_base(family: Family, variant: Variant, base: str) -> None:
    """Look at the headers of a base's denoiser, of all its experts. Raises WeightsError with what does not fit."""
    problems = Problems(WeightsError)
    for one in [expert.variant for expert in variant.experts.values()] or [variant]:
        try:
            named(family.check_base)(base, one)
        except WeightsError as error:
            problems.found += error.problems
    problems.raise_if_any()


def lora_layouts(family: Family, variant: Variant) -> Sequence[AdapterLayout]:
    """The spellings of adapter files that the variant reads and writes."""
    return named(variant.lora_layouts or family.lora_layouts)


def stated_noise(family: Family, variant: Variant, base: str) -> dict[str, Any]:
    """The options of [noise] that a base itself states; {} where it states none. Raises WeightsError."""
    return named(family.schedule)(base, variant) if family.schedule else {}
