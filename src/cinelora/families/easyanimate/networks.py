"""Owns which module holds each of EasyAnimate's denoising networks, and what their input channels are for.

In: a config as published (`_class_name` and the constructor's arguments under the original's names). Out: the network
on the meta device; how it is called; the mode of training that its input channels fit.

A module named here has
    build(arguments) -> nn.Module            on the meta device; raises WeightsError for values that are not supported
    predict(net, x, t, conditions) -> Tensor x B C T H W, t B -> B C' T H W in x's number format
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from cinelora.base.errors import Problem, WeightsError, nearest

NETWORKS = {
    "EasyAnimateTransformer3DModel": "cinelora.families.easyanimate.dit",
    "HunyuanTransformer3DModel": "cinelora.families.easyanimate.hunyuan",
    "Transformer3DModel": "cinelora.families.easyanimate.pixart",
}
"""By the original's class name: v5 and v5.1, v4, v2 and v3."""
CLASS = "_class_name"


def open_network(config: Mapping[str, Any]) -> nn.Module:
    """The network of a config, on the meta device; `nets.weights.fill` gives it weights.

    Raises WeightsError for an unknown class and for values that are not supported.
    """
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    network: nn.Module = _module(config.get(CLASS, "")).build(arguments)
    return network


def predict(net: nn.Module, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor], *, kind: str) -> Tensor:
    """Call a network of class `kind`: x B C T H W, t B -> B C' T H W in x's number format.

    What stands behind the noisy channels, "inpaint" or "control", is zeros where it is not among the conditions.
    """
    inner: Any = net
    behind = inner.config.in_channels - x.shape[1]
    if behind and not conditions.keys() & {"inpaint", "control"}:
        conditions = {**conditions, "inpaint": x.new_zeros(len(x), behind, *x.shape[2:])}
    found: Tensor = _module(kind).predict(net, x, t, conditions)
    return found


def _module(kind: str) -> Any:
    if kind not in NETWORKS:
        raise WeightsError(
            Problem(
                "the denoiser's config names no network of EasyAnimate",
                found=f"{CLASS} {kind or 'missing'}",
                allowed=", ".join(NETWORKS),
                nearest=nearest(kind, NETWORKS),
                do="name the folder of an EasyAnimate model as model.base",
            )
        )
    return import_module(NETWORKS[kind])


def channels_by_mode(latent_channels: int, *, direct_mask: bool) -> dict[str, int]:
    """Input channels of each mode.

    Inpaint networks take a mask and the latents of what is given behind the noisy ones: the mask is one channel where
    it is resized as it is (v5, `direct_mask`), or has been through the autoencoder (v3, v4). Control networks take
    the control video's latents, those of v5.1 a reference picture's behind them.
    """
    inpaint = 2 * latent_channels + (1 if direct_mask else latent_channels)
    modes = {"normal": latent_channels, "inpaint": inpaint, "control": 2 * latent_channels}
    return {**modes, "control with a reference": 3 * latent_channels} if direct_mask else modes


def refuse_other_mode(found: int, mode: str, modes: Mapping[str, int], *, where: str = "") -> None:
    """See that weights take the input channels of a mode. Raises WeightsError that names the mode which they fit."""
    if found == modes[mode]:
        return
    fits = next((name for name, channels in modes.items() if channels == found), "")
    told = f"{modes[mode]} for {mode}"
    if not fits:
        do = "name weights of this version as model.base"
    elif fits.startswith("control"):
        do = "these are control weights: name the plain or the inpaint ones as model.base, or the control variant"
    else:
        do = (
            f"these are {fits} weights: set model.variant to the {fits} variant of this version, or name {mode} weights"
        )
    what = "the denoiser's input channels do not fit the mode of training"
    raise WeightsError(Problem(what, found=f"{found} channels", allowed=told, where=where, do=do))
