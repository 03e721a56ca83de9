"""Owns a frozen base that streams: its blocks wait in main memory and come to the GPU just ahead of their use.

In: parts with adapters in them. Out: the same parts. A ring of few places on the GPU holds the blocks that are asked
now and next; which is next is learned from what was asked after it before, forward and backward apart, so that several
forward passes, several parts and any order are served. Copies run on a stream of their own; nothing is copied back.
Adapters and whatever is in no block stay on the GPU. On a CPU the places lie in plain memory, with the same numbers.
"""

from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any
from weakref import finalize

import torch
from torch import Tensor, nn

from cinelora.base.errors import Problem, RecipeError
from cinelora.engine.blocks import blocks_of
from cinelora.engine.waits import Waits

_ALIGNED, _PAGE = 256, 4096
_POISON = 255
"""A byte that makes NaN of every floating-point format."""


@dataclass(frozen=True)
class Piece:
    """One frozen weight of a block: where in the block's bytes it lies."""

    weight: nn.Parameter
    offset: int
    dtype: torch.dtype
    size: torch.Size

    def within(self, place: Tensor) -> Tensor:
        """The weight in a run of bytes that holds its block."""
        end = self.offset + self.size.numel() * self.dtype.itemsize
        return place[self.offset : end].view(self.dtype).view(self.size)


@dataclass(frozen=True)
class Block:
    """A block's frozen weights in main memory, as one run of bytes, and their pieces."""

    pieces: Sequence[Piece]
    host: Tensor

    def point(self, place: Tensor) -> None:
        """Let the weights be those in `place`."""
        for piece in self.pieces:
            piece.weight.data = piece.within(place)


@dataclass(frozen=True)
class _Kept:
    """A view of a streamed weight that autograd keeps: its block, and where in its bytes it lies."""

    number: int
    offset: int
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]


@dataclass
class Traffic:
    """What was copied, and how often a block was waited for that had not set out ahead."""

    num_copies: int = 0
    num_late: int = 0
    asked: list[int] = field(default_factory=list)


class Stream:
    """The ring. Plays `engine.saved.Keeper` for views of streamed weights, which it hands out anew when they are asked.

    With `poisoned`, for tests, a place that is given up is filled with NaN, and weights that are not there are NaN.
    """

    def __init__(self, blocks: Sequence[Block], device: torch.device, num_places: int, *, poisoned: bool = False):
        self.blocks, self.device, self._poisoned = blocks, device, poisoned
        most = max(len(block.host) for block in blocks)
        self.places = [torch.empty(most, dtype=torch.uint8, device=device) for _ in range(min(num_places, len(blocks)))]
        self.traffic, self.waits = Traffic(), Waits()
        self._held: OrderedDict[int, int] = OrderedDict()  # block -> place, the longest unused first
        self._number_of = {place.untyped_storage().data_ptr(): k for k, place in enumerate(self.places)}
        self._next: dict[tuple[str, int], int] = {}
        self._now: tuple[str, int] | None = None
        self._arriving: dict[int, Any] = {}
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._side is not None:
            for place in self.places:
                place.record_stream(self._side)  # a last copy ahead may be on its way when the ring is let go
        for block in blocks:
            self._leave(block)

    @property
    def bytes_on_device(self) -> int:
        """What the ring takes."""
        return sum(place.nbytes for place in self.places)

    @property
    def bytes_on_host(self) -> int:
        """What waits in main memory."""
        return sum(block.host.nbytes for block in self.blocks)

    def ask(self, number: int) -> Tensor:
        """Have a block on the device for what is computed next, and those that will follow on their way; its place."""
        way = _way()
        if self._now != (way, number):
            if self._now is not None and self._now[0] == way:
                self._next[self._now] = number
            self._now = (way, number)
            self.traffic.asked.append(number)
            del self.traffic.asked[:-1000]
            self.traffic.num_late += number not in self._held
            wanted = self._expected(way, number)
            for one in wanted:
                self._bring(one, wanted)
        arriving = self._arriving.pop(number, None)
        if arriving is not None:
            with self.waits.waiting(self.device):
                torch.cuda.current_stream(self.device).wait_event(arriving)
        return self.places[self._held[number]]

    def begin(self) -> None:
        """Nothing is needed."""

    def pack(self, tensor: Tensor) -> _Kept | None:
        """Where a view of a streamed weight lies; None for all else."""
        place = self._number_of.get(tensor.untyped_storage().data_ptr())
        if place is None:
            return None
        number = next(block for block, where in self._held.items() if where == place)
        return _Kept(number, int(tensor.storage_offset()), tensor.dtype, tensor.size(), tensor.stride())

    def unpack(self, packed: _Kept) -> Tensor:
        """The same view, of wherever the block is now."""
        place = self.ask(packed.number).view(packed.dtype)
        return place.as_strided(packed.size, packed.stride, packed.offset)

    def _expected(self, way: str, number: int) -> list[int]:
        """The block and those that will be asked after it, as many as there are places."""
        found, at = [number], number
        while len(found) < len(self.places):
            at = self._next.get((way, at), at - 1 if way == "backward" else at + 1)
            if at in found or not 0 <= at < len(self.blocks):
                break
            found.append(at)
        return found

    def _bring(self, number: int, wanted: Collection[int]) -> None:
        if number in self._held:
            self._held.move_to_end(number)
            return
        place = self._given_up(wanted)
        self._copy(number, self.places[place])
        self._held[number] = place
        self.blocks[number].point(self.places[place])
        self.traffic.num_copies += 1

    def _given_up(self, wanted: Collection[int]) -> int:
        """A place for another block: a free one, or that of the block which was not used for the longest time."""
        free = set(range(len(self.places))) - set(self._held.values())
        if free:
            return min(free)
        old = next(block for block in self._held if block not in wanted)
        place = self._held.pop(old)
        self._arriving.pop(old, None)
        self._leave(self.blocks[old])
        if self._poisoned:
            self.places[place].fill_(_POISON)
        return place

    def _copy(self, number: int, place: Tensor) -> None:
        host = self.blocks[number].host
        if self._side is None:
            with self.waits.waiting(self.device):
                place[: len(host)].copy_(host)
            return
        # All that was asked so far, and so the last use of this place, comes before the copy.
        self._side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._side):
            place[: len(host)].copy_(host, non_blocking=True)
            self._arriving[number] = self._side.record_event()

    def _leave(self, block: Block) -> None:
        """Let a block's weights be those in main memory."""
        block.point(torch.full_like(block.host, _POISON) if self._poisoned else block.host)


