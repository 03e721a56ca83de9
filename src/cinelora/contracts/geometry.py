"""Owns which clip sizes a family can take and what they become as latents."""

from dataclasses import dataclass

from cinelora.contracts.flow import Bucket


@dataclass(frozen=True)
class Geometry:
    """Rules of one variant.

    Frames are `frames_per_latent * k + frames_offset` (4k + 1 for Wan), sizes are multiples of `size_multiple`
    (latent cell times patch); a pixel of latents covers `latent_cell` pixels each way. `min_frames` is above 1 where a
    clip has a first and a last frame. `group_frames` says that the autoencoder takes so many frames at a time, each
    group by the rule above: clips are then whole groups or a single picture (8k or 1; 0 = a clip is one group of any
    length). `only_own_size` says that the network has learned positions for its own frames and size and takes no
    others.
    """

    fps: float
    frames: int
    height: int
    width: int
    frames_per_latent: int = 4
    frames_offset: int = 1
    latent_cell: int = 8
    size_multiple: int = 16
    latent_channels: int = 16
    max_frames: int = 1025
    min_frames: int = 1
    only_own_size: bool = False
    group_frames: int = 0

    @property
    def bucket(self) -> Bucket:
        """The variant's own size, the default of a recipe."""
        return Bucket(self.frames, self.height, self.width)

    @property
    def frames_step(self) -> int:
        """By how many frames the next longer clip is longer."""
        return self.group_frames or self.frames_per_latent

    @property
    def few_frames(self) -> int:
        """A short clip that is no single picture, for trying things out."""
        least = self.frames_per_latent + self.frames_offset
        return self.group_frames or self.floor_frames(max(self.min_frames, least))

    @property
    def frames_rule(self) -> str:
        """The allowed numbers of frames, for messages: "4k + 1", "8k or 1"."""
        return (
            f"{self.group_frames}k or 1" if self.group_frames else f"{self.frames_per_latent}k + {self.frames_offset}"
        )

    def fits_frames(self, frames: int) -> bool:
        """True where a clip of `frames` can be encoded without a rest."""
        if self.group_frames and frames == 1:
            return self.min_frames <= 1
        return self.min_frames <= frames <= self.max_frames and (frames - self._ahead) % self.frames_step == 0

    def floor_frames(self, frames: int) -> int:
        """The largest allowed number of frames that is at most `frames`; 0 where none is."""
        count = min(frames, self.max_frames)
        rest = (count - self._ahead) % self.frames_step
        alone = 1 if self.group_frames and frames > 0 else 0
        low = max(alone, count - rest)
        return low if low >= self.min_frames else 0

    def near_frames(self, frames: int) -> str:
        """The allowed numbers below and above, for messages."""
        low = self.floor_frames(frames)
        if not low:
            least = 1 if self.group_frames else self.frames_offset or self.frames_per_latent
            return f"{max(self.min_frames, least)}"
        high = low - low % self.frames_step + self.frames_step if self.group_frames else low + self.frames_step
        return f"{low} or {high}" if self.fits_frames(high) else f"{low}"

    def floor_size(self, pixels: float) -> int:
        """The largest multiple that is at most `pixels`, at least one multiple."""
        return max(self.size_multiple, int(pixels // self.size_multiple) * self.size_multiple)

    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        """C T H W of a bucket's latents."""
        groups = max(1, bucket.frames // self.group_frames) if self.group_frames else 1
        each = self._latent_frames(bucket.frames // groups)
        return self.latent_channels, groups * each, bucket.height // self.latent_cell, bucket.width // self.latent_cell

    def _latent_frames(self, frames: int) -> int:
        """Of one group."""
        if self.group_frames and frames == 1:
            return 1
        return (frames - self.frames_offset) // self.frames_per_latent + (1 if self.frames_offset else 0)

    @property
    def _ahead(self) -> int:
        """Frames of a clip beyond whole steps."""
        return 0 if self.group_frames else self.frames_offset
