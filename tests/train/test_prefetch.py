"""Reading ahead: numbers do not hang on the number of threads, and what goes wrong in one is heard."""

import threading

import pytest
import torch

from cinelora.base.errors import RunError
from cinelora.contracts.flow import Batch
from cinelora.data.batches import batcher
from cinelora.train.prefetch import Ahead, Job, Ready, pinned
from train.fake_run import EXACT, Diary, exam, read, trainer

QUICK = {**EXACT, "steps": 5, "save_every_steps": 0}


def jobs(count: int) -> list[Job]:
    return [Job("adapter", k, 0, (), 1) for k in range(count)]


def ready(job: Job) -> Ready:
    return Ready(Batch(torch.tensor([job.step]), {}, ("x",)), torch.Generator())


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_batches_come_in_order(num_workers):
    ahead = Ahead(iter(jobs(7)), ready, num_workers=num_workers, num_ahead=3)
    seen = []
    for count in (2, 2, 3):
        seen += [int(ahead.ready(job).batch.latents) for job in ahead.jobs(count)]
    ahead.close()
    assert seen == list(range(7))


def test_a_job_is_made_again_when_it_is_asked_again():
    made = []
    ahead = Ahead(iter(jobs(3)), lambda job: made.append(job.step) or ready(job), num_workers=1, num_ahead=1)
    first, second = ahead.jobs(2)
    for job in (first, second, first, second):
        assert int(ahead.ready(job).batch.latents) == job.step
    ahead.close()
    assert made.count(0) == made.count(1) == 2


def test_no_more_are_made_ahead_than_may_wait():
    alive, most, lock = [0], [0], threading.Lock()

    def make(job):
        with lock:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
        return ready(job)

    ahead = Ahead(iter(jobs(20)), make, num_workers=4, num_ahead=2)
    for _ in range(20):
        (job,) = ahead.jobs(1)
        ahead.ready(job)
        with lock:
            alive[0] -= 1
    ahead.close()
    assert most[0] <= 3  # two that wait, and the one that is handed out


@pytest.mark.parametrize("changes", [{"num_workers": 1}, {"num_workers": 3, "prefetch_micros": 5}])
def test_runs_are_equal_bit_by_bit(tmp_path, changes):
    found = []
    for name, own in (("plain", {}), ("ahead", changes)):
        diary = Diary()
        one = trainer(tmp_path / name, QUICK, tell=diary, held_out=exam(2), **own)
        one.run()
        found.append((diary.of("step", "loss"), diary.of("held_out", "loss"), one.learners["adapter"].parameters))
    (loss, held, weights), (same_loss, same_held, same) = found
    assert loss == same_loss
    assert held == same_held
    assert all(torch.equal(same[name], weight) for name, weight in weights.items())


def test_an_error_of_a_thread_ends_the_run_as_its_own(tmp_path):
    make, asked = batcher(read()), []

    def breaking(chosen, rng):
        asked.append(chosen)
        if len(asked) > 3:
            raise RunError("the disk is gone")
        return make(chosen, rng)

    one = trainer(tmp_path, QUICK, batch=breaking, num_workers=2)
    with pytest.raises(RunError, match="the disk is gone"):
        one.run()
    left = [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
    assert not left


def test_pinning_is_for_gpus():
    batch = Batch(torch.zeros(1, 2), {"text": torch.ones(1)}, ("x",))
    assert pinned(batch, torch.device("cpu")) is batch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU")
def test_a_gpu_has_them_pinned():
    batch = pinned(Batch(torch.zeros(1, 2), {"text": torch.ones(1)}, ("x",)), torch.device("cuda"))
    assert batch.latents.is_pinned()
    assert batch.conditions["text"].is_pinned()
