"""Owns what a launcher (`accelerate launch`, `torchrun`) asks for: how many processes, and how the base is spread.

In: the environment that it made for this process. Out: numbers and words to compare with what engages. Loads no torch.
"""

import os
from collections.abc import Sequence
from typing import Literal

import psutil

from cinelora.base.errors import Problem, RunError

Sharding = Literal["none", "fsdp", "machine"]

_FSDP = "ACCELERATE_USE_FSDP"
_LOCAL = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")
"""Where launchers, also those of MPI, tell a process its number on its machine."""
_NO_SHARD, _WITHIN_A_MACHINE = ("NO_SHARD", "3"), ("HYBRID_SHARD", "HYBRID_SHARD_ZERO2", "4", "5")
"""Names and numbers of FSDP1's strategies, which configuration files of accelerate still hold."""


def asked_world() -> int:
    """How many processes are to work together; those that a launcher silently started as one count, too.

    `accelerate launch --cpu --num_processes 2` starts one process and tells it of no other: its own words are read.
    Raises RunError where WORLD_SIZE is no number.
    """
    if "WORLD_SIZE" in os.environ:
        return _number(os.environ["WORLD_SIZE"])
    if "ACCELERATE_USE_CPU" not in os.environ:
        return 1
    parent = psutil.Process().parent()
    try:
        return _told(parent.cmdline()) if parent else 1
    except psutil.Error:  # another user's, or gone already
        return 1


def refuse_no_launcher() -> None:
    """Raise RunError where WORLD_SIZE speaks of others, and no launcher has said which of them this process is.

    Platforms export it as the number of machines. Left alone, such a process fails, or waits for the others for ever.
    """
    if "WORLD_SIZE" not in os.environ or (world := asked_world()) < 2 or any(name in os.environ for name in _LOCAL):
        return
    what = "WORLD_SIZE speaks of several processes, and no launcher started this one"
    do = "start with `accelerate launch` or `torchrun` (docs/guides/launch.md), or `unset WORLD_SIZE` to work alone"
    raise RunError(Problem(what, found=f"WORLD_SIZE={world}, no LOCAL_RANK", do=do))


def _number(text: str) -> int:
    if text.strip().isdigit():
        return int(text)
    what, do = "WORLD_SIZE is no number of processes", "unset it, or start with `accelerate launch` or `torchrun`"
    raise RunError(Problem(what, found=f"WORLD_SIZE={text!r}", do=do))


def _told(words: Sequence[str]) -> int:
    """The number of processes in the words of `accelerate launch`; 1 where they are of another program."""
    if "launch" not in words:
        return 1
    for word, after in zip(words, (*words[1:], ""), strict=True):
        name, _, value = word.partition("=")
        if name.replace("-", "_") == "__num_processes" and (value or after).isdigit():
            return int(value or after)
    return 1


def asked_sharding(recipe: Sharding) -> Sharding:
    """How the base is to be spread: as the recipe says, or as the launcher's FSDP settings do.

    Those settings are taken out of the environment: they would let accelerate prepare its own FSDP, which does not
    engage on a CPU, and whose first version does not keep adapters whole. Raises RunError where the two differ, and
    where the launcher asks for what is not done.
    """
    if os.environ.get(_FSDP, "false").lower() != "true":
        return recipe
    if os.environ.get("FSDP_OFFLOAD_PARAMS", "false") == "true":
        what, do = "FSDP with weights in main memory is not done here", 'set memory.base = "streamed" without FSDP'
        raise RunError(Problem(what, found="--fsdp_offload_params true", do=do))
    kind = "FSDP_SHARDING_STRATEGY", "FSDP_RESHARD_AFTER_FORWARD"
    strategy = next((os.environ[name].upper() for name in kind if name in os.environ), "")
    if strategy in _NO_SHARD:
        what, do = "the launcher asks for FSDP that spreads nothing", "leave --use_fsdp out"
        raise RunError(Problem(what, found=f"FSDP_SHARDING_STRATEGY {strategy}", do=do))
    wanted: Sharding = "machine" if strategy in _WITHIN_A_MACHINE else "fsdp"
    if recipe not in ("none", wanted):
        what, do = "recipe and launcher ask for different sharding", "leave one of them out"
        raise RunError(Problem(what, found=f"train.sharding = {recipe!r}, the launcher's is {wanted!r}", do=do))
    del os.environ[_FSDP]
    return wanted
