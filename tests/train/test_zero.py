"""Two processes under DeepSpeed's ZeRO-1 and 2: the numbers of a run without it; one that goes on, two after it."""

import json
from types import SimpleNamespace

import pytest
import torch

from cinelora.base.errors import RecipeError, WeightsError
from cinelora.commands.early import check_spread
from cinelora.commands.plan_memory import Acted
from cinelora.config.load import load
from cinelora.contracts.roles import Player
from cinelora.report.events import read_events
from cinelora.train import zero
from cinelora.train.options import TrainOptions
from cinelora.train.zero_asked import Zero
from commands.test_train_experts import RECIPE
from train import fake_zero
from train.test_ranks import alike, free_port, kept, started, told, write_experts

SEEDS_ZERO_3 = {
    "bf16": {"enabled": False},
    "train_micro_batch_size_per_gpu": 2,
    "train_batch_size": "auto",
    "gradient_accumulation_steps": "auto",
    "dump_state": True,
    "gradient_clipping": "auto",
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "sub_group_size": 1e9,
        "reduce_bucket_size": 5e8,
        "stage3_max_live_parameters": 1e9,
        "offload_optimizer": {"device": "none"},
        "offload_param": {"device": "none"},
    },
}
"""After the file that VideoX-Fun publishes."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    pytest.importorskip("deepspeed")
    folder = tmp_path_factory.mktemp("zero")
    write_experts(folder / "experts")
    (folder / "experts" / "zero3.json").write_text(json.dumps(SEEDS_ZERO_3))
    started(fake_zero.__file__, folder, free_port(), free_port())
    return folder


FINE_TUNED = ("zero-1", "zero-2", "zero-2 in pieces", "zero on host")


@pytest.mark.parametrize("case", FINE_TUNED)
def test_a_run_under_deepspeed_has_the_numbers_of_one_without(root, case):
    """With clipping that bites; losses, norms, what is learned, its averages, and the whole optimizer's state saved."""
    one, plain = kept(root, case), kept(root, "whole")
    for name in ("parameters", "averages"):
        alike(one[name], plain[name], atol=1e-6, rtol=0)
        alike(one[name], kept(root, case, rank=1)[name])
    for kind, name in (("step", "loss"), ("step", "grad_norm"), ("held_out", "loss")):
        assert told(one, kind, name) == pytest.approx(told(plain, kind, name), abs=1e-6)
    shorter = sum(norm > fake_zero.CLIP["clip_norm"] for norm in told(one, "step", "grad_norm"))
    assert 0 < shorter < len(told(one, "step", "grad_norm"))
    assert told(one, "start", "zero") == [int(case[5]) if case[5].isdigit() else 2]
    mine, theirs = (saved(root / name) for name in (case, "whole"))
    assert mine.keys() == theirs.keys()
    for name in theirs:
        if name:
            alike(mine[name], theirs[name], atol=1e-8, rtol=1e-4)
    assert mine[""] == theirs[""]


def saved(folder, step=6):
    file = folder / "checkpoints" / f"step-{step:06d}" / "optimizers.pt"
    return torch.load(file, weights_only=True)["adapter"]


def test_clips_count_alike_where_ranks_have_other_numbers_of_them(root):
    alike(kept(root, "clips zero"), kept(root, "clips"), atol=1e-6, rtol=0)
    alike(kept(root, "clips zero"), kept(root, "clips zero", rank=1))


def test_two_players_of_a_distillation_learn_as_without(root):
    one, plain = kept(root, "distilled zero"), kept(root, "distilled")
    alike(one, plain, atol=1e-5, rtol=0)
    assert {name.split("/")[0] for name in one} == {"generator", "critic", "average", "asked"}


def test_a_run_goes_on_without_deepspeed_on_one_process_and_back(root):
    """Steps 1 and 2 by two under ZeRO-2, 3 and 4 by one without, 5 and 6 by two under ZeRO-1."""
    end, middle, whole = kept(root, "handed on"), kept(root, "handed on", rank=9), kept(root, "whole")
    for name in ("parameters", "averages"):
        alike(end[name], whole[name], atol=1e-5, rtol=0)
    assert told(middle, "step", "step") + told(end, "step", "step") == [3, 4, 5, 6]
    found = told(middle, "step", "loss") + told(end, "step", "loss")
    assert found == pytest.approx(told(whole, "step", "loss")[2:], abs=1e-5)
    assert (told(middle, "resume", "zero"), told(end, "resume", "zero")) == ([0], [1])


def test_scaled_infinite_lacking_and_no_gradients_do_as_without(root):
    for rank in range(2):
        both = kept(root, "by hand", rank=rank)
        one, plain = both["zero 2"], both["zero 0"]
        alike(one["tensors"], plain["tensors"], atol=1e-6, rtol=0)
        assert one["norms"] == pytest.approx(plain["norms"], rel=1e-6)
        assert (one["norms"][1], one["norms"][3], one["scale"]) == (torch.inf, 0.0, plain["scale"])
        moved = zip(one["tensors"].values(), fake_zero.weights().values(), strict=True)
        assert all((tensor - start).abs().min() > 0.1 for tensor, start in moved)


