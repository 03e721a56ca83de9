"""Owns the things that flow from a clip on disk to a loss, in the order in which they come into being.

    Record -> Slot -> Clip -> Encoded -> Batch -> Noised -> Loss

Shape letters: B batch, F pixel frames, T latent frames, C channels, H W height and width (of pixels or of latents,
as the field says), S text tokens, D width. Pixels lie in [-1, 1]. Importing this module loads no torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cinelora.base.errors import Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Kind = Literal["video", "image", "pair", "caption"]


@dataclass(frozen=True)
class Record:
    """One thing that a dataset names, as it stands on disk.

    `key` is unique in the run and stable over runs (source name + "/" + path below its root); `where` is what a
    message points to (a file, or file:line of a table); `facts` holds what the dataset states of itself
    (width, height, frames, fps), never what was measured. A pair's media are its first and its last frame; a caption
    alone has none.
    `more_captions` say the same as `caption` in other words; one of all is drawn each time, and none at all in a share
    of `caption_dropout`. `mask` is a picture or video of where the loss counts (white), `tracks` a file of where points
    of the picture go. An epoch shows the record `repeats` times.
    """

    key: str
    source: str
    kind: Kind
    media: tuple[Path, ...]
    caption: str
    where: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    more_captions: tuple[str, ...] = ()
    caption_dropout: float = 0.0
    mask: Path | None = None
    repeats: int = 1
    tracks: Path | None = None


@dataclass(frozen=True)
class LeftOut:
    """An entry of a dataset that cannot become a record, all that is wrong with it, and where it stands."""

    where: str
    source: str
    problems: tuple[Problem, ...]


@dataclass(frozen=True, order=True)
class Bucket:
    """The size of a clip as the networks see it: F, H, W in pixels."""

    frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"


@dataclass(frozen=True)
class Slot:
    """One encoding to make of a record: in this bucket, with the window and the random draws number `variant`.

    `caption_number` says which of the record's captions goes with it, 0 the first, -1 none (the empty one). Of a
    `still` one picture is shown, from which a clip of the bucket's length is to start.
    """

    record: Record
    bucket: Bucket
    variant: int = 0
    caption_number: int = 0
    still: bool = False

    @property
    def shown(self) -> Bucket:
        """The size of the pixels: the bucket, or one frame of it."""
        return replace(self.bucket, frames=1) if self.still else self.bucket

    @property
    def name(self) -> str:
        """Unique in the run whatever the caption; what logs, caches and messages call it."""
        return f"{self.record.key}@{self.bucket}#{self.variant}"

    @property
    def caption(self) -> str:
        """What is said of the clip this time."""
        number = self.caption_number
        return "" if number < 0 else (self.record.caption, *self.record.more_captions)[number]

    def spoken(self) -> "tuple[Slot, ...]":
        """This slot with every caption that a draw can give it."""
        first = -1 if self.record.caption_dropout else 0
        return tuple(replace(self, caption_number=k) for k in range(first, 1 + len(self.record.more_captions)))


@dataclass(frozen=True, eq=False)
class Tracks:
    """Where N points of a clip are in each frame: `points` F N 2 (x, y), `visible` F N.

    Pixels of the clip are counted from 0 at their centres. Where a point is not visible its place means nothing.
    """

    points: "NDArray[np.float64]"
    visible: "NDArray[np.bool_]"


@dataclass(frozen=True)
class Clip:
    """Decoded, resampled, resized and cropped: `pixels` C F H W in [-1, 1], fp32, at `fps` frames per second.

    F is 1 where the slot is a still, however long its bucket is.

    `mask` F H W in [0, 1] says where the loss counts; None = everywhere. `tracks` None = nobody says where points go.
    It has every `stride`-th frame of its source.
    """

    slot: Slot
    pixels: "Tensor"
    caption: str
    fps: float
    mask: "Tensor | None" = None
    tracks: Tracks | None = None
    stride: float = 1.0


@dataclass(frozen=True)
class Encoded:
    """What a clip becomes above the cache line: moments of its latents (C T H W each) and conditions by name.

    `loss_mask` 1 T H W is the share of each latent cell in which the loss counts; None = everywhere.
    """

    mean: "Tensor"
    logvar: "Tensor"
    conditions: Mapping[str, "Tensor"]
    loss_mask: "Tensor | None" = None


@dataclass(frozen=True)
class Seat:
    """Which of a step's micros this is, from 0, and of how many: those of all ranks, as one process counts them."""

    number: int
    of: int


@dataclass(frozen=True)
class Batch:
    """Encoded clips of one bucket: `latents` B C T H W (sampled from the moments), conditions {name: B ...}.

    `weights` B multiplies each clip's loss; `loss_mask` (broadcastable to latents) each element's, 0 = not learned.
    `seat` is its place in a step of training, over which noise levels are spread; None outside of one.
    """

    latents: "Tensor"
    conditions: Mapping[str, "Tensor"]
    names: tuple[str, ...]
    weights: "Tensor | None" = None
    loss_mask: "Tensor | None" = None
    seat: Seat | None = None


@dataclass(frozen=True)
class Noised:
    """A batch after noise: what the denoiser gets (`x` B C T H W, `t` B) and what it is compared with.

    `weight` B is the loss weight of each timestep; `sigma` B is the noise level that `t` stands for.
    """

    x: "Tensor"
    t: "Tensor"
    target: "Tensor"
    weight: "Tensor"
    sigma: "Tensor"


@dataclass(frozen=True)
class Loss:
    """`value` is the scalar to differentiate; `each` B the clips' own losses, detached; `terms` named parts to log.

    A term may stay a tensor on its device, so that nobody waits for the device before the step's end.
    """

    value: "Tensor"
    each: "Tensor"
    terms: "Mapping[str, float | Tensor]" = field(default_factory=dict)
