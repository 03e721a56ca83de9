"""Owns the verb `tracks`: files of tracks beside the clips of a folder.

In: a folder of videos, or of image pairs. Out: CLIP_tracks.npz (of a pair ID_tracks.npz) for each that has none yet. In
videos points are followed by optical flow or by CoTracker; in pairs they are found in both pictures by SIFT.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinelora.base.errors import DataError, Problem, Problems
from cinelora.base.log import console, progress
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.facts import measured
from cinelora.data.options import SourceOptions
from cinelora.data.readers import pairs
from cinelora.data.readers.folder import files_below
from cinelora.media.container import VIDEO_SUFFIXES
from cinelora.media.decode import pictures_at
from cinelora.media.follow import followed
from cinelora.media.image import read_image
from cinelora.media.probe import MediaFacts, is_image
from cinelora.media.sift import matches, opencv
from cinelora.media.track_file import TrackFile, write_tracks

_FOLLOWED_WIDTH = 512
"""CoTracker follows points at about this width; larger pictures are made smaller for it."""

Follow = Callable[[Record, MediaFacts], TrackFile]


@dataclass(frozen=True)
class TrackWishes:
    """How points are followed: `by` "flow" or "cotracker" with its `checkpoint`, from a grid of `side` points.

    Files get the `suffix` that [[data.source]] names as track_suffix; `again` writes those anew that are there.
    """

    by: str = "flow"
    suffix: str = "_tracks"
    side: int = 16
    checkpoint: Path | None = None
    device: str = ""
    again: bool = False


def tracks(folder: Path, *, wishes: TrackWishes) -> None:
    """Write the files that are missing. Raises DataError with all clips that cannot be read, RunError."""
    if not wishes.suffix or "/" in wishes.suffix:
        raise DataError(Problem("files of tracks need an ending of their own", found=repr(wishes.suffix)))
    todo = list(_todo(folder, wishes))
    if not todo:
        raise DataError(Problem("no videos and no image pairs in it", where=str(folder), do="name a folder of clips"))
    missing = [(record, path) for record, path in todo if wishes.again or not path.exists()]
    follow = _follow(wishes) if any(record.kind == "video" for record, _ in missing) else None
    problems = Problems(DataError)
    with progress("following points", len(missing)) as advance:
        for record, path in missing:
            try:
                found = (
                    _of_pair(record) if follow is None or record.kind == "pair" else follow(record, measured(record))
                )
                write_tracks(path, found)
            except DataError as error:
                problems.found += error.problems
            advance()
    console.print(f"tracks: {len(missing) - len(problems.found)} files made, {len(todo) - len(missing)} found")
    problems.raise_if_any()


def _todo(folder: Path, wishes: TrackWishes) -> Iterator[tuple[Record, Path]]:
    """Every pair, or else every video, and where its tracks are to lie."""
    if not folder.is_dir():
        raise DataError(Problem("no such folder", found=str(folder)))
    if pairs.recognises(folder):
        for record in pairs_of(folder):
            yield record, record.media[0].with_name(Path(record.key).name + wishes.suffix + ".npz")
        return
    for file in sorted(files_below(folder)):
        if file.suffix.lower() in VIDEO_SUFFIXES and not is_image(file):
            inside = file.relative_to(folder).as_posix()
            record = Record(inside, "", "video", (file,), "", str(file))
            yield record, file.with_name(file.stem + wishes.suffix + ".npz")


def pairs_of(folder: Path, *, track_suffix: str = "") -> list[Record]:
    """The image pairs of a folder. Raises DataError with every half that has no partner."""
    source = SourceOptions(path=str(folder), reader="pairs", empty_caption="allow", track_suffix=track_suffix)
    entries = list(pairs.PairsReader(folder, "pairs", source).read())
    problems = [problem for entry in entries if isinstance(entry, LeftOut) for problem in entry.problems]
    if problems:
        raise DataError(*problems)
    return [entry for entry in entries if isinstance(entry, Record)]


def _of_pair(record: Record) -> TrackFile:
    """Points that both pictures have; where their sizes differ, the last one's are told in pixels of the first."""
    first, last = (read_image(path) for path in record.media)
    found = matches(first, last)
    scale = np.array([first.shape[1] / last.shape[1], first.shape[0] / last.shape[0]])
    points = np.stack([found.first, (found.last + 0.5) * scale - 0.5])
    size = float(first.shape[1]), float(first.shape[0])
    return TrackFile(points, np.ones(points.shape[:2], dtype=np.bool_), size=size)


def _follow(wishes: TrackWishes) -> Follow:
    """How the points of a video are followed; what is missing for it is told before any is decoded."""
    if wishes.by == "flow":
        opencv()
        return lambda record, facts: followed(_pictures(record, facts), side=wishes.side)
    if wishes.by != "cotracker":
        raise DataError(Problem("no such way to follow points", found=wishes.by, allowed="flow, cotracker"))
    return _by_cotracker(wishes)


def _by_cotracker(wishes: TrackWishes) -> Follow:
    import torch

    from cinelora.nets.cotracker import cotracked, open_cotracker

    device = wishes.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = open_cotracker(wishes.checkpoint or Path("scaled_offline.pth"), device)

    def follow(record: Record, facts: MediaFacts) -> TrackFile:
        shown = list(_pictures(record, facts, scale=min(1.0, _FOLLOWED_WIDTH / facts.width)))
        found = cotracked(model, shown, side=wishes.side, device=device)
        return TrackFile(found.points, found.visible, size=(float(shown[0].shape[1]), float(shown[0].shape[0])))

    return follow


def _pictures(record: Record, facts: MediaFacts, *, scale: float = 1.0) -> Iterator[NDArray[np.uint8]]:
    """Every frame of a video in turn, upright, at `scale` of its shown size."""
    size = round(facts.width * scale), round(facts.height * scale)
    for places, picture in pictures_at(record.media[0], facts.times, facts=facts):
        fitted = picture if picture.shape[1::-1] == size else _resized(picture, size)
        yield from (fitted for _ in places)


def _resized(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    from PIL import Image

    image: Any = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))
