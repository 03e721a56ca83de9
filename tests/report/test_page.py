import base64
import hashlib
import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

from cinelora.base.errors import RecipeError, RunError
from cinelora.report.events import Events
from cinelora.report.page import duration, write_page
from report.parsed import Page

HOSTILE = "</style><script>alert('x')</script><img src=http://evil.example/x onerror=\"alert(1)\"> & 'so' on"


def make_run(folder, *, steps=60, prompts=("a zorb on gray", HOSTILE), ended=True):
    """A run folder as a training leaves it; mp4 files are any bytes, since the page does not look inside."""
    folder.mkdir(parents=True)
    events = Events(folder / "events.jsonl")
    events.tell("start", steps=steps, step=0, family="wan", variant="tiny", trained_parameters=221184)
    for step in range(steps + 1):
        if step % 20 == 0:
            loss = 1.0 - 0.5 * step / steps
            events.tell("held_out", step=step, loss=loss, by_quantile={"0.25": loss / 2, "0.75": 2 * loss})
        if step:
            events.tell(
                "step",
                step=step,
                loss=2 / step,
                lr=1e-4,
                grad_norm=1.0,
                seconds=0.1,
                clips_per_second=20.0,
                data_wait_share=0.25,
            )
    if ended:
        events.tell("end", step=steps)
    for name in ("before", "step-000020", "step-000060"):
        (folder / "samples" / name).mkdir(parents=True)
        for k in range(len(prompts)):
            (folder / "samples" / name / f"{k:02d}.mp4").write_bytes(f"{name} {k}\n".encode() * 100)
    (folder / "samples" / "prompts.json").write_text(json.dumps(prompts))
    used = {"width": 64, "height": 64, "frames": 20, "fps": 8.0, "seconds": 2.5, "bucket": "17x64x64"}
    clip = {"source": "s", "kind": "video", "status": "used", "frames_used": 17, "frames_lost": 3, "scale": 1.0, **used}
    bad = {"key": HOSTILE, "where": HOSTILE, "source": "s", "kind": "video", "status": "left out", "reason": HOSTILE}
    (folder / "data.json").write_text(json.dumps([{"key": f"s/{k}.mp4", **clip} for k in range(40)] + [bad]))
    (folder / "versions.json").write_text(json.dumps({"torch": "2.13.0", HOSTILE: HOSTILE}))
    quoted = json.dumps(HOSTILE)
    recipe = f'[model]\nfamily = "wan"\nbase = {quoted}\n[lora]\nrank = 8\n[preview]\nprompts = [{quoted}]\n'
    (folder / "recipe.toml").write_text(recipe)
    (folder / "adapter").mkdir()
    weights = np.zeros((8, 4), np.float32)
    facts = {"rank": "8", "steps": "60", "base": HOSTILE}
    save_file({"transformer.blocks.0.attn1.to_q.lora_A.weight": weights}, folder / "adapter/a.safetensors", facts)
    save_file({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": weights}, folder / "adapter/a-comfyui.safetensors")
    scores = [{"name": HOSTILE, "before": 0.0, "after": HOSTILE, "want": "≥ 0.3", "passed": True}]
    scores.append({"name": "kept", "before": 0.97, "after": 0.8, "want": "drop ≤ 0.1", "passed": False})
    (folder / "demo.json").write_text(json.dumps({"title": HOSTILE, "text": HOSTILE, "rows": scores}))
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_page(make_run(tmp_path_factory.mktemp("runs") / "my <run>")).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_nothing_is_fetched_from_elsewhere(page, text):
    wanted = [
        a[key] for _, a in page.elements for key in ("src", "href", "poster", "srcset", "action", "data") if key in a
    ]
    assert wanted
    assert all(source.startswith("data:video/mp4;base64,") for source in wanted)
    styles = "".join(re.findall(r"<style>(.*?)</style>", text, re.S)) + "".join(
        a.get("style") or "" for _, a in page.elements
    )
    assert "url(" not in styles
    assert "@import" not in styles
    assert not page.all("link")
    assert not page.all("img")


def test_the_only_script_is_the_projects_own_and_allowed_by_its_hash(page, text):
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert len(scripts) == len(page.all("script")) == 1
    assert "alert" not in scripts[0]
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv"))
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not any(name.startswith("on") for _, a in page.elements for name in a)


def test_hostile_words_arrive_as_words(page):
    assert page.text.count("<script>alert('x')</script>") >= 8
    assert page.all("h1") == [{}]
    assert "my <run>" in page.text
    assert any(a.get("aria-label", "").endswith(HOSTILE) for a in page.all("video"))


def test_videos_carry_their_bytes_before_left_of_after(page):
    carried = [base64.b64decode(a["src"].partition(",")[2]).decode().split("\n")[0] for a in page.all("video")]
    each = [[f"before {k}", f"step-000060 {k}", f"step-000020 {k}"] for k in (0, 1)]
    assert carried == each[0] + each[1]
    for attributes in page.all("video"):
        assert {"autoplay", "loop", "muted", "playsinline", "controls"} <= set(attributes)
    for said in ("a zorb on gray", "after 60 steps", "after 20 steps", "1 in between"):
        assert said in page.text


def test_figures_and_verdict_are_there(page):
    for said in (
        "Held-out loss 1 → 0.5 at step 60, 50% lower.",
        "LoRA for wan/tiny, rank 8, 221,184 trained parameters, 40 clips",
        "median step, 25% waiting for data",
        "of 60",
        "finished",
        "41 clips: 40 used, 1 left out. 680 of 800 source frames are seen (85%).",
        "25 more clips, 25 of them with something to tell",
        "2.13.0",
        "not passed",
        "then the node LoraLoaderModelOnly",
        "pipe.load_lora_weights('adapter', weight_name='a.safetensors')",
    ):
        assert said in page.text, said


def test_curves_are_drawn_with_ticks_for_wide_and_narrow_screens(page):
    pictures = page.all("svg")
    assert [p["class"] for p in pictures] == ["wide", "narrow"] * 3
    assert pictures[0]["aria-label"].startswith("Loss: training, each step 0.03333 at step 60")
    assert sum(a.get("class") == "held" for a in page.all("path")) == 2
    assert "best 0.5" in page.text
    assert "optimizer step" in page.text
    assert [a for a in page.all("text") if a.get("class") == "left"]


def test_phones_and_dark_screens_are_thought_of(page, text):
    assert any(a.get("name") == "viewport" and "width=device-width" in a["content"] for a in page.all("meta"))
    assert "prefers-color-scheme: dark" in text
    assert "max-width: 700px" in text


def test_a_new_folder_says_that_nothing_has_happened(tmp_path):
    (tmp_path / "run").mkdir()
    page = Page(write_page(tmp_path / "run").read_text(encoding="utf-8"))
    for said in ("not started", "there is no recipe.toml yet", "No adapter has been written yet."):
        assert said in page.text
    assert not page.all("svg")
    assert not page.all("video")


def test_a_run_that_goes_on_says_so_and_tells_a_torn_line(tmp_path):
    run = make_run(tmp_path / "run", ended=False)
    with (run / "events.jsonl").open("ab") as file:
        file.write(b'{"kind":"st')
    page = Page(write_page(run).read_text(encoding="utf-8"))
    assert "unfinished" in page.text
    assert "the last line is torn (11 bytes)" in page.text


def test_videos_beyond_the_limit_are_played_from_beside_the_page(tmp_path):
    run = make_run(tmp_path / "run")
    one = len(b"before 0\n" * 100) * 4 / 3 + len(b"step-000060 0\n" * 100) * 4 / 3 + 1
    (run / "recipe.toml").write_text(f"[report]\nembed_videos_mb = {one / 1e6}\n")
    page = Page(write_page(run).read_text(encoding="utf-8"))
    sources = [a["src"] for a in page.all("video")]
    assert [s.startswith("data:") for s in sources] == [True, True, False, False, False, False]
    assert sources[2:4] == ["samples/step-000020/00.mp4", "samples/before/01.mp4"]
    assert all((run / s).exists() for s in sources[2:])
    assert "4 videos are beyond report.embed_videos_mb" in page.text


def test_a_missing_counterpart_and_a_missing_prompt_are_said(tmp_path):
    run = make_run(tmp_path / "run", prompts=("only one",))
    (run / "samples" / "step-000060" / "07.mp4").write_bytes(b"x")
    (run / "samples" / "before" / "first.mp4").write_bytes(b"x")
    page = Page(write_page(run).read_text(encoding="utf-8"))
    for said in (
        "not sampled",
        "clip 7 (its prompt is not written down)",
        "samples/before/first.mp4 is not named by a number",
    ):
        assert said in page.text


def test_seeds_are_shown_where_a_prompt_comes_twice_and_never_asked_of_the_shell(tmp_path):
    run = make_run(tmp_path / "run", prompts=("x", "x", "x"))
    asked = [{"prompt": "it's a cat", "seed": 4}, {"prompt": "it's a cat", "seed": 5}, {"prompt": "a dog", "seed": 4}]
    (run / "samples" / "prompts.json").write_text(json.dumps(asked))
    page = Page(write_page(run).read_text(encoding="utf-8"))
    assert "it's a cat (seed 5)" in page.words
    assert "a dog" in page.words
    assert "cinelora sample 'adapter/a.safetensors' --prompt 'it'\\''s a cat'" in page.words


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("recipe.toml", b"[model", "recipe.toml of the run is damaged"),
        ("recipe.toml", b"\xff = 1", "recipe.toml of the run is damaged"),
        ("data.json", b"[{]", "data.json of the run is damaged"),
        ("data.json", b"{}", "a dict, where a list should stand"),
        ("data.json", b"[1]", "entry 0 is a int"),
        ("versions.json", b"[]", "a list, where a dict should stand"),
        ("events.jsonl", b"what\n", "the run's diary is damaged"),
        ("adapter/a.safetensors", b"what", "a.safetensors of the run is damaged"),
    ],
)
def test_damaged_files_are_named_and_no_page_is_written(tmp_path, name, content, told):
    run = make_run(tmp_path / "run")
    (run / name).write_bytes(content)
    with pytest.raises(RunError, match=told):
        write_page(run)
    assert not (run / "report.html").exists()


def test_a_report_section_that_cannot_be_is_a_recipe_error(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "recipe.toml").write_text("[report]\nembed = 3\n")
    with pytest.raises(RecipeError, match=r"\[report\] cannot be read"):
        write_page(run)


def test_no_folder_is_told(tmp_path):
    with pytest.raises(RunError, match="no such run folder"):
        write_page(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.2 s"),
        (42.4, "42 s"),
        (59.6, "1 min 0 s"),
        (151, "2 min 31 s"),
        (3599.7, "1 h 0 min"),
        (7260, "2 h 1 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
