"""Owns Framer's UNet: diffusers' network of Stable Video Diffusion with first and last frame among its channels.

In: x B F 9 H W (4 noisy channels, 4 of conditions, 1 that says which frames are given), c_noise B, image embeddings
B S D, time ids B 3. Out: the velocity B F 4 H W and what each block on the way up made of it. Weights are spelt as in
the published files. The reference's temporal attention reads the embeddings of a batch in another order than its
tokens, so that clips mix; diffusers has that right, and so have we.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from diffusers import UNetSpatioTemporalConditionModel
from torch import Tensor, nn

from cinelora.base.errors import Problem, WeightsError


class Found(NamedTuple):
    """What the UNet gives: the velocity B F C H W, and of each block on the way up (B F) C H W."""

    sample: Tensor
    features: list[Tensor]


class FramerUNet(UNetSpatioTemporalConditionModel):
    """The UNet; `network` are diffusers' constructor arguments.

    `mask_token` 1 1 C 1 1 stands in the place of the conditions' latents in every frame that is not given.
    """

    def __init__(self, **network: Any):
        super().__init__(**{"in_channels": 9, **network})
        channels = self.config.out_channels
        if self.config.in_channels != 2 * channels + 1:
            raise WeightsError(
                Problem(
                    "Framer's UNet has another number of input channels",
                    found=f"in_channels {self.config.in_channels}",
                    allowed=f"{2 * channels + 1}: noisy latents, latents of conditions, 1 of the mask",
                    do="name a UNet of Framer, or of Stable Video Diffusion, as model.base",
                )
            )
        self.mask_token = nn.Parameter(torch.randn(1, 1, channels, 1, 1))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        added_time_ids: Tensor,
        down_block_additional_residuals: Sequence[Tensor] | None = None,
        mid_block_additional_residual: Tensor | None = None,
    ) -> Found:
        """As in the module's docstring; the residuals are a ControlNet's, for every skip and for the middle.

        Names are those of diffusers' callers. Raises ValueError where one kind of residuals comes without the other.
        """
        if (down_block_additional_residuals is None) != (mid_block_additional_residual is None):
            raise ValueError("residuals are needed for the way down and for the middle, or for neither")
        num_frames = sample.shape[1]
        given = encoded(self, sample, timestep, encoder_hidden_states, added_time_ids)
        hidden, skips = downward(self, self.conv_in(sample.flatten(0, 1)), given)
        if down_block_additional_residuals is not None:
            skips = [skip + more.to(skip) for skip, more in zip(skips, down_block_additional_residuals, strict=True)]
            hidden = hidden + mid_block_additional_residual.to(hidden)
        hidden, features = self._upward(hidden, skips, given)
        hidden = self.conv_out(self.conv_act(self.conv_norm_out(hidden)))
        return Found(hidden.unflatten(0, (-1, num_frames)), features)

    def _upward(self, hidden: Tensor, skips: list[Tensor], given: "Given") -> tuple[Tensor, list[Tensor]]:
        features = []
        for block in self.up_blocks:
            count = len(block.resnets)
            own, skips = skips[-count:], skips[:-count]
            # Sizes that do not halve evenly come back to that of the next skip.
            size = skips[-1].shape[2:] if skips else None
            hidden = block(hidden, res_hidden_states_tuple=tuple(own), upsample_size=size, **given.to(block))
            features.append(hidden)
        return hidden, features


class Given(NamedTuple):
    """What every block is told, for each frame: times (B F) D, context (B F) S D; no frame stands alone (B F of 0)."""

    times: Tensor
    context: Tensor
    alone: Tensor

    def to(self, block: nn.Module) -> dict[str, Tensor]:
        """The arguments of a block, with the context where it reads it."""
        context = {"encoder_hidden_states": self.context} if getattr(block, "has_cross_attention", False) else {}
        return {"temb": self.times, "image_only_indicator": self.alone, **context}


def encoded(net: Any, sample: Tensor, timestep: Tensor | float, context: Tensor, ids: Tensor) -> Given:
    """Time and ids as one embedding, and the context, both repeated for each frame of sample B F C H W."""
    count, frames = sample.shape[:2]
    t = torch.as_tensor(timestep, device=sample.device).expand(count)
    times = net.time_embedding(net.time_proj(t).to(sample.dtype))
    spread = net.add_time_proj(ids.flatten()).view(count, -1)
    times = times + net.add_embedding(spread.to(times.dtype))
    each = (part.repeat_interleave(frames, 0) for part in (times, context))
    return Given(*each, sample.new_zeros(count, frames))


def downward(net: Any, hidden: Tensor, given: Given) -> tuple[Tensor, list[Tensor]]:
    """The way down and the middle: what comes out of it, and all skips, that of the entry first."""
    skips = [hidden]
    for block in net.down_blocks:
        hidden, more = block(hidden, **given.to(block))
        skips += more
    return net.mid_block(hidden, **given.to(net.mid_block)), skips
