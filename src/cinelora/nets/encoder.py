"""Owns the encoder of families with one text tower and one autoencoder. In: towers. Out: the role of Encoder."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Generator, Tensor

from cinelora.contracts.flow import Clip, Encoded
from cinelora.contracts.roles import Tower
from cinelora.nets.t5 import T5Tower


class TowerEncoder:
    """Plays `contracts.roles.Encoder`. `vae` is a Tower with `decode`; `seeing` are those of pictures to start from."""

    def __init__(self, text: T5Tower, vae: Any, *seeing: Tower):
        self.text, self.vae, self.seeing = text, vae, seeing
        self._blank: dict[str, Tensor] | None = None

    def towers(self) -> tuple[Tower, ...]:
        """Text, latents, and what the variant takes of pictures."""
        return self.text, self.vae, *self.seeing

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[Encoded]:
        """Run every tower."""
        given: list[dict[str, Tensor]] = [{} for _ in clips]
        for tower in self.towers():
            for mine, new in zip(given, tower.encode(clips, rng), strict=True):
                mine |= new
        return [Encoded(one.pop("mean"), one.pop("logvar"), one) for one in given]

    def decode(self, latents: Tensor) -> Tensor:
        """B C T h w -> B 3 F H W in [-1, 1]."""
        decoded: Tensor = self.vae.decode(latents)
        return decoded

    def blank(self) -> Mapping[str, Tensor]:
        """The empty caption's "text" S D. A text encoder that was not in memory does not stay there."""
        if self._blank is None:
            loaded = self.text.net is not None
            self._blank = {"text": self.text.embed([""])[0]}
            if not loaded:
                self.text.unload()
        return self._blank
