"""Owns the cache line: slots above it, Encoded below it, on disk: filling (`Cache`) and reading (`Shelf`).

In: slots and an `Encoding` (towers, how to load a clip, what is stored). Out: one safetensors entry per tower's result,
keyed by all that decides it, so that a new caption costs one text, a new crop costs latents only, and an interrupted
`fill` goes on where it stopped. Layout of the folder: `ab/abcdef....safetensors`, `manifest.jsonl`, `media.jsonl`.
"""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from cinelora.base.errors import DataError, Problem, Problems, RunError
from cinelora.base.log import logger, progress, track
from cinelora.contracts.flow import Bucket, Encoded, Record, Slot
from cinelora.contracts.roles import Tower
from cinelora.data.encoding import Encoding, encoded
from cinelora.data.entries import (
    Keys,
    MediaHashes,
    TowerFacts,
    append_line,
    entry_shapes,
    read_entry,
    read_lines,
    write_entry,
)

_ENOUGH_PROBLEMS = 10
"""After so many clips that cannot be encoded a fill stops: the fault is then not in single clips."""


@dataclass(frozen=True)
class FillReport:
    """What a fill did, in entries; `left_out` are slots that could not be encoded, with the reason (on_bad skip)."""

    made: int = 0
    found: int = 0
    rebuilt: int = 0
    bytes: int = 0
    left_out: tuple[tuple[Slot, str], ...] = ()

    def __add__(self, other: "FillReport") -> "FillReport":
        return FillReport(
            self.made + other.made,
            self.found + other.found,
            self.rebuilt + other.rebuilt,
            self.bytes + other.bytes,
            self.left_out + other.left_out,
        )


class Cache:
    """A folder of entries that any number of runs share, also at the same time. Nothing is made before it is filled."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.media = MediaHashes(folder / "media.jsonl")

    def path(self, key: str) -> Path:
        """Where the entry of a key lies."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def shelf(self, keys: Keys) -> "Shelf":
        """The reading side, bound to what decides the keys."""
        return Shelf(self, keys)

    def fill(
        self,
        slots: Sequence[Slot],
        encoding: Encoding,
        *,
        verify: bool = True,
        on_bad: Literal["stop", "skip"] = "stop",
    ) -> FillReport:
        """Make what is missing, one tower in memory at a time, one clip in memory at a time.

        `verify` reads every entry that is there and checks its sum; otherwise only headers and lengths are looked at.
        Raises DataError with the clips that cannot be encoded (`on_bad` "stop"), WeightsError where the encoder does
        not fit the card, RunError where the disk is full.
        """
        encoding.check_names()
        report = FillReport()
        for tower, facts in zip(encoding.encoder.towers(), encoding.keys.towers, strict=True):
            work = _TowerFill(self, encoding, tower, facts)
            report += work.run(slots, verify=verify, on_bad=on_bad)
        return report

    def captions(self, texts: Sequence[str], encoding: Encoding) -> list[dict[str, Tensor]]:
        """What the towers that read captions make of texts, from the cache or made now; no other tower is loaded."""
        slots = [
            Slot(Record(f"text/{k}", "text", "video", (), text, "text"), Bucket(0, 0, 0))
            for k, text in enumerate(texts)
        ]
        found: list[dict[str, Tensor]] = [{} for _ in texts]
        for tower, facts in zip(encoding.encoder.towers(), encoding.keys.towers, strict=True):
            if facts.reads != "caption":
                continue
            _TowerFill(self, encoding, tower, facts).run(slots, verify=True, on_bad="stop")
            for one, slot in zip(found, slots, strict=True):
                one |= read_entry(self.path(encoding.keys.of(slot, facts, self.media.of)))
        return found

    def damaged(self) -> list[Path]:
        """Every entry in the folder whose file is torn or whose sum is wrong."""
        entries = sorted(p for p in self.folder.glob("*/*.safetensors") if re.fullmatch(r"[0-9a-f]{64}", p.stem))
        return [path for path in track(entries, "checking the cache", len(entries)) if _damage(path, whole=True)]

    def listing(self) -> list[dict[str, object]]:
        """The manifest's lines of entries that are still there, the latest of each key: what each was made of."""
        lines = {str(line.get("key")): line for line in read_lines(self.folder / "manifest.jsonl")}
        return [line for key, line in lines.items() if self.path(key).exists()]


def _damage(path: Path, *, whole: bool) -> str:
    """What is wrong with an entry that is there; empty where it is sound."""
    try:
        _ = read_entry(path) if whole else entry_shapes(path)
    except ValueError as error:
        return str(error)
    return ""