def test_parameters_that_no_rank_asked_are_told(root):
    for rank in range(2):
        said = kept(root, "by hand", rank=rank)["unasked"]
        assert "no gradient for two, shift" in said
        assert "ZeRO steps all parameters at once" in said


def test_a_whole_run_of_two_experts_as_accelerate_asks_for_zero_3(root):
    """The base in pieces by FSDP2, optimizers by DeepSpeed; held-out losses, previews, files that are proven."""
    found = {"events": read_events(root / "experts" / "run" / "events.jsonl")}
    assert (told(found, "start", "sharding"), told(found, "start", "zero")) == (["fsdp"], [2])
    assert told(found, "end", "step") == [6]
    assert set(told(found, "step", "player")) == {"high", "low"}
    assert len(list((root / "experts" / "run" / "adapter").glob("*.safetensors"))) >= 2


@pytest.mark.parametrize(
    ("sets", "offload", "words"),
    [
        (["model.experts_in_memory='one'"], "", "take turns on the GPU"),
        (["model.experts_in_memory='all'", "method.name='distill'"], "", "one expert alone"),
        (["model.experts_in_memory='all'"], "cpu", "memory.optimizer = 'gpu'"),
    ],
)
def test_what_zero_cannot_is_refused_before_anything_is_read(sets, offload, words, tmp_path):
    write_experts(tmp_path)
    (tmp_path / "r.toml").write_text(RECIPE.replace("expert_stretch = 2", ""))
    place = SimpleNamespace(sharded=False, sharding="none", zero=Zero(2, 2, {}, (), offload))
    with pytest.raises(RecipeError, match=words):
        check_spread(load(tmp_path / "r.toml", sets), place)


def test_the_plan_counts_a_part_of_the_state(tmp_path):
    write_experts(tmp_path)
    (tmp_path / "r.toml").write_text(RECIPE)
    found = []
    for stage, world in ((0, 4), (2, 1), (2, 4)):
        recipe = load(tmp_path / "r.toml", [f"train.zero={stage}"])
        found.append(Acted(recipe, world=world).learning_bytes(recipe.recipe.train, recipe.recipe.memory) / 512)
    assert found == [12, 12, 4 + 12 / 4]


class Uncut:
    """Stands for DeepSpeed's optimizer of one rank, over a copy of each group's flat vector."""

    def __init__(self, members, optimizer):
        for group, weights in zip(optimizer.param_groups, members, strict=True):
            group["params"] = [torch.nn.Parameter(torch.cat([weight.detach().reshape(-1) for weight in weights]))]

    def refresh_fp32_params(self):
        pass


@pytest.fixture
def uncut(monkeypatch):
    monkeypatch.setattr(zero, "_engaged", lambda members, optimizer, place, on_host: Uncut(members, optimizer))
    place = SimpleNamespace(zero=Zero(1, 1, {}), device=torch.device("cpu"), rank=0, world=1, first=True)
    return zero.ZeroLearner(Player("adapter", fake_zero.weights()), TrainOptions(), place)


def moments(weight, step=3.0, **more):
    return {"step": torch.tensor(step), "exp_avg": weight.detach() + 1, "exp_avg_sq": weight.detach() ** 2, **more}


def test_saved_state_lands_in_the_flat_vectors(uncut):
    state = {name: moments(weight) for name, weight in fake_zero.weights().items()}
    uncut.load_state(state)
    (flat,), (vector,) = (group["params"] for group in uncut.optimizer.param_groups)
    wanted = torch.cat([state["one"]["exp_avg"].reshape(-1), state["two"]["exp_avg"].reshape(-1)])
    assert torch.equal(uncut.optimizer.state[flat]["exp_avg"], wanted)
    assert torch.equal(uncut.optimizer.state[vector]["exp_avg_sq"], state["shift"]["exp_avg_sq"])
    assert float(uncut.optimizer.state[flat]["step"]) == 3


def test_state_that_does_not_fit_is_refused(uncut):
    weights = fake_zero.weights()
    with pytest.raises(WeightsError, match="of other parameters"):
        uncut.load_state({"one": moments(weights["two"])})
    with pytest.raises(WeightsError, match="of other parameters"):
        uncut.load_state({"one": {"step": torch.tensor(1.0)}})
    state = {name: moments(weight, step=float(k > 0)) for k, (name, weight) in enumerate(weights.items())}
    with pytest.raises(WeightsError, match="made fewer steps"):
        uncut.load_state(state)
    with pytest.raises(WeightsError, match="made fewer steps"):
        uncut.load_state({"two": moments(weights["two"])})
