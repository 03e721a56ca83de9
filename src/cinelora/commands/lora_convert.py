"""Owns the verb `lora convert`: an adapter as other programs spell it, checked by those programs' own rules.

In: a file, a folder that peft wrote, the folder of a run; names of layouts. Out: files or peft's folders; where a
program would not take one of them, or take it at another strength, none is written.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import cinelora
from cinelora.base.dtypes import torch_dtype
from cinelora.base.errors import Problem, Problems, RecipeError, WeightsError, nearest
from cinelora.base.log import console
from cinelora.commands.fit import fitting
from cinelora.commands.lora_facts import module_names
from cinelora.commands.lora_known import Known, identify, of_denoiser, sources
from cinelora.contracts.roles import AdapterLayout
from cinelora.families import registry
from cinelora.lora.consumers import FOLDER, verdict
from cinelora.lora.files import DOWN, UP, AdapterFile, cannot_carry, spelled, write_tensors
from cinelora.lora.fit import grouped, plan_of
from cinelora.lora.look import difference_norm
from cinelora.lora.peft_folder import PeftKeys, write_peft_folder
from cinelora.lora.reading import understood, warn
from cinelora.lora.strength import KOHYA_KEY

_PRECISIONS = ("fp32", "bf16", "fp16")
_HASHES = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")
"""What a header says of the bytes of the old file."""
_WORDS = ("diffusers", "comfyui", "kohya", "peft", FOLDER, "original", "all")


@dataclass(frozen=True)
class Wishes:
    """Where results go and in which number format; what the command line says of the adapter."""

    out: Path | None = None
    dtype: str = ""
    alpha: float | None = None
    model: str = ""
    allow_missing: bool = False


@dataclass(frozen=True)
class Made:
    """One result: where it goes, how it is written, what is said of it."""

    place: Path
    write: Callable[[], object]
    said: str


def convert(place: Path, to: Sequence[str], wishes: Wishes) -> list[Path]:
    """Write the adapters at a place in each of the layouts; gives back where.

    Raises RecipeError for layouts that the family does not have or that cannot hold the adapter, WeightsError for what
    a program would not take as it is meant. Nothing is written then.
    """
    if wishes.dtype and wishes.dtype not in _PRECISIONS:
        near = nearest(wishes.dtype, _PRECISIONS)
        raise RecipeError(
            Problem("no such number format", found=wishes.dtype, allowed=", ".join(_PRECISIONS), nearest=near)
        )
    found = sources(place)
    results: list[Made] = []
    for source in found:
        known = identify(source, model=wishes.model, alpha=wishes.alpha, allow_missing=wishes.allow_missing)
        warn(known.reading, source.name, wishes.alpha)
        _check_fit(known)
        targets = _targets(known, to)
        one_file = len(found) * len(targets) == 1
        results += [_made(known, target, wishes, alone=one_file) for target in targets]
    _check_places(results, [source.path for source in found] + [one.folder for one in found if one.folder])
    for one in results:
        one.write()
        console.print(f"wrote {one.place}: {one.said}")
    return [one.place for one in results]


def _check_fit(known: Known) -> None:
    """See that the adapter is of the network that its keys are checked against, and say which that is."""
    file = known.reading.file
    odd = [key for key, tensor in file.tensors.items() if not bool(tensor.double().isfinite().all())]
    if odd:
        what, do = f"{len(odd)} tensors hold numbers that are not finite", "take an earlier checkpoint's"
        raise WeightsError(Problem(what, found=", ".join(odd[:4]), where=known.source.name, do=do))
    parts = registry.skeleton(known.family, known.variant)
    inside = of_denoiser(file)
    name = f"{known.family.name}/{known.variant.name}"
    try:
        plan_of(parts, inside)
    except WeightsError as error:
        others = ", ".join(fitting(known.family, inside))
        do = f"say which it is for: --model {others}" if others else error.problems[0].do
        told = [replace(one, what=f"{one.what} ({name})", where=known.source.name, do=do) for one in error.problems]
        raise WeightsError(*told) from error
    spelling = f"{known.reading.layout.name} layout"
    if known.reading.foreign:
        spelling = f"another trainer's spelling, nearest the {known.reading.layout.name} layout,"
    taken = f"; it fits {', '.join(known.fits)}, taken as {known.variant.name}" if len(known.fits) > 1 else ""
    sure = known.sure if known.by_file else known.sure + taken
    console.print(f"{known.source.name}: {spelling} of {name} ({sure})")


def _targets(known: Known, to: Sequence[str]) -> list[str]:
    """Names of layouts, and FOLDER; of "all" those that can hold the adapter, the others are told."""
    layouts = {layout.name: layout for layout in known.layouts}
    names: list[str] = []
    for word in to:
        if word == "all":
            for name, layout in layouts.items():
                if reason := _cannot(known, layout):
                    console.print(f"no {name} file: {reason}")
                else:
                    names.append(name)
            names.append(FOLDER)
        else:
            names.append(_target(known, word, layouts))
    return list(dict.fromkeys(names))


def _target(known: Known, word: str, layouts: dict[str, AdapterLayout]) -> str:
    name = word if word in layouts else known.consumers.aliases.get(word, word)
    if name != FOLDER and name not in layouts:
        allowed = [*layouts, *known.consumers.aliases, FOLDER, "all"]
        what = f"{known.family.name} has no layout of that name"
        if word in _WORDS:
            what = f"no program that is known here reads {known.family.name} adapters spelt so"
        do = "choose one of these; a base with the adapter in it is what other programs take: cinelora lora apply"
        near = nearest(word, allowed)
        raise RecipeError(Problem(what, found=word, allowed=", ".join(allowed), nearest=near, where="--to", do=do))
    if name in layouts and (reason := _cannot(known, layouts[name])):
        do = f"take a layout that can, such as {FOLDER}, or merge it into a base: cinelora lora apply"
        raise RecipeError(Problem(reason, found=f"--to {word}", where=known.source.name, do=do))
    return name


def _cannot(known: Known, layout: AdapterLayout) -> str:
    """Why a layout cannot hold the adapter: DoRA, or a part that it has no names for; "" where it can."""
    file = known.reading.file
    if reason := cannot_carry(file, layout):
        return reason
    try:
        layout.from_native({key: torch.empty(0) for key in file.tensors})
    except (RecipeError, WeightsError) as error:
        return error.problems[0].what
    return ""


def _made(known: Known, target: str, wishes: Wishes, *, alone: bool) -> Made:
    """A result, checked in memory. Raises WeightsError naming what a program would not take."""
    dtype = torch_dtype(wishes.dtype) if wishes.dtype else None
    file = replace(known.reading.file, metadata=_header(known))
    if target == FOLDER:
        return _folder(known, file, wishes, dtype, alone=alone)
    layout = next(layout for layout in known.layouts if layout.name == target)
    tensors, header = spelled(file, layout, dtype=dtype)
    _refuse_overflow(tensors, wishes.dtype)
    lost = _check(known, target, tensors, header)
    name = f"{_stem(known)}.{target}.safetensors"
    place = Path(name) if wishes.out is None else wishes.out
    if wishes.out is not None and not (alone and wishes.out.suffix == ".safetensors" and not wishes.out.is_dir()):
        _check_folder(wishes.out, alone=alone)
        place = wishes.out / name
    return Made(place, lambda: write_tensors(place, tensors, header), _said(known, layout, lost))


def _check_folder(out: Path, *, alone: bool) -> None:
    if out.suffix and not out.is_dir():
        what = "adapters are written as safetensors files" if alone else "several results need a folder"
        do = "name a file that ends in .safetensors, or a folder" if alone else "name a folder as --out"
        raise RecipeError(Problem(what, found=str(out), where="--out", do=do))


def _stem(known: Known) -> str:
    """The file's name without its ending and without the name of its layout."""
    stem = known.source.stem
    for layout in known.layouts:
        stem = stem.removesuffix(f".{layout.name}")
    return stem


