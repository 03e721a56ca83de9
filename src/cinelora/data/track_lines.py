"""Owns what the page of a dataset draws of a clip's tracks: short lines over the pictures of its strip.

In: a record with tracks, what is known of its media, when each picture was shown. Out: for each picture its lines, as
shares of width and height; each ends where its point is in that picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cinelora.contracts.flow import Record
from cinelora.data.tracks import check_tracks, places_at
from cinelora.media.probe import MediaFacts
from cinelora.media.track_file import TrackFile
from cinelora.nets.trajectories import motion

Line = tuple[tuple[float, float], ...]

MOST_DRAWN = 8
"""Tracks in the page, those that move most; a page of thousands of clips stays small."""
_PLACES = 4
"""How many places of a point make up its line, from one picture to the next."""


@dataclass(frozen=True)
class TrackLines:
    """How many tracks a clip has, and lines of the fastest ones in each picture."""

    count: int
    pictures: tuple[tuple[Line, ...], ...]


def track_lines(record: Record, facts: MediaFacts, times: Sequence[float]) -> TrackLines | None:
    """The lines of a record that has tracks, of pictures shown at `times`. Raises DataError as `check_tracks` does."""
    file = check_tracks(record, facts)
    if file is None:
        return None
    own = file.in_pixels(facts.width, facts.height)
    fastest = np.argsort(-motion(own, file.visible), kind="stable")
    chosen = fastest[file.visible[:, fastest].any(axis=0)][:MOST_DRAWN]
    ends = np.asarray(times, dtype=np.float64)
    starts = np.concatenate([ends[:1], ends[:-1]])
    pictures = []
    for number in range(len(ends)):
        points, seen = _places(file, record, facts, (number, len(ends)), (starts[number], ends[number]))
        shares = ((points[:, chosen] + 0.5) / [facts.width, facts.height]).round(4)
        pictures.append(tuple(_lines(shares, seen[:, chosen])))
    return TrackLines(file.points.shape[1], tuple(pictures))


def _places(
    file: TrackFile, record: Record, facts: MediaFacts, picture: tuple[int, int], span: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Points on the way to one picture of so many; of a pair's second picture, the whole way from the first."""
    if record.kind != "pair":
        return places_at(file, facts, np.linspace(*span, _PLACES))
    rows = np.linspace(0, len(file.points) - 1 if picture[0] else 0, _PLACES).round().astype(np.int64)
    return file.in_pixels(facts.width, facts.height)[rows], file.visible[rows]


def _lines(shares: NDArray[np.float64], seen: NDArray[np.bool_]) -> list[Line]:
    """The line of each point that is seen at its end, from where it was seen last without a gap."""
    lines = []
    for number in np.flatnonzero(seen[-1]):
        gaps = np.flatnonzero(~seen[:, number])
        first = int(gaps[-1]) + 1 if len(gaps) else 0
        lines.append(tuple((float(x), float(y)) for x, y in shares[first:, number]))
    return lines
