"""Owns the start of a run from an adapter file: does it fit the recipe, and its weights in place of fresh ones.

In: a recipe whose lora.start names a file. Out: adapters that begin with what stands there, or an error with all that
differs. Nothing else of an earlier run is taken over.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cinelora.base.errors import Problems, RecipeError, WeightsError
from cinelora.base.log import console
from cinelora.commands.full_parts import NOTED
from cinelora.config.load import Loaded
from cinelora.families import registry
from cinelora.lora.adapters import Adapters
from cinelora.lora.files import AdapterFile, read_adapter
from cinelora.lora.fit import grouped, plan_of
from cinelora.lora.options import LoraOptions
from cinelora.lora.targets import Size, planned

_SAME = 1e-4
"""Strengths that differ by a smaller share are the same."""


def check_start(loaded: Loaded) -> AdapterFile | None:
    """The adapter that a run begins with; None where it begins with a fresh one.

    Raises RecipeError with all that differs from the recipe, WeightsError for files that are no adapter of the variant.
    """
    options = loaded.recipe.lora
    if not options.start:
        return None
    path = loaded.folder / Path(options.start).expanduser()
    parts = registry.skeleton(loaded.family, loaded.variant)
    chosen = options.model_copy(update={"targets": options.targets or loaded.family.default_preset})
    plan = planned(parts, chosen, loaded.family.lora_presets)
    wanted = {f"{part}.{name}": size for part, own in plan.items() for name, size in own.items()}
    strengths = {module: _strength(size, options) for module, size in wanted.items()}
    layouts = registry.lora_layouts(loaded.family, loaded.variant)
    try:
        file = read_adapter(path, layouts, strengths=strengths)
        plan_of(parts, file)
    except WeightsError as error:
        raise WeightsError(
            *(replace(problem, where=problem.where or str(path)) for problem in error.problems)
        ) from error
    problems = Problems(RecipeError)
    _note_whole(loaded, file, problems)
    _note_modules(file, wanted, problems)
    _note_sizes(file, wanted, strengths, problems)
    problems.found = [loaded.source.located(replace(problem, where="lora.start")) for problem in problems.found]
    problems.raise_if_any()
    return file


def begin(loaded: Loaded, adapters: Adapters) -> None:
    """Put the file's weights into adapters that have not learned yet. Raises as `check_start` does."""
    file = check_start(loaded)
    if file is not None:
        adapters.load({**adapters.parameters(), **file.tensors})
        console.print(f"begins with the {len(file.modules())} modules of {loaded.recipe.lora.start}")


def _strength(size: Size, options: LoraOptions) -> float:
    return size.alpha / (size.rank**0.5 if options.rslora else size.rank)


def _note_whole(loaded: Loaded, file: AdapterFile, problems: Problems) -> None:
    """What no single adapter can be begun with."""
    if NOTED in file.metadata:
        what, do = "the adapter learned together with whole parts", "merge both into the base: cinelora lora apply"
        problems.add(what, found=file.metadata[NOTED], do=do)
    if file.dora != loaded.recipe.lora.dora:
        found = f"{'with' if file.dora else 'without'} the lengths of DoRA"
        do = f"set lora.dora = {str(file.dora).lower()}"
        problems.add("the adapter is of another kind than the recipe's", found=found, do=do)
    odd = [key for key, one in file.tensors.items() if not one.isfinite().all()]
    if odd:
        what = f"{len(odd)} tensors of the adapter hold numbers that are not finite"
        problems.add(what, found=", ".join(odd[:4]), do="take an earlier checkpoint's")


def _note_modules(file: AdapterFile, wanted: Mapping[str, Size], problems: Problems) -> None:
    have, do = set(file.modules()), "set lora.targets to what the adapter was trained with"
    if "targets" in file.metadata:
        do += f": {file.metadata['targets']!r}"
    lacking, idle = [one for one in wanted if one not in have], [one for one in have if one not in wanted]
    if lacking:
        what = f"the adapter has nothing for {len(lacking)} of the {len(wanted)} modules of lora.targets"
        problems.add(what, found=grouped(lacking), do=do)
    if idle:
        what = f"{len(idle)} of the adapter's {len(have)} modules are not among lora.targets"
        problems.add(what, found=grouped(sorted(idle)), do=do)


def _note_sizes(
    file: AdapterFile, wanted: Mapping[str, Size], strengths: Mapping[str, float], problems: Problems
) -> None:
    shared = [module for module in file.modules() if module in wanted]
    ranks = {file.rank(module) for module in shared if file.rank(module) != wanted[module].rank}
    if ranks:
        allowed = ", ".join(str(rank) for rank in sorted({wanted[module].rank for module in shared}))
        do = "set lora.rank (and lora.rank_pattern) to the adapter's, and lora.alpha with it"
        problems.add("the adapter has other ranks", found=", ".join(map(str, sorted(ranks))), allowed=allowed, do=do)
    other = {
        round(file.scale(module), 6)
        for module in shared
        if abs(file.scale(module) - strengths[module]) > _SAME * strengths[module]
    }
    if other:
        allowed = ", ".join(f"{one:g}" for one in sorted({round(strengths[module], 6) for module in shared})[:4])
        do = "set lora.alpha such that lora.alpha / lora.rank is the adapter's strength"
        found = ", ".join(f"{one:g}" for one in sorted(other)[:4])
        problems.add("the adapter was trained with another strength", found=found, allowed=allowed, do=do)
