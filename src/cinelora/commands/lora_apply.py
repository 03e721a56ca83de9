"""Owns the verb `lora apply`: a base with adapters added to its weights, as programs without adapters load it.

In: a base (a file, shards with an index, a pipeline's folder) and adapters, of any spelling that their family has. Out:
a base of the same kind, written a few rows at a time; its headers say what was merged, so that it can be taken out.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import cinelora
from cinelora.base.dtypes import torch_dtype
from cinelora.base.errors import Problem, Problems, RecipeError, WeightsError
from cinelora.base.files import sha256_file
from cinelora.base.log import console
from cinelora.commands.full_parts import files_beside
from cinelora.commands.lora_base import Network, Sums, open_base, reading, refuse_scaled, spelt, write_base
from cinelora.commands.lora_changes import Lora, read_lora
from cinelora.commands.lora_files import FORMATS, format_of, place_of, read_file, refuse_inputs, variant_near
from cinelora.commands.lora_open import PRECISIONS
from cinelora.contracts.card import Family
from cinelora.families import registry
from cinelora.lora.merge import Change, refuse_not_finite, refuse_sizes
from cinelora.nets.stream import FORMATS as NUMBER_FORMATS
from cinelora.nets.stream import NAMES

MERGED = "merged"
"""Under this name a merged file's header lists the adapters in it, each as `Row` has it."""


@dataclass(frozen=True)
class Asked:
    """What the command line asks for; empty or None: as the files say.

    `alpha` is that of a single adapter; of several `alphas` and `weights` hold one for each.
    """

    alpha: float | None = None
    out: Path | None = None
    file_format: str = ""
    model: str = ""
    dtype: str = ""
    original_names: bool = False
    allow_missing: bool = False
    alphas: tuple[float, ...] = ()
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class Fitted:
    """An adapter on a base: the changes that have a place there by the base's names, each with its whole strength."""

    lora: Lora
    changes: Mapping[str, tuple[Change, float]]
    alpha: float | None
    weight: float

    @property
    def told(self) -> str:
        """Its strengths for people, and for the header."""
        return ", ".join(f"{one:g}" for one in sorted({round(s, 6) for _, s in self.changes.values()}))


def apply(base: Path, loras: Path | Sequence[Path], asked: Asked) -> Path:
    """Write the base with W + strength B A for each module of each adapter; every other weight as it is.

    Raises WeightsError for modules that the base does not have, RecipeError where nobody says the strength.
    """
    places = [loras] if isinstance(loras, Path) else list(loras)
    alphas, weights = _checked(places, asked)
    ending = format_of(asked.out, asked.file_format)
    read = [read_lora(place, model=asked.model, allow_missing=asked.allow_missing) for place in places]
    for one in read:
        files_beside(one.path, one.header)  # what is not there is told before anything is added
    network = open_base(base, parts_of(read[0]) if base.is_dir() else ())
    fitted = [
        fit(one, network, alpha, weight, allow_missing=asked.allow_missing)
        for one, alpha, weight in zip(read, alphas, weights, strict=True)
    ]
    place = _place(network, fitted, asked, ending)
    sums = _sums(network, fitted, asked)
    write_base(network, sums, place, _header(network, fitted, sums), label="merging")
    for one in fitted:
        weight = f", weight {one.weight:g}" if one.weight != 1 or len(fitted) > 1 else ""
        count = f"{len(one.changes)} of {len(one.lora.changes)} modules"
        name = f" of {one.lora.path.name}" if len(fitted) > 1 else ""
        console.print(f"merged: {count}{name} at strength {one.told}{weight} into {place}")
    return place


