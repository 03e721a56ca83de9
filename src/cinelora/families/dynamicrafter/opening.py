"""Owns opening the denoiser's networks: from a base whole or not at all, or without weights."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from cinelora.base.dtypes import torch_dtype
from cinelora.contracts.card import Variant
from cinelora.families.dynamicrafter.denoise import DynamiCrafterDenoiser
from cinelora.families.dynamicrafter.layouts import RESAMPLER_LAYOUTS, WEIGHT_LAYOUTS
from cinelora.families.dynamicrafter.nets.resampler import Resampler, ResamplerShape
from cinelora.families.dynamicrafter.nets.shape import shape_of
from cinelora.families.dynamicrafter.nets.unet import UNet3D
from cinelora.families.dynamicrafter.places import open_part
from cinelora.nets.weights import build, check_network, open_network

_LAYOUTS = {"unet": WEIGHT_LAYOUTS, "resampler": RESAMPLER_LAYOUTS}


def open_denoiser(base: str, variant: Variant, dtype: str) -> DynamiCrafterDenoiser:
    """The denoiser with its weights, frozen, in `dtype`; norms compute in fp32.

    Raises WeightsError where the base is of another variant, incomplete, or has keys too many.
    """
    parts, number_format = skeleton(variant), torch_dtype(dtype)
    for name, net in parts.items():
        component = open_part(base, name, _LAYOUTS[name])
        open_network(net, component, of=f"{name} of {variant.title}", dtype_of=lambda key: number_format)
    unet, resampler = parts.values()
    return DynamiCrafterDenoiser(unet, resampler, interpolates=bool(variant.network.get("interpolates")))


def check_base(base: str, variant: Variant) -> None:
    """Look at the names and shapes of a base's denoiser, so that a wrong one is told before hours of encoding.

    Raises WeightsError as `open_denoiser` does.
    """
    for name, net in skeleton(variant).items():
        check_network(net, open_part(base, name, _LAYOUTS[name]), of=f"{name} of {variant.title}")


def skeleton(variant: Variant) -> dict[str, Any]:
    """The parts without weights: names and shapes, on the meta device."""
    network = variant.network
    return {"unet": build_unet(network["unet"]), "resampler": build_resampler(network["resampler"])}


def build_unet(params: Mapping[str, Any]) -> nn.Module:
    """The UNet without weights, from the original's constructor arguments. Raises WeightsError for unsupported ones."""
    shape = shape_of(params)
    return build(lambda: UNet3D(shape))


def build_resampler(params: Mapping[str, Any]) -> nn.Module:
    """The Resampler without weights, from the original's constructor arguments."""
    return build(lambda: Resampler(ResamplerShape(**params)))
