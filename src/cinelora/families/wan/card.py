"""The card of the Wan family: the published models of 2.1 and 2.2, the small embedded one, and two to try recipes with.

Sources: the models' config.json files and Wan-Video's shared configuration (text length 512, 16 frames per second,
81 frames, 50 steps, guidance 5; 2.2: boundary, shift, steps and guidance of each task).
"""

from dataclasses import replace

from cinelora.contracts.card import Expert, Family, Variant
from cinelora.contracts.geometry import Geometry
from cinelora.families.wan.networks import (
    CLIP_HUGE,
    CLIP_TOKENS,
    FOURTEEN,
    FOURTEEN_CLIP,
    FOURTEEN_I2V,
    RESIDUAL,
    TEXT_XXL,
    VAE_21,
    VAE_22,
    transformer,
)
from cinelora.nets.usage import diffusers_usage

_TEXT = {"text": "512 4096"}
_IMAGE = {"image": "16 T H W"}
"""Latents of the first frame with grey behind it, as long as the clip."""
_FROM_PICTURE = diffusers_usage(picture=True)
_SMALL, _LARGE = (Geometry(fps=16, frames=81, height=h, width=w) for h, w in ((480, 832), (720, 1280)))

T2V_1_3B = Variant(
    name="t2v-1.3b",
    title="Wan 2.1 text-to-video 1.3B",
    base="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    geometry=_SMALL,
    conditions=_TEXT,
    # Wan's own advice for 480 x 832, the only size that the 1.3B model was trained for; 5 is meant for 720 x 1280.
    process={"kind": "flow", "shift": 3.0},
    sampling={"num_steps": 50, "guidance": 5.0, "sampler": "unipc"},
    network={
        "transformer": transformer(heads=12, ffn_dim=8960, layers=30),
        "vae": VAE_21,
        "text_encoder": TEXT_XXL,
    },
    text_length=512,
)

T2V_14B = Variant(
    name="t2v-14b",
    title="Wan 2.1 text-to-video 14B",
    base="Wan-AI/Wan2.1-T2V-14B-Diffusers",
    geometry=_SMALL,
    conditions=_TEXT,
    process={"kind": "flow", "shift": 5.0},
    sampling={"num_steps": 50, "guidance": 5.0, "sampler": "unipc"},
    network={
        "transformer": FOURTEEN,
        "vae": VAE_21,
        "text_encoder": TEXT_XXL,
    },
    text_length=512,
)


def _clip(name: str, *, title: str, base: str, geometry: Geometry, shift: float) -> Variant:
    """Image-to-video of 2.1: the picture goes in as latents and through CLIP."""
    network = {"transformer": FOURTEEN_CLIP, "vae": VAE_21, "text_encoder": TEXT_XXL, "image_encoder": CLIP_HUGE}
    return Variant(
        name=name,
        title=title,
        base=base,
        geometry=geometry,
        conditions={**_TEXT, **_IMAGE, "clip": f"{CLIP_TOKENS} {CLIP_HUGE['hidden_size']}"},
        process={"kind": "flow", "shift": shift},
        sampling={"num_steps": 40, "guidance": 5.0, "sampler": "unipc"},
        network=network,
        usage=_FROM_PICTURE,
    )


I2V_480P = _clip(
    "i2v-14b-480p",
    title="Wan 2.1 image-to-video 14B 480p",
    base="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
    geometry=_SMALL,
    shift=3.0,
)
I2V_720P = _clip(
    "i2v-14b-720p",
    title="Wan 2.1 image-to-video 14B 720p",
    base="Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
    geometry=_LARGE,
    shift=5.0,
)

_TASKS_22 = {
    "t2v": ("text-to-video", "Wan-AI/Wan2.2-T2V-A14B-Diffusers", 12.0, 0.875, {"high": 4.0, "low": 3.0}),
    "i2v": ("image-to-video", "Wan-AI/Wan2.2-I2V-A14B-Diffusers", 5.0, 0.9, {"high": 3.5, "low": 3.5}),
}
"""Of each task of 2.2's A14B: words, base, shift, the noise level where the experts meet, guidance of each."""

