"""A distillation on the fake family, for tests: in one process, or by one of two that train together."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from cinelora.base.seeds import torch_rng
from cinelora.data.batches import batcher
from cinelora.engine.sharded import shard
from cinelora.families.fake.card import CARD
from cinelora.families.fake.denoise import open_denoiser
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from cinelora.methods.distill import Distill
from cinelora.methods.options import MethodOptions, adapters_of
from cinelora.methods.registry import open_method
from cinelora.noise.options import NoiseOptions
from cinelora.noise.registry import open_process
from cinelora.train.loop import Trainer
from train.fake_run import Fixed, rank_micros, read, trainer

NOISE = NoiseOptions(shift=3.0)
TRAIN = {"steps": 5, "accumulation": 2, "eps": 1e-3, "clip_norm": 0.5, "ema_decay": 0.9, "warmup_steps": 2}
METHOD = {"generator_every": 2, "critic_lr": 0.03, "critic_schedule": "linear", "critic_warmup_steps": 0}


def method_of(*, rank: int = 0, world: int = 1, **options: Any) -> Distill:
    """The method on a fresh fake base, the same on every rank; adapters begin away from the base."""
    denoiser = open_denoiser("", CARD.variants["tiny"], "fp32")
    denoiser.text_dropout = 0.5
    chosen = MethodOptions(name="distill", **{**METHOD, **options})
    adapters = {}
    for name in adapters_of(chosen):
        lora = LoraOptions(rank=2)
        adapters[name] = inject(
            denoiser.parts(), lora, presets=CARD.lora_presets, default_preset="all", adapter_name=name
        )
        with torch.no_grad():
            for key, weight in adapters[name].parameters().items():
                weight.copy_(0.2 * torch.randn(weight.shape, generator=torch_rng(name, key)))
    process = open_process(NOISE, rank=rank, world=world)
    negative = {"text": torch.full((6, 8), 0.5)}
    found = open_method(chosen, denoiser, process, adapters=adapters, negative=negative)
    assert isinstance(found, Distill)
    denoiser.blank = negative
    return found


def counting(method: Distill) -> list[int]:
    """How often the denoiser is asked from now on, counted in the list's only number."""
    count, predict = [0], method.denoiser.predict

    def counted(*given: Any) -> torch.Tensor:
        count[0] += 1
        return predict(*given)

    method.denoiser.predict = counted  # type: ignore[method-assign]
    return count


def distillation(folder: Path, micros: list, options: Mapping[str, Any], method: Distill, **changes: Any) -> Trainer:
    """A Trainer of a distillation over micros as listed."""
    facts = {"method": method, "batches": Fixed(micros), "batch": batcher(read()), **changes}
    return trainer(folder, dict(options), **facts)


def tensors(method: Distill) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters of both players by name."""
    for player in method.players():
        for name, parameter in player.parameters.items():
            yield f"{player.name}/{name}", parameter.detach().clone()


def one_rank(folder: Path, rank: int, *, sharded: bool = False, **options: Any) -> dict[str, torch.Tensor]:
    """What one of two processes does: its own clips, its own draws. Gives back all that was learned."""
    method = method_of(rank=rank, world=2)
    if sharded:
        whole = [weight for adapters in (method.generator, method.critic) for weight in adapters.resident()]
        shard(method.denoiser.parts(), whole, device_type="cpu")
    count = counting(method)
    how = {**TRAIN, "sharding": "fsdp" if sharded else "none", **options}
    run = distillation(folder, rank_micros()[rank], how, method)
    assert run.work.place.world == 2
    run.run()
    averages = {f"average/{name}": tensor for name, tensor in run.learners["generator"].average.tensors.items()}
    return {**dict(tensors(method)), **averages, "asked": torch.tensor(count)}
