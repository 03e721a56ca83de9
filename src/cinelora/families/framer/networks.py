"""Owns the sizes of Framer's networks, as constructor arguments of diffusers and transformers; facts alone.

Sources: the config.json files of Stable Video Diffusion XT and of Framer 512x320.
"""

from typing import Any

UNET: dict[str, Any] = {
    "in_channels": 9,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal"] * 3 + ["DownBlockSpatioTemporal"],
    "up_block_types": ["UpBlockSpatioTemporal"] + ["CrossAttnUpBlockSpatioTemporal"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "transformer_layers_per_block": 1,
    "num_attention_heads": [5, 10, 20, 20],
}
CONTROLNET: dict[str, Any] = {"conditioning_channels": 3, "conditioning_embedding_out_channels": [16, 32, 96, 256]}
"""What the ControlNet has beside the UNet's own way down."""
VAE: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
IMAGE_ENCODER: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}

TINY_UNET: dict[str, Any] = {
    **UNET,
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
    "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
    # Norms have 32 groups, so nothing smaller is possible; one channel a group on a single cell would be all rounding.
    "block_out_channels": [32, 64],
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24,
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "num_attention_heads": [1, 2],
}
TINY_CONTROLNET: dict[str, Any] = {**CONTROLNET, "conditioning_embedding_out_channels": [4, 8, 8, 16]}
TINY_VAE: dict[str, Any] = {**VAE, "block_out_channels": [32, 32, 32, 32], "layers_per_block": 1}
TINY_IMAGE_ENCODER: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 28,
    "projection_dim": 16,
    "hidden_act": "gelu",
}
