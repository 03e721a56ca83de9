"""Owns Framer's ControlNet: the UNet's way down once more, which reads heat maps of tracks and adds to its skips.

In: the UNet's own input B F 9 H W, c_noise B, embeddings B S D, time ids B 3 and maps B F 3 H W of pixels, from 0 to
255 as they are (nothing is divided). Out: what is added to each skip and to the middle. Weights are spelt as in the
published files.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding
from torch import Tensor, nn

from cinelora.base.errors import Problem, WeightsError
from cinelora.base.seeds import torch_rng
from cinelora.families.framer.unet import downward, encoded

_OPEN = ("controlnet_down_blocks.", "controlnet_mid_block.", "controlnet_cond_embedding.conv_out.")
"""What starts at zero, so that a fresh ControlNet adds nothing."""


class Residuals(NamedTuple):
    """What is added to the skips, in their order, and to the middle; each (B F) C H W."""

    down: list[Tensor]
    mid: Tensor


class FramerControlNet(UNetSpatioTemporalConditionModel):
    """The ControlNet; `trunk` are the UNet's constructor arguments, of which those of the way up have no effect.

    The `feature_` arguments belong to features of points that the published network does not have.
    """

    def __init__(
        self,
        *,
        conditioning_channels: int = 3,
        conditioning_embedding_out_channels: Sequence[int] = (16, 32, 96, 256),
        with_id_feature: bool = False,
        feature_channels: int = 160,
        feature_out_channels: Sequence[int] = (160, 160, 256, 256),
        **trunk: Any,
    ):
        if with_id_feature:
            do = "use a ControlNet without them, such as the published one"
            raise WeightsError(Problem("a ControlNet with features of points is not supported", do=do))
        if "down_block_types" in trunk:
            trunk |= {"up_block_types": ["UpBlockSpatioTemporal"] * len(trunk["down_block_types"])}
        super().__init__(**{"in_channels": 9, **trunk})
        del self.up_blocks, self.conv_norm_out, self.conv_act, self.conv_out
        widths = self.config.block_out_channels
        self.controlnet_cond_embedding = ControlNetConditioningEmbedding(
            widths[0], conditioning_channels, tuple(conditioning_embedding_out_channels)
        )
        self.controlnet_down_blocks = nn.ModuleList(nn.Conv2d(width, width, 1) for width in self._skip_widths())
        self.controlnet_mid_block = nn.Conv2d(widths[-1], widths[-1], 1)
        self.register_to_config(
            conditioning_channels=conditioning_channels,
            conditioning_embedding_out_channels=list(conditioning_embedding_out_channels),
            with_id_feature=False,
            feature_channels=feature_channels,
            feature_out_channels=list(feature_out_channels),
        )

    def _skip_widths(self) -> list[int]:
        """Channels of each skip: that of the entry, then of each block its layers and what it hands down."""
        widths = [self.config.block_out_channels[0]]
        for width, block in zip(self.config.block_out_channels, self.down_blocks, strict=True):
            widths += [width] * (len(block.resnets) + (block.downsamplers is not None))
        return widths

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        added_time_ids: Tensor,
        controlnet_cond: Tensor | None = None,
        conditioning_scale: Tensor | float = 1.0,
    ) -> Residuals:
        """As in the module's docstring; the scale is one for all or B, each clip's own (0 = it gets nothing).

        Without maps their embedding is left out, which is not the same as empty maps.
        """
        given = encoded(self, sample, timestep, encoder_hidden_states, added_time_ids)
        hidden = self.conv_in(sample.flatten(0, 1))
        if controlnet_cond is not None:
            hidden = hidden + self.controlnet_cond_embedding(controlnet_cond.to(sample.dtype).flatten(0, 1))
        hidden, skips = downward(self, hidden, given)
        scale = torch.as_tensor(conditioning_scale, device=hidden.device, dtype=hidden.dtype)
        scale = scale.expand(len(sample)).repeat_interleave(sample.shape[1]).view(-1, 1, 1, 1)
        down = [out(skip) * scale for out, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        return Residuals(down, self.controlnet_mid_block(hidden) * scale)


def started_from(unet: Mapping[str, Tensor], net: FramerControlNet) -> dict[str, Tensor]:
    """Weights of a fresh ControlNet: the UNet's own way down, zeros where it adds, the rest drawn by name.

    The embedding of the ids is the UNet's too; the reference leaves it at random. Of `net` only shapes are read.
    """
    found = {}
    for name, weight in net.state_dict().items():
        if name in unet:
            found[name] = unet[name]
        elif name.startswith(_OPEN):
            found[name] = torch.zeros(weight.shape)
        elif weight.ndim > 1:
            width = weight[0].numel() ** -0.5
            found[name] = (torch.rand(weight.shape, generator=torch_rng("controlnet", name)) * 2 - 1) * width
        else:
            found[name] = torch.zeros(weight.shape)
    return found
