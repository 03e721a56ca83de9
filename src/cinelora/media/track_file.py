"""Owns files of tracks: where points of a clip go, as a tracker or a person wrote it down. Reading and writing.

In: .npz or .json with these names (in brackets: also understood).

    tracks [pred_tracks]                     T N 2: x and y of N points in T rows (1 T N 2 as CoTracker saves it)
    visible [visibility, pred_visibility]    T N: true or false, or a share of which 0.9 is visible; left out = all are
    size                                     [width, height] that x and y are pixels of; left out = the clip's own
    normalised                               true: x and y are shares of width and height instead
    frames                                   T: the number of the clip's frame (from 0) that each row is of
    fps                                      rows a second, the first at the clip's beginning

Without `frames` and `fps` there is one row for every frame of the clip. Pixels are counted from 0 at their centres.
Out: `TrackFile`.
"""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cinelora.base.errors import DataError, Problem, nearest
from cinelora.base.files import write_bytes

TRACK_SUFFIXES = (".npz", ".json")
_NAMES = {
    "tracks": ("tracks", "pred_tracks"),
    "visible": ("visible", "visibility", "pred_visibility"),
    "size": ("size",),
    "normalised": ("normalised", "normalized"),
    "frames": ("frames",),
    "fps": ("fps",),
}
_KNOWN = tuple(name for names in _NAMES.values() for name in names)
_SEEN = 0.9
"""From which share on a point counts as visible, where a tracker gives shares."""
_REMEMBERED = 16
_SAVE = "save it anew; docs/guides/framer.md shows how"


@dataclass(frozen=True, eq=False)
class TrackFile:
    """What one file says: `points` T N 2 and `visible` T N.

    `size` is the width and height that points are pixels of (None: the clip's own), `normalised` that they are shares.
    `frames` T are numbers of the clip's frames, `fps` rows a second; with neither, rows are the clip's frames in turn.
    """

    points: NDArray[np.float64]
    visible: NDArray[np.bool_]
    size: tuple[float, float] | None = None
    normalised: bool = False
    frames: NDArray[np.int64] | None = None
    fps: float | None = None

    def in_pixels(self, width: int, height: int) -> NDArray[np.float64]:
        """Points T N 2 in pixels of a clip of this size."""
        own = np.array([width, height], dtype=np.float64)
        if self.normalised:
            return self.points * own - 0.5
        return self.points if self.size is None else (self.points + 0.5) * (own / np.array(self.size)) - 0.5


def read_tracks(path: Path) -> TrackFile:
    """One file. Raises DataError with all that is wrong with it; unchanged files are not read again."""
    try:
        status = path.stat()
    except OSError as error:
        raise _unusable(path, "cannot be read", str(error.strerror)) from error
    return _remembered(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=_REMEMBERED)
def _remembered(path: Path, num_bytes: int, changed_ns: int) -> TrackFile:
    said = _named(path, _values(path))
    problems: list[str] = []
    points = _points(said, problems)
    visible = _visible(said, points, problems)
    made = TrackFile(
        np.where(visible[..., None], points, 0.0),
        visible,
        _size(said, problems),
        _normalised(said, problems),
        _frames(said, len(points), problems),
        _fps(said, problems),
    )
    if made.normalised and made.size:
        problems.append("size and normalised exclude each other")
    if made.frames is not None and made.fps is not None:
        problems.append("frames and fps exclude each other")
    if visible.any() and not np.isfinite(points[visible]).all():
        problems.append("places of visible points are not finite")
    if problems:
        raise DataError(*(Problem(f"the tracks cannot be used: {one}", where=str(path), do=_SAVE) for one in problems))
    return made


def write_tracks(path: Path, tracks: TrackFile) -> None:
    """Write an .npz whole or not at all. Raises RunError where the disk is full or read-only."""
    values: dict[str, Any] = {"tracks": tracks.points.astype(np.float32), "visible": tracks.visible}
    optional = {"size": tracks.size, "frames": tracks.frames, "fps": tracks.fps}
    values |= {name: np.asarray(value) for name, value in optional.items() if value is not None}
    if tracks.normalised:
        values["normalised"] = np.asarray(True)
    file = io.BytesIO()
    np.savez_compressed(file, **values)
    write_bytes(path, file.getvalue())


