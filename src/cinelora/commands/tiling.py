"""Owns whether the autoencoder works in tiles where `memory.vae_tiling` leaves it to the machine.

In: a Loaded recipe, buckets, the device. Out: the recipe with "on" where tiles are needed, and tiles for one decoding.
For encoding all of a device's memory counts, as nothing else is there then, and so every rank, worker and later start
decides alike: latents in tiles are slightly other ones, and have entries of their own in the cache. For decoding what
is free at that moment counts: the denoiser is there, too.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psutil
import torch

from cinelora.base.log import console
from cinelora.commands.plan_memory import Encoders
from cinelora.config.load import Loaded
from cinelora.contracts.flow import Bucket
from cinelora.contracts.roles import Encoder
from cinelora.engine.account import CONTEXT_BYTES, MARGIN


def with_tiling(loaded: Loaded, buckets: Iterable[Bucket], *, device: str) -> Loaded:
    """The recipe with vae_tiling = "on", where it is "auto" and the largest bucket needs more than the device has."""
    if loaded.recipe.memory.vae_tiling != "auto":
        return loaded
    largest = max(buckets, key=lambda one: one.frames * one.height * one.width, default=None)
    encoders = Encoders(loaded)
    names = tuple(f"encoding: {tower.name}," for tower in tiling_towers(encoders.encoder))
    if largest is None or not names:
        return loaded
    need = max(phase.bytes for phase in encoders.phases(largest) if phase.name.startswith(names))
    has = whole_bytes(device)
    if fits(need, has):
        return loaded
    console.print(f"the autoencoder works in tiles: {need / 2**30:.1f} GiB for {largest}, {has / 2**30:.1f} there")
    memory = loaded.recipe.memory.model_copy(update={"vae_tiling": "on"})
    return replace(loaded, recipe=loaded.recipe.model_copy(update={"memory": memory}))


@contextmanager
def tiled(encoder: Encoder, needed: bool) -> Iterator[None]:
    """While the block runs, the autoencoder works in tiles if that is needed."""
    towers = tiling_towers(encoder) if needed else []
    before = [tower.tiling for tower in towers]
    try:
        for tower in towers:
            tower.tiling = True
        yield
    finally:
        for tower, was in zip(towers, before, strict=True):
            tower.tiling = was


def decoding_needs_tiles(need: int, *, device: str) -> bool:
    """Whether a decoding that holds `need` bytes does not go into what is free on the device."""
    return not fits(need, free_bytes(device))


def fits(need: int, has: int) -> bool:
    """Whether work that holds `need` bytes by account goes into `has`, with what no account sees."""
    return need + CONTEXT_BYTES <= has * (1 - MARGIN)


def whole_bytes(device: str) -> int:
    """All memory of a device: of a GPU its own, of the CPU main memory."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def free_bytes(device: str) -> int:
    """What is free on a device now; of a GPU also what torch holds back for itself."""
    if torch.device(device).type == "cuda":
        own = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + own)
    return int(psutil.virtual_memory().available)


def tiling_towers(encoder: Encoder) -> list[Any]:
    """The towers that make latents and can do so in tiles."""
    return [tower for tower in encoder.towers() if "mean" in tower.gives and hasattr(tower, "tiling")]
