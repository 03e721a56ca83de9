"""The fake family's files: native keys, with and without a prefix."""

from collections.abc import Mapping, Sequence

from torch import Tensor


class Prefixed:
    """Native keys (behind `native`, "" for weights) with that prefix changed to another."""

    def __init__(self, name: str, prefix: str, *, native: str = "", strength: str = "key"):
        self.name, self.prefix, self.native, self.strength, self.dora = name, prefix, native, strength, False

    def reads(self, keys: Sequence[str]) -> bool:
        """True where every key starts with the prefix and goes on as a native one does."""
        known = tuple(self.prefix + module for module in ("blocks.", "enter.", "leave."))
        return bool(keys) and all(key.startswith(known) for key in keys)

    def tables(self, keys: Sequence[str]) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
        """What the modules are called, for spellings that no layout has."""
        names = (*(f"blocks.{{}}.{one}" for one in ("to_q", "to_v", "out")), "enter", "leave")
        return ((self.native.removesuffix("."), tuple((name, name) for name in names)),) if self.native else ()

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Into the native prefix."""
        return {self.native + key.removeprefix(self.prefix): value for key, value in tensors.items()}

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Into the file's prefix."""
        return {self.prefix + key.removeprefix(self.native): value for key, value in tensors.items()}


WEIGHT_LAYOUTS = (Prefixed("native", ""),)
LORA_LAYOUTS = (
    Prefixed("diffusers", "transformer.", native="transformer.", strength="header"),
    Prefixed("comfyui", "diffusion_model.", native="transformer."),
)
