"""Owns the Wan denoiser: text dropout below the cache line, and the call into diffusers' network.

In: latents B 16 T H W, t B in [0, 1000], conditions {"text": B S D}. Out: the flow noise - clean, same shape.
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
from cinelora.families.wan.places import open_base
from cinelora.nets.conditions import dropped_text
from cinelora.nets.weights import build, check_network, network_of, open_network


class WanDenoiser:
    """Plays `contracts.roles.Denoiser`.

    `text_dropout` is the share of clips whose caption is left out in a step; `blank` the encoder's conditions of the
    empty caption, which then stand in its place (Wan was trained with the empty text's embedding, not with zeros).
    """

    def __init__(self, net: WanTransformer3DModel, *, text_dropout: float = 0.1):
        self.net, self.text_dropout = net, text_dropout
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
        """The text, with that of some clips left out. Raises RunError where `blank` is needed and not set."""
        return {"text": dropped_text(batch.conditions["text"], self.blank, self.text_dropout, rng)}

    def predict(self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """x B 16 T H W, t B -> flow B 16 T H W, in x's format; inside, in the network's own."""
        dtype = self.net.patch_embedding.weight.dtype
        text = conditions["text"].to(dtype)
        return self.net(x.to(dtype), t.float(), encoder_hidden_states=text, return_dict=False)[0].to(x.dtype)


def open_denoiser(base: str, variant: Variant, dtype: str) -> WanDenoiser:
    """The denoiser with its weights, frozen, in `dtype` but for what must stay fp32 (times, norms, modulation).

    Raises WeightsError where the base is of another variant, incomplete, or has keys too many.
    """
    component = open_base(base).component("transformer", WEIGHT_LAYOUTS)
    net = build_net(network_of(component, WanTransformer3DModel, variant.network["transformer"], title=variant.title))
    open_network(net, component, of=f"denoiser of {variant.title}", dtype_of=_dtype_rule(torch_dtype(dtype)))
    return WanDenoiser(net)


def check_base(base: str, variant: Variant) -> None:
    """Look at the headers of a base's denoiser, so that a wrong one is told before hours of encoding.

    Raises WeightsError as `open_denoiser` does.
    """
    component = open_base(base).component("transformer", WEIGHT_LAYOUTS)
    net = build_net(network_of(component, WanTransformer3DModel, variant.network["transformer"], title=variant.title))
    check_network(net, component, of=f"denoiser of {variant.title}")


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
