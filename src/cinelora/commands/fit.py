"""Owns the look at an adapter file before any weight is read: does it fit the variant, and what does it leave alone?

In: the recipe around it, the file, whether modules without a place may be left out. Out: the adapter as it will be
used; what was left out, and what has no adapter, is said.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cinelora.base.errors import Problem, WeightsError
from cinelora.base.log import console
from cinelora.config.load import Loaded
from cinelora.contracts.card import Family, Variant
from cinelora.families import registry
from cinelora.lora.files import AdapterFile
from cinelora.lora.fit import gaps, grouped, lost, plan_of, untouched, without
from cinelora.lora.targets import linears


def fitted(loaded: Loaded, file: AdapterFile, path: Path, *, allow_missing: bool) -> AdapterFile:
    """The adapter that stands at `path`, without modules that have no place if that is allowed.

    Raises WeightsError that names modules and the variants which the adapter does fit.
    """
    _check_expert(loaded, file, path)
    if odd := [key for key, one in file.tensors.items() if not one.isfinite().all()]:
        what, do = f"{len(odd)} tensors of the adapter hold numbers that are not finite", "take an earlier checkpoint's"
        raise WeightsError(Problem(what, found=", ".join(odd[:4]), where=str(path), do=do))
    parts = registry.skeleton(loaded.family, loaded.variant)
    homeless = lost(parts, file) if allow_missing else []
    if homeless and len(homeless) < len(file.modules()):
        names = grouped([file.spelling(module) for module in homeless])
        what = f"{len(homeless)} of the adapter's {len(file.modules())} modules are left out"
        console.print(f"warning: {what}, the base has no place for them: {names}")
        file = without(file, homeless)
    try:
        plan_of(parts, file)
    except WeightsError as error:
        raise WeightsError(*_advised(error, loaded, file, path, leaving_helps=not allow_missing)) from error
    torn = gaps(parts, file)
    if torn:
        what = f"the adapter lacks {len(torn)} modules that it has in other blocks"
        console.print(f"warning: {what}: {grouped(torn)}; the file may be torn")
    scales = sorted({round(file.scale(module), 4) for module in file.modules()})
    said = f"adapter: {len(file.modules())} modules at strength {', '.join(f'{scale:g}' for scale in scales[:4])}"
    rest = untouched(parts, file)
    console.print(said + (f"; none on {grouped(rest, most=20)}" if rest else ""))
    return file


def _check_expert(loaded: Loaded, file: AdapterFile, path: Path) -> None:
    """See that an adapter of one denoiser is not given to two, or by its name to the other one.

    Both experts have the same modules and sizes, so that nothing else would tell. Raises WeightsError.
    """
    names = [f"{loaded.family.name}/{expert.variant.name}" for expert in loaded.variant.experts.values()]
    given = {module.partition(".")[0] for module in file.modules()}
    if names and len(given) < len(names):
        what, do = (
            "the adapter is one expert's, and this model has two",
            f"say whose it is: --model {' or '.join(names)}",
        )
        raise WeightsError(Problem(what, found=f"{loaded.family.name}/{loaded.variant.name}", where=str(path), do=do))
    for joint in loaded.family.variants.values():
        others = [one for one in joint.experts.values() if one.variant.name != loaded.variant.name]
        told = [one for one in others if one.label in path.name]
        if told and len(others) < len(joint.experts):
            what = f"warning: {path.name} calls itself {told[0].label}, and is drawn with by {loaded.variant.name}"
            console.print(f"{what}; the other one would be --model {loaded.family.name}/{told[0].variant.name}")


def _advised(
    error: WeightsError, loaded: Loaded, file: AdapterFile, path: Path, *, leaving_helps: bool
) -> list[Problem]:
    """The same problems with where the file is, what fits, and what can be done."""
    family, parts = loaded.family, registry.skeleton(loaded.family, loaded.variant)
    others = fitting(family, file)
    do = "choose --model and --base of what it was trained on" if others else error.problems[0].do
    if leaving_helps and 0 < len(lost(parts, file)) < len(file.modules()) and len(error.problems) == 1:
        do += ", or leave these modules out: --allow-missing"
    found = f"{family.name}/{loaded.variant.name}"
    told = f"; the adapter fits {', '.join(others)}" if others else ""
    where = str(path)
    return [replace(p, what=f"{p.what} ({found}){told}", where=p.where or where, do=do) for p in error.problems]


def fitting(family: Family, file: AdapterFile) -> list[str]:
    """The family's variants in which every module of the adapter has a place of its size."""
    wanted = {module: file.sizes(module) for module in file.modules()}
    return [
        f"{family.name}/{variant.name}"
        for variant in family.variants.values()
        if wanted.items() <= module_sizes(family, variant).items()
    ]


_SIZES: dict[tuple[str, str], dict[str, tuple[int, int]]] = {}


def module_sizes(family: Family, variant: Variant) -> Mapping[str, tuple[int, int]]:
    """Inputs and outputs of every linear module of a variant's denoiser, by "part.module". Networks are built once."""
    if variant.experts:
        return {
            expert.part + name.removeprefix(name.partition(".")[0]): size
            for expert in variant.experts.values()
            for name, size in module_sizes(family, expert.variant).items()
        }
    # Towers and autoencoder are no part of the denoiser.
    networks = {name: one for name, one in variant.network.items() if "encoder" not in name and name not in _BESIDE}
    alike = family.name, repr((variant.parts, networks))
    if alike not in _SIZES:
        _SIZES[alike] = {
            f"{part}.{name}": (linear.in_features, linear.out_features)
            for part, module in registry.skeleton(family, variant).items()
            for name, linear in linears(module).items()
        }
    return _SIZES[alike]


_BESIDE = ("vae", "expert")
