"""Owns the sizes of EasyAnimate's networks: what the original's YAML files set, and numbers of published configs.

Of the encoders only what decides how they are run stands here; their sizes come from the base's own config files. Text
alone, no torch. The denoisers' sizes were checked by their numbers of weights as published: 11,799,265,856 of v5.1-12b
(inpaint), 6,814,670,912 of v5.1-7b, 1,982,894,112 of v4, 1,802,605,856 of v3.
"""

from typing import Any

Network = dict[str, Any]

_QWEN_TEXT = {"text_embed_dim": 3584, "add_norm_text_encoder": True, "enable_text_attention_mask": True}
_TWO_TEXTS = {"text_embed_dim": 1024, "text_embed_dim_t5": 2048, "add_norm_text_encoder": False}
_TWO_TEXTS |= {"enable_text_attention_mask": False}


def dit(text: Network, *, in_channels: int, layers: int = 48, joint: int = 48) -> Network:
    """v5's and v5.1's denoiser; `joint` blocks have weights of their own for the text, the others share the video's."""
    return {
        "_class_name": "EasyAnimateTransformer3DModel",
        "num_attention_heads": 48,
        "attention_head_dim": 64,
        "in_channels": in_channels,
        "out_channels": 16,
        "patch_size": 2,
        "num_layers": layers,
        "mmdit_layers": joint,
        "time_embed_dim": 512,
        "after_norm": False,
        "time_position_encoding_type": "3d_rope",
        "resize_inpaint_mask_directly": True,
        "enable_clip_in_inpaint": False,
        **text,
    }


FIVE_ONE, FIVE = _QWEN_TEXT, _TWO_TEXTS
"""The text side of v5.1 (Qwen2-VL) and of v5 (BERT and mT5)."""

FOUR: Network = {
    "_class_name": "HunyuanTransformer3DModel",
    "num_attention_heads": 16,
    "attention_head_dim": 88,
    "hidden_size": 1408,
    "in_channels": 12,
    "out_channels": 8,
    "num_layers": 40,
    "mlp_ratio": 4.3637,
    "n_query": 16,
    "projection_dim": 1024,
    "cross_attention_dim": 1024,
    "cross_attention_dim_t5": 2048,
    "pooled_projection_dim": 1024,
    "text_len": 77,
    "text_len_t5": 256,
    "basic_block_type": "basic",
    "after_norm": False,
    "time_position_encoding_type": "2d_rope",
    "time_position_encoding": True,
    "resize_inpaint_mask_directly": False,
    "enable_clip_in_inpaint": True,
}


def motion(heads: int, second: str, most_frames: int = 4096) -> Network:
    """Of the motion module of a block: over time, and then over time again or over everything."""
    return {
        "num_attention_heads": heads,
        "num_transformer_block": 1,
        "attention_block_types": ["Temporal_Self", second],
        "temporal_position_encoding": True,
        "temporal_position_encoding_max_len": most_frames,
        "temporal_attention_dim_div": 1,
        "block_size": 1,
    }


_PIXART: Network = {
    "_class_name": "Transformer3DModel",
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "out_channels": 8,
    "num_layers": 28,
    "cross_attention_dim": 1152,
    "attention_bias": True,
    "sample_size": 64,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "caption_channels": 4096,
    "patch_3d": False,
    "fake_3d": False,
    "time_position_encoding_before_transformer": False,
    "motion_module_type": "Vanilla",
    "enable_uvit": True,
}
THREE: Network = {
    **_PIXART,
    "in_channels": 12,
    "basic_block_type": "global_motionmodule",
    "motion_module_kwargs_even": {**motion(16, "Temporal_Self"), "remove_time_embedding_in_photo": False},
    "motion_module_kwargs_odd": {**motion(16, "Global_Self"), "remove_time_embedding_in_photo": False},
}
TWO: Network = {
    **_PIXART,
    "in_channels": 4,
    "basic_block_type": "motionmodule",
    "motion_module_kwargs": motion(8, "Temporal_Self"),
}

VAES: dict[str, Network] = {
    "cache_mag_vae": {
        "cache_mag_vae": True,
        "mini_batch_encoder": 4,
        "mini_batch_decoder": 1,
        "mid_block_use_attention": False,
        "spatial_group_norm": True,
        "latent_channels": 16,
        "scaling_factor": 0.7125,
    },
    "cache_compression_vae": {"cache_compression_vae": True, "mini_batch_encoder": 8, "mini_batch_decoder": 2},
    "slice_compression_vae": {"slice_compression_vae": True, "mini_batch_encoder": 8, "mini_batch_decoder": 2},
    "slice_mag_vae": {"slice_mag_vae": True, "mini_batch_encoder": 9, "mini_batch_decoder": 3},
}
"""By the way in which time is taken: of v5 and v5.1, v4, v3, v2."""

TINY_T5: Network = {"vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
"""The tokens of a drawn base are bytes: 256 of them, 3 marks and 125 spare ones."""
TINY_BERT: Network = {
    "vocab_size": 384,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 80,
}
TINY_QWEN: Network = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": None,
    "eos_token_id": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
}
TINY_CLIP: Network = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 768,
}
_TINY_DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 3,
    # The last block's text goes nowhere, so that with weights of its own its adapters would never learn.
    "mmdit_layers": 2,
    "time_embed_dim": 24,
    "text_embed_dim": 32,
}
TINY_FIVE_ONE: Network = {**dit(FIVE_ONE, in_channels=16), **_TINY_DIT}
TINY_FIVE: Network = {**dit(FIVE, in_channels=16), **_TINY_DIT, "text_embed_dim": 24, "text_embed_dim_t5": 32}
TINY_FOUR: Network = {
    **FOUR,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "hidden_size": 32,
    "in_channels": 4,
    "num_layers": 4,
    "mlp_ratio": 2.0,
    "projection_dim": 24,
    "cross_attention_dim": 24,
    "cross_attention_dim_t5": 32,
    "pooled_projection_dim": 12,
    "text_len": 32,
    "text_len_t5": 32,
}
_TINY_PIXART = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 2,
    "cross_attention_dim": 32,
    "caption_channels": 32,
    "in_channels": 4,
    # The connections lead from block 12 to 15 and so on: with fewer blocks their adapters would never learn.
    "enable_uvit": False,
}
TINY_THREE: Network = {
    **THREE,
    **_TINY_PIXART,
    "motion_module_kwargs_even": motion(4, "Temporal_Self", 32),
    "motion_module_kwargs_odd": motion(4, "Global_Self", 32),
}
TINY_TWO: Network = {**TWO, **_TINY_PIXART, "motion_module_kwargs": motion(4, "Temporal_Self", 32)}
_TINY_VAE = {"block_out_channels": [8, 8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4}


def tiny_vae(way: str) -> Network:
    """A small autoencoder that takes time in a way of `VAES`."""
    return {**VAES[way], **_TINY_VAE}
