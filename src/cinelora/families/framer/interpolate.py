"""Owns interpolation: from two pictures, and tracks if there are any, to the frames between them.

In: an encoder, a denoiser, two pictures, an `Interpolation` that says how. Out: latents, after each step and at last.
The reference is Framer's pipeline, with the temporal attention of each clip reading its own embeddings alone. Numbers
are drawn from one generator in its order: noise on the first picture, on the last one, then that of the latents.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Generator, Tensor
from torch.nn import functional

from cinelora.base.dtypes import torch_dtype
from cinelora.base.errors import Problem, Problems, RecipeError
from cinelora.contracts.flow import Tracks
from cinelora.families.framer.denoise import MOTION_BUCKET, FramerDenoiser
from cinelora.families.framer.encode import SAMPLING_NOISE, FramerEncoder
from cinelora.nets.tracks import map_of
from cinelora.noise.karras import EdmSampler

_MULTIPLE, _MOST_FRAMES = 8, 25
_LEAST_FPS, _MOST_FPS = 0.1, 1000.0
_LARGEST = 1e6
"""Larger numbers are slips of the hand, and overflow on the way."""


@dataclass(frozen=True)
class Interpolation:
    """How frames are drawn between two pictures.

    `guidance` goes evenly from its first number in the first frame to its second in the last one, or with `middle_max`
    to the middle and back. A clip counts as one of `fps` frames per second with so much motion (`motion_bucket`) and
    `noise` on its given pictures. The ControlNet's work is multiplied by `control_scale`; it works in the steps whose
    share of the way lies in `control_range` (from, up to but without). `precision` is the networks' autocast format.
    """

    frames: int = 14
    height: int = 320
    width: int = 512
    num_steps: int = 30
    guidance: tuple[float, float] = (1.0, 3.0)
    middle_max: bool = False
    fps: float = 7.0
    motion_bucket: float = MOTION_BUCKET
    noise: float = SAMPLING_NOISE
    control_scale: float = 1.0
    control_range: tuple[float, float] = (0.0, 1.0)
    precision: str = "fp32"

    def check(self) -> None:
        """Raise RecipeError with every number that cannot be."""
        problems = Problems(RecipeError)
        if not 2 <= self.frames <= _MOST_FRAMES:
            problems.add("an interpolation has another number of frames", found=f"{self.frames}", allowed="2 to 25")
        if self.height % _MULTIPLE or self.width % _MULTIPLE or min(self.height, self.width) < _MULTIPLE:
            found, allowed = f"{self.height} x {self.width}", f"multiples of {_MULTIPLE}"
            problems.add("pictures of this size cannot be interpolated", found=found, allowed=allowed)
        if self.num_steps < 1:
            problems.add("a sampler needs at least one step", found=f"{self.num_steps}", allowed="1 or more")
        for what, value, least, most in self._numbers():
            if not least <= value <= most:  # nor where it is no number
                problems.add(f"{what} cannot be", found=f"{value:g}", allowed=f"{least:g} to {most:g}")
        start, end = self.control_range
        if not 0 <= start <= end <= 1:
            problems.add("the ControlNet's steps are no part of the way", found=f"{start} to {end}", allowed="0 to 1")
        problems.raise_if_any()

    def _numbers(self) -> Iterator[tuple[str, float, float, float]]:
        """Each number with its name, the least and the largest that it can be."""
        yield from ((f"guidance of the {which} frame", value, -_LARGEST, _LARGEST)
                    for which, value in zip(("first", "last"), self.guidance, strict=True))  # fmt: skip
        yield "this many frames per second", self.fps, _LEAST_FPS, _MOST_FPS
        yield "this motion bucket", self.motion_bucket, 0, 511
        yield "noise of this deviation on the pictures", self.noise, 0, _LARGEST
        yield "this control scale", self.control_scale, 0, _LARGEST

    def guidance_of_frames(self) -> Tensor:
        """Guidance of each frame, F."""
        ramp = torch.linspace(*self.guidance, self.frames)
        if not self.middle_max:
            return ramp
        there_and_back = torch.cat([ramp, ramp.flip(0)])[None, None]
        return functional.interpolate(there_and_back, size=self.frames, mode="linear", align_corners=False)[0, 0]

    def has_control(self, step: int) -> bool:
        """Whether the ControlNet works in a step, counted from 0."""
        start, end = self.control_range
        return start <= step / self.num_steps < end


@dataclass(frozen=True)
class Pictures:
    """What the networks are told of two pictures: "embeds" 1 2 D and "ends" 1 C 2 h w, not scaled."""

    embeds: Tensor
    ends: Tensor


class Steering(Protocol):
    """Where points go, which may change while a clip comes to be."""

    def tracks(self) -> Tracks:
        """The tracks for the next step, in pixels of the clip."""
        ...

    def saw(self, features: Tensor) -> None:
        """What the last step made of the clip inside: features F C h w on the UNet's way up."""
        ...


@dataclass(frozen=True)
class Given:
    """Plays Steering with tracks that stay."""

    points: Tracks

    def tracks(self) -> Tracks:
        """The same in every step."""
        return self.points

    def saw(self, features: Tensor) -> None:
        """Nothing changes."""


