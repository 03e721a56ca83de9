"""Owns the EasyAnimate denoiser of every version: what is drawn below the cache line, which weights fit a variant.

In: latents B C T H W, t B in [0, 1000], conditions {"text": B S D}, of a second encoder "text_t5", their masks, and of
inpaint variants K drawn tellings of what is given: "inpaint" B K C T H W, and of v3 and v4 "clip" B K D or B K S D.
Out: the prediction, same shape as the latents, or twice the channels where the network says how sure it is. The
networks are behind `networks`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from cinelora.base.dtypes import torch_dtype
from cinelora.base.errors import Problem, WeightsError
from cinelora.base.log import logger
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Batch
from cinelora.families.easyanimate.clip import clip_mask
from cinelora.families.easyanimate.inpaint import chosen
from cinelora.families.easyanimate.layouts import LAYOUTS_BY_CLASS
from cinelora.families.easyanimate.networks import CLASS, channels_by_mode, open_network, predict, refuse_other_mode
from cinelora.nets.conditions import dropped_texts
from cinelora.nets.schedule import stated_noise
from cinelora.nets.weights import Base, Component, check_network
from cinelora.nets.weights import open_network as give_weights

TEXTS = ("text", "text_mask", "text_t5", "text_t5_mask")
"""Conditions that are dropped together with a caption."""
CLIP_BELOW = 400.0
"""The time below which previews look at CLIP's picture: the last 40 % of the way, as in the reference's pipelines."""
_INPUT_CONVOLUTIONS = ("proj.weight", "pos_embed.proj.weight")
_SIZES = {
    *("num_attention_heads", "attention_head_dim", "num_layers", "mmdit_layers", "hidden_size", "out_channels"),
    *("patch_size", "time_embed_dim", "text_embed_dim", "text_embed_dim_t5", "add_norm_text_encoder"),
    *("cross_attention_dim", "cross_attention_dim_t5", "caption_channels"),
}
"""What a base's config must say as the card does. Of all else the card's word stands, as the original's own YAML files
overrule configs; what that makes of the network is seen in the weights' names and shapes."""

_FREE = {"sample_size"}
"""Of what the card only assumes the base's word stands: published sizes differ in it, with the weights alike."""


