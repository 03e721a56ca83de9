"""`check --report`: what it writes, what it says, and that without it nothing is looked into."""

import csv
import json
import shutil

import numpy as np
import pytest

import cinelora.commands.data_report as room
from cinelora.base.errors import Problem, WeightsError
from cinelora.families.fake.encode import FakeText
from media.makers import SHARED_CLIPS, encode

RECIPE = """
[model]
family = "fake"
variant = "tiny"
[data]
on_bad = "skip"
[[data.source]]
path = "clips"
[train]
steps = 1
device = "cpu"
"""


def moving(count, seed=0, side=48):
    wide = np.kron(np.random.default_rng(seed).integers(0, 255, (12, 60, 1)), np.ones((4, 4, 3)))
    return np.stack([wide[:, k : k + side] for k in range(count)]).astype(np.uint8)


def clip(folder, name, pixels, caption="a red ball", **words):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_text(caption)
    return encode(folder / f"{name}.mp4", pixels, **words)


@pytest.fixture
def call(typed):
    """Run `cinelora check` in the test's folder; gives back exit code and all that was said."""
    return lambda *words: typed("check", *words)


@pytest.fixture
def clips(tmp_path):
    """One good clip, its exact and its smaller copy, one black, one cut, one broken."""
    folder = tmp_path / "clips"
    good = clip(folder, "a", moving(20), "a red ball <b>rolls</b>")
    shutil.copy(good, folder / "a2.mp4")
    (folder / "a2.txt").write_text("again")
    clip(folder, "b", np.zeros((20, 48, 48, 3), np.uint8))
    clip(folder, "c", moving(20), settings={"crf": "32"})
    clip(folder, "d", np.concatenate([moving(4, seed=1), moving(16, seed=2)]))
    clip(folder, "e", moving(20, seed=3))
    (folder / "e.mp4").write_bytes((folder / "e.mp4").read_bytes()[:500])
    return folder


def problems(folder="rep"):
    with open(f"{folder}/problems.csv", encoding="utf-8", newline="") as file:
        return [(row["key"], row["kind"], row["what"]) for row in csv.DictReader(file)]


def test_the_full_look_tells_everything_at_once(call, clips, tmp_path):
    code, said = call("clips", "--model", "fake/tiny", "--report", "rep")
    assert code == 3
    assert (
        said.index("report: rep/report.html") > said.index("to work through: rep/problems.csv") > said.index("buckets")
    )
    assert "warning: 2 clips are the same file" in said
    assert sorted(path.name for path in (tmp_path / "rep").iterdir()) == ["clips.json", "problems.csv", "report.html"]
    assert problems() == [
        ("clips/e.mp4", "error", "cannot be decoded as a video"),
        ("clips/a.mp4", "warning", "the same file as"),
        ("clips/a2.mp4", "warning", "the same file as"),
        ("clips/b.mp4", "warning", "black"),
        ("clips/c.mp4", "warning", "looks like another clip"),
        ("clips/d.mp4", "warning", "the scene changes"),
    ]
    text = (tmp_path / "rep" / "report.html").read_text(encoding="utf-8")
    assert text.count('src="data:image/webp;base64,') == 5
    assert "a red ball &lt;b&gt;rolls&lt;/b&gt;" in text
    entries = {entry["key"]: entry for entry in json.loads((tmp_path / "rep" / "clips.json").read_text())}
    assert entries["clips/d.mp4"]["cuts"] == [0.5]
    assert entries["clips/c.mp4"]["like"] == "clips/a.mp4"
    assert entries["clips/a.mp4"]["captions"] == ["a red ball <b>rolls</b>"]
    assert len(entries["clips/a.mp4"]["tokens"]) == 1


def test_without_a_report_no_clip_is_looked_into(call, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "write_report", None)
    before = sorted(tmp_path.rglob("*"))
    code, said = call("clips", "--model", "fake/tiny")
    assert code == 3
    assert "report:" not in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_recipe_that_skips_what_is_bad_ends_well(call, clips, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)
    code, said = call("r.toml", "--report", "rep")
    assert code == 0
    assert "5 clips to train on, 0 held out; 1 problems skipped" in said
    assert "Training would not start" not in (tmp_path / "rep" / "report.html").read_text()


@pytest.mark.parametrize("on_bad", ["stop", "skip"])
def test_short_clips_that_stop_are_told_with_all_that_is_bad(call, clips, tmp_path, on_bad):
    clip(clips, "f", moving(5))
    recipe = RECIPE.replace('on_bad = "skip"', f'on_bad = "{on_bad}"\nshort = "stop"')
    (tmp_path / "my.toml").write_text(recipe)
    code, said = call("my.toml", "--report", "rep")
    assert code == 3
    assert said.index("buckets") < said.index("shorter than every frame bucket")
    assert ("2 problems" in said) == (on_bad == "stop")
    errors = [(key, what) for key, kind, what in problems() if kind == "error"]
    assert errors == [
        ("clips/e.mp4", "cannot be decoded as a video"),
        ("clips/f.mp4", "shorter than every frame bucket"),
    ]
    assert "Training would not start" in (tmp_path / "rep" / "report.html").read_text()