Seen = Callable[[int, Tensor], None]
"""Told of each step's number and its latents with their noise, B C T h w."""


def look_at(encoder: FramerEncoder, first: Tensor, last: Tensor, *, noise: float, rng: Generator) -> Pictures:
    """What two pictures 3 H W in [-1, 1] are to the networks, on the CPU; their noise is drawn from `rng`."""
    both = torch.stack([first, last]).float()
    images: Any = next(tower for tower in encoder.towers() if "embeds" in tower.gives)
    embeds = images.features(images.seen(both))
    drawn = torch.cat([torch.randn(1, *picture.shape, generator=rng) for picture in both])
    ends, _ = encoder.vae.moments(both + noise * drawn)
    return Pictures(embeds[None], ends.transpose(0, 1)[None])


class Interpolator:
    """Draws frames between two pictures; `level_block` is the block on the way up whose features steer."""

    def __init__(self, denoiser: FramerDenoiser, *, level_block: int = 2):
        self.denoiser = denoiser
        self.level_block = min(level_block, len(denoiser.unet.up_blocks) - 1)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.denoiser.unet.parameters()).device

    @torch.no_grad()
    def walk(
        self,
        pictures: Pictures,
        how: Interpolation,
        rng: Generator,
        *,
        steering: Steering | None = None,
        seen: Seen | None = None,
    ) -> Tensor:
        """From noise to latents 1 C T h w. Raises RecipeError where `how` cannot be, or nothing can read the tracks."""
        how.check()
        if steering is not None and self.denoiser.controlnet is None:
            what, do = "this variant takes no tracks", "use the variant with tracks, such as framer/512x320-tracks"
            raise RecipeError(Problem(what, found="no ControlNet", do=do))
        sampler = EdmSampler(how.num_steps)
        _, channels, _, *size = pictures.ends.shape
        x = torch.randn(1, how.frames, channels, *size, generator=rng).transpose(1, 2).to(self.device)
        given, nothing = self._told(pictures, how)
        guided = _Guided(self.denoiser, given, nothing, how, self.level_block)
        for step, t in enumerate(sampler.times()):
            control = self._control(steering, how) if steering is not None and how.has_control(step) else {}
            prediction, features = guided.predict(x, t.to(x), control, listens=bool(control))
            x = sampler.step(prediction, t, x)
            if steering is not None and features is not None:
                steering.saw(features)
            if seen is not None:
                seen(step, x * (float(sampler.sigmas[step + 1]) ** 2 + 1) ** 0.5)
        return x

    def _told(self, pictures: Pictures, how: Interpolation) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The conditions of the pictures, and those of nothing: zeros; mask and mask token stay."""
        ids = torch.tensor([[how.fps - 1, how.motion_bucket, how.noise]], dtype=torch.float32)
        given = {"embeds": pictures.embeds, "ends": pictures.ends, "ids": ids}
        given = {name: tensor.to(self.device) for name, tensor in given.items()}
        zeros = {name: torch.zeros_like(given[name]) for name in ("embeds", "ends")}
        return given, {**given, **zeros}

    def _control(self, steering: Steering, how: Interpolation) -> dict[str, Tensor]:
        maps = map_of(steering.tracks(), (how.height, how.width))[None].to(self.device)
        return {"maps": maps, "control": torch.full((1,), how.control_scale, device=self.device)}


@dataclass(frozen=True)
class _Guided:
    """A denoiser with its conditions; v = v0 + g_f (v1 - v0) in frame f, of nothing (0) and of the pictures (1)."""

    denoiser: FramerDenoiser
    given: Mapping[str, Tensor]
    nothing: Mapping[str, Tensor]
    how: Interpolation
    level_block: int

    def predict(
        self, x: Tensor, t: Tensor, control: Mapping[str, Tensor], *, listens: bool
    ) -> tuple[Tensor, Tensor | None]:
        """x 1 C T h w -> velocity, and features F C h w where one `listens`. Tracks are told in both passes."""
        found, heard = self._one(x, t, {**self.given, **control}, listens)
        if self.how.guidance == (1.0, 1.0):
            return found, heard
        blank, blank_heard = self._one(x, t, {**self.nothing, **control}, listens)
        weights = self.how.guidance_of_frames().to(x)
        guided = blank + weights.view(1, 1, -1, 1, 1) * (found - blank)
        if heard is None or blank_heard is None:
            return guided, None
        return guided, blank_heard + weights.view(-1, 1, 1, 1) * (heard - blank_heard)

    def _one(
        self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor], listens: bool
    ) -> tuple[Tensor, Tensor | None]:
        heard: list[Tensor] = []
        precision = self.how.precision
        autocast = torch.autocast(x.device.type, dtype=torch_dtype(precision), enabled=precision != "fp32")
        with autocast, _listening(self.denoiser.unet, self.level_block, heard) if listens else _silence():
            found = self.denoiser.predict(x, t.expand(len(x)), conditions).float()
        return found, heard[0].float() if heard else None


@contextmanager
def _listening(unet: Any, block: int, heard: list[Tensor]) -> Iterator[None]:
    """Append the features of a block on the way up to `heard` whenever the UNet runs."""
    handle = unet.up_blocks[block].register_forward_hook(lambda module, given, made: heard.append(made))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _silence() -> Iterator[None]:
    yield
