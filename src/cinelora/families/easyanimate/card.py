"""The card of the EasyAnimate family: the published models of v5.1, v5, v4, v3 and v2, and a small one of each version.

Sources: the models' config.json and scheduler_config.json files and the original's YAML files (`sizes`); 49 frames at 8
per second (v5, v5.1), 144 at 24 (v2 to v4); 50 steps, guidance 6. A variant is a set of published weights, so it also
says the mode of training: "inp" weights take a mask and pictures (train_mode "inpaint"), the plain ones text alone.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cinelora.contracts.card import Family, Variant
from cinelora.contracts.geometry import Geometry
from cinelora.families.easyanimate import sizes
from cinelora.families.easyanimate.targets import DEFAULT_PRESET, LORA_PRESETS
from cinelora.families.easyanimate.usage import OWN_LINES, PEFT_LINES
from cinelora.families.easyanimate.vae_config import FRAMES

_FLOW = {"kind": "flow", "sampling_shift": math.e}
"""v5.1 learns without a shift, and samples with mu = 1, which is a shift of e."""
_VELOCITY = {
    "kind": "ddpm",
    "prediction": "v",
    "betas": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "zero_terminal_snr": True,
}
"""Of v5."""
_HUNYUAN = {**_VELOCITY, "beta_end": 0.03, "zero_terminal_snr": False}
"""HunyuanDiT's, from which v4 comes; the published v4's own table could not be looked at. What a recipe says is
compared with the base's scheduler_config.json."""
_SIGMA = {"kind": "sigma", "betas": "linear", "beta_start": 0.0001, "beta_end": 0.02, "spacing": "linspace"}
"""Of v3 and v2."""

_PROCESS = {"v5.1": _FLOW, "v5": _VELOCITY, "v4": _HUNYUAN, "v3": _SIGMA, "v2": _SIGMA}
_SAMPLER = {"v5.1": "euler-table", "v5": "ddim", "v4": "ddim", "v3": "dpm++", "v2": "dpm++"}
_WAY = {"v5.1": "cache_mag_vae", "v5": "cache_mag_vae", "v4": "cache_compression_vae"}
_WAY |= {"v3": "slice_compression_vae", "v2": "slice_mag_vae"}
_TEXT_LENGTH = {"v5.1": 256, "v5": 256, "v4": 256, "v3": 256, "v2": 120}
_HUB = "alibaba-pai/EasyAnimate"
_SPELLINGS = "cinelora.families.easyanimate.layouts:"
_PIXART = {"lora_layouts": _SPELLINGS + "OLDER_LORA_LAYOUTS", "weight_layouts": _SPELLINGS + "PIXART_LAYOUTS"}
_LAYOUTS: dict[str, dict[str, str]] = {
    "v5.1": {},
    "v5": {},
    "v4": {**_PIXART, "weight_layouts": _SPELLINGS + "HUNYUAN_LAYOUTS"},
    "v3": _PIXART,
    "v2": _PIXART,
}
"""How weights and adapters of a version are spelt, where not as v5's."""


def _sampling(version: str, num_steps: int = 50) -> dict[str, Any]:
    return {"num_steps": num_steps, "guidance": 6.0, "sampler": _SAMPLER[version]}


def _geometry(version: str, height: int, width: int) -> Geometry:
    if version in ("v5.1", "v5"):
        return Geometry(fps=8, frames=49, height=height, width=width, max_frames=49)
    frames = FRAMES[_WAY[version]]
    return Geometry(fps=24, frames=144, height=height, width=width, max_frames=144, latent_channels=4, **frames)


def _texts(version: str, *, length: int, widths: Mapping[str, int], bert_length: int = 77) -> dict[str, str]:
    """Conditions that captions give; masks of those networks that read them."""
    if version == "v5.1":
        return {"text": f"{length} {widths['qwen']}"}
    if version in ("v3", "v2"):
        return {"text": f"{length} {widths['t5']}", "text_mask": f"{length}"}
    texts = {"text": f"{bert_length} {widths['bert']}", "text_t5": f"{length} {widths['mt5']}"}
    return texts if version == "v5" else {**texts, "text_mask": f"{bert_length}", "text_t5_mask": f"{length}"}


