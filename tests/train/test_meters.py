import time

import pytest
import torch

from cinelora.contracts.flow import Loss
from cinelora.train.meters import StepMeter, in_short
from train.fake_run import Diary, trainer


def loss(*each, **terms):
    values = torch.tensor(each)
    return Loss(values.mean(), values, terms)


def test_means_count_every_clip_once():
    meter = StepMeter()
    meter.add(loss(1.0, 3.0, mse=torch.tensor(2.0)), ("a", "b"), 2)
    meter.add(loss(8.0, mse=5.0), ("c",), 1)
    assert meter.loss() == pytest.approx(4.0)
    assert meter.terms() == {"mse": pytest.approx(3.0)}
    assert isinstance(meter.terms()["mse"], float)
    assert meter.names == ["a", "b", "c"]
    assert meter.not_finite() == []


def test_clips_that_are_not_finite_are_named():
    meter = StepMeter()
    meter.add(loss(float("inf"), 1.0), ("a", "b"), 2)
    meter.add(loss(float("nan")), ("c",), 1)
    assert meter.not_finite() == ["a", "c"]


def test_waiting_is_a_share_of_the_whole(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = StepMeter()
    with meter.waiting():
        now[0] += 1.0
    now[0] += 3.0
    meter.add(loss(1.0, 1.0), ("a", "b"), 2)
    assert meter.speed(world=3) == {"seconds": 4.0, "clips_per_second": 1.5, "data_wait_share": 0.25}


def test_speed_says_what_was_done_and_what_was_waited_for(monkeypatch):
    """MFU = F / (s P); tokens and clips of all ranks, FLOPs of this one."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = StepMeter()
    with meter.moving(torch.device("cpu")):
        now[0] += 0.5
    now[0] += 1.5
    meter.add(loss(1.0), ("a",), 1)
    meter.worked(300, int(4e12))
    meter.worked(100, int(2e12))
    found = meter.speed(world=2, peak=10e12)
    assert found["tokens_per_second"] == 400.0
    assert found["tflops_per_second"] == 3.0
    assert found["mfu"] == 0.3
    assert found["transfer_wait_share"] == 0.25
    assert "mfu" not in meter.speed(world=2)
    assert in_short(0.5, found) == "loss 0.5000, 400 tokens/s, 30% MFU, 25% waiting for copies"


def test_copies_of_the_network_are_waited_for_like_those_of_micros(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = StepMeter()
    with meter.moving(torch.device("cpu")):
        now[0] += 1.0
    now[0] += 3.0
    meter.add(loss(1.0), ("a",), 1)
    assert meter.speed(world=1, copied=2.0)["transfer_wait_share"] == 0.75


def test_steps_tell_what_the_network_waited_for(tmp_path):
    diary, asked = Diary(), []

    def waited() -> float:
        asked.append(True)
        return 1e6 if len(asked) % 2 == 0 else 5e9  # what was before a step (previews) is asked and forgotten

    trainer(tmp_path, {"steps": 2, "accumulation": 2}, tell=diary, waited=waited).run()
    assert len(asked) == 4
    for seconds, share in zip(diary.of("step", "seconds"), diary.of("step", "transfer_wait_share"), strict=True):
        assert share * seconds == pytest.approx(1e6, rel=0.01)


def test_flops_of_one_micro_that_are_not_known_leave_all_out():
    meter = StepMeter()
    meter.worked(10, 5)
    meter.worked(10, None)
    found = meter.speed(world=1, peak=1.0)
    assert "mfu" not in found
    assert "tokens_per_second" in found


def test_the_loop_tells_tokens_and_flops(tmp_path):
    """Micros of one shape are counted once, the rest by what is known of their shape."""
    diary, shapes = Diary(), []
    one = trainer(tmp_path, {"steps": 4}, tell=diary, tokens=lambda latents: shapes.append(latents.shape) or 7)
    one.run()
    assert len(diary.of("step", "tokens_per_second")) == 4
    assert all(value > 0 for value in diary.of("step", "tflops_per_second"))
    assert len(shapes) == 4
