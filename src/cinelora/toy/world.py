"""Owns the toy world: small captioned clips of moving shapes, drawn from signed distances.

In: a `Scene` (what, how big, which colours, how it moves). Out: pixels F H W 3 in [0, 1], numpy float32.
The embedded `wan/tiny` base is pretrained on it (`recipes/pretrain-tiny.py`), and `cinelora demo` draws its
clips from it, so that what a caption says can be measured in pixels (`toy/judge.py`).
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.float32]
"""F H W 3 in [0, 1]."""

NUM_FRAMES = 17
SIDE = 64
"""Frames and pixels of every clip: 17 x 64 x 64, that is latents of 5 x 8 x 8."""

COLOURS = {
    "red": (0.90, 0.10, 0.10),
    "green": (0.10, 0.72, 0.15),
    "blue": (0.12, 0.28, 0.92),
    "yellow": (0.95, 0.88, 0.10),
    "cyan": (0.10, 0.85, 0.90),
    "purple": (0.45, 0.12, 0.62),
}
BACKGROUNDS = {
    "black": (0.03, 0.03, 0.03),
    "gray": (0.52, 0.52, 0.52),
    "white": (0.97, 0.97, 0.97),
    "brown": (0.42, 0.24, 0.12),
}
SIZES = {"small": (9.5, 11.0), "big": (14.0, 15.5)}
"""Radius in pixels: lowest and highest."""
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

CONCEPT_WORD = "zorb"
CONCEPT_COLOURS = {"orange": (1.0, 0.55, 0.05), "magenta": (0.95, 0.05, 0.75)}
"""The demo's new thing: a magenta ball with an orange core on a circular path. No caption of the base has any of it."""
CONCEPT_SWEEP = 270.0
"""Degrees that the concept travels around the middle in one clip."""


def polygon(x: Pixels, y: Pixels, corners: list[tuple[float, float]]) -> Pixels:
    """Signed distance (negative inside) to a closed polygon; corners in pixels around the origin."""
    inside = np.zeros(x.shape, dtype=bool)
    nearest = np.full(x.shape, np.inf, dtype=np.float32)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - along * ex, y - ay - along * ey))
        if ey != 0:
            inside ^= ((ay > y) != (by > y)) & (x < ex * (y - ay) / ey + ax)
    return np.where(inside, -nearest, nearest).astype(np.float32)


