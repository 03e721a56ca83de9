"""Owns whose network some weights are: by names and sizes of a family's own networks, which have no memory here.

In: weights as their files name them. Out: family, variants that fit, and the weights by native name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from cinelora.base.errors import Problem, WeightsError
from cinelora.commands.init import split
from cinelora.commands.lora_base import reading
from cinelora.commands.lora_files import shown_families
from cinelora.contracts.card import Family, Variant
from cinelora.contracts.roles import Layout
from cinelora.families import registry
from cinelora.lora.targets import linears
from cinelora.nets.stream import Stored, Weights

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Recognised:
    """A network: `parts` on the meta device, `fits` are the variants with these sizes (FAMILY/VARIANT).

    `native` maps "part.name" to what is stored; `others` are names in the files that are of no part.
    """

    family: Family
    variant: Variant
    fits: tuple[str, ...]
    parts: Mapping[str, nn.Module]
    native: Mapping[str, Stored]
    others: Mapping[str, Stored]

    def linear(self, name: str) -> bool:
        """True for "part.module.weight" of a linear module."""
        part, _, inner = name.partition(".")
        return inner.endswith(".weight") and inner.removesuffix(".weight") in linears(self.parts[part])


def recognise(weights: Weights, model: str = "") -> Recognised:
    """Find family and variant. Raises WeightsError that names the nearest where none has all of these weights."""
    told = registry.find(*split(model)) if model else None
    families = [told[0]] if told else shown_families()
    found: list[tuple[float, Recognised]] = []
    for family in families:
        known: dict[str, tuple[float, Recognised]] = {}
        for variant in [told[1]] if told else family.variants.values():
            if variant.experts:
                continue
            networks = {name: one for name, one in variant.network.items() if "encoder" not in name and name != "vae"}
            alike = repr((variant.parts, networks, variant.weight_layouts))
            if alike not in known:
                known[alike] = _compared(weights, family, variant)
            share, one = known[alike]
            name = f"{family.name}/{variant.name}"
            if share == 1:
                known[alike] = (share, Recognised(**{**vars(one), "fits": (*one.fits, name)}))
        found += known.values()
    best = max(found, key=lambda pair: (pair[0], len(pair[1].native)), default=(0.0, None))
    if best[1] is None or not best[1].native or (best[0] < 1 and told is None) or best[0] < 0.5:
        raise _unknown(weights, best)
    return best[1]


def _unknown(weights: Weights, best: tuple[float, Recognised | None]) -> WeightsError:
    share, nearest = best
    near = f"{nearest.family.name}/{nearest.variant.name} ({share:.0%} of its weights)" if nearest and share else ""
    keys = ", ".join(list(weights.stored)[:3])
    what, do = (
        "these are not the weights of any family's denoiser, whole",
        "say whose they are: --variant FAMILY/VARIANT",
    )
    return WeightsError(Problem(what, found=f"{keys} ...", nearest=near, where=str(weights.where), do=do))


def _compared(weights: Weights, family: Family, variant: Variant) -> tuple[float, Recognised]:
    """Which share of a variant's weights is there, in their sizes."""
    keys = list(weights.stored)
    marks = {key: torch.empty(0) for key in keys}
    spelt = reading(family, variant, keys)
    parts = registry.skeleton(family, variant) if spelt else {}
    native, used, wanted, there = dict[str, Stored](), set[str](), 0, 0
    for part in _named(weights, variant.parts, spelt):
        names = _natives(marks, spelt[part])
        own = {name: tuple(one.shape) for name, one in parts[part].state_dict().items()}
        mine = {name: weights.stored[key] for name, key in names.items() if name in own}
        shared = {name for name, one in mine.items() if one.shape == own[name]}
        if not shared or (native and len(shared) < len(own)):
            continue
        wanted, there = wanted + len(own), there + len(shared)
        native |= {f"{part}.{name}": one for name, one in mine.items() if one.name not in used}
        used |= {one.name for one in mine.values()}
    others = {key: one for key, one in weights.stored.items() if key not in used}
    share = there / wanted if wanted else 0.0
    return share, Recognised(family, variant, (), parts, native, others)


def _named(weights: Weights, parts: Sequence[str], spelt: Mapping[str, Layout]) -> list[str]:
    """The parts that the file can hold: the one that its folder is called like, else all that are spelt so."""
    own = weights.where.name if weights.where.is_dir() else weights.where.parent.name
    return [own] if own in parts and own in spelt else [part for part in parts if part in spelt]


def _natives(marks: Mapping[str, torch.Tensor], layout: Layout) -> dict[str, str]:
    """{native name: the file's name}: layouts hand tensors on, so each is found by being the same one."""
    names = {id(one): key for key, one in marks.items()}
    try:
        found = layout.to_native(marks)
    except WeightsError:
        return {}
    return {name: names[id(one)] for name, one in found.items() if id(one) in names}
