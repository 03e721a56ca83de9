"""DynamiCrafter's recipes: equal to the original's settings; each trains, stops, goes on; its files work."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from dynamicrafter_bases import write_base
from safetensors import safe_open
from safetensors.torch import load_file

from cinelora.commands.push import gather
from cinelora.config.load import load
from cinelora.families.dynamicrafter.card import TINY
from cinelora.lora.files import write_adapter
from cinelora.media.probe import probe
from cinelora.media.write import write_mp4, write_png
from cinelora.report.events import read_events
from cinelora.report.run_folder import read_run

ROOT = Path(__file__).parents[2]
NAMES = ("dynamicrafter-512", "dynamicrafter-interp")
SMALL = {"dynamicrafter-512": "tiny", "dynamicrafter-interp": "tiny-interp"}


def test_the_recipe_has_the_values_of_the_original():
    recipe = load(ROOT / "recipes" / "dynamicrafter-512.toml").recipe
    lora, train, data = recipe.lora, recipe.train, recipe.data
    assert (lora.rank, lora.alpha / lora.rank, lora.dropout, lora.targets) == (64, 0.5, 0.1, "reference")
    assert (train.micro_size, train.accumulation, train.lr, train.clip_norm) == (1, 16, 1e-5, 0.5)
    assert (train.save_every_steps, train.keep_last, train.keep_every_epochs, train.seed) == (20, 1, 1, 20230211)
    assert (train.optimizer, train.betas, train.eps, train.weight_decay) == ("adamw", (0.9, 0.999), 1e-8, 0.01)
    assert (data.frames, data.size, data.fps, data.stride) == ([16], [320, 512], 16, 1)
    noise = recipe.noise
    assert (noise.kind, noise.prediction, noise.zero_terminal_snr, noise.rescale_to) == ("ddpm", "v", True, 0.7)
    assert (noise.beta_start, noise.beta_end, noise.rescale_times) == (0.00085, 0.012, 400)


@pytest.fixture
def folder(tmp_path):
    """The recipes, and where they look for it WebVid's layout with two clips, and pictures to start from and end at."""
    for name in NAMES:
        shutil.copy(ROOT / "recipes" / f"{name}.toml", tmp_path)
    rng = np.random.default_rng(0)
    rows = ["videoid,contentUrl,duration,page_dir,name"]
    for k in range(2):
        still = rng.integers(0, 255, (8, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        moving = np.stack([np.roll(still, 3 * frame, 1) for frame in range(48)])
        write_mp4(tmp_path / "train" / "videos" / "0007" / f"00{k}.mp4", moving, 24.0)
        rows.append(f'00{k},,,0007,"coloured squares, number {k}"')
        write_png(tmp_path / ("start.png", "end.png")[k], still)
    (tmp_path / "train" / "data.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def small(name, **changed):
    """--set words that make a recipe small: drawn weights of a small network, short clips, three steps."""
    told = {
        "model.variant": SMALL[name],
        "model.base": "random",
        "model.dtype": "fp32",
        "data.frames": [4],
        "data.size": [32, 48],
        "data.held_out": 0.0,
        "data.encoded_dtype": "fp32",
        "lora.rank": 4,
        "lora.alpha": 2,
        "train.steps": 3,
        "train.accumulation": 2,
        "train.lr": 0.01,
        "train.precision": "fp32",
        "train.device": "cpu",
        "train.save_every_steps": 1,
        "preview.frames": 4,
        "preview.size": [32, 48],
        "preview.num_steps": 2,
        "preview.before": False,
        **{key.replace("__", "."): value for key, value in changed.items()},
    }
    return [word for place, value in told.items() for word in ("--set", f"{place}={json.dumps(value)}")]


def unseen(folder, **changed):
    """The words of `small` for a recipe without previews, and that recipe's name: "quiet"."""
    told = (folder / f"{NAMES[0]}.toml").read_text()
    (folder / "quiet.toml").write_text(told[: told.index("[preview]")])
    words = small(NAMES[0], **changed)
    pairs = zip(words[::2], words[1::2], strict=True)
    return ["quiet.toml", *(word for pair in pairs if not pair[1].startswith("preview.") for word in pair)]


def said(file):
    """An adapter file's header."""
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def steps_of(run):
    return [
        (event["step"], event["loss"]) for event in read_events(Path(run) / "events.jsonl") if event["kind"] == "step"
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_stops_and_goes_on(name, typed, folder):
    code, told = typed("train", f"{name}.toml", *small(name), "--set", "run.folder=whole")
    assert code == 0, told
    code, told = typed("train", f"{name}.toml", *small(name, train__steps=2), "--set", "run.folder=run")
    assert code == 0, told
    code, told = typed("train", "--resume", "run", "--set", "train.steps=3")
    assert code == 0, told
    assert [step for step, _ in steps_of("run")] == [1, 2, 3]
    assert steps_of("run") == steps_of("whole")
    for layout in ("original", "peft"):
        file = f"{name}.{layout}.safetensors"
        assert f"proven: run/adapter/{file} loads" in told
        once, again = (load_file(folder / run / "adapter" / file) for run in ("whole", "run"))
        assert once.keys() == again.keys()
        assert all(once[key].equal(again[key]) for key in once)
    keys = list(load_file(folder / "run" / "adapter" / f"{name}.original.safetensors"))
    assert all(key.startswith("model.diffusion_model.") for key in keys)
    assert {key.rsplit(".", 2)[1] for key in keys} == {"lora_a", "lora_b"}
    header = said(folder / "run" / "adapter" / f"{name}.original.safetensors")
    assert (header["rank"], float(header["alpha"]), header["targets"]) == ("4", 2.0, "reference")
    assert header["steps"] == "3"
    facts = probe(next((folder / "run" / "samples" / "step-000003").glob("*.mp4")))
    assert (facts.frames, facts.height, facts.width) == (4, 32, 48)


def test_checkpoints_last_and_history_adapters_alone_or_whole(typed, folder):
    words = unseen(folder, train__keep_every_epochs=0, train__keep_every_steps=2)
    code, told = typed("train", *words, "--set", "run.folder=adapters")
    assert code == 0, told
    assert [path.name for path in (folder / "adapters" / "checkpoints").glob("step-*")] == ["step-000003"]
    kept = {path.name for path in (folder / "adapters" / "history").iterdir()}
    assert kept == {f"quiet.step-000002.{layout}.safetensors" for layout in ("original", "peft")}
    whole = [*words, "--set", "train.kept=checkpoint", "--set", "run.folder=whole"]
    code, told = typed("train", *whole)
    assert code == 0, told
    assert sorted(path.name for path in (folder / "whole" / "checkpoints").glob("step-*")) == [
        "step-000002",
        "step-000003",
    ]
    # What was kept is the adapter of that step: a run of two steps ends with the same one.
    code, told = typed("train", *words, "--set", "run.folder=two", "--set", "train.steps=2")
    assert code == 0, told
    early = load_file(folder / "two" / "adapter" / "quiet.original.safetensors")
    history = load_file(folder / "whole" / "history" / "quiet.step-000002.original.safetensors")
    assert early.keys() == history.keys()
    assert all(early[key].equal(history[key]) for key in early)
    size = ["--image", "start.png", "--frames", "4", "--size", "32", "48", "--steps", "2"]
    code, told = typed("sample", str(next((folder / "whole" / "history").glob("*.peft.*"))), "--prompt", "a", *size)
    assert code == 0, told


def test_an_adapter_that_is_kept_is_read_back(typed, folder, monkeypatch):
    from cinelora.commands import adapter_files

    def weaker(path, file, layout):
        write_adapter(path, replace(file, alphas={name: 0.5 * one for name, one in file.alphas.items()}), layout)

    monkeypatch.setattr(adapter_files, "write_adapter", weaker)
    words = unseen(folder, train__keep_every_epochs=0, train__keep_every_steps=1, train__files_at_saves=False)
    code, told = typed("train", *words, "--set", "run.folder=run", "--set", "train.steps=2")
    assert code != 0
    assert "of the saved original file are not as they were trained" in told
    assert "where: run/history/quiet.step-000001.original.safetensors" in told


def test_files_are_written_while_the_run_goes_on_and_where_it_is_stopped(typed, folder, monkeypatch):
    from cinelora.train.loop import Trainer

    words = unseen(folder, train__files_at_saves=True, train__save_every_steps=2)
    files = [folder / "run" / "adapter" / f"quiet.{layout}.safetensors" for layout in ("original", "peft")]
    seen, step = [], Trainer._take_step

    def watched(self, number):
        seen.append([said(file)["steps"] for file in files if file.exists()])
        if len(seen) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, number)

    monkeypatch.setattr(Trainer, "_take_step", watched)
    code, told = typed("train", *words, "--set", "run.folder=run", "--set", "train.steps=7")
    assert code != 0
    assert "stopped by a signal after step 5 of 7" in told
    assert seen == [[], [], ["2", "2"], ["2", "2"], ["4", "4"]]
    assert [said(file)["steps"] for file in files] == ["5", "5"]
    code, told = typed("train", "--resume", "run")
    assert code == 0, told
    assert [said(file)["steps"] for file in files] == ["7", "7"]


def test_the_model_card_shows_lines_that_draw_with_the_file(typed, folder):
    name = NAMES[0]
    code, told = typed("train", f"{name}.toml", *small(name, train__steps=1), "--set", "run.folder=run")
    assert code == 0, told
    (folder / "hub").mkdir()
    gather(read_run(folder / "run"), folder / "hub", repository="me/mine")
    card = (folder / "hub" / "README.md").read_text()
    assert 'pipeline_tag: "image-to-video"' in card
    assert 'library_name: "cinelora"' in card
    assert '- "diffusers"' not in card
    assert f'hf_hub_download("me/mine", "{name}.original.safetensors")' in card
    compile(card.split("```python")[1].split("```")[0], "card", "exec")


@pytest.mark.slow
def test_parts_that_learn_in_full_and_patterns_of_one_part(typed, folder):
    words = unseen(folder, train__steps=1)
    parts = ["--set", 'lora.parts={resampler="full"}', "--set", "run.folder=full"]
    code, told = typed("train", *words, *parts)
    assert code == 0, told
    assert (folder / "full" / "weights" / "quiet.resampler.safetensors").is_file()
    patterns = ["--set", r'lora.targets=".*attn1\\.to_q"', "--set", 'lora.rank_pattern={"input_blocks.*"=2}']
    code, told = typed("train", *words, *patterns, "--set", "run.folder=patterns")
    assert code == 0, told
    assert "proven: patterns/adapter" in told


def pixels_of(path):
    with av.open(path) as video:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]).astype(int)


def test_a_run_is_merged_into_its_base_and_drawn_with(typed, folder):
    """A run's native file, `lora apply` with the strength that it says, and the merged base in a sampler."""
    name = NAMES[0]
    (folder / "base").mkdir()
    base_folder = write_base(folder / "base", TINY)
    base = ["--set", f"model.base={base_folder}"]
    code, told = typed("train", f"{name}.toml", *small(name, train__steps=1), *base, "--set", "run.folder=run")
    assert code == 0, told
    adapter = folder / "run" / "adapter" / f"{name}.original.safetensors"
    code, told = typed("lora", "apply", "--base", str(base_folder), "--lora", str(adapter), "--out", "merged")
    assert code == 0, told
    assert "strength 0.5" in told
    merged = next((folder / "merged").iterdir())
    before, after, lora = (load_file(path) for path in (base_folder / "model.safetensors", merged, adapter))
    assert before.keys() == after.keys()
    for key in [key for key in lora if key.endswith(".lora_a.weight")]:
        weight = key.replace(".lora_a", "")
        change = 0.5 * lora[key.replace("lora_a", "lora_b")] @ lora[key]
        torch.testing.assert_close(after[weight], before[weight] + change)
    size = ["--image", "start.png", "--frames", "4", "--size", "32", "48", "--steps", "2", "--prompt", "a clip"]
    shutil.copytree(base_folder / "tokenizer", folder / "merged" / "tokenizer")
    code, told = typed("sample", str(adapter), "--out", "one", *size)
    assert code == 0, told
    code, told = typed("sample", str(adapter), "--base", str(merged), "--strength", "0", "--out", "other", *size)
    assert code == 0, told
    code, told = typed("sample", str(adapter), "--strength", "0", "--out", "without", *size)
    assert code == 0, told
    # The same sums in another order: a pixel rounded to its neighbour is coded as another block of pixels.
    one, other, without = (pixels_of(folder / out / "00.mp4") for out in ("one", "other", "without"))
    assert 10 * np.abs(one - other).mean() < np.abs(one - without).mean()


def test_ways_of_sampling_that_the_guide_shows(typed, folder):
    name = NAMES[1]
    code, told = typed("train", f"{name}.toml", *small(name, train__steps=1), "--set", "run.folder=run")
    assert code == 0, told
    ways = {
        "both": ["--end-image", "end.png"],
        "pace": ["--end-image", "end.png", "--set", "preview.pace=15"],
        "picture": ["--end-image", "end.png", "--set", "preview.image_guidance=2"],
        "uniform": ["--end-image", "end.png", "--set", "noise.spacing=uniform", "--set", "noise.eta=0"],
        "loop": ["--set", "preview.loop=true"],
    }
    drawn = {}
    for way, words in ways.items():
        size = ["--frames", "4", "--size", "32", "48", "--steps", "4"]
        start = ["--prompt", "a clip", "--image", "start.png", "--out", way]
        code, told = typed("sample", "run", *start, *size, *words)
        assert code == 0, told
        drawn[way] = (folder / way / "00.mp4").read_bytes()
        assert probe(folder / way / "00.mp4").frames == (3 if way == "loop" else 4)
    assert len(set(drawn.values())) == len(ways)
    code, told = typed("sample", "run", "--prompt", "a clip", "--image", "start.png")
    assert code != 0
    assert "draws what lies between two pictures" in told
