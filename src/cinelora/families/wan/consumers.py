"""Owns which programs read Wan's adapters and how: from their code, apart from the tables in `layouts`.

ComfyUI, musubi-tuner, VideoX-Fun and DiffSynth-Studio have the original network, so that `original` says what they call
a module; diffusers has a converter of its own, which is run.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cinelora.lora.consumers import FOLDER, KOHYA_PAIRS, Consumers, DiffusersRule, PeftRule, Rule

_AROUND = {
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "proj_out": "head.head",
}
_EMBEDDER = re.compile(r"condition_embedder\.(text|time)_embedder\.linear_([12])")
_IN_BLOCK = re.compile(r"(blocks\.\d+)\.(attn1|attn2|ffn)\.(.+)")
_LEAF = {"add_k_proj": "k_img", "add_v_proj": "v_img", "to_out.0": "o", "net.0.proj": "0", "net.2": "2"}
_KIND = {"attn1": "self_attn", "attn2": "cross_attn", "ffn": "ffn"}


def original(module: str) -> str | None:
    """What Wan's own network calls a linear module ("transformer.blocks.0.attn1.to_q" is blocks.0.self_attn.q)."""
    name = module.partition(".")[2]
    if match := _EMBEDDER.fullmatch(name):
        return f"{match[1]}_embedding.{0 if match[2] == '1' else 2}"
    if match := _IN_BLOCK.fullmatch(name):
        leaf = _LEAF.get(match[3], match[3].removeprefix("to_"))
        return f"{match[1]}.{_KIND[match[2]]}.{leaf}"
    return _AROUND.get(name)


def as_comfyui(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """ComfyUI (comfy/lora_convert.py) takes VideoX-Fun's two underscores for its own one if it sees this very key."""
    if "lora_unet__blocks_0_cross_attn_k.lora_down.weight" not in tensors:
        return tensors
    return {re.sub(r"^lora_unet__", "lora_unet_", key): tensor for key, tensor in tensors.items()}


def _converted(tensors: dict[str, Any]) -> Mapping[str, Any]:
    from diffusers import WanPipeline

    return WanPipeline.lora_state_dict(tensors)


CONSUMERS = Consumers(
    programs=(
        DiffusersRule("diffusers: WanPipeline.load_lora_weights", ("diffusers",), _converted),
        Rule(
            "ComfyUI",
            ("comfyui", "musubi"),
            original,
            dotted=("diffusion_model.",),
            underscored=("lora_unet_",),
            also=(".diff", ".diff_b"),
            ahead=as_comfyui,
        ),
        Rule("musubi-tuner", ("musubi",), original, underscored=("lora_unet_",), pairs=KOHYA_PAIRS),
        Rule(
            "VideoX-Fun",
            ("videox", "videox-peft"),
            original,
            dotted=("", "diffusion_model."),
            underscored=("lora_unet__",),
        ),
        Rule("DiffSynth-Studio", ("videox-peft",), original, dotted=("", "diffusion_model.")),
        PeftRule("peft: PeftModel.from_pretrained", (FOLDER,)),
    ),
    aliases={"kohya": "musubi", "peft": "videox-peft", "original": "videox"},
)
