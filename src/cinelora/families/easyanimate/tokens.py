"""Owns what the v2, v3 and v4 networks do around their blocks: latents to tokens and back, the numbers of frames.

In: latents B C T H W. Out: tokens B L D with L = T h w, frame after frame and row after row; latents again. Blocks may
be computed twice instead of being remembered (`Recomputing`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.embeddings import PatchEmbed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cinelora.base.errors import Problem, RecipeError

BEHIND = ("inpaint_latents", "control_latents")
"""Conditions that stand behind the noisy channels, in this order."""


class FramePositions(nn.Module):
    """Sines and cosines that say which frame a token is of: pe 1 M D, as published files hold it.

    pe[t, 2i] = sin(t w_i), pe[t, 2i + 1] = cos(t w_i), w_i = 10000^(-2i / D) (Vaswani et al. 2017, 3.5).
    """

    pe: Tensor

    def __init__(self, width: int, most_frames: int):
        super().__init__()
        rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
        turns = torch.arange(most_frames, dtype=torch.float32)[:, None] * rates
        self.register_buffer("pe", torch.stack([turns.sin(), turns.cos()], -1).flatten(1)[None])

    def forward(self, frames: int) -> Tensor:
        """1 T D for the first T frames. Raises RecipeError where the network has not so many."""
        most = self.pe.shape[1]
        if frames > most:
            what = "clips have more latent frames than the network can number"
            raise RecipeError(Problem(what, found=str(frames), allowed=f"up to {most}", do="lower data.frames"))
        return self.pe[:, :frames]


class Recomputing(nn.Module):
    """Base of networks whose blocks can be computed again in the backward pass instead of being remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False

    def enable_gradient_checkpointing(self) -> None:
        """Remember only what goes into a block while gradients are wanted."""
        self.gradient_checkpointing = True

    def disable_gradient_checkpointing(self) -> None:
        """Remember everything again."""
        self.gradient_checkpointing = False

    def run(self, block: nn.Module, *taken: Any) -> Tensor:
        """What a block makes of its inputs; the same with and without recomputing."""
        twice = self.gradient_checkpointing and torch.is_grad_enabled()
        found: Tensor = checkpoint(block, *taken, use_reentrant=False) if twice else block(*taken)
        return found


def patches(in_channels: int, width: int, patch_size: int, sample_size: int) -> PatchEmbed:
    """The convolution that makes one token of p p latents of a frame, under the published names, without positions."""
    return PatchEmbed(
        height=sample_size,
        width=sample_size,
        patch_size=patch_size,
        in_channels=in_channels,
        embed_dim=width,
        pos_embed_type=None,
    )


def joined(latents: Tensor, conditions: Mapping[str, Any]) -> Tensor:
    """The noisy latents with all that stands behind them: B C T H W."""
    given = [conditions[name] for name in BEHIND if conditions.get(name) is not None]
    return torch.cat([latents, *given], 1) if given else latents


def to_tokens(latents: Tensor, embed: PatchEmbed) -> Tensor:
    """B C T H W -> B T (h w) D."""
    frames = latents.shape[2]
    found: Tensor = embed(latents.transpose(1, 2).flatten(0, 1))
    return found.unflatten(0, (-1, frames))


def to_latents(tokens: Tensor, grid: tuple[int, int, int], patch_size: int) -> Tensor:
    """B (T h w) (p p C) -> B C T (h p) (w p)."""
    frames, height, width = grid
    pieces = tokens.unflatten(2, (patch_size, patch_size, -1)).unflatten(1, (frames, height, width))
    found = pieces.permute(0, 6, 1, 2, 4, 3, 5)
    return found.reshape(*found.shape[:3], height * patch_size, width * patch_size)


def refuse_unknown(conditions: Mapping[str, Any], kind: type) -> None:
    """See that all conditions are among those that a TypedDict names. Raises TypeError, as for unknown arguments."""
    unknown = conditions.keys() - kind.__annotations__.keys()
    if unknown:
        raise TypeError(f"not among the conditions of this network: {', '.join(sorted(unknown))}")


def grid_of(latents: Tensor, patch_size: int) -> tuple[int, int, int]:
    """T, h, w: frames and tokens down and across. Raises RecipeError where a side does not divide into patches."""
    frames, *sides = latents.shape[2:]
    if any(side % patch_size for side in sides):
        raise RecipeError(
            Problem(
                "latents do not divide into patches",
                found=f"{sides[0]} x {sides[1]}",
                allowed=f"multiples of {patch_size}",
                do="choose sizes that the variant's geometry allows",
            )
        )
    return frames, sides[0] // patch_size, sides[1] // patch_size
