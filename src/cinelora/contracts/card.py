"""Owns the card that each family hands in: frozen facts, nothing computed, no torch.

Whatever needs torch is named as "module:attribute" and imported by `families/registry.py` when it is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cinelora.contracts.geometry import Geometry


@dataclass(frozen=True)
class Variant:
    """One published size or kind of a family.

    `base` is what `model.base` means when a recipe leaves it out (a Hub id, or "embedded"); `conditions` maps each
    name to its shape in letters and numbers, such as {"text": "S 4096"} (checked once, at the cache border);
    `process` and `sampling` are the defaults of [noise] and of previews; `parts` the names of `Denoiser.parts()`;
    `usage` is the family's unless given here.
    """

    name: str
    title: str
    base: str
    geometry: Geometry
    conditions: Mapping[str, str]
    process: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    text_length: int = 512
    parts: tuple[str, ...] = ("transformer",)
    usage: str = ""


@dataclass(frozen=True)
class Family:
    """A family of video diffusion models.

    `open_encoder` and `open_denoiser` name functions (base, variant, dtype) -> Encoder / Denoiser, `skeleton` one
    (variant) -> parts on the meta device, so that targets can be checked before a weight is read, `check_base` one
    (base, variant) that looks at the headers of a base's denoiser, so that a wrong one is told before the encoding;
    `lora_presets` maps a preset's name to the regular expression that module names must match in full;
    `lora_layouts` and `weight_layouts` name tuples of Layout; `pipeline` names a function (denoiser) -> the
    diffusers pipeline around it, to prove a saved adapter with, or "" where diffusers has none; `usage` is a template
    of the lines that sample with an adapter, for its model card ({base}, {repository}, {file}, {prompt}, {frames},
    {height}, {width}, {fps}, {guidance}, {num_steps}).
    """

    name: str
    title: str
    variants: Mapping[str, Variant]
    open_encoder: str
    open_denoiser: str
    skeleton: str
    check_base: str
    lora_presets: Mapping[str, str]
    default_preset: str
    lora_layouts: str
    weight_layouts: str
    pipeline: str = ""
    usage: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
