"""Owns which clip sizes a family can take and what they become as latents."""

from dataclasses import dataclass

from cinelora.contracts.flow import Bucket


@dataclass(frozen=True)
class Geometry:
    """Rules of one variant.

    Frames are `frames_per_latent * k + frames_offset` (4k + 1 for Wan), sizes are multiples of `size_multiple`
    (latent cell times patch); a pixel of latents covers `latent_cell` pixels each way. `only_own_size` says that the
    network has learned positions for its own frames and size and takes no others.
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
    only_own_size: bool = False

    @property
    def bucket(self) -> Bucket:
        """The variant's own size, the default of a recipe."""
        return Bucket(self.frames, self.height, self.width)

    def fits_frames(self, frames: int) -> bool:
        """True where a clip of `frames` can be encoded without a rest."""
        return 1 <= frames <= self.max_frames and (frames - self.frames_offset) % self.frames_per_latent == 0

    def floor_frames(self, frames: int) -> int:
        """The largest allowed number of frames that is at most `frames`; 0 where none is."""
        count = min(frames, self.max_frames)
        rest = (count - self.frames_offset) % self.frames_per_latent
        return max(0, count - rest)

    def near_frames(self, frames: int) -> str:
        """The allowed numbers below and above, for messages."""
        low = self.floor_frames(frames)
        if not low:
            return f"{self.frames_offset or self.frames_per_latent}"
        return (
            f"{low} or {low + self.frames_per_latent}" if self.fits_frames(low + self.frames_per_latent) else f"{low}"
        )

    def floor_size(self, pixels: float) -> int:
        """The largest multiple that is at most `pixels`, at least one multiple."""
        return max(self.size_multiple, int(pixels // self.size_multiple) * self.size_multiple)

    def latent_shape(self, bucket: Bucket) -> tuple[int, int, int, int]:
        """C T H W of a bucket's latents."""
        frames = (bucket.frames - self.frames_offset) // self.frames_per_latent + (1 if self.frames_offset else 0)
        return self.latent_channels, frames, bucket.height // self.latent_cell, bucket.width // self.latent_cell
