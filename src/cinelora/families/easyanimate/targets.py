"""Owns the presets of modules that get an adapter in EasyAnimate's networks, for the card; text alone, no imports.

One preset serves all versions: blocks are `transformer_blocks` in v5, v3 and v2, `blocks` in v4; v3 and v2 have motion
modules inside; a text encoder that learns is a part of its own, with T5's or BERT's names.
"""

_BLOCK = r"(transformer_)?blocks\.\d+\.(attn_temporal\..*\.)?"
_ATTENTION = (
    r"(attn[12]|attn_clip|attention_blocks\.\d+)\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"  # v5 add_*: its text
)
_FF = r"(ff|txt_ff)\.net\.(0\.proj|2)"
_TEXT_ATTENTION = r"encoder\.(block\.\d+\..*\.SelfAttention\.[qkvo]|layer\.\d+\.attention\..*)"

LORA_PRESETS = {
    "attention": rf"{_BLOCK}{_ATTENTION}|{_TEXT_ATTENTION}",
    "attention+ffn": rf"{_BLOCK}({_ATTENTION}|{_FF})|encoder\..*",
    # The original's rule: every linear module, wherever it stands.
    "all-linears": r".*",
}
DEFAULT_PRESET = "all-linears"