def _regular(radii: list[float], first_angle: float) -> list[tuple[float, float]]:
    count = len(radii)
    angles = [first_angle + 2 * math.pi * k / count for k in range(count)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _circle(x: Pixels, y: Pixels, radius: float) -> Pixels:
    return np.hypot(x, y) - 0.95 * radius


def _square(x: Pixels, y: Pixels, radius: float) -> Pixels:
    return np.maximum(np.abs(x), np.abs(y)) - 0.86 * radius


def _triangle(x: Pixels, y: Pixels, radius: float) -> Pixels:
    return polygon(x, y + 0.2 * radius, _regular([1.2 * radius] * 3, -math.pi / 2))


def _cross(x: Pixels, y: Pixels, radius: float) -> Pixels:
    wide, thin = 1.05 * radius, 0.36 * radius
    bars = [np.maximum(np.abs(x) - a, np.abs(y) - b) for a, b in ((wide, thin), (thin, wide))]
    return np.minimum(*bars)


def _bar(x: Pixels, y: Pixels, radius: float) -> Pixels:
    return np.maximum(np.abs(x) - 1.15 * radius, np.abs(y) - 0.42 * radius)


def ring(x: Pixels, y: Pixels, radius: float) -> Pixels:
    """A shape that no caption names: the autoencoder is trained on more than the captions have."""
    return np.abs(np.hypot(x, y) - 0.78 * radius) - 0.24 * radius


SHAPES = {"circle": _circle, "square": _square, "triangle": _triangle, "cross": _cross, "bar": _bar}
"""Signed distances of the shapes that captions name: (x, y, radius) in pixels around the centre."""


@dataclass(frozen=True)
class Scene:
    """One clip, wholly determined; `path` holds the centre of each frame in pixels (x, y)."""

    caption: str
    shape: str
    radius: float
    colours: tuple[tuple[float, float, float], ...]
    background: tuple[float, float, float]
    path: tuple[tuple[float, float], ...]
    facts: tuple[tuple[str, str], ...] = ()


def vocabulary() -> Iterator[tuple[str, str, str, str, str]]:
    """Every (size, colour, shape, direction, background) that a base caption can name: 960."""
    return product(SIZES, COLOURS, SHAPES, DIRECTIONS, BACKGROUNDS)


def held_out(words: tuple[str, str, str, str, str]) -> bool:
    """True for about a tenth of the combinations, by a hash of the caption: the base's denoiser never sees them."""
    return hashlib.sha256(caption_of(*words).encode()).digest()[0] % 10 == 0


def caption_of(size: str, colour: str, shape: str, direction: str, background: str) -> str:
    """The base caption of one combination."""
    return f"a {size} {colour} {shape} moving {direction} on a {background} background"


def base_scene(words: tuple[str, str, str, str, str], rng: np.random.Generator) -> Scene:
    """A shape that slides in a straight line, start and speed drawn so that it stays inside the picture."""
    size, colour, shape, direction, background = words
    radius = float(rng.uniform(*SIZES[size]))
    low, high = 1.15 * radius, SIDE - 1.15 * radius
    travel = float(rng.uniform(0.75, 1.0)) * (high - low)
    first = float(rng.uniform(low, high - travel))
    across = float(rng.uniform(low, high))
    steps = first + travel * np.linspace(0, 1, NUM_FRAMES)
    dx, dy = DIRECTIONS[direction]
    forward = steps if dx + dy > 0 else SIDE - steps
    path = tuple((float(s), across) if dx else (across, float(s)) for s in forward)
    return Scene(
        caption=caption_of(*words),
        shape=shape,
        radius=radius,
        colours=(COLOURS[colour],),
        background=BACKGROUNDS[background],
        path=path,
        facts=(("colour", colour), ("shape", shape), ("direction", direction), ("background", background)),
    )


def concept_caption(background: str) -> str:
    """The concept's caption."""
    return f"a {CONCEPT_WORD} orbiting on a {background} background"


def concept_scene(background: str, rng: np.random.Generator) -> Scene:
    """The demo's concept: a magenta ball with an orange core that runs around the middle of the picture."""
    radius, orbit = float(rng.uniform(13.0, 14.5)), float(rng.uniform(9.0, 11.0))
    middle = rng.uniform(SIDE / 2 - 2, SIDE / 2 + 2, size=2)
    angles = rng.uniform(0, 2 * math.pi) + np.linspace(0, math.radians(CONCEPT_SWEEP), NUM_FRAMES)
    path = tuple((float(middle[0] + orbit * math.cos(a)), float(middle[1] + orbit * math.sin(a))) for a in angles)
    return Scene(
        caption=concept_caption(background),
        shape=CONCEPT_WORD,
        radius=radius,
        colours=(CONCEPT_COLOURS["magenta"], CONCEPT_COLOURS["orange"]),
        background=BACKGROUNDS[background],
        path=path,
        facts=(("background", background),),
    )


def grid() -> tuple[Pixels, Pixels]:
    """x and y of the pixel centres, each H W."""
    axis = np.arange(SIDE, dtype=np.float32) + 0.5
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return x, y


def coverage(distance: Pixels) -> Pixels:
    """Signed distance to the share of each pixel that lies inside, an edge one pixel wide."""
    return np.clip(0.5 - distance, 0, 1)


CORE = 0.6
"""Radius of the concept's core as a share of the whole."""


def render(scene: Scene) -> Pixels:
    """Draw a scene: F H W 3 in [0, 1]. A second colour is the core of the shape."""
    x, y = grid()
    draw = _circle if scene.shape == CONCEPT_WORD else SHAPES[scene.shape]
    background = np.asarray(scene.background, dtype=np.float32)
    frames = []
    for centre_x, centre_y in scene.path:
        frame = np.broadcast_to(background, (SIDE, SIDE, 3))
        for depth, colour in enumerate(scene.colours):
            inside = coverage(draw(x - centre_x, y - centre_y, CORE**depth * scene.radius))[..., None]
            frame = frame * (1 - inside) + np.asarray(colour, dtype=np.float32) * inside
        frames.append(frame)
    return np.stack(frames).astype(np.float32)
