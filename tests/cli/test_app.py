"""The words of the command line, in process, on the fake family: what comes out, and which exit code."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from safetensors.torch import load_file

from cinelora.media.write import write_mp4
from cinelora.noise.registry import open_process
from cinelora.report.events import read_events

RECIPE = """
[model]
family = "fake"
variant = "tiny"
dtype = "fp32"
[data]
cache_dir = "cache"
[[data.source]]
path = "clips"
[lora]
rank = 2
[train]
steps = 4
micro_size = 2
lr = 1e-2
precision = "fp32"
gradient_checkpointing = false
save_every_steps = 2
device = "cpu"
[held_out]
every_steps = 2
[preview]
prompts = ["something"]
[run]
folder = "run"
"""


@pytest.fixture
def call(typed, tmp_path):
    """Run the command line in a folder with twelve clips and a recipe; gives back exit code and all that was said."""
    rng = np.random.default_rng(0)
    for k in range(12):
        pixels = rng.integers(0, 255, (9, 32, 32, 3)).astype(np.uint8)
        write_mp4(tmp_path / "clips" / f"{k:02d}.mp4", pixels, 8.0)
        (tmp_path / "clips" / f"{k:02d}.txt").write_text(f"clip number {k}")
    (tmp_path / "r.toml").write_text(RECIPE)
    return typed


def losses(path="run/events.jsonl"):
    from pathlib import Path

    return {e["step"]: e["loss"] for e in read_events(Path(path)) if e["kind"] == "step"}


def test_a_run_from_check_to_sample(call, tmp_path):
    code, said = call("check", "r.toml")
    assert (code, "11 clips to train on, 1 held out; no problem found" in said) == (0, True)
    code, said = call("cache", "r.toml")
    assert code == 0
    assert "26 made, 0 found" in said
    code, said = call("train", "r.toml")
    assert code == 0, said
    assert "0 made, 26 found" in said
    assert said.count("proven:") >= 2
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {
        "report.html",
        "recipe.toml",
        "events.jsonl",
        "data.json",
        "versions.json",
        "checkpoints",
        "adapter",
    } <= names
    kinds = [e["kind"] for e in read_events(tmp_path / "run" / "events.jsonl")]
    assert kinds[0] == "preview"
    assert kinds[-1] == "export"
    assert kinds.count("step") == 4
    code, said = call("sample", "run", "--prompt", "one", "--prompt", "two", "--out", "drawn")
    assert code == 0, said
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == ["00.mp4", "01.mp4", "sheet.png"]
    assert call("report", "run")[0] == 0


def test_strength_zero_draws_the_base(call, tmp_path):
    call("train", "r.toml")
    for name, strength in (("off", "0"), ("on", "1"), ("again", "1")):
        call("sample", "run", "--prompt", "x", "--out", name, "--strength", strength)
    off, on, again = ((tmp_path / n / "00.mp4").read_bytes() for n in ("off", "on", "again"))
    assert on == again
    assert on != off


def test_a_used_run_folder_is_refused_and_nothing_changes(call, tmp_path):
    call("train", "r.toml")
    before = (tmp_path / "run" / "events.jsonl").read_bytes()
    code, said = call("train", "r.toml")
    assert code == 1
    assert "already holds a run" in said
    assert "--resume run" in said
    assert (tmp_path / "run" / "events.jsonl").read_bytes() == before


def test_resume_goes_on_to_more_steps_as_if_never_stopped(call, tmp_path):
    call("train", "r.toml", "--set", "train.steps=8", "--set", "run.folder=whole")
    call("train", "r.toml", "--set", "train.steps=4", "--set", "run.folder=run")
    code, said = call("train", "--resume", "run", "--set", "train.steps=8")
    assert code == 0, said
    assert losses() == losses("whole/events.jsonl")
    adapters = [
        load_file(tmp_path / run / "checkpoints" / "step-000008" / "adapters.safetensors") for run in ("whole", "run")
    ]
    assert all((adapters[0][key] == adapters[1][key]).all() for key in adapters[0])


def test_resume_refuses_settings_that_make_it_another_run(call):
    call("train", "r.toml")
    code, said = call("train", "--resume", "run", "--set", "train.lr=1")
    assert code == 2
    assert "train.lr: was 0.01, now 1.0" in said
    assert call("train", "--resume", "nowhere")[0] == 1


def test_a_signal_saves_and_resume_goes_on(call, tmp_path, monkeypatch):
    call("train", "r.toml", "--set", "run.folder=whole")
    from cinelora.methods.finetune import Finetune

    loss, calls = Finetune.loss, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, *args)

    monkeypatch.setattr(Finetune, "loss", interrupted)
    code, said = call("train", "r.toml")
    monkeypatch.setattr(Finetune, "loss", loss)
    assert code == 130
    assert said.count("error:") == 0
    assert "stopped by a signal after step 3 of 4" in said
    assert (tmp_path / "run" / "checkpoints" / "step-000003").is_dir()
    assert call("train", "--resume", "run")[0] == 0
    assert losses() == losses("whole/events.jsonl")


def test_problems_of_a_recipe_come_before_anything_is_made(call, tmp_path):
    code, said = call("train", "r.toml", "--set", "train.stps=3", "--set", "data.frames=[16]")
    assert code == 2
    assert "did you mean" in said or "nearest: steps" in said
    code, said = call("train", "r.toml", "--set", "lora.targets=blocks.7.to_q")
    assert code == 2
    assert "to_q" in said
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def test_bad_clips_are_all_listed_in_one_go(call, tmp_path):
    (tmp_path / "clips" / "00.txt").unlink()
    (tmp_path / "clips" / "01.mp4").write_bytes(b"")
    (tmp_path / "clips" / "02.mp4").write_text("this is no video")
    (tmp_path / "clips" / "03.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "clips" / "04.txt").write_text("  \n")
    for verb in ("check", "train"):
        code, said = call(verb, "r.toml")
        assert code == 3
        for name in ("00", "01.mp4", "02.mp4", "03.txt", "04.mp4"):
            assert name in said, (verb, name, said)
    code, said = call("check", "r.toml", "--set", "data.on_bad=skip")
    assert code == 0
    assert "5 problems skipped" in said


def test_a_loss_that_is_not_finite_names_the_clips_and_stops(call, tmp_path, monkeypatch):
    from cinelora.families.fake.denoise import FakeDenoiser

    predict = FakeDenoiser.predict
    monkeypatch.setattr(FakeDenoiser, "predict", lambda self, *args: predict(self, *args) * float("nan"))
    (tmp_path / "r.toml").write_text(RECIPE[: RECIPE.index("[held_out]")] + '[run]\nfolder = "run2"\n')
    code, said = call("train", "r.toml")
    assert code == 1
    assert "not finite" in said
    assert "clips/" in said
    assert not (tmp_path / "run2" / "adapter").exists()


def test_a_place_that_cannot_be_written_is_told(call, tmp_path):
    (tmp_path / "blocked").write_text("a file")
    code, said = call("train", "r.toml", "--set", "run.folder=blocked/run")
    assert code == 1
    assert "cannot use the run folder" in said


def test_a_tracker_that_is_not_installed_is_told_before_anything_is_made(call, tmp_path, monkeypatch):
    from cinelora.report import trackers

    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    code, said = call("train", "r.toml", "--set", 'report.trackers=["wandb"]')
    assert code == 2
    assert "wandb, which is not installed" in said
    assert not (tmp_path / "cache").exists()


def test_trackers_forget_what_a_resume_makes_again(call, monkeypatch):
    from cinelora.commands import diary
    from cinelora.report.trackers import Trackers

    asked = []
    monkeypatch.setattr(diary, "open_trackers", lambda options, **k: asked.append(k) or Trackers([], k["folder"]))
    call("train", "r.toml")
    call("train", "--resume", "run", "--set", "train.steps=6")
    assert [k["resume_step"] for k in asked] == [None, 4]


def test_a_file_that_is_no_adapter(call, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"junk")
    code, said = call("sample", "x.safetensors", "--prompt", "x")
    assert code == 4
    assert "cannot read the adapter file" in said
    assert call("sample", "nowhere", "--prompt", "x")[0] == 1


def test_init_writes_a_recipe_that_checks(call, tmp_path):
    code, said = call("init", "fake/tiny", "-o", "new.toml")
    assert code == 0
    assert "next:" in said
    assert call("check", "new.toml")[0] == 0
    assert call("init", "fake/tiny", "-o", "new.toml")[0] == 1
    assert call("init", "fake")[0] == 2
    code, said = call("init", "wan/t2v-1.3b")
    assert code == 0
    assert "[model]" in said


def test_check_on_a_folder_and_families(call):
    code, said = call("check", "clips", "--model", "fake/tiny")
    assert code == 0
    assert "11 clips to train on" in said
    code, said = call("families")
    assert code == 0
    assert "wan/t2v-14b" in said
    assert "fake/" not in said


def test_the_cache_can_be_off_and_gives_the_same_numbers(call):
    call("train", "r.toml")
    cached = losses()
    assert call("train", "r.toml", "--set", "run.folder=live", "--set", "data.cache=off")[0] == 2  # cache_dir is dead
    shutil.copy("r.toml", "live.toml")
    from pathlib import Path

    Path("live.toml").write_text(RECIPE.replace('cache_dir = "cache"', 'cache = "off"').replace('"run"', '"live"'))
    assert call("train", "live.toml")[0] == 0
    assert losses("live/events.jsonl") == cached


def test_a_damaged_cache_entry_is_made_again(call, tmp_path):
    call("cache", "r.toml")
    entry = sorted((tmp_path / "cache").glob("*/*.safetensors"))[0]
    data = bytearray(entry.read_bytes())
    data[-1] ^= 255
    entry.write_bytes(bytes(data))
    code, said = call("cache", "r.toml")
    assert code == 0
    assert "1 rebuilt" in said


def test_a_best_step_that_is_not_the_last_gets_its_own_files(call, tmp_path, monkeypatch):
    from cinelora.train.held_out import HeldOut, Score

    seen = iter([5.0, 1.0, 3.0])
    monkeypatch.setattr(HeldOut, "score", lambda self, *a: Score(next(seen), {"0.5": 1.0}))
    assert call("train", "r.toml")[0] == 0
    names = sorted(p.name for p in (tmp_path / "run" / "adapter").iterdir())
    assert names == sorted(
        f"r{best}.{layout}.safetensors" for best in ("", ".best") for layout in ("comfyui", "diffusers")
    )
    best = load_file(tmp_path / "run" / "adapter" / "r.best.diffusers.safetensors")
    kept = load_file(tmp_path / "run" / "checkpoints" / "step-000002" / "adapters.safetensors")
    key = next(iter(kept))
    assert (best[key.removeprefix("adapter/")] == kept[key]).all()


def test_the_adapter_file_says_what_it_is(call, tmp_path):
    from safetensors import safe_open

    call("train", "r.toml")
    with safe_open(tmp_path / "run" / "adapter" / "r.diffusers.safetensors", "pt") as file:
        said = file.metadata()
    assert (said["family"], said["variant"], said["rank"], said["alpha"], said["steps"]) == (
        "fake",
        "tiny",
        "2",
        "2",
        "4",
    )
    assert "torch" in json.loads(said["versions"])
    assert "[train]" in said["recipe"]


def test_a_part_that_learns_in_full_is_written_and_loads_as_a_base(call, tmp_path):
    code, said = call("train", "r.toml", "--set", 'lora.parts.transformer="full"')
    assert code == 0, said
    assert not (tmp_path / "run" / "adapter").exists()
    written = load_file(tmp_path / "run" / "weights" / "r.transformer.safetensors")
    from cinelora.families.fake.card import CARD
    from cinelora.families.fake.denoise import open_denoiser

    base = open_denoiser("embedded", CARD.variants["tiny"], "fp32").net.state_dict()
    assert written.keys() == base.keys()
    assert any((written[key] != base[key]).any() for key in base)


def test_a_clip_that_cannot_be_encoded_leaves_the_plan_only_when_asked(call, tmp_path, monkeypatch):
    from cinelora.families.fake.encode import FakeVae

    moments = FakeVae._moments

    def spoilt(self, pixels):
        out = moments(self, pixels)
        return {k: v * float("nan") for k, v in out.items()} if spoilt.next() else out

    count = iter([True] + [False] * 100)
    spoilt.next = lambda: next(count)
    monkeypatch.setattr(FakeVae, "_moments", spoilt)
    code, said = call("train", "r.toml")
    assert code == 3
    assert "not finite" in said
    count = iter([True] + [False] * 100)
    shutil.rmtree("cache")
    shutil.rmtree("run")
    code, said = call("train", "r.toml", "--set", "data.on_bad=skip")
    assert code == 0, said
    rows = json.loads((tmp_path / "run" / "data.json").read_text())
    assert sum(row["status"] == "left out" for row in rows) == 1


def test_a_run_without_previews_and_held_out_clips_can_be_resumed(call, tmp_path):
    bare = RECIPE.replace('[preview]\nprompts = ["something"]\n', "").replace("[held_out]\nevery_steps = 2\n", "")
    (tmp_path / "r.toml").write_text(bare.replace("[data]", "[data]\nheld_out = 0.0"))
    assert call("train", "r.toml", "--set", "train.steps=2")[0] == 0
    code, said = call("train", "--resume", "run", "--set", "train.steps=4")
    assert code == 0, said
    assert max(losses()) == 4


def test_a_run_that_broke_off_before_its_first_step_leaves_the_folder_free(call, tmp_path, monkeypatch):
    from cinelora.base.errors import Problem, WeightsError
    from cinelora.families.fake import denoise

    def broken(*args):
        raise WeightsError(Problem("the base is broken"))

    whole = denoise.open_denoiser
    monkeypatch.setattr(denoise, "open_denoiser", broken)
    assert call("train", "r.toml")[0] == 4
    monkeypatch.setattr(denoise, "open_denoiser", whole)
    assert call("train", "r.toml")[0] == 0


def test_a_recipe_in_the_run_folder_is_not_written_over(call, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").write_text("mine")
    code, said = call("train", "r.toml")
    assert code == 1
    assert "over this one" in said
    assert (tmp_path / "run" / "recipe.toml").read_text() == "mine"


def test_a_resumed_run_may_skip_what_is_not_finite(call):
    call("train", "r.toml")
    assert call("train", "--resume", "run", "--set", "train.on_nonfinite=skip")[0] == 0


def test_check_refuses_what_is_not_there_and_words_without_effect(call):
    code, said = call("check", "clisp")
    assert code == 2
    assert "nearest: clips" in said
    assert call("check", "clips", "--set", "train.steps=3")[0] == 2
    assert call("check", "r.toml", "--model", "fake/tiny")[0] == 2
    code, said = call("check", "clips", "--model", "fak/tiny")
    assert code == 2
    assert "where: --model fak/tiny" in said


def test_check_tells_a_missing_source_together_with_bad_captions(call, tmp_path):
    (tmp_path / "clips" / "00.txt").unlink()
    (tmp_path / "r.toml").write_text(RECIPE.replace("[lora]", '[[data.source]]\npath = "nowhere"\n[lora]'))
    code, said = call("check", "r.toml")
    assert code == 3
    assert "the source is missing" in said
    assert "no caption file" in said


def test_targets_that_match_nothing_have_their_line(call, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.replace("rank = 2", 'rank = 2\ntargets = "nothing"'))
    code, said = call("check", "r.toml")
    assert code == 2
    assert "where: r.toml:12" in said


def test_report_is_refused_where_no_run_is(call, tmp_path):
    code, said = call("report", "clips")
    assert code == 1
    assert "holds no run" in said
    assert not (tmp_path / "clips" / "report.html").exists()


def test_ctrl_c_ends_with_a_word_and_its_own_exit_code(call, monkeypatch):
    from cinelora.data.cache import Cache

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Cache, "make", interrupted)
    code, said = call("cache", "r.toml")
    assert code == 130
    assert "interrupted" in said


def test_words_are_printed_as_they_stand(call, tmp_path):
    name = "[red] " + "long " * 30 + ".toml"
    _, said = call("init", "fake/tiny", "-o", name)
    assert " ".join(f"wrote {name}; next".split()) in said
    assert "[[data.source]]" in said


def test_a_damaged_run_is_told_with_the_file(call, tmp_path):
    call("train", "r.toml", "--set", "train.steps=1")
    (tmp_path / "run" / "origin.json").write_text("x")
    code, said = call("train", "--resume", "run")
    assert code == 1
    assert "where: run/origin.json" in said


def test_sample_takes_size_frames_and_the_adapters_own_shift(call, tmp_path, monkeypatch):
    from cinelora.commands import sample as verb

    call("train", "r.toml", "--set", "noise.shift=4.0")
    seen = []
    monkeypatch.setattr(verb, "open_process", lambda options: (seen.append(options.shift), open_process(options))[1])
    words = ("--prompt", "x", "--out", "drawn", "--frames", "5", "--size", "32", "48")
    code, said = call("sample", "run", *words)
    assert code == 0, said
    assert seen == [4.0]
    from cinelora.media.probe import probe

    facts = probe(tmp_path / "drawn" / "00.mp4")
    assert (facts.frames, facts.height, facts.width) == (5, 32, 48)
    code, said = call("sample", "run", *words[:4], "--frames", "6")
    assert code == 2
    assert "5 or 9" in said


def test_resume_to_fewer_steps_than_are_made_is_refused(call):
    call("train", "r.toml")
    code, said = call("train", "--resume", "run", "--set", "train.steps=2")
    assert code == 1
    assert "4 made, 2 wanted" in said
