"""Owns how much arithmetic a piece of work is, and what cards can do: FLOPs, tokens, shares of a card's peak.

In: work that runs (or that is only acted out on fake tensors, see `engine.account`). Out: FLOPs by kind.

MFU = F / (s P): F the FLOPs that a step needs (two for each multiply-and-add of matrix products, convolutions and
attention, those that the recipe has computed twice counted twice; frozen weights have no gradient, so none is counted),
s its seconds, P the card's dense peak in bf16. Since recomputation counts, this is what Korthikanti et al. 2022
("Reducing Activation Recomputation in Large Transformer Models") call HFU.
Attention: forward 4 B N Lq Lk K, backward twice that (kernels that compute scores again in it get nothing for it).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Card:
    """A GPU: `peak` dense bf16 FLOP/s on tensor cores with fp32 accumulation, `gigabytes` of memory (10^9 bytes)."""

    name: str
    gigabytes: float
    peak: float


CARDS = (
    Card("RTX 3060", 12, 25.6e12),
    Card("RTX 4060 Ti", 16, 44e12),
    Card("RTX 3090", 24, 71e12),
    Card("RTX 4090", 24, 165.2e12),
    Card("RTX 5090", 32, 209.5e12),
    Card("A100 40GB", 40, 312e12),
    Card("RTX A6000", 48, 154.8e12),
    Card("L40S", 48, 362e12),
    Card("A100 80GB", 80, 312e12),
    Card("H100", 80, 989.4e12),
    Card("RTX PRO 6000", 96, 503.8e12),
    Card("H200", 141, 989.4e12),
    Card("B200", 180, 2250e12),
)
"""From NVIDIA's data sheets and architecture papers (Ampere GA102, Ada, Hopper, Blackwell): dense figures, those that
are printed "with sparsity" halved; SXM kinds of A100, H100, H200 and B200."""


def card_named(name: str) -> Card | None:
    """The card of the table that a driver's name ("NVIDIA A100-SXM4-80GB") or a person's ("4090") means."""
    words = name.lower().replace(" ", "")
    found = [card for card in CARDS if all(word in words for word in card.name.lower().replace("rtx", "").split())]
    return max(found, key=lambda card: len(card.name), default=None)


def peak_of(device: torch.device) -> float | None:
    """The peak of the GPU that is there; None for CPUs and cards that the table does not have."""
    if device.type != "cuda":
        return None
    card = card_named(torch.cuda.get_device_name(device))
    return card.peak if card else None


class Flops(TorchDispatchMode):
    """Counts while it is entered, and changes nothing: every operation runs as it would without."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = 0
        self.other = 0

    @property
    def total(self) -> int:
        """All FLOPs."""
        return self.attention + self.other

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one operation and count it."""
        found = func(*args, **(kwargs or {}))
        self.count(func, args, kwargs or {}, found)
        return found

    def count(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], found: Any) -> None:
        """Take one operation in."""
        packet = func._overloadpacket
        name = packet.__name__
        if "attention" in name:
            backward = name.endswith("backward") or "_backward" in name
            query, key, value = args[1:4] if backward else args[:3]
            self.attention += (2 if backward else 1) * attention_flops(query, key, value)
        elif packet in flop_registry:
            self.other += flop_registry[packet](*args, **kwargs, out_val=found)


def attention_flops(query: Tensor, key: Tensor, value: Tensor) -> int:
    """4 B N Lq Lk K of the forward pass: q B N L K (or any order of the first two sides)."""
    return 2 * math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def tokens_of(parts: Mapping[str, nn.Module], latents: Tensor) -> int:
    """How many tokens a micro of latents B C T H W has: cells, divided by the patch that the network's config states.

    Networks without patches (UNets) have a token for each cell.
    """
    config: Any = next((part.config for part in parts.values() if hasattr(part, "config")), None)
    patch = getattr(config, "patch_size", None) or 1
    sides = tuple(patch) if isinstance(patch, Iterable) else (getattr(config, "patch_size_t", None) or 1, patch, patch)
    batch, _, *grid = latents.shape
    return batch * math.prod(-(-side // by) for side, by in zip(grid, sides, strict=True))
