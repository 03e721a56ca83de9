"""Owns the Wan denoiser: what is drawn below the cache line, how pictures go in, and the call into diffusers' network.

In: latents B C T H W, t B in [0, 1000], conditions {"text": B S D} and, of variants that start from a picture, "image":
latents of the whole clip with grey behind the first frame (B 16 T H W), or of the first frame alone (TI2V: B C 1 H W),
and "clip" B S D. Out: the flow noise - clean, same shape as the latents.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Generator, Tensor, nn

from cinelora.base.dtypes import torch_dtype
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Batch
from cinelora.families.wan.layouts import WEIGHT_LAYOUTS
from cinelora.families.wan.masks import first_given, given_channels, unknown_share
from cinelora.families.wan.places import open_transformer
from cinelora.nets.conditions import dropped_text
from cinelora.nets.weights import Component, build, check_network, network_of, open_network, settled

_LOWEST_SIGMA = 1e-4


class WanDenoiser:
    """Plays `contracts.roles.Denoiser`.

    `text_dropout` is the share of clips whose caption is left out in a step; `blank` the encoder's conditions of the
    empty caption, which then stand in its place (Wan was trained with the empty text's embedding, not with zeros).
    `image_dropout`, of variants that take a picture, is the share of clips whose picture is left out: TI2V then learns
    text-to-video, half of the time as in the reference; `places_image` says that it is a TI2V, which has the picture's
    latents in the place of its first frame instead of behind the channels.
    """

    def __init__(self, net: WanTransformer3DModel, *, text_dropout: float = 0.1, places_image: bool = False):
        self.net, self.text_dropout, self.places_image = net, text_dropout, places_image
        self.joins_image = net.config.in_channels > net.config.out_channels
        if self.joins_image or places_image:
            self.image_dropout = 0.5 if places_image else 0.0
        self.blank: Mapping[str, Tensor] = {}

    def parts(self) -> dict[str, nn.Module]:
        """One part."""
        return {"transformer": self.net}

    def arranged(self, latents: Tensor) -> Tensor:
        """As they are."""
        return latents

    def restored(self, latents: Tensor, frames: int) -> Tensor:
        """As they are."""
        return latents

    def condition(self, batch: Batch, rng: Generator | None) -> dict[str, Tensor]:
        """Text with that of some clips left out, and the picture with what says where it stands.

        Image-to-video: "image" B 20 T H W, the mask's four channels (1 = given) and the latents; zeros where there is
        no picture, and for clips of one frame, which would otherwise be given whole. TI2V: "image" B C 1 H W and
        "loss_mask" B 1 T H W, 1 = to be generated; neither where no clip has a picture. "clip" goes with the picture.
        Raises RunError where `blank` is needed and not set.
        """
        conditions = {"text": dropped_text(batch.conditions["text"], self.blank, self.text_dropout, rng)}
        if not (self.joins_image or self.places_image):
            return conditions
        shown = self._shown(batch, rng)
        conditions |= self._placed(batch, shown) if self.places_image else self._joined(batch, shown)
        if self.net.config.image_dim is not None and "clip" in batch.conditions:
            clip = batch.conditions["clip"]
            conditions["clip"] = clip * shown.view(-1, 1, 1).to(clip)
        return conditions

    def _shown(self, batch: Batch, rng: Generator | None) -> Tensor:
        """Which clips start from their picture: B, true or false."""
        count, frames = len(batch.latents), batch.latents.shape[2]
        if "image" not in batch.conditions or frames == 1:
            return torch.zeros(count, dtype=torch.bool)
        if rng is None or self.image_dropout <= 0:
            return torch.ones(count, dtype=torch.bool)
        return torch.rand(count, generator=rng) >= self.image_dropout

    def _joined(self, batch: Batch, shown: Tensor) -> dict[str, Tensor]:
        count, _, *size = batch.latents.shape
        if not shown.any():
            return {"image": batch.latents.new_zeros(count, self._image_channels, *size)}
        image = batch.conditions["image"]
        given = given_channels(first_given(count, size[0]), tuple(size)).to(image)
        return {"image": torch.cat([given, image], 1) * shown.view(-1, 1, 1, 1, 1).to(image)}

    @property
    def _image_channels(self) -> int:
        return self.net.config.in_channels - self.net.config.out_channels

    def _placed(self, batch: Batch, shown: Tensor) -> dict[str, Tensor]:
        if not shown.any():
            return {}
        image, (count, _, *size) = batch.conditions["image"], batch.latents.shape
        unknown = unknown_share(first_given(count, size[0]), tuple(size))
        unknown = torch.maximum(unknown, (~shown).view(-1, 1, 1, 1, 1).to(unknown))
        return {"image": image, "loss_mask": unknown.to(image.device)}

    def predict(self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """x B C T H W, t B -> flow B C T H W, in x's format; inside, in the network's own.

        What a TI2V is given is known, so its flow is that to the picture, (x - image) / sigma: whatever walks along
        it, or asks for the clean latents x - sigma flow, arrives at the picture.
        """
        flow = self.flow(x, t, conditions)
        if "loss_mask" not in conditions:
            return flow
        unknown = conditions["loss_mask"].to(x)
        sigma = (t / 1000).clamp(min=_LOWEST_SIGMA).view(-1, 1, 1, 1, 1).to(x)
        return unknown * flow + (1 - unknown) * (x - conditions["image"].to(x)) / sigma

    def flow(self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """What the network itself says, of given latents too."""
        dtype = self.net.patch_embedding.weight.dtype
        x, format_of_x, t = self.placed(x, conditions), x.dtype, t.float()
        if "loss_mask" in conditions:
            t = self.token_times(t, conditions["loss_mask"].to(t))
        if self.joins_image:
            x = torch.cat([x, conditions["image"].to(x)], 1)
        clip = conditions.get("clip")
        found = self.net(
            x.to(dtype),
            t,
            conditions["text"].to(dtype),
            encoder_hidden_states_image=None if clip is None else clip.to(dtype),
            return_dict=False,
        )
        return found[0].to(format_of_x)

    def placed(self, x: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """x with the picture's latents, free of noise, where a TI2V has been given them."""
        if "loss_mask" not in conditions:
            return x
        unknown = conditions["loss_mask"].to(x)
        return unknown * x + (1 - unknown) * conditions["image"].to(x)

    def token_times(self, t: Tensor, unknown: Tensor) -> Tensor:
        """t B and the mask B 1 T H W -> B L: what is given has time 0."""
        across_time, down, across = self.net.config.patch_size
        tokens = unknown[:, 0, ::across_time, ::down, ::across].flatten(1)
        return tokens * t[:, None]


def open_denoiser(base: str, variant: Variant, dtype: str) -> WanDenoiser:
    """The denoiser with its weights, frozen, in `dtype` but for what must stay fp32 (times, norms, modulation).

    Raises WeightsError where the base is of another variant, incomplete, or has keys too many.
    """
    component = open_transformer(base, variant, WEIGHT_LAYOUTS)
    net = _built(component, variant)
    open_network(net, component, of=f"denoiser of {variant.title}", dtype_of=_dtype_rule(torch_dtype(dtype)))
    joins = net.config.in_channels > net.config.out_channels
    return WanDenoiser(net, places_image="image" in variant.conditions and not joins)


def check_base(base: str, variant: Variant) -> None:
    """Look at the headers of a base's denoiser, so that a wrong one is told before hours of encoding.

    Raises WeightsError as `open_denoiser` does.
    """
    component = open_transformer(base, variant, WEIGHT_LAYOUTS)
    net = _built(component, variant)
    check_network(net, component, of=f"denoiser of {variant.title}")


def _built(component: Component, variant: Variant) -> WanTransformer3DModel:
    network = network_of(component, WanTransformer3DModel, variant.network["transformer"], title=variant.title)
    with settled(component):
        return build_net(network)


def skeleton(variant: Variant) -> dict[str, nn.Module]:
    """The parts without weights: names and shapes, on the meta device."""
    return {"transformer": build_net(variant.network["transformer"])}


def build_net(network: Mapping[str, Any]) -> WanTransformer3DModel:
    """The network without weights, from diffusers' constructor arguments.

    The rotary table is a constant, not a weight: it is made for real.
    """
    net = build(lambda: WanTransformer3DModel(**network))
    config = net.config
    net.rope = WanRotaryPosEmbed(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
    return net


def _dtype_rule(dtype: torch.dtype) -> Any:
    islands = tuple(WanTransformer3DModel._keep_in_fp32_modules)

    def rule(name: str) -> torch.dtype:
        return torch.float32 if any(island in name.split(".") for island in islands) else dtype

    return rule
