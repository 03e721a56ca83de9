"""A whole tiny run on the fake family, for tests; as a script it kills itself in the middle of a step and resumes.

python fake_run.py FOLDER whole|killed|resumed|ranks ...    (each word is a process of its own, one after another)
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch, Bucket, Clip, Encoded, Loss, Record, Slot
from cinelora.contracts.roles import Player
from cinelora.data.batches import Batches, MicroRules, batcher, held_out_micros
from cinelora.data.encoding import Encoding, Live
from cinelora.engine.fit_out import fit_out
from cinelora.engine.options import MemoryOptions
from cinelora.engine.sharded import shard
from cinelora.families.fake.card import CARD
from cinelora.families.fake.denoise import open_denoiser
from cinelora.families.fake.encode import FakeEncoder
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from cinelora.methods.options import MethodOptions
from cinelora.methods.registry import open_method
from cinelora.noise.options import NoiseOptions
from cinelora.noise.registry import open_process
from cinelora.train.checkpoint import latest
from cinelora.train.held_out import HeldOut
from cinelora.train.loop import Hook, Trainer, Work
from cinelora.train.options import HeldOutOptions, TrainOptions
from cinelora.train.place import open_place
from cinelora.train.same_run import lanes_of

SMALL = {"precision": "fp32", "device": "cpu", "num_threads": 1, "gradient_checkpointing": False, "lr": 0.01}
EXACT = {
    "steps": 9,
    "micro_size": 2,
    "accumulation": 2,
    "schedule": "cosine",
    "warmup_steps": 2,
    "ema_decay": 0.9,
    "weight_decay": 0.1,
    "save_every_steps": 4,
    "gradient_checkpointing": True,
}
KILL_AT = (8, 1)
"""Step and micro: after the backward pass of micro 0."""


def slots(count: int = 7, *, source: str = "main") -> list[Slot]:
    records = (Record(f"{source}/{k}", source, "video", (), f"clip {k}", f"{k}.mp4") for k in range(count))
    return [Slot(record, Bucket(5, 16, 16) if k % 3 else Bucket(1, 16, 24)) for k, record in enumerate(records)]


def load(slot: Slot) -> Clip:
    size = (3, slot.bucket.frames, slot.bucket.height, slot.bucket.width)
    pixels = torch.rand(size, generator=torch_rng("pixels", slot.name)) * 2 - 1
    return Clip(slot, pixels, slot.record.caption, 8.0)


def read() -> Callable[[Slot], Encoded]:
    return Live(Encoding(FakeEncoder(), load, str, conditions={"text": "6 8"})).read


class Diary:
    """Events in memory and, where a file is given, on disk."""

    def __init__(self, file: Path | None = None):
        self.events: list[dict[str, Any]] = []
        self.file = file

    def __call__(self, kind: str, **facts: Any) -> None:
        self.events.append({"kind": kind, **facts})
        if self.file:
            with self.file.open("a") as lines:
                lines.write(json.dumps(self.events[-1]) + "\n")

    def of(self, kind: str, name: str) -> list[Any]:
        return [event[name] for event in self.events if event["kind"] == kind]


def exam(every_steps: int) -> HeldOut:
    """Three clips that no run trains on."""
    return HeldOut(
        held_out_micros(slots(3, source="apart"), 2, max_clips=9), HeldOutOptions(every_steps=every_steps), seed=42
    )


def trainer(folder: Path, options: dict[str, Any], memory: dict[str, Any] | None = None, **changes: Any) -> Trainer:
    """A Trainer as the commands build it; `memory` are options of [memory], `changes` fields of Work."""
    chosen = TrainOptions(**{**SMALL, **options})
    place = open_place(chosen)
    denoiser = open_denoiser("embedded", CARD.variants["tiny"], "fp32")
    lora = LoraOptions(rank=4, dropout=0.2)
    adapters = inject(denoiser.parts(), lora, presets=CARD.lora_presets, default_preset="all", seed=chosen.seed)
    own = MemoryOptions(**(memory or {}))
    twice, resident = chosen.gradient_checkpointing, adapters.resident()
    fit_out(denoiser.parts(), own, device=place.device, twice=twice, adapters=resident)
    if place.sharded:
        shard(denoiser.parts(), adapters.resident(), device_type="cpu")
    lanes = lanes_of(chosen, place.world, latest(folder / "checkpoints"))
    process = open_process(NoiseOptions(shift=2.0), rank=place.rank, world=place.world)
    facts = {
        "method": open_method(MethodOptions(), denoiser, process, adapters={"adapter": adapters}, negative={}),
        "batches": Batches(
            slots(),
            {"main": 1.0},
            MicroRules(chosen.micro_size, lanes=lanes),
            seed=chosen.seed,
            rank=place.rank,
            world=place.world,
        ),
        "batch": batcher(read()),
        "lanes": lanes,
        "memory": own,
        **changes,
    }
    return Trainer(Work(options=chosen, place=place, checkpoints=folder / "checkpoints", **facts))


class Clipwise:
    """A method without draws: errors of one linear map, so that sums over clips can be worked out by hand."""

    def __init__(self) -> None:
        start = torch.linspace(-1, 1, 16).view(4, 4)
        self.parameters = {"map": torch.nn.Parameter(start), "shift": torch.nn.Parameter(torch.zeros(4))}

    def players(self) -> tuple[Player, ...]:
        return (Player("adapter", self.parameters),)

    def turns(self, step: int) -> tuple[str, ...]:
        return ("adapter",)

    def each(self, latents: torch.Tensor) -> torch.Tensor:
        cells = latents.movedim(1, -1)
        return (cells @ self.parameters["map"] + self.parameters["shift"] - 1).square().flatten(1).mean(1)

    def loss(self, player: str, batch: Batch, rng: torch.Generator, shared: torch.Generator) -> Loss:
        each = self.each(batch.latents)
        return Loss(each.mean(), each.detach())

    def held_out_loss(self, batch: Batch, quantiles: torch.Tensor, rng: torch.Generator) -> Loss:
        each = self.each(batch.latents).detach() * quantiles
        return Loss(each.mean(), each)


class Fixed:
    """Micros as listed, over and over."""

    fingerprint = "fixed"

    def __init__(self, micros: list[tuple[Slot, ...]]):
        self.micros, self.micros_per_epoch = micros, len(micros)

    def micro(self, index: int) -> tuple[Slot, ...]:
        return self.micros[index % len(self.micros)]

    def epoch_of(self, index: int) -> int:
        return index // len(self.micros)


def clipwise(folder: Path, micros: list[tuple[Slot, ...]], options: dict[str, Any], **changes: Any) -> Trainer:
    facts = {"method": Clipwise(), "batches": Fixed(micros), "batch": batcher(read(), sample=False), **changes}
    return trainer(folder, options, **facts)


def exact(folder: Path, *, kill: bool = False) -> None:
    """The run that is compared, from wherever it stands."""
    made, asked = batcher(read()), [0]

    def batch(chosen: Any, rng: torch.Generator) -> Batch:
        if chosen[0].record.source == "main":
            step, micro = divmod(asked[0], EXACT["accumulation"])
            if kill and (step + 1, micro) == KILL_AT:
                os.kill(os.getpid(), signal.SIGKILL)
            asked[0] += 1
        return made(chosen, rng)

    hooks = [Hook(2, lambda step: torch.manual_seed(step))]
    run = trainer(folder, EXACT, tell=Diary(folder / "events.jsonl"), held_out=exam(3), batch=batch, hooks=hooks)
    run.resume()
    run.run()


RANKS = {"steps": 2, "clip_norm": 0, "eps": 1.0}
"""With a large eps the length of the gradient counts, not its signs alone."""


def ranks(folder: Path, rank: int) -> None:
    """One of two processes that train together; each has other clips, and one fewer of them in the second micro."""
    mine = rank_micros()[rank]
    run = clipwise(folder, mine, {**RANKS, "accumulation": 2})
    assert run.work.place.world == 2
    result = run.run()
    torch.save({"result": result.step, **run.work.method.parameters}, folder / f"rank-{rank}.pt")


def rank_micros() -> list[list[tuple[Slot, ...]]]:
    one = [slot for slot in slots(20) if slot.bucket.frames == 5]
    return [[(one[0], one[1]), (one[2], one[3])], [(one[4], one[5]), (one[6],)]]


def process(work: Callable[[], None]) -> int:
    """Do the work in a child of this process; gives back its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        work()
        sys.stdout.flush()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def two_processes(folder: Path, port: str, run: Callable[[Path, int], None] = ranks) -> None:
    """Both ranks as children of this process, which has no part in them; raises where one does not end well."""

    def one(rank: int) -> Callable[[], None]:
        def work() -> None:
            names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
            os.environ.update(dict(zip(names, (str(rank), str(rank), "2", "2", "127.0.0.1", port), strict=True)))
            run(folder, rank)

        return work

    other = os.fork()
    if other == 0:
        one(1)()
        os._exit(0)
    assert process(one(0)) == 0
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for word in sys.argv[2:]:
        if word == "whole":
            assert process(lambda: exact(root / "whole")) == 0
        elif word == "killed":
            assert process(lambda: exact(root / "broken", kill=True)) == -signal.SIGKILL
        elif word == "resumed":
            assert process(lambda: exact(root / "broken")) == 0
        else:
            two_processes(root, word)