def _checked(places: Sequence[Path], asked: Asked) -> tuple[list[float | None], list[float]]:
    """The alpha and the weight of each adapter. Raises RecipeError with all that is wrong."""
    problems = Problems(RecipeError)
    alphas = list(asked.alphas) or ([asked.alpha] if asked.alpha is not None else [])
    weights = list(asked.weights)
    if len(weights) == len(places) - 1:
        weights = [1.0, *weights]  # --lora A --lora B --weight 0.7: the first as it is
    for word, numbers in (("--alpha", alphas), ("--weight", weights)):
        if numbers and len(numbers) != len(places):
            allowed = "one for each --lora, in their order" + "; or one less, the first being 1" * (word == "--weight")
            found = f"{len(numbers)} for {len(places)} adapters"
            problems.add(f"{word} does not say which adapter it is for", found=found, allowed=allowed)
        odd = [one for one in numbers if not math.isfinite(one)]
        if odd:
            problems.add(f"{word} is no number", found=f"{odd[0]:g}")
    if not places:
        problems.add("name an adapter: --lora")
    if asked.dtype and asked.dtype not in PRECISIONS:
        problems.add("no such number format", found=asked.dtype, allowed=", ".join(PRECISIONS))
    problems.raise_if_any()
    return list(alphas) or [None] * len(places), weights or [1.0] * len(places)


def parts_of(lora: Lora) -> list[str]:
    """What the folder of the network that an adapter is for can be called in a pipeline's folder."""
    if lora.family is None:
        return []
    joint = lora.family.variants.get(lora.header.get("joint_variant", ""))
    expert = joint.experts.get(lora.header.get("expert", "")) if joint else None
    if expert is not None:
        return [expert.part]
    native = dict.fromkeys(name.partition(".")[0] for name in lora.native.values())
    every = [part for variant in lora.family.variants.values() for part in variant.parts]
    return list(native) if len(native) == 1 and not lora.is_of_some_expert else list(dict.fromkeys([*native, *every]))


def fit(lora: Lora, network: Network, alpha: float | None, weight: float, *, allow_missing: bool) -> Fitted:
    """Find every module's weight in the base. Raises WeightsError for modules without a place."""
    keys = network.weights.stored
    placed = {one.module: key for one in lora.changes if (key := f"{one.module}.weight") in keys}
    if len(placed) < len(lora.changes) and lora.family:
        placed = {**spelt(lora.native, lora.family, lora.variant, list(keys)), **placed}
    strengths = lora.strengths(alpha)
    refuse_not_finite(lora.changes, str(lora.path))
    used = _without_missing(lora.changes, placed, network.weights.where, allow_missing=allow_missing)
    changes = {placed[one.module]: (one, strengths[one.module] * weight) for one in used}
    return Fitted(lora, changes, alpha, weight)


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


def _sums(network: Network, fitted: Sequence[Fitted], asked: Asked) -> Sums:
    """All that changes. Raises WeightsError for weights of other sizes, and those that cannot be added to."""
    stored = network.weights.stored
    added: dict[str, list[tuple[Change, float]]] = {}
    for one in fitted:
        for key, change in one.changes.items():
            added.setdefault(key, []).append(change)
    where = str(network.weights.where)
    refuse_sizes({key: stored[key].shape for key in added}, added, where)
    refuse_scaled(network.weights, added)
    replaced: dict[str, Tensor] = {}
    for one in fitted:
        if one.lora.family is not None:
            replaced |= _whole_parts(one.lora, one.lora.family, network)
    return Sums(added, replaced, torch_dtype(asked.dtype) if asked.dtype else None)


def _whole_parts(lora: Lora, family: Family, network: Network) -> dict[str, Tensor]:
    """The weights of parts that learned in full beside the adapter, by the base's names and in its number formats."""
    found: dict[str, Tensor] = {}
    stored = network.weights.stored
    for part, place in files_beside(lora.path, lora.header).items():
        layout = reading(family, lora.variant, list(stored)).get(part)
        own = layout.from_native(read_file(place)[0]) if layout else {}
        lost = [key for key in own if key not in stored or tuple(own[key].shape) != stored[key].shape]
        if lost or not own:
            what, do = f"the base has no place for the part {part!r}, which learned in full", "name the base it fits"
            raise WeightsError(Problem(what, found=", ".join(lost[:4]), where=str(place), do=do))
        found |= {key: one.to(stored[key].dtype) for key, one in own.items()}
        console.print(f"replaced: all {len(own)} weights of the part {part!r}, from {place}")
    return found


