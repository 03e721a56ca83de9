"""The reader of two aligned files: line n of prompts.txt says what the clip named by line n of videos.txt shows.

In: a folder with both files. Out: records in the order of the lines, `where` = videos.txt:line. Lines end with a line
feed (or carriage return and line feed); the end of the last one is no line of its own. Paths start from the folder.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from cinelora.base.errors import DataError, Problem, nearest
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import SourceOptions
from cinelora.data.readers.columns import media_inside
from cinelora.data.readers.entry import SUFFIXES, Entries, at, text_of

PROMPTS, VIDEOS = "prompts.txt", "videos.txt"
_LIKE_PROMPTS = (PROMPTS, "prompt.txt", "captions.txt")
_LIKE_VIDEOS = (VIDEOS, "video.txt", "images.txt")


def recognises(path: Path) -> bool:
    """True for folders with a file of captions and a file of paths, also under names that are nearly right."""
    return _has_list(path, _LIKE_PROMPTS) and _has_list(path, _LIKE_VIDEOS)


class PromptsReader:
    """Plays Reader on one folder with two aligned files."""

    def __init__(self, path: Path, name: str, source: SourceOptions, *, root: Path):
        self.path, self.root = path, root
        self.prompts = path / (source.caption_column or PROMPTS)
        self.videos = path / (source.path_column or VIDEOS)
        self.entries = Entries(name, source)

    def read(self) -> Iterator[Record | LeftOut]:
        """Records line by line. Raises DataError where a file is missing or the files do not have the same lines."""
        captions, no_captions = self._lines(self.prompts, "caption_column", _LIKE_PROMPTS)
        paths, no_paths = self._lines(self.videos, "path_column", _LIKE_VIDEOS)
        if no_captions or no_paths:
            raise DataError(*no_captions, *no_paths)
        if len(captions) != len(paths):
            raise DataError(self._mismatch(captions, paths))
        for line, (caption, value) in enumerate(zip(captions, paths, strict=True), 1):
            yield self._entry(line, caption, value)

    def _lines(self, path: Path, word: str, known: tuple[str, ...]) -> tuple[list[str], list[Problem]]:
        if not os.path.isfile(path):
            names = sorted(file.name for file in self.path.glob("*.txt"))
            near = ", ".join([name for name in known if name in names] or filter(None, [nearest(path.name, names)]))
            do = f"put the file there, or name it with {word} of this source"
            return [], [Problem("the file is missing", found=str(path), nearest=near, where=str(self.path), do=do)]
        text, problem = text_of(path)
        if problem:
            return [], [problem]
        lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
        if not any(line.strip() for line in lines):
            return [], [Problem("the file has no lines", where=str(path), do="write one line per clip")]
        return lines, []

    def _entry(self, line: int, caption: str, value: str) -> Record | LeftOut:
        where = f"{self.videos}:{line}"
        problems: list[Problem] = []
        media = media_inside(self.root, value, problems)
        if media is None:
            return self.entries.left_out(where, *(at(problem, where) for problem in problems))
        inside = media.relative_to(self.root.resolve()).as_posix()
        entry = self.entries.make(media, inside, text=caption, where=where)
        if isinstance(entry, Record):
            return entry
        return self.entries.left_out(where, *(self._placed(problem, line) for problem in entry.problems))

    def _placed(self, problem: Problem, line: int) -> Problem:
        """The same problem; one of the caption points to the file of captions."""
        return at(problem, f"{self.prompts}:{line}") if problem.what.startswith("the caption ") else problem

    def _mismatch(self, captions: list[str], paths: list[str]) -> Problem:
        """Both counts, and the line at which the two files most likely part."""
        place, why = self._suspect(captions, paths)
        return Problem(
            "the files do not have the same number of lines",
            found=f"{len(captions)} in {self.prompts.name}, {len(paths)} in {self.videos.name}; {why}",
            allowed="line n of one belongs to line n of the other",
            where=place,
            do="look there first, and correct the file",
        )

    def _suspect(self, captions: list[str], paths: list[str]) -> tuple[str, str]:
        """The first empty line, else the first line of paths that leads to no media, else the first without partner."""
        files = [(self.prompts, captions), (self.videos, paths)]
        (shorter, few), (longer, many) = sorted(files, key=lambda file: len(file[1]))
        for file, lines in ((longer, many), (shorter, few)):
            empty = next((k for k, line in enumerate(lines, 1) if not line.strip()), 0)
            if empty:
                return f"{file}:{empty}", f"line {empty} of {file.name} is empty"
        for k, value in enumerate(paths, 1):
            if reason := self._no_media(value):
                return f"{self.videos}:{k}", f"line {k} of {self.videos.name} is {value!r:.60}: {reason}"
        first = len(few) + 1
        return f"{longer}:{first}", f"line {first} of {longer.name} has no partner: {many[first - 1]!r:.60}"

    def _no_media(self, value: str) -> str:
        """Why a line of paths leads to no media file; empty where it does."""
        if Path(value.strip()).suffix.lower() not in SUFFIXES:
            return "not the path of a video or an image"
        problems: list[Problem] = []
        media = media_inside(self.root, value, problems)
        if media is None:
            return problems[0].what
        return "" if os.path.isfile(media) else "no such file"


def _has_list(folder: Path, names: tuple[str, ...]) -> bool:
    """True where one of the names is there and is not simply the caption of a clip of that name."""
    return any((folder / name).is_file() and not _captioned(folder / name) for name in names)


def _captioned(caption: Path) -> bool:
    return any(caption.with_suffix(suffix).exists() for suffix in SUFFIXES)
