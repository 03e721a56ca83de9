"""Owns the verb `lora apply`: a base with an adapter added to its weights, as programs without adapters load it.

In: a base and an adapter, of any spelling that their family has. Out: one flat file of all weights.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import cinelora
from cinelora.base.dtypes import torch_dtype
from cinelora.base.errors import Problem, Problems, RecipeError, WeightsError
from cinelora.base.log import console
from cinelora.commands.full_parts import files_beside
from cinelora.commands.lora_files import (
    FORMATS,
    adapter_layout,
    family_of,
    format_of,
    one_file,
    part_layouts,
    place_of,
    read_file,
    variant_near,
)
from cinelora.contracts.card import Family, Variant
from cinelora.families import registry
from cinelora.lora.checkpoints import write_weights
from cinelora.lora.files import DOWN, HEADER_KEY, stated_alphas
from cinelora.lora.merge import Change, changes_of, merged

_PRECISIONS = ("fp32", "bf16", "fp16")
_SAME = 1e-4
"""Strengths that differ by a smaller share are the same."""


@dataclass(frozen=True)
class Asked:
    """What the command line asks for; empty or None: as the files say."""

    alpha: float | None = None
    out: Path | None = None
    file_format: str = ""
    model: str = ""
    dtype: str = ""
    original_names: bool = False
    allow_missing: bool = False


def apply(base: Path, lora: Path, asked: Asked) -> Path:
    """Write the base with W + alpha B A for each of the adapter's modules; every other weight as it is.

    Raises WeightsError for modules that the base does not have, RecipeError where nobody says the strength.
    """
    base, lora = one_file(base), one_file(lora)
    _check_words(asked)
    ending = format_of(asked.out, asked.file_format)
    adapter, header = read_file(lora)
    changes = changes_of(adapter, str(lora))
    known = family_of(list(adapter), header, asked.model)
    _check_adapter(adapter, known[0] if asked.model and known else None, str(lora))
    weights = read_file(base)[0]
    weights |= _whole_parts(lora, header, known[0], weights) if known else {}
    placed = {one.module: key for one in changes if (key := f"{one.module}.weight") in weights}
    native: dict[str, str] = {}
    if known and (len(placed) < len(changes) or HEADER_KEY in header):
        native = _native_names(adapter, changes, known[0])
        placed = {**_placed(native, known[0], weights), **placed}
    strengths = strengths_of(changes, header, native, asked.alpha, where=lora)
    used = _without_missing(changes, placed, base, allow_missing=asked.allow_missing)
    place = place_of(asked.out, _name(base, lora, known, asked=asked, ending=ending), base, lora)
    dtype = torch_dtype(asked.dtype) if asked.dtype else None
    found = merged(weights, {placed[one.module]: (one, strengths[one.module]) for one in used}, dtype=dtype)
    told = sorted({round(strengths[one.module], 6) for one in used})
    strength = ", ".join(f"{one:g}" for one in told)
    made = {"base": base.name, "merged_adapter": lora.name, "merged_strength": strength}
    write_weights(place, found, {**made, "made_by": f"cinelora {cinelora.__version__}"})
    console.print(f"merged: {len(used)} of {len(changes)} modules at strength {strength} into {place}")
    return place


def _check_words(asked: Asked) -> None:
    """Raise RecipeError for words that no result can come of."""
    if asked.dtype and asked.dtype not in _PRECISIONS:
        raise RecipeError(Problem("no such number format", found=asked.dtype, allowed=", ".join(_PRECISIONS)))
    if asked.alpha is not None and not math.isfinite(asked.alpha):
        raise RecipeError(Problem("--alpha is no number", found=f"{asked.alpha}", do="give what B A is multiplied by"))


def _check_adapter(adapter: Mapping[str, Tensor], family: Family | None, where: str) -> None:
    """Raise WeightsError for numbers that would spoil the base, and for the adapter of another than the `family`."""
    problems = Problems(WeightsError)
    odd = [key for key, one in adapter.items() if not one.float().isfinite().all()]
    if odd:
        what, do = f"{len(odd)} tensors of the adapter hold numbers that are not finite", "take an earlier checkpoint's"
        problems.add(what, found=", ".join(odd[:4]), where=where, do=do)
    if family is not None and adapter_layout(family, list(adapter)) is None:
        do = "leave --model out, or name what the adapter was trained on"
        problems.add(f"it is no adapter of {family.name}", found=", ".join(list(adapter)[:2]), where=where, do=do)
    problems.raise_if_any()


def strengths_of(
    changes: Sequence[Change], header: Mapping[str, str], native: Mapping[str, str], alpha: float | None, *, where: Path
) -> dict[str, float]:
    """What B A of each module is multiplied by: what is asked for, else what the adapter was trained with.

    Tells where these differ. Raises RecipeError where neither is known, WeightsError where the file says nonsense.
    """
    ranks = {native[one.module]: one.rank for one in changes if one.module in native}
    stated = stated_alphas(header, ranks, where)
    trained = {one.module: one.alpha / one.rank for one in changes if one.alpha is not None}
    trained |= {
        one.module: stated[native[one.module]] / one.rank for one in changes if native.get(one.module) in stated
    }
    silent = [one.module for one in changes if one.module not in trained and not one.idle]
    if alpha is None:
        odd = [module for module, one in trained.items() if not math.isfinite(one)]
        if odd:
            what, do = "what the adapter says of its strength is no number", "name it: --alpha"
            raise WeightsError(Problem(what, found=", ".join(odd[:3]), where=str(where), do=do))
        if silent:
            what = f"{len(silent)} of the adapter's modules do not say the strength that they were trained with"
            do = (
                "name it: --alpha, what B A is multiplied by (lora.alpha of a DynamiCrafter recipe, 0.5 in its example)"
            )
            raise RecipeError(Problem(what, found=", ".join(silent[:3]), where=str(where), do=do))
        return {one.module: trained.get(one.module, 0.0) for one in changes}
    other = sorted({round(one, 6) for one in trained.values() if abs(one - alpha) > _SAME * abs(one)})
    if other:
        console.print(
            f"warning: alpha = {alpha:g} is not the strength that the adapter was trained with, "
            f"{', '.join(f'{one:g}' for one in other[:4])}; leave --alpha out to get what was trained"
        )
    return {one.module: alpha for one in changes}


def _native_names(adapter: Mapping[str, Tensor], changes: Sequence[Change], family: Family) -> dict[str, str]:
    """{module as the file calls it: "part.module"}; layouts hand tensors on, so each is found by being the same."""
    layout = adapter_layout(family, list(adapter))
    if layout is None:
        return {}
    names = {id(tensor): key for key, tensor in layout.to_native(adapter).items()}
    return {one.module: names[id(one.a)].removesuffix(DOWN) for one in changes if id(one.a) in names}


def _placed(native: Mapping[str, str], family: Family, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """{module: the base's name of its weight}, of those that it has, in whichever of the family's spellings it is."""
    keys, found = list(weights), dict[str, str]()
    spelt = {
        part: next((layout for layout in own if layout.reads(keys)), None) for part, own in part_layouts(family).items()
    }
    for module, name in native.items():
        part, _, inner = name.partition(".")
        layout = spelt.get(part)
        if layout is not None:
            key = next(iter(layout.from_native({f"{inner}.weight": torch.empty(0)})))
            found |= {module: key} if key in weights else {}
    return found


def _whole_parts(
    lora: Path, header: Mapping[str, str], family: Family, weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The weights of parts that learned in full beside the adapter, by the base's names and in its number formats."""
    found: dict[str, Tensor] = {}
    for part, place in files_beside(lora, header).items():
        layout = next((layout for layout in part_layouts(family).get(part, ()) if layout.reads(list(weights))), None)
        own = layout.from_native(read_file(place)[0]) if layout else {}
        lost = [key for key in own if key not in weights or own[key].shape != weights[key].shape]
        if lost or not own:
            what, do = f"the base has no place for the part {part!r}, which learned in full", "name the base it fits"
            raise WeightsError(Problem(what, found=", ".join(lost[:4]), where=str(place), do=do))
        found |= {key: one.to(weights[key].dtype) for key, one in own.items()}
        console.print(f"replaced: all {len(own)} weights of the part {part!r}, from {place}")
    return found


def _without_missing(
    changes: Sequence[Change], placed: Mapping[str, str], base: Path, *, allow_missing: bool
) -> list[Change]:
    """What is merged. Adapters that do nothing need no place: reference trainings put such into the encoders."""
    missing = [one for one in changes if one.module not in placed]
    lost = [one.module for one in missing if not one.idle]
    if (lost and not allow_missing) or not placed:
        names = ", ".join(lost[:4] or [one.module for one in missing[:4]])
        what, do = (
            f"the base has no place for {len(missing)} of the adapter's {len(changes)} modules",
            ("name the base that it was trained on; --allow-missing leaves out what has no place"),
        )
        raise WeightsError(Problem(what, found=names + (" ..." if len(missing) > 4 else ""), where=str(base), do=do))
    if missing:
        doing = f"{len(lost)} of them would change something" if lost else "they change nothing"
        console.print(f"left out: {len(missing)} modules that the base does not have; {doing}")
    return [one for one in changes if one.module in placed]


def _name(base: Path, lora: Path, known: tuple[Family, Variant | None] | None, *, asked: Asked, ending: str) -> str:
    """FAMILY_VARIANT_ADAPTER where both are known, so that loaders that go by names find the right network."""
    family, variant = known or (None, None)
    variant = variant or (variant_near(family, base) if family else None)
    if asked.original_names or family is None or variant is None:
        names_file = asked.out is not None and asked.out.suffix[1:] in FORMATS
        if not asked.original_names and family is not None and not names_file:
            console.print(f"the variant is not known, so that the name does not say it: --model {family.name}/VARIANT")
        return f"{base.stem}_{lora.stem}_applied.{ending}"
    # A run's files say their layout too.
    layouts = tuple(f".{layout.name}" for layout in registry.named(family.lora_layouts))
    stem = next((lora.stem.removesuffix(one) for one in layouts if lora.stem.endswith(one)), lora.stem)
    if family.merged_name:
        return f"{registry.named(family.merged_name)(variant.name, stem)}.{ending}"
    return f"{family.name}_{variant.name}_{stem}.{ending}"
