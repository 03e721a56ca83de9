"""Owns which programs read EasyAnimate's adapters and how: from their code, apart from the tables in `layouts`.

diffusers loads none for EasyAnimate, and ComfyUI has no such network; EasyAnimate's own nodes for it read what its
trainer writes.
"""

import re

from cinelora.lora.consumers import FOLDER, KOHYA_PAIRS, PEFT_PAIRS, Consumers, PeftRule, Rule

_ADDED = re.compile(r"attn1\.(?:add_([qkv])_proj|to_add_(out))$")


def original(module: str) -> str | None:
    """What EasyAnimate's own networks call a linear module: v5's text side is a second attention in name."""
    name = module.partition(".")[2]
    return _ADDED.sub(lambda match: f"attn2.to_{match[1]}" if match[1] else "attn2.to_out.0", name)


def plain(module: str) -> str | None:
    """Without the part."""
    return module.partition(".")[2]


CONSUMERS = Consumers(
    programs=(
        Rule(
            "EasyAnimate's scripts and its nodes for ComfyUI",
            ("videox",),
            original,
            underscored=("lora_unet__",),
            of_parts={"text_encoder": ("lora_te_",), "text_encoder_2": ("lora_te_",)},
            pairs=KOHYA_PAIRS,
        ),
        PeftRule("peft, by the lines of the model card", ("diffusers",), prefix="transformer."),
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
    aliases={"kohya": "videox", "comfyui": "videox", "original": "videox"},
)
