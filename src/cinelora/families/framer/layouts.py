"""Owns how Framer's weights and adapters are spelt in files.

Published weights come as diffusers folders, so native names are the files' own. Adapters of one part are what peft
writes (`unet_lora/`, see `lora.peft_folder`); those of both parts in one file start with the part.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from cinelora.base.errors import Problem, RecipeError
from cinelora.nets.layouts import NativeLayout

PARTS = ("unet", "controlnet")
_PEFT = "base_model.model."

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
