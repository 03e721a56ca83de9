"""Owns how Framer's weights and adapters are spelt in files.

Published weights come as diffusers folders, so native names are the files' own. Adapters of one part are what peft
writes (`unet_lora/`, see `lora.peft_folder`); those of both parts in one file start with the part.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from cinelora.base.errors import Problem, RecipeError
from cinelora.nets.layouts import NativeLayout, Row

PARTS = ("unet", "controlnet")
_PEFT = "base_model.model."

_ATTENTION = tuple(f"{attention}.to_{one}" for attention in ("attn1", "attn2") for one in ("q", "k", "v", "out.0"))
_FF = ("net.0.proj", "net.2")
_PLACE = (
    *("proj_in", "proj_out", "time_pos_embed.linear_1", "time_pos_embed.linear_2"),
    *(f"transformer_blocks.{{}}.{name}" for name in (*_ATTENTION, *(f"ff.{one}" for one in _FF))),
    *(
        f"temporal_transformer_blocks.{{}}.{name}"
        for name in (*_ATTENTION, *(f"{ff}.{one}" for ff in ("ff", "ff_in") for one in _FF))
    ),
)
_NAMES = (
    *(f"{what}_embedding.linear_{k}" for what in ("time", "add") for k in (1, 2)),
    *(
        f"{stage}.{name}"
        for stage in ("down_blocks.{}", "mid_block", "up_blocks.{}")
        for name in (
            *(f"attentions.{{}}.{one}" for one in _PLACE),
            *(f"resnets.{{}}.{kind}_res_block.time_emb_proj" for kind in ("spatial", "temporal")),
        )
    ),
)
MODULES: tuple[Row, ...] = tuple((name, name) for name in _NAMES)
"""Every linear module of the UNet; the ControlNet has those of its way down and its middle."""

NETWORK_LAYOUTS = WEIGHT_LAYOUTS = (NativeLayout("diffusers", "conv_in."),)
VAE_LAYOUTS = (NativeLayout("diffusers", "encoder.conv_in."),)
IMAGE_LAYOUTS = (NativeLayout("transformers", "vision_model."),)


class PartsLora:
    """`unet.<name>.lora_A.weight`, `controlnet.<name>.lora_A.weight`; strength stands in the file's header."""

    name: str = "diffusers"
    strength: Literal["key", "header", "folded"] = "header"
    dora = True

    def reads(self, keys: Sequence[str]) -> bool:
        """True where every key starts with a part's name."""
        return bool(keys) and all(key.partition(".")[0] in PARTS for key in keys)

    def tables(self, keys: Sequence[str]) -> tuple[tuple[str, Sequence[Row]], ...]:
        """What the modules of both parts are called, for spellings that no layout has."""
        return tuple((part, MODULES) for part in PARTS)

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As they are: this is the native spelling."""
        return dict(tensors)

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As they are."""
        return dict(tensors)


class PeftLora:
    """`base_model.model.<name>.lora_A.weight`, the weights of a peft folder without what stands beside them.

    The keys do not say the part; alone they are the UNet's, as in the reference.
    """

    name: str = "peft"
    strength: Literal["key", "header", "folded"] = "folded"
    dora = False

    def reads(self, keys: Sequence[str]) -> bool:
        """True where every key starts as peft's do."""
        return bool(keys) and all(key.startswith(_PEFT) for key in keys)

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """peft -> native, of the UNet."""
        return {"unet." + key.removeprefix(_PEFT): value for key, value in tensors.items()}

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Native -> peft. Raises RecipeError for an adapter of the ControlNet, which would be taken for the UNet's."""
        if any(not key.startswith("unet.") for key in tensors):
            do = "write a folder for each part, or the diffusers layout"
            raise RecipeError(Problem("the peft layout holds an adapter of the UNet alone", do=do))
        return {_PEFT + key.removeprefix("unet."): value for key, value in tensors.items()}


LORA_LAYOUTS = (PartsLora(), PeftLora())
