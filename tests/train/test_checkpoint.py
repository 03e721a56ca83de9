import os

import pytest
import torch

from cinelora.base.errors import RunError, WeightsError
from cinelora.contracts.roles import Player
from cinelora.train.checkpoint import (
    best_checkpoint,
    checkpoints,
    folder_name,
    latest,
    load_checkpoint,
    mark_best,
    prune,
    read_adapters,
    read_state,
    save_checkpoint,
)
from cinelora.train.optim import Learner
from cinelora.train.options import TrainOptions


def learner(value: float, name: str = "adapter", **options) -> Learner:
    return Learner(Player(name, {"a": torch.nn.Parameter(torch.full((2, 2), value))}), TrainOptions(**options))


def test_two_players_share_a_checkpoint(tmp_path):
    path = save_checkpoint(
        tmp_path, [learner(1.0, "student", ema_decay=0.5), learner(2.0, "critic")], {"step": 7, "x": [1]}
    )
    assert path.name == "step-000007"
    assert sorted(p.name for p in path.iterdir()) == [
        "adapters.safetensors",
        "averages.safetensors",
        "optimizers.pt",
        "state.json",
    ]
    assert {p.stat().st_mode & 0o777 for p in path.iterdir()} == {0o644}
    assert read_state(path) == {"step": 7, "x": [1]}
    assert read_adapters(path, player="critic")["a"].tolist() == [[2.0, 2.0]] * 2
    assert read_adapters(path, player="critic", averaged=True) == {}
    others = [learner(0.0, "student", ema_decay=0.5), learner(0.0, "critic")]
    load_checkpoint(path, others)
    assert [one.parameters["a"][0, 0].item() for one in others] == [1.0, 2.0]
    assert others[0].average.tensors["a"][0, 0] == 1.0


def test_only_whole_checkpoints_count_and_the_newest_is_by_number(tmp_path):
    assert latest(tmp_path / "nothing") is None
    for step in (9, 1000000, 250):
        save_checkpoint(tmp_path, [learner(0.0)], {"step": step})
    (tmp_path / ".step-2000000.xyz.part").mkdir()
    (tmp_path / "step-abc").mkdir()
    (tmp_path / "step-3000000").write_text("a file")
    assert [p.name for p in checkpoints(tmp_path)] == ["step-000009", "step-000250", "step-1000000"]
    assert latest(tmp_path).name == folder_name(1000000)


def test_a_failing_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        save_checkpoint(tmp_path / "checkpoints", [learner(0.0)], {"step": 1})
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        save_checkpoint(tmp_path / "file" / "checkpoints", [learner(0.0)], {"step": 1})


@pytest.mark.parametrize("name", ["adapters.safetensors", "optimizers.pt", "state.json"])
@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_damaged_file_is_named_and_nothing_is_loaded(tmp_path, name, harm):
    path = save_checkpoint(tmp_path, [learner(1.0)], {"step": 1})
    file = path / name
    file.write_bytes(file.read_bytes()[:-7]) if harm == "cut" else file.unlink()
    other = learner(0.0)
    with pytest.raises(WeightsError) as caught:
        read_state(path) if name == "state.json" else load_checkpoint(path, [other])
    assert caught.value.problems[0].where == str(file)
    assert not other.parameters["a"].any()


def test_optimizer_files_run_no_code(tmp_path):
    path = save_checkpoint(tmp_path, [learner(1.0)], {"step": 1})
    torch.save({"adapter": print}, path / "optimizers.pt")
    with pytest.raises(WeightsError, match="damaged"):
        load_checkpoint(path, [learner(1.0)])


def test_pruning_keeps_the_newest_and_the_best(tmp_path):
    for step in range(1, 7):
        save_checkpoint(tmp_path, [learner(0.0)], {"step": step})
    (tmp_path / ".step-000007.xyz.part").mkdir()  # as a kill in the middle of saving leaves it
    prune(tmp_path, 2, best_step=3)
    assert len(list(tmp_path.iterdir())) == 3
    assert [p.name for p in checkpoints(tmp_path)] == [folder_name(k) for k in (3, 5, 6)]
    prune(tmp_path, 2, best_step=None)
    assert sorted(p.name for p in tmp_path.iterdir()) == [folder_name(k) for k in (5, 6)]


def test_what_is_kept_for_good_outlives_pruning(tmp_path):
    for step in range(1, 7):
        save_checkpoint(tmp_path, [learner(float(step))], {"step": step}, kept=step in (2, 5))
    prune(tmp_path, 1, best_step=3)
    assert [p.name for p in checkpoints(tmp_path)] == [folder_name(k) for k in (2, 3, 5, 6)]
    prune(tmp_path, 1, best_step=None)
    assert [p.name for p in checkpoints(tmp_path)] == [folder_name(k) for k in (2, 5, 6)]
    one = learner(0.0)
    load_checkpoint(tmp_path / folder_name(2), [one])
    assert all(float(weight.detach()[0, 0]) == 2.0 for weight in one.parameters.values())


def test_the_best_is_found_by_its_mark(tmp_path):
    assert best_checkpoint(tmp_path) is None
    mark_best(tmp_path, {"step": 4, "loss": 0.5})
    assert best_checkpoint(tmp_path) is None
    path = save_checkpoint(tmp_path, [learner(0.0)], {"step": 4})
    assert best_checkpoint(tmp_path) == path
