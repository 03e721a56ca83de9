"""Owns in which order a denoiser is made to fit and to be fast: the one place that knows.

In: parts as they were read, [memory], which weights learn. Out: the same parts, ready to learn. The way of one run:
read -> `prepare` (quantise frozen linear layers; to the device, unless blocks stream or are spread) -> adapters go in
-> `fit_out` (compile blocks; let them stream; compute units twice; keep elsewhere what autograd keeps) -> spread over
ranks. Each wraps what was before: a compiler sees nothing but the network, and what is computed twice asks for its
block again in the backward pass.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from cinelora.engine.compiled import compile_blocks
from cinelora.engine.offload import LEAST_BYTES, Offload
from cinelora.engine.options import MemoryOptions, SpeedOptions
from cinelora.engine.quantise import Quantised, quantise
from cinelora.engine.recompute import recompute, units
from cinelora.engine.saved import Keeper, keep_by
from cinelora.engine.streamed import Stream, stream

Parts = Mapping[str, nn.Module]


@dataclass(frozen=True)
class Fitted:
    """What was done, for reports and meters."""

    num_twice: int = 0
    ring: Stream | None = None
    offload: Offload | None = None

    def waited(self) -> float:
        """Seconds in which computing waited for copies since this was asked before."""
        return sum(one.waits.taken() for one in (self.ring, self.offload) if one)

    def __str__(self) -> str:
        told = [f"{self.num_twice} units are computed twice"] if self.num_twice else []
        if self.offload:
            told.append("activations wait in main memory")
        if self.ring:
            host, there = self.ring.bytes_on_host / 2**30, self.ring.bytes_on_device / 2**30
            told.append(
                f"{len(self.ring.blocks)} blocks stream: {host:.3g} GiB in main memory, {there:.3g} on the device"
            )
        return "; ".join(told)


def prepare(
    parts: Parts, memory: MemoryOptions, *, device: torch.device, learning: Collection[str] = (), move: bool = True
) -> Quantised | None:
    """Ahead of adapters: quantise all but the parts `learning` in full, and bring the parts to the device.

    Without `move` they stay where they are, for what brings them itself. Raises RecipeError, RunError.
    """
    found = None
    if memory.quantise != "none":
        found = quantise(parts, memory.quantise, learning=learning, device=device)
    for part in parts.values() if move else ():
        part.to(device)
    return found


def fit_out(
    parts: Parts,
    memory: MemoryOptions,
    *,
    device: torch.device,
    twice: bool,
    adapters: Iterable[nn.Parameter] = (),
    speed: SpeedOptions | None = None,
) -> Fitted:
    """With adapters in: all of [speed] and [memory] that parts need; `twice` as [train] says. Raises RecipeError."""
    if speed is not None and speed.compile:
        compile_blocks(parts, limit=speed.compile_limit)
    chosen = units(parts, memory.recompute, every=memory.recompute_every) if twice else []
    keepers: list[Keeper] = []
    ring = None
    if memory.base == "streamed":
        ring = stream(parts, device=device, num_places=memory.ring_blocks, resident=list(adapters), within=chosen)
        keepers.append(ring)
    num = recompute(parts, memory.recompute, every=memory.recompute_every) if twice else 0
    offload = None
    if memory.activations == "offload":
        offload = Offload(parts.values(), least_bytes=LEAST_BYTES)
        keepers.append(offload)
    if keepers:
        keep_by(parts, keepers)
    return Fitted(num, ring, offload)
