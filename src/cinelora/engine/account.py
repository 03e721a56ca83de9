"""Owns the account of memory: how many bytes work would hold on a device, without one and without the bytes.

In: parts whose weights are given up for fake tensors (shapes and formats alone), and work that is acted out on them.
Out: `Account`: bytes now and at the most, FLOPs. An operation's result counts until nobody holds it, as torch's own
allocator counts it, in pieces of 512 bytes.

Not counted, hence MARGIN: the driver's context, fragments between blocks, workspaces of kernels. Attention is taken for
a fused kernel (flash, efficient: no scores are kept), whatever the CPU would do. The CPU's autocast stands for CUDA's.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from cinelora.engine.flops import Flops, attention_flops

MARGIN = 0.08
"""Share of a card that is left free for what the account does not see, besides CONTEXT_BYTES."""
CONTEXT_BYTES = 700_000_000
_PIECE = 512


def fake_mode() -> FakeTensorMode:
    """What fake tensors are made in; real ones that come along (constants) are taken as they are."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@contextmanager
def without_weights(mode: FakeTensorMode) -> Iterator[None]:
    """Networks that are opened in the block have fake weights, whatever their size; no number is drawn or read."""
    apply = nn.Module._apply
    nn.Module._apply = _converted  # type: ignore[method-assign]
    try:
        with mode:
            yield
    finally:
        nn.Module._apply = apply  # type: ignore[method-assign]


def _converted(module: nn.Module, convert: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """What `nn.Module.to` does, by new weights: torch's own way exchanges them in place, which fake ones refuse."""
    for one in module.modules() if recurse else (module,):
        for name, weight in one._parameters.items():
            if weight is not None:
                one._parameters[name] = _parameter(convert(weight.detach()), weight.requires_grad)
        for name, buffer in one._buffers.items():
            if buffer is not None:
                one._buffers[name] = convert(buffer)
    return module


def empty_weights(parts: Mapping[str, nn.Module]) -> None:
    """Take fake weights back to the meta device, on which adapters can be put in."""
    for module in (module for part in parts.values() for module in part.modules()):
        for name, weight in module._parameters.items():
            if weight is not None:
                empty = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
                module._parameters[name] = _parameter(empty, weight.requires_grad)


def give_up_weights(parts: Mapping[str, nn.Module], mode: FakeTensorMode) -> None:
    """Replace every weight and buffer of parts by a fake one of its shape and format, on the CPU; no memory stays."""
    known: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in known:
            with mode:
                known[id(tensor)] = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
        return known[id(tensor)]

    held: list[Tensor] = []  # so that ids stay those of living tensors
    for module in (module for part in parts.values() for module in part.modules()):
        for name, weight in module._parameters.items():
            if weight is not None:
                held.append(weight)
                module._parameters[name] = _parameter(fake(weight), weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                held.append(buffer)
                module._buffers[name] = fake(buffer)


def _parameter(tensor: Tensor, learns: bool) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=learns)


def faked(tensors: Any, mode: FakeTensorMode) -> Any:
    """The same with fake tensors for real ones."""
    return tree_map_only(Tensor, lambda one: one if isinstance(one, FakeTensor) else mode.from_tensor(one), tensors)


class Account(TorchDispatchMode):
    """Bytes that are held by results of operations while it is entered; `now` and `most`."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.flops = Flops()
        self._storages: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Act one operation out and count what it makes."""
        found = func(*args, **(kwargs or {}))
        self.flops.count(func, args, kwargs or {}, found)
        self.hold(found)
        return found

    def hold(self, tensors: Any) -> None:
        """Count the storages of tensors until they are let go; those that count already count once."""
        for tensor in tree_iter(tensors):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage())

    def _hold(self, storage: Any) -> None:
        if storage in self._storages:
            return
        size = -(-storage.nbytes() // _PIECE) * _PIECE
        self._storages[storage] = size
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._let_go, size)

    def _let_go(self, size: int) -> None:
        self.now -= size


@contextmanager
def accounting(account: Account, mode: FakeTensorMode) -> Iterator[None]:
    """Count all that happens in the block, on fake tensors, attention as GPUs' kernels have it: results, no scores."""

    def fused(
        query: Tensor, key: Tensor, value: Tensor, *others: Any, enable_gqa: bool = False, **named: Any
    ) -> Tensor:
        given = (query, key, value)
        if torch.is_autocast_enabled("cpu"):
            given = tuple(one.to(torch.get_autocast_dtype("cpu")) for one in given)  # type: ignore[assignment]
        return _Fused.apply(*given, account.flops)

    own = functional.scaled_dot_product_attention
    # Not by a mode of torch's, which is not there when a backward pass computes a second time.
    functional.scaled_dot_product_attention = fused
    try:
        with mode, account:
            yield
    finally:
        functional.scaled_dot_product_attention = own


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, flops: Flops) -> Tensor:
        found = query.new_empty(*query.shape[:-1], value.shape[-1])
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, found, sums)
        ctx.flops = flops
        flops.attention += attention_flops(query, key, value)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        query, key, value, _, _ = ctx.saved_tensors
        ctx.flops.attention += 2 * attention_flops(query, key, value)
        return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape), None


def offloading(least_bytes: int = 1 << 20) -> AbstractContextManager[Any]:
    """Act out that what is kept for the backward pass waits in main memory: it is let go, and made again when asked."""

    def pack(tensor: Tensor) -> Any:
        if isinstance(tensor, nn.Parameter) or tensor.nbytes < least_bytes:
            return tensor
        return tensor.shape, tensor.dtype

    def unpack(kept: Any) -> Tensor:
        return kept if isinstance(kept, Tensor) else torch.empty(kept[0], dtype=kept[1])

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def act_out(work: Callable[[], object], held: Any, mode: FakeTensorMode) -> Account:
    """The account of `work`, done while the tensors of `held` are there all the time."""
    account = Account()
    account.hold(held)
    with accounting(account, mode):
        kept = work()
        del kept
    return account


def bytes_of(tensors: Any) -> int:
    """Bytes of tensors, each storage once."""
    storages = {id(one.untyped_storage()): one.untyped_storage().nbytes() for one in tree_iter(tensors)}
    return sum(storages.values())
