"""Owns activations that wait in main memory: copied there on a stream of their own, and back ahead of their use.

In: tensors that autograd keeps. Out: the same, when the backward pass asks. Small ones, and whatever is a weight, stay.
On a CPU the copies are plain ones, so that the numbers of all this can be seen without a GPU.
"""

from collections.abc import Iterable
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from cinelora.engine.waits import Waits

LEAST_BYTES = 1 << 20
"""Smaller tensors are not worth a copy."""


class _Waiting:
    """One tensor in main memory, on its way there or back."""

    def __init__(self, host: Tensor, device: torch.device, before: "_Waiting | None"):
        self.host, self.device, self.before = host, device, before
        self.there: Tensor | None = None
        self.done: Any = None


class Offload:
    """Plays `engine.saved.Keeper`. Weights of `parts` stay where they are."""

    def __init__(self, parts: Iterable[nn.Module], *, least_bytes: int):
        self._parts, self._least = list(parts), least_bytes
        self._weights: set[int] = set()
        self._known: dict[tuple, tuple[StorageWeakRef, ref[_Waiting]]] = {}
        self._newest: _Waiting | None = None
        self._sides: dict[torch.device, Any] = {}
        self.bytes_offloaded = 0
        """How much went to main memory so far."""
        self.waits = Waits()

    def pack(self, tensor: Tensor) -> _Waiting | None:
        """Send a large activation away; None for all else."""
        if (
            tensor.nbytes < self._least
            or tensor.layout != torch.strided
            or tensor.untyped_storage()._cdata in self._weights
        ):
            return None
        storage = tensor.untyped_storage()
        key = (storage._cdata, tensor.storage_offset(), tensor.size(), tensor.stride(), tensor.dtype, tensor._version)
        known = self._known.get(key)
        if known is not None and not known[0].expired() and (before := known[1]()) is not None:
            return before
        waiting = self._sent(tensor)
        # Several operations keep the same tensor. A weak reference keeps its storage's number from being given anew.
        self._known = {k: one for k, one in self._known.items() if not one[0].expired()}
        self._known[key] = (StorageWeakRef(storage), ref(waiting))
        return waiting

    def unpack(self, packed: _Waiting) -> Tensor:
        """The tensor on its device again; the one that was kept before it sets out, too."""
        self._fetch(packed)
        if packed.before is not None:
            self._fetch(packed.before)
        if packed is self._newest:
            self._newest = None
        assert packed.there is not None
        if packed.done is not None:
            stream = torch.cuda.current_stream(packed.device)
            with self.waits.waiting(packed.device):
                stream.wait_event(packed.done)
            packed.there.record_stream(stream)
        return packed.there

    def begin(self) -> None:
        """Look again which storages are weights: ahead of each forward pass."""
        self._weights, self._newest = self._numbers(), None

    def _numbers(self) -> set[int]:
        return {weight.untyped_storage()._cdata for part in self._parts for weight in part.parameters()}

    def _sent(self, tensor: Tensor) -> _Waiting:
        # Of a part of a larger tensor only itself goes; one that merely lies in another order keeps that.
        order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
        whole = tensor.detach() if tensor.permute(order).is_contiguous() else tensor.detach().contiguous()
        on_gpu = tensor.is_cuda
        host = torch.empty_strided(whole.size(), whole.stride(), dtype=whole.dtype, pin_memory=on_gpu)
        waiting = _Waiting(host, tensor.device, self._newest)
        if on_gpu:
            side = self._side(tensor.device)
            side.wait_stream(torch.cuda.current_stream(tensor.device))
            with torch.cuda.stream(side):
                host.copy_(whole, non_blocking=True)
            whole.record_stream(side)
        else:
            host.copy_(whole)
        self._newest = waiting
        self.bytes_offloaded += host.nbytes
        return waiting

    def _fetch(self, waiting: _Waiting) -> None:
        if waiting.there is not None:
            return
        if waiting.device.type != "cuda":
            waiting.there = waiting.host
            return
        side = self._side(waiting.device)
        with torch.cuda.stream(side):  # the same stream brought it away, so it is in order
            waiting.there = waiting.host.to(waiting.device, non_blocking=True)
            waiting.done = side.record_event()

    def _side(self, device: torch.device) -> Any:
        if device not in self._sides:
            self._sides[device] = torch.cuda.Stream(device)
        return self._sides[device]
