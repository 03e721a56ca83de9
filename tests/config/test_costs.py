"""What options say that they cost, against what the code does."""

import pytest
import torch
from torch import nn

from cinelora.config.explained import explained, find
from cinelora.contracts.flow import Loss
from cinelora.contracts.roles import Player
from cinelora.data.batches import batcher, held_out_micros
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from cinelora.preview.sample import Walk
from cinelora.train.checkpoint import save_checkpoint
from cinelora.train.held_out import HeldOut
from cinelora.train.optim import Learner
from cinelora.train.options import HeldOutOptions, TrainOptions
from cinelora.train.place import open_place
from train.fake_run import SMALL, read, slots

SIDE = 96
BYTES = SIDE * SIDE * 4


def costs(word):
    return explained(find(word)[0][0]).costs


def trained(**options):
    """A learner of one matrix that has made a step."""
    weight = nn.Parameter(torch.ones(SIDE, SIDE))
    learner = Learner(Player("adapter", {"a": weight}), TrainOptions(**options))
    weight.grad = torch.ones_like(weight)
    learner.clip(None, 1)
    learner.step(learner.rate(0, 10), None, 1)
    return learner


def state_bytes(learner):
    tensors = [one for state in learner.optimizer.state.values() for one in state.values() if torch.is_tensor(one)]
    return sum(one.numel() * one.element_size() for one in tensors if one.ndim)


def test_rank_times_inputs_and_outputs_in_fp32():
    assert "rank x (inputs + outputs) parameters" in costs("lora.rank")
    part = nn.ModuleDict({"q": nn.Linear(10, 30, bias=False), "k": nn.Linear(7, 5)}).to(torch.bfloat16)
    adapters = inject({"t": part}, LoraOptions(rank=3, targets=".*"), presets={"all": ".*"}, default_preset="all")
    assert adapters.num_parameters() == 3 * (10 + 30) + 3 * (7 + 5)
    assert {one.dtype for one in adapters.parameters().values()} == {torch.float32}


@pytest.mark.parametrize(("optimizer", "times"), [("adamw", 2), ("adam", 2), ("prodigy", 4)])
def test_states_of_optimizers(optimizer, times):
    words = costs("train.optimizer")
    assert f"{'prodigy' if optimizer == 'prodigy' else 'adam'} {4 * times}" in words.replace(" bytes", "")
    if optimizer == "prodigy":
        pytest.importorskip("prodigyopt")
    lr = {"lr": 1.0} if optimizer == "prodigy" else {}
    assert state_bytes(trained(optimizer=optimizer, **lr)) == times * BYTES


@pytest.mark.parametrize(("ema", "times"), [(0.0, 3), (0.9, 4)])
def test_a_checkpoint_holds_the_adapter_three_times_and_once_more_with_an_average(tmp_path, ema, times):
    assert "three times" in costs("train.keep_last")
    assert "once more with ema_decay" in costs("train.keep_last")
    path = save_checkpoint(tmp_path, [trained(ema_decay=ema)], {"step": 1})
    size = sum(file.stat().st_size for file in path.iterdir())
    assert times <= size / BYTES < times + 0.2


def test_passes_of_a_preview():
    def passes(**how):
        return len(Walk((1, 1, 1, 1), 2, sampler="euler", **how).asks)

    assert "second pass" in costs("preview.guidance")
    assert "third pass" in costs("preview.image_guidance")
    assert passes(guidance=1.0) == 1
    assert passes(guidance=5.0) == 2
    assert passes(guidance=5.0, image_guidance=2.0) == 3
    assert passes(guidance=5.0, image_guidance=1.0) == 2


class Counting:
    """Counts the clips that it is asked about."""

    clips = 0

    def held_out_loss(self, batch, quantiles, rng):
        self.clips += len(batch.names)
        each = torch.zeros(len(batch.names))
        return Loss(each.mean(), each)


def test_clips_of_a_held_out_evaluation():
    assert "max_clips x num_timesteps x num_noises clips" in costs("held_out.every_steps")
    options, method = HeldOutOptions(num_timesteps=3, num_noises=2, max_clips=4), Counting()
    kept = [slot for slot in slots(8) if slot.bucket.frames == 5]
    micros = held_out_micros(kept, 2, max_clips=options.max_clips)
    HeldOut(micros, options, seed=0).score(method, batcher(read()), open_place(TrainOptions(**SMALL)))
    assert len(kept) > 4
    assert method.clips == 4 * 3 * 2


def test_costs_name_keys_that_are_there():
    for word in ("train.save_every_steps", "train.kept"):
        assert "keep_last" in costs(word)
    assert "lora.rank" in costs("lora.targets")
