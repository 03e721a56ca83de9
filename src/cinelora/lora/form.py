"""Owns the one form that an adapter has in memory: tensors by native name, alpha of each module, what its file said.

A module's strength is alpha / rank, always. Files are read and written in `files`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

DOWN, UP, MAGNITUDE, ALPHA = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector", ".alpha"
"""How native names end, behind the module."""


@dataclass(frozen=True)
class AdapterFile:
    """An adapter outside a denoiser.

    `tensors` by native name ("transformer.blocks.0.attn1.to_q.lora_A.weight": rank x in; lora_B: out x rank),
    `alphas` by module ("transformer.blocks.0.attn1.to_q"), `metadata` any strings, `spelt` what the file that it was
    read from calls a module.
    """

    tensors: Mapping[str, Tensor]
    alphas: Mapping[str, float]
    metadata: Mapping[str, str] = field(default_factory=dict)
    spelt: Mapping[str, str] = field(default_factory=dict)

    def modules(self) -> list[str]:
        """Names of the adapted modules, in the file's order."""
        return [key.removesuffix(DOWN) for key in self.tensors if key.endswith(DOWN)]

    def spelling(self, module: str) -> str:
        """The module as its file calls it."""
        return self.spelt.get(module, module)

    def rank(self, module: str) -> int:
        """Rows of lora_A."""
        return len(self.tensors[module + DOWN])

    def scale(self, module: str) -> float:
        """What B A is multiplied by."""
        return self.alphas[module] / self.rank(module)

    def sizes(self, module: str) -> tuple[int, int]:
        """Inputs and outputs of the module."""
        return self.tensors[module + DOWN].shape[1], self.tensors[module + UP].shape[0]

    def of_part(self, part: str, name: str) -> "AdapterFile":
        """The modules of one part alone, which is then called `name`; the metadata stays."""

        def renamed(key: str) -> str:
            return name + key.removeprefix(part)

        own = [module for module in self.modules() if module.startswith(f"{part}.")]
        tensors = {renamed(k): v for k, v in self.tensors.items() if k.startswith(f"{part}.")}
        return AdapterFile(tensors, {renamed(module): self.alphas[module] for module in own}, self.metadata)

    @property
    def dora(self) -> bool:
        """True where magnitude vectors come along."""
        return any(key.endswith(MAGNITUDE) for key in self.tensors)
