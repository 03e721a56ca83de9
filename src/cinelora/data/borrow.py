"""Owns the filling of small buckets with clips of others (`small_buckets = "borrow"`).

In: a plan's slots and rows, how many clips a micro-batch holds. Out: further slots: clips that have a bucket of their
own, cut once more for a bucket whose last micro-batch would be smaller. Imports no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cinelora.base.seeds import seed_of
from cinelora.contracts.flow import Bucket, Slot
from cinelora.data.fate import Row
from cinelora.data.options import ClipRules


def borrowed(
    slots: Sequence[Slot], rows: Mapping[str, Row], rules: Mapping[str, ClipRules], *, micro_size: int, seed: int
) -> tuple[Slot, ...]:
    """The slots to add; `rows` by record key, `rules` by source.

    A clip is lent at most once to a bucket, to one with no more frames than its own, and only where it fills the size
    without being enlarged (unless its source allows that). Who lends is drawn by (seed, bucket, record). Where too few
    can, the bucket's last micro-batch stays smaller.
    """
    members: dict[Bucket, list[Slot]] = {}
    for slot in slots:
        members.setdefault(slot.bucket, []).append(slot)
    added: list[Slot] = []
    for bucket, own in sorted(members.items()):
        missing = -sum(slot.record.repeats for slot in own) % micro_size
        if not missing:
            continue
        there = {slot.record.key for slot in own}
        lenders = {slot.record.key: slot for slot in slots if _fits(slot, bucket, rows, rules)}
        chosen = sorted(lenders.keys() - there, key=lambda key: seed_of(seed, "borrow", str(bucket), key))
        added += [
            Slot(replace(lenders[key].record, repeats=1), bucket, lenders[key].variant) for key in chosen[:missing]
        ]
    return tuple(added)


def _fits(slot: Slot, bucket: Bucket, rows: Mapping[str, Row], rules: Mapping[str, ClipRules]) -> bool:
    """True where the slot's record can be cut for the bucket, too. References' own cuts are left as they are."""
    own, row = rules[slot.record.source], rows[slot.record.key]
    if own.compat != "none" or slot.record.kind == "pair" or bucket.frames > slot.bucket.frames:
        return False
    if (slot.record.kind == "image") != (bucket.frames == 1):
        return False
    return own.upscale or (row.height >= bucket.height and row.width >= bucket.width)
