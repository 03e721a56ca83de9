"""Owns the sizes of Wan's published networks, as constructor arguments of diffusers and transformers; facts alone.

Sources: the models' config.json files, Wan-Video's shared configuration and, for the statistics of the latents, the
autoencoder of Wan 2.2.
"""

TEXT_XXL = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
}
VAE_21 = {
    "base_dim": 96,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
}
_MEAN_22 = """
-0.2289 -0.0052 -0.1323 -0.2339 -0.2799 0.0174 0.1838 0.1557 -0.1382 0.0542 0.2813 0.0891
0.1570 -0.0098 0.0375 -0.1825 -0.2246 -0.1207 -0.0698 0.5109 0.2665 -0.2108 -0.2158 0.2502
-0.2055 -0.0322 0.1109 0.1567 -0.0729 0.0899 -0.2799 -0.1230 -0.0313 -0.1649 0.0117 0.0723
-0.2839 -0.2083 -0.0520 0.3748 0.0152 0.1957 0.1433 -0.2944 0.3573 -0.0548 -0.1681 -0.0667
"""
_DEVIATION_22 = """
0.4765 1.0364 0.4514 1.1677 0.5313 0.4990 0.4818 0.5013 0.8158 1.0344 0.5894 1.0901
0.6885 0.6165 0.8454 0.4978 0.5759 0.3523 0.7135 0.6804 0.5833 1.4146 0.8986 0.5659
0.7069 0.5338 0.4889 0.4917 0.4069 0.4999 0.6866 0.4093 0.5709 0.6065 0.6415 0.4944
0.5726 1.2042 0.5458 1.6887 0.3971 1.0600 0.3943 0.5537 0.5444 0.4089 0.7468 0.7744
"""
RESIDUAL = {
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 4,
}
"""The kind of autoencoder that 2.2 has: two by two pixels a channel group, shortcuts around every stage."""
VAE_22 = {
    **VAE_21,
    **RESIDUAL,
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "latents_mean": [float(number) for number in _MEAN_22.split()],
    "latents_std": [float(number) for number in _DEVIATION_22.split()],
}
CLIP_HUGE = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
}
CLIP_TOKENS = (CLIP_HUGE["image_size"] // CLIP_HUGE["patch_size"]) ** 2 + 1


def transformer(*, heads: int, ffn_dim: int, layers: int, **more: object) -> dict[str, object]:
    """Of text-to-video at 16 latent channels; `more` says what is otherwise."""
    plain = {
        "num_attention_heads": heads,
        "attention_head_dim": 128,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 4096,
        "freq_dim": 256,
        "ffn_dim": ffn_dim,
        "num_layers": layers,
    }
    return {**plain, **more}


FOURTEEN = transformer(heads=40, ffn_dim=13824, layers=40)
IMAGE_CHANNELS = 20
"""What stands behind the noisy channels of an image-to-video network: 4 of the mask, 16 of the condition latents."""
FOURTEEN_I2V = {**FOURTEEN, "in_channels": 16 + IMAGE_CHANNELS}
FOURTEEN_CLIP = {**FOURTEEN_I2V, "image_dim": CLIP_HUGE["hidden_size"], "added_kv_proj_dim": 5120}
