"""The page of a dataset, problems.csv and clips.json: what they say, and that no word of a dataset becomes more."""

import base64
import csv
import hashlib
import io
import json
import re

import pytest

from cinelora.report.data_page import MOST_CARDS, DataFacts, cell, data_text, problems_csv, write_data_page
from report.parsed import Page

HOSTILE = (
    "</style><script>alert('x')</script><img src=http://evil.example/x onerror=\"alert(1)\"> & 'so' \x00\x1b[31m \u202e"
)
IMAGE = "data:image/webp;base64,UklGRg=="


def task(kind="warning", what="black", found="", do="remove it", key="s/a.mp4", file="a.mp4"):
    return {"key": key, "file": file, "kind": kind, "what": what, "found": found, "do": do}


def entry(key="s/a.mp4", status="used", *tasks, **more):
    facts = {"width": 720, "height": 480, "frames": 49, "fps": 8.0, "seconds": 6.125, "kind": "video", "source": "s"}
    used = {"bucket": "17x48x80", "frames_used": 17, "frames_lost": 32, "scale": 0.111, "clip_fps": 8.0, "speed": 1.0}
    strip = {
        "image": IMAGE,
        "width": 648,
        "height": 72,
        "times": [0.5 + k for k in range(6)],
        "used": [True] * 2 + [False] * 4,
    }
    seen = {"strip": strip, "stretch": [0.0, 2.0], "cuts": [], "crop": [0, 24, 720, 456]}
    words = {"captions": ["a kitten"], "tokens": [4], "tasks": [{**one, "key": key} for one in tasks]}
    return {"key": key, "where": f"/x/{key}", "status": status, **facts, **used, **seen, **words, **more}


def left_out(key="s/bad.mp4"):
    tasks = [task("error", "media file is empty", "0 bytes", "get it again", key=key)]
    return {"key": key, "where": key, "status": "left out", "reason": "media file is empty: 0 bytes", "tasks": tasks}


def dataset(*entries, **more):
    return DataFacts("clips", "for wan/tiny", entries, **more)


def page(*entries, **more):
    return Page(data_text(dataset(*entries, **more)))


def test_tracks_are_drawn_over_the_strip_and_counted():
    lines = [[[(0.25, 0.5), (0.5, 0.5)]], [[(0.5, 0.25)], [(1.0, 1.0), (0.0, 0.5)]], [], [], [], []]
    html = data_text(dataset(entry(tracks={"count": 12, "pictures": lines})))
    assert "12 tracks" in html
    assert 'class="trail"' in html
    assert re.findall(r'<circle cx="([0-9.]+)" cy="([0-9.]+)"', html) == [
        ("54.0", "36.0"),
        ("162.0", "18.0"),
        ("108.0", "36.0"),
    ]
    assert "M27.0 36.0L54.0 36.0M216.0 72.0L108.0 36.0" in html
    none = data_text(dataset(entry(tracks={"count": 0, "pictures": [[]] * 6})))
    assert "0 tracks" in none
    assert 'class="trail"' not in none
    assert " track" not in page(entry()).text


def test_a_clip_is_told_from_source_to_target():
    told = page(entry(), token_limit=512).text
    for said in (
        "720 × 480, 49 frames, 8 fps, 6.1 s → 17 × 48 × 80 at 8 fps, scaled 0.11 times",
        "17 of 49 frames are seen, from 0.0 s to 2.0 s",
        "a kitten 4 tokens",
        "1 clip to train on, nothing to warn of.",
        "frames seen35%",
        "longest caption, tokens4of 512 that are read; 0 captions cut",
        "no problem found",
    ):
        assert said in told, said


def test_more_of_a_target_is_told_where_there_is_more():
    more = entry(num_slots=6, repeats=2, speed=1.5, buckets=["17x48x80", "5x48x80", "9x48x80"])
    said = "17 × 48 × 80 at 8 fps, 2 more buckets, 6 clips, counts 2 times, 1.50 times as fast"
    assert said in page(more).text


