"""Owns how DynamiCrafter's adapters are spelt, and what a checkpoint with an adapter in it is called.

FDoKE's trainer puts <module>.lora_a.weight and .lora_b.weight beside the checkpoint's own weights, also for text and
image tower, where they do nothing; it says the strength nowhere. PEFT's spelling has its own prefix and letters.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from cinelora.base.log import logger
from cinelora.families.dynamicrafter.layouts import (
    DEEPSPEED,
    IMAGE,
    RESAMPLER,
    RESAMPLER_LAYOUTS,
    TEXT,
    UNET,
    WEIGHT_LAYOUTS,
    PartsLora,
)
from cinelora.nets.layouts import Row

_ATTENTION = tuple(f"attn{{}}.to_{one}" for one in ("q", "k", "v", "out.{}", "k_ip", "v_ip"))
_PLACE = (
    "proj_in",
    "proj_out",
    *(f"transformer_blocks.{{}}.{one}" for one in (*_ATTENTION, "ff.net.{}.proj", "ff.net.{}")),
)
_UNET_NAMES = (
    *("time_embed.{}", "fps_embedding.{}"),
    *(f"init_attn.{{}}.{one}" for one in _PLACE),
    *(
        f"{stage}.{one}"
        for stage in ("input_blocks.{}.{}", "middle_block.{}", "output_blocks.{}.{}")
        for one in ("emb_layers.{}", *_PLACE)
    ),
)
UNET_MODULES: tuple[Row, ...] = tuple((name, name) for name in _UNET_NAMES)
"""Every linear module of the UNet; "{}" stands for a number."""
RESAMPLER_MODULES: tuple[Row, ...] = tuple(
    (RESAMPLER + name, name)
    for name in ("proj_in", "proj_out", *(f"layers.{{}}.{{}}.{one}" for one in ("to_q", "to_kv", "to_out", "{}")))
)

_LETTERS = ((".lora_a.weight", ".lora_A.weight"), (".lora_b.weight", ".lora_B.weight"))
_ENCODERS = (TEXT, IMAGE)


class CheckpointLora:
    """`<module of the checkpoint>.lora_a.weight`; strength stands in the header of files that this project writes.

    `alpha_is_strength`: where a file does not say it, its trainer's alpha is what B A is multiplied by, whatever the
    rank is.
    """

    name = "original"
    strength: Literal["key", "header", "folded"] = "header"
    dora = False
    alpha_is_strength = True

    def __init__(self) -> None:
        self.parts = PartsLora("parts")

    def tables(self, keys: Sequence[str]) -> tuple[tuple[str, Sequence[Row]], ...]:
        """What the modules of both parts are called, for spellings that no layout has."""
        return ("unet", UNET_MODULES), ("resampler", RESAMPLER_MODULES)

    def reads(self, keys: Sequence[str]) -> bool:
        """True where every key is of a matrix beside a weight of the checkpoint, at least one of the denoiser's."""
        bare = [key.removeprefix(DEEPSPEED) for key in keys]
        return any(key.startswith((UNET, RESAMPLER)) for key in bare) and all(
            key.startswith((UNET, RESAMPLER, *_ENCODERS)) and key.endswith(tuple(one for one, _ in _LETTERS))
            for key in bare
        )

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The denoiser's modules; those of the towers are left out, which is told where they would do something."""
        bare = {key.removeprefix(DEEPSPEED): one for key, one in tensors.items()}
        towers = [key for key in bare if key.startswith(_ENCODERS)]
        working = [key for key in towers if key.endswith(".lora_b.weight") and bool(bare[key].any())]
        if working:
            logger.warning(
                "left out: adapters of %d modules of the text and image towers, which only `cinelora lora apply` has "
                "a place for: %s ...", len(working), working[0]
            )  # fmt: skip
        own = {_spelt(key, 0, 1): one for key, one in bare.items() if key not in towers}
        return self.parts.to_native(own)

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As the trainer spells them."""
        return {_spelt(key, 1, 0): one for key, one in self.parts.from_native(tensors).items()}


def _spelt(key: str, old: int, new: int) -> str:
    for letters in _LETTERS:
        if key.endswith(letters[old]):
            return key.removesuffix(letters[old]) + letters[new]
    return key


LORA_LAYOUTS = (CheckpointLora(), PartsLora("peft", "base_model.model."))
PART_LAYOUTS = {"unet": WEIGHT_LAYOUTS, "resampler": RESAMPLER_LAYOUTS}


def merged_name(variant: str, adapter: str) -> str:
    """dynamicrafter_VARIANT_ADAPTER, such that ComfyUI-DynamiCrafterWrapper takes the variant's own configuration.

    It goes by words anywhere in a file's name, so that what misleads it is taken out of the adapter's: "cartoon".
    """
    own = variant.replace("-", "_")
    name = f"dynamicrafter_{own}_{adapter}"
    if picked(name) != picked(own):
        plain = re.sub("toon|interp|1024|512|256", "", adapter).strip("-_. ") or "lora"
        name = f"dynamicrafter_{own}_{plain}"
    return name


def picked(name: str) -> str:
    """The configuration that ComfyUI-DynamiCrafterWrapper takes for a file of this name; "" where it finds none."""
    rules = (("toon", "512"), ("interp", "512"), ("1024",), ("512",), ("256",))
    return next(("-".join(words) for words in rules if all(word in name for word in words)), "")