def _header(network: Network, fitted: Sequence[Fitted], sums: Sums) -> dict[str, str]:
    """What the result says of itself: the base, and every adapter in it, also those that the base had."""
    weights = network.weights
    rows = [*merged_before(weights.header), *(_row(one, network, sums) for one in fitted)]
    first = {"base": weights.stem if weights.where.is_dir() else weights.where.name}
    names, strengths = [str(one["file"]) for one in rows], [str(one["strength"]) for one in rows]
    return {
        **({} if "base" in weights.header and len(rows) > len(fitted) else first),
        "merged_adapter": ", ".join(names),
        "merged_strength": "; ".join(strengths),
        MERGED: json.dumps(rows),
        "made_by": f"cinelora {cinelora.__version__}",
    }


def merged_before(header: Mapping[str, str]) -> list[dict[str, Any]]:
    """The adapters that a base's header says are in it, as `_row` has them. Raises WeightsError where it is damaged."""
    try:
        found = json.loads(header.get(MERGED, "[]"))
    except ValueError:
        found = None
    if isinstance(found, list) and all(map(_is_row, found)):
        return found
    what, do = "what the header says of merged adapters cannot be read", "fetch the file anew"
    raise WeightsError(Problem(what, found=f"{MERGED}: {header[MERGED][:60]}", do=do))


def _is_row(found: object) -> bool:
    kinds = {"file": str, "sha256": str, "strength": str, "weight": float, "modules": int, "formats": list}
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in kinds.items()):
        return False
    strengths = found["strength"].split(", ")
    return (
        set(found["formats"]) <= NUMBER_FORMATS.keys()
        and isinstance(found.get("alpha"), float | int | None)
        and all(re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", one) for one in strengths)
    )


def _row(one: Fitted, network: Network, sums: Sums) -> dict[str, Any]:
    stored = network.weights.stored
    return {
        "file": one.lora.path.name,
        "sha256": sha256_file(one.lora.path),
        "strength": one.told,
        "alpha": one.alpha,
        "weight": float(one.weight),
        "modules": len(one.changes),
        "formats": sorted({stored[key].kind for key in one.changes}),
        "written": sorted({NAMES[sums.format_of(stored[key])] for key in one.changes}),
        "dora": any(change.magnitude is not None for change, _ in one.changes.values()),
        "replaced": len(sums.replaced),
    }


def _place(network: Network, fitted: Sequence[Fitted], asked: Asked, ending: str) -> Path:
    """Where the result goes: a folder for shards, unless --out or --format ask for a file. Raises RecipeError."""
    weights, inputs = network.weights, [one.lora.path for one in fitted]
    name = _name(network, fitted, asked)
    as_folder = len(weights.files) > 1 or network.folder or weights.where.is_dir() and bool(weights.others)
    named_file = asked.out is not None and asked.out.suffix[1:] in FORMATS and not asked.out.is_dir()
    if not as_folder or asked.file_format or named_file:
        return place_of(asked.out, f"{name}.{ending}", *weights.files, *inputs)
    place = Path(name) if asked.out is None else asked.out
    refuse_inputs(place, weights.where, weights.where.parent, *inputs)
    return place


def _name(network: Network, fitted: Sequence[Fitted], asked: Asked) -> str:
    """FAMILY_VARIANT_ADAPTER where both are known, so that loaders that go by names find the right network."""
    weights, first = network.weights, fitted[0].lora
    family, stem = first.family, weights.stem
    variant = first.variant or (variant_near(family, weights.where) if family else None)
    if asked.original_names or family is None or variant is None:
        names_file = asked.out is not None and asked.out.suffix[1:] in FORMATS
        if not asked.original_names and family is not None and not names_file:
            console.print(f"the variant is not known, so that the name does not say it: --model {family.name}/VARIANT")
        return f"{stem}_{'_'.join(one.lora.path.stem for one in fitted)}_applied"
    adapters = "_".join(one.lora.plain_stem for one in fitted)
    if family.merged_name:
        return str(registry.named(family.merged_name)(variant.name, adapters))
    return f"{family.name}_{variant.name}_{adapters}"
