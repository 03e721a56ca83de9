"""Owns the list of families: name -> card, and the opening of what a card names. Imports no torch by itself."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from cinelora.base.errors import Problem, RecipeError, nearest
from cinelora.contracts.card import Family, Variant
from cinelora.contracts.roles import AdapterLayout, Denoiser, Encoder
from cinelora.families.cogvideox.card import CARD as COGVIDEOX
from cinelora.families.fake.card import CARD as FAKE
from cinelora.families.wan.card import CARD as WAN

FAMILIES: dict[str, Family] = {card.name: card for card in (WAN, COGVIDEOX, FAKE)}
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


def open_encoder(family: Family, variant: Variant, *, base: str, dtype: str) -> Encoder:
    """The family's Encoder on a base (folder, file or Hub id). No weights are read before a tower is used."""
    return named(family.open_encoder)(base, variant, dtype)


def open_denoiser(family: Family, variant: Variant, *, base: str, dtype: str) -> Denoiser:
    """The family's Denoiser with its weights. Raises WeightsError with all missing and extra keys."""
    return named(family.open_denoiser)(base, variant, dtype)


def lora_layouts(family: Family) -> Sequence[AdapterLayout]:
    """The spellings of adapter files that the family reads and writes."""
    return named(family.lora_layouts)
