import pytest
import torch
from transformers import optimization

from cinelora.base.errors import RecipeError
from cinelora.train.options import TrainOptions
from cinelora.train.schedules import factor, kept_counts, step_counts, total_steps

TOTAL, WARMUP = 23, 4


def theirs(name, **facts):
    """The factor of transformers' scheduler, by the number of steps made."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    make = getattr(optimization, f"get_{name}")
    return make(optimizer, num_warmup_steps=WARMUP, num_training_steps=TOTAL, **facts).lr_lambdas[0]


@pytest.mark.parametrize(
    ("ours", "name", "facts"),
    [
        ({"schedule": "linear"}, "linear_schedule_with_warmup", {}),
        ({"schedule": "cosine"}, "cosine_schedule_with_warmup", {}),
        (
            {"schedule": "cosine_restarts", "num_cycles": 3},
            "cosine_with_hard_restarts_schedule_with_warmup",
            {"num_cycles": 3},
        ),
        (
            {"schedule": "polynomial", "power": 2.5, "final_lr_share": 0.2},
            "polynomial_decay_schedule_with_warmup",
            {"power": 2.5, "lr_end": 0.2},
        ),
        (
            {"schedule": "cosine", "final_lr_share": 0.3},
            "cosine_with_min_lr_schedule_with_warmup",
            {"min_lr_rate": 0.3},
        ),
    ],
)
def test_after_the_warm_up_the_formulas_are_those_of_transformers(ours, name, facts):
    options, wanted = TrainOptions(warmup_steps=WARMUP, **ours), theirs(name, **facts)
    for made in range(WARMUP, TOTAL + 1):
        assert factor(options, made, TOTAL) == pytest.approx(wanted(made), abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_cosine_is_that_of_torch(share):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=TOTAL, eta_min=share)
    options = TrainOptions(schedule="cosine", final_lr_share=share)
    for made in range(TOTAL):
        assert factor(options, made, TOTAL) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_warm_up_rises_in_equal_parts_and_no_step_is_lost():
    for schedule in ("constant", "linear", "cosine", "cosine_restarts", "polynomial"):
        options = TrainOptions(schedule=schedule, warmup_steps=4)
        assert [factor(options, made, 30) for made in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
        assert min(factor(options, made, 30) for made in range(30)) > 0


def test_constant_stays_and_decay_ends_at_its_share():
    assert factor(TrainOptions(), 10**6, 10) == 1.0
    assert factor(TrainOptions(schedule="linear", final_lr_share=0.25), 10, 10) == 0.25
    assert factor(TrainOptions(schedule="cosine_restarts"), 10, 10) == 0.0
    assert factor(TrainOptions(schedule="cosine", warmup_steps=20), 25, 10) == 0.0


@pytest.mark.parametrize(
    ("given", "micros", "wanted"),
    [
        ({}, 7, 1000),
        ({"steps": 5}, 7, 5),
        ({"epochs": 3}, 7, 21),
        ({"epochs": 3, "accumulation": 2}, 7, 11),
        ({"epochs": 0.01}, 7, 1),
    ],
)
def test_length_in_steps(given, micros, wanted):
    assert total_steps(TrainOptions(**given), micros) == wanted


def test_what_is_due_by_steps_and_by_passes():
    def counts(steps, epochs, micros=10):
        return step_counts(steps, epochs, micros, accumulation=4, instead="train.keep_every_steps")

    assert counts(0, 0.0) == []
    assert counts(7, 0.0) == [7]
    assert counts(0, 2.0) == [5]
    assert counts(7, 2.0) == [5, 7]
    assert counts(5, 2.0) == [5]
    assert counts(0, 0.01) == [1]
    assert counts(3, 0.0, None) == [3]
    with pytest.raises(RecipeError, match="a stream has no passes") as caught:
        counts(3, 1.0, None)
    assert "train.keep_every_steps" in caught.value.problems[0].do
    assert kept_counts(TrainOptions(keep_every_steps=3, keep_every_epochs=2, accumulation=2), 7) == [3, 7]
