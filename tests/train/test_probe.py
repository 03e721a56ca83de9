"""What becomes of a run whose memory is full: the same batch in pieces, with the same numbers; and the probe."""

import math
from pathlib import Path

import pytest
import torch

from cinelora.base.errors import RunError
from cinelora.contracts.flow import Loss
from cinelora.lora.options import LoraOptions
from cinelora.train.probe import Fitting, joined
from train.fake_run import Diary, clipwise, slots, trainer

STEPS = {"steps": 4, "micro_size": 4, "accumulation": 2}


class Crowded:
    """A denoiser's `predict` that has no room for more than `room` clips at once."""

    def __init__(self, predict, room: int):
        self.predict, self.room, self.asked = predict, room, []

    def __call__(self, x, t, conditions):
        self.asked.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has no more")
        return self.predict(x, t, conditions)


@pytest.fixture(autouse=True)
def no_dropout(monkeypatch):
    """Masks of dropout inside of modules hang on the shape, so that pieces have others."""
    monkeypatch.setattr("train.fake_run.LoraOptions", lambda **kwargs: LoraOptions(**{**kwargs, "dropout": 0.0}))


def run(folder: Path, room: int | None = None, **changes):
    diary = Diary()
    one = trainer(folder, STEPS, tell=diary, **changes)
    crowded = None
    if room is not None:
        denoiser = one.work.method.denoiser
        crowded = denoiser.predict = Crowded(denoiser.predict, room)
    one.run()
    learned = {name: w.detach().clone() for name, w in one.learners["adapter"].parameters.items()}
    return diary, learned, crowded


def test_a_full_memory_divides_the_same_batch(tmp_path):
    plain, learned, _ = run(tmp_path / "a")
    diary, same, crowded = run(tmp_path / "b", room=1)
    assert max(crowded.asked) == 4
    assert crowded.asked[-1] == 1
    assert diary.of("relief", "step")
    assert "pieces" in diary.of("relief", "done")[0]
    assert diary.of("step", "loss") == pytest.approx(plain.of("step", "loss"), rel=1e-6)
    assert diary.of("step", "grad_norm") == pytest.approx(plain.of("step", "grad_norm"), rel=1e-5)
    for name, weight in learned.items():
        torch.testing.assert_close(same[name], weight, rtol=1e-4, atol=1e-6)


def test_what_is_learned_is_told_once_a_shape(tmp_path):
    diary, _, _ = run(tmp_path, room=2)
    # Micros of four clips of one shape, and of its left-overs: each shape is divided when it is first met.
    assert len(diary.of("relief", "step")) <= 3


def test_nothing_left_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(RunError, match="memory is full") as caught:
        run(tmp_path, room=0)
    assert "cinelora plan" in str(caught.value)


def test_relief_is_asked_where_clips_cannot_be_divided(tmp_path):
    asked = []

    def relieve() -> str:
        asked.append(True)
        crowded.room = 9
        return "something let go"

    diary = Diary()
    one = trainer(tmp_path, {**STEPS, "micro_size": 1}, tell=diary, relieve=relieve)
    crowded = one.work.method.denoiser.predict = Crowded(one.work.method.denoiser.predict, 0)
    assert one.run().step == 4
    assert asked == [True]
    assert diary.of("relief", "done") == ["something let go"]


def test_ranks_that_share_the_base_do_not_divide():
    class Method:
        def loss(self, *args):
            raise torch.OutOfMemoryError("full")

        def pieces(self, *args):
            raise AssertionError("divided")

    def relieve() -> str:
        raise AssertionError("computes twice what others compute once, and so asks the base more often")

    fitting = Fitting(Method(), relieve=relieve, together=True)
    fitting.pieces("a", Batch4(), None, None)
    with pytest.raises(RunError, match="gradient_checkpointing = true"):
        fitting.relieve("full")


class Batch4:
    latents = torch.zeros(4, 1, 1, 1, 1)


def test_the_probe_changes_no_number(tmp_path):
    plain, learned, _ = run(tmp_path / "a")
    diary, same, crowded = run(tmp_path / "b", room=99, probes=True)
    assert diary.of("step", "loss") == plain.of("step", "loss")
    assert diary.of("step", "grad_norm") == plain.of("step", "grad_norm")
    assert all(torch.equal(same[name], weight) for name, weight in learned.items())
    assert len(crowded.asked) == 4 * 2 + 1


def test_the_probe_takes_the_largest_micro(tmp_path):
    seen = []
    one = trainer(tmp_path, STEPS, probes=True)
    largest = one.work.batches.largest()
    volume = max(s.bucket.frames * s.bucket.height * s.bucket.width for s in slots())
    assert len(largest) == 4
    assert {s.bucket.frames * s.bucket.height * s.bucket.width for s in largest} == {volume}
    make = one.work.batch
    object.__setattr__(one.work, "batch", lambda chosen, rng: seen.append(tuple(chosen)) or make(chosen, rng))
    one.run()
    assert seen[0] == largest


def test_a_probe_that_does_not_fit_divides_ahead_of_the_first_step(tmp_path):
    diary, _, crowded = run(tmp_path, room=2, probes=True)
    assert diary.of("relief", "step")[0] == 0
    assert crowded.asked[:3] == [4, 2, 2]


def test_methods_without_pieces_say_so(tmp_path):
    one = [slot for slot in slots(9) if slot.bucket.frames == 5]
    work = clipwise(tmp_path, [tuple(one[:4])], {"steps": 1})

    def full(*args):
        raise torch.OutOfMemoryError("full")

    work.work.method.loss = full
    with pytest.raises(RunError, match="memory is full"):
        work.run()


def test_losses_of_pieces_join():
    whole = joined(
        [
            (0.25, Loss(torch.tensor(4.0), torch.tensor([4.0]), {"mse": 4.0})),
            (0.75, Loss(torch.tensor(2.0), torch.tensor([1.0, 2.0, 3.0]), {"mse": 2.0, "odd": 1.0})),
        ]
    )
    assert float(whole.value) == 2.5
    assert whole.each.tolist() == [4, 1, 2, 3]
    assert whole.terms["mse"] == 2.5
    assert math.isclose(whole.terms["odd"], 1.0)
