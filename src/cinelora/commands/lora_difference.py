"""Owns `lora extract --tuned --base`: the adapter nearest to what a training changed, by SVD of each difference.

In: weights before and after, of one network, in any spelling and in shards or not. Out: adapter files; what each module
loses, and what changed that no adapter has a place for. One tensor of each is in memory at a time.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

import cinelora
from cinelora.base.errors import Problem, Problems, RecipeError, WeightsError, nearest
from cinelora.base.log import console, progress
from cinelora.commands.lora_base import Megabytes, open_base
from cinelora.commands.lora_files import lora_layouts, refuse_inputs, shown_families
from cinelora.commands.lora_open import Wanted
from cinelora.commands.lora_recognise import Recognised, recognise
from cinelora.commands.lora_table import check_csv, summary, tell
from cinelora.contracts.roles import AdapterLayout
from cinelora.lora.algebra import Kept, refuse_overflow
from cinelora.lora.files import DOWN, UP, AdapterFile, read_adapter, write_adapter
from cinelora.lora.fit import grouped, plan_of
from cinelora.lora.svd import Cut, How, cut_of, of_matrix
from cinelora.lora.targets import linears, near
from cinelora.nets.stream import Stored, Weights

_SHOWN = 6


@dataclass(frozen=True)
class Asked:
    """What the command line asks for; empty or None is left to the files."""

    rank: int | None = None
    energy: float | None = None
    max_rank: int | None = None
    targets: str = ""
    svd: str = "fp32"
    strict: bool = False
    model: str = ""
    wanted: Wanted = field(default_factory=Wanted)
    as_json: bool = False
    csv_file: Path | None = None


@dataclass
class Found:
    """What the differences came to: matrices and rows by module, sizes of other changes, how many did not change."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    rows: list[Kept] = field(default_factory=list)
    beside: dict[str, float] = field(default_factory=dict)
    untargeted: dict[str, float] = field(default_factory=dict)
    same: int = 0


def difference(tuned: Path, base: Path, asked: Asked) -> list[Path]:
    """Write the adapter files. Raises RecipeError for words that do not fit, WeightsError for weights that do not."""
    cut, dtype = _checked(asked)
    parts = [part for one in shown_families() for variant in one.variants.values() for part in variant.parts]
    before = open_base(base, dict.fromkeys(parts)).weights  # type: ignore[arg-type]
    after = open_base(tuned, dict.fromkeys(parts)).weights  # type: ignore[arg-type]
    known = recognise(before, asked.model)
    pairs = _pairs(known, recognise(after, asked.model or known.fits[0] if known.fits else asked.model), before, after)
    targeted = _targeted(known, asked.targets)
    console.print(
        f"network: {', '.join(known.fits) or 'as told'}; {len(pairs)} weights, {len(targeted)} of them targets"
    )
    layouts = _layouts(known, asked.wanted.to)
    places = _places(after, layouts, asked.wanted, inputs=(*before.files, *after.files))
    found = _differences(known, pairs, targeted, cut, asked=asked, dtype=dtype or torch.float32)
    _tell_rest(found, strict=asked.strict)
    if not found.rows:
        what, do = (
            "nothing that an adapter has a place for is different",
            "name the weights after the training as --tuned",
        )
        raise WeightsError(Problem(what, found=f"{found.same} equal weights", where=str(tuned), do=do))
    file = AdapterFile(
        found.tensors, {row.module: float(row.rank) for row in found.rows}, _header(known, found, before)
    )
    for layout, place in zip(layouts, places, strict=True):
        write_adapter(place, file, layout)
        plan_of(known.parts, read_adapter(place, [layout]))
    tell(found.rows, as_json=asked.as_json, csv_file=asked.csv_file)
    methods = ", ".join(sorted({row.method for row in found.rows}))
    left = f"; {found.same} weights did not change and are left out" if found.same else ""
    console.print(f"extracted: {summary(found.rows)} (SVD: {methods}){left}")
    console.print(f"read back, and each module has its place: {', '.join(str(place) for place in places)}")
    return places


def _checked(asked: Asked) -> tuple[Cut, torch.dtype | None]:
    if asked.svd not in get_args(How):
        near_by = nearest(asked.svd, get_args(How))
        raise RecipeError(
            Problem("no such SVD", found=asked.svd, allowed=", ".join(get_args(How)), nearest=near_by, where="--svd")
        )
    if asked.svd == "lowrank" and asked.rank is None:
        do = "say --rank, or take fp32"
        raise RecipeError(Problem("an estimate needs a rank: it does not see the whole energy", where="--svd", do=do))
    check_csv(asked.csv_file)
    return cut_of(asked.rank, asked.energy, asked.max_rank), asked.wanted.number_format()


