"""Owns which programs read DynamiCrafter's adapters and how: FDoKE's merging script, and peft.

Its script has no network of its own to look into: it adds alpha b a to the checkpoint's weight of the same name. The
ComfyUI node reads no adapters, but bases that one was merged into (`cinelora lora apply`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from cinelora.lora.consumers import FOLDER, Consumers, Landed, PeftRule, Taken
from cinelora.lora.strength import stated_alphas

_NETWORKS = {"unet": "model.diffusion_model.", "resampler": "image_proj_model."}
_DOWN, _UP = ".lora_a.weight", ".lora_b.weight"


def in_checkpoint(module: str) -> str:
    """What the published checkpoint calls a module ("unet.time_embed.0" is model.diffusion_model.time_embed.0)."""
    part, _, name = module.partition(".")
    return _NETWORKS[part] + name


@dataclass(frozen=True)
class MergingScript:
    """apply_lora.py: each pair beside the weight of its name; the strength is told to it, so it is the file's own."""

    program: str
    layouts: tuple[str, ...] = ("original",)

    def take(self, tensors: Mapping[str, Tensor], header: Mapping[str, str], modules: Sequence[str]) -> Taken:
        """Keys of its letters alone; others are left over."""
        found, used = dict[str, Landed](), set[str]()
        names = {module: in_checkpoint(module) for module in modules}
        own = {module: name for module, name in names.items() if name + _DOWN in tensors and name + _UP in tensors}
        ranks = {module: len(tensors[name + _DOWN]) for module, name in own.items()}
        alphas = stated_alphas(header, ranks, self.program)
        for module, name in own.items():
            scale = alphas.get(module, ranks[module]) / ranks[module]
            found[module] = Landed(tensors[name + _DOWN], tensors[name + _UP], scale)
            used |= {name + _DOWN, name + _UP}
        return Taken(found, tuple(key for key in tensors if key not in used))


CONSUMERS = Consumers(
    programs=(
        MergingScript("FDoKE's apply_lora.py, its --alpha being the file's strength"),
        PeftRule("peft: PeftModel.from_pretrained", (FOLDER,)),
    ),
)
