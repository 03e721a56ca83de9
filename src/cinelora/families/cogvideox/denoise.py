"""Owns the CogVideoX denoiser: what is drawn below the cache line, and the call into diffusers' network.

In: latents B C T H W, t B in [0, 1000), conditions {"text": B S D} and for image-to-video K noised versions of the
first frame as moments {"image_mean", "image_logvar": B K C H W}. Out: the velocity, same shape as the latents.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Generator, Tensor, nn

from cinelora.base.dtypes import torch_dtype
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Batch
from cinelora.families.cogvideox.layouts import WEIGHT_LAYOUTS
from cinelora.nets.conditions import dropped_text
from cinelora.nets.weights import Base, build, check_network, network_of, open_network

OFS = 2.0
"""The constant that 1.5's image-to-video network was trained with beside the time."""


class CogVideoXDenoiser:
    """Plays `contracts.roles.Denoiser`.

    `text_dropout` is the share of clips whose caption is left out in a step, `image_dropout` that of clips whose image
    is: zeros stand in its place, as in the reference script.
    """

    def __init__(self, net: CogVideoXTransformer3DModel, *, text_dropout: float = 0.0, image_dropout: float = 0.05):
        self.net, self.text_dropout = net, text_dropout
        self.takes_image = net.config.in_channels > net.config.out_channels
        if self.takes_image:
            self.image_dropout = image_dropout
        self.blank: Mapping[str, Tensor] = {}
        self.rope_base: tuple[int, int] | None = None
        """Tokens down and across that rotary positions are scaled to; None = those of the network's own size."""

    def parts(self) -> dict[str, nn.Module]:
        """One part."""
        return {"transformer": self.net}

    def arranged(self, latents: Tensor) -> Tensor:
        """Front copies of the first latent frame where T does not divide into tokens: B C T' H W."""
        rest = -latents.shape[2] % (self.net.config.patch_size_t or 1)
        return torch.cat([latents[:, :, :1]] * rest + [latents], 2)

    def restored(self, latents: Tensor, frames: int) -> Tensor:
        """The last `frames` latent frames: without what `arranged` put in front."""
        return latents[:, :, latents.shape[2] - frames :]

    def condition(self, batch: Batch, rng: Generator | None) -> dict[str, Tensor]:
        """Text with some left out; the image's latents in the first frame, arranged as the latents: B C T' H W.

        One noised draw of the image is taken and sampled from its moments, some are left out (zeros), as where there is
        none at all; without `rng` nothing is drawn: whole text, and the mean of the image without noise.
        """
        conditions = {"text": dropped_text(batch.conditions["text"], self.blank, self.text_dropout, rng)}
        if self.takes_image:
            frames = torch.zeros_like(batch.latents, dtype=torch.float32)
            if "image_mean" in batch.conditions:
                means, logvars = batch.conditions["image_mean"], batch.conditions["image_logvar"]
                frames[:, :, 0] = self._image(means, logvars, rng)
            conditions["image"] = self.arranged(frames)
        return conditions

    def _image(self, means: Tensor, logvars: Tensor, rng: Generator | None) -> Tensor:
        """B K C H W -> B C H W; number 0 of K is the image without noise, for previews and held-out losses."""
        if rng is None:
            return means[:, 0].float()
        count = means.shape[1]
        drawn = torch.randint(min(1, count - 1), count, (len(means),), generator=rng)
        kept = torch.rand(len(means), generator=rng) >= self.image_dropout
        mean, logvar = (part.float()[torch.arange(len(means)), drawn.to(part.device)] for part in (means, logvars))
        noise = torch.randn(mean.shape, generator=rng).to(mean)
        return (mean + torch.exp(0.5 * logvar) * noise) * kept.view(-1, 1, 1, 1).to(mean)

    def predict(self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """x B C T H W (T as `arranged`), t B -> velocity, in x's format; inside, in the network's own."""
        config, dtype = self.net.config, self.net.patch_embed.proj.weight.dtype
        video = x.transpose(1, 2)
        if self.takes_image:
            video = torch.cat([video, conditions["image"].to(x).transpose(1, 2)], 2)
        ofs = None if config.ofs_embed_dim is None else x.new_full((1,), OFS, dtype=dtype)
        velocity = self.net(
            hidden_states=video.to(dtype),
            encoder_hidden_states=conditions["text"].to(dtype),
            timestep=t.long(),
            ofs=ofs,
            image_rotary_emb=self._rotary(video),
            return_dict=False,
        )[0]
        return velocity.transpose(1, 2).to(x.dtype)

    def _rotary(self, video: Tensor) -> tuple[Tensor, Tensor] | None:
        """Tables of cosines and sines, L K: scaled to the base grid (1.0), or whole positions (1.5)."""
        config = self.net.config
        if not config.use_rotary_positional_embeddings:
            return None
        patch, across_time = config.patch_size, config.patch_size_t
        grid = video.shape[3] // patch, video.shape[4] // patch
        base = self.rope_base or (config.sample_height // patch, config.sample_width // patch)
        if across_time is None:
            crop = get_resize_crop_region_for_grid(grid, base[1], base[0])
            made = get_3d_rotary_pos_embed(
                config.attention_head_dim, crop, grid, temporal_size=video.shape[1], device=video.device
            )
        else:
            made = get_3d_rotary_pos_embed(
                config.attention_head_dim,
                None,
                grid,
                temporal_size=video.shape[1] // across_time,
                grid_type="slice",
                max_size=(max(base[0], grid[0]), max(base[1], grid[1])),
                device=video.device,
            )
        return made[0], made[1]


def open_denoiser(base: str, variant: Variant, dtype: str) -> CogVideoXDenoiser:
    """The denoiser with its weights, frozen, in `dtype`. Raises WeightsError where the base is of another variant."""
    component = Base(base).component("transformer", WEIGHT_LAYOUTS)
    network = network_of(component, CogVideoXTransformer3DModel, variant.network["transformer"], title=variant.title)
    net = build_net(network)
    number_format = torch_dtype(dtype)
    open_network(net, component, of=f"denoiser of {variant.title}", dtype_of=lambda name: number_format)
    return CogVideoXDenoiser(net)


def check_base(base: str, variant: Variant) -> None:
    """Look at the headers of a base's denoiser, so that a wrong one is told before hours of encoding."""
    component = Base(base).component("transformer", WEIGHT_LAYOUTS)
    network = network_of(component, CogVideoXTransformer3DModel, variant.network["transformer"], title=variant.title)
    check_network(build_net(network), component, of=f"denoiser of {variant.title}")


def skeleton(variant: Variant) -> dict[str, nn.Module]:
    """The parts without weights: names and shapes, on the meta device."""
    return {"transformer": build_net(variant.network["transformer"])}


def build_net(network: Mapping[str, Any]) -> CogVideoXTransformer3DModel:
    """The network without weights; a table of positions that is no weight is made for real."""
    net = build(lambda: CogVideoXTransformer3DModel(**network))
    config, embed = net.config, net.patch_embed
    if "pos_embedding" in embed._non_persistent_buffers_set:
        size = config.sample_height, config.sample_width, config.sample_frames
        embed.pos_embedding = embed._get_positional_embeddings(*size)
    return net