def test_damage_that_only_the_full_look_finds_ends_with_an_error(call, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3)).astype(np.uint8)
    path = clip(tmp_path / "clips", "a", noise, settings={"g": "40", "bf": "0"})
    clip(tmp_path / "clips", "b", moving(20))
    data = bytearray(path.read_bytes())
    start = data.find(b"mdat") + 8
    place = start + (len(data) - start) // 20  # within the second frame
    data[place : place + 3000] = b"\xff" * 3000
    path.write_bytes(data)
    assert call("clips", "--model", "fake/tiny")[0] == 0
    code, said = call("clips", "--model", "fake/tiny", "--report", "rep")
    assert code == 3
    assert "error: is damaged" in said
    assert problems()[0] == ("clips/a.mp4", "error", "is damaged")


def test_a_dataset_without_one_good_clip_has_a_page_too(call, tmp_path):
    path = clip(tmp_path / "clips", "a", moving(20))
    path.write_bytes(path.read_bytes()[:500])
    code, said = call("clips", "--model", "fake/tiny", "--report", "rep")
    assert code == 3
    assert "cannot be decoded as a video" in said
    assert problems() == [("clips/a.mp4", "error", "cannot be decoded as a video")]
    assert "Training would not start: 1 error. 0 clips" in (tmp_path / "rep" / "report.html").read_text()


def test_the_folder_of_a_run_keeps_its_report(call, clips, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.jsonl").write_text("")
    code, said = call("clips", "--model", "fake/tiny", "--report", "run")
    assert code == 1
    assert "this folder holds a run" in said
    assert not (tmp_path / "run" / "report.html").exists()


def test_pictures_of_many_clips_are_files_and_old_ones_go(call, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "MOST_INSIDE", 3)
    (tmp_path / "rep" / "strips").mkdir(parents=True)
    (tmp_path / "rep" / "strips" / "000099.webp").write_bytes(b"old")
    call("clips", "--model", "fake/tiny", "--report", "rep")
    files = sorted((tmp_path / "rep" / "strips").iterdir())
    assert [path.name for path in files] == [f"{k:06d}.webp" for k in range(1, 6)]
    assert all(path.read_bytes()[8:12] == b"WEBP" for path in files)
    text = (tmp_path / "rep" / "report.html").read_text()
    assert text.count('src="strips/00000') == 5
    assert "data:image" not in text


def test_tokens_that_cannot_be_counted_are_said_once_and_stop_nothing(call, clips, tmp_path, monkeypatch):
    def refuse(self, captions):
        raise WeightsError(Problem("the base has no tokenizer", found="some/base"))

    monkeypatch.setattr(FakeText, "tokens", refuse)
    call("clips", "--model", "fake/tiny", "--report", "rep")
    text = (tmp_path / "rep" / "report.html").read_text()
    assert text.count("tokens not counted: the base has no tokenizer: some/base") == 1


def test_captions_beyond_what_the_encoder_reads_are_warnings(call, tmp_path):
    clip(tmp_path / "clips", "a", moving(20), "word " * (3 * FakeText.max_tokens))
    clip(tmp_path / "clips", "b", moving(20, seed=1), "word")
    call("clips", "--model", "fake/tiny", "--report", "rep")
    assert problems() == [("clips/a.mp4", "warning", "the caption is longer than the text encoder reads")]


@pytest.mark.skipif(not SHARED_CLIPS.is_dir(), reason="the shared clips are not here")
def test_nine_real_clips_give_nothing_to_warn_of(call, tmp_path):
    (tmp_path / "clips").mkdir()
    for path in SHARED_CLIPS.glob("*.mp4"):
        (tmp_path / "clips" / path.name).symlink_to(path)
        (tmp_path / "clips" / f"{path.stem}.txt").write_text("a clip")
    code, said = call("clips", "--model", "fake/tiny", "--report", "rep")
    assert code == 0
    assert "9 clips to train on" in said
    assert problems() == []
    assert (tmp_path / "rep" / "report.html").stat().st_size < 9 * 13_000 + 60_000


def test_what_the_rules_leave_out_and_make_many_of_is_counted(call, tmp_path):
    clip(tmp_path / "clips", "a", moving(20))
    clip(tmp_path / "clips", "b", moving(5, seed=1))
    (tmp_path / "my.toml").write_text(RECIPE.replace("[data]", '[data]\nclip = "chunks"\nframes = [9]\nshort = "skip"'))
    assert "2 clips to train on (made of 1 entries), 0 held out; no problem found; 1 left out" in call("my.toml")[1]


def test_a_report_that_cannot_be_written_is_refused_before_clips_are_looked_into(call, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "write_report", None)
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/deeper"):
        code, said = call("clips", "--model", "fake/tiny", "--report", place)
        assert (code, "the report cannot be written there" in said, "buckets" in said) == (1, True, False)


def test_masks_are_looked_into_for_the_report(call, tmp_path):
    clip(tmp_path / "clips", "a", moving(20))
    encode(tmp_path / "clips" / "a_mask.mp4", np.zeros((20, 48, 48, 3), np.uint8))
    (tmp_path / "my.toml").write_text(RECIPE.replace('path = "clips"', 'path = "clips"\nmask_suffix = "_mask"'))
    assert "the mask leaves nothing to learn" not in call("my.toml")[1]
    call("my.toml", "--report", "rep")
    assert ("clips/a.mp4", "error", "the mask leaves nothing to learn") in problems()
