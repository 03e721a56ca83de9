"""The reader of folders: media files with a caption file of the same stem beside each. Subfolders count.

In: a folder. Out: records in the order of their paths. Hidden files and folders are passed over; files that are
neither media nor captions of media are named in the log.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cinelora.base.errors import DataError, Problem
from cinelora.base.log import logger
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import SourceOptions
from cinelora.data.readers.entry import SUFFIXES, Entries, text_of

CAPTION_SUFFIXES = (".txt", ".caption")


def recognises(path: Path) -> bool:
    """True for folders."""
    return path.is_dir()


class FolderReader:
    """Plays Reader on one folder."""

    def __init__(self, path: Path, name: str, source: SourceOptions):
        self.path = path
        self.entries = Entries(name, source)

    def read(self) -> Iterator[Record | LeftOut]:
        """Records by sorted path. Raises DataError for a folder without media."""
        files = sorted(_files(self.path), key=lambda file: file.relative_to(self.path).as_posix())
        media = [file for file in files if file.suffix.lower() in SUFFIXES]
        if not media:
            counts = Counter(file.suffix.lower() or "no suffix" for file in files)
            found = ", ".join(f"{count} x {suffix}" for suffix, count in counts.most_common(5)) or "no files"
            allowed = " ".join(SUFFIXES)
            raise DataError(Problem("no videos or images in it", found=found, allowed=allowed, where=str(self.path)))
        self._tell_unused(files, media)
        captions = {file for file in files if file.suffix.lower() in CAPTION_SUFFIXES}
        for file in media:
            yield self._entry(file, captions)

    def _entry(self, media: Path, captions: set[Path]) -> Record | LeftOut:
        beside = [media.with_suffix(suffix) for suffix in CAPTION_SUFFIXES if media.with_suffix(suffix) in captions]
        if len(beside) != 1:
            names = " or ".join(media.with_suffix(suffix).name for suffix in CAPTION_SUFFIXES)
            what = "two caption files" if beside else "no caption file"
            do = "remove one of the two" if beside else "write one beside the media file"
            return self.entries.left_out(str(media), Problem(what, allowed=names, where=str(media), do=do))
        text, problem = text_of(beside[0])
        if problem:
            return self.entries.left_out(str(media), problem)
        inside = media.relative_to(self.path).as_posix()
        return self.entries.make(media, inside, text=text, where=str(media))

    def _tell_unused(self, files: list[Path], media: list[Path]) -> None:
        stems = {file.with_suffix("") for file in media}
        known = set(media) | {f for f in files if f.suffix.lower() in CAPTION_SUFFIXES and f.with_suffix("") in stems}
        unused = [file.relative_to(self.path).as_posix() for file in files if file not in known]
        if unused:
            more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
            logger.warning("%s: neither media nor captions of media: %s%s", self.path, ", ".join(unused[:5]), more)


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, links followed, each folder once."""
    visited: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in names if not name.startswith("."))
