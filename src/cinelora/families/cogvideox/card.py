"""The card of the CogVideoX family: published sizes of 1.0 and 1.5, text-to-video and image-to-video, and a small one.

Sources: the models' config.json files; 49 frames at 8 per second (1.0), 81 at 16 (1.5); 50 steps, guidance 6.
"""

from cinelora.contracts.card import Family, Variant
from cinelora.contracts.geometry import Geometry
from cinelora.nets.usage import diffusers_usage

_T5_XXL = {"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
_SCHEDULE = {"kind": "ddpm", "betas": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction": "v"}
_SAMPLING = {"num_steps": 50, "guidance": 6.0, "sampler": "dpm-sde", "guidance_schedule": "cosine"}
_FIRST = Geometry(fps=8, frames=49, height=480, width=720, max_frames=49)
_SECOND = Geometry(fps=16, frames=81, height=768, width=1360, max_frames=161)
_IMAGE = {"image_mean": "K 16 H W", "image_logvar": "K 16 H W"}
_FROM_PICTURE = diffusers_usage(picture=True)


def _schedule(snr_shift: float) -> dict[str, object]:
    return {**_SCHEDULE, "snr_shift": snr_shift, "zero_terminal_snr": True}


def _transformer(*, heads: int, layers: int, **more: object) -> dict[str, object]:
    return {"num_attention_heads": heads, "attention_head_dim": 64, "num_layers": layers, "in_channels": 16, **more}


def _networks(transformer: dict[str, object], *, scaling: float, inverted: bool = False) -> dict[str, object]:
    vae = {"latent_channels": 16, "scaling_factor": scaling, "invert_scale_latents": inverted}
    return {"transformer": transformer, "vae": vae, "text_encoder": _T5_XXL}


_FIVE = _transformer(heads=48, layers=42, use_rotary_positional_embeddings=True)
_FIFTEEN = {**_FIVE, "patch_size_t": 2, "patch_bias": False, "sample_height": 300, "sample_width": 300}
_FIFTEEN |= {"sample_frames": 81, "max_text_seq_length": 224}
"""1.5 takes two latent frames a token."""

T2V_2B = Variant(
    name="2b",
    title="CogVideoX text-to-video 2B",
    base="THUDM/CogVideoX-2b",
    geometry=_FIRST,
    conditions={"text": "226 4096"},
    process=_schedule(3.0),
    sampling={**_SAMPLING, "sampler": "ddim", "guidance_schedule": "constant"},
    network=_networks(_transformer(heads=30, layers=30), scaling=1.15258426),
    text_length=226,
)

T2V_5B = Variant(
    name="5b",
    title="CogVideoX text-to-video 5B",
    base="THUDM/CogVideoX-5b",
    geometry=_FIRST,
    conditions={"text": "226 4096"},
    process=_schedule(1.0),
    sampling=_SAMPLING,
    network=_networks(_FIVE, scaling=0.7),
    text_length=226,
)

I2V_5B = Variant(
    name="5b-i2v",
    title="CogVideoX image-to-video 5B",
    base="THUDM/CogVideoX-5b-I2V",
    geometry=Geometry(fps=8, frames=49, height=480, width=720, max_frames=49, only_own_size=True),
    conditions={"text": "226 4096", **_IMAGE},
    process=_schedule(1.0),
    sampling=_SAMPLING,
    network=_networks({**_FIVE, "in_channels": 32, "use_learned_positional_embeddings": True}, scaling=0.7),
    text_length=226,
    usage=_FROM_PICTURE,
)

T2V_15 = Variant(
    name="1.5-5b",
    title="CogVideoX 1.5 text-to-video 5B",
    base="THUDM/CogVideoX1.5-5B",
    geometry=_SECOND,
    conditions={"text": "224 4096"},
    process=_schedule(1.0),
    sampling=_SAMPLING,
    network=_networks(_FIFTEEN, scaling=0.7, inverted=True),
    text_length=224,
)

I2V_15 = Variant(
    name="1.5-5b-i2v",
    title="CogVideoX 1.5 image-to-video 5B",
    base="THUDM/CogVideoX1.5-5B-I2V",
    geometry=_SECOND,
    conditions={"text": "224 4096", **_IMAGE},
    process=_schedule(1.0),
    sampling=_SAMPLING,
    network=_networks({**_FIFTEEN, "in_channels": 32, "ofs_embed_dim": 512}, scaling=0.7, inverted=True),
    text_length=224,
    usage=_FROM_PICTURE,
)

_TINY_TRANSFORMER = {
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "num_layers": 2,
    "time_embed_dim": 64,
    "text_embed_dim": 32,
    "max_text_seq_length": 32,
    "sample_height": 8,
    "sample_width": 12,
    "sample_frames": 17,
}
_TINY_VAE = {
    "block_out_channels": [8, 8, 16, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 16,
    "scaling_factor": 1.15258426,
    "invert_scale_latents": False,
}
# The tokens of a drawn base are bytes: 256 of them, 3 marks and 125 spare ones.
_TINY_TEXT = {"vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
_TINY = {
    "base": "random",
    "geometry": Geometry(fps=8, frames=17, height=64, width=96),
    "process": _schedule(3.0),
    "sampling": {**_SAMPLING, "num_steps": 4, "sampler": "ddim", "guidance_schedule": "constant"},
    "text_length": 32,
}

TINY = Variant(
    name="tiny",
    title="CogVideoX tiny (drawn weights, to try a recipe out)",
    conditions={"text": "32 32"},
    network={"transformer": _TINY_TRANSFORMER, "vae": _TINY_VAE, "text_encoder": _TINY_TEXT},
    **_TINY,
)
TINY_I2V = Variant(
    name="tiny-i2v",
    title="CogVideoX tiny image-to-video (drawn weights, to try a recipe out)",
    conditions={"text": "32 32", **_IMAGE},
    network={
        "transformer": {**_TINY_TRANSFORMER, "in_channels": 32, "use_rotary_positional_embeddings": True},
        "vae": _TINY_VAE,
        "text_encoder": _TINY_TEXT,
    },
    usage=_FROM_PICTURE,
    **_TINY,
)

CARD = Family(
    name="cogvideox",
    title="CogVideoX",
    variants={v.name: v for v in (T2V_2B, T2V_5B, I2V_5B, T2V_15, I2V_15, TINY, TINY_I2V)},
    open_encoder="cinelora.families.cogvideox.encode:open_encoder",
    open_denoiser="cinelora.families.cogvideox.denoise:open_denoiser",
    skeleton="cinelora.families.cogvideox.denoise:skeleton",
    check_base="cinelora.families.cogvideox.denoise:check_base",
    lora_presets={
        "attention": r"transformer_blocks\.\d+\.attn1\.(to_q|to_k|to_v|to_out\.0)",
        "attention+ffn": r"transformer_blocks\.\d+\.(attn1\.(to_q|to_k|to_v|to_out\.0)|ff\.net\.(0\.proj|2))",
        "all-linears": r"transformer_blocks\.\d+\..*|time_embedding\..*|norm_out\.linear|proj_out|"
        r"patch_embed\.text_proj",
    },
    default_preset="attention",
    lora_layouts="cinelora.families.cogvideox.layouts:LORA_LAYOUTS",
    consumers="cinelora.families.cogvideox.consumers:CONSUMERS",
    weight_layouts="cinelora.families.cogvideox.layouts:WEIGHT_LAYOUTS",
    adapter_files=("diffusers", "comfyui", "kohya", "peft"),
    pipeline="cinelora.families.cogvideox.pipeline:open_pipeline",
    usage=diffusers_usage(),
)
