"""Owns how large pictures go through an autoencoder in overlapping tiles.

In: a clip B C F H W and the pass of one tile. Out: the tiles' results in one piece, faded into each other. As the
original does (aigc-apps/EasyAnimate, autoencoder_magvit): tiles of 384 pixels that overlap by a quarter, and in
decoding one more tile in the lower right corner, which is faded in.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Pass = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tiles:
    """`pixels` and `latents` are a tile's side on both sides of the autoencoder, `overlap` the share that is faded."""

    pixels: int
    latents: int
    overlap: float

    def encode(self, clip: Tensor, one: Pass) -> Tensor:
        """Pixels B C F H W -> moments B 2C T h w; small pictures go in one piece."""
        if max(clip.shape[-2:]) <= self.pixels:
            return one(clip)
        return _tiled(clip, one, side=self.pixels, made=self.latents, overlap=self.overlap)

    def decode(self, latents: Tensor, one: Pass) -> Tensor:
        """Latents B C T h w -> pixels B C F H W; small pictures go in one piece."""
        if max(latents.shape[-2:]) <= self.latents:
            return one(latents)
        whole = _tiled(latents, one, side=self.latents, made=self.pixels, overlap=self.overlap)
        return _with_corner(whole, one(latents[..., -self.latents :, -self.latents :]))


def _tiled(x: Tensor, one: Pass, *, side: int, made: int, overlap: float) -> Tensor:
    """Tiles of `side`, each result of `made`, of which the last `overlap` is faded into the next."""
    step, faded = int(side * (1 - overlap)), int(made * overlap)
    kept = made - faded
    rows: list[Tensor] = []
    above: list[Tensor] = []
    for top in range(0, x.shape[-2], step):
        row: list[Tensor] = []
        for k, left in enumerate(range(0, x.shape[-1], step)):
            tile = one(x[..., top : top + side, left : left + side])
            if above:
                tile = _faded(above[k].transpose(-1, -2), tile.transpose(-1, -2), faded).transpose(-1, -2)
            row.append(_faded(row[-1], tile, faded) if row else tile)
        rows.append(torch.cat([tile[..., :kept, :kept] for tile in row], -1))
        above = row
    return torch.cat(rows, -2)


def _faded(before: Tensor, tile: Tensor, count: int) -> Tensor:
    """The tile with its first `count` columns faded in over the last ones of the tile before it."""
    count = min(before.shape[-1], tile.shape[-1], count)
    if not count:
        return tile
    share = torch.arange(count, device=tile.device, dtype=tile.dtype) / count
    edge = before[..., -count:] * (1 - share) + tile[..., :count] * share
    return torch.cat([edge, tile[..., count:]], -1)


def _with_corner(whole: Tensor, corner: Tensor) -> Tensor:
    """The corner over the end of the whole, from nothing at its upper and left sides to all at the lower right."""
    tall, wide = corner.shape[-2:]
    down, across = (torch.linspace(0, 1, side, device=whole.device, dtype=whole.dtype) for side in (tall, wide))
    share = torch.minimum(down[:, None], across)
    found = whole.clone()
    found[..., -tall:, -wide:] = share * corner + (1 - share) * whole[..., -tall:, -wide:]
    return found
