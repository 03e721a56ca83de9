"""Owns the reading of a row's values: which column is meant, the media file inside the root, the caption, facts.

In: column names and values as a table gives them. Out: paths, texts and numbers; what is wrong with a value joins the
caller's list of problems, so that all that is wrong with a row is told at once.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cinelora.base.errors import Problem, nearest
from cinelora.base.log import logger
from cinelora.data.captions import is_text

PATH_COLUMNS = (
    "file_path", "path", "file", "video", "video_path", "media", "media_path", "filename", "file_name", "image",
    "image_path",
)  # fmt: skip
CAPTION_COLUMNS = ("caption", "text", "prompt", "description", "captions")
FACT_COLUMNS = {
    "width": ("width",),
    "height": ("height",),
    "frames": ("frames", "num_frames", "frame_count"),
    "fps": ("fps", "frame_rate"),
}
_MOST = {"width": 65_536, "height": 65_536, "frames": 10_000_000, "fps": 10_000}
"""Larger numbers are slips of the table; believed, they would take the memory of a plan."""
_OTHER_MARKS = re.compile(r"[|:^~]")
_STATE = "correct it, or leave it empty so that the file is measured"
_SAVE = "save each to a file, and let the table name the files"


def column_of(
    what: str, asked: str, known: Sequence[str], columns: Sequence[str], path: Path | str
) -> tuple[str, list[Problem]]:
    """The column `asked` for, or the first with a known name, case aside; ("", problems) where there is none.

    `what` is the word before "_column" in the option that names it; `path` is the table, for the message.
    """
    column = (asked if asked in columns else "") if asked else first_known(known, columns)
    if column:
        others = [other for other in columns if other != column and other.lower() in known]
        if others and not asked:
            named = " and ".join(map(repr, others))
            logger.warning("%s: %s taken from column %r, not from %s (%s_column)", path, what, column, named, what)
        return column, []
    near = nearest(asked, columns) if asked else ", ".join(dict.fromkeys(filter(None, _near(known, columns))))
    do = f"name it with {what}_column of this source"
    if len(columns) == 1 and _OTHER_MARKS.search(columns[0]):
        do = "separate the columns by a comma, a semicolon or a tab"
    problem = Problem(
        f"the table has no column '{asked}'" if asked else f"the table has no known {what} column",
        found=", ".join(columns[:20]) or "no columns",
        allowed="" if asked else ", ".join(known),
        nearest=near,
        where=str(path),
        do=do,
    )
    return "", [problem]


def first_known(names: Sequence[str], columns: Sequence[str]) -> str:
    """The column with the first of the known names, case aside; empty where there is none."""
    by_lower = {column.lower(): column for column in reversed(columns)}
    return next((by_lower[name] for name in names if name in by_lower), "")


def media_inside(root: Path, value: Any, problems: list[Problem]) -> Path | None:
    """The file that a row names, below `root.resolve()`; links at its end keep their names, but none may lead out.

    A `datasets` value {"path", "bytes"} counts by its path. None, with a problem noted, where there is no such path.
    """
    if isinstance(value, Mapping):
        return _embedded(root, value, problems)
    if not isinstance(value, str) or not value.strip():
        problems.append(Problem("the entry names no media file", found=f"{value!r:.60}"))
        return None
    if "\0" in value or not is_text(value):
        problems.append(Problem("the path has broken characters in it", found=ascii(value)))
        return None
    real = os.path.realpath(root)
    media = os.path.normpath(os.path.join(real, value.strip()))
    if not _below(real, media):  # an absolute path may reach the root through a link
        media = os.path.realpath(media)
    if not _below(real, media) or not _below(real, os.path.realpath(media)):
        do = "set media_root of this source to a folder that holds all media, or correct the path"
        problems.append(Problem("the path leaves the media folder", found=value, allowed=f"below {root}", do=do))
        return None
    return Path(media)


def _below(root: str, path: str) -> bool:
    """True where a path is the root or lies below it, by name alone; strings, since tables have millions of rows."""
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _embedded(root: Path, value: Mapping[str, Any], problems: list[Problem]) -> Path | None:
    """The file of a `datasets` value, which may hold the file's bytes in place of a path that is there."""
    path = value.get("path")
    if value.get("bytes"):
        noted: list[Problem] = []
        media = media_inside(root, path, noted) if isinstance(path, str) else None
        if media is None or not os.path.isfile(media):
            found = f"the bytes of {path!r}" if path else "bytes without a path"
            problems.append(Problem("the table holds the media file itself", found=found, allowed="a path", do=_SAVE))
            return None
        return media
    return media_inside(root, path if isinstance(path, str) else None, problems)


def text_in(value: Any, problems: list[Problem]) -> str | tuple[str, ...]:
    """The caption that a row holds, or its captions where the value is a list; nothing at all is the empty caption."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(text, str) for text in value):
        return tuple(value)
    found = f"{type(value).__name__} {value!r:.40}"
    problems.append(Problem("the caption is not text", found=found, allowed="text, or a list of texts"))
    return ""


def fact_columns(columns: Sequence[str]) -> dict[str, str]:
    """The column of each fact that the table states."""
    found = {fact: first_known(names, columns) for fact, names in FACT_COLUMNS.items()}
    return {fact: column for fact, column in found.items() if column}


def facts_in(values: Mapping[str, Any], columns: Mapping[str, str], problems: list[Problem]) -> dict[str, float]:
    """What a row states of its media, as positive numbers, whole ones but for fps; `columns` as `fact_columns`."""
    facts: dict[str, float] = {}
    for fact, column in columns.items():
        value = values.get(column)
        if value is None or value == "":
            continue
        number = _number(value)
        if number is None or (fact != "fps" and number != int(number)):
            kind = "a positive number" if fact == "fps" else "a positive whole number"
            problems.append(Problem(f"{column} is not {kind}", found=f"{value!r:.60}", do=_STATE))
            continue
        if number > _MOST[fact]:
            what, most = f"{column} is larger than any clip's", f"at most {_MOST[fact]:,}"
            problems.append(Problem(what, found=f"{value!r:.60}", allowed=most, do=_STATE))
            continue
        facts[fact] = number if fact == "fps" else int(number)
    return facts


def _near(known: Sequence[str], columns: Sequence[str]) -> Iterator[str]:
    return (nearest(name, columns, count=1) for name in known)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number > 0 and not isinstance(value, bool) else None