_LOADING = {"high": "", "low": "load_into_transformer_2=True"}
"""What diffusers' pipelines want to be told to load an expert's adapter into its denoiser."""


def _expert(task: str, expert: str) -> Variant:
    """One of the two denoisers of an A14B: `high` takes the noise levels from the boundary up, `low` those below."""
    words, base, shift, boundary, guidance = _TASKS_22[task]
    takes_image = task == "i2v"
    return Variant(
        name=f"2.2-{task}-{expert}",
        title=f"Wan 2.2 {words} A14B, {expert}-noise expert",
        base=base,
        geometry=_SMALL,
        conditions={**_TEXT, **_IMAGE} if takes_image else _TEXT,
        process={"kind": "flow", "shift": shift, ("t_min" if expert == "high" else "t_max"): boundary},
        sampling={"num_steps": 40, "guidance": guidance[expert], "sampler": "unipc"},
        network={
            "transformer": FOURTEEN_I2V if takes_image else FOURTEEN,
            "vae": VAE_21,
            "text_encoder": TEXT_XXL,
            "expert": expert,
        },
        usage=diffusers_usage(picture=takes_image, loading=_LOADING[expert]),
        loading=_LOADING[expert],
    )


EXPERTS = {(task, expert): _expert(task, expert) for task in _TASKS_22 for expert in ("high", "low")}


def _both(high: Variant, low: Variant) -> dict[str, Expert]:
    """Under the names that diffusers gives their parts, with the words that users have in the names of files."""
    return {"high": Expert(high, "transformer", "high_noise"), "low": Expert(low, "transformer_2", "low_noise")}


def _joint(task: str) -> Variant:
    """Both denoisers of an A14B."""
    words, base, shift, _, guidance = _TASKS_22[task]
    high, low = (EXPERTS[task, expert] for expert in ("high", "low"))
    return Variant(
        name=f"2.2-{task}-a14b",
        title=f"Wan 2.2 {words} A14B, both experts",
        base=base,
        geometry=_SMALL,
        conditions=high.conditions,
        process={"kind": "flow", "shift": shift},
        sampling={**high.sampling, "low_noise_guidance": guidance["low"]},
        network={name: network for name, network in high.network.items() if name != "expert"},
        parts=("transformer", "transformer_2"),
        usage=diffusers_usage(picture=task == "i2v", loading_second=_LOADING["low"]),
        experts=_both(high, low),
    )


JOINT = tuple(_joint(task) for task in _TASKS_22)

TI2V_5B = Variant(
    name="2.2-ti2v-5b",
    title="Wan 2.2 text-and-image-to-video 5B",
    base="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    geometry=Geometry(fps=24, frames=121, height=704, width=1280, latent_cell=16, size_multiple=32, latent_channels=48),
    conditions={**_TEXT, "image": "48 1 H W"},
    process={"kind": "flow", "shift": 5.0},
    sampling={"num_steps": 50, "guidance": 5.0, "sampler": "unipc"},
    network={
        "transformer": transformer(heads=24, ffn_dim=14336, layers=30, in_channels=48, out_channels=48),
        "vae": VAE_22,
        "text_encoder": TEXT_XXL,
    },
)

