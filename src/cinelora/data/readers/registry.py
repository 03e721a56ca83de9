"""Owns the list of readers: how each recognises its layout, and how it is opened."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cinelora.base.errors import DataError, Problem
from cinelora.contracts.roles import Reader
from cinelora.data.options import SourceOptions
from cinelora.data.readers import folder, table

_TABLE_WORDS = ("media_root", "path_column", "caption_column")


@dataclass(frozen=True)
class ReaderKind:
    """One way to lay out a dataset.

    `recognises` looks at a path; `open` makes the reader of (path, name, options, the folder of the recipe).
    """

    recognises: Callable[[Path], bool]
    open: Callable[[Path, str, SourceOptions, Path], Reader]


def _open_folder(path: Path, name: str, source: SourceOptions, base: Path) -> Reader:
    dead = [word for word in _TABLE_WORDS if getattr(source, word)]
    if dead:
        what = "settings of tables have no effect on a folder"
        raise DataError(Problem(what, found=", ".join(dead), where=f"data.source '{name}'", do="remove them"))
    return folder.FolderReader(path, name, source)


def _open_table(path: Path, name: str, source: SourceOptions, base: Path) -> Reader:
    root = base / Path(source.media_root).expanduser() if source.media_root else path.parent
    return table.TableReader(path, name, source, root=root)


READERS = {
    "folder": ReaderKind(folder.recognises, _open_folder),
    "table": ReaderKind(table.recognises, _open_table),
}
"""In the order in which `auto` asks them."""


def open_reader(path: Path, name: str, source: SourceOptions, *, base: Path) -> Reader:
    """The reader that the source asks for, or the first that recognises the path.

    `base` is the folder that relative paths of the recipe start from. Raises DataError where there is none.
    """
    if not path.exists():
        do = "correct the path, which starts from the recipe's folder, or put the clips there"
        raise DataError(Problem("the source is missing", found=str(path), where=f"data.source '{name}'", do=do))
    if source.reader != "auto":
        return _asked(path, name, source, base)
    for reader in READERS.values():
        if reader.recognises(path):
            return reader.open(path, name, source, base)
    allowed = f"a folder of clips, or a table ({' '.join(table.PARSERS)})"
    raise DataError(
        Problem("no reader knows this layout", found=str(path), allowed=allowed, do="convert it, or set reader")
    )


def _asked(path: Path, name: str, source: SourceOptions, base: Path) -> Reader:
    reader = READERS[source.reader]
    if not reader.recognises(path):
        fits = ", ".join(kind for kind, other in READERS.items() if other.recognises(path)) or "none"
        what = f"reader '{source.reader}' cannot read this path"
        raise DataError(
            Problem(what, found=str(path), allowed=f"readers that can: {fits}", where=f"data.source '{name}'")
        )
    return reader.open(path, name, source, base)
