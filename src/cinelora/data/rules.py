"""Owns what holds for one source: its name, its weight, and the rules by which its clips are cut.

In: the options of [data]. Out: names, weights and `ClipRules` by source. Imports no torch.
"""

from pathlib import Path

from cinelora.base.errors import Problems, RecipeError
from cinelora.data.options import ClipRules, DataOptions


def source_names(options: DataOptions) -> tuple[str, ...]:
    """What each source is called: its own name, or that of its path, numbered where two would be alike.

    Raises RecipeError where the recipe gives two sources one name.
    """
    given = [source.name for source in options.source if source.name]
    problems = Problems(RecipeError)
    for number, name in enumerate(source.name for source in options.source):
        where = f"data.source.{number}.name"
        if name and name in (source.name for source in options.source[:number]):
            problems.add("two sources have the same name", found=name, where=where, do="rename one of them")
        if "/" in name:
            problems.add("the name of a source has a slash in it", found=name, where=where, do="rename it")
    problems.raise_if_any()
    names: list[str] = []
    for source in options.source:
        stem = source.name or Path(source.path).stem.strip(".") or "source"
        taken = {*names, *given} if not source.name else set()
        numbered = (stem if k == 1 else f"{stem}-{k}" for k in range(1, len(options.source) + len(given) + 2))
        names.append(next(name for name in numbered if name not in taken))
    return tuple(names)


def source_weights(options: DataOptions) -> dict[str, float]:
    """The weight of each source by its name; all 0 = in proportion to their clips."""
    return {name: source.weight for name, source in zip(source_names(options), options.source, strict=True)}


def rules_by_source(options: DataOptions) -> dict[str, ClipRules]:
    """How the clips of each source are cut, by its name."""
    return {n: source.rules or options for n, source in zip(source_names(options), options.source, strict=True)}


def check_weights(options: DataOptions) -> None:
    """Raise RecipeError where some sources have a weight and others none: it would be weighed against nothing."""
    without = [source.name or source.path for source in options.source if not source.weight]
    if 0 < len(without) < len(options.source):
        problems = Problems(RecipeError)
        found, do = f"no weight: {', '.join(without)}", "give every source a weight, or none"
        problems.add("only some sources have a weight", found=found, where="data.source", do=do)
        problems.raise_if_any()
