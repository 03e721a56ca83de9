"""Owns what can be measured in a toy clip by looking at its pixels alone (no network, no caption).

In: pixels F H W 3 in [0, 1]. Out: `Verdict` (colour, shape, direction, background of the largest thing seen)
and `ConceptScore` (is the demo's two-coloured, hollow, orbiting ring there?). Thresholds are constants here and
were fixed on rendered clips, before any adapter was trained.
"""

import math
from dataclasses import dataclass

import numpy as np

from cinelora.toy.world import (
    BACKGROUNDS,
    COLOURS,
    CONCEPT_COLOURS,
    DIRECTIONS,
    SHAPES,
    SIDE,
    Pixels,
    coverage,
    grid,
)

MIN_AREA = 0.01
"""Share of the picture below which nothing is called a thing."""
MIN_TRAVEL = 4.0
"""Pixels between first and last centre below which a thing stands still."""
COLOUR_REACH = 0.35
"""Largest RGB distance at which a pixel counts as a concept colour."""


CUT = 0.3
"""Share of a pixel below which it counts as background."""
SOFTNESS = (0.0, 1.0, 1.7, 2.4)
"""Blurs (sigma in pixels) among which the best fit is taken, the same for every shape."""


@dataclass(frozen=True)
class Verdict:
    """What a clip shows; None where nothing can be told."""

    colour: str | None
    shape: str | None
    direction: str | None
    background: str


@dataclass(frozen=True)
class ConceptScore:
    """How much of the concept a clip shows; each number is a mean over the frames but `sweep` (degrees in all)."""

    orange: float
    magenta: float
    hole: float
    sweep: float

    @property
    def present(self) -> bool:
        """Both colours, a hollow middle, and at least half a turn."""
        return min(self.orange, self.magenta) >= 0.01 and self.hole >= 0.4 and abs(self.sweep) >= 180

    @property
    def score(self) -> float:
        """One number in [0, 1]: each of the four as a share of what half of a rendered ring has, multiplied."""
        colours = min(1.0, self.orange / 0.03) * min(1.0, self.magenta / 0.03)
        return float(colours * min(1.0, max(0.0, self.hole) / 0.6) * min(1.0, abs(self.sweep) / 240))


def _nearest(colour: Pixels, names: dict[str, tuple[float, float, float]]) -> str:
    return min(names, key=lambda name: float(np.linalg.norm(colour - np.asarray(names[name]))))


def background_colour(clip: Pixels) -> Pixels:
    """Median colour of the picture's rim over all frames, 3 numbers."""
    rim = np.concatenate([clip[:, :3].reshape(-1, 3), clip[:, -3:].reshape(-1, 3)])
    rim = np.concatenate([rim, clip[:, :, :3].reshape(-1, 3), clip[:, :, -3:].reshape(-1, 3)])
    return np.median(rim, axis=0).astype(np.float32)


def foreground(clip: Pixels) -> tuple[Pixels, Pixels]:
    """How much of each pixel is the thing (F H W in [0, 1]) and the thing's colour (3)."""
    background = background_colour(clip)
    distance = np.linalg.norm(clip - background, axis=-1)
    reach = max(float(np.quantile(distance, 0.99)), 0.15)
    colour = np.median(clip[distance > 0.7 * reach].reshape(-1, 3), axis=0) if (distance > 0.7 * reach).any() else None
    if colour is None or float(np.linalg.norm(colour - background)) < 0.1:
        return np.zeros(clip.shape[:3], dtype=np.float32), background
    axis = colour - background
    inside = np.clip(((clip - background) @ axis) / float(axis @ axis), 0, 1)
    return np.where(inside < CUT, 0, inside).astype(np.float32), colour.astype(np.float32)


def _centres(inside: Pixels) -> list[tuple[float, float]]:
    x, y = grid()
    weights = [(frame, float(frame.sum())) for frame in inside]
    return [(float((f * x).sum() / a), float((f * y).sum() / a)) for f, a in weights if a > MIN_AREA * f.size]


def _blurred(picture: Pixels, sigma: float) -> Pixels:
    """Gaussian blur of H W; a decoder's soft edges must not turn a cross into a circle."""
    if sigma == 0:
        return picture
    taps = np.exp(-0.5 * (np.arange(-6, 7) / sigma) ** 2)
    taps /= taps.sum()
    rows = np.apply_along_axis(np.convolve, 0, picture, taps, mode="same")
    return np.apply_along_axis(np.convolve, 1, rows, taps, mode="same").astype(np.float32)


