"""Owns the making of one record from what any layout says of it: a path, a caption, stated facts.

In: strings as they stand in the dataset. Out: a Record, or a LeftOut with all that is wrong with the entry.
"""

import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cinelora.base.errors import CineloraError, Problem
from cinelora.contracts.flow import Kind, LeftOut, Record
from cinelora.data.captions import caption_of, is_text
from cinelora.data.options import SourceOptions
from cinelora.media.container import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from cinelora.media.probe import is_image

SUFFIXES = VIDEO_SUFFIXES + IMAGE_SUFFIXES


class Entries:
    """Makes the records of one source; remembers the keys that it has given out."""

    def __init__(self, name: str, source: SourceOptions):
        self.name, self.source = name, source
        self._first_seen: dict[str, str] = {}

    def make(
        self, media: Path, inside: str, *, text: str, where: str, facts: Mapping[str, Any] | None = None
    ) -> Record | LeftOut:
        """A record of `media`, whose path below the root is `inside`, or all reasons why there is none."""
        key = f"{self.name}/{inside}"
        problems = _file_problems(media, where)
        first = self._first_seen.setdefault(key, where)
        if first != where:
            what = "the same media stands in the dataset twice"
            problems.append(Problem(what, found=inside, where=f"{first} and {where}", do="keep one of the two"))
        caption = ""
        try:
            caption = caption_of(text, self.source)
        except CineloraError as error:
            problems += [at(problem, where) for problem in error.problems]
        if problems:
            return self.left_out(where, *problems)
        kind: Kind = "image" if is_image(media) else "video"
        return Record(key, self.name, kind, (media,), caption, where, dict(facts or {}))

    def left_out(self, where: str, *problems: Problem) -> LeftOut:
        """An entry that cannot be used."""
        return LeftOut(where, self.name, problems)


def at(problem: Problem, where: str) -> Problem:
    """The same problem with its place."""
    return replace(problem, where=where)


def text_of(path: Path) -> tuple[str, Problem | None]:
    """A text file as UTF-8 (a byte order mark is dropped), or what is wrong with it and at which byte."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return "", Problem("cannot be read", found=str(error.strerror), where=str(path), do="mend its permissions")
    try:
        return data.decode("utf-8-sig"), None
    except UnicodeDecodeError as error:
        start = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        looks = " (looks like UTF-16)" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        found = f"byte 0x{data[start]:02x} at offset {start}{looks}"
        return "", Problem("is not UTF-8 text", found=found, where=str(path), do="save it as UTF-8")


def _file_problems(media: Path, where: str) -> list[Problem]:
    if not is_text(str(media)):
        return [Problem("the name of the media file is not text", found=ascii(str(media)), where=where, do="rename it")]
    if media.suffix.lower() not in SUFFIXES:
        found = media.suffix or f"no suffix in {media.name}"
        return [Problem("not a known kind of media", found=found, allowed=" ".join(SUFFIXES), where=where)]
    try:
        mode = media.stat().st_mode
    except FileNotFoundError:
        return [Problem("media file is missing", found=str(media), where=where, do="put it there or remove the entry")]
    except OSError as error:
        return [Problem("media file cannot be reached", found=f"{error.strerror}: {str(media)[:200]}", where=where)]
    return [] if stat.S_ISREG(mode) else [Problem("media path is not a file", found=str(media), where=where)]