def _header(known: Known) -> dict[str, str]:
    """All that the file said of itself and still holds, what it was made from, and whose it is."""
    kept = {key: value for key, value in known.source.header.items() if key not in _HASHES}
    if KOHYA_KEY in kept and len({f"{alpha:g}" for alpha in known.reading.file.alphas.values()}) > 1:
        kept.pop(KOHYA_KEY)
    whose = {"family": known.family.name}
    if known.by_file or len(known.fits) == 1:
        whose["variant"] = known.variant.name
    made = {"converted_from": f"{Path(known.source.name).name} ({known.reading.layout.name})"}
    return {**whose, **kept, **made, "converted_by": f"cinelora {cinelora.__version__}"}


def _refuse_overflow(tensors: dict[str, Tensor], dtype: str) -> None:
    odd = [key for key, tensor in tensors.items() if not bool(tensor.double().isfinite().all())]
    if odd:
        what = f"{len(odd)} tensors hold numbers too large for {dtype}"
        raise WeightsError(Problem(what, found=", ".join(odd[:4]), do="take bf16 or fp32", where="--dtype"))


def _check(known: Known, target: str, tensors: dict[str, Tensor], header: dict[str, str]) -> float:
    """See that every program that the layout is for takes all keys at the strength that is meant.

    Gives back the largest share of a module's effect that rounding loses. Raises WeightsError.
    """
    names, problems = module_names(known), Problems(WeightsError)
    written = understood(tensors, header, known.layouts, where=target).file
    _check_same(known, written, target)
    for program in known.consumers.programs:
        if target in program.layouts:
            said = verdict(program, tensors, header, file=written, modules=names)
            if not said.loads:
                keys = grouped(said.unmatched, most=6) if said.unmatched else ""
                do = "nothing was written; say which model it is for with --model, or report this"
                problems.add(f"{said.program} would not load the {target} file: {said.reason}", found=keys, do=do,
                             where=known.source.name)  # fmt: skip
    lost, widest = _worst(known.reading.file, written), max(torch.finfo(one.dtype).eps for one in tensors.values())
    if not lost <= _FEW * widest:
        what, found = f"the {target} file would not do what this one does", f"off by {lost:.1e} of a module's effect"
        problems.add(what, found=found, where=known.source.name, do="report this; nothing was written")
    problems.raise_if_any()
    return lost


