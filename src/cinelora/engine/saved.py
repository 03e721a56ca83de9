"""Owns what autograd keeps of a part for its backward pass: who may keep a tensor in another way than as it is.

In: parts, keepers. Out: the same parts, whose `forward` asks the keepers in turn about each tensor; the first that
wants it has it. Inside of what is computed twice nothing is kept, so nobody is asked there.
"""

from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any, Protocol

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


class Keeper(Protocol):
    """Keeps tensors in a way of its own."""

    def begin(self) -> None:
        """A part is about to be asked."""

    def pack(self, tensor: Tensor) -> Any:
        """What stands for the tensor, or None where it is not the keeper's affair."""

    def unpack(self, packed: Any) -> Tensor:
        """The tensor again: the same numbers, sizes and device."""


def keep_by(parts: Mapping[str, nn.Module], keepers: Sequence[Keeper]) -> None:
    """Let keepers have what the parts keep for the backward pass."""

    def pack(tensor: Tensor) -> tuple[Keeper | None, Any]:
        for keeper in keepers:
            packed = keeper.pack(tensor)
            if packed is not None:
                return keeper, packed
        return None, tensor

    def unpack(kept: tuple[Keeper | None, Any]) -> Tensor:
        keeper, packed = kept
        return packed if keeper is None else keeper.unpack(packed)

    for part in parts.values():
        inner = part.forward

        @wraps(inner)
        def forward(*taken: Any, _inner: Any = inner, **named: Any) -> Any:
            for keeper in keepers:
                keeper.begin()
            with saved_tensors_hooks(pack, unpack):
                return _inner(*taken, **named)

        part.forward = forward
