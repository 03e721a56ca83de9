"""The fake encoder: latents are pooled pixels, a caption becomes numbers drawn from its hash."""

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional

from cinelora.base.seeds import torch_rng
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Clip, Encoded


class FakeText:
    """Caption -> "text" S D."""

    name, reads, gives, max_tokens = "text", "caption", ("text",), 6

    def fingerprint(self) -> str:
        """Nothing here ever changes."""
        return "fake-text-1"

    def load(self, device: str) -> None:
        """Nothing to load."""

    def unload(self) -> None:
        """Nothing to unload."""

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """Six tokens of eight numbers each; the empty caption is zero."""
        return [{"text": caption_tokens(clip.caption)} for clip in clips]

    def tokens(self, captions: Sequence[str]) -> list[int]:
        """One per word, and one for the end."""
        return [len(caption.split()) + 1 for caption in captions]


class FakeVae:
    """Pixels C F H W -> moments of latents 4 T h w: three pooled colours and their mean."""

    name, reads, gives = "vae", "pixels", ("mean", "logvar")

    def fingerprint(self) -> str:
        """Nothing here ever changes."""
        return "fake-vae-1"

    def load(self, device: str) -> None:
        """Nothing to load."""

    def unload(self) -> None:
        """Nothing to unload."""

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """Average over 4 frames and 8 x 8 pixels, the first frame alone."""
        return [self._moments(clip.pixels) for clip in clips]

    def _moments(self, pixels: Tensor) -> dict[str, Tensor]:
        padded = torch.cat([pixels[:, :1].expand(-1, 3, -1, -1), pixels], dim=1)
        pooled = functional.avg_pool3d(padded[None], (4, 8, 8))[0]
        mean = torch.cat([pooled, pooled.mean(dim=0, keepdim=True)])
        return {"mean": mean, "logvar": torch.full_like(mean, -6.0)}


def caption_tokens(caption: str) -> Tensor:
    """6 x 8 numbers that depend on the caption alone."""
    return torch.randn(6, 8, generator=torch_rng("fake-text", caption)) if caption else torch.zeros(6, 8)


class FakeEncoder:
    """Both towers; decoding repeats each latent over its pixels."""

    def towers(self) -> tuple[FakeText, FakeVae]:
        """Text, then latents."""
        return FakeText(), FakeVae()

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[Encoded]:
        """Run both towers."""
        text, vae = (tower.encode(clips, rng) for tower in self.towers())
        return [Encoded(v["mean"], v["logvar"], t) for t, v in zip(text, vae, strict=True)]

    def decode(self, latents: Tensor) -> Tensor:
        """B 4 T h w -> B 3 F H W."""
        pixels = latents[:, :3].repeat_interleave(4, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)
        return pixels[:, :, 3:].clamp(-1, 1)

    def blank(self) -> Mapping[str, Tensor]:
        """The empty caption."""
        return {"text": caption_tokens("")}


def open_encoder(base: str, variant: Variant, dtype: str) -> FakeEncoder:
    """There is nothing to read."""
    return FakeEncoder()
