"""The reader of folders: media files with a caption file of the same stem beside each. Subfolders count.

In: a folder. Out: records in the order of their paths. Hidden files and folders are passed over; files that are
neither media nor captions nor masks of media are named in the log. Captions may also be the file names themselves, with
underscores and dashes read as spaces and nothing else changed; or there are none.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from cinelora.base.errors import DataError, Problem
from cinelora.base.log import logger
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import SourceOptions
from cinelora.data.readers.entry import SUFFIXES, Entries, is_tracks, text_of

CAPTION_SUFFIXES = (".txt", ".caption")
_OURS = ({"events.jsonl", "recipe.toml"}, {"report.html", "problems.csv", "clips.json"})
"""Files by which folders are told that runs and reports wrote: their samples and strips are no clips."""
_TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def recognises(path: Path) -> bool:
    """True for folders."""
    return path.is_dir()


class FolderReader:
    """Plays Reader on one folder."""

    def __init__(self, path: Path, name: str, source: SourceOptions):
        self.path, self.source = path, source
        self.entries = Entries(name, source)

    def read(self) -> Iterator[Record | LeftOut]:
        """Records by sorted path. Raises DataError for a folder without media."""
        passed: list[Path] = []
        files = sorted(files_below(self.path, passed), key=lambda file: file.relative_to(self.path).as_posix())
        self._tell("what runs and reports wrote, passed over", passed)
        masks = {file for file in files if _is_media(file) and self._is_mask(file)}
        media = [file for file in files if _is_media(file) and file not in masks]
        if not media:
            counts = Counter(file.suffix.lower() or "no suffix" for file in files)
            found = ", ".join(f"{count} x {suffix}" for suffix, count in counts.most_common(5)) or "no files"
            allowed = " ".join(SUFFIXES)
            do = "put clips into it, or name the table that names them"
            raise DataError(
                Problem("no videos or images in it", found=found, allowed=allowed, where=str(self.path), do=do)
            )
        captions = _captions(files) if self.source.captions == "files" else {}
        self._tell_unused(files, media, masks, captions)
        tables = [
            file.name
            for file in files
            if file.parent == self.path and file.suffix.lower() in _TABLES and not is_tracks(file, self.source)
        ]
        for file in media:
            yield self._entry(file, captions, tables)

    def _is_unasked(self, file: Path) -> bool:
        """True for captions of a source that has none."""
        return self.source.captions == "none" and file.suffix.lower() in CAPTION_SUFFIXES

    def _is_mask(self, file: Path) -> bool:
        suffix = self.source.mask_suffix
        return bool(suffix) and file.stem.endswith(suffix) and file.stem != suffix

    def _entry(self, media: Path, captions: Mapping[Path, list[Path]], tables: list[str]) -> Record | LeftOut:
        inside = media.relative_to(self.path).as_posix()
        if self.source.captions == "names":
            return self.entries.make(media, inside, text=re.sub("[_-]+", " ", media.stem), where=str(media))
        if self.source.captions == "none":
            return self.entries.make(media, inside, text="", where=str(media))
        beside = captions.get(media.with_suffix(""), [])
        if len(beside) != 1:
            names = " or ".join(media.with_suffix(suffix).name for suffix in CAPTION_SUFFIXES)
            what = "two caption files" if beside else "no caption file"
            do = "remove one of the two" if beside else "write one beside the media file"
            if tables and not captions:
                do += f", or name the table if it has the captions ({', '.join(tables[:3])})"
            return self.entries.left_out(str(media), Problem(what, allowed=names, where=str(media), do=do))
        text, problem = text_of(beside[0])
        if problem:
            return self.entries.left_out(str(media), problem)
        return self.entries.make(media, inside, text=text, where=str(media))

    def _tell_unused(
        self, files: list[Path], media: list[Path], masks: set[Path], captions: Mapping[Path, list[Path]]
    ) -> None:
        """Name in the log the files that nothing is made of, and the masks of no clip."""
        stems = {file.with_suffix("") for file in media}
        known = {file for stem, texts in captions.items() if stem in stems for file in texts}
        known |= masks | set(media) | {file for file in files if is_tracks(file, self.source)}
        unread = (file for file in files if file not in known and not self._is_unasked(file))
        self._tell("neither media nor captions of media", unread)
        end = -len(self.source.mask_suffix)
        self._tell("masks of no clip", sorted(mask for mask in masks if mask.with_name(mask.stem[:end]) not in stems))

    def _tell(self, what: str, files: Iterable[Path]) -> None:
        names = [file.relative_to(self.path).as_posix() for file in files]
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            logger.warning("%s: %s: %s%s", self.path, what, ", ".join(names[:5]), more)


def files_below(folder: Path, passed: list[Path] | None = None) -> Iterator[Path]:
    """All files below a folder but hidden ones and those of runs and reports, links followed, each folder once.

    `passed` takes the folders of runs and reports. Raises DataError for a folder that cannot be listed.
    """
    visited: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(place)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        if place != str(folder) and any(marks <= set(names) for marks in _OURS):
            folders.clear()
            if passed is not None:
                passed.append(Path(place))
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in names if not name.startswith("."))


def _refuse(error: OSError) -> NoReturn:
    do = "mend its permissions, or move it out of the dataset"
    raise DataError(
        Problem("the folder cannot be listed", found=str(error.strerror), where=str(error.filename), do=do)
    ) from error


def _is_media(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _captions(files: Iterable[Path]) -> dict[Path, list[Path]]:
    """Caption files by their path without suffix."""
    found: dict[Path, list[Path]] = {}
    for file in files:
        if file.suffix.lower() in CAPTION_SUFFIXES:
            found.setdefault(file.with_suffix(""), []).append(file)
    return found
