"""Two processes train one EasyAnimate adapter; as a script, the two of them: python THIS FOLDER PORT."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch, Seat
from cinelora.families import registry
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from cinelora.methods.options import MethodOptions
from cinelora.methods.registry import open_method
from cinelora.noise.options import NoiseOptions
from cinelora.noise.registry import open_process
from cinelora.train.optim import Learner
from cinelora.train.options import TrainOptions
from train.fake_run import SMALL, Fixed, rank_micros, trainer, two_processes

FAMILY, VARIANT = registry.find("easyanimate", "tiny-v5.1-inp")
TRAIN = {"steps": 2, "accumulation": 2, "eps": 1e-3, "clip_norm": 0.05, "gradient_checkpointing": True}


def method_of(*, rank, world):
    """Fine-tuning of the small v5.1 with adapters that start away from the base; times are spread over the ranks."""
    denoiser = registry.open_denoiser(FAMILY, VARIANT, base="random", dtype="fp32")
    denoiser.text_dropout = 0.0
    presets = {"presets": FAMILY.lora_presets, "default_preset": FAMILY.default_preset}
    adapters = inject(denoiser.parts(), LoraOptions(rank=2), **presets)
    with torch.no_grad():
        for name, weight in adapters.parameters().items():
            weight.copy_(0.1 * torch.randn(weight.shape, generator=torch_rng(name)))
    denoiser.parts()["transformer"].enable_gradient_checkpointing()
    process = process_of(rank=rank, world=world)
    return open_method(MethodOptions(), denoiser, process, adapters={"adapter": adapters}, negative={})


def process_of(*, rank, world):
    return open_process(NoiseOptions(**VARIANT.process), rank=rank, world=world)


def batch_of(slots, rng):
    """Latents and conditions of each clip, drawn by its name: two latent frames of 4 x 4 cells."""

    def each(what, *shape):
        return torch.stack([torch.randn(shape, generator=torch_rng(what, slot.name)) for slot in slots])

    text = each("text", *map(int, VARIANT.conditions["text"].split()))
    conditions = {"text": text, "inpaint": each("inpaint", 3, 17, 2, 4, 4)}
    return Batch(each("latents", 16, 2, 4, 4), conditions, tuple(slot.name for slot in slots))


def one_rank(folder, rank):
    method = method_of(rank=rank, world=2)
    facts = {"method": method, "batches": Fixed(rank_micros()[rank]), "batch": batch_of}
    run = trainer(folder, TRAIN, **facts)
    assert run.work.place.world == 2
    run.run()
    torch.save(weights(method), folder / f"rank-{rank}.pt")


def weights(method):
    return {name: weight.detach().clone() for name, weight in method.players()[0].parameters.items()}


def by_hand(ranks):
    """The same steps in one process, with the losses of some ranks summed over all their clips."""
    method, options = method_of(rank=0, world=2), TrainOptions(**{**SMALL, **TRAIN})
    learner = Learner(method.players()[0], options)
    micros = {rank: rank_micros()[rank] for rank in ranks}
    clips = sum(len(slots) for own in micros.values() for slots in own)
    for step in range(1, TRAIN["steps"] + 1):
        learner.clear()
        for rank in ranks:
            method.process = process_of(rank=rank, world=2)
            for k, slots in enumerate(micros[rank]):
                seat = Seat(2 * k + rank, 4)
                rng = torch_rng(options.seed, "train", "adapter", step, seat.number, 0)
                shared = torch_rng(options.seed, "shared", "adapter", step, k)
                loss = method.loss("adapter", replace(batch_of(slots, rng), seat=seat), rng, shared)
                (loss.value * len(slots) / clips).backward()
        learner.clip(None, step)
        learner.step(learner.rate(step - 1, TRAIN["steps"]), None, step)
    return weights(method)


@pytest.mark.slow
def test_two_processes_learn_one_adapter_from_the_clips_of_both(tmp_path):
    """The reference trains one adapter on each GPU and saves the first: that would be by_hand([0])."""
    from train.test_ranks import free_port, started

    started(__file__, tmp_path, free_port())
    first, second = (torch.load(tmp_path / f"rank-{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    together, alone = by_hand([0, 1]), by_hand([0])
    assert first.keys() == together.keys()
    for name, weight in together.items():
        assert torch.allclose(first[name], weight, atol=1e-6), name
        assert not torch.allclose(first[name], alone[name], atol=1e-4), name


if __name__ == "__main__":
    two_processes(Path(sys.argv[1]), sys.argv[2], one_rank)
