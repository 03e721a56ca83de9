"""Owns the order in which numbered items are visited, and the gathering of visited items into groups of one key.

In: how many items there are, seed, epoch; items with their keys as they come. Out: a list of numbers; whole groups.
The rule is that of EasyAnimate's samplers, so that an order of theirs can be had again.
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


def visit_order(count: int, seed: int, epoch: int, start: int = 0) -> list[int]:
    """The numbers 0 ... count - 1 in the order of `epoch`, from place `start` on.

    A permutation by torch's generator with the seed `seed + epoch`. A `start` at or beyond the end is taken for one
    that was reached in another epoch: the whole order comes.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
    return order[start:] if 0 < start < count else order


class Grouped(Generic[Key, Item]):
    """Items in, whole groups of `size` items of one key out; what is left over waits for more of its key."""

    def __init__(self, size: int):
        if size < 1:
            raise ValueError(f"a group has at least 1 item, not {size}")
        self.size = size
        self._waiting: dict[Key, list[Item]] = {}

    def add(self, key: Key, item: Item) -> list[Item] | None:
        """Take an item; the group that it makes whole, in the order in which its items came, or None."""
        group = self._waiting.setdefault(key, [])
        group.append(item)
        return self._waiting.pop(key) if len(group) == self.size else None

    @property
    def num_waiting(self) -> int:
        """How many items are left over so far."""
        return sum(map(len, self._waiting.values()))

    def take_rest(self) -> list[list[Item]]:
        """All left-overs as groups smaller than `size`, the key that has waited longest first; none wait afterwards."""
        rest = list(self._waiting.values())
        self._waiting = {}
        return rest