def _pairs(known: Recognised, tuned: Recognised, before: Weights, after: Weights) -> dict[str, tuple[Stored, Stored]]:
    """{native name, or the file's for other networks: (base, tuned)}. Raises WeightsError for weights of one side."""
    problems = Problems(WeightsError)
    ours, theirs = {**known.native, **known.others}, {**tuned.native, **tuned.others}
    if known.family.name != tuned.family.name:
        what, do = "base and tuned weights are of two families", "name the base that was tuned"
        raise WeightsError(Problem(what, found=tuned.family.name, allowed=known.family.name, do=do))
    lost = [name for name in theirs if name not in ours]
    if lost:
        what, do = f"{len(lost)} of the tuned weights are not in the base", "name the base that was tuned"
        if any("lora_" in name for name in lost):
            do = "an adapter is in there already: cinelora lora extract --model"
        problems.add(what, found=grouped(lost), where=str(after.where), do=do)
    other = [name for name in theirs if name in ours and theirs[name].shape != ours[name].shape]
    if other:
        found = ", ".join(
            f"{name} {list(theirs[name].shape)}, in the base {list(ours[name].shape)}" for name in other[:3]
        )
        what = f"{len(other)} weights have another size than in the base"
        problems.add(what, found=found, where=str(after.where), do="name the base that was tuned")
    problems.raise_if_any()
    missing = [name for name in ours if name not in theirs]
    if missing:
        console.print(f"{len(missing)} weights of the base are not in {after.where}: {grouped(missing)}")
    return {name: (one, theirs[name]) for name, one in ours.items() if name in theirs}


def _targeted(known: Recognised, targets: str) -> set[str]:
    """Names of the weights that become adapters. Raises RecipeError for a pattern that matches nothing."""
    every = {f"{part}.{name}": name for part, net in known.parts.items() for name in linears(net)}
    every = {key: name for key, name in every.items() if f"{key}.weight" in known.native}
    preset = known.family.lora_presets.get(targets)
    try:
        chosen = {
            key
            for key, name in every.items()
            for pattern in [preset if isinstance(preset, str) else (preset or {}).get(key.partition(".")[0], targets)]
            if not targets or re.fullmatch(pattern, name)
        }
    except re.error as error:
        what, do = "--targets is not a regular expression", f"mend it: {error.msg} at {error.pos}"
        raise RecipeError(Problem(what, found=targets, do=do)) from error
    if not chosen:
        what, do = "--targets matches no linear module", "the pattern must match a whole name: put .* before an ending"
        names = {name: None for name in every.values()}
        presets = ", ".join(known.family.lora_presets)
        allowed = f"a regular expression, or a preset: {presets}"
        raise RecipeError(Problem(what, found=targets, allowed=allowed, nearest=near(targets, names), do=do))
    return {f"{key}.weight" for key in chosen}


def _differences(
    known: Recognised,
    pairs: Mapping[str, tuple[Stored, Stored]],
    targeted: set[str],
    cut: Cut,
    *,
    asked: Asked,
    dtype: torch.dtype,
) -> Found:
    found, total = Found(), sum(after.num_bytes for _, after in pairs.values())
    with progress("taking apart (MB)", max(1, total >> 20)) as advance:
        counted = Megabytes(advance)
        for name, (before, after) in pairs.items():
            _one(known, name, (before, after), found, cut, (name in targeted, asked.svd, dtype))
            counted(after.num_bytes)
    return found


def _one(
    known: Recognised,
    name: str,
    pair: tuple[Stored, Stored],
    found: Found,
    cut: Cut,
    how: tuple[bool, str, torch.dtype],
) -> None:
    """Compare one weight. Raises WeightsError for numbers that are not finite."""
    targeted, svd, dtype = how
    before, after = pair[0].whole(), pair[1].whole()
    if before.dtype == after.dtype and torch.equal(before, after):
        found.same += 1
        return
    precise = torch.float64 if svd == "fp64" else torch.float32
    base_norm = _norm(before)
    delta = after.to(precise).sub_(before.to(precise))
    del before, after
    if not bool(delta.isfinite().all()):
        what, do = f"{name} has numbers that are not finite", "take an earlier checkpoint"
        raise WeightsError(Problem(what, where=str(pair[1].path), do=do))
    norm = _norm(delta)
    if not norm:
        found.same += 1
    elif not targeted:
        is_linear = name in known.native and known.linear(name)
        (found.untargeted if is_linear else found.beside)[name] = norm / base_norm if base_norm else float("inf")
    else:
        _cut(name.removesuffix(".weight"), delta, norm, found, cut, svd, dtype)  # type: ignore[arg-type]