TINY = Variant(
    name="tiny",
    title="Wan tiny (embedded; draws moving shapes)",
    base="embedded",
    geometry=Geometry(fps=8, frames=17, height=64, width=64),
    conditions={"text": "32 64"},
    process={"kind": "flow", "shift": 2.0},
    sampling={"num_steps": 20, "guidance": 3.0, "sampler": "euler"},
    network={
        "transformer": {
            "num_attention_heads": 3,
            "attention_head_dim": 64,
            "in_channels": 16,
            "out_channels": 16,
            "text_dim": 64,
            "freq_dim": 128,
            "ffn_dim": 480,
            "num_layers": 6,
            "rope_max_seq_len": 64,
        },
        "vae": {
            "base_dim": 32,
            "z_dim": 16,
            "dim_mult": [1, 2, 2],
            "num_res_blocks": 1,
            "temperal_downsample": [True, True],
            "patch_size": 2,
            "in_channels": 12,
            "out_channels": 12,
        },
        "text_encoder": {"vocab_size": 353, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
    },
    # The length is part of the model: Wan pads text with zeros and attends to them too.
    text_length=32,
)

_TINY_TRANSFORMER = {**TINY.network["transformer"], "num_layers": 2}
_TINY_RANDOM = {
    "base": "random",
    "process": TINY.process,
    "sampling": {**TINY.sampling, "num_steps": 4},
    "text_length": TINY.text_length,
}
TINY_I2V = Variant(
    name="tiny-i2v",
    title="Wan tiny image-to-video (drawn weights, to try a recipe out)",
    geometry=TINY.geometry,
    conditions={**TINY.conditions, **_IMAGE},
    usage=_FROM_PICTURE,
    network={**TINY.network, "transformer": {**_TINY_TRANSFORMER, "in_channels": 36}},
    **_TINY_RANDOM,
)
TINY_TI2V = Variant(
    name="tiny-ti2v",
    title="Wan tiny text-and-image-to-video (drawn weights, to try a recipe out)",
    geometry=Geometry(fps=8, frames=17, height=64, width=64, latent_cell=16, size_multiple=32),
    conditions={**TINY.conditions, "image": "16 1 H W"},
    network={
        **TINY.network,
        "transformer": _TINY_TRANSFORMER,
        "vae": {**VAE_21, **RESIDUAL, "base_dim": 4, "decoder_base_dim": 4},
    },
    **_TINY_RANDOM,
)

TINY_EXPERTS = replace(
    TINY,
    name="tiny-experts",
    title="Wan tiny as two experts (the embedded base twice, to try a recipe out)",
    parts=("transformer", "transformer_2"),
    experts=_both(
        *(
            replace(
                TINY,
                name=f"tiny-{expert}",
                title=f"Wan tiny, {expert} noise alone (the embedded base, to try a recipe out)",
                process={**TINY.process, end: 0.875},
            )
            for expert, end in (("high", "t_min"), ("low", "t_max"))
        )
    ),
)

_ATTENTION = r"attn[12]\.(to_q|to_k|to_v|to_out\.0|add_k_proj|add_v_proj)"
_FFN = r"ffn\.net\.(0\.proj|2)"
_AROUND = (
    r"condition_embedder\.(text_embedder\.linear_[12]|time_embedder\.linear_[12]|time_proj"
    r"|image_embedder\.ff\.net\.(0\.proj|2))|proj_out"
)

CARD = Family(
    name="wan",
    title="Wan",
    variants={
        variant.name: variant
        for variant in (
            T2V_1_3B,
            T2V_14B,
            I2V_480P,
            I2V_720P,
            *JOINT,
            *EXPERTS.values(),
            TI2V_5B,
            TINY,
            TINY_I2V,
            TINY_TI2V,
            TINY_EXPERTS,
            *(expert.variant for expert in TINY_EXPERTS.experts.values()),
        )
    },
    open_encoder="cinelora.families.wan.encode:open_encoder",
    open_denoiser="cinelora.families.wan.denoise:open_denoiser",
    skeleton="cinelora.families.wan.denoise:skeleton",
    check_base="cinelora.families.wan.denoise:check_base",
    lora_presets={
        "attention": rf"blocks\.\d+\.{_ATTENTION}",
        "attention+ffn": rf"blocks\.\d+\.({_ATTENTION}|{_FFN})",
        "all-linears": rf"blocks\.\d+\.({_ATTENTION}|{_FFN})|{_AROUND}",
    },
    default_preset="attention+ffn",
    lora_layouts="cinelora.families.wan.layouts:LORA_LAYOUTS",
    consumers="cinelora.families.wan.consumers:CONSUMERS",
    weight_layouts="cinelora.families.wan.layouts:WEIGHT_LAYOUTS",
    adapter_files=("diffusers", "comfyui", "musubi", "videox", "videox-peft"),
    pipeline="cinelora.families.wan.pipeline:open_pipeline",
    usage=diffusers_usage(),
)
