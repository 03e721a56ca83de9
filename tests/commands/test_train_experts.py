"""Both experts of a base in one run: one cache, two adapters in turns, joint previews, a file of each, exact resume."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cinelora.media.write import write_mp4
from cinelora.report.events import read_events

RECIPE = """
[model]
family = "fake"
variant = "experts"
dtype = "fp32"
experts_in_memory = "one"
[data]
held_out = 0.2
encoded_dtype = "fp32"
[[data.source]]
path = "clips"
[lora]
rank = 2
[method]
expert_stretch = 2
[train]
steps = 6
micro_size = 2
lr = 3e-2
precision = "fp32"
gradient_checkpointing = true
save_every_steps = 2
device = "cpu"
[held_out]
every_steps = 3
num_timesteps = 2
[preview]
prompts = ["something"]
num_steps = 4
[run]
folder = "run"
"""


@pytest.fixture
def call(typed, tmp_path):
    rng = np.random.default_rng(0)
    for k in range(6):
        write_mp4(tmp_path / "clips" / f"{k}.mp4", rng.integers(0, 255, (9, 32, 32, 3)).astype(np.uint8), 8.0)
        (tmp_path / "clips" / f"{k}.txt").write_text(f"clip number {k}")
    (tmp_path / "r.toml").write_text(RECIPE)
    return typed


def events(folder, kind):
    return [event for event in read_events(Path(folder) / "events.jsonl") if event["kind"] == kind]


def steps(folder):
    return {(e["step"], e["player"]): e["loss"] for e in events(folder, "step")}


def test_both_learn_in_one_run_and_each_has_its_file(call, tmp_path):
    code, said = call("train", "r.toml", "--set", "run.folder=whole")
    assert code == 0, said
    assert "adapters of the high" in said
    turns = steps("whole")
    assert list(turns) == [(1, "high"), (2, "high"), (3, "low"), (4, "low"), (5, "high"), (6, "high")]

    kept = load_file(tmp_path / "whole" / "checkpoints" / "step-000006" / "adapters.safetensors")
    facts = {}
    for expert, part in (("high", "transformer"), ("low", "transformer_2")):
        file = tmp_path / "whole" / "adapter" / f"r.{expert}_noise.diffusers.safetensors"
        saved = load_file(file)
        for name, tensor in saved.items():
            assert torch.equal(tensor, kept[f"{expert}/{part}.{name.partition('.')[2]}"])
        assert len(saved) == len(kept) / 2
        assert f"proven: whole/adapter/r.{expert}_noise.comfyui.safetensors" in said
        with safe_open(file, "pt") as opened:
            facts[expert] = opened.metadata()
    assert (facts["high"]["variant"], facts["low"]["variant"]) == ("high", "low")
    assert facts["high"]["experts"] == facts["low"]["experts"]
    assert json.loads(facts["low"]["experts"])["high"] == {"file": "r.high_noise", "levels": [0.75, 1.0]}

    code, said = call("train", "r.toml", "--set", "train.steps=3")
    assert code == 0, said
    code, said = call("train", "--resume", "run", "--set", "train.steps=6")
    assert code == 0, said
    assert steps("run") == turns
    assert events("run", "held_out") == events("whole", "held_out") or [
        (e["step"], e["loss"]) for e in events("run", "held_out")
    ] == [(e["step"], e["loss"]) for e in events("whole", "held_out")]
    again = load_file(tmp_path / "run" / "checkpoints" / "step-000006" / "adapters.safetensors")
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_a_sample_of_either_file_is_of_both(call, tmp_path):
    assert call("train", "r.toml")[0] == 0
    adapter = tmp_path / "run" / "adapter"
    drawn = {}
    for name in ("high_noise.diffusers", "low_noise.diffusers", "low_noise.comfyui"):
        code, said = call("sample", str(adapter / f"r.{name}.safetensors"), "--prompt", "something", "--out", name)
        assert code == 0, said
        drawn[name] = (tmp_path / name / "00.mp4").read_bytes()
    assert len(set(drawn.values())) == 1
    preview = tmp_path / "run" / "samples" / "step-000006" / "00.mp4"
    assert preview.read_bytes() == drawn["high_noise.diffusers"]

    (adapter / "r.high_noise.diffusers.safetensors").unlink()
    code, said = call("sample", str(adapter / "r.low_noise.diffusers.safetensors"), "--prompt", "x", "--out", "alone")
    assert code == 0, said
    assert "high" in said
    assert "not beside it" in said

    renamed = (adapter / "r.low_noise.diffusers.safetensors").rename(tmp_path / "mine.safetensors")
    code, said = call("sample", str(renamed), "--prompt", "x", "--out", "renamed")
    assert code == 0, said
    assert "the file of high is not beside it" in said


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('variant = "experts"', 'variant = "experts"\nexperts = ["low", "lo"]'), "nearest: low"),
        (('variant = "experts"', 'variant = "tiny"\nexperts = ["high"]'), "has no experts to choose from"),
        (('variant = "experts"', 'variant = "experts"\nexperts = ["high"]'), "experts_in_memory has no effect"),
        (("rank = 2", 'rank = 2\n[lora.parts]\ntransformer = "full"'), "must stay with its optimizer"),
        (("[train]", "[noise]\nt_max = 0.5\n[train]"), "leave the high expert nothing to learn"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_read(call, tmp_path, change, told):
    (tmp_path / "r.toml").write_text(RECIPE.replace(*change))
    code, said = call("check", "r.toml")
    assert code == 2, said
    assert told in said


def test_one_expert_is_a_run_like_any_other(call, tmp_path):
    text = RECIPE.replace('variant = "experts"', 'variant = "experts"\nexperts = ["low"]')
    text = text.replace('experts_in_memory = "one"\n', "").replace("[method]\nexpert_stretch = 2\n", "")
    (tmp_path / "r.toml").write_text(text)
    code, said = call("train", "r.toml")
    assert code == 0, said
    assert {player for _, player in steps("run")} == {"adapter"}
    assert (tmp_path / "run" / "adapter" / "r.diffusers.safetensors").exists()


def test_a_frozen_part_stays_as_it_is_in_joint_previews(call, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.replace("rank = 2", 'rank = 2\n[lora.parts]\ntransformer_2 = "frozen"'))
    code, said = call("train", "r.toml")
    assert code == 0, said
    assert {player for _, player in steps("run")} == {"high"}
    names = sorted(path.name for path in (tmp_path / "run" / "adapter").iterdir())
    assert names == ["r.high_noise.comfyui.safetensors", "r.high_noise.diffusers.safetensors"]


DISTILL = """
[method]
name = "distill"
generator_every = 2
real_guidance = 3.0
denoising_steps = [1000, 800, 500]
"""


def test_a_distillation_of_both_asks_the_expert_of_each_noise_level(call, tmp_path):
    text = RECIPE.replace("[method]\nexpert_stretch = 2\n", DISTILL).replace("num_steps = 4\n", "")
    (tmp_path / "r.toml").write_text(text)
    code, said = call("train", "r.toml", "--set", "run.folder=whole")
    assert code == 0, said
    assert {player for _, player in steps("whole")} == {"generator", "critic"}
    kept = load_file(tmp_path / "whole" / "checkpoints" / "step-000006" / "adapters.safetensors")
    for player in ("generator", "critic"):
        for part in ("transformer", "transformer_2"):
            moved = [t.abs().sum() for name, t in kept.items() if name.startswith(f"{player}/{part}.") and "_B" in name]
            assert moved
            assert all(total > 0 for total in moved), f"{player} did not learn in {part}"

    code, said = call("train", "r.toml", "--set", "train.steps=3")
    assert code == 0, said
    code, said = call("train", "--resume", "run", "--set", "train.steps=6")
    assert code == 0, said
    assert steps("run") == steps("whole")

    adapter = tmp_path / "whole" / "adapter"
    names = sorted(path.name for path in adapter.iterdir() if ".best." not in path.name and "diffusers" in path.name)
    assert names == ["r.high_noise.diffusers.safetensors", "r.low_noise.diffusers.safetensors"]
    code, said = call("sample", str(adapter / names[1]), "--prompt", "something", "--out", "drawn")
    assert code == 0, said
    preview = tmp_path / "whole" / "samples" / "step-000006" / "00.mp4"
    assert preview.read_bytes() == (tmp_path / "drawn" / "00.mp4").read_bytes()
