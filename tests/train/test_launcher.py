import os

import pytest

from cinelora.base.errors import RunError
from cinelora.train import launcher
from cinelora.train.launcher import asked_sharding, asked_world, refuse_no_launcher
from cinelora.train.options import TrainOptions
from cinelora.train.place import open_place


@pytest.fixture(autouse=True)
def nothing_asked(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "FSDP_")) or name == "WORLD_SIZE":
            monkeypatch.delenv(name)


class Parent:
    """A process that started this one."""

    def __init__(self, *words):
        self.words = list(words)

    def parent(self):
        return self

    def cmdline(self):
        return self.words


def test_nobody_asks_for_anything():
    assert asked_world() == 1
    assert [asked_sharding(kind) for kind in ("none", "fsdp", "machine")] == ["none", "fsdp", "machine"]


def test_torchrun_says_how_many(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert asked_world() == 4


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (("python", "accelerate", "launch", "--cpu", "--num_processes", "2", "-m", "cinelora.cli"), 2),
        (("python", "accelerate", "launch", "--num-processes=3", "-m", "cinelora.cli"), 3),
        (("python", "accelerate", "launch", "-m", "cinelora.cli"), 1),
        (("bash", "-c", "--num_processes", "5"), 1),
    ],
)
def test_accelerate_that_starts_one_in_place_of_several_is_found_out(words, number, monkeypatch):
    monkeypatch.setattr(launcher.psutil, "Process", lambda: Parent(*words))
    assert asked_world() == 1  # not started by accelerate
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert asked_world() == number


@pytest.mark.parametrize(
    ("strategy", "engaged"),
    [({}, "fsdp"), ({"FSDP_SHARDING_STRATEGY": "FULL_SHARD"}, "fsdp"), ({"FSDP_SHARDING_STRATEGY": "4"}, "machine"),
     ({"FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"}, "fsdp"),
     ({"FSDP_SHARDING_STRATEGY": "HYBRID_SHARD"}, "machine")],
)  # fmt: skip
def test_fsdp_of_the_launcher_engages_ours_and_not_accelerates(strategy, engaged, monkeypatch):
    for name, value in {"ACCELERATE_USE_FSDP": "true", **strategy}.items():
        monkeypatch.setenv(name, value)
    assert asked_sharding("none") == engaged
    assert "ACCELERATE_USE_FSDP" not in os.environ
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert asked_sharding(engaged) == engaged


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"FSDP_OFFLOAD_PARAMS": "true"}, "memory.base"),
        ({"FSDP_SHARDING_STRATEGY": "NO_SHARD"}, "spreads nothing"),
        ({"FSDP_SHARDING_STRATEGY": "HYBRID_SHARD"}, "different sharding"),
    ],
)
def test_what_is_not_done_is_refused(settings, words, monkeypatch):
    for name, value in {"ACCELERATE_USE_FSDP": "true", **settings}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RunError, match=words):
        asked_sharding("fsdp")


def test_a_world_without_a_launcher_is_refused(monkeypatch):
    """Platforms export WORLD_SIZE as the number of machines: a plain start would wait for others, or fail."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for alone in (None, "1"):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if alone:
            monkeypatch.setenv("WORLD_SIZE", alone)
        refuse_no_launcher()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for call in (refuse_no_launcher, lambda: open_place(TrainOptions(device="cpu"))):
        with pytest.raises(RunError, match="no launcher started this one") as caught:
            call()
        assert "torchrun" in str(caught.value)
    monkeypatch.setenv("LOCAL_RANK", "0")
    refuse_no_launcher()
    monkeypatch.setenv("WORLD_SIZE", "two")
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(RunError, match="no number of processes"):
        refuse_no_launcher()