def _norm(matrix: Tensor) -> float:
    """||W||, added up in fp64 without a copy in it."""
    return float(torch.linalg.vector_norm(matrix.float() if matrix.dtype.itemsize < 2 else matrix, dtype=torch.float64))


def _cut(  # noqa: PLR0913 (numbers of one matrix)
    module: str, delta: Tensor, norm: float, found: Found, cut: Cut, svd: How, dtype: torch.dtype
) -> None:
    factors = of_matrix(delta, cut, svd)
    a, b = factors.a.to(dtype), factors.b.to(dtype)
    refuse_overflow({module + DOWN: a, module + UP: b}, dtype)
    left = 0.0
    for first in range(0, len(delta), 1024):  # of what is written, rounding and all
        rows = delta[first : first + 1024]
        left += float((rows - b[first : first + 1024].to(rows.dtype) @ a.to(rows.dtype)).double().square().sum())
    found.tensors |= {module + DOWN: a.contiguous(), module + UP: b.contiguous()}
    full = min(delta.shape)
    found.rows.append(Kept(module, full, factors.rank, left**0.5 / norm, factors.energy, norm, factors.method))


def _tell_rest(found: Found, *, strict: bool) -> None:
    """Say what changed and has no place in the adapter. Raises WeightsError with --strict."""
    if found.untargeted:
        names = [name.removesuffix(".weight") for name in found.untargeted]
        console.print(f"left out by --targets: {len(names)} linear modules that changed: {grouped(names)}")
    if not found.beside:
        return
    ordered = sorted(found.beside.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {size:.2%}" for name, size in ordered[:_SHOWN])
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    what = f"{len(ordered)} weights changed that are no linear matrices, which an adapter has no place for"
    if strict:
        do = "leave --strict out to extract the rest: the result then does less than the tuned weights"
        raise WeightsError(Problem(what, found=f"{shown}{more} (||change|| / ||weight||)", do=do))
    console.print(f"warning: {what}: {shown}{more} (||change|| / ||weight||); --strict refuses that")


def _layouts(known: Recognised, to: str) -> list[AdapterLayout]:
    every = {one.name: one for one in lora_layouts(known.family, known.variant)}
    wanted = list(every) if to == "all" else [to] if to else list(known.family.default_files)
    if strange := [name for name in wanted if name not in every]:
        what, near_by = f"{known.family.name} has no such layout", nearest(strange[0], every)
        allowed = ", ".join((*every, "all"))
        raise RecipeError(Problem(what, found=strange[0], allowed=allowed, nearest=near_by, where="--to"))
    return [every[name] for name in wanted]


def _places(after: Weights, layouts: list[AdapterLayout], wanted: Wanted, *, inputs: tuple[Path, ...]) -> list[Path]:
    """TUNED_lora.LAYOUT.safetensors, or as --out says: that file for one layout, else its name with the layouts'."""
    out = wanted.out
    is_part = any(after.where.name in variant.parts for f in shown_families() for variant in f.variants.values())
    folder, stem = Path(), f"{(after.where.absolute().parent.name if is_part else after.stem)}_lora"
    if out is not None and out.suffix == ".safetensors" and not out.is_dir():
        if len(layouts) == 1:
            refuse_inputs(out, *inputs)
            return [out]
        folder, stem = out.parent, out.stem
    elif out is not None and out.suffix in (".ckpt", ".pt", ".pth"):
        what, do = "adapters with their strength are safetensors files", "name a file that ends in .safetensors"
        raise RecipeError(Problem(what, found=str(out), do=do))
    elif out is not None:
        folder = out
    places = [folder / f"{stem}.{layout.name}.safetensors" for layout in layouts]
    for place in places:
        refuse_inputs(place, *inputs)
    return places


def _header(known: Recognised, found: Found, before: Weights) -> dict[str, str]:
    largest = max(row.rank for row in found.rows)
    variant = known.variant.name if len(known.fits) < 2 else ""
    about = {"family": known.family.name, **({"variant": variant} if variant else {})}
    made = {"extracted_from": f"SVD of the change to {before.where.name}", "rank": str(largest), "alpha": str(largest)}
    return {**about, **made, "made_by": f"cinelora {cinelora.__version__}"}
