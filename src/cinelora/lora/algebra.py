"""Owns sums of adapters and adapters of another rank or strength, on their small matrices alone.

In: adapters by native names, with their strengths. Out: an adapter whose effect is the sum of weight x strength x B A
over all (`concat` all of it, `svd` the nearest of a rank), or what `sum` and `averaged` make of the matrices; and what
was kept of each module.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cinelora.base.errors import Problem, Problems, RecipeError, WeightsError
from cinelora.lora.files import DOWN, UP, AdapterFile
from cinelora.lora.svd import Cut, Factors, of_product, product_norm, refuse_dora


@dataclass(frozen=True)
class Weighed:
    """An adapter, the weight that it has in a sum, and what it is called."""

    file: AdapterFile
    weight: float
    name: str


@dataclass(frozen=True)
class Kept:
    """What became of a module: its rank before and after, ||D - D'|| / ||D||, the share of ||D||^2 kept, by what.

    `norm` is ||D||, D the whole effect, strength and all.
    """

    module: str
    before: int
    rank: int
    error: float
    energy: float
    norm: float
    method: str


Result = tuple[AdapterFile, list[Kept]]


def refuse_odd(files: Sequence[Weighed], doing: str) -> None:
    """Raise RecipeError for DoRA, WeightsError for numbers that are not finite and for modules of different sizes."""
    problems = Problems(WeightsError)
    for one in files:
        refuse_dora(one.file.dora, doing, one.name)
        odd = [key for key, tensor in one.file.tensors.items() if not bool(tensor.isfinite().all())]
        if odd:
            what, do = f"{len(odd)} tensors hold numbers that are not finite", "take an earlier checkpoint's"
            problems.add(what, found=", ".join(odd[:4]), where=one.name, do=do)
    first: dict[str, tuple[str, tuple[int, int]]] = {}
    for one in files:
        for module in one.file.modules():
            sizes = one.file.sizes(module)
            name, wanted = first.setdefault(module, (one.name, sizes))
            if wanted != sizes:
                what, do = f"{module} has two sizes", "combine adapters of one variant"
                problems.add(what, found=f"{sizes} (in, out)", allowed=f"{wanted} of {name}", where=one.name, do=do)
    problems.found = problems.found[:8]
    problems.raise_if_any()


def modules_of(files: Sequence[Weighed]) -> list[str]:
    """Every module of any of the files, each once, in their order."""
    return list(dict.fromkeys(module for one in files for module in one.file.modules()))


def stacked(files: Sequence[Weighed], module: str) -> tuple[Tensor, Tensor]:
    """(B, A) whose product is the sum of weight x strength x B A over the files that have the module, in fp64."""
    own = [one for one in files if module + DOWN in one.file.tensors]
    factors = [one.weight * one.file.scale(module) for one in own]
    b = torch.cat([f * one.file.tensors[module + UP].double() for f, one in zip(factors, own, strict=True)], dim=1)
    return b, torch.cat([one.file.tensors[module + DOWN].double() for one in own])


def concatenated(files: Sequence[Weighed], dtype: torch.dtype | None = None) -> Result:
    """The sum of all effects, exactly: matrices side by side, so that ranks add up.

    Weight and strength go into B; without a `dtype` it is the files' widest format, or fp32 where B would be rounded.
    """
    pairs = {module: stacked(files, module) for module in modules_of(files)}
    wanted = dtype or widest(files)
    if dtype is None and any(not torch.equal(b.to(wanted).double(), b) for b, _ in pairs.values()):
        wanted = torch.float32
    rows = [Kept(m, len(a), len(a), 0.0, 1.0, product_norm(b, a), "concat") for m, (b, a) in pairs.items()]
    return _file(pairs, wanted), rows


def best(files: Sequence[Weighed], cut: Cut, dtype: torch.dtype | None = None) -> Result:
    """The nearest adapter of a smaller rank to the sum of all effects, which is never formed."""
    wanted, pairs, rows = dtype or widest(files), dict[str, tuple[Tensor, Tensor]](), []
    for module in modules_of(files):
        b, a = stacked(files, module)
        pairs[module], row = _cut(module, b, a, cut)
        rows.append(row)
    return _file(pairs, wanted), rows


def _cut(module: str, b: Tensor, a: Tensor, cut: Cut) -> tuple[tuple[Tensor, Tensor], Kept]:
    norm = product_norm(b, a)
    found: Factors = of_product(b, a, cut)
    return (found.b, found.a), Kept(module, len(a), found.rank, found.error, found.energy, norm, found.method)


def summed(files: Sequence[Weighed], dtype: torch.dtype | None = None) -> Result:
    """Sums of the A and of the B, each with the root of weight x strength, as peft's "linear" does.

    An adapter by itself keeps its effect; together there are products of one's B and another's A besides the sum. The
    error of each row says how much. Raises RecipeError where modules or ranks differ.
    """
    _refuse_unlike(files, "sum")
    pairs, rows = dict[str, tuple[Tensor, Tensor]](), []
    for module in modules_of(files):
        factors = [one.weight * one.file.scale(module) for one in files]
        roots = [math.sqrt(abs(factor)) for factor in factors]
        ups = [math.copysign(root, factor) for root, factor in zip(roots, factors, strict=True)]
        a = _added([one.file.tensors[module + DOWN] for one in files], roots)
        b = _added([one.file.tensors[module + UP] for one in files], ups)
        wanted_b, wanted_a = stacked(files, module)
        norm = product_norm(wanted_b, wanted_a)
        off = product_norm(torch.cat([b, -wanted_b], 1), torch.cat([a, wanted_a])) / norm if norm else 0.0
        pairs[module] = (b, a)
        rows.append(Kept(module, len(a), len(a), off, max(0.0, 1 - off * off), norm, "sum"))
    return _file(pairs, dtype or widest(files)), rows


def averaged(files: Sequence[Weighed], dtype: torch.dtype | None = None) -> AdapterFile:
    """Every number's weighted mean, which is what an average over a training is; the strength stays.

    The mean of the matrices is not the mean of the products. Raises RecipeError where files are not of one training.
    """
    _refuse_unlike(files, "average")
    problems, first = Problems(RecipeError), files[0].file
    for one in files[1:]:
        other = [m for m in first.modules() if not math.isclose(one.file.alphas[m], first.alphas[m], rel_tol=1e-6)]
        if other:
            what, do = "the strengths differ, so that these are not of one training", "average the effects: --how svd"
            found, allowed = f"{one.file.scale(other[0]):g} of {other[0]}", f"{first.scale(other[0]):g}"
            problems.add(what, found=found, allowed=allowed, where=one.name, do=do)
    problems.raise_if_any()
    if not any(one.weight for one in files[1:]) and files[0].weight == 1:
        return first
    wanted = dtype or widest(files)
    weights = [one.weight for one in files]
    tensors = {key: _added([one.file.tensors[key] for one in files], weights).to(wanted) for key in first.tensors}
    return replace(first, tensors=tensors)


def resized(file: AdapterFile, cut: Cut, dtype: torch.dtype | None = None) -> Result:
    """Each module at a smaller rank; those that have no more are left as they are, numbers, strength and all."""
    wanted = dtype or widest([Weighed(file, 1.0, "")])
    tensors, alphas, rows = dict(file.tensors), dict(file.alphas), []
    for module in file.modules():
        b, a = stacked([Weighed(file, 1.0, "")], module)
        if cut.rank is not None and cut.rank >= len(a):
            rows.append(Kept(module, len(a), len(a), 0.0, 1.0, product_norm(b, a), "as it is"))
            continue
        (new_b, new_a), row = _cut(module, b, a, cut)
        tensors |= {module + DOWN: new_a.to(wanted), module + UP: new_b.to(wanted)}
        alphas[module] = float(row.rank)
        rows.append(row)
    made = {key: one.to(wanted) for key, one in tensors.items()}
    return replace(file, tensors=made, alphas=alphas), rows


def scaled(file: AdapterFile, factor: float) -> AdapterFile:
    """The adapter at `factor` of its strength: alpha takes the size of the factor, B its sign, so that nothing rounds.

    Raises RecipeError for a factor that is no strength.
    """
    if not factor or not math.isfinite(factor):
        do = "an adapter of strength 0 is the base alone; a negative factor turns its effect round"
        raise RecipeError(Problem("the factor is no strength", found=f"{factor:g}", allowed="any but 0", do=do))
    sign = -1 if factor < 0 else 1
    tensors = {key: one * sign if key.endswith(UP) and sign < 0 else one for key, one in file.tensors.items()}
    return replace(file, tensors=tensors, alphas={m: alpha * abs(factor) for m, alpha in file.alphas.items()})


def widest(files: Sequence[Weighed]) -> torch.dtype:
    """The widest number format among the files' tensors, at least 16 bits."""
    formats = {tensor.dtype for one in files for tensor in one.file.tensors.values()}
    found = torch.bfloat16 if all(one.itemsize < 2 for one in formats) else None
    for one in formats:
        found = one if found is None else torch.promote_types(found, one)
    return torch.float32 if found is None or found.itemsize > 4 else found


