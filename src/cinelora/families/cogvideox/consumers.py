"""Owns which programs read CogVideoX's adapters and how: from their code, apart from the tables in `layouts`."""

import re
from collections.abc import Mapping
from typing import Any

from cinelora.lora.consumers import FOLDER, KOHYA_PAIRS, PEFT_PAIRS, Consumers, DiffusersRule, PeftRule, Rule


def comfyui(module: str) -> str | None:
    """What ComfyUI's network (comfy/ldm/cogvideo/model.py) calls a linear module of diffusers'."""
    name = module.partition(".")[2]
    if match := re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", name):
        leaf = match[2].replace("attn1.to_out.0", "attn_out").replace("attn1.to_", "")
        leaf = leaf.replace("ff.net.0.proj", "ff_proj").replace("ff.net.2", "ff_out")
        return f"blocks.{match[1]}.{leaf}"
    return re.sub(r"(time|ofs)_embedding\.linear_", r"\1_embedding_linear_", name)


def plain(module: str) -> str | None:
    """Without the part."""
    return module.partition(".")[2]


def _converted(tensors: dict[str, Any]) -> Mapping[str, Any]:
    from diffusers import CogVideoXPipeline

    return CogVideoXPipeline.lora_state_dict(tensors)


CONSUMERS = Consumers(
    programs=(
        DiffusersRule("diffusers: CogVideoXPipeline.load_lora_weights", ("diffusers",), _converted),
        Rule(
            "ComfyUI",
            ("comfyui",),
            comfyui,
            dotted=("diffusion_model.",),
            underscored=("lora_unet_",),
            also=(".diff", ".diff_b"),
        ),
        Rule("programs that go by kohya's names", ("kohya",), plain, underscored=("lora_unet_",), pairs=KOHYA_PAIRS),
        Rule(
            "peft: set_peft_model_state_dict",
            ("peft",),
            plain,
            dotted=("base_model.model.",),
            pairs=PEFT_PAIRS,
            alpha=False,
        ),
        PeftRule("peft: PeftModel.from_pretrained", (FOLDER,)),
    ),
    aliases={"original": "diffusers"},
)
