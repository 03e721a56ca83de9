"""Owns the strip of a clip's pictures: the image, and drawn over it what is cropped away, what is not used, tracks.

In: a clip's table with "strip" and maybe "tracks", its row. Out: `Markup`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cinelora.report.markup import Markup, tag
from cinelora.report.rows import ClipRow

_IMAGE = re.compile(r"data:image/webp;base64,[A-Za-z0-9+/=]+|strips/[0-9]+\.webp")
"""All that a page fetches pictures from: itself, and files beside it that carry numbers for names."""


def film(entry: Mapping[str, Any], row: ClipRow) -> Markup | None:
    """The strip of one clip; None where it has none."""
    strip = entry.get("strip")
    if not isinstance(strip, Mapping) or not strip.get("times"):
        return None
    width, height, times = int(strip["width"]), int(strip["height"]), list(strip["times"])
    image = str(strip.get("image", ""))
    if not _IMAGE.fullmatch(image):
        raise ValueError(f"a strip lies in the page or in strips/, not at {image[:80]!r}")
    shown = ", ".join(f"{time:.1f} s" for time in times)
    used = list(strip.get("used") or [True] * len(times))
    picture = tag("img", src=image, alt=f"pictures at {shown}", width=width, height=height, loading="lazy")
    over = _overlay(width, height, used, _share(row), _tracks(entry, width, height))
    return tag("div", picture, over, class_="film", style=f"max-width:{width}px")


def _share(row: ClipRow) -> tuple[float, float, float, float]:
    """The crop as shares of the source: left, top, right, bottom."""
    if not row.crop or not row.width or not row.height:
        return 0.0, 0.0, 1.0, 1.0
    left, top, right, bottom = row.crop
    across, down = (left / row.width, right / row.width), (top / row.height, bottom / row.height)
    clamped = [min(1.0, max(0.0, share)) for share in (across[0], down[0], across[1], down[1])]
    return clamped[0], clamped[1], clamped[2], clamped[3]


def _tracks(entry: Mapping[str, Any], width: int, height: int) -> list[Markup]:
    """The lines of tracks, each with a dot where its point is in that picture; a track keeps no colour of its own."""
    tracks = entry.get("tracks")
    pictures = tracks.get("pictures") if isinstance(tracks, Mapping) else None
    if not pictures:
        return []
    wide = width / len(pictures)
    lines = [
        [(wide * (k + float(x)), height * float(y)) for x, y in line]
        for k, lines in enumerate(pictures)
        for line in lines
    ]
    trail = "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in line) for line in lines if len(line) > 1)
    dots = [tag("circle", cx=f"{line[-1][0]:.1f}", cy=f"{line[-1][1]:.1f}", r=2.5, class_="point") for line in lines]
    return [*([tag("path", d=trail, class_="trail")] if trail else []), *dots]


def _overlay(
    width: int,
    height: int,
    used: Sequence[bool],
    crop: tuple[float, float, float, float],
    tracks: Sequence[Markup] = (),
) -> Markup:
    """Shade over the whole strip with a hole where a picture is used, a line around each hole, lines between pictures.

    Holes are made by the even-odd rule: a point within two outlines is outside.
    """
    wide = width / max(1, len(used))
    holes = [
        _box(wide * (k + crop[0]), height * crop[1], wide * (k + crop[2]), height * crop[3])
        for k, is_used in enumerate(used)
        if is_used
    ]
    whole = crop[0] < 0.005 and crop[1] < 0.005 and crop[2] > 0.995 and crop[3] > 0.995
    between = "".join(f"M{wide * k:.1f} 0V{height}" for k in range(1, len(used)))
    return tag(
        "svg",
        tag("path", d=_box(0, 0, width, height) + "".join(holes), class_="shade", fill_rule="evenodd"),
        None if whole or not holes else tag("path", d="".join(holes), class_="crop"),
        tag("path", d=between, class_="between") if between else None,
        *tracks,
        viewBox=f"0 0 {width} {height}",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def _box(left: float, top: float, right: float, bottom: float) -> str:
    return f"M{left:.1f} {top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}Z"
