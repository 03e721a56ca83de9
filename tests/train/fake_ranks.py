"""What two processes do together, for tests; all of it in one start, since starting is what costs time.

python fake_ranks.py FOLDER PORT PORT: two processes train by themselves and on shards, then one goes on with what they
saved, then two with that. What each rank has learned stands in FOLDER/CASE/rank-N.pt.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cinelora.base.errors import RunError
from cinelora.base.seeds import torch_rng
from cinelora.commands.train import train
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Batch, Bucket
from cinelora.engine.sharded import mesh_of, shard, spread_of
from cinelora.families import registry
from cinelora.families.fake.denoise import FakeNet
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from cinelora.train.alike import refuse_apart
from cinelora.train.loop import Trainer
from cinelora.train.options import TrainOptions
from cinelora.train.place import open_place
from train import fake_distill, fake_run
from train.fake_run import SMALL, Diary, clipwise, exam, rank_micros, trainer, two_processes

LEARN = {"steps": 6, "micro_size": 2, "ema_decay": 0.5, "weight_decay": 0.1, "save_every_steps": 2, "eps": 1e-3}
"""A run that draws everything there is: dropout of adapters and texts, times, latents. Clips are of two sizes."""
FAMILIES = (
    ("wan", "tiny"),
    ("cogvideox", "tiny"),
    ("dynamicrafter", "tiny"),
    ("framer", "tiny"),
    ("easyanimate", "tiny-v5.1"),
    ("easyanimate", "tiny-v4"),
    ("easyanimate", "tiny-v3"),
)


def learned(run: Trainer) -> dict[str, Any]:
    """Parameters, averages and what was told of a run that has ended."""
    (learner,) = run.learners.values()
    told = run.work.tell
    assert isinstance(told, Diary)
    return {
        "parameters": {name: weight.detach().clone() for name, weight in learner.parameters.items()},
        "averages": dict(learner.average.tensors) if learner.average else {},
        "events": told.events,
    }


def keep(folder: Path, case: str, rank: int, what: Any) -> None:
    (folder / case).mkdir(exist_ok=True)
    torch.save(what, folder / case / f"rank-{rank}.pt")


def fine_tuning(folder: Path, rank: int, case: str, memory: dict[str, Any] | None = None, **options: Any) -> None:
    run = trainer(folder / case, {**LEARN, **options}, memory, tell=Diary(), held_out=exam(2))
    run.resume()
    run.run()
    keep(folder, case, rank, learned(run))


def apart(folder: Path, rank: int) -> None:
    """Numbers that come to differ on one rank, and by how little they may."""
    place = open_place(TrainOptions(**SMALL))
    tensors = {name: torch.linspace(0, 1, 50) for name in ("one", "other")}
    refuse_apart(tensors, place, 3)
    if rank == 1:
        tensors["other"][[3, 4]] = tensors["other"][[4, 3]]
    try:
        refuse_apart(tensors, place, 7)
    except RunError as error:
        keep(folder, "apart", rank, str(error))


def machines(folder: Path, rank: int) -> None:
    """Two machines of one rank each: pieces are shared within a machine alone."""
    before, os.environ["LOCAL_WORLD_SIZE"] = os.environ["LOCAL_WORLD_SIZE"], "1"
    x, given, net = torch.rand(1, 4, 1, 2, 2), (torch.ones(1), torch.ones(1, 2, 8)), FakeNet().requires_grad_(False)
    answer = net(x, *given)
    shard({"transformer": net}, [], device_type="cpu", within_machine=True)
    found = spread_of({"transformer": net})
    os.environ["LOCAL_WORLD_SIZE"] = before
    assert (found.num_ranks, found.num_whole) == (1, 0)
    assert torch.equal(net(x, *given), answer)
    assert mesh_of("cpu", within_machine=True).size() == mesh_of("cpu").size() == 2


def families(folder: Path, rank: int) -> None:
    """Answers and gradients of every family's network, whole and in pieces."""
    for family, variant in FAMILIES:
        keep(folder, f"{family}-{variant}", rank, [_answer(family, variant, sharded=flag) for flag in (False, True)])