def _added(tensors: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    total = tensors[0].double() * factors[0]
    for tensor, factor in zip(tensors[1:], factors[1:], strict=True):
        total += tensor.double() * factor
    return total


def _file(pairs: Mapping[str, tuple[Tensor, Tensor]], dtype: torch.dtype) -> AdapterFile:
    """An adapter of strength 1. Raises WeightsError where the format cannot hold its numbers."""
    tensors: dict[str, Tensor] = {}
    for module, (b, a) in pairs.items():
        tensors |= {module + DOWN: a.to(dtype).contiguous(), module + UP: b.to(dtype).contiguous()}
    refuse_overflow(tensors, dtype)
    return AdapterFile(tensors, {module: float(len(a)) for module, (_, a) in pairs.items()})


def refuse_overflow(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Raise WeightsError where rounding to a format made infinities."""
    odd = [key for key, one in tensors.items() if not bool(one.isfinite().all())]
    if odd:
        what, do = f"{len(odd)} tensors have numbers that are too large for {dtype}", "take another: --dtype fp32"
        raise WeightsError(Problem(what, found=", ".join(odd[:4]), do=do))


def _refuse_unlike(files: Sequence[Weighed], how: str) -> None:
    """Raise RecipeError unless all files have the same tensors in the same sizes."""
    problems, first = Problems(RecipeError), files[0]
    wanted = {key: tuple(one.shape) for key, one in first.file.tensors.items()}
    for one in files[1:]:
        own = {key: tuple(tensor.shape) for key, tensor in one.file.tensors.items()}
        lacking, more = [key for key in wanted if key not in own], [key for key in own if key not in wanted]
        other = [key for key in wanted if key in own and own[key] != wanted[key]]
        told = [f"lacks {key}" for key in lacking[:1]] + [f"has {key} besides" for key in more[:1]]
        told += [f"{other[0]} is {own[other[0]]}, there {wanted[other[0]]}"] if other else []
        if told:
            what = f"--how {how} needs the same modules at the same rank in every file"
            if how == "average":
                what = "the files are not checkpoints of one training: their modules or ranks differ"
            do = (
                "take the sum of the effects: --how concat or svd" if how == "sum" else "average the effects: --how svd"
            )
            count = len(lacking) + len(more) + len(other)
            found = "; ".join(told) + (f" ({count} in all)" if count > len(told) else "")
            problems.add(what, found=found, allowed=f"what {first.name} has", where=one.name, do=do)
    problems.raise_if_any()
