"""Owns a frozen base that is spread over ranks: FSDP2 (Zhao et al. 2023; torch's `fully_shard`), block by block.

In: a denoiser's parts with adapters in them, what stays whole. Out: the same parts, of whose frozen weights each rank
has a piece; a block's are put together when it is asked, and let go of afterwards. What learns is small, so it stays
whole on every rank: its gradients, checkpoints and files are those of a run without shards, bit for bit.
Every rank must ask the parts equally often, or all of them wait for ever.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only

from cinelora.engine.blocks import blocks_of


@dataclass(frozen=True)
class Spread:
    """How parts are held in truth, as their own tensors say: numbers of weights, and over how many ranks pieces lie."""

    num_sharded: int
    num_whole: int
    num_ranks: int
    frozen: tuple[str, ...]
    learning: tuple[str, ...]
    """Number formats, the most frequent first."""

    def __str__(self) -> str:
        frozen, learning = " and ".join(self.frozen) or "nothing", " and ".join(self.learning) or "nothing"
        if not self.num_sharded:
            return f"frozen weights in {frozen}, learning ones in {learning}, all whole on each rank"
        share = self.num_sharded / (self.num_sharded + self.num_whole)
        spread = f"{share:.1%} of all weights spread over {self.num_ranks} ranks by FSDP2"
        return f"frozen weights in {frozen}, learning ones in {learning}, {spread}"


def shard(
    parts: Mapping[str, nn.Module], whole: Iterable[nn.Parameter], *, device_type: str, within_machine: bool = False
) -> None:
    """Spread every weight but those of `whole` over all ranks, or over those of this machine. Moves them to the device.

    Parts that learn in full stay as they are, since none of their weights is frozen.
    """
    mesh = mesh_of(device_type, within_machine=within_machine)
    kept = set(whole)
    for part in parts.values():
        if all(weight in kept for weight in part.parameters()):
            continue
        for module in (*blocks_of(part).values(), part):
            module.register_forward_hook(_own_memory)  # ahead of the hooks that FSDP2 adds
            fully_shard(module, mesh=mesh, ignored_params=kept)


def _own_memory(module: nn.Module, inputs: object, output: object) -> object:
    """Outputs that are views as copies: what is added to a view in place would lose FSDP2's hook on it."""
    return tree_map_only(torch.Tensor, lambda tensor: tensor.clone() if tensor._is_view() else tensor, output)


def mesh_of(device_type: str, *, within_machine: bool = False) -> DeviceMesh:
    """The ranks that share one copy of the base: all, or those of this machine, of which all must have as many."""
    world = torch.distributed.get_world_size()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world)) if within_machine else world
    return init_device_mesh(device_type, (world // local, local), mesh_dim_names=("machines", "ranks"))["ranks"]


def spread_of(parts: Mapping[str, nn.Module]) -> Spread:
    """What is true of the parts, told by their weights and not by what was asked for."""
    sharded = whole = 0
    ranks, dtypes = 1, {True: Counter[str](), False: Counter[str]()}
    for weight in (weight for part in parts.values() for weight in part.parameters()):
        if isinstance(weight, DTensor):
            sharded, ranks = sharded + weight.numel(), max(ranks, weight.device_mesh.size())
        else:
            whole += weight.numel()
        dtypes[weight.requires_grad][str(weight.dtype).removeprefix("torch.")] += weight.numel()
    learning, frozen = (tuple(name for name, _ in dtypes[learns].most_common()) for learns in (True, False))
    return Spread(sharded, whole, ranks, frozen, learning)
