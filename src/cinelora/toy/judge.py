"""Owns what can be measured in a toy clip by looking at its pixels alone (no network, no caption).

In: pixels F H W 3 in [0, 1]. Out: `Verdict` (colour, shape, direction, background of the largest thing seen)
and `ConceptScore` (is the demo's magenta ball with its orange core there, and does it go round?). The thresholds are
constants here. Those of the concept were changed while the demo was tuned (LOG.md says from what to what), so its
reported share counts only together with the one on seeds that were never looked at, which LOG.md has too.
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
MIN_SPEED = 0.5
"""Pixels a frame below which a thing has no direction of travel."""
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
    """How much of the concept a clip shows: shares of the picture, mean over the frames; `turn` is in degrees.

    `core` is how much more orange there is in the middle of the thing than around it, from -1 to 1.
    """

    orange: float
    magenta: float
    core: float
    turn: float

    @property
    def present(self) -> bool:
        """Both colours, the orange inside the magenta, and at least a third of a turn (drawn: three quarters)."""
        return min(self.orange, self.magenta) >= 0.01 and self.core >= 0.25 and abs(self.turn) >= 120

    @property
    def score(self) -> float:
        """One number in [0, 1]: each of the four as a share of what is called full here, multiplied."""
        colours = min(1.0, self.orange / 0.02) * min(1.0, self.magenta / 0.05)
        return float(colours * min(1.0, max(0.0, self.core) / 0.6) * min(1.0, abs(self.turn) / 180))


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


def _form(inside: Pixels) -> Pixels:
    """The mean picture of the frames in which something is seen; there must be one."""
    return _mean_picture(np.stack([frame for frame in inside if frame.sum() > MIN_AREA * frame.size]))


def clearness(clip: Pixels, shape: str) -> float:
    """By how much `shape` fits what is seen better than the best other one, as shares of overlap; -1 for nothing seen.

    Above 0 is where `judge` names it; finer than that, since it tells a sharp cross from one that is almost a circle.
    """
    inside, _ = foreground(clip)
    if len(_centres(inside)) < len(clip) // 2:
        return -1.0
    overlaps = _overlaps(_form(inside))
    return overlaps[shape] - max(fit for name, fit in overlaps.items() if name != shape)


def judge(clip: Pixels) -> Verdict:
    """Name what a clip shows. `clip` is F H W 3 in [0, 1]."""
    inside, colour = foreground(clip)
    background = _nearest(background_colour(clip), BACKGROUNDS)
    centres = _centres(inside)
    if len(centres) < len(clip) // 2:
        return Verdict(None, None, None, background)
    overlaps = _overlaps(_form(inside))
    third = max(1, len(centres) // 4)
    first, last = np.mean(centres[:third], axis=0), np.mean(centres[-third:], axis=0)
    move = last - first
    direction = None
    if float(np.linalg.norm(move)) >= MIN_TRAVEL:
        direction = max(DIRECTIONS, key=lambda name: float(move @ np.asarray(DIRECTIONS[name])))
    return Verdict(_nearest(colour, COLOURS), max(overlaps, key=lambda s: overlaps[s]), direction, background)


def lane(clip: Pixels, direction: str) -> float | None:
    """Where the thing runs across its way, in pixels from the top or left edge; None where nothing is seen.

    Captions leave it open, so over many clips its spread tells how varied they are.
    """
    centres = _centres(foreground(clip)[0])
    across = 1 if DIRECTIONS[direction][0] else 0
    return float(np.mean([centre[across] for centre in centres])) if centres else None


def concept_score(clip: Pixels) -> ConceptScore:
    """Measure the concept in a clip, F H W 3 in [0, 1]. A turn without a thing is noise, so it needs both colours."""
    near = {
        name: np.linalg.norm(clip - np.asarray(rgb), axis=-1) < COLOUR_REACH for name, rgb in CONCEPT_COLOURS.items()
    }
    share = {name: float(mask.mean()) for name, mask in near.items()}
    frames = [k for k in range(len(clip)) if (near["orange"][k] | near["magenta"][k]).mean() > MIN_AREA]
    if min(share.values()) < 0.005 or len(frames) < len(clip) // 2:
        return ConceptScore(share["orange"], share["magenta"], 0.0, 0.0)
    x, y = grid()
    centres, cores = [], []
    for k in frames:
        thing = near["orange"][k] | near["magenta"][k]
        centre = float(x[thing].mean()), float(y[thing].mean())
        middle = np.hypot(x - centre[0], y - centre[1]) < 0.5 * math.sqrt(float(thing.sum()) / math.pi)
        around = thing & ~middle
        orange = [float(near["orange"][k][part].mean()) if part.any() else 0.0 for part in (middle, around)]
        centres.append(centre)
        cores.append(orange[0] - orange[1])
    return ConceptScore(share["orange"], share["magenta"], float(np.mean(cores)), _turn(np.asarray(centres)))


def _turn(centres: np.ndarray) -> float:
    """Degrees by which the direction of travel turns over the whole path: 0 on a straight line, 360 on a full circle.

    The path is smoothed over five frames and a line is fitted to the headings, so that single frames count little.
    A thing that hardly moves has no direction: 0.
    """
    smooth = np.stack([np.convolve(axis, np.ones(5) / 5, mode="valid") for axis in centres.T], axis=1)
    steps = np.diff(smooth, axis=0)
    if len(steps) < 4 or float(np.hypot(*steps.T).mean()) < MIN_SPEED:
        return 0.0
    headings = np.unwrap(np.arctan2(steps[:, 1], steps[:, 0]))
    slope = float(np.polyfit(np.arange(len(headings)), headings, 1)[0])
    return math.degrees(slope) * (len(centres) - 1)