def _way() -> str:
    """What is going on: a backward pass (also its second forward), a forward pass towards one, or one by itself."""
    if torch._C._current_graph_task_id() != -1:
        return "backward"
    return "forward" if torch.is_grad_enabled() else "alone"


def stream(
    parts: Mapping[str, nn.Module],
    *,
    device: torch.device,
    num_places: int = 2,
    resident: Collection[nn.Parameter] = (),
    within: Collection[nn.Module] = (),
    poisoned: bool = False,
) -> Stream:
    """Let the blocks of all parts stream to the device, and move there what does not.

    `resident` are weights that stay on the device whether or not they learn: adapters. `within` are modules inside of
    blocks that are asked by themselves: what is computed twice. Raises RecipeError where no block has frozen weights.
    """
    stay = {id(weight) for weight in resident}
    modules = [block for part in parts.values() for block in blocks_of(part).values()]
    shared = Counter(id(weight) for block in modules for weight in set(block.parameters()))
    found: list[tuple[nn.Module, Block]] = []
    for module in modules:
        weights = [w for w in module.parameters() if not w.requires_grad and id(w) not in stay and shared[id(w)] == 1]
        if weights:
            found.append((module, _packed(weights, pinned=device.type == "cuda")))
    if not found:
        what, do = "nothing can be streamed", "set memory.base = 'resident'"
        where = "memory.base"
        raise RecipeError(Problem(what, found="no blocks with frozen weights", where=where, do=do))
    ring = Stream([block for _, block in found], device, num_places, poisoned=poisoned)
    _move_rest(parts, {id(piece.weight) for _, block in found for piece in block.pieces}, device)
    own = {id(module) for module in within}
    for number, (module, _) in enumerate(found):
        for one in module.modules():
            if one is module or id(one) in own:
                _let_ask(one, ring, number)
    return ring


def _let_ask(module: nn.Module, ring: Stream, number: int) -> None:
    inner = module.forward

    @wraps(inner)
    def forward(*taken: Any, **named: Any) -> Any:
        ring.ask(number)
        return inner(*taken, **named)

    module.forward = forward


def _packed(weights: Sequence[nn.Parameter], *, pinned: bool) -> Block:
    """Weights in one run of bytes in main memory, page-locked where a GPU is to read it."""
    pieces, end = [], 0
    for weight in weights:
        pieces.append(Piece(weight, end, weight.dtype, weight.size()))
        end += -(-weight.nbytes // _ALIGNED) * _ALIGNED
    host = _pages(end) if pinned else torch.empty(end, dtype=torch.uint8)
    for piece in pieces:
        piece.within(host).copy_(piece.weight.data)
    if pinned:
        _lock(host)
    block = Block(pieces, host)
    block.point(host)  # the memory that they came from is free now, ahead of the next block's
    return block


def _pages(num_bytes: int) -> Tensor:
    """Main memory that shares no page with anything else: a page cannot be locked for two."""
    run = torch.empty(num_bytes + 2 * _PAGE, dtype=torch.uint8)
    first = -run.data_ptr() % _PAGE
    return run[first : first + num_bytes]


def _lock(host: Tensor) -> None:
    """Page-lock memory in place: torch's own pinned memory comes in powers of two, up to twice as much as is needed."""
    runtime = torch.cuda.cudart()
    whole = -(-host.nbytes // _PAGE) * _PAGE
    torch.cuda.check_error(int(runtime.cudaHostRegister(host.data_ptr(), whole, 1)))
    finalize(host, runtime.cudaHostUnregister, host.data_ptr())


def _move_rest(parts: Mapping[str, nn.Module], streamed: Collection[int], device: torch.device) -> None:
    for part in parts.values():
        for tensor in (*part.parameters(), *part.buffers()):
            if id(tensor) not in streamed and tensor.device != device:
                tensor.data = tensor.data.to(device)
