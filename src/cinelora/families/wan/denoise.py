"""Owns the Wan denoiser: text dropout below the cache line, and the call into diffusers' network.

In: latents B 16 T H W, t B in [0, 1000], conditions {"text": B S D}. Out: the flow noise - clean, same shape.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Generator, Tensor, nn

from cinelora.base.dtypes import torch_dtype
from cinelora.base.errors import Problem, RunError, WeightsError
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Batch
from cinelora.families.wan.layouts import WEIGHT_LAYOUTS
from cinelora.families.wan.weights import Component, build, fill, locate, refuse_other


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

    def condition(self, batch: Batch, rng: Generator) -> dict[str, Tensor]:
        """The text, with that of some clips left out. Raises RunError where `blank` is needed and not set."""
        text = batch.conditions["text"]
        if self.text_dropout <= 0:
            return {"text": text}
        if "text" not in self.blank:
            raise RunError(
                Problem(
                    "text dropout needs the embedding of the empty caption",
                    do="set denoiser.blank = encoder.blank() before training, or text_dropout = 0",
                )
            )
        dropped = torch.rand(len(text), generator=rng) < self.text_dropout
        return {"text": torch.where(dropped.view(-1, 1, 1).to(text.device), self.blank["text"].to(text), text)}

    def predict(self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """x B 16 T H W, t B -> flow B 16 T H W, in x's format; inside, in the network's own."""
        dtype = self.net.patch_embedding.weight.dtype
        text = conditions["text"].to(dtype)
        return self.net(x.to(dtype), t.float(), encoder_hidden_states=text, return_dict=False)[0].to(x.dtype)


def open_denoiser(base: str, variant: Variant, dtype: str) -> WanDenoiser:
    """The denoiser with its weights, frozen, in `dtype` but for what must stay fp32 (times, norms, modulation).

    Raises WeightsError where the base is of another variant, incomplete, or has keys too many.
    """
    component = locate(base, "transformer", WEIGHT_LAYOUTS)
    network = _network_of(component, variant)
    net = build_net(network)
    dtype_of = _dtype_rule(torch_dtype(dtype))
    fill(net, component.tensors(), of=f"denoiser of {variant.title}", dtype_of=dtype_of, where=component.where)
    return WanDenoiser(net)


def check_base(base: str, variant: Variant) -> None:
    """Look at the headers of a base's denoiser, so that a wrong one is told before hours of encoding.

    Raises WeightsError as `open_denoiser` does.
    """
    component = locate(base, "transformer", WEIGHT_LAYOUTS)
    net = build_net(_network_of(component, variant))
    refuse_other(net, component.outline(), of=f"denoiser of {variant.title}", where=component.where)


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


def _network_of(component: Component, variant: Variant) -> dict[str, Any]:
    """The variant's constructor arguments; a config beside the weights must not contradict them."""
    network = dict(variant.network["transformer"])
    if component.config is None:
        return network
    known = inspect.signature(WanTransformer3DModel.__init__).parameters
    stated = {key: value for key, value in component.config.items() if key in known}
    wrong = {key: stated[key] for key in network if key in stated and stated[key] != network[key]}
    if wrong:
        raise WeightsError(
            Problem(
                f"the base is not {variant.title}",
                found=", ".join(f"{key} {value}" for key, value in wrong.items()),
                allowed=", ".join(f"{key} {network[key]}" for key in wrong),
                where=str(component.files[0].parent / "config.json"),
                do="set model.variant to the base's own, or name another base",
            )
        )
    return {**stated, **network}


def _dtype_rule(dtype: torch.dtype) -> Any:
    islands = tuple(WanTransformer3DModel._keep_in_fp32_modules)

    def rule(name: str) -> torch.dtype:
        return torch.float32 if any(island in name.split(".") for island in islands) else dtype

    return rule
