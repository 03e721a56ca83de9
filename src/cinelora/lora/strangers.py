"""Owns what files of weights look like that no family here reads: other models' adapters, whole networks.

In: keys. Out: a few words, or none. For messages alone: nothing is decided by it.
"""

import re
from collections.abc import Sequence

_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("SDXL", (r"lora_te2_|text_encoder_2\.text_model\.",)),
    ("SDXL", (r"(input|output)_blocks_\d+_\d+_transformer_blocks_[1-9]",)),
    ("SDXL", (r"(down|up)_blocks.*attentions.*transformer_blocks[._][1-9]", r"!temporal")),
    ("Stable Diffusion 1.x or 2.x", (r"lora_te_text_model_|text_encoder\.text_model\.",)),
    ("Stable Diffusion 1.x or 2.x", (r"(down|up)_blocks.*attentions.*(attn[12])", r"!temporal")),
    ("FLUX.1", (r"double_blocks.*img_attn[._](qkv|proj)", r"single_blocks.*linear[12]")),
    ("FLUX.1", (r"single_transformer_blocks.*(proj_mlp|attn\.to_q)", r"transformer_blocks.*attn\.add_q_proj")),
    ("HunyuanVideo", (r"double_blocks.*img_attn_(qkv|proj)",)),
    ("HunyuanVideo", (r"single_transformer_blocks", r"context_embedder\.token_refiner")),
    ("Qwen-Image", (r"transformer_blocks.*(img_mod|img_mlp)",)),
    ("Stable Diffusion 3", (r"joint_blocks|transformer_blocks.*attn\.add_q_proj",)),
    ("Mochi", (r"transformer_blocks.*attn1\.add_q_proj",)),
    (
        "LTX-Video",
        (r"transformer_blocks.*attn1\.to_q", r"transformer_blocks.*attn2\.to_q", "!attentions|attn_temporal"),
    ),
    ("a language model (Qwen, Llama, Mistral or the like)", (r"layers\.\d+\.(self_attn|mlp)\.\w+_proj",)),
    ("a language model (GPT-2 or the like)", (r"h\.\d+\.(attn|mlp)\.c_(attn|proj|fc)",)),
    ("an encoder of texts (BERT or the like)", (r"encoder\.layer\.\d+\.attention\.",)),
    ("Whisper or another model of sound", (r"(encoder|decoder)\.layers\.\d+\.(self_attn|encoder_attn)",)),
)
"""A model, and the patterns that must each be found in some key; behind "!" one that must be in none."""


def looks_like(keys: Sequence[str]) -> str:
    """Whose weights these could be; "" where nothing tells."""
    for name, patterns in _SIGNS:
        if all(_shown(pattern, keys) for pattern in patterns):
            return name
    return ""


def _shown(pattern: str, keys: Sequence[str]) -> bool:
    found = any(re.search(pattern.removeprefix("!"), key) for key in keys)
    return found != pattern.startswith("!")
