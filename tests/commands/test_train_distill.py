"""A distillation from the command line, on the fake family: two players, exact resume, the generator alone in files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cinelora.media.write import write_mp4
from cinelora.report.events import read_events

RECIPE = """
[model]
family = "fake"
variant = "tiny"
dtype = "fp32"
text_dropout = 0.0
[data]
held_out = 0.2
[[data.source]]
path = "clips"
[lora]
rank = 2
[method]
name = "distill"
generator_every = 2
critic_lr = 2e-2
negative_prompt = "noise and dirt"
[noise]
shift = 3.0
[train]
steps = 6
micro_size = 2
lr = 1e-2
precision = "fp32"
gradient_checkpointing = true
save_every_steps = 2
device = "cpu"
[held_out]
every_steps = 3
num_timesteps = 2
[preview]
prompts = ["something"]
[run]
folder = "run"
"""


@pytest.fixture
def call(typed, tmp_path):
    """Run the command line beside six clips; gives back exit code and all that was said."""
    rng = np.random.default_rng(0)
    for k in range(6):
        write_mp4(tmp_path / "clips" / f"{k}.mp4", rng.integers(0, 255, (9, 32, 32, 3)).astype(np.uint8), 8.0)
        (tmp_path / "clips" / f"{k}.txt").write_text(f"clip number {k}")
    (tmp_path / "r.toml").write_text(RECIPE)
    return typed


def steps(folder):
    events = read_events(Path(folder) / "events.jsonl")
    return {(e["step"], e["player"]): (e["loss"], e["lr"]) for e in events if e["kind"] == "step"}


def test_a_distillation_trains_resumes_exactly_and_saves_the_generator(call, tmp_path):
    code, said = call("train", "r.toml", "--set", "run.folder=whole")
    assert code == 0, said
    assert "adapters of the generator" in said
    assert "proven:" in said
    found = steps("whole")
    assert [step for step, player in found if player == "critic"] == [1, 2, 3, 4, 5, 6]
    assert [step for step, player in found if player == "generator"] == [1, 3, 5]
    assert found[1, "generator"][1] == 1e-2
    assert found[1, "critic"][1] == 2e-2

    code, said = call("train", "r.toml", "--set", "train.steps=3")
    assert code == 0, said
    code, said = call("train", "--resume", "run", "--set", "train.steps=6")
    assert code == 0, said
    assert steps("run") == found

    kept = load_file(tmp_path / "whole" / "checkpoints" / "step-000006" / "adapters.safetensors")
    players = {name.partition("/")[0] for name in kept}
    assert players == {"generator", "critic"}
    saved = load_file(tmp_path / "whole" / "adapter" / "r.diffusers.safetensors")
    for name, tensor in saved.items():
        assert torch.equal(tensor, kept[f"generator/{name}"])
        assert not torch.equal(tensor, kept[f"critic/{name}"])
    assert len(saved) == len(kept) / 2


def walks(monkeypatch):
    """The walks that `sample` makes from now on: (sigmas, kind of sampler, guidance), newest last."""
    from cinelora.commands import sample as verb

    seen, real = [], verb.walk

    def watched(denoiser, process, conditions, *, how, **given):
        sampler = process.sampler(how.num_steps, how.sampler, how.places)
        seen.append((sampler.sigmas.tolist(), type(sampler).__name__, how.guidance))
        return real(denoiser, process, conditions, how=how, **given)

    monkeypatch.setattr(verb, "walk", watched)
    return seen


def test_sample_draws_a_distilled_file_as_it_was_learned_without_being_told(call, tmp_path, monkeypatch):
    text = RECIPE.replace('name = "distill"', 'name = "distill"\ndenoising_steps = [1000, 600, 300]')
    (tmp_path / "r.toml").write_text(text.replace("steps = 6", "steps = 1").replace("shift = 3.0", "shift = 7.0"))
    code, said = call("train", "r.toml")
    assert code == 0, said
    levels = [7 * u / (1 + 6 * u) for u in (1.0, 0.6, 0.3)]
    seen = walks(monkeypatch)
    for file in ("r.diffusers.safetensors", "r.comfyui.safetensors"):
        (tmp_path / file).write_bytes((tmp_path / "run" / "adapter" / file).read_bytes())
        code, said = call("sample", file, "--prompt", "x", "--out", "drawn")
        assert code == 0, said
        assert seen[-1] == (pytest.approx([*levels, 0.0], abs=1e-6), "RenoiseSampler", 1.0)
    assert call("sample", "run", "--prompt", "x", "--sampler", "euler", "--guidance", "2")[0] == 0
    assert seen[-1] == (pytest.approx([*levels, 0.0], abs=1e-6), "FlowSampler", 2.0)
    assert call("sample", "run", "--prompt", "x", "--steps", "2")[0] == 0
    even = [7 * u / (1 + 6 * u) for u in (1.0, 0.5)]
    assert seen[-1] == (pytest.approx([*even, 0.0], abs=1e-6), "RenoiseSampler", 1.0)
    code, said = call("sample", "run", "--prompt", "x", "--sampler", "ddim")
    assert (code, "no such sampler" in said) == (2, True), said
    code, said = call("sample", "run", "--prompt", "x", "--sampler", "eulr")
    assert (code, "euler" in said) == (2, True), said
    told = (tmp_path / "run" / "report.html").read_text()
    assert "sigmas=[1, 0.6, 0.3]" in told
    assert "Loss, critic" in told


def test_what_cannot_be_distilled_is_told_before_anything_is_read(call, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.replace("rank = 2", 'rank = 2\n[lora.parts]\ntransformer = "full"'))
    code, said = call("check", "r.toml")
    assert code == 2, said
    assert "no part can learn in full" in said
    (tmp_path / "r.toml").write_text(RECIPE.replace('name = "distill"', 'name = "finetune"'))
    code, said = call("check", "r.toml")
    assert code == 2, said
    assert "method.generator_every has no effect" in said
