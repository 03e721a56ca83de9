"""The card of the fake family: a few thousand parameters in the shape of a real one, for every test above it."""

from dataclasses import replace

from cinelora.contracts.card import Expert, Family, Variant
from cinelora.contracts.geometry import Geometry

TINY = Variant(
    name="tiny",
    title="Fake tiny",
    base="embedded",
    geometry=Geometry(fps=8, frames=9, height=32, width=32, latent_channels=4),
    conditions={"text": "6 8"},
    process={"kind": "flow", "shift": 1.0},
    sampling={"num_steps": 4, "guidance": 1.0},
    text_length=6,
)
_HIGH = replace(TINY, name="high", process={**TINY.process, "t_min": 0.75}, network={"seed": 1})
_LOW = replace(TINY, name="low", process={**TINY.process, "t_max": 0.75}, network={"seed": 2})
EXPERTS = replace(
    TINY,
    name="experts",
    sampling={**TINY.sampling, "low_noise_guidance": 2.0},
    parts=("transformer", "transformer_2"),
    experts={"high": Expert(_HIGH, "transformer", "high_noise"), "low": Expert(_LOW, "transformer_2", "low_noise")},
)

CARD = Family(
    name="fake",
    title="Fake (tests)",
    variants={variant.name: variant for variant in (TINY, EXPERTS, _HIGH, _LOW)},
    open_encoder="cinelora.families.fake.encode:open_encoder",
    open_denoiser="cinelora.families.fake.denoise:open_denoiser",
    skeleton="cinelora.families.fake.denoise:skeleton",
    check_base="cinelora.families.fake.denoise:check_base",
    lora_presets={"attention": r"blocks\.\d+\.(to_q|to_v)", "all": r"blocks\.\d+\.(to_q|to_v|out)"},
    default_preset="attention",
    lora_layouts="cinelora.families.fake.layouts:LORA_LAYOUTS",
    weight_layouts="cinelora.families.fake.layouts:WEIGHT_LAYOUTS",
)
