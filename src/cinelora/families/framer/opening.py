"""Owns how Framer's denoiser comes from a base: whole, from plain Stable Video Diffusion, or as a skeleton."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from diffusers import UNetSpatioTemporalConditionModel
from torch import nn

from cinelora.base.dtypes import torch_dtype
from cinelora.base.log import logger
from cinelora.contracts.card import Variant
from cinelora.families.framer.controlnet import FramerControlNet, started_from
from cinelora.families.framer.denoise import FramerDenoiser
from cinelora.families.framer.places import denoiser_component, told_with_mask, with_mask
from cinelora.families.framer.unet import FramerUNet
from cinelora.nets.tracks import draw_maps
from cinelora.nets.weights import Component, build, check_network, fill, network_of, open_network, refuse_other


def open_denoiser(base: str, variant: Variant, dtype: str) -> FramerDenoiser:
    """The denoiser with its weights, frozen, in `dtype`. Raises WeightsError where the base is of another variant."""
    unet = open_unet(base, variant, torch_dtype(dtype))
    controlnet = open_controlnet(base, variant, unet) if "controlnet" in variant.parts else None
    denoiser = FramerDenoiser(unet, controlnet)
    denoiser.fps = variant.geometry.fps
    if "tracks" in variant.conditions:
        denoiser.draw_maps = partial(draw_maps, latent_cell=variant.geometry.latent_cell)
    return denoiser


def open_unet(base: str, variant: Variant, dtype: torch.dtype) -> Any:
    """The UNet; plain SVD's gets what it lacks (`places.with_mask`), which is told."""
    component = denoiser_component(base, "unet")
    net: Any = build_unet(_unet_network(component, variant))
    mend = told_with_mask if component.files else dict
    open_network(net, component, of=_title(variant, "UNet"), dtype_of=lambda name: dtype, mend=mend)
    return net


def open_controlnet(base: str, variant: Variant, unet: nn.Module) -> Any:
    """The base's ControlNet, or for variants on plain SVD a fresh one from the UNet's own way down, which is told."""
    dtype = unet.conv_in.weight.dtype
    if not variant.network.get("fresh_controlnet"):
        component = denoiser_component(base, "controlnet")
        net: Any = build_controlnet(_controlnet_network(component, variant))
        open_network(net, component, of=_title(variant, "ControlNet"), dtype_of=lambda name: dtype)
        return net
    logger.info("the ControlNet is new: a copy of the UNet's way down, and zeros where it adds to it")
    net = build_controlnet({**variant.network["unet"], **variant.network["controlnet"]})
    fill(net, started_from(unet.state_dict(), net), of=_title(variant, "ControlNet"), dtype_of=lambda name: dtype)
    return net


def check_base(base: str, variant: Variant) -> None:
    """Look at the headers of a base's networks, so that a wrong one is told before hours of encoding."""
    component = denoiser_component(base, "unet")
    net = build_unet(_unet_network(component, variant))
    if component.files:
        refuse_other(net, with_mask(component.outline()), of=_title(variant, "UNet"), where=component.where)
    if "controlnet" in variant.parts and not variant.network.get("fresh_controlnet"):
        component = denoiser_component(base, "controlnet")
        net = build_controlnet(_controlnet_network(component, variant))
        check_network(net, component, of=_title(variant, "ControlNet"))


def skeleton(variant: Variant) -> dict[str, nn.Module]:
    """The parts without weights: names and shapes, on the meta device."""
    network = variant.network["unet"]
    parts: dict[str, nn.Module] = {"unet": build_unet(network)}
    if "controlnet" in variant.parts:
        parts["controlnet"] = build_controlnet({**network, **variant.network["controlnet"]})
    return parts


def build_unet(network: Mapping[str, Any]) -> nn.Module:
    """The UNet without weights, from the constructor arguments of its public class."""
    return _emptied(lambda: FramerUNet(**network))


def build_controlnet(network: Mapping[str, Any]) -> nn.Module:
    """The ControlNet without weights, from the constructor arguments of its public class."""
    return _emptied(lambda: FramerControlNet(**network))


def _emptied(make: Callable[[], nn.Module]) -> nn.Module:
    """Without weights; those that diffusers makes by the old constructor of tensors (mix factors) heed no device."""
    return build(make).to("meta")


def _unet_network(component: Component, variant: Variant) -> dict[str, Any]:
    return network_of(component, UNetSpatioTemporalConditionModel, variant.network["unet"], title=variant.title)


def _controlnet_network(component: Component, variant: Variant) -> dict[str, Any]:
    """The trunk's arguments and the ControlNet's own, each as far as its class knows them."""
    trunk = {name: value for name, value in variant.network["unet"].items() if name != "up_block_types"}
    return network_of(component, UNetSpatioTemporalConditionModel, trunk, title=variant.title) | network_of(
        component, FramerControlNet, variant.network["controlnet"], title=variant.title
    )


def _title(variant: Variant, kind: str) -> str:
    return f"{kind} of {variant.title}"
