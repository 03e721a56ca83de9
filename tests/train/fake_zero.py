"""What two processes do together under DeepSpeed, for tests; all of it in one start.

python fake_zero.py FOLDER PORT PORT: two processes train with and without it, one goes on with what they saved,
then two.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cinelora.base.errors import RunError
from cinelora.base.log import console
from cinelora.commands.train import train
from cinelora.contracts.roles import Player
from cinelora.train.optim import Learner
from cinelora.train.options import TrainOptions
from cinelora.train.place import open_place
from cinelora.train.zero import ZeroLearner
from train import fake_distill, fake_run
from train.fake_ranks import fine_tuning, keep
from train.fake_run import SMALL, clipwise, rank_micros, two_processes

CLIP = {"clip_norm": 0.015}
"""Gradients of these runs are longer in some steps, and shorter in others."""
CASES: dict[str, dict[str, Any]] = {
    "whole": {},
    "zero-1": {"zero": 1},
    "zero-2": {"zero": 2},
    "zero-2 in pieces": {"zero": 2, "sharding": "fsdp"},
    "handed on": {"steps": 2, "zero": 2},
}
DISTILLED: dict[str, dict[str, Any]] = {"distilled": {}, "distilled zero": {"zero": 2}}
UNEQUAL: dict[str, dict[str, Any]] = {"clips": {}, "clips zero": {"zero": 1}}


def together(folder: Path, rank: int) -> None:
    console.quiet = rank > 0
    for case, options in CASES.items():
        fine_tuning(folder, rank, case, **CLIP, **options)
    fine_tuning(folder, rank, "zero on host", {"optimizer": "cpu"}, **CLIP, zero=2)
    for case, options in UNEQUAL.items():
        run = clipwise(folder / case, rank_micros()[rank], {**fake_run.RANKS, "accumulation": 2, **options})
        run.run()
        keep(folder, case, rank, {name: weight.detach() for name, weight in run.work.method.parameters.items()})
    for case, options in DISTILLED.items():
        keep(folder, case, rank, fake_distill.one_rank(folder / case, rank, **options))
    keep(folder, "by hand", rank, by_hand(rank))


def by_hand(rank: int) -> dict[str, Any]:
    """Two learners alike, one under DeepSpeed: scaled gradients, an infinite one, one that a rank lacks, and none."""
    found: dict[str, Any] = {}
    for zero in (0, 2):
        options = TrainOptions(**SMALL, zero=zero, clip_norm=0.5, eps=1e-3)
        place = open_place(options)
        player = Player("adapter", weights())
        learner = ZeroLearner(player, options, place) if zero else Learner(player, options)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        norms = []
        for number, kind in enumerate(("both", "infinite", "one rank", "none", "both"), start=1):
            learner.clear()
            for k, weight in enumerate(learner.parameters.values() if kind != "none" else ()):
                if kind == "one rank" and k == rank:
                    continue
                weight.grad = scaler.scale(torch.full_like(weight, 1.0 + k - 0.3 * rank))
                if kind == "infinite" and rank == 1:
                    weight.grad.view(-1)[0] = torch.inf
            learner.share(place, 2 + rank)
            norms.append(learner.clip(scaler, number))
            learner.step(0.1, scaler, number)
        tensors = {name: weight.detach().clone() for name, weight in learner.parameters.items()}
        found[f"zero {zero}"] = {"tensors": tensors, "norms": norms, "scale": scaler.get_scale()}
        if isinstance(learner, ZeroLearner):
            learner.clear()
            next(iter(learner.parameters.values())).grad = torch.ones(3, 3)
            try:
                learner.share(place, 1)
            except RunError as error:
                found["unasked"] = str(error)
    return found


def weights() -> dict[str, torch.nn.Parameter]:
    """Of odd sizes, so that parts end in the middle of a matrix and behind the last vector."""
    start = {"one": torch.linspace(-1, 1, 9).view(3, 3), "two": torch.ones(5, 1), "shift": torch.zeros(3)}
    return {name: torch.nn.Parameter(tensor.clone()) for name, tensor in start.items()}


def alone(folder: Path) -> Callable[[], None]:
    """One process takes steps 3 and 4 of what two have begun under DeepSpeed."""
    return lambda: fine_tuning(folder, 9, "handed on", **CLIP, steps=4, accumulation=2)


def back(folder: Path, rank: int) -> None:
    """Two take the last steps under DeepSpeed again; then whole runs as `accelerate launch` asks for them."""
    console.quiet = rank > 0
    fine_tuning(folder, rank, "handed on", **CLIP, zero=1)
    os.chdir(folder / "experts")
    os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "zero3.json"}
    train(Path("r.toml"), sets=["model.experts_in_memory='all'"], resume=None)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    two_processes(root, sys.argv[2], together)
    assert fake_run.process(alone(root)) == 0
    two_processes(root, sys.argv[3], back)
