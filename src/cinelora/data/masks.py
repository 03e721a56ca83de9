"""Owns the loss masks of records: from a picture or video beside the clip to a mask on the clip's pixels.

In: a slot whose record names a mask, how its clip was cut. Out: F H W in [0, 1], cut the same way; the loss counts in
full where the mask is white, not at all where it is black. Imports no torch before a mask is read.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cinelora.base.errors import DataError, Problem
from cinelora.contracts.flow import Bucket, Record, Slot
from cinelora.media.decode import Box, frames_at
from cinelora.media.probe import MediaFacts, probe

if TYPE_CHECKING:
    from torch import Tensor

Times = Sequence[float] | NDArray[np.float64]

_BLACK = 8
"""Levels of 255 up to which a mask is black all the same: lossy codecs do not keep black quite black, and a little of
the loss all over a picture would outweigh a small white spot."""
_LUMA = np.array([19595, 38470, 7471], dtype=np.uint32)
"""Shares of red, green and blue in a grey value (ITU-R BT.601), of 65536; equal colours keep their level exactly."""


def mask_of(slot: Slot, times: Times, *, facts: MediaFacts, box: Box) -> "Tensor | None":
    """The mask F H W in [0, 1] of a clip that shows `times` and `box` of a source with `facts`; None where it has none.

    A picture holds for all frames; a video is shown at the same times, whatever its own rate; bars around the picture
    (a box that reaches beyond it) do not count. Raises DataError for masks that cannot be read, do not fit the source
    (`check_mask`) or are black where the clip is.
    """
    record, bucket = slot.record, slot.bucket
    own = check_mask(record, facts)
    if own is None or record.mask is None:
        return None
    _refuse_short(record, own, times)
    across, down = own.width / facts.width, own.height / facts.height
    inner, rows, columns = _inside(box, facts, bucket)
    scaled = (inner[0] * across, inner[1] * down, inner[2] * across, inner[3] * down)
    shown = np.zeros(len(times)) if own.kind == "image" else times
    size = (rows.stop - rows.start, columns.stop - columns.start)
    try:
        frames = frames_at(record.mask, shown, facts=own, size=size, box=scaled)
    except DataError as error:
        raise _named(error, record) from error
    levels = np.zeros((len(times), bucket.height, bucket.width), dtype=np.uint8)
    for level, frame in zip(levels, frames, strict=True):
        level[rows, columns] = _grey(frame)
    if levels.max() <= _BLACK:
        found = f"no level above {levels.max()} of 255 in the part that {slot.name} shows"
        do = "paint white what is to be learned, use another part of the clip, or remove the mask and its clip"
        what = "the mask leaves nothing to learn"
        raise DataError(Problem(what, found=found, where=_place(record), do=do))
    levels[levels <= _BLACK] = 0
    import torch

    return torch.from_numpy(levels).to(torch.float32).div_(255.0)


def _inside(box: Box, facts: MediaFacts, bucket: Bucket) -> tuple[Box, slice, slice]:
    """The part of a box that lies in the picture, and which rows and columns of the bucket it fills."""
    left, top, right, bottom = box
    inner = (max(0.0, left), max(0.0, top), min(float(facts.width), right), min(float(facts.height), bottom))
    rows = slice(*(round((edge - top) / (bottom - top) * bucket.height) for edge in (inner[1], inner[3])))
    columns = slice(*(round((edge - left) / (right - left) * bucket.width) for edge in (inner[0], inner[2])))
    return inner, rows, columns


def _grey(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """H W 3 to grey values H W; frame by frame, as whole numbers of 32 bits take four times the memory."""
    return ((picture @ _LUMA + 0x8000) >> 16).astype(np.uint8)


def check_mask(record: Record, facts: MediaFacts) -> MediaFacts | None:
    """Measure the mask of a record whose media have `facts`; None where it has none.

    Raises DataError where it cannot be read, or has other proportions than the media (by more than a pixel of its own).
    """
    if record.mask is None:
        return None
    try:
        own = probe(record.mask)
    except DataError as error:
        raise _named(error, record) from error
    aspect = facts.width / facts.height
    if min(abs(own.width - own.height * aspect), abs(own.height - own.width / aspect)) > 1:
        raise DataError(
            Problem(
                "the mask has other proportions than its clip",
                found=f"mask {own.width} x {own.height}, clip {facts.width} x {facts.height}",
                allowed=f"{facts.width} x {facts.height}, or the same made smaller or larger",
                where=_place(record),
                do="make the mask of the whole picture of the clip",
            )
        )
    return own


def _refuse_short(record: Record, own: MediaFacts, times: Times) -> None:
    """Raise DataError where a mask video is over while its clip goes on; a frame more or less is rounding."""
    last = float(max(times))
    if own.kind == "video" and last >= own.seconds + 1 / (own.fps or 1):
        raise DataError(
            Problem(
                "the mask is shorter than its clip",
                found=f"mask of {own.seconds:.2f} s, the clip shows a frame at {last:.2f} s",
                where=_place(record),
                do="make the mask as long as the clip, or a picture, which holds for all frames",
            )
        )


def _named(error: DataError, record: Record) -> DataError:
    """The same problems, said of the record's mask."""
    told = [replace(p, what=f"the mask cannot be used: {p.what}", where=_place(record)) for p in error.problems]
    return DataError(*told)


def _place(record: Record) -> str:
    return f"{record.mask} (record {record.key})"
