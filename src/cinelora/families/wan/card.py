"""The card of the Wan family: published sizes of the text-to-video models, and the small embedded one.

Sources: the models' config.json files and Wan-Video's shared configuration (text length 512, 16 frames per second,
81 frames, 50 steps, guidance 5).
"""

from cinelora.contracts.card import Family, Variant
from cinelora.contracts.geometry import Geometry

_TEXT_XXL = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
}
_VAE_21 = {
    "base_dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
}


def _transformer(*, heads: int, ffn_dim: int, layers: int) -> dict[str, object]:
    return {
        "num_attention_heads": heads,
        "attention_head_dim": 128,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": ffn_dim,
        "num_layers": layers,
    }


T2V_1_3B = Variant(
    name="t2v-1.3b",
    title="Wan 2.1 text-to-video 1.3B",
    base="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    geometry=Geometry(fps=16, frames=81, height=480, width=832),
    conditions={"text": "512 4096"},
    # Wan's own advice for 480 x 832, the only size that the 1.3B model was trained for; 5 is meant for 720 x 1280.
    process={"kind": "flow", "shift": 3.0},
    sampling={"num_steps": 50, "guidance": 5.0, "sampler": "unipc"},
    network={
        "transformer": _transformer(heads=12, ffn_dim=8960, layers=30),
        "vae": _VAE_21,
        "text_encoder": _TEXT_XXL,
    },
    text_length=512,
)

T2V_14B = Variant(
    name="t2v-14b",
    title="Wan 2.1 text-to-video 14B",
    base="Wan-AI/Wan2.1-T2V-14B-Diffusers",
    geometry=Geometry(fps=16, frames=81, height=480, width=832),
    conditions={"text": "512 4096"},
    process={"kind": "flow", "shift": 5.0},
    sampling={"num_steps": 50, "guidance": 5.0, "sampler": "unipc"},
    network={
        "transformer": _transformer(heads=40, ffn_dim=13824, layers=40),
        "vae": _VAE_21,
        "text_encoder": _TEXT_XXL,
    },
    text_length=512,
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

_ATTENTION = r"attn[12]\.(to_q|to_k|to_v|to_out\.0)"
_FFN = r"ffn\.net\.(0\.proj|2)"
_AROUND = r"condition_embedder\.(text_embedder\.linear_[12]|time_embedder\.linear_[12]|time_proj)|proj_out"

_USAGE = """
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import export_to_video

pipe = DiffusionPipeline.from_pretrained("{base}", torch_dtype=torch.bfloat16).to("cuda")
pipe.load_lora_weights("{repository}", weight_name="{file}")
video = pipe(
    prompt={prompt},
    num_frames={frames}, height={height}, width={width},
    guidance_scale={guidance}, num_inference_steps={num_steps},
).frames[0]
export_to_video(video, "sample.mp4", fps={fps})
"""

CARD = Family(
    name="wan",
    title="Wan",
    variants={variant.name: variant for variant in (T2V_1_3B, T2V_14B, TINY)},
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
    weight_layouts="cinelora.families.wan.layouts:WEIGHT_LAYOUTS",
    pipeline="cinelora.families.wan.pipeline:open_pipeline",
    usage=_USAGE,
)
