"""Framer from the command line: all that can train learns, resumes exactly, is saved, proven and loads elsewhere."""

import ast
import itertools
import re
from dataclasses import replace
from pathlib import Path

import framer_bases
import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file

from cinelora.commands import train
from cinelora.commands.push import gather
from cinelora.families.framer import opening
from cinelora.families.framer.card import TINY_TRACKS
from cinelora.families.framer.denoise import FramerDenoiser
from cinelora.families.framer.folders import read_adapters
from cinelora.lora.inject import attach
from cinelora.media.decode import frames_at
from cinelora.media.probe import probe
from cinelora.media.track_file import TrackFile, write_tracks
from cinelora.media.write import write_mp4
from cinelora.report.events import read_events
from cinelora.report.run_folder import read_run
from cinelora.train.held_out import HeldOut, Score
from cinelora.train.place import open_place
from cli.test_ranks import launched

RECIPE = """
[model]
family = "framer"
variant = "tiny-tracks"
base = "base"
dtype = "fp32"
[data]
frames = [3]
size = [32, 48]
buckets = "single"
held_out = 0.25
cache_dir = "cache"
[[data.source]]
path = "clips"
track_suffix = "_tracks"
[lora]
rank = 4
[train]
steps = 3
lr = 1e-2
weight_decay = 0.0
micro_size = 2
precision = "fp32"
device = "cpu"
save_every_steps = 1
[held_out]
every_steps = 3
[run]
folder = "run"
"""
PLAIN = RECIPE.replace("tiny-tracks", "tiny").replace('track_suffix = "_tracks"\n', "")
FRAMES = 6


def square(k: int) -> np.ndarray:
    """A bright square on noise that goes its way, F 32 48 3."""
    rng = np.random.default_rng(k)
    video = np.repeat(rng.integers(0, 90, (1, 32, 48, 3)), FRAMES, axis=0).astype(np.uint8)
    for frame in range(FRAMES):
        left = 2 + (5 * frame + 3 * k) % 36
        video[frame, 8:18, left : left + 8] = 230
    return video


@pytest.fixture
def call(typed, tmp_path):
    """Run the command line beside a base, four clips with tracks and no caption, and the recipe."""
    framer_bases.write_base(tmp_path / "base", dict(TINY_TRACKS.network))
    for k in range(4):
        write_mp4(tmp_path / "clips" / f"{k}.mp4", square(k), 7.0)
        left = np.array([6 + (5 * frame + 3 * k) % 36 for frame in range(FRAMES)], dtype=float)
        points = np.stack([left, np.full(FRAMES, 13.0)], axis=-1)[:, None]
        write_tracks(tmp_path / "clips" / f"{k}_tracks.npz", TrackFile(points, np.ones((FRAMES, 1), dtype=bool)))
    (tmp_path / "r.toml").write_text(RECIPE)
    (tmp_path / "plain.toml").write_text(PLAIN)
    return typed


SEEN = np.ones((2, 1), dtype=bool)


def pair(folder: Path, name: str, k: int) -> None:
    folder.mkdir(exist_ok=True)
    for half, frame in (("start", 0), ("end", 3)):
        Image.fromarray(square(k)[frame]).save(folder / f"{name}_{half}.png")


def interpolated(call, folder, out, *words):
    """The bytes of the video between the one pair."""
    size = ("--frames", "3", "--size", "32", "48", "--steps", "2")
    code, said = call("interpolate", "pairs", "--model", "framer/tiny", "--base", "base", "--out", out, *size, *words)
    assert code == 0, said
    return (folder / out / "a.mp4").read_bytes()


def seen(path):
    """The frames of a video, F H W 3."""
    facts = probe(path)
    return frames_at(path, facts.times, facts=facts).astype(float)


def losses(folder):
    events = read_events(Path(folder) / "events.jsonl")
    return [(e["kind"], e["step"], e["loss"]) for e in events if e["kind"] in ("step", "held_out")]


def kept(folder, step=3):
    return load_file(folder / "checkpoints" / f"step-{step:06d}" / "adapters.safetensors")


def opened(base):
    return opening.open_denoiser(str(base), TINY_TRACKS, "fp32")


