"""Owns the going through all sources of a recipe.

In: the options, the folder that relative paths start from. Out: a `Listing` of records, and of the entries that cannot
be used. What becomes of the latter is the plan's business (`data.on_bad`), so that missing captions and broken videos
are told together.
"""

from dataclasses import dataclass
from pathlib import Path

from cinelora.base.errors import CineloraError, DataError, Problem
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import DataOptions
from cinelora.data.readers.captions import open_captions
from cinelora.data.readers.entry import at
from cinelora.data.readers.registry import open_reader
from cinelora.data.rules import source_names


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
            reads = open_captions if options.show == "captions" else open_reader
            entries += reads(path, name, source, base=folder).read()
        except CineloraError as error:
            problems += [p if p.where else at(p, f"data.source '{name}'") for p in error.problems]
    listing = Listing(tuple(entries))
    if problems:
        if options.on_bad == "stop":
            problems += [problem for entry in listing.left_out for problem in entry.problems]
        raise DataError(*problems)
    return listing