def _answer(family: str, variant: str, *, sharded: bool) -> dict[str, torch.Tensor]:
    card, kind = registry.find(family, variant)
    base = "embedded" if family == "wan" else "random"
    denoiser = registry.open_denoiser(card, kind, base=base, dtype="bf16")
    presets = {"presets": card.lora_presets, "default_preset": card.default_preset}
    # With a frozen start beside what learns, which must stay whole, too.
    adapters = inject(denoiser.parts(), LoraOptions(rank=2, init="olora"), **presets)
    if sharded:
        shard(denoiser.parts(), adapters.resident(), device_type="cpu")
        found = spread_of(denoiser.parts())
        assert (found.num_ranks, found.num_whole) == (2, sum(weight.numel() for weight in adapters.resident())), found
    for part in denoiser.parts().values():
        part.enable_gradient_checkpointing()
        part.train()
    latents, stored = _input(kind)
    x = denoiser.arranged(latents)
    made_up = getattr(denoiser, "example", None)
    conditions = made_up(latents) if made_up else denoiser.condition(Batch(latents, stored, ("clip",)), None)
    torch.manual_seed(0)  # dropout
    with torch.autocast("cpu", torch.bfloat16):
        first = denoiser.predict(x, torch.tensor([400.0]), conditions)
        answer = denoiser.predict(x + 0.1 * first.detach()[:, : x.shape[1]], torch.tensor([300.0]), conditions)
        (first.float().square().mean() + answer.float().square().mean()).backward()
    gradients = {name: weight.grad for name, weight in adapters.parameters().items() if weight.grad is not None}
    return {"": answer.detach(), **gradients}


def _input(kind: Variant) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    geometry = kind.geometry
    side = 2 * max(geometry.size_multiple, 2 * geometry.latent_cell)
    bucket = Bucket(geometry.few_frames, side, side)
    shape = geometry.latent_shape(bucket)
    letters = dict(zip("FTHW", (bucket.frames, *shape[1:]), strict=True)) | {"K": 1}
    x = torch.randn(1, *shape, generator=torch_rng("x"))
    conditions = {}
    for name, letters_of in kind.conditions.items():
        size = [letters.get(word) or int(word) for word in letters_of.split()]
        conditions[name] = torch.randn(1, *size, generator=torch_rng(name))
    return x, conditions


def together(folder: Path, rank: int) -> None:
    """Everything that two ranks do at first."""
    run = clipwise(folder / "clips", rank_micros()[rank], {**fake_run.RANKS, "accumulation": 2})
    assert run.work.place.world == 2
    run.run()
    keep(folder, "clips", rank, dict(run.work.method.parameters))
    for case, options in CASES.items():
        fine_tuning(folder, rank, case, **options)
    for case, sharded in (("distilled", False), ("distilled in pieces", True)):
        keep(folder, case, rank, fake_distill.one_rank(folder / case, rank, sharded=sharded))
    apart(folder, rank)
    machines(folder, rank)
    families(folder, rank)


CASES: dict[str, dict[str, Any]] = {
    "whole": {},
    "pieces": {"sharding": "fsdp"},
    "one lane": {"num_lanes": 1},
    "one lane in pieces": {"num_lanes": 1, "sharding": "fsdp"},
    "twice": {"accumulation": 2},
    "handed on": {"steps": 2, "sharding": "fsdp"},
}


def alone(folder: Path) -> Callable[[], None]:
    """One process takes steps 3 and 4 of what two have begun on shards."""
    return lambda: fine_tuning(folder, 9, "handed on", steps=4, accumulation=2)


def back(folder: Path, rank: int) -> None:
    """Two processes take the last steps, on shards again; then a whole run of two experts, with all around it."""
    fine_tuning(folder, rank, "handed on", sharding="fsdp")
    os.chdir(folder / "experts")
    train(Path("r.toml"), sets=["train.sharding='fsdp'", "model.experts_in_memory='all'"], resume=None)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    two_processes(root, sys.argv[2], together)
    assert fake_run.process(alone(root)) == 0
    two_processes(root, sys.argv[3], back)
