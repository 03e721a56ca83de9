"""Small Wan bases with random weights, in the layout of the public ones."""

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from cinelora.families.wan.card import TINY

SMALL_NETWORK = {
    "transformer": {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 64,
        "freq_dim": 32,
        "ffn_dim": 40,
        "num_layers": 2,
        "rope_max_seq_len": 64,
    },
    "vae": {"base_dim": 4, "z_dim": 16, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 2},
    "text_encoder": {"vocab_size": 300, "d_model": 64, "d_kv": 16, "d_ff": 32, "num_layers": 2, "num_heads": 2},
}
SMALL = replace(TINY, name="small", title="Wan small", network=SMALL_NETWORK)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, "</s>" at the end, "<pad>" = 0."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "</s>": 1, **{letter: k + 2 for k, letter in enumerate(letters)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def write_base(folder: Path, network: dict) -> Path:
    """A diffusers folder of random weights."""
    torch.manual_seed(11)
    statistics = {"latents_mean": [0.1 * k for k in range(16)], "latents_std": [0.5 + 0.1 * k for k in range(16)]}
    WanTransformer3DModel(**network["transformer"]).save_pretrained(folder / "transformer")
    AutoencoderKLWan(**network["vae"], **statistics).save_pretrained(folder / "vae")
    config = UMT5Config(feed_forward_proj="gated-gelu", **network["text_encoder"])
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    byte_tokenizer().save_pretrained(folder / "tokenizer")
    return folder
