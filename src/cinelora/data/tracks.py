"""Owns the tracks of records: from the file beside a clip to points on the clip's own pixels.

In: a slot whose record names a file of tracks, what is known of its media, how they were cut. Out: `Tracks`: rows of
the moments that the clip shows, resized and cropped like its frames; points that leave the picture are not visible.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cinelora.base.errors import DataError, Problem
from cinelora.contracts.flow import Record, Slot, Tracks
from cinelora.media.decode import Box
from cinelora.media.probe import MediaFacts
from cinelora.media.track_file import TrackFile, read_tracks

if TYPE_CHECKING:
    from cinelora.data.cut import Cut

_INSIDE = 0.5
"""Share of the visible points that lie in the picture where its size is understood."""
_ROUNDING = 1e-6


def tracks_of(slot: Slot, facts: "Sequence[MediaFacts]", cuts: "Sequence[Cut]") -> Tracks | None:
    """Where the points of a clip go, None where its record says nothing; `facts` and `cuts` of each of its files.

    The first row of a pair is its first picture's, the last row its last one's. Raises DataError as `check_tracks`.
    """
    record = slot.record
    file = check_tracks(record, facts[0])
    if file is None:
        return None
    parts = [
        _part(file, _rows(file, record, number, own, cut.times), own, cut.box, (slot.bucket.height, slot.bucket.width))
        for number, (own, cut) in enumerate(zip(facts, cuts, strict=True))
    ]
    return Tracks(np.concatenate([part.points for part in parts]), np.concatenate([part.visible for part in parts]))


def check_tracks(record: Record, facts: MediaFacts) -> TrackFile | None:
    """The tracks of a record whose media have `facts`; None where it has none.

    Raises DataError where they cannot be read, have another length, or are of a picture of another size.
    """
    if record.tracks is None:
        return None
    place = f"{record.tracks} (record {record.key})"
    try:
        file = read_tracks(record.tracks)
    except DataError as error:
        raise DataError(*(replace(problem, where=place) for problem in error.problems)) from error
    rows, pair = len(file.points), record.kind == "pair"
    if file.frames is None and file.fps is None and (rows < 2 if pair else rows != facts.frames):
        what = "the tracks are not as long as their clip"
        allowed = "2 rows or more" if pair else f"{facts.frames} rows, or `frames` or `fps` in the file"
        do = "track every frame, or say in the file which frame each row is of"
        raise DataError(Problem(what, found=f"{rows} rows", allowed=allowed, where=place, do=do))
    if file.frames is not None and not pair and file.frames[-1] >= facts.frames:
        what, do = "the tracks are of frames that their clip does not have", "take the file that is of this clip"
        found, allowed = f"frames up to {file.frames[-1]}", f"0 to {facts.frames - 1}"
        raise DataError(Problem(what, found=found, allowed=allowed, where=place, do=do))
    points = file.in_pixels(facts.width, facts.height)[file.visible]
    inside = ((points >= -0.5) & (points < [facts.width - 0.5, facts.height - 0.5])).all(axis=1)
    if len(points) and inside.mean() < _INSIDE:
        what = "most tracks lie outside of their clip"
        found = f"x from {points[:, 0].min():.6g} to {points[:, 0].max():.6g}, "
        found += f"y from {points[:, 1].min():.6g} to {points[:, 1].max():.6g}"
        allowed, do = f"{facts.width} x {facts.height}", "say in the file what `size` the points are pixels of"
        raise DataError(Problem(what, found=found, allowed=allowed, where=place, do=do))
    return file


def control_of(slot: Slot, facts: "Sequence[MediaFacts]", cuts: "Sequence[Cut]") -> Tracks | None:
    """All rows of a pair's tracks as control points K N 2 on the clip's pixels; None where its record has none.

    The last row is the last picture's, all others are cut like the first. Raises DataError as `check_tracks` does.
    """
    file = check_tracks(slot.record, facts[0])
    if file is None:
        return None
    size, rows = (slot.bucket.height, slot.bucket.width), np.arange(len(file.points), dtype=np.float64)
    ends = zip((rows[:-1], rows[-1:]), facts, cuts, strict=True)
    parts = [_part(file, own_rows, own, cut.box, size) for own_rows, own, cut in ends]
    return Tracks(np.concatenate([part.points for part in parts]), np.concatenate([part.visible for part in parts]))


def places_at(
    file: TrackFile, facts: MediaFacts, times: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Where points are at moments of a video: F N 2 in its pixels, and which are seen then, F N. For reports."""
    found = _at_rows(file, _rows_at(file, facts, times), facts)
    return found.points, found.visible


def _rows(
    file: TrackFile, record: Record, number: int, facts: MediaFacts, times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Which row (or place between two) each frame is at; of a pair's pictures the first and the last."""
    if record.kind == "pair":
        return np.full(len(times), 0.0 if number == 0 else len(file.points) - 1.0)
    return _rows_at(file, facts, times)


def _rows_at(file: TrackFile, facts: MediaFacts, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN where the file says nothing."""
    if file.fps is not None:
        rows = np.asarray(times, dtype=np.float64) * file.fps
        # The last row holds until the next one would come, as a frame does.
        late = rows > len(file.points) - 1
        return np.where(rows >= len(file.points), np.nan, np.where(late, len(file.points) - 1.0, rows))
    shown = facts.shown_at(times).astype(np.float64)
    if file.frames is None:
        return shown
    return np.interp(shown, file.frames, np.arange(len(file.frames)), left=np.nan, right=np.nan)


def _at_rows(file: TrackFile, rows: NDArray[np.float64], facts: MediaFacts) -> Tracks:
    """Points between rows on the straight line; visible where they are in both."""
    known = np.isfinite(rows)
    place = np.where(known, rows, 0.0)
    before = np.floor(place + _ROUNDING).astype(np.int64).clip(0, len(file.points) - 1)
    after = np.ceil(place - _ROUNDING).astype(np.int64).clip(0, len(file.points) - 1)
    share = (place - before).clip(0, 1)[:, None, None]
    points = file.in_pixels(facts.width, facts.height)
    visible = file.visible[before] & file.visible[after] & known[:, None]
    return Tracks(points[before] * (1 - share) + points[after] * share, visible)


def _part(file: TrackFile, rows: NDArray[np.float64], facts: MediaFacts, box: Box, size: tuple[int, int]) -> Tracks:
    """What the part `box` of a picture shows of its points once it is resized to `size` H, W.

    x' = (x + 1/2 - left) W' / (right - left) - 1/2: the centre of a pixel goes where its content goes.
    """
    found = _at_rows(file, rows, facts)
    left, top, right, bottom = box
    scale = np.array([size[1] / (right - left), size[0] / (bottom - top)])
    points = (found.points + 0.5 - np.array([left, top])) * scale - 0.5
    inside = (points >= -0.5).all(axis=2) & (points[..., 0] < size[1] - 0.5) & (points[..., 1] < size[0] - 0.5)
    return Tracks(np.where(inside[..., None], points, 0.0), found.visible & inside)