def _pictures(version: str, clip: Mapping[str, int]) -> dict[str, str]:
    """Conditions of inpaint weights: K tellings of which pixels are given, and of v4 and v3 what CLIP sees."""
    if version in ("v5.1", "v5"):
        return {"inpaint": "K 17 T H W"}
    seen = f"K {clip['tokens']} {clip['width']}" if version == "v4" else f"K {clip['projection']}"
    return {"inpaint": "K 8 T H W", "clip": seen}


_WIDTHS = {"qwen": 3584, "bert": 1024, "mt5": 2048, "t5": 4096}
_CLIP = {"tokens": 256, "width": 1024, "projection": 768}


def _encoders(version: str) -> dict[str, Any]:
    """Which text encoders there are; the base's own config files say their sizes."""
    return {"text_encoder": {}, "text_encoder_2": {}} if version in ("v5", "v4") else {"text_encoder": {}}


def _published(
    name: str, title: str, base: str, transformer: sizes.Network, size: tuple[int, int], *, mode: str = "normal"
) -> Variant:
    """A variant of published weights; `size` is height and width."""
    version = name.partition("-")[0]
    network = {"transformer": transformer, "vae": sizes.VAES[_WAY[version]], **_encoders(version)}
    conditions = _texts(version, length=_TEXT_LENGTH[version], widths=_WIDTHS)
    if mode == "inpaint":
        conditions |= _pictures(version, _CLIP)
        if "clip" in conditions:
            network["image_encoder"] = {}
    return Variant(
        name=name,
        title=f"EasyAnimate {title}",
        base=_HUB + base,
        geometry=_geometry(version, *size),
        conditions=conditions,
        process=_PROCESS[version],
        sampling=_sampling(version),
        network=network,
        text_length=_TEXT_LENGTH[version],
        usage=PEFT_LINES if version == "v5.1" and mode == "normal" else OWN_LINES,
        **_LAYOUTS[version],
    )


_IN = {"normal": 16, "inpaint": 33, "control": 48}
"""Input channels of v5.1; its control weights take a reference picture's latents beside the control video's, v5's do
not."""
_LAYERS = {"12b": {"layers": 48, "joint": 48}, "7b": {"layers": 36, "joint": 18}}
_MODES = {
    "normal": ("", "", "text-to-video"),
    "inpaint": ("-inp", "-InP", "text- and image-to-video"),
    "control": ("-control", "-Control", "control (the control video is zeros)"),
}
_WIDE = 384, 672


def _fifth(version: str, size: str, mode: str) -> Variant:
    text = sizes.FIVE_ONE if version == "v5.1" else sizes.FIVE
    channels = 32 if (version, mode) == ("v5", "control") else _IN[mode]
    ending, hub_ending, words = _MODES[mode]
    name, base = f"{version}-{size}{ending}", f"{version.upper()}-{size}-zh{hub_ending}"
    transformer = sizes.dit(text, in_channels=channels, **_LAYERS[size])
    return _published(name, f"{version} {size.upper()} {words}", base, transformer, _WIDE, mode=mode)


FIVE_ONE = tuple(_fifth("v5.1", size, mode) for size in _LAYERS for mode in _MODES)
FIVE = tuple(_fifth("v5", size, mode) for size, mode in (
    ("12b", "normal"), ("12b", "inpaint"), ("12b", "control"), ("7b", "normal"), ("7b", "inpaint"),
))  # fmt: skip
FOUR = _published("v4-inp", "v4 text- and image-to-video", "V4-XL-2-InP", sizes.FOUR, _WIDE, mode="inpaint")
_SQUARES = {512: _WIDE, 768: (576, 1008), 960: (720, 1248)}
"""Sides of the squares that v3 and v2 were trained for, and wide sizes of as many pixels."""
THREE = tuple(
    _published(
        f"v3-{side}-inp",
        f"v3 text- and image-to-video for {side} x {side}",
        f"V3-XL-2-InP-{side}x{side}",
        sizes.THREE,
        _SQUARES[side],
        mode="inpaint",
    )
    for side in _SQUARES
)
TWO = tuple(
    _published(
        f"v2-{side}", f"v2 text-to-video for {side} x {side}", f"V2-XL-2-{side}x{side}", sizes.TWO, _SQUARES[side]
    )  # fmt: skip
    for side in (512, 768)
)

