"""Owns what [speed] means for a recipe: what is refused, what the loop is told, and relief where memory is full.

In: a Loaded recipe, its place, the denoiser's parts. Out: errors before a weight is read; keyword arguments of Work.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cinelora.base.errors import Problems, RecipeError
from cinelora.config.load import Loaded
from cinelora.contracts.roles import Tower
from cinelora.engine.attention import check_attention
from cinelora.engine.flops import tokens_of
from cinelora.engine.recompute import recompute, units
from cinelora.train.probe import Relieve

if TYPE_CHECKING:
    from cinelora.train.place import Place

FUSED = ("adamw", "adam")
"""Optimizers that have one kernel for a whole step."""


def check_speed(loaded: Loaded, device: torch.device) -> None:
    """See that [speed] asks for nothing that is not there. Raises RecipeError with all that it does."""
    recipe, problems = loaded.recipe, Problems(RecipeError)
    if recipe.speed.fused_optimizer == "on":
        found, where = "fused_optimizer = 'on'", "speed.fused_optimizer"
        if recipe.train.optimizer not in FUSED:
            allowed = ", ".join(FUSED)
            problems.add(f"{recipe.train.optimizer} has no fused step", found=found, allowed=allowed, where=where)
        if recipe.memory.optimizer == "cpu":
            what = "an optimizer in main memory is not fused with what is on the GPU"
            problems.add(what, found=found, where=where, do='set speed.fused_optimizer = "auto"')
    try:
        check_attention(recipe.speed.attention, device)
    except RecipeError as error:
        problems.found += error.problems
    problems.found = [loaded.source.located(problem) for problem in problems.found]
    problems.raise_if_any()


def is_fused(loaded: Loaded, device: torch.device) -> bool:
    """Whether the optimizer's step is one kernel: on a GPU wherever there is one, elsewhere where it is asked for."""
    recipe = loaded.recipe
    if recipe.speed.fused_optimizer != "auto":
        return recipe.speed.fused_optimizer == "on"
    return device.type == "cuda" and recipe.train.optimizer in FUSED and recipe.memory.optimizer == "gpu"


def for_the_loop(loaded: Loaded, parts: Mapping[str, nn.Module], place: "Place") -> dict[str, Any]:
    """What the loop is told of speed, as fields of Work."""
    recipe = loaded.recipe
    # Encoders that work in the loop are on the GPU, and one at a time.
    reads_ahead = recipe.data.cache == "on"
    return {
        "num_workers": recipe.speed.num_workers if reads_ahead else 0,
        "prefetch_micros": recipe.speed.prefetch_micros,
        "probes": place.device.type == "cuda",
        "relieve": relief(loaded, parts),
        "tokens": partial(tokens_of, parts),
        "counts_flops": not recipe.speed.compile,
        "fused": is_fused(loaded, place.device),
    }


def relief(loaded: Loaded, parts: Mapping[str, nn.Module]) -> Relieve:
    """Let every block be computed twice where less is, then attention in it once more.

    Streamed bases have settled what is, with their ring; compiled blocks have no attention that is asked by itself.
    """
    train, memory = loaded.recipe.train, loaded.recipe.memory
    now = memory.recompute if train.gradient_checkpointing else ""
    left = {"blocks": "every block is computed twice from now on", "nested": "attention is computed a third time, too"}
    if now in ("blocks", "nested"):
        del left["blocks"]
    if now == "nested" or loaded.recipe.speed.compile or not units(parts, "attention"):
        del left["nested"]
    if memory.base == "streamed":
        left = {}

    def relieve() -> str:
        kind = next(iter(left), "")
        if kind:
            recompute(parts, kind)
        return left.pop(kind, "")

    return relieve


def lay_out(towers: Iterable[Tower]) -> None:
    """Let autoencoders lie channels last on a GPU, which its convolutions like better; elsewhere as they are."""
    for tower in towers:
        if "mean" in tower.gives:
            tower.load = _channels_last(tower)  # type: ignore[method-assign]


def _channels_last(tower: Tower) -> Any:
    load = tower.load

    def loading(device: str) -> None:
        load(device)
        net = getattr(tower, "net", None)
        if device.startswith("cuda") and isinstance(net, nn.Module):
            _lay_channels_last(net)

    return loading


def _lay_channels_last(net: nn.Module) -> None:
    """By the number of sides: `Module.to` would ask all weights for one order, and fails where there is a Conv2d."""
    orders = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in net.parameters():
        if weight.ndim in orders:
            weight.data = weight.data.contiguous(memory_format=orders[weight.ndim])
