"""Owns what runs and recipes differ in besides their values: bases, folders, versions, clips, adapters.

In: two targets. Out: one `Fact` for each thing that differs; of what a folder does not hold nothing is said.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cinelora.base.files import sha256_text
from cinelora.commands.recipe_target import Target
from cinelora.report.rows import ClipRow
from cinelora.report.run_folder import Run, read_run

_SHORT = 12
"""Digits of a fingerprint that are shown."""
_MOST = 3
"""Clips that are named."""
_LENGTH, _CHUNK = 8, 1 << 20


@dataclass(frozen=True)
class Fact:
    """One thing that differs, in words for each side."""

    name: str
    first: str
    second: str


def facts_of(one: Target, other: Target) -> list[Fact]:
    """What differs besides the values. Raises RunError where a file of a run is damaged."""
    found = [*_places(one, other)]
    if one.run and other.run:
        first, second = read_run(one.run), read_run(other.run)
        found += [*_versions(first, second), *_clips(first.rows, second.rows), *_adapters(first, second)]
    return found


def _places(one: Target, other: Target) -> Iterator[Fact]:
    """The base as it is found, and where relative paths lead."""
    pairs = {
        "the base": (one.loaded.base_anywhere, other.loaded.base_anywhere),
        "relative paths start from": tuple(str(target.loaded.folder.resolve()) for target in (one, other)),
    }
    yield from (Fact(name, *pair) for name, pair in pairs.items() if pair[0] != pair[1])


def _versions(one: Run, other: Run) -> Iterator[Fact]:
    for name in dict.fromkeys([*one.versions, *other.versions]):
        first, second = one.versions.get(name, "not noted"), other.versions.get(name, "not noted")
        if first != second:
            yield Fact(f"version of {name}", first, second)


def _clips(one: list[ClipRow], other: list[ClipRow]) -> Iterator[Fact]:
    """Fingerprints and counts of the clips, which of them one run alone had, how many became something else."""
    if one == other:
        return
    yield Fact("clips", _counted(one), _counted(other))
    first, second = ({row.key: row for row in rows} for rows in (one, other))
    alone = [key for key in first if key not in second], [key for key in second if key not in first]
    if any(alone):
        yield Fact("clips that the other lacks", *map(_named, alone))
    changed = [key for key, row in first.items() if key in second and second[key] != row]
    if changed:
        fields = Counter(
            name for key in changed for name, value in vars(first[key]).items() if vars(second[key])[name] != value
        )
        what = ", ".join(f"{name} of {count}" for name, count in fields.most_common())
        yield Fact("clips in both that differ", f"{_named(changed)}: {what}", "")


def _counted(rows: list[ClipRow]) -> str:
    if not rows:
        return "none are listed"
    counts = Counter(row.status for row in rows)
    mark = sha256_text(*sorted(map(repr, rows)))[:_SHORT]
    return f"{', '.join(f'{count} {status}' for status, count in counts.items())} ({mark})"


def _named(keys: list[str]) -> str:
    more = f" and {len(keys) - _MOST} more" if len(keys) > _MOST else ""
    return f"{len(keys)}: {', '.join(keys[:_MOST])}{more}" if keys else "none"


def _adapters(one: Run, other: Run) -> Iterator[Fact]:
    """Files of weights by their names, in adapter/ and final/; what their headers say of the recipe does not count."""
    first, second = _files(one), _files(other)
    for name in dict.fromkeys([*first, *second]):
        sides = first.get(name, "none"), second.get(name, "none")
        if sides[0] != sides[1]:
            yield Fact(name, *sides)


def _files(run: Run) -> dict[str, str]:
    steps = {adapter.path: adapter.metadata.get("steps") for adapter in run.adapters}
    folders = [run.folder / folder.path for folder in run.folders]
    paths = [*(run.folder / path for path in steps), *(file for one in folders for file in _weights_in(one))]
    named: dict[str, str] = {}
    for path in paths:
        place = path.relative_to(run.folder)
        after = f"after {steps[place]} steps, " if steps.get(place) else ""
        named[str(place)] = after + _printed(path)
    return named


def _weights_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def _printed(path: Path) -> str:
    """Size and fingerprint of a file's tensors: all that comes behind the header, whose length stands in 8 bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        file.seek(length, os.SEEK_CUR)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    size = max(0, path.stat().st_size - _LENGTH - length)
    return f"{size:,} bytes of weights ({digest.hexdigest()[:_SHORT]})"
