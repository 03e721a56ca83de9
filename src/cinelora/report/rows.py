"""Owns the reading of the data table (`data.json`, or the plan's rows): what happened to each clip.

In: mappings or dataclasses as the data room makes them. Out: `ClipRow`s with checked types, totals by bucket, and
notes on whatever was expected and is not there.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

USED, HELD_OUT, LEFT_OUT = "used", "held out", "left out"
_NUMBERS = ("width", "height", "frames", "fps", "seconds", "frames_used", "frames_lost", "scale")
_MEASURED = ("width", "height", "frames", "fps", "bucket", "frames_used", "frames_lost")
"""What every clip that is used should state; `seconds` and `scale` are welcome."""
_WITHOUT = {"image": ("fps", "seconds"), "caption": ("width", "height", "frames", "fps", "seconds")}
"""What an image has not, and what is not known where there is a caption alone."""
_NEVER_ZERO = ("width", "height", "frames", "fps", "seconds", "scale")
"""Where the plan writes 0 for what it could not measure."""


@dataclass(frozen=True)
class ClipRow:
    """One record as it stands on disk (width, height, frames, fps, seconds) and what became of it.

    `notes` begin with the reason where it is left out. From `caption` on, a table may leave things unsaid: `clip_fps`
    frames per second of the clip in the time of its source, `speed` how much faster things move than there, `crop`
    the part that is used (left, top, right, bottom in pixels of the source), `buckets` further ones.
    """

    key: str
    where: str
    source: str
    kind: str
    status: str
    bucket: str
    notes: tuple[str, ...]
    width: float | None = None
    height: float | None = None
    frames: float | None = None
    fps: float | None = None
    seconds: float | None = None
    frames_used: float | None = None
    frames_lost: float | None = None
    scale: float | None = None
    caption: str = ""
    clip_fps: float | None = None
    speed: float | None = None
    num_slots: float | None = None
    num_captions: float | None = None
    repeats: float | None = None
    crop: tuple[float, float, float, float] | None = None
    buckets: tuple[str, ...] = ()


@dataclass
class Total:
    """What one bucket holds: clips to learn from, clips held out, source frames seen and lost."""

    used: int = 0
    held_out: int = 0
    frames_seen: int = 0
    frames_lost: int = 0

    @property
    def share_seen(self) -> str:
        """Frames seen of all, in per cent."""
        frames = self.frames_seen + self.frames_lost
        return f"{self.frames_seen / frames:.0%}" if frames else ""


def read_rows(raw: Iterable[Any]) -> tuple[list[ClipRow], list[str]]:
    """Rows with those first that deserve a look (left out, then the most frames lost), and notes on what is missing."""
    missing: dict[str, int] = {}
    rows = [_row(_mapping(one), missing) for one in raw]
    notes = [
        f"{count} of {len(rows)} rows of the data table do not state {name}" for name, count in sorted(missing.items())
    ]
    return sorted(rows, key=_interest), notes


def totals(rows: Iterable[ClipRow]) -> dict[str, Total]:
    """What each bucket holds, the fullest first; a clip with several counts in each, its frames in the first alone."""
    found: dict[str, Total] = {}
    for row in rows:
        if row.status == LEFT_OUT:
            continue
        first = row.bucket or "?"
        for bucket in dict.fromkeys((first, *row.buckets)):
            total = found.setdefault(bucket, Total())
            total.used += row.status == USED
            total.held_out += row.status == HELD_OUT
        total = found[first]
        total.frames_seen += int(row.frames_used or 0)
        total.frames_lost += int(row.frames_lost or 0)
    return dict(sorted(found.items(), key=lambda item: (-item[1].used - item[1].held_out, item[0])))


def deserves_look(row: ClipRow) -> bool:
    """True where a clip is left out, loses frames or has something to tell."""
    return row.status == LEFT_OUT or bool(row.frames_lost) or bool(row.notes)


def source_text(row: ClipRow) -> str:
    """What the clip is on disk, such as "1280 x 720, 146 frames, 16 fps, 9.1 s"."""
    parts = []
    if row.width is not None and row.height is not None:
        parts.append(f"{row.width:g} × {row.height:g}")
    if row.frames is not None:
        parts.append("1 frame" if row.frames == 1 else f"{row.frames:g} frames")
    if row.fps is not None and row.frames != 1:
        parts.append(f"{row.fps:.4g} fps")
    if row.seconds is not None and row.frames != 1:
        parts.append(f"{row.seconds:.1f} s")
    return ", ".join(parts)


def target_text(row: ClipRow) -> str:
    """What the clip becomes, such as "17 × 48 × 80 at 16 fps, 3 clips, 1.50 times as fast"."""
    if not row.bucket:
        return ""
    said = row.bucket.replace("x", " × ")
    still = row.bucket.startswith("1x")
    parts = [f"{said} at {row.clip_fps:.4g} fps" if row.clip_fps and not still else said]
    more = [bucket for bucket in row.buckets if bucket != row.bucket]
    parts += [f"{len(more)} more bucket{'s' * (len(more) > 1)}"] if more else []
    parts += [f"{row.num_slots:g} clips"] if row.num_slots and row.num_slots > 1 else []
    parts += [f"counts {row.repeats:g} times"] if row.repeats and row.repeats > 1 else []
    parts += [f"{row.speed:.2f} times as fast"] if row.speed and abs(row.speed - 1) > 0.01 and not still else []
    return ", ".join(parts)


def bucket_text(bucket: Any) -> str:
    """FxHxW of a bucket given as text, as a list or as a table."""
    if isinstance(bucket, Mapping):
        bucket = [bucket.get(name, "?") for name in ("frames", "height", "width")]
    if isinstance(bucket, list | tuple):
        return "x".join(str(number) for number in bucket)
    return str(bucket) if bucket is not None else ""


def _row(facts: Mapping[str, Any], missing: dict[str, int]) -> ClipRow:
    facts = _known(facts)
    status = str(facts.get("status", "?"))
    wanted = ("key", "status", *(_MEASURED if status in (USED, HELD_OUT) else ()))
    for name in wanted:
        if facts.get(name) is None and name not in _WITHOUT.get(str(facts.get("kind")), ()):
            missing[name] = missing.get(name, 0) + 1
    numbers = {name: _number(facts.get(name), name, missing) for name in _NUMBERS}
    where = str(facts.get("where") or "")
    return ClipRow(
        key=str(facts.get("key") or where or "?"),
        where=where,
        source=str(facts.get("source") or ""),
        kind=str(facts.get("kind") or ""),
        status=status,
        bucket=bucket_text(facts.get("bucket")),
        notes=(*_texts(facts.get("reason")), *_texts(facts.get("notes"))),
        **numbers,
        **_welcome(facts),
    )


def _welcome(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What newer tables say; nothing is missed where one does not."""
    names = ("clip_fps", "speed", "num_slots", "num_captions", "repeats")
    found: dict[str, Any] = {name: _number(facts.get(name), name, {}) for name in names}
    crop = facts.get("crop")
    if isinstance(crop, list | tuple) and len(crop) == 4 and all(_number(side, "", {}) is not None for side in crop):
        found["crop"] = tuple(crop)
    found["caption"] = " ".join(str(facts.get("caption") or "").split())
    found["buckets"] = tuple(map(bucket_text, facts.get("buckets") or ()))
    return found


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Without what says "not known": empty texts, zeros that cannot be, and frames of a clip that is left out."""
    nothing = {name for name in _NEVER_ZERO if facts.get(name) == 0}
    if facts.get("status") == LEFT_OUT:
        nothing |= {"frames_used", "frames_lost"}
    return {name: value for name, value in facts.items() if name not in nothing and value != ""}


def _mapping(one: Any) -> Mapping[str, Any]:
    if is_dataclass(one) and not isinstance(one, type):
        return asdict(one)
    if isinstance(one, Mapping):
        return one
    raise TypeError(f"a row of the data table is a table or a dataclass, not a {type(one).__name__}")


def _number(value: Any, name: str, missing: dict[str, int]) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    if value is not None:
        label = f"{name} as a number"
        missing[label] = missing.get(label, 0) + 1
    return None


def _texts(value: Any) -> tuple[str, ...]:
    if value in (None, "", [], ()):
        return ()
    return tuple(str(one) for one in value) if isinstance(value, list | tuple) else (str(value),)


def _interest(row: ClipRow) -> tuple[int, float, str]:
    rank = {LEFT_OUT: 0}.get(row.status, 1 if row.frames_lost else 2 if row.notes else 3)
    return rank, -(row.frames_lost or 0), row.key
