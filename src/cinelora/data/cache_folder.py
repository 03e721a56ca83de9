"""Owns the folder of a cache as a whole: what lies in it, what is damaged, what nobody needs, taking it elsewhere.

In: a folder, keys that are needed. Out: `Kept` entries, paths, a copy that another machine can use. No encoder.
"""

import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cinelora.base.errors import Problem, Problems, RunError
from cinelora.base.files import cannot_write, stays_inside, whole_folder, write_bytes
from cinelora.base.log import track
from cinelora.base.workers import each
from cinelora.contracts.flow import Record
from cinelora.data.cache_plan import free_bytes, in_words
from cinelora.data.cache_work import damage_of
from cinelora.data.entries import MediaHashes, append_line, entry_facts, entry_path, read_lines

_MANIFEST = "manifest.jsonl"
_SECONDS_PER_ENTRY = 600.0
_STALE_SECONDS = 3600.0
"""A file that is being written is renamed in less; one that is older was left behind by a process that was killed."""


@dataclass(frozen=True)
class Kept:
    """An entry that is there; `made` is a time since 1970, 0 where nobody wrote it down."""

    path: Path
    tower: str
    dtype: str
    bytes: int
    made: float = 0.0
    by: str = ""


def refuse_no_cache(folder: Path) -> None:
    """Raise RunError where the folder is none, or holds no cache."""
    if not folder.is_dir() or not (_entries(folder) or (folder / _MANIFEST).exists()):
        do = "name the folder of a cache, or a recipe whose cache is filled"
        raise RunError(Problem("there is no cache here", found=str(folder), do=do))


def contents(folder: Path) -> list[Kept]:
    """Every entry of a folder, from the manifest, or where that does not know it from its own header."""
    lines = _manifest(folder)
    return [_kept(path, lines.get(path.stem)) for path in _entries(folder)]


def _kept(path: Path, line: Mapping[str, Any] | None) -> Kept:
    size = path.stat().st_size
    if line is None:
        try:
            line = entry_facts(path)[0]
        except ValueError:
            line = {"tower": "damaged"}
    made = line.get("time", 0.0)
    told = float(made) if isinstance(made, int | float) else 0.0
    return Kept(path, str(line.get("tower", "?")), str(line.get("dtype", "?")), size, told, str(line.get("by", "")))


def _entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*/*.safetensors") if re.fullmatch(r"[0-9a-f]{64}", path.stem))


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """The latest line of each key, of what one needs to know later."""
    return {str(line.get("key")): line for line in read_lines(folder / _MANIFEST)}


def damaged(paths: Sequence[Path]) -> dict[Path, str]:
    """Read entries from end to end; those whose file is torn or whose sum is wrong, with what is wrong."""
    found = each(lambda path: damage_of(path, whole=True), paths, seconds=_SECONDS_PER_ENTRY)
    told = zip(paths, track(found, "reading the cache", len(paths)), strict=True)
    return {path: str(damage) for path, damage in told if damage}


def leftovers(folder: Path) -> list[Path]:
    """Half-written files of processes that were killed."""
    old = time.time() - _STALE_SECONDS
    return sorted(path for path in folder.glob("*/.*.part") if path.stat().st_mtime < old)


def remove(folder: Path, paths: Iterable[Path]) -> None:
    """Delete files of a cache, and the manifest's lines of what is gone. Raises RunError where that is not allowed."""
    gone = set()
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from error
        gone.add(path.stem)
    if gone and (folder / _MANIFEST).exists():
        lines = (folder / _MANIFEST).read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if not (found := _KEY.search(line)) or found[1].decode() not in gone]
        write_bytes(folder / _MANIFEST, b"".join(kept))


_KEY = re.compile(rb'"key": "([0-9a-f]{64})"')


def export(folder: Path, keys: Iterable[str], records: Sequence[Record], *, media: MediaHashes, out: Path) -> int:
    """Copy entries into a new folder `out`, with a manifest and a memory of media that holds on another machine.

    Gives back the bytes copied. Raises RunError where `out` is in use or too small, or an entry is missing or damaged:
    then nothing stays there.
    """
    paths = [entry_path(folder, key) for key in sorted(keys)]
    _refuse_partial(paths)
    size = sum(path.stat().st_size for path in paths)
    _refuse_place(folder, out, size)
    lines = _manifest(folder)
    with whole_folder(out) as copy:
        found = each(lambda path: _copied(path, entry_path(copy, path.stem)), paths, seconds=_SECONDS_PER_ENTRY)
        problems = Problems(RunError)
        for path, damage in zip(paths, track(found, "copying entries", len(paths)), strict=True):
            if damage:
                problems.add("an entry is damaged", found=str(damage), where=str(path), do="run `cinelora cache` first")
            else:
                append_line(copy / _MANIFEST, lines.get(path.stem) or {"key": path.stem, **entry_facts(path)[0]})
        problems.raise_if_any()
        _write_media(copy / "media.jsonl", records, media)
    return size


def _copied(path: Path, target: Path) -> str:
    """Copy one entry and read the copy; says what is wrong with it."""
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, target)
    return damage_of(target, whole=True) or ""


def _write_media(path: Path, records: Sequence[Record], media: MediaHashes) -> None:
    unique = {record.key: record for record in records}
    for record in track(unique.values(), "copying hashes of media", len(unique)):
        beside = (replace(record, media=(file,)) for file in (record.mask, record.tracks) if file is not None)
        for line in (line for one in (record, *beside) for line in media.portable(one)):
            append_line(path, line)


def _refuse_partial(paths: Sequence[Path]) -> None:
    missing = [path for path in paths if not path.exists()]
    if missing:
        found = f"{len(missing)} of {len(paths)} entries are missing, such as {missing[0].name}"
        raise RunError(Problem("the cache is not complete", found=found, do="run `cinelora cache` first"))


def _refuse_place(folder: Path, out: Path, size: int) -> None:
    problems = Problems(RunError)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        problems.add("the export wants a new folder", found=str(out), do="name another, or remove this one")
    elif stays_inside(folder, out):
        problems.add("the export would lie inside the cache", found=str(out), do="name a folder outside of it")
    elif size > (free := free_bytes(out)):
        found = f"{in_words(size)} to copy, {in_words(free)} free"
        problems.add("the export does not fit on the disk", found=found, where=str(out), do="name another folder")
    problems.raise_if_any()