@dataclass
class _TowerFill:
    """One tower's pass over the slots."""

    cache: Cache
    encoding: Encoding
    tower: Tower
    facts: TowerFacts
    problems: Problems = field(default_factory=lambda: Problems(DataError))
    left_out: list[tuple[Slot, str]] = field(default_factory=list)
    checked: bool = False

    def run(self, slots: Sequence[Slot], *, verify: bool, on_bad: str) -> FillReport:
        """Look at what is there, encode the rest. Raises as `Cache.fill` does."""
        wanted = self._wanted(slots)
        state = self._look(wanted, verify=verify)
        to_make = [key for key, found in state.items() if found != "sound"]
        written = self._make(wanted, to_make) if to_make else {}
        if on_bad == "stop":
            self.problems.raise_if_any()
        rebuilt = sum(state[key] == "damaged" for key in written)
        found = len(wanted) - len(to_make)
        return FillReport(len(written) - rebuilt, found, rebuilt, sum(written.values()), tuple(self.left_out))

    def _wanted(self, slots: Sequence[Slot]) -> dict[str, list[Slot]]:
        """Keys in the order of the slots, each with the slots that share it."""
        wanted: dict[str, list[Slot]] = {}
        label = f"{self.facts.name}: looking at sources"
        for slot in track(slots, label, len(slots)):
            try:
                key = self.encoding.keys.of(slot, self.facts, self.cache.media.of)
            except DataError as error:
                self._note([slot], error)
            else:
                wanted.setdefault(key, []).append(slot)
        return wanted

    def _look(self, wanted: Mapping[str, list[Slot]], *, verify: bool) -> dict[str, str]:
        state = {}
        for key in track(wanted, f"{self.facts.name}: looking at the cache", len(wanted)):
            path = self.cache.path(key)
            if not path.exists():
                state[key] = "missing"
            elif damage := _damage(path, whole=verify):
                logger.warning("cache entry %s is damaged: %s; it is made again", path, damage)
                state[key] = "damaged"
            else:
                state[key] = "sound"
                if not self.checked:
                    self._check(entry_shapes(path))
        return state

    def _make(self, wanted: Mapping[str, list[Slot]], to_make: Sequence[str]) -> dict[str, int]:
        """Encode and store; gives back the bytes of each entry."""
        written: dict[str, int] = {}
        failed = Problems(DataError)
        try:
            self.tower.load(self.encoding.device)
            with progress(f"encoding {self.facts.name}", len(wanted), done=len(wanted) - len(to_make)) as advance:
                for key in to_make:
                    try:
                        written[key] = self._one(key, wanted[key][0])
                    except DataError as error:
                        failed.found += error.problems
                        self._note(wanted[key], error)
                    if not written and len(failed.found) >= _ENOUGH_PROBLEMS:
                        failed.raise_if_any()
                    advance()
        finally:
            self.tower.unload()
        return written

    def _one(self, key: str, slot: Slot) -> int:
        tensors = self.encoding.run(self.tower, self.encoding.clip_for(self.tower, slot))
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self._check(shapes)
        source = {"caption": slot.record.caption[:200]} if self.facts.reads == "caption" else {"slot": slot.name}
        facts = {"tower": self.facts.name, **source, "dtype": self.encoding.dtype}
        size = write_entry(self.cache.path(key), tensors, facts)
        line = {"key": key, **facts, "shapes": shapes, "bytes": size, "time": round(time.time(), 3)}
        append_line(self.cache.folder / "manifest.jsonl", line)
        return size

    def _check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        if not self.checked:
            self.encoding.check(self.tower, shapes)
            self.checked = True

    def _note(self, slots: Sequence[Slot], error: DataError) -> None:
        self.problems.found += error.problems
        self.left_out += [(slot, error.problems[0].what) for slot in slots]


class Shelf:
    """Reads slots from a filled cache; no encoder is needed. Keys are worked out once per slot and then kept."""

    def __init__(self, cache: Cache, keys: Keys):
        self._cache, self._keys = cache, keys
        self._paths: dict[str, list[Path]] = {}

    def read(self, slot: Slot) -> Encoded:
        """The slot's Encoded, its checksums verified. Raises RunError where an entry is missing or damaged."""
        if slot.name not in self._paths:
            keys = [self._keys.of(slot, tower, self._cache.media.of) for tower in self._keys.towers]
            self._paths[slot.name] = [self._cache.path(key) for key in keys]
        tensors: dict[str, Tensor] = {}
        for path in self._paths[slot.name]:
            tensors |= self._read(path, slot)
        return encoded(tensors)

    def _read(self, path: Path, slot: Slot) -> dict[str, Tensor]:
        try:
            return read_entry(path)
        except FileNotFoundError:
            raise RunError(
                Problem(
                    f"not in the cache: {slot.name}", found=f"no {path}", do="run `cinelora cache` with this recipe"
                )
            ) from None
        except ValueError as error:
            # Out of the way, so that the next fill makes it again even if it looks at headers only.
            path.unlink(missing_ok=True)
            what = f"a cache entry was damaged and is now removed: {slot.name}"
            do = "start again (with --resume): the entry is made again first"
            raise RunError(Problem(what, found=str(error), where=str(path), do=do)) from error
