"""The reader of captions without clips, for runs that are shown nothing else (`data.show = "captions"`).

In: a .txt with one caption a line, any table with a column of captions (paths in it are not looked at), a folder with
prompts.txt, a folder of .txt files, or a folder of clips, which are not opened. Out: records without media. Empty lines
are passed over. Keys are made of the words, so that a list may be put in another order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cinelora.base.errors import DataError, Problem
from cinelora.base.log import console
from cinelora.contracts.flow import LeftOut, Record
from cinelora.contracts.roles import Reader
from cinelora.data.options import SourceOptions
from cinelora.data.readers import arrow, prompts, table, webvid
from cinelora.data.readers.columns import CAPTION_COLUMNS, column_of, text_in
from cinelora.data.readers.entry import SUFFIXES, Entries, at, text_of
from cinelora.data.readers.folder import CAPTION_SUFFIXES, files_below
from cinelora.data.readers.registry import check_source, described, open_reader

LIST_SUFFIX = ".txt"
_OF_CLIPS = ("folder", "pairs")
_WEBVID_COLUMN = ("name",)

Entry = Record | LeftOut


@dataclass(frozen=True)
class CaptionsReader:
    """Plays Reader on one source; `entries_of` goes through it."""

    entries_of: Callable[[], Iterator[Entry]]

    def read(self) -> Iterator[Entry]:
        """Records in the order of lines, rows or paths. Raises DataError where the source cannot be listed at all."""
        return self.entries_of()


def open_captions(path: Path, name: str, source: SourceOptions, *, base: Path) -> Reader:
    """The reader of a source's captions, whatever its layout, which is told.

    Raises DataError for a source that is not there or holds none, and for options that nothing would read.
    """
    if source.path.startswith(arrow.HUB):
        path = Path(source.path)
    else:
        check_source(path, name)
    path = path if source.reader in (*_OF_CLIPS, "prompts") else described(path)
    entries = Entries(name, source)
    if source.reader not in _OF_CLIPS:
        if table.recognises(path):
            _tell(name, source, "a table of captions", reads=("caption_column",))
            return CaptionsReader(lambda: _of_table(path, source, entries))
        if lines := _list_in(path, source):
            _tell(name, source, f"one caption a line of {lines.name}", reads=("caption_column",) * path.is_dir())
            return CaptionsReader(lambda: _of_lines(lines, entries))
    if not path.is_dir():
        allowed = f"a {LIST_SUFFIX} file, a table ({' '.join(table.SUFFIXES)}) or a folder"
        where, do = f"data.source '{name}'", "correct the path or the reader"
        raise DataError(Problem("there are no captions to read", found=str(path), allowed=allowed, where=where, do=do))
    if source.reader != "captions" and _has_media(path):
        reader = open_reader(path, name, source, base=base)
        return CaptionsReader(lambda: (_alone(entry, source) for entry in reader.read()))
    _tell(name, source, f"a folder of {' and '.join(CAPTION_SUFFIXES)} files", reads=())
    return CaptionsReader(lambda: _of_files(path, entries))


def _list_in(path: Path, source: SourceOptions) -> Path | None:
    """The file of captions that a path names, or that a folder has by the name of prompts.txt."""
    if not path.is_dir():
        return path if path.suffix.lower() == LIST_SUFFIX else None
    asked = path / (source.caption_column or prompts.PROMPTS)
    if asked.is_file() or source.reader == "prompts" or source.caption_column:
        return asked
    return None


def _has_media(folder: Path) -> bool:
    return any(file.suffix.lower() in SUFFIXES for file in files_below(folder))


def _tell(name: str, source: SourceOptions, layout: str, *, reads: Sequence[str]) -> None:
    """Say how a source is read. Raises DataError where options say something about other layouts only."""
    fields = SourceOptions.model_fields
    dead = [o for o in ("captions", "caption_column") if o not in reads and getattr(source, o) != fields[o].default]
    if dead:
        what, where = f"settings of other layouts have no effect on {layout}", f"data.source '{name}'"
        raise DataError(Problem(what, found=", ".join(dead), where=where, do="remove them"))
    console.print(f"source '{name}': read as captions ({layout})")


def _of_lines(path: Path, entries: Entries) -> Iterator[Entry]:
    if not path.is_file():
        do = "put the file there, or name it with caption_column of this source"
        raise DataError(Problem("the file is missing", found=str(path), do=do))
    text, problem = text_of(path)
    if problem:
        raise DataError(problem)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(Problem("the file has no lines", where=str(path), do="write one caption a line"))
    for number, line in lines:
        yield entries.caption(line, where=f"{path}:{number}")


def _of_table(path: Path, source: SourceOptions, entries: Entries) -> Iterator[Entry]:
    place = source.path if source.path.startswith(arrow.HUB) else str(path)
    columns, rows_with = table.opened(path, source)
    is_webvid = source.reader in ("auto", "webvid") and webvid.recognises(path)
    known = _WEBVID_COLUMN if is_webvid else CAPTION_COLUMNS
    column, no_column = column_of("caption", source.caption_column, known, columns, place)
    if no_column:
        raise DataError(*no_column)
    rows = list(rows_with([column]))
    if not rows:
        raise DataError(Problem("the table has no rows", where=place, do="name a table with captions"))
    for row in rows:
        where = f"{place}:{row.place}"
        problems = [row.problem] if row.problem else []
        text = text_in(row.values.get(column), problems)
        if problems:
            yield entries.left_out(where, *(at(problem, where) for problem in problems))
        else:
            yield entries.caption(text, where=where)


def _of_files(folder: Path, entries: Entries) -> Iterator[Entry]:
    files = sorted(file for file in files_below(folder) if file.suffix.lower() in CAPTION_SUFFIXES)
    if not files:
        what, allowed = "no captions in it", f"{prompts.PROMPTS}, or files with {' or '.join(CAPTION_SUFFIXES)}"
        raise DataError(Problem(what, allowed=allowed, where=str(folder), do="name a list or a table of captions"))
    for file in files:
        text, problem = text_of(file)
        yield entries.left_out(str(file), problem) if problem else entries.caption(text, where=str(file))


def _alone(entry: Entry, source: SourceOptions) -> Entry:
    """What stands beside a clip, without the clip."""
    if isinstance(entry, LeftOut):
        return entry
    return replace(entry, kind="caption", media=(), facts={}, repeats=source.repeats)
