"""Owns what a fill has to do: which entries are wanted, which of them are there, and whose share they are.

In: slots and words, an `Encoding`, the folder of a cache. Out: one `TowerWork` per tower; no weight is read for it.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cinelora.base.errors import DataError, Problem, RecipeError
from cinelora.base.files import sha256_text
from cinelora.base.log import logger, track
from cinelora.base.workers import each
from cinelora.contracts.flow import Bucket, Record, Slot
from cinelora.data.encoding import Encoding
from cinelora.data.entries import MediaHashes, TowerFacts, entry_path, entry_shapes, read_entry

State = Literal["sound", "missing", "damaged"]
_SECONDS_PER_FILE = 3600.0
"""A file that cannot be read in an hour is given up."""


@dataclass(frozen=True)
class Share:
    """Part `number` (from 1) of `total` equal parts of the work.

    Who has what is decided by a hash, so that machines agree on it without talking, and no two make the same entry.
    """

    number: int = 1
    total: int = 1

    @classmethod
    def of(cls, text: str) -> "Share":
        """From words such as 2/4. Raises RecipeError where they are none."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        share = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= share.number <= share.total:
            allowed = "1/N to N/N, such as --share 2/4"
            raise RecipeError(Problem("--share is not one of several shares", found=text, allowed=allowed))
        return share

    def has(self, name: str) -> bool:
        """True where what is called `name` belongs to this share."""
        return self.total == 1 or int(sha256_text("share", name)[:8], 16) % self.total == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"


WHOLE = Share()


@dataclass
class TowerWork:
    """What one tower has to do: `wanted` are keys with the slots that share them, in the order of the slots.

    `problems` and `left_out` are those of slots whose key cannot be had, or that could not be encoded.
    """

    facts: TowerFacts
    wanted: dict[str, list[Slot]] = field(default_factory=dict)
    state: dict[str, State] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    left_out: list[tuple[Slot, str]] = field(default_factory=list)

    @property
    def to_make(self) -> list[str]:
        """Keys of the entries that are missing or damaged."""
        return [key for key, state in self.state.items() if state != "sound"]

    def note(self, slots: Sequence[Slot], problems: Sequence[Problem]) -> None:
        """Slots that cannot be encoded, and why."""
        self.problems += problems
        self.left_out += [(slot, problems[0].what) for slot in slots]

    def dealt(self, number: int, total: int) -> "TowerWork":
        """The `number`-th (from 0) of `total` equal hands of what is to be made, one slot for each key."""
        keys = self.to_make[number::total]
        wanted = {key: self.wanted[key][:1] for key in keys}
        return TowerWork(self.facts, wanted, {key: self.state[key] for key in keys})


def word_slots(words: Iterable[str]) -> list[Slot]:
    """Slots that have a caption and no clip, such as a preview's prompts."""
    return [
        Slot(Record(f"text/{k}", "text", "video", (), text, "text"), Bucket(0, 0, 0)) for k, text in enumerate(words)
    ]


def look(
    slots: Sequence[Slot], encoding: Encoding, folder: Path, *, media: MediaHashes, share: Share, verify: bool
) -> list[TowerWork]:
    """See which entries the slots want (those without media: of texts alone) and which are there.

    `verify` reads every entry and checks its sum; otherwise only headers and lengths are looked at. Raises
    WeightsError where an entry's shape is not the card's.
    """
    works = []
    for tower, facts in zip(encoding.towers, encoding.keys.towers, strict=True):
        work = _wanted(facts, slots, encoding, media=media, share=share)
        _look_up(work, folder, verify=verify)
        sound = next((key for key, state in work.state.items() if state == "sound"), "")
        if sound:
            encoding.check(tower, entry_shapes(entry_path(folder, sound)))
        works.append(work)
    return works


def _wanted(
    facts: TowerFacts, slots: Sequence[Slot], encoding: Encoding, *, media: MediaHashes, share: Share
) -> TowerWork:
    slots = [slot for slot in slots if facts.concerns(slot)]
    if facts.reads != "pixels":
        slots = [spoken for slot in slots for spoken in slot.spoken()]
    media_hash: Callable[[Record], str] = media.of
    if facts.reads != "caption":
        # By record, since a key is not known before the file is read: nobody reads what is not their own.
        slots = [slot for slot in slots if slot.record.media and share.has(slot.record.key)]
        media_hash = _hashes(facts.name, [slot.record for slot in slots], media)
    work = TowerWork(facts)
    for slot in slots:
        try:
            key = encoding.keys.of(slot, facts, media_hash)
        except DataError as error:
            work.note([slot], error.problems)
            continue
        if facts.reads != "caption" or share.has(key):
            work.wanted.setdefault(key, []).append(slot)
    return work


def _hashes(name: str, records: Sequence[Record], media: MediaHashes) -> Callable[[Record], str]:
    """Read media that are not known yet, several at a time; gives back what tells a record's hash or raises."""
    unique = {record.media: record for record in records}

    def read(record: Record) -> str | DataError:
        try:
            return media.of(record)
        except DataError as error:
            return error

    found = each(read, list(unique.values()), seconds=_SECONDS_PER_FILE)
    digests = dict(zip(unique, track(found, f"{name}: looking at sources", len(unique)), strict=True))

    def of(record: Record) -> str:
        digest = digests[record.media] if record.media in digests else media.of(record)
        if isinstance(digest, str):
            return digest
        if isinstance(digest, DataError):
            raise digest
        raise DataError(Problem(f"reading takes too long: {record.key}", found=str(digest), where=record.where))

    return of


def _look_up(work: TowerWork, folder: Path, *, verify: bool) -> None:
    keys = list(work.wanted)
    found = each(lambda key: damage_of(entry_path(folder, key), whole=verify), keys, seconds=_SECONDS_PER_FILE)
    label = f"{work.facts.name}: looking at the cache"
    for key, damage in zip(keys, track(found, label, len(keys)), strict=True):
        if damage is None:
            work.state[key] = "missing"
        elif damage:
            logger.warning("cache entry %s is damaged: %s; it is made again", entry_path(folder, key), damage)
            work.state[key] = "damaged"
        else:
            work.state[key] = "sound"


def damage_of(path: Path, *, whole: bool) -> str | None:
    """What is wrong with an entry: nothing (""), or None where there is none."""
    try:
        _ = read_entry(path) if whole else entry_shapes(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        return str(error)
    return ""