def test_errors_come_first_then_warnings_then_the_others():
    found = page(entry("s/fine"), entry("s/warned", "used", task()), left_out())
    assert [a["data-kind"] for a in found.all("article")] == ["error", "warning", "fine"]
    assert "Training would not start: 1 error. 2 clips to train on without them." in found.text
    assert "media file is empty: 0 bytesget it again" in found.text
    skipping = page(entry(), left_out(), stops=False)
    assert "1 clip to train on, 1 error left out, nothing to warn of." in skipping.text


def test_the_crop_is_a_hole_in_the_shade_of_pictures_that_are_used():
    found = page(entry())
    assert found.all("svg")[0]["viewbox"] == "0 0 648 72"
    shade = found.all("path", **{"class": "shade"})[0]
    holes = re.findall(r"M([\d.]+) ([\d.]+)H([\d.]+)V([\d.]+)H", shade["d"])
    # 24 of 480 rows are cut away above and below: 3.6 of 72; two of six pictures are used, 108 wide.
    assert [tuple(map(float, hole)) for hole in holes] == [
        (0.0, 0.0, 648.0, 72.0),
        (0.0, 3.6, 108.0, 68.4),
        (108.0, 3.6, 216.0, 68.4),
    ]
    assert shade["fill-rule"] == "evenodd"
    assert len(found.all("path", **{"class": "crop"})) == 1


def test_no_line_is_drawn_around_a_whole_picture():
    assert page(entry(crop=[0, 0, 720, 480])).all("path", **{"class": "crop"}) == []
    assert page(entry(crop=None)).all("path", **{"class": "crop"}) == []
    assert page(entry(crop=[-5, "x", None, 3])).all("path", **{"class": "crop"}) == []


def test_buckets_tell_the_share_of_frames_that_is_seen():
    found = page(entry("a"), entry("b", bucket="1x48x80", frames_used=1, frames_lost=0))
    assert [a["data-label"] for a in found.all("td", **{"data-label": "seen"})] == ["seen", "seen"]
    assert "35%" in found.words
    assert "100%" in found.words


def test_captions_that_are_cut_say_by_how_much_and_further_ones_fold():
    found = page(entry(captions=["one", "two", "three"], tokens=[40, 9, 33]), token_limit=32)
    for said in (
        "40 tokens, the last 8 cut off",
        "2 further captions",
        "33 tokens, the last 1 cut off",
        "2 captions cut",
    ):
        assert said in found.text, said
    assert len(found.all("details")) == 1


def test_tokens_that_were_not_counted_are_a_note_said_once():
    found = page(entry(tokens=[]), entry("b", tokens=[]), notes=["tokens not counted: the base has no tokenizer"])
    assert found.text.count("tokens not counted") == 1
    assert "longest caption" not in found.text


def test_warnings_of_the_whole_stand_above_the_clips():
    found = page(entry(), warnings=["only pictures: the model will not learn motion"])
    assert found.text.index("only pictures") < found.text.index("s/a.mp4")


def test_hostile_words_arrive_as_words():
    bad = entry(
        HOSTILE, "used", task(what=HOSTILE, found=HOSTILE, do=HOSTILE), captions=[HOSTILE, HOSTILE], where=HOSTILE
    )
    data = DataFacts(HOSTILE, HOSTILE, [bad], notes=[HOSTILE], warnings=[HOSTILE])
    found = Page(data_text(data))
    assert found.text.count("<script>alert('x')</script>") >= 9
    assert len(found.all("script")) == 1
    assert [a["src"] for a in found.all("img")] == [IMAGE]
    assert not any(name.startswith("on") for _, a in found.elements for name in a)


