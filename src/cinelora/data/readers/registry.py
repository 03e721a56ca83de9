"""Owns the list of readers: how each recognises its layout, which options it reads, and how it is opened."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cinelora.base.errors import DataError, Problem
from cinelora.base.log import console
from cinelora.contracts.roles import Reader
from cinelora.data.options import SourceOptions
from cinelora.data.readers import easyanimate, folder, pairs, prompts, sheet, table, webdataset, webvid
from cinelora.data.readers.arrow import HUB
from cinelora.data.readers.entry import SUFFIXES

_OF_TABLES = ("media_root", "path_column", "caption_column")
_OF_LAYOUTS = (*_OF_TABLES, "captions", "video_repeats")


@dataclass(frozen=True)
class ReaderKind:
    """One way to lay out a dataset.

    `layout` names it in messages. `takes` says whether the reader can try a path at all, `recognises` looks into it;
    `open` makes the reader of (path, name, options, media root); `reads` are the options of layouts that it reads.
    """

    layout: str
    takes: Callable[[Path], bool]
    recognises: Callable[[Path], bool]
    open: Callable[[Path, str, SourceOptions, Path], Reader]
    reads: tuple[str, ...] = ()


READERS = {
    "webvid": ReaderKind(
        "a WebVid table (videoid, page_dir, name)",
        webvid.is_table,
        webvid.recognises,
        lambda path, name, source, root: webvid.WebvidReader(path, name, source, root=root),
        ("media_root", "video_repeats"),
    ),
    "easyanimate": ReaderKind(
        "an EasyAnimate table (file_path, text)",
        sheet.is_sheet,
        easyanimate.recognises,
        lambda path, name, source, root: easyanimate.EasyAnimateReader(path, name, source, root=root),
        (*_OF_TABLES, "video_repeats"),
    ),
    "webdataset": ReaderKind(
        "tar shards of KEY.mp4 with KEY.txt or KEY.json",
        lambda path: path.is_dir() or webdataset.recognises(path),
        webdataset.recognises,
        lambda path, name, source, root: webdataset.WebdatasetReader(path, name, source),
        ("caption_column", "video_repeats"),
    ),
    "table": ReaderKind(
        "a table with a path and a caption per clip",
        table.recognises,
        table.recognises,
        lambda path, name, source, root: table.TableReader(path, name, source, root=root),
        (*_OF_TABLES, "video_repeats"),
    ),
    "prompts": ReaderKind(
        "a folder with prompts.txt and videos.txt",
        Path.is_dir,
        prompts.recognises,
        lambda path, name, source, root: prompts.PromptsReader(path, name, source, root=root),
        (*_OF_TABLES, "video_repeats"),
    ),
    "pairs": ReaderKind(
        "a folder of ID_start and ID_end images",
        Path.is_dir,
        pairs.recognises,
        lambda path, name, source, root: pairs.PairsReader(path, name, source),
        ("captions",),
    ),
    "folder": ReaderKind(
        "a folder of clips",
        Path.is_dir,
        folder.recognises,
        lambda path, name, source, root: folder.FolderReader(path, name, source),
        ("captions", "video_repeats"),
    ),
}
"""In the order in which `auto` asks them: what a reader knows more exactly comes first."""


def open_reader(path: Path, name: str, source: SourceOptions, *, base: Path) -> Reader:
    """The reader that the source asks for, or the first that recognises the path, which is told then.

    `base` is the folder that relative paths of the recipe start from. Raises DataError where there is none, and for
    options that the reader would not read.
    """
    if source.path.startswith(HUB):
        path = Path(source.path)
    else:
        check_source(path, name)
    if source.reader in ("auto", "table", "easyanimate"):
        path = described(path)
    word = _recognised(path, name) if source.reader == "auto" else _asked(path, name, source)
    _check_options(word, name, source)
    return READERS[word].open(path, name, source, _media_root(path, source, base))


def check_source(path: Path, name: str) -> None:
    """Raise DataError where there is nothing at a source's path, or nothing that can be looked at."""
    where = f"data.source '{name}'"
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            os.stat(os.path.join(path, "."))
            with os.scandir(path) as files:
                next(files, None)
    except (FileNotFoundError, NotADirectoryError) as error:
        do = "correct the path, which starts from the recipe's folder, or put the clips there"
        raise DataError(Problem("the source is missing", found=str(path), where=where, do=do)) from error
    except (OSError, ValueError) as error:
        found = f"{getattr(error, 'strerror', error)}: {str(path)[:200]}"
        do = "mend its permissions, or correct the path"
        raise DataError(Problem("the source cannot be reached", found=found, where=where, do=do)) from error


def described(path: Path) -> Path:
    """The one metadata.csv (.jsonl ...) of a folder, by which the Hub's folders of videos are told; else the path."""
    if not path.is_dir():
        return path
    tables = [path / f"metadata{suffix}" for suffix in table.SUFFIXES]
    found = [one for one in tables if one.is_file()]
    return found[0] if len(found) == 1 and not webdataset.recognises(path) else path


def _recognised(path: Path, name: str) -> str:
    """The first reader that knows the path; says so, and which others would read it in their way."""
    words = [word for word, kind in READERS.items() if kind.recognises(path)]
    if not words:
        allowed = ", ".join(kind.layout for kind in READERS.values())
        do = "convert it, or set reader of this source"
        if path.suffix.lower() in SUFFIXES:
            do = "name the folder that it lies in, or a table that names it"
        elif path.suffix.lower() == ".txt":
            do = "to distil from captions alone, set data.show = 'captions'"
        raise DataError(Problem("no reader knows this layout", found=str(path), allowed=allowed, do=do))
    others = " or ".join(f"'{word}'" for word in words[1:])
    console.print(
        f"source '{name}': read as {words[0]} ({READERS[words[0]].layout})"
        + (f"; reader = {others} reads it in another way" if others else "")
    )
    return words[0]


def _asked(path: Path, name: str, source: SourceOptions) -> str:
    if not READERS[source.reader].takes(path):
        fits = ", ".join(word for word, kind in READERS.items() if kind.recognises(path)) or "none"
        what = f"reader '{source.reader}' cannot read this path"
        raise DataError(
            Problem(
                what,
                found=str(path),
                allowed=f"{READERS[source.reader].layout}; readers that can: {fits}",
                where=f"data.source '{name}'",
                do="correct the path or the reader",
            )
        )
    return source.reader


def _check_options(word: str, name: str, source: SourceOptions) -> None:
    """Raise DataError where options are set that say something about other layouts only."""
    defaults = {option: SourceOptions.model_fields[option].default for option in _OF_LAYOUTS}
    dead = [o for o in _OF_LAYOUTS if o not in READERS[word].reads and getattr(source, o) != defaults[o]]
    if not dead:
        return
    fits = [other for other, kind in READERS.items() if set(dead) <= set(kind.reads)]
    raise DataError(
        Problem(
            f"settings of other layouts have no effect on {READERS[word].layout}",
            found=", ".join(dead),
            allowed=f"readers that read them: {', '.join(fits)}" if fits else "",
            where=f"data.source '{name}'",
            do="remove them, or set reader",
        )
    )


def _media_root(path: Path, source: SourceOptions, base: Path) -> Path:
    """Where relative paths of a table start: what the source says, else where the table is."""
    if source.media_root:
        return base / Path(source.media_root).expanduser()
    if source.path.startswith(HUB):
        return base
    return path if path.is_dir() else path.parent
