"""Owns the card that each family hands in: frozen facts, nothing computed, no torch.

Whatever needs torch is named as "module:attribute" and imported by `families/registry.py` when it is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cinelora.contracts.geometry import Geometry


@dataclass(frozen=True)
class Expert:
    """One of several denoisers that share the noise levels of a variant, such as the two of Wan 2.2's A14B.

    `variant` is what it is by itself, with its own levels (t_min, t_max) in `process`; `part` its name in the joint
    denoiser; `label` what users call it in the names of files.
    """

    variant: "Variant"
    part: str
    label: str

    @property
    def levels(self) -> tuple[float, float]:
        """From which noise level (included) to which (left out) it is asked."""
        return self.variant.process.get("t_min", 0.0), self.variant.process.get("t_max", 1.0)

    def within(self, t_min: float, t_max: float) -> dict[str, float]:
        """Its noise levels as far as they are within others: {"t_min", "t_max"}, with t_min >= t_max where none are."""
        low, high = self.levels
        return {"t_min": max(low, t_min), "t_max": min(high, t_max)}


@dataclass(frozen=True)
class Variant:
    """One published size or kind of a family.

    `base` is what `model.base` means when a recipe leaves it out (a Hub id, or "embedded"); `conditions` maps each
    name to its shape in letters and numbers, such as {"text": "S 4096"} (checked once, at the cache border);
    `process` and `sampling` are the defaults of [noise] and of previews; `parts` the names of `Denoiser.parts()`;
    `usage`, `lora_layouts` and `weight_layouts` are the family's unless given here, `loading` is what diffusers'
    load_lora_weights wants to be told; `experts` by name, noisiest first, where several denoisers take turns;
    `learns_from` maps a part to the condition without which it learns nothing; `new_parts` are those that no base has,
    which begin by adding nothing.
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
    lora_layouts: str = ""
    weight_layouts: str = ""
    loading: str = ""
    experts: Mapping[str, Expert] = field(default_factory=dict)
    learns_from: Mapping[str, str] = field(default_factory=dict)
    new_parts: tuple[str, ...] = ()

    @property
    def reads_text(self) -> bool:
        """True where captions are among what the denoiser is told."""
        return any(name.startswith("text") for name in self.conditions)

    @property
    def boundary(self) -> float:
        """The noise level from which on the first expert is asked; 0 without experts."""
        return next((expert.levels[0] for expert in self.experts.values()), 0.0)


@dataclass(frozen=True)
class Family:
    """A family of video diffusion models.

    `open_encoder` and `open_denoiser` name functions (base, variant, dtype) -> Encoder / Denoiser, `skeleton` one
    (variant) -> parts on the meta device, so that targets can be checked before a weight is read, `check_base` one
    (base, variant) that looks at the headers of a base's denoiser, so that a wrong one is told before the encoding;
    `lora_presets` maps a preset's name to the regular expression that module names must match in full, or to one for
    each part that it adapts (others rest unless [lora.parts] says what becomes of them);
    `lora_layouts` and `weight_layouts` name tuples of Layout, `adapter_files` the names of the former, `default_files`
    those of them that a run writes unless it is told otherwise; `schedule` names a function (base, variant) -> the
    options of [noise] that a base itself states, or is "" where bases state none; `pipeline` names a function
    (denoiser) -> the diffusers pipeline around it, to prove a saved adapter with, or "" where diffusers has none;
    `folders` names a writer and a reader of folders that the family's public tools take (see `registry.Folders`), or ""
    where files are enough; `usage` is a template of the lines that sample with an adapter, for its model card ({base},
    {repository}, {file}, {second_file} of the second expert, {prompt}, {frames}, {height}, {width}, {fps}, {guidance},
    {num_steps}; `nets.usage` for lines that stand for some folders alone).
    """

    name: str
    title: str
    variants: Mapping[str, Variant]
    open_encoder: str
    open_denoiser: str
    skeleton: str
    check_base: str
    lora_presets: Mapping[str, str | Mapping[str, str]]
    default_preset: str
    lora_layouts: str
    weight_layouts: str
    adapter_files: tuple[str, ...] = ("diffusers", "comfyui")
    default_files: tuple[str, ...] = ("diffusers", "comfyui")
    schedule: str = ""
    pipeline: str = ""
    folders: str = ""
    usage: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    part_layouts: str = ""
    """Names {part: layouts of its weights}, where parts of one base are spelt apart; else all have `weight_layouts`."""
    merged_name: str = ""
    """Names a function (variant's name, adapter's name) -> what a base with that adapter in it is called, where
    programs go by such names; "" = FAMILY_VARIANT_ADAPTER."""
    consumers: str = ""
    """Names the `lora.consumers.Consumers`: which programs read the family's adapters, by which rule; "" = none."""
