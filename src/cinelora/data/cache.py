"""Owns the cache line: slots above it, Encoded below it, on disk: filling (`Cache`) and reading (`Shelf`).

In: slots and an `Encoding` (towers, how to load a clip, what is stored). Out: one safetensors entry per tower's result,
keyed by all that decides it, so that a new caption costs one text, a new crop costs latents only, and an interrupted
fill goes on where it stopped. In the folder lie `ab/abcdef....safetensors`, `manifest.jsonl` (what was made of what,
when, by whom), `journal.jsonl` (fills and their problems), `media.jsonl` (hashes of media).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from torch import Tensor

from cinelora.base.errors import DataError, Problem, RunError
from cinelora.contracts.flow import Encoded, Slot
from cinelora.data.cache_fill import Fill, FillReport, Maker, make
from cinelora.data.cache_plan import DiskPlan, plan_disk
from cinelora.data.cache_work import WHOLE, Share, TowerWork, look, word_slots
from cinelora.data.encoding import Encoding, encoded
from cinelora.data.entries import Keys, MediaHashes, entry_path, read_entry


@dataclass(frozen=True)
class Todo:
    """What some slots want of a cache, and the disk that it takes to make what is missing."""

    works: tuple[TowerWork, ...]
    disk: DiskPlan

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with slots whose entries cannot be named or made, each told once however many towers met it."""
        return list(dict.fromkeys(problem for work in self.works for problem in work.problems))

    @property
    def keys(self) -> frozenset[str]:
        """All entries that are wanted, there or not."""
        return frozenset(key for work in self.works for key in work.wanted)

    @property
    def num_to_make(self) -> int:
        """Entries that are missing or damaged."""
        return sum(len(work.to_make) for work in self.works)


class Cache:
    """A folder of entries that any number of runs share, also at the same time. Nothing is made before it is filled.

    `by` is who fills it, for the manifest.
    """

    def __init__(self, folder: Path, *, by: str = ""):
        self.folder, self.by = folder, by
        self.media = MediaHashes(folder / "media.jsonl")

    def path(self, key: str) -> Path:
        """Where the entry of a key lies."""
        return entry_path(self.folder, key)

    def shelf(self, keys: Keys) -> "Shelf":
        """The reading side, bound to what decides the keys."""
        return Shelf(self, keys)

    def look(self, slots: Sequence[Slot], encoding: Encoding, *, share: Share = WHOLE, verify: bool = False) -> Todo:
        """See what some slots want, what of it is there, and whether the rest fits on the disk.

        `verify` reads every entry that is there and checks its sum; otherwise only headers and lengths are looked at.
        Raises WeightsError where the encoder does not fit the card.
        """
        encoding.check_names()
        works = look(slots, encoding, self.folder, media=self.media, share=share, verify=verify)
        return Todo(tuple(works), plan_disk(works, encoding, self.folder))

    def make(
        self, todo: Todo, encoding: Encoding, *, on_bad: Literal["stop", "skip"] = "stop", maker: Maker | None = None
    ) -> FillReport:
        """Make what is missing, here or by another `maker`.

        Raises DataError with the clips that cannot be encoded (`on_bad` "stop"), once all others are; WeightsError
        where the encoder does not fit the card, RunError where the folder cannot be written to or the disk is small.
        """
        todo.disk.refuse()
        here = partial(make, encoding=encoding, folder=self.folder, by=self.by)
        report = Fill(todo.works, todo.disk, self.folder, self.by).run(maker or here)
        if on_bad == "stop" and todo.problems:
            raise DataError(*todo.problems)
        return report

    def fill(
        self,
        slots: Sequence[Slot],
        encoding: Encoding,
        *,
        verify: bool = True,
        on_bad: Literal["stop", "skip"] = "stop",
    ) -> FillReport:
        """`look`, then `make` here."""
        return self.make(self.look(slots, encoding, verify=verify), encoding, on_bad=on_bad)

    def captions(self, texts: Sequence[str], encoding: Encoding) -> list[dict[str, Tensor]]:
        """What the towers that read captions make of texts, from the cache or made now; no other tower is loaded."""
        slots = word_slots(texts)
        self.fill(slots, encoding)
        found: list[dict[str, Tensor]] = [{} for _ in texts]
        for facts in encoding.keys.towers:
            if facts.reads == "caption":
                for one, slot in zip(found, slots, strict=True):
                    one |= read_entry(self.path(encoding.keys.of(slot, facts, self.media.of)))
        return found


class Shelf:
    """Reads slots from a filled cache; no encoder is needed. Keys are worked out once per slot and then kept."""

    def __init__(self, cache: Cache, keys: Keys):
        self._cache, self._keys = cache, keys
        self._kept: dict[tuple[str, int], tuple[str, ...]] = {}

    def read(self, slot: Slot) -> Encoded:
        """The slot's Encoded, its checksums verified. Raises RunError where an entry is missing or damaged."""
        place = (slot.name, slot.caption_number)
        if place not in self._kept:
            towers = [tower for tower in self._keys.towers if tower.concerns(slot)]
            self._kept[place] = tuple(self._keys.of(slot, tower, self._cache.media.of) for tower in towers)
        tensors: dict[str, Tensor] = {}
        for key in self._kept[place]:
            tensors |= self._read(self._cache.path(key), slot)
        return encoded(tensors, self._keys.absent(slot))

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
