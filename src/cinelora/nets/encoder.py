"""Owns the encoder of families with text towers and one autoencoder. In: towers. Out: the role of Encoder."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Generator, Tensor

from cinelora.contracts.flow import Clip, Encoded
from cinelora.contracts.roles import Tower


class TowerEncoder:
    """Plays `contracts.roles.Encoder`.

    `text` and every further tower that reads captions have `said(captions)`, one dict each, and `net`, None when not
    in memory; `vae` is a Tower with `decode`; `seeing` are the further towers: of pictures to start from, of a second
    text.
    """

    def __init__(self, text: Any, vae: Any, *seeing: Tower):
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
        """What towers of captions say of the empty one. A tower that was not in memory does not stay there."""
        if self._blank is None:
            self._blank = {}
            for tower in self.towers():
                if tower.reads == "caption":
                    self._blank |= _said_of_nothing(tower)
        return self._blank


def _said_of_nothing(tower: Any) -> dict[str, Tensor]:
    loaded = tower.net is not None
    said: dict[str, Tensor] = tower.said([""])[0]
    if not loaded:
        tower.unload()
    return said
