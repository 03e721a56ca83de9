"""Owns the going through all sources of a recipe.

In: the options, the folder that relative paths start from. Out: a `Listing` of records, and of the entries that cannot
be used. What becomes of the latter is the plan's business (`data.on_bad`), so that missing captions and broken videos
are told together.
"""

from dataclasses import dataclass
from pathlib import Path

from cinelora.base.errors import CineloraError, DataError, Problem, Problems, RecipeError
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import DataOptions
from cinelora.data.readers.entry import at
from cinelora.data.readers.registry import open_reader


@dataclass(frozen=True)
class Listing:
    """All entries of all sources, in order."""

    entries: tuple[Record | LeftOut, ...]

    @property
    def records(self) -> tuple[Record, ...]:
        """The usable entries."""
        return tuple(entry for entry in self.entries if isinstance(entry, Record))

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """The others."""
        return tuple(entry for entry in self.entries if isinstance(entry, LeftOut))


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
    """The weight of each source by its name."""
    return {name: source.weight for name, source in zip(source_names(options), options.source, strict=True)}


def read_records(options: DataOptions, folder: Path) -> Listing:
    """Read every source; relative paths start from `folder`.

    Raises one DataError with the problems of all sources that cannot be listed at all (missing, no known layout, no
    caption column ...), together with the entries' problems found so far unless `data.on_bad` skips those.
    """
    entries: list[Record | LeftOut] = []
    problems: list[Problem] = []
    for name, source in zip(source_names(options), options.source, strict=True):
        path = folder / Path(source.path).expanduser()
        try:
            entries += open_reader(path, name, source, base=folder).read()
        except CineloraError as error:
            problems += [p if p.where else at(p, f"data.source '{name}'") for p in error.problems]
    listing = Listing(tuple(entries))
    if problems:
        if options.on_bad == "stop":
            problems += [problem for entry in listing.left_out for problem in entry.problems]
        raise DataError(*problems)
    return listing