_TINY_NETWORKS = {
    "v5.1": sizes.TINY_FIVE_ONE,
    "v5": sizes.TINY_FIVE,
    "v4": sizes.TINY_FOUR,
    "v3": sizes.TINY_THREE,
    "v2": sizes.TINY_TWO,
}
_TINY_TEXTS = {
    "v5.1": [sizes.TINY_QWEN],
    "v5": [sizes.TINY_BERT, sizes.TINY_T5],
    "v4": [sizes.TINY_BERT, sizes.TINY_T5],
}
_TINY_WIDTHS = {"qwen": 32, "bert": 24, "mt5": 32, "t5": 32}
_TINY_CLIP = {"tokens": 16, "width": 24, "projection": 768}
# Qwen's template takes most of it, as letters are tokens here.
_TINY_LENGTH = {"v5.1": 192, "v5": 32, "v4": 32, "v3": 32, "v2": 32}


def _tiny(version: str) -> Variant:
    """A small variant with drawn weights."""
    published = _geometry(version, 64, 96)
    frames = 17 if version in ("v5.1", "v5") else 2 * published.group_frames
    texts = _TINY_TEXTS.get(version, [sizes.TINY_T5])
    network = {"transformer": _TINY_NETWORKS[version], "vae": sizes.tiny_vae(_WAY[version])}
    network |= dict(zip(("text_encoder", "text_encoder_2"), texts, strict=False))
    length = _TINY_LENGTH[version]
    return Variant(
        name=f"tiny-{version}",
        title=f"EasyAnimate {version} tiny (drawn weights, to try a recipe out)",
        base="random",
        geometry=replace(published, frames=frames, fps=8),
        conditions=_texts(version, length=length, widths=_TINY_WIDTHS, bert_length=length),
        process=_PROCESS[version],
        sampling=_sampling(version, num_steps=4),
        network=network,
        text_length=length,
        usage=PEFT_LINES if version == "v5.1" else OWN_LINES,
        **_LAYOUTS[version],
    )


def _tiny_inpaint(version: str) -> Variant:
    plain = _tiny(version)
    channels = 33 if version in ("v5.1", "v5") else 12
    pictures = _pictures(version, _TINY_CLIP)
    network = {**plain.network, "transformer": {**plain.network["transformer"], "in_channels": channels}}
    if "clip" in pictures:
        network["image_encoder"] = sizes.TINY_CLIP
    return replace(
        plain,
        name=f"{plain.name}-inp",
        title=plain.title.replace("tiny", "tiny, inpaint"),
        conditions={**plain.conditions, **pictures},
        network=network,
        usage=OWN_LINES,
    )


TINY = {version: _tiny(version) for version in _PROCESS}
TINY_INPAINT = {version: _tiny_inpaint(version) for version in ("v5.1", "v5", "v4", "v3")}
"""v2 was published without inpaint weights."""

CARD = Family(
    name="easyanimate",
    title="EasyAnimate",
    variants={
        variant.name: variant
        for variant in (*FIVE_ONE, *FIVE, FOUR, *THREE, *TWO, *TINY.values(), *TINY_INPAINT.values())
    },
    open_encoder="cinelora.families.easyanimate.encode:open_encoder",
    open_denoiser="cinelora.families.easyanimate.denoise:open_denoiser",
    skeleton="cinelora.families.easyanimate.denoise:skeleton",
    check_base="cinelora.families.easyanimate.denoise:check_base",
    lora_presets=LORA_PRESETS,
    default_preset=DEFAULT_PRESET,
    lora_layouts="cinelora.families.easyanimate.layouts:LORA_LAYOUTS",
    consumers="cinelora.families.easyanimate.consumers:CONSUMERS",
    weight_layouts="cinelora.families.easyanimate.layouts:WEIGHT_LAYOUTS",
    adapter_files=("diffusers", "videox", "peft"),
    # ComfyUI itself has no EasyAnimate network; the family's own nodes for it read what its trainer writes.
    default_files=("diffusers", "videox"),
    schedule="cinelora.families.easyanimate.denoise:schedule",
    usage=OWN_LINES,
)
