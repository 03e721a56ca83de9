"""The reader of image pairs: ID_start and ID_end, the first and the last picture of a motion. Subfolders count.

In: a folder. Out: records of kind "pair" in the order of their ids; case counts in ids, not in _start, _end and
suffixes. Captions stand in ID.txt or ID.caption; a folder without a single one has pairs without words.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cinelora.base.errors import DataError, Problem, nearest
from cinelora.base.log import logger
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import SourceOptions
from cinelora.data.readers.entry import SUFFIXES, Entries, at, is_tracks, text_of
from cinelora.data.readers.folder import CAPTION_SUFFIXES, files_below
from cinelora.media.container import IMAGE_SUFFIXES
from cinelora.media.probe import is_image

_STEM = re.compile(r"(.+)_(start|end)", re.IGNORECASE | re.DOTALL)
_HALVES = ("start", "end")
_SUFFIXES = " ".join(IMAGE_SUFFIXES)
_MOST_GUESSED = 200
"""Among so many halves without a partner a misspelt one is looked for; comparing all names of thousands takes hours."""


def recognises(path: Path) -> bool:
    """True for folders in which every media file is named ID_start or ID_end, and there is one."""
    if not path.is_dir():
        return False
    media = (file for file in files_below(path) if _is_media(file))
    first = next(media, None)
    return first is not None and all(_STEM.fullmatch(file.stem) for file in (first, *media))


@dataclass
class _Pair:
    """What a folder has of one id: files by "start" and "end", and caption files."""

    halves: dict[str, list[Path]] = field(default_factory=lambda: {half: [] for half in _HALVES})
    captions: list[Path] = field(default_factory=list)

    def all_files(self) -> list[Path]:
        """Starts, ends, captions."""
        return [*(file for half in _HALVES for file in self.halves[half]), *self.captions]


class PairsReader:
    """Plays Reader on one folder of image pairs."""

    def __init__(self, path: Path, name: str, source: SourceOptions):
        self.path, self.source = path, source
        self.entries = Entries(name, source)

    def read(self) -> Iterator[Record | LeftOut]:
        """Records by sorted id; halves without a partner are left out. Raises DataError for a folder without pairs."""
        files = sorted(files_below(self.path), key=lambda file: file.relative_to(self.path).as_posix())
        pairs = self._pairs(files)
        if not pairs:
            found = _some(file.relative_to(self.path) for file in files) or "no files"
            allowed = f"ID_start and ID_end with {_SUFFIXES}"
            raise DataError(Problem("no image pairs in it", found=found, allowed=allowed, where=str(self.path)))
        used = {file for pair in pairs.values() for file in pair.all_files()}
        unused = _some(f.relative_to(self.path) for f in files if f not in used and not self._is_known(f))
        if unused:
            logger.warning("%s: neither halves of pairs nor their captions: %s", self.path, unused)
        wanted = self.source.captions == "files" and self.source.empty_caption == "stop"
        if wanted and not any(_is_caption(file) for file in files):
            logger.warning("%s: no caption file in it, so all pairs go without words", self.path)
            self.entries = Entries(self.entries.name, self.source.model_copy(update={"empty_caption": "allow"}))
        lonely = {half: _without_other(half, pairs) for half in _HALVES}
        for key in sorted(pairs):
            yield self._entry(key, pairs[key], lonely)

    def _is_known(self, file: Path) -> bool:
        is_mask = bool(self.source.mask_suffix) and file.stem.endswith(self.source.mask_suffix)
        is_unasked = self.source.captions == "none" and _is_caption(file)
        return is_mask or is_unasked or is_tracks(file, self.source)

    def _pairs(self, files: Sequence[Path]) -> dict[str, _Pair]:
        """What is named like half of a pair, by id, where any of it is media; with the captions of these ids."""
        pairs: dict[str, _Pair] = {}
        for file in files:
            match = _STEM.fullmatch(file.stem)
            if match and not _is_caption(file):
                key = (file.relative_to(self.path).parent / match[1]).as_posix()
                pairs.setdefault(key, _Pair()).halves[match[2].lower()].append(file)
        pairs = {key: pair for key, pair in pairs.items() if any(map(_is_media, pair.all_files()))}
        for file in files if self.source.captions == "files" else ():
            pair = pairs.get(file.relative_to(self.path).with_suffix("").as_posix())
            if pair and _is_caption(file):
                pair.captions.append(file)
        return pairs

    def _entry(self, key: str, pair: _Pair, lonely: Mapping[str, Mapping[str, Path]]) -> Record | LeftOut:
        where = str(pair.all_files()[0])
        problems = [problem for half in _HALVES for problem in _half_problems(key, half, pair, lonely[half])]
        text = self._text(key, pair, problems)
        if problems:
            return self.entries.left_out(
                where, *(problem if problem.where else at(problem, where) for problem in problems)
            )
        start, end = (pair.halves[half][0] for half in _HALVES)
        return self.entries.make((start, end), key, text=text, where=where)

    def _text(self, key: str, pair: _Pair, problems: list[Problem]) -> str:
        stem = Path(key).name
        if self.source.captions == "names":
            return re.sub(r"[_-]+", " ", stem)
        names = " or ".join(stem + suffix for suffix in CAPTION_SUFFIXES)
        if len(pair.captions) > 1:
            problems.append(Problem("two caption files", allowed=names, do="remove one of the two"))
        elif pair.captions:
            text, problem = text_of(pair.captions[0])
            problems += [problem] if problem else []
            return text
        elif self.entries.source.captions != "none" and self.entries.source.empty_caption == "stop":
            do = "write one beside the pictures, or set empty_caption = 'allow' for this source"
            problems.append(Problem("no caption file", allowed=names, do=do))
        return ""


def _other(half: str) -> str:
    return next(one for one in _HALVES if one != half)


def _without_other(half: str, pairs: Mapping[str, _Pair]) -> dict[str, Path]:
    """The files of one half whose other half is not there, by id."""
    return {
        key: pair.halves[half][0] for key, pair in pairs.items() if pair.halves[half] and not pair.halves[_other(half)]
    }


def _half_problems(key: str, half: str, pair: _Pair, lonely: Mapping[str, Path]) -> list[Problem]:
    """What keeps one half of a pair from being exactly one picture; `lonely` are such halves without a partner."""
    files = pair.halves[half]
    names = ", ".join(file.name for file in files)
    if not files:
        near = nearest(key, list(lonely), count=1) if len(lonely) <= _MOST_GUESSED else ""
        return [
            Problem(
                f"the pair has no {half}",
                found=", ".join(file.name for file in pair.halves[_other(half)]),
                allowed=f"{Path(key).name}_{half} with any of {_SUFFIXES}",
                nearest=str(lonely[near]) if near else "",
                do="put it there or correct its name, or remove the other half",
            )
        ]
    if len(files) > 1:
        return [Problem(f"the pair has {len(files)} files for its {half}", found=names, allowed="1", do="keep one")]
    if files[0].suffix.lower() not in IMAGE_SUFFIXES or not is_image(files[0]):
        return [Problem(f"the {half} of the pair is not a picture", found=names, allowed=_SUFFIXES, do="convert it")]
    return []


def _is_caption(file: Path) -> bool:
    return file.suffix.lower() in CAPTION_SUFFIXES


def _is_media(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


def _some(files: Iterable[Path]) -> str:
    """The first five, and how many more there are."""
    names = [file.as_posix() for file in files]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
