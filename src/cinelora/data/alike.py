"""Owns the finding of clips that stand in a dataset twice: equal bytes, or the same pictures encoded anew.

In: paths, small pictures. Out: for each clip the earlier one that it repeats. A picture's print is a 64-bit difference
hash (each bit: is a cell brighter than its left neighbour, on a grid of 8 x 9 cells) and the cells' colours; the hash
finds candidates quickly, the colours decide. Copies cut to another length or crop are not found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cinelora.base.files import sha256_file
from cinelora.base.workers import each

_GRID = (9, 8)
_BRIGHTER = 1
"""Levels that count as brighter: flat ground must not hash its noise."""
MOST_BITS = 10.0
"""Mean number of bits in which pictures of one clip and its copy differ: copies at a quarter of the size and 1 % of the
bytes stay below 7, different clips lie above 20."""
MOST_COLOUR = 6.0
"""Root mean square difference of the cells' colours (of 255): the same copies stay below 4.5, two halves of one calm
scene lie above 8, different clips above 80."""


@dataclass(frozen=True, eq=False)
class Print:
    """What a clip is told by: hashes F uint64 of its pictures, those of their mirror images, colours F 8 9 3."""

    hashes: NDArray[np.uint64]
    mirrored: NDArray[np.uint64]
    colours: NDArray[np.uint8]


@dataclass(frozen=True)
class Likeness:
    """`first` is the number of the clip that this one looks like; `bits` how many of 64 differ on average."""

    first: int
    bits: float
    mirrored: bool


def print_of(pictures: Sequence[NDArray[np.uint8]]) -> Print:
    """The print of pictures H W 3."""
    cells = [np.asarray(Image.fromarray(p).resize(_GRID, Image.Resampling.BOX)) for p in pictures]
    colours = np.stack(cells) if cells else np.zeros((0, *_GRID[::-1], 3), np.uint8)
    return Print(difference_hash(colours), difference_hash(colours[:, :, ::-1]), colours)


def difference_hash(colours: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Cells F 8 9 3 -> F numbers of 64 bits, row after row."""
    grey = colours.astype(np.float64).mean(axis=-1)
    bits = grey[:, :, 1:] - grey[:, :, :-1] > _BRIGHTER
    packed = np.packbits(bits.reshape(len(bits), 64), axis=1)
    return packed.view(">u8")[:, 0].astype(np.uint64)


def look_alikes(prints: Sequence[Print | None]) -> list[Likeness | None]:
    """For each clip the first one that it looks like, upright or mirrored; None for those like no earlier one.

    A clip is compared with those that are like no earlier one, so groups have one head each.
    """
    found: list[Likeness | None] = [None] * len(prints)
    heads: dict[int, _Heads] = {}
    for number, one in enumerate(prints):
        if one is None or not len(one.hashes):
            continue
        known = heads.setdefault(len(one.hashes), _Heads(len(one.hashes)))
        found[number] = known.like(one, prints)
        if found[number] is None:
            known.add(number, one)
    return found


class _Heads:
    """Hashes of the clips that are like no earlier one, in one array that grows by doubling."""

    def __init__(self, num_pictures: int):
        self.hashes = np.zeros((64, num_pictures), np.uint64)
        self.numbers: list[int] = []

    def add(self, number: int, one: Print) -> None:
        """Remember a clip."""
        if len(self.numbers) == len(self.hashes):
            self.hashes = np.concatenate([self.hashes, np.zeros_like(self.hashes)])
        self.hashes[len(self.numbers)] = one.hashes
        self.numbers.append(number)

    def like(self, one: Print, prints: Sequence[Print | None]) -> Likeness | None:
        """The nearest remembered clip, if it is near enough."""
        known = self.hashes[: len(self.numbers)]
        for hashes, mirrored in ((one.hashes, False), (one.mirrored, True)):
            bits = np.bitwise_count(known ^ hashes).mean(axis=1)
            for place in np.flatnonzero(bits <= MOST_BITS)[np.argsort(bits[bits <= MOST_BITS], kind="stable")]:
                head = prints[self.numbers[place]]
                if head is not None and _colour_distance(one, head, mirrored=mirrored) <= MOST_COLOUR:
                    return Likeness(self.numbers[place], float(bits[place]), mirrored)
        return None


def _colour_distance(one: Print, other: Print, *, mirrored: bool) -> float:
    theirs = other.colours[:, :, ::-1] if mirrored else other.colours
    return float(np.sqrt(((one.colours.astype(np.float64) - theirs) ** 2).mean()))


_Place = tuple[tuple[int, int], ...]
"""Device and inode of each of an entry's files: what links to one file have in common."""


def equal_files(files: Sequence[tuple[Path, ...]], *, seconds: float) -> list[int | None]:
    """For each entry the first one whose files have the same bytes.

    Only files of equal size are read, and links to one file are read once or not at all. An entry that is missing,
    empty or unreadable, or takes longer than `seconds` to read, is like none but itself under another name.
    """
    sizes: dict[tuple[int, ...], dict[_Place, int]] = {}
    places: list[_Place] = []
    for number, media in enumerate(files):
        found = [path.stat() for path in media if path.is_file()]
        size = tuple(status.st_size for status in found)
        whole = size and len(size) == len(media) and all(size)
        places.append(tuple((status.st_dev, status.st_ino) for status in found) if whole else ())
        if whole:
            sizes.setdefault(size, {}).setdefault(places[-1], number)
    asked = sorted(number for group in sizes.values() if len(group) > 1 for number in group.values())
    digests: dict[_Place, tuple[str, ...]] = {}
    for number, digest in zip(asked, each(lambda k: _hash_of(files[k]), asked, seconds=seconds), strict=True):
        if digest and not isinstance(digest, TimeoutError):
            digests[places[number]] = digest
    first: dict[object, int] = {}
    return [_earlier(first, digests.get(place, place), number) for number, place in enumerate(places)]


def _earlier(first: dict[object, int], name: object, number: int) -> int | None:
    """The number that came first under this name, unless it is this one or the name is empty."""
    known = first.setdefault(name, number) if name else number
    return known if known != number else None


def _hash_of(media: Sequence[Path]) -> tuple[str, ...]:
    """The hashes of an entry's files; empty where one cannot be read, which whoever decodes it will say."""
    try:
        return tuple(map(sha256_file, media))
    except OSError:
        return ()
