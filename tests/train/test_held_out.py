import pytest
import torch

from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Loss
from cinelora.data.batches import batcher
from cinelora.train.held_out import HeldOut
from cinelora.train.options import HeldOutOptions, TrainOptions
from cinelora.train.place import open_place
from train.fake_run import SMALL, read, slots

CLIPS = [slot for slot in slots(6) if slot.bucket.frames == 5]


class Recording:
    """Loss = quantile times the number in the clip's name, so that means can be worked out by hand."""

    def __init__(self):
        self.calls = []

    def held_out_loss(self, batch, quantiles, rng):
        assert not torch.is_grad_enabled()
        numbers = torch.tensor([float(name.split("/")[1][0]) for name in batch.names])
        self.calls.append((batch, quantiles, torch.rand(3, generator=rng)))
        each = numbers * quantiles
        return Loss(each.mean(), each)


def score(method, micros, **options):
    place = open_place(TrainOptions(**SMALL))
    return HeldOut(micros, HeldOutOptions(**options), seed=5).score(method, batcher(read()), place)


def test_every_clip_counts_the_same_at_every_quantile():
    method = Recording()
    found = score(method, [tuple(CLIPS[:3]), (CLIPS[3],)], num_timesteps=2, num_noises=3)
    mean = (1 + 2 + 4 + 5) / 4
    assert found.by_quantile == {"0.250": pytest.approx(0.25 * mean), "0.750": pytest.approx(0.75 * mean)}
    assert found.loss == pytest.approx(0.5 * mean)
    assert len(method.calls) == 2 * 2 * 3


def test_noise_is_fixed_alike_at_every_quantile_and_apart_from_the_training():
    one, again = Recording(), Recording()
    for method in (one, again):
        score(method, [(CLIPS[0],), (CLIPS[1],)], num_timesteps=2, num_noises=2)
        torch.rand(5)
    draws = [draw for _, _, draw in one.calls]
    assert all(torch.equal(a, b) for a, (_, _, b) in zip(draws, again.calls, strict=True))
    assert torch.equal(draws[0], draws[2])  # the same noise at the next quantile
    assert not torch.equal(draws[0], draws[1])  # another noise
    assert not torch.equal(draws[0], draws[4])  # another clip
    assert torch.equal(one.calls[0][0].latents, again.calls[0][0].latents)
    assert not torch.equal(draws[0], torch.rand(3, generator=torch_rng(5, "train", "adapter", 1, 0, 0)))


@pytest.mark.parametrize(("every", "steps"), [(0, [0, 10]), (4, [0, 4, 8, 10])])
def test_when_it_is_due(every, steps):
    exam = HeldOut([], HeldOutOptions(every_steps=every), seed=0)
    assert [step for step in range(11) if exam.due(step, 10)] == steps