def _values(path: Path) -> Mapping[str, Any]:
    """The file's values by the names that it gives them."""
    try:
        if path.suffix.lower() == ".json":
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise _unusable(path, "is not a JSON object", type(values).__name__)
            return values
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, Mapping):
            raise _unusable(path, "is no .npz", "a single array")
        with archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, RecursionError, zipfile.BadZipFile) as error:
        raise _unusable(path, "cannot be read", str(error) or type(error).__name__) from error


def _named(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by our names. Raises DataError for unknown ones, those given twice, and a file without tracks."""
    unknown = [name for name in values if name not in _KNOWN]
    if unknown:
        near = ", ".join(filter(None, (nearest(name, _KNOWN, count=1) for name in unknown)))
        what, allowed = "the file of tracks has names that nothing reads", ", ".join(_NAMES)
        raise DataError(
            Problem(what, found=", ".join(unknown), allowed=allowed, nearest=near, where=str(path), do=_SAVE)
        )
    found: dict[str, Any] = {}
    for name, spellings in _NAMES.items():
        given = [spelling for spelling in spellings if values.get(spelling) is not None]
        if len(given) > 1:
            raise _unusable(path, f"says {name} twice", ", ".join(given))
        if given:
            found[name] = values[given[0]]
    if "tracks" not in found:
        raise _unusable(path, "has no tracks in it", ", ".join(values) or "nothing")
    return found


def _numbers(value: Any) -> NDArray[np.float64] | None:
    """An array of numbers, or None where it is none."""
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def _points(said: Mapping[str, Any], problems: list[str]) -> NDArray[np.float64]:
    points = _numbers(said["tracks"])
    if points is not None and points.ndim == 4 and len(points) == 1:
        points = points[0]
    if points is None or points.ndim != 3 or points.shape[2] != 2 or not len(points):
        shape = "no numbers" if points is None else f"shape {points.shape}"
        problems.append(f"tracks T N 2 are wanted, and these have {shape}")
        return np.zeros((1, 0, 2))
    return points


def _visible(said: Mapping[str, Any], points: NDArray[np.float64], problems: list[str]) -> NDArray[np.bool_]:
    if "visible" not in said:
        return np.isfinite(points).all(axis=2)
    shares = _numbers(said["visible"])
    sizes = [[size for size in shape if size > 1] for shape in (np.shape(shares), points.shape[:2])]
    if shares is not None and sizes[0] == sizes[1]:  # CoTracker's have an axis of clips in front, some one behind
        shares = shares.reshape(points.shape[:2])
    if shares is None or shares.shape != points.shape[:2] or not ((shares >= 0) & (shares <= 1)).all():
        shape = "no numbers" if shares is None else f"shape {shares.shape}"
        problems.append(f"visible is wanted as {points.shape[:2]} of 0 to 1, and it has {shape}")
        return np.zeros(points.shape[:2], dtype=np.bool_)
    return shares >= _SEEN


def _size(said: Mapping[str, Any], problems: list[str]) -> tuple[float, float] | None:
    if "size" not in said:
        return None
    size = _numbers(said["size"])
    if size is None or size.shape != (2,) or not (np.isfinite(size) & (size > 0)).all():
        problems.append(f"size is [width, height], not {said['size']!r:.60}")
        return None
    return float(size[0]), float(size[1])


def _normalised(said: Mapping[str, Any], problems: list[str]) -> bool:
    value = _numbers(said.get("normalised", 0))
    if value is None or value.size != 1 or float(value.reshape(())) not in (0, 1):
        problems.append(f"normalised is true or false, not {said['normalised']!r:.60}")
        return False
    return bool(value)


def _frames(said: Mapping[str, Any], count: int, problems: list[str]) -> NDArray[np.int64] | None:
    if "frames" not in said:
        return None
    frames = _numbers(said["frames"])
    whole = frames is not None and frames.shape == (count,) and bool((frames == np.floor(frames)).all())
    if frames is None or not whole or frames[0] < 0 or not (np.diff(frames) > 0).all():
        problems.append(f"frames are {count} increasing whole numbers from 0 up, one of each row")
        return None
    return frames.astype(np.int64)


def _fps(said: Mapping[str, Any], problems: list[str]) -> float | None:
    if "fps" not in said:
        return None
    fps = _numbers(said["fps"])
    if fps is None or fps.size != 1 or not 0 < float(fps.reshape(())) < np.inf:
        problems.append(f"fps is a number above 0, not {said['fps']!r:.60}")
        return None
    return float(fps.reshape(()))


def _unusable(path: Path, what: str, found: str) -> DataError:
    return DataError(Problem(f"the file of tracks {what}", found=found, where=str(path), do=_SAVE))
