"""The card of the fake family: a few thousand parameters in the shape of a real one, for every test above it."""

from cinelora.contracts.card import Family, Variant
from cinelora.contracts.geometry import Geometry

CARD = Family(
    name="fake",
    title="Fake (tests)",
    variants={
        "tiny": Variant(
            name="tiny",
            title="Fake tiny",
            base="embedded",
            geometry=Geometry(fps=8, frames=9, height=32, width=32, latent_channels=4),
            conditions={"text": "6 8"},
            process={"kind": "flow", "shift": 1.0},
            sampling={"num_steps": 4, "guidance": 1.0},
            text_length=6,
        )
    },
    open_encoder="cinelora.families.fake.encode:open_encoder",
    open_denoiser="cinelora.families.fake.denoise:open_denoiser",
    skeleton="cinelora.families.fake.denoise:skeleton",
    check_base="cinelora.families.fake.denoise:check_base",
    lora_presets={"attention": r"blocks\.\d+\.(to_q|to_v)", "all": r"blocks\.\d+\.(to_q|to_v|out)"},
    default_preset="attention",
    lora_layouts="cinelora.families.fake.layouts:LORA_LAYOUTS",
    weight_layouts="cinelora.families.fake.layouts:WEIGHT_LAYOUTS",
)