def _check_same(known: Known, written: AdapterFile, target: str) -> None:
    lost = set(known.reading.file.modules()) ^ set(written.modules())
    if lost:
        found = grouped(sorted(lost), most=6)
        what = f"{len(lost)} modules are not in the {target} file as they are in this one"
        raise WeightsError(Problem(what, found=found, where=known.source.name, do="report this; nothing was written"))


def _worst(file: AdapterFile, written: AdapterFile) -> float:
    """The largest ||s B A - s' B' A'|| / ||s B A|| of a module."""

    def effect(one: AdapterFile, module: str) -> tuple[Tensor, Tensor]:
        return one.tensors[module + UP].double() * one.scale(module), one.tensors[module + DOWN]

    found = [difference_norm(*effect(file, module), *effect(written, module)) for module in file.modules()]
    return max(found, default=0.0)


_FEW = 16
"""How many times a number format's step a module's effect may be off: two matrices are rounded."""
_EXACT = 1e-7
"""Below it is what fp64 leaves of two equal products, and of alpha / rank in a fp32 tensor."""


def _said(known: Known, layout: AdapterLayout, lost: float) -> str:
    file = known.reading.file
    scales = sorted({round(file.scale(module), 6) for module in file.modules()})
    told = ", ".join(f"{scale:g}" for scale in scales[:4]) + (" ..." if len(scales) > 4 else "")
    stands = {"key": "as alpha", "header": "in the header", "folded": "multiplied into B"}[layout.strength]
    rounding = f"; rounding changes a module's effect by at most {lost:.1e} of it" if lost > _EXACT else ""
    readers = [one.program for one in known.consumers.programs if layout.name in one.layouts]
    by = f"; taken whole by {', '.join(readers)}" if readers else "; no other program is known to read it"
    return f"{len(file.modules())} modules at strength {told} ({stands}){by}{rounding}"


def _folder(known: Known, file: AdapterFile, wishes: Wishes, dtype: torch.dtype | None, *, alone: bool) -> Made:
    """peft's folder; of adapters of several parts one for each, PART_lora."""
    parts = list(dict.fromkeys(module.partition(".")[0] for module in file.modules()))
    rounded = replace(file, tensors={key: one.to(dtype or one.dtype) for key, one in file.tensors.items()})
    _refuse_overflow(dict(rounded.tensors), wishes.dtype)
    out = wishes.out or Path()
    place = out if alone and wishes.out is not None and not out.is_dir() else out / f"{_stem(known)}.peft"
    if place.suffix == ".safetensors":
        raise RecipeError(Problem("peft reads a folder", found=str(place), where="--out", do="name a folder"))
    for part in parts:
        own = _of_part(rounded, part)
        _check_part(known, own, part)
    folders = {part: place if len(parts) == 1 else place / f"{part}_lora" for part in parts}

    def write() -> None:
        for part, folder in folders.items():
            write_peft_folder(folder, rounded, part, base=file.metadata.get("base", ""))

    lost = _worst(file, rounded)
    rounding = f"; rounding changes a module's effect by at most {lost:.1e} of it" if lost > _EXACT else ""
    return Made(place, write, f"{len(file.modules())} modules for PeftModel.from_pretrained{rounding}")


def _of_part(file: AdapterFile, part: str) -> AdapterFile:
    tensors = {key: one for key, one in file.tensors.items() if key.startswith(f"{part}.")}
    return replace(file, tensors=tensors, alphas={m: a for m, a in file.alphas.items() if m.startswith(f"{part}.")})


def _check_part(known: Known, file: AdapterFile, part: str) -> None:
    tensors, header = spelled(file, PeftKeys(part))
    names = module_names(known)
    for program in known.consumers.programs:
        if FOLDER in program.layouts:
            said = verdict(program, tensors, header, file=file, modules=names)
            if not said.loads:
                what = f"{said.program} would not load the folder: {said.reason}"
                raise WeightsError(Problem(what, where=known.source.name, do="nothing was written; report this"))


def _check_places(results: Sequence[Made], inputs: Sequence[Path]) -> None:
    """Raise RecipeError where a result would replace what it is made of, or another result."""
    places = [one.place.resolve() for one in results]
    for one in results:
        if any(one.place.resolve() == path.resolve() for path in inputs):
            what, do = "the result would replace what it is made of", "name another --out, or leave this layout out"
            raise RecipeError(Problem(what, found=str(one.place), do=do))
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise RecipeError(
            Problem("two results would have the same name", found=str(twice), do="convert them one by one")
        )