def test_the_only_script_is_allowed_by_its_hash_and_pictures_come_from_here_alone():
    text = data_text(dataset(entry(), entry("b")))
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = Page(text).all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "img-src data: file: 'self';" in policy
    assert "http" not in policy


@pytest.mark.parametrize(
    "image", ["http://evil.example/x.webp", "javascript:1", "strips/../x.webp", "data:text/html,x", ""]
)
def test_a_strip_from_elsewhere_is_refused(image):
    strip = {**entry()["strip"], "image": image}
    with pytest.raises(ValueError, match="a strip lies in the page or in strips/"):
        page(entry(strip=strip))


def test_strips_beside_the_page_are_named_in_the_page_and_in_the_table(tmp_path):
    strip = {**entry()["strip"], "image": "strips/000001.webp"}
    write_data_page(tmp_path, dataset(entry(strip=strip)))
    assert Page((tmp_path / "report.html").read_text()).all("img")[0]["src"] == "strips/000001.webp"
    assert json.loads((tmp_path / "clips.json").read_text())[0]["strip"]["image"] == "strips/000001.webp"


def test_the_table_of_clips_is_whole_and_carries_no_pictures(tmp_path):
    path = write_data_page(tmp_path, dataset(entry("a"), left_out("b")))
    assert path == tmp_path / "report.html"
    first, second = json.loads((tmp_path / "clips.json").read_text())
    assert first["strip"] == {name: value for name, value in entry()["strip"].items() if name != "image"}
    assert second["reason"] == "media file is empty: 0 bytes"


def test_problems_are_lines_with_errors_first(tmp_path):
    write_data_page(tmp_path, dataset(entry("a", "used", task(found='x, "y"\nz')), left_out("b"), entry("c")))
    text = (tmp_path / "problems.csv").read_text(encoding="utf-8")
    assert list(csv.reader(io.StringIO(text))) == [
        ["key", "file", "kind", "what", "found", "do"],
        ["b", "a.mp4", "error", "media file is empty", "0 bytes", "get it again"],
        ["a", "a.mp4", "warning", "black", 'x, "y" z', "remove it"],
    ]


@pytest.mark.parametrize("value", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r\n=cmd|' /C calc'!A0", " =1"])
def test_no_cell_is_a_formula(value):
    assert cell(value).startswith("'")
    rows = list(csv.reader(io.StringIO(problems_csv(dataset(entry(value, "used", task(found=value)))))))
    assert rows[1][0][0] == rows[1][4][0] == "'"


def test_cells_are_one_line_of_text_that_can_be_written():
    assert cell("a\x00b\x1b[31m\nc") == "a b [31m c"
    assert cell("caf\udce9") == "caf\\udce9"
    assert cell("a-b = c") == "a-b = c"


def test_names_that_are_no_text_do_not_stop_the_page(tmp_path):
    odd = "s/caf\udce9.mp4"
    write_data_page(tmp_path, dataset(entry(odd, "used", task()), {**left_out(odd), "where": odd}))
    assert "caf\\udce9" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "clips.json").read_text())[0]["key"] == odd


def test_an_empty_dataset_has_a_page():
    found = page()
    assert "0 clips to train on, nothing to warn of." in found.text
    assert found.all("article") == []
    assert found.all("div", **{"class": "filters"}) == []


def test_of_very_many_clips_the_page_shows_the_first():
    many = [entry(f"s/{k:05d}", strip=None) for k in range(MOST_CARDS + 3)]
    found = page(*many)
    assert len(found.all("article")) == MOST_CARDS
    assert "3 further clips stand in clips.json." in found.text


def test_the_filters_wait_for_the_script_and_count():
    found = page(entry("a"), entry("b", "used", task()), left_out())
    assert "hidden" in found.all("div", **{"class": "filters"})[0]
    assert [a["data-show"] for a in found.all("button")] == ["all", "error", "warning", "fine"]
    for said in ("all 3", "errors 1", "warnings 1", "used as they are 1"):
        assert said in found.words
