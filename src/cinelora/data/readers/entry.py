"""Owns the making of one record from what any layout says of it: a path, captions, stated facts.

In: strings as they stand in the dataset. Out: a Record, or a LeftOut with all that is wrong with the entry.
"""

import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from cinelora.base.errors import CineloraError, Problem
from cinelora.base.files import sha256_text
from cinelora.contracts.flow import Kind, LeftOut, Record
from cinelora.data.captions import captions_of, is_text
from cinelora.data.options import SourceOptions
from cinelora.media.container import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from cinelora.media.probe import is_image
from cinelora.media.track_file import TRACK_SUFFIXES

SUFFIXES = VIDEO_SUFFIXES + IMAGE_SUFFIXES
_WORDS_IN_KEY = 24
"""Letters of a caption that stand in its key; a hash tells those with the same beginning apart."""


class Entries:
    """Makes the records of one source; remembers the keys that it has given out."""

    def __init__(self, name: str, source: SourceOptions):
        self.name, self.source = name, source
        self._first_seen: dict[str, str] = {}
        self._beside: dict[Path, dict[str, list[Path]]] = {}

    def make(
        self,
        media: Path | tuple[Path, ...],
        inside: str,
        *,
        text: str | Sequence[str],
        where: str,
        facts: Mapping[str, Any] | None = None,
    ) -> Record | LeftOut:
        """A record of `media` (two files are a pair), or all reasons why there is none.

        `inside` is its path below the root; `text` its caption, or several that say the same.
        """
        files = media if isinstance(media, tuple) else (media,)
        key = f"{self.name}/{inside}"
        problems = [problem for file in files for problem in _file_problems(file, where)]
        if key in self._first_seen:
            what = "the same media stands in the dataset twice"
            places = " and ".join(dict.fromkeys((self._first_seen[key], where)))
            problems.append(Problem(what, found=inside, where=places, do="keep one of the two"))
        self._first_seen.setdefault(key, where)
        captions: tuple[str, ...] = ("",)
        try:
            captions = captions_of(text, self.source, key=key)
        except CineloraError as error:
            problems += [at(problem, where) for problem in error.problems]
        mask = self._mask(files[0], where, problems)
        tracks = self._tracks(files[0].with_name(Path(inside).name) if len(files) > 1 else files[0], where, problems)
        if problems:
            return self.left_out(where, *problems)
        kind: Kind = "pair" if len(files) > 1 else "image" if is_image(files[0]) else "video"
        return Record(
            key,
            self.name,
            kind,
            files,
            captions[0],
            where,
            dict(facts or {}),
            more_captions=captions[1:],
            caption_dropout=self.source.caption_dropout,
            mask=mask,
            repeats=self.source.repeats * (self.source.video_repeats if kind == "video" else 1),
            tracks=tracks,
        )

    def caption(self, text: str | Sequence[str], *, where: str) -> Record | LeftOut:
        """A record of a caption alone, or all reasons why there is none.

        Its key is made of its own words, so that it stays when others come and go; what stands there again is numbered.
        """
        first = text if isinstance(text, str) else next(iter(text), "")
        words = "-".join(re.findall(r"\w+", first.lower()))[:_WORDS_IN_KEY].strip("-")
        name = f"{self.name}/{words}-{sha256_text(first)[:8]}" if is_text(first) else f"{self.name}/{where}"
        key = next(key for k in count(1) if (key := name if k == 1 else f"{name}-{k}") not in self._first_seen)
        self._first_seen[key] = where
        try:
            captions = captions_of(text, self.source, key=name)
        except CineloraError as error:
            return self.left_out(where, *(at(problem, where) for problem in error.problems))
        dropout, repeats = self.source.caption_dropout, self.source.repeats
        return Record(
            key,
            self.name,
            "caption",
            (),
            captions[0],
            where,
            more_captions=captions[1:],
            caption_dropout=dropout,
            repeats=repeats,
        )

    def left_out(self, where: str, *problems: Problem) -> LeftOut:
        """An entry that cannot be used."""
        return LeftOut(where, self.name, problems)

    def _mask(self, media: Path, where: str, problems: list[Problem]) -> Path | None:
        """The mask beside a media file, where the source has masks."""
        if not self.source.mask_suffix:
            return None
        stem = media.stem + self.source.mask_suffix
        masks = self._media_beside(media.parent).get(stem, [])
        if len(masks) == 1:
            return masks[0]
        problems.append(
            Problem(
                "the clip has two masks" if masks else "the clip has no mask",
                found=", ".join(mask.name for mask in masks),
                allowed=f"one file {stem} with any of {' '.join(SUFFIXES)}",
                where=where,
                do="keep one of them"
                if masks
                else "put a mask beside it, or move clips without mask to another source",
            )
        )
        return None

    def _tracks(self, clip: Path, where: str, problems: list[Problem]) -> Path | None:
        """The file of tracks beside a clip (of a pair: named like its id), where the source has tracks."""
        suffix = self.source.track_suffix
        if not suffix:
            return None
        stem = (clip.stem if clip.suffix.lower() in SUFFIXES else clip.name) + suffix
        files = [file for file in (clip.with_name(stem + ending) for ending in TRACK_SUFFIXES) if file.is_file()]
        if len(files) == 1:
            return files[0]
        do = "keep one of them" if files else "put one beside it, or move clips without tracks to another source"
        what = "the clip has two files of tracks" if files else "the clip has no tracks"
        found, allowed = ", ".join(file.name for file in files), " or ".join(stem + end for end in TRACK_SUFFIXES)
        problems.append(Problem(what, found=found, allowed=allowed, where=where, do=do))
        return None

    def _media_beside(self, folder: Path) -> dict[str, list[Path]]:
        """Media files of a folder by their stems; each folder is listed once."""
        if folder not in self._beside:
            found: dict[str, list[Path]] = {}
            for file in sorted(folder.iterdir()) if os.path.isdir(folder) else ():
                if file.suffix.lower() in SUFFIXES:
                    found.setdefault(file.stem, []).append(file)
            self._beside[folder] = found
        return self._beside[folder]


def at(problem: Problem, where: str) -> Problem:
    """The same problem with its place."""
    return replace(problem, where=where)


def is_tracks(file: Path, source: SourceOptions) -> bool:
    """True for files of tracks, as the source names them."""
    suffix = source.track_suffix
    return bool(suffix) and file.suffix in TRACK_SUFFIXES and file.stem.endswith(suffix)


def text_of(path: Path) -> tuple[str, Problem | None]:
    """A text file as UTF-8 (a byte order mark is dropped), or what is wrong with it and at which byte."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return "", Problem("cannot be read", found=str(error.strerror), where=str(path), do="mend its permissions")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        looks = " (looks like UTF-16)" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        found = f"byte 0x{data[start]:02x} at offset {start}{looks}"
        return "", Problem("is not UTF-8 text", found=found, where=str(path), do="save it as UTF-8")
    if text.count("\0") > len(text) / 4:  # letters of UTF-16 without a byte order mark are UTF-8 with zeros between
        found = f"byte 0x00 at offset {data.index(0)} (looks like UTF-16)"
        return "", Problem("is not UTF-8 text", found=found, where=str(path), do="save it as UTF-8")
    return text, None


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
        found, do = f"{error.strerror}: {str(media)[:200]}", "mend it, or remove the entry"
        return [Problem("media file cannot be reached", found=found, where=where, do=do)]
    if not stat.S_ISREG(mode):
        do = "name a video or an image file"
        return [Problem("media path is not a file", found=str(media), where=where, do=do)]
    return []