def told(count=2):
    """Inputs of both networks, with maps."""
    denoiser = opening.open_denoiser("random", TINY_TRACKS, "fp32")
    latents = torch.randn(count, 4, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    return latents, torch.tensor([0.1, -0.3])[:count], denoiser.example(latents)


def answer(denoiser):
    x, t, conditions = told()
    with torch.no_grad():
        return denoiser.predict(x, t, conditions)


MODES = {
    "UNet LoRA": ({"unet": "lora", "controlnet": "frozen"}, {"unet_lora"}),
    "ControlNet in full": ({"unet": "frozen", "controlnet": "full"}, {"controlnet"}),
    "ControlNet LoRA": ({"unet": "frozen", "controlnet": "lora"}, {"controlnet_lora"}),
    "UNet in full": ({"unet": "full", "controlnet": "frozen"}, {"unet"}),
    "both LoRA": ({"unet": "lora", "controlnet": "lora"}, {"unet_lora", "controlnet_lora"}),
    "both": ({"unet": "lora", "controlnet": "full"}, {"unet_lora", "controlnet"}),
}


def sets_of(mode):
    return [word for part, how in MODES[mode][0].items() for word in ("--set", f"lora.parts.{part}={how}")]


@pytest.mark.parametrize("mode", MODES)
def test_what_trains_is_saved_proven_and_loads_elsewhere(call, tmp_path, mode):
    parts, folders = MODES[mode]
    code, said = call("train", "r.toml", *sets_of(mode))
    assert code == 0, said
    final, base = tmp_path / "run" / "final", tmp_path / "base"
    assert {path.name for path in final.iterdir()} == folders
    assert "proven: run/final loads" in said

    moved, bare = kept(tmp_path / "run"), opened(base)
    learning = {part for part, how in parts.items() if how != "frozen"}
    assert {name.split("/")[-1].partition(".")[0] for name in moved} == learning
    fresh = {f"{p}.{n}": w for p, module in bare.parts().items() for n, w in module.state_dict().items()}
    for name, tensor in moved.items():
        before = fresh.get(name.split("/")[-1])
        assert tensor.any() if before is None else not torch.equal(before, tensor), f"{name} has not moved"

    trained, merged = opened(base), opened(base)
    full = folders & {"unet", "controlnet"}
    if full:
        (tmp_path / "other").mkdir()  # the folder stands in for the base's own
        for part in ("unet", "controlnet"):
            (tmp_path / "other" / part).symlink_to((final if part in full else base) / part)
        for part in full:
            trained.parts()[part].load_state_dict(load_file(final / part / "diffusion_pytorch_model.safetensors"))
            setattr(merged, part, opened(tmp_path / "other").parts()[part])
    if folders - full:
        attach(trained.parts(), read_adapters(final))
    for part, net in list(merged.parts().items()):
        if f"{part}_lora" in folders:
            setattr(merged, part, PeftModel.from_pretrained(net, final / f"{part}_lora").merge_and_unload())
    wanted = answer(trained)
    assert not torch.allclose(answer(bare), wanted, atol=1e-3)
    check_card(tmp_path, folders)
    torch.testing.assert_close(answer(merged), wanted, rtol=1e-3, atol=1e-4)


def check_card(tmp_path, folders):
    """What goes to the Hub: the folders, and lines that load just these."""
    (tmp_path / "hub").mkdir()
    gather(read_run(tmp_path / "run"), tmp_path / "hub", repository="me/it")
    assert folders <= {path.name for path in (tmp_path / "hub").iterdir()}
    card = (tmp_path / "hub" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    ast.parse(code)
    assert set(re.findall(r'"me/it", subfolder="(\w+)"', code)) == folders
    assert f'"{tmp_path / "base"}", subfolder="unet"' in code or "unet" in folders
    assert ("A LoRA for framer/tiny-tracks" in card) == any(name.endswith("_lora") for name in folders)
    assert 'pipeline_tag: "image-to-video"' in card
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(f"final/{name}/" in page for name in folders)
    assert ("PeftModel.from_pretrained" in page) == any(name.endswith("_lora") for name in folders)


def test_both_parts_resume_exactly_and_interpolate(call, tmp_path):
    sets = sets_of("both")
    assert call("train", "r.toml", *sets, "--set", "run.folder=whole")[0] == 0
    assert call("train", "r.toml", *sets, "--set", "train.steps=2")[0] == 0
    code, said = call("train", "--resume", "run", "--set", "train.steps=3")
    assert code == 0, said
    wanted, found = (kept(tmp_path / name) for name in ("whole", "run"))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert [one for one in losses("run") if one[0] == "step"] == [one for one in losses("whole") if one[0] == "step"]

    pair(tmp_path / "pairs", "a", 0)
    write_tracks(tmp_path / "pairs" / "a_tracks.npz", TrackFile(np.array([[[6.0, 13.0]], [[21.0, 13.0]]]), SEEN))
    lora, control = ("--lora", "whole"), ("--controlnet", "whole")
    drawn = {interpolated(call, tmp_path, f"out{k}", *words) for k, words in enumerate(((), lora))}
    steered = [(), control, lora, (*lora, *control)]
    found = [
        interpolated(call, tmp_path, f"steered{k}", "--steer", "tracks", *words) for k, words in enumerate(steered)
    ]
    assert found[2] == found[3], "a run brings its ControlNet"
    drawn.update(found)
    assert len(drawn) == 5
    size = ("--frames", "3", "--size", "32", "48", "--steps", "2")
    for k, place in enumerate(("whole", "whole/adapter/r.diffusers.safetensors")):
        code, said = call("interpolate", "pairs", "--lora", place, "--out", f"own{k}", *size)
        assert code == 0, said
        assert (tmp_path / f"own{k}" / "a.mp4").read_bytes() in drawn, "model and base are the run's"


def test_a_part_in_full_learns_at_a_rate_of_its_own_and_goes_on_with_it(call, tmp_path):
    sets = [*sets_of("both"), "--set", "train.lr_full=1e-3"]
    assert call("train", "r.toml", *sets, "--set", "run.folder=whole")[0] == 0
    first, fresh = kept(tmp_path / "whole", step=1), opened(tmp_path / "base").controlnet.state_dict()
    moved = max(
        float((w - fresh[name.partition(".")[2]]).abs().max()) for name, w in first.items() if ".lora_" not in name
    )
    # The first step of Adam is as long as the rate, of B, which starts at zero, the other one.
    assert moved == pytest.approx(1e-3, rel=1e-2)
    assert max(float(w.abs().max()) for name, w in first.items() if "lora_B" in name) == pytest.approx(1e-2, rel=1e-2)
    assert call("train", "r.toml", *sets, "--set", "train.steps=2")[0] == 0
    code, said = call("train", "--resume", "run", "--set", "train.steps=3")
    assert code == 0, said
    wanted, found = (kept(tmp_path / name) for name in ("whole", "run"))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_unet_that_learned_in_full_draws_samples_and_interpolations(call, tmp_path):
    pair(tmp_path / "pairs", "a", 0)
    (tmp_path / "p.toml").write_text(RECIPE + PREVIEW)
    code, said = call(
        "train", "p.toml", *sets_of("UNet in full"), "--set", "model.motion_bucket=60", "--set", "train.lr=1e-3"
    )
    assert code == 0, said
    words = ("--prompt", "x", "--steps", "2", "--frames", "3", "--size", "32", "48")
    words += ("--image", "pairs/a_start.png", "--end-image", "pairs/a_end.png")
    code, said = call("sample", "run", *words, "--out", "drawn")
    assert code == 0, said
    before, after = (seen(tmp_path / "run" / "samples" / when / "00.mp4") for when in ("before", "step-000003"))
    # Rounding is not that of the trained network in memory, and grows on the way to a picture.
    assert abs(seen(tmp_path / "drawn" / "00.mp4") - after).mean() < 0.1 * abs(before - after).mean()
    code, said = call("sample", "run", *words, "--strength", "0.5")
    assert code == 2, said
    assert "strength has no effect on what learned in full" in said

    size = ("--frames", "3", "--size", "32", "48", "--steps", "2")
    drawn = {}
    for name, more in {"run": (), "final": (), "told": ("--motion", "60"), "other": ("--motion", "127")}.items():
        place = "run/final" if name == "final" else "run"
        code, said = call("interpolate", "pairs", "--lora", place, "--out", name, *size, *more)
        assert code == 0, said
        drawn[name] = (tmp_path / name / "a.mp4").read_bytes()
    assert drawn["run"] == drawn["final"] == drawn["told"] != drawn["other"], "the run's motion unless it is said"
    assert drawn["other"] != interpolated(call, tmp_path, "base_alone"), "the UNet is the run's"
    code, said = call("interpolate", "pairs", "--lora", "run", *size, "--strength", "0.5")
    assert code == 2, said
    assert "strength has no effect on what learned in full" in said


def test_a_controlnet_that_learned_is_steered_with_and_has_no_say_in_samples(call, tmp_path):
    pair(tmp_path / "pairs", "a", 0)
    write_tracks(tmp_path / "pairs" / "a_tracks.npz", TrackFile(np.array([[[6.0, 13.0]], [[21.0, 13.0]]]), SEEN))
    drawn = [interpolated(call, tmp_path, "base_alone", "--steer", "tracks")]
    words = ("--prompt", "x", "--image", "pairs/a_start.png", "--end-image", "pairs/a_end.png", "--steps", "1")
    for mode in ("ControlNet in full", "ControlNet LoRA"):
        name = mode.split()[-1]
        code, said = call("train", "r.toml", *sets_of(mode), "--set", f"run.folder={name}")
        assert code == 0, said
        drawn.append(interpolated(call, tmp_path, f"by_{name}", "--steer", "tracks", "--lora", name))
        code, said = call("sample", name, *words)
        assert code == 2, said
        assert "has no say in a sample" in said
        assert f"cinelora interpolate FOLDER --steer tracks --lora {name}" in said
        code, said = call("interpolate", "pairs", "--lora", name)
        assert code == 2, said
        assert "no say where nothing steers" in said
    assert len(set(drawn)) == 3
    named = interpolated(call, tmp_path, "named", "--steer", "tracks", "--controlnet", "full")
    assert named == drawn[1]


def test_a_unet_without_controlnet_learns_both_ways(call, tmp_path):
    code, said = call("train", "plain.toml", "--set", "run.folder=own")
    assert code == 0, said
    assert "no caption" not in said
    script = ("noise.compat=ddpm", "noise.prediction=eps", "noise.noise_offset=0.1")
    words = [word for one in script for word in ("--set", one)]
    code, said = call("train", "plain.toml", *words, "--set", "run.folder=script")
    assert code == 0, said
    assert {path.name for path in (tmp_path / "script" / "final").iterdir()} == {"unet_lora"}
    code, said = call("train", "plain.toml", *words, "--set", "train.steps=2")
    code, said = call("train", "--resume", "run", "--set", "train.steps=3")
    assert code == 0, said
    assert [one for one in losses("run") if one[0] == "step"] == [one for one in losses("script") if one[0] == "step"]
    assert losses("script") != losses("own")


def test_plain_svd_leaves_its_widened_unet_behind_and_a_new_controlnet_learns_in_full(call, tmp_path):
    framer_bases.write_svd(tmp_path / "svd", dict(TINY_TRACKS.network))
    code, said = call("train", "plain.toml", "--set", "model.base=svd")
    assert code == 0, said
    assert {path.name for path in (tmp_path / "run" / "final").iterdir()} == {"unet_lora", "unet"}
    written = load_file(tmp_path / "run" / "final" / "unet" / "diffusion_pytorch_model.safetensors")
    assert written["conv_in.weight"].shape[1] == 9
    assert not any("lora" in name or "base_layer" in name for name in written)
    again = opening.open_unet(str(tmp_path / "run" / "final"), TINY_TRACKS, torch.float32)
    theirs = load_file(tmp_path / "svd" / "unet" / "diffusion_pytorch_model.safetensors")
    own = again.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in theirs if name != "conv_in.weight")


REFUSED = {
    "a part that learns from tracks where there are none": (
        ["model.variant=tiny-tracks"], ["part 'controlnet' learns from tracks", "cinelora tracks FOLDER"],
    ),
    "tracks that nothing reads": (["data.source.0.track_suffix=_tracks"], ["reads no tracks"]),
    "text": (
        ["model.text_dropout=0.2", "data.source.0.trigger=sks", "data.source.0.caption_dropout=0.1"],
        ["model.text_dropout has no effect", "reads no text", "trigger has no effect", "caption_dropout has no effect"],
    ),
    "levels beside the script's": (["noise.compat=ddpm", "noise.p_mean=0.5"], ["noise.p_mean has no effect"]),
    "a new ControlNet by LoRA": (
        ["model.variant=svd-xt-tracks", "data.source.0.track_suffix=_tracks", "data.size=[64, 64]"],
        ["is new and begins by adding nothing", "'full'"],
    ),
    "fp16 on a CPU": (["train.precision=fp16"], ["fp16 training needs a GPU"]),
    "one frame": (["data.frames=[1]"], ["data.frames", "2"]),
    "a rate of parts in full where none does": (["train.lr_full=1e-5"], ["train.lr_full", "no part learns in full"]),
    "a rate of parts in full where all do": (
        ["train.lr_full=1e-5", "lora.parts.unet=full"], ["train.lr_full", "set train.lr instead"],
    ),
    "two rates of prodigy": (["train.lr_full=1e-5", "train.optimizer=prodigy", "train.lr=1"], ["train.lr_full"]),
    "motion of the script": (["model.motion_bucket=600"], ["model.motion_bucket", "511"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_told(call, tmp_path, case):
    settings, words = REFUSED[case]
    code, said = call("train", "plain.toml", *(word for one in settings for word in ("--set", one)))
    assert code == 2, said
    assert all(word in said for word in words), said
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_page_of_a_dataset_draws_tracks_and_misses_no_caption(call, tmp_path):
    code, said = call("check", "r.toml", "--report", "page")
    assert code == 0, said
    page = (tmp_path / "page" / "report.html").read_text()
    assert page.count('class="trail"') == 4
    assert page.count("1 track<") == 4
    assert "no caption" not in page
    assert "tokens" not in page.partition("<body")[2].partition("<script")[0]


def test_pairs_are_clips_of_two_frames_and_nothing_longer(call, tmp_path):
    for k, name in enumerate("abc"):
        pair(tmp_path / "pairs", name, k)
    words = ("--set", "data.source.0.path=pairs")
    code, said = call("train", "plain.toml", *words)
    assert code == 3, said
    assert "a pair is a clip of 2 frames" in said
    assert "add 2 to data.frames" in said
    code, said = call("train", "plain.toml", *words, "--set", "data.frames=[2]")
    assert code == 0, said


PREVIEW = """
[preview]
prompts = ["a square goes right"]
images = ["pairs/a_start.png"]
end_images = ["pairs/a_end.png"]
frames = 3
size = [32, 48]
num_steps = 2
"""


@pytest.mark.parametrize("recipe", [PLAIN, RECIPE], ids=["plain", "tracks"])
def test_previews_and_samples_go_from_a_picture_to_another(call, tmp_path, recipe):
    pair(tmp_path / "pairs", "a", 0)
    (tmp_path / "p.toml").write_text(recipe + PREVIEW)
    code, said = call("train", "p.toml", "--set", "model.motion_bucket=60")  # which samples are told, too
    assert code == 0, said
    before, after = (tmp_path / "run" / "samples" / when / "00.mp4" for when in ("before", "step-000003"))
    assert before.read_bytes() != after.read_bytes()
    words = ("--prompt", "x", "--steps", "2", "--frames", "3", "--size", "32", "48", "--image", "pairs/a_start.png")
    ends = ("--end-image", "pairs/a_end.png")
    code, said = call("sample", "run", *words, *ends, "--out", "drawn")
    assert code == 0, said
    assert (tmp_path / "drawn" / "00.mp4").read_bytes() == after.read_bytes()
    code, said = call("sample", "run", *words, *ends, "--guidance", "1", "--out", "unguided")
    assert code == 0, said
    assert (tmp_path / "unguided" / "00.mp4").read_bytes() != after.read_bytes(), "guidance has a say"
    code, said = call("sample", "run", *words, "--out", "lonely")
    assert code == 2, said
    assert "between two pictures" in said
    (tmp_path / "p.toml").write_text(recipe + PREVIEW.replace('end_images = ["pairs/a_end.png"]\n', ""))
    code, said = call("train", "p.toml", "--set", "run.folder=other")
    assert code == 2, said
    assert "preview.end_images" in said


def test_the_best_step_has_folders_of_its_own(call, tmp_path, monkeypatch):
    rising = itertools.count(1.0)
    monkeypatch.setattr(HeldOut, "score", lambda self, *words: Score(next(rising), {}))
    words = ("--set", "held_out.every_steps=1", "--set", "lora.parts.controlnet=full")
    code, said = call("train", "r.toml", *words)
    assert code == 0, said
    assert "proven: run/best loads" in said
    assert "proven: run/final loads" in said
    kinds = [{path.name for path in (tmp_path / "run" / name).iterdir()} for name in ("best", "final")]
    assert kinds == [{"unet_lora", "controlnet"}] * 2
    moved = kept(tmp_path / "run", step=1)
    first, last = (read_adapters(tmp_path / "run" / name).tensors for name in ("best", "final"))
    for name, tensor in first.items():
        assert torch.equal(tensor, moved[f"adapter/{name}" if f"adapter/{name}" in moved else name])
    assert not all(torch.equal(first[name], last[name]) for name in first)


def test_bf16_trains_a_bf16_base(call):
    code, said = call("train", "r.toml", "--set", "model.dtype=bf16", "--set", "train.precision=bf16")
    assert code == 0, said
    assert all(np.isfinite(one[2]) for one in losses("run"))


@pytest.mark.parametrize("mode", ["both LoRA", "both"])
def test_fp16_computes_scales_and_saves_as_on_a_gpu(call, tmp_path, monkeypatch, mode):
    """Its formats and the loss scaling, on a CPU that is told to try; a real run refuses that, as it is slow."""

    def half(options):
        place = open_place(options.model_copy(update={"precision": "fp32"}))
        place.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        place.accelerator.autocast = lambda: torch.autocast("cpu", dtype=torch.float16)
        return replace(place, precision="fp16")

    monkeypatch.setattr(train, "open_place", half)
    words = ("--set", "model.dtype=fp16", "--set", "train.precision=fp16", *sets_of(mode))
    formats = []
    predict = FramerDenoiser.predict
    monkeypatch.setattr(
        FramerDenoiser, "predict", lambda *given: formats.append(torch.get_autocast_dtype("cpu")) or predict(*given)
    )
    code, said = call("train", "r.toml", *words)
    assert code == 0, said
    assert set(formats) == {torch.float16}
    half_losses = [one[2] for one in losses("run")]
    assert np.isfinite(half_losses).all()
    assert "proven: run/final loads" in said
    assert all(torch.isfinite(w).all() and w.dtype == torch.float32 for w in kept(tmp_path / "run").values())
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    code, said = call("train", "r.toml", *sets_of(mode), "--set", "run.folder=exact")
    assert code == 0, said
    assert half_losses == pytest.approx([one[2] for one in losses("exact")], rel=2e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 needs a GPU")
def test_fp16_trains_on_a_gpu(call):
    words = ("--set", "train.device=cuda", "--set", "train.precision=fp16", "--set", "train.steps=6")
    code, said = call("train", "r.toml", *words)
    assert code == 0, said
    assert all(np.isfinite(one[2]) for one in losses("run"))


def test_figures_go_to_tensorboard(call, tmp_path):
    pytest.importorskip("tensorboard")
    code, said = call("train", "plain.toml", "--set", 'report.trackers=["tensorboard"]')
    assert code == 0, said
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    assert [e.step for e in found.Scalars("train/loss")] == [1, 2, 3]


def test_figures_go_to_wandb(call, tmp_path, monkeypatch):
    """Kept on the disk, as nothing outside is to be reached."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    code, said = call("train", "plain.toml", "--set", 'report.trackers=["wandb"]')
    assert code == 0, said
    (file,) = (tmp_path / "run").glob("wandb/offline-run-*/*.wandb")
    kept = file.read_bytes()
    assert b"train/loss" in kept
    assert all(repr(loss).encode() in kept for kind, _, loss in losses("run") if kind == "step")


@pytest.mark.slow
def test_two_processes_train_one_run(call, tmp_path):
    said = launched(tmp_path, "train", "r.toml", "--set", "train.steps=2", "--set", "lora.parts.controlnet=full")
    assert said.count("proven: run/final") == 1
    launched(tmp_path, "train", "--resume", "run", "--set", "train.steps=3")
    events = read_events(tmp_path / "run" / "events.jsonl")
    assert [e["step"] for e in events if e["kind"] == "step"] == [1, 2, 3]
    assert [e["world"] for e in events if e["kind"] in ("start", "resume")] == [2, 2]