class EasyAnimateDenoiser:
    """Plays `contracts.roles.Denoiser`.

    `text_dropout` is the share of clips whose caption is left out in a step, `image_dropout`, of inpaint networks, that
    of clips that are told nothing of what is given (on top of the masks that give nothing).
    """

    def __init__(self, net: nn.Module, kind: str, *, latent_channels: int, text_dropout: float = 0.1):
        self.net, self.kind, self.text_dropout = net, kind, text_dropout
        self.latent_channels = latent_channels
        if self.mode == "inpaint":
            self.image_dropout = 0.0
        self.blank: Mapping[str, Tensor] = {}

    @property
    def mode(self) -> str:
        """normal, inpaint, or one of control, as the input channels say."""
        modes = channels_by_mode(self.latent_channels, direct_mask=direct_mask(self.kind))
        return next((name for name, channels in modes.items() if channels == self._config.in_channels), "")

    @property
    def _config(self) -> Any:
        return self.net.config

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
        """Texts with those of some clips left out; one telling of each clip: "inpaint" B C T H W, "clip" B D or B S D.

        "clip_mask" B Q then says which of the network's own image tokens are seen. Where nothing is told of a batch
        there is no "inpaint", which the network hears as zeros. Without `rng` nothing is drawn, and "clip_below" B says
        at which times the picture is looked at. Raises RunError where `blank` is needed and not set.
        """
        conditions = dict(batch.conditions)
        texts = {name: conditions[name] for name in TEXTS if name in conditions}
        conditions |= dropped_texts(texts, self.blank, self.text_dropout, rng)
        if "inpaint" in conditions:
            conditions["inpaint"] = chosen(conditions["inpaint"], rng, dropout=getattr(self, "image_dropout", 0.0))
        if "clip" in conditions:
            seen = _one_of(conditions["clip"], rng)
            conditions |= {"clip": seen, "clip_mask": clip_mask(len(seen), self._config.n_query, rng).to(seen.device)}
            if rng is None:
                conditions["clip_below"] = torch.full((len(seen),), CLIP_BELOW, device=seen.device)
        return conditions

    def predict(self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """x B C T H W, t B -> B C' T H W in x's format; inside, in the network's own."""
        if "clip_below" in conditions:
            late = (t < conditions["clip_below"]).to(conditions["clip_mask"])
            conditions = {**conditions, "clip_mask": conditions["clip_mask"] * late[:, None]}
        return predict(self.net, x, t, conditions, kind=self.kind)


def _one_of(versions: Tensor, rng: Generator | None) -> Tensor:
    """B K ... -> B ...: one drawn version of each clip; number 0 without `rng`, and where there is no other."""
    if rng is None:
        return versions[:, 0]
    count = versions.shape[1]
    numbers = torch.randint(min(1, count - 1), count, (len(versions),), generator=rng).to(versions.device)
    return versions[torch.arange(len(versions), device=versions.device), numbers]


def direct_mask(kind: str) -> bool:
    """True where inpaint networks of a class take the mask as one channel (v5, v5.1)."""
    return kind == "EasyAnimateTransformer3DModel"


def open_denoiser(base: str, variant: Variant, dtype: str) -> EasyAnimateDenoiser:
    """The denoiser with its weights, frozen, in `dtype`.

    Raises WeightsError where the base is of another version, size or mode, incomplete, or has keys too many.
    """
    component, config = _component(base, variant)
    net = _outline(component, config)
    number_format = torch_dtype(dtype)
    give_weights(net, component, of=f"denoiser of {variant.title}", dtype_of=lambda name: number_format)
    denoiser = EasyAnimateDenoiser(net, config[CLASS], latent_channels=variant.geometry.latent_channels)
    if denoiser.mode.startswith("control"):
        logger.info("%s takes a control video's latents; they are zeros unless they are given", variant.title)
    return denoiser


def check_base(base: str, variant: Variant) -> None:
    """Look at the headers of a base's denoiser, so that a wrong one is told before hours of encoding.

    Raises WeightsError as `open_denoiser` does.
    """
    component, config = _component(base, variant)
    check_network(_outline(component, config), component, of=f"denoiser of {variant.title}")


def schedule(base: str, variant: Variant) -> dict[str, Any]:
    """Options of [noise] that the base's scheduler config states; {} where it has none. Raises WeightsError."""
    return stated_noise(Base(base))


def skeleton(variant: Variant) -> dict[str, nn.Module]:
    """The parts without weights: names and shapes, on the meta device."""
    return {"transformer": open_network(variant.network["transformer"])}


def _outline(component: Component, config: Mapping[str, Any]) -> nn.Module:
    """The network without weights. Raises WeightsError that names the config file where that says what is not built."""
    try:
        return open_network(config)
    except WeightsError as error:
        where = _config_file(component)
        raise WeightsError(*(replace(one, where=one.where or where) for one in error.problems)) from error


def _config_file(component: Component) -> str:
    return str(component.files[0].parent / "config.json") if component.files else component.where


def _component(base: str, variant: Variant) -> tuple[Component, dict[str, Any]]:
    """The files of a variant's denoiser and its whole config. Raises WeightsError where they are of another one."""
    wanted = dict(variant.network["transformer"])
    component = Base(base).component("transformer", LAYOUTS_BY_CLASS[wanted[CLASS]])
    return component, _config_of(component, wanted, variant)


def _config_of(component: Component, wanted: Mapping[str, Any], variant: Variant) -> dict[str, Any]:
    """The card's settings, and what the config beside the weights says of others."""
    stated = {key: value for key, value in (component.config or {}).items() if not key.startswith("_") or key == CLASS}
    where = _config_file(component)
    _refuse_other_class(stated.get(CLASS, wanted[CLASS]), wanted[CLASS], variant.title, where)
    _refuse_other_channels(component, wanted, variant)
    wrong = {key: stated[key] for key in _SIZES & wanted.keys() & stated.keys() if stated[key] != wanted[key]}
    if wrong:
        raise WeightsError(
            Problem(
                f"the base is not {variant.title}",
                found=", ".join(f"{key} {value}" for key, value in wrong.items()),
                allowed=", ".join(f"{key} {wanted[key]}" for key in wrong),
                where=where,
                do="set model.variant to the base's own, or name another base",
            )
        )
    free = {key: stated[key] for key in _FREE & stated.keys()}
    return {**stated, **wanted, **free}


def _refuse_other_class(found: str, wanted: str, title: str, where: str) -> None:
    if found != wanted:
        do = "set model.variant to the base's own version, or name another base"
        raise WeightsError(Problem(f"the base is not {title}", found=found, allowed=wanted, where=where, do=do))


def _refuse_other_channels(component: Component, wanted: Mapping[str, Any], variant: Variant) -> None:
    """See by the input convolution in the files that weights are of the variant's mode."""
    if not component.files:
        return
    outline = component.outline()
    weight = next((outline[name] for name in _INPUT_CONVOLUTIONS if name in outline), None)
    if weight is None:
        return
    modes = channels_by_mode(variant.geometry.latent_channels, direct_mask=direct_mask(wanted[CLASS]))
    mode = next((name for name, channels in modes.items() if channels == wanted["in_channels"]), "normal")
    refuse_other_mode(weight.shape[1], mode, modes, where=component.where)
