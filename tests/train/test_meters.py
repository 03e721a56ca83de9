import time

import pytest
import torch

from cinelora.contracts.flow import Loss
from cinelora.train.meters import StepMeter


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