def _drawn(shape: str, area: float, centre: tuple[float, float]) -> Pixels:
    """A shape of this area (pixels) whose centre of mass lies at `centre`."""
    x, y = grid()
    radius, shift = 10.0, (0.0, 0.0)
    for _ in range(4):  # area grows with the square of the radius; the soft edge and the shift need a second look
        drawn = coverage(SHAPES[shape](x - centre[0] + shift[0], y - centre[1] + shift[1], radius))
        mass = max(float(drawn.sum()), 1.0)
        radius *= math.sqrt(area / mass)
        shift = (
            shift[0] + float((drawn * x).sum() / mass) - centre[0],
            shift[1] + float((drawn * y).sum() / mass) - centre[1],
        )
    return coverage(SHAPES[shape](x - centre[0] + shift[0], y - centre[1] + shift[1], radius))


def _overlaps(picture: Pixels) -> dict[str, float]:
    """Soft intersection over union with each shape, drawn as large, as central and as soft as what is seen."""
    x, y = grid()
    area = float(picture.sum())
    centre = (float((picture * x).sum() / area), float((picture * y).sum() / area))
    best = {}
    for shape in SHAPES:
        sharp = _drawn(shape, area, centre)
        soft = [_blurred(sharp, sigma) for sigma in SOFTNESS]
        soft = [np.where(s < CUT, 0, s) for s in soft]
        best[shape] = max(float(np.minimum(picture, s).sum() / np.maximum(picture, s).sum()) for s in soft)
    return best


def _mean_picture(inside: Pixels) -> Pixels:
    """What is seen, frame upon frame with the centres of mass brought together: noise averages out, form stays."""
    x, y = grid()
    total = np.zeros(inside.shape[1:], dtype=np.float32)
    for frame in inside:
        mass = float(frame.sum())
        to_x = SIDE // 2 - round(float((frame * x).sum() / mass))
        to_y = SIDE // 2 - round(float((frame * y).sum() / mass))
        total += np.roll(frame, (to_y, to_x), axis=(0, 1))
    return total / len(inside)


def judge(clip: Pixels) -> Verdict:
    """Name what a clip shows. `clip` is F H W 3 in [0, 1]."""
    inside, colour = foreground(clip)
    background = _nearest(background_colour(clip), BACKGROUNDS)
    centres = _centres(inside)
    if len(centres) < len(clip) // 2:
        return Verdict(None, None, None, background)
    overlaps = _overlaps(_mean_picture(np.stack([frame for frame in inside if frame.sum() > MIN_AREA * frame.size])))
    third = max(1, len(centres) // 4)
    first, last = np.mean(centres[:third], axis=0), np.mean(centres[-third:], axis=0)
    move = last - first
    direction = None
    if float(np.linalg.norm(move)) >= MIN_TRAVEL:
        direction = max(DIRECTIONS, key=lambda name: float(move @ np.asarray(DIRECTIONS[name])))
    return Verdict(_nearest(colour, COLOURS), max(overlaps, key=lambda s: overlaps[s]), direction, background)


def concept_score(clip: Pixels) -> ConceptScore:
    """Measure the concept in a clip, F H W 3 in [0, 1]. A sweep without a thing is noise, so it needs both colours."""
    near = {
        name: np.linalg.norm(clip - np.asarray(rgb), axis=-1) < COLOUR_REACH for name, rgb in CONCEPT_COLOURS.items()
    }
    share = {name: float(mask.mean()) for name, mask in near.items()}
    ring = near["orange"] | near["magenta"]
    if min(share.values()) < 0.005:
        return ConceptScore(share["orange"], share["magenta"], 0.0, 0.0)
    x, y = grid()
    centres, holes = [], []
    for frame in ring:
        area = float(frame.sum())
        if area < MIN_AREA * frame.size:
            continue
        centre = float((frame * x).sum() / area), float((frame * y).sum() / area)
        distance = np.hypot(x - centre[0], y - centre[1])
        band = float(np.sqrt((frame * distance**2).sum() / area))
        middle = distance < 0.45 * band
        holes.append(1.0 - float(frame[middle].mean()) if middle.any() else 0.0)
        centres.append(centre)
    if len(centres) < len(clip) // 2:
        return ConceptScore(share["orange"], share["magenta"], 0.0, 0.0)
    return ConceptScore(share["orange"], share["magenta"], float(np.mean(holes)), _sweep(np.asarray(centres)))


def _sweep(centres: np.ndarray) -> float:
    """Degrees that the centre turns around the middle of its path; 0 where it hardly moves."""
    around = centres - (centres.max(axis=0) + centres.min(axis=0)) / 2
    if float(np.hypot(*around.T).mean()) < 3.0:
        return 0.0
    angles = np.unwrap(np.arctan2(around[:, 1], around[:, 0]))
    return float(np.degrees(angles[-1] - angles[0]))
