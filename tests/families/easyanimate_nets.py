"""Tiny networks of EasyAnimate v2, v3 and v4 with drawn weights, and what they are asked with."""

import torch

from cinelora.families.easyanimate import hunyuan, pixart
from cinelora.families.easyanimate.settings import HunyuanSettings, PixArtSettings, read_settings

TEMPORAL = {
    "num_attention_heads": 4,
    "num_transformer_block": 1,
    "attention_block_types": ["Temporal_Self", "Temporal_Self"],
    "temporal_position_encoding": True,
    "temporal_position_encoding_max_len": 8,
}
SECOND = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "cross_attention_dim": 32,
    "attention_bias": True,
    "sample_size": 64,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_single",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "caption_channels": 24,
    "basic_block_type": "motionmodule",
    "motion_module_type": "Vanilla",
    "motion_module_kwargs": TEMPORAL,
}
FOURTH = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "hidden_size": 32,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 4,
    "mlp_ratio": 2.0,
    "cross_attention_dim": 24,
    "cross_attention_dim_t5": 32,
    "pooled_projection_dim": 12,
    "projection_dim": 20,
    "text_len": 5,
    "text_len_t5": 6,
    "time_position_encoding": True,
}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def second(**changes) -> pixart.PixArtTransformer:
    torch.manual_seed(7)
    return pixart.PixArtTransformer(read_settings(PixArtSettings, {**SECOND, **changes}, of="net")).eval()


def fourth(**changes) -> hunyuan.HunyuanTransformer:
    torch.manual_seed(7)
    return hunyuan.HunyuanTransformer(read_settings(HunyuanSettings, {**FOURTH, **changes}, of="net")).eval()


def second_conditions(batch: int = 2) -> dict[str, torch.Tensor]:
    mask = torch.ones(batch, 5)
    mask[-1, 3:] = 0
    return {"text": drawn(batch, 5, 24, seed=2), "text_mask": mask}


def fourth_conditions(batch: int = 2) -> dict[str, torch.Tensor]:
    masks = {"text_mask": torch.ones(batch, 5), "text_t5_mask": torch.tensor([[1.0] * 4 + [0.0] * 2] * batch)}
    return {"text": drawn(batch, 5, 24, seed=3), "text_t5": drawn(batch, 6, 32, seed=4), **masks}


NETS = {
    "v2": (second, pixart.predict, second_conditions),
    "v4": (fourth, hunyuan.predict, fourth_conditions),
}
