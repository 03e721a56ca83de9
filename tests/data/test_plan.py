import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cinelora.base.errors import DataError, Problem, RecipeError
from cinelora.contracts.flow import LeftOut, Record
from cinelora.contracts.geometry import Geometry
from cinelora.data import facts, fate
from cinelora.data.options import DataOptions
from cinelora.data.plan import held_out_keys, make_plan
from cinelora.data.sources import Listing, read_records
from media.makers import SHARED_CLIPS, encode, flat_frames

TINY = Geometry(fps=8, frames=9, height=32, width=32)
WAN = Geometry(fps=16, frames=81, height=480, width=832)


def options(*sources, **values):
    return DataOptions(source=list(sources) or [{"path": "s"}], **values)


def stated(number=0, *, source="s", kind="video", **values):
    told = {"width": 832, "height": 480, "frames": 81, "fps": 16.0, **values}
    return Record(f"{source}/{number}", source, kind, (Path("clip.mp4"),), "x", f"table:{number}", told)


def plan(*entries, geometry=WAN, seed=0, **values):
    return make_plan(Listing(entries), options(held_out=0, **values), geometry, seed=seed)


def test_real_files(tmp_path):
    made = tmp_path / "s"
    made.mkdir()
    encode(made / "a.mp4", flat_frames(17, 32, 48), fps=8)
    encode(made / "b.mp4", flat_frames(6, 64, 64), fps=8)
    encode(made / "c.mkv", flat_frames(40, 32, 32), fps=16)
    Image.fromarray(flat_frames(1, 100, 50)[0]).save(made / "d.png")
    for name in "abcd":
        (made / f"{name}.txt").write_text("x")
    rules = options(held_out=0, size=[64, 64], upscale=True)
    result = make_plan(read_records(rules, tmp_path), rules, TINY, seed=0)
    rows = {row.key: row for row in result.rows}
    assert [row.bucket for row in result.rows] == ["9x48x80", "5x64x64", "9x64x64", "1x80x48"]
    a, b, c, d = (rows[f"s/{name}"] for name in ("a.mp4", "b.mp4", "c.mkv", "d.png"))
    assert (a.width, a.height, a.frames, round(a.fps, 3), a.status) == (48, 32, 17, 8.0, "used")
    assert (a.frames_used, a.frames_lost, a.notes) == (9, 8, ("enlarged 1.67 times",))
    assert a.scale == pytest.approx(80 / 48)
    assert (b.frames_used, b.frames_lost) == (5, 1)
    assert b.notes == ("shorter than every frame bucket: 5 frames are used",)
    assert b.scale == pytest.approx(1)
    assert (c.frames_used, c.frames_lost, c.speed) == (9, 31, 1.0)
    assert (d.kind, d.frames, d.frames_used, d.frames_lost) == ("image", 1, 1, 0)
    assert [slot.name for slot in result.slots][0] == "s/a.mp4@9x48x80#0"
    assert [str(slot.bucket) for slot in result.slots] == [row.bucket for row in result.rows]


def test_totals_are_largest_first():
    result = plan(stated(0), stated(1, frames=49), stated(2), stated(3, kind="image"), frames=[49, 81])
    assert {name: (t.clips, t.slots, t.held_out) for name, t in result.totals.items()} == {
        "81x480x832": (2, 2, 0),
        "49x480x832": (1, 1, 0),
        "1x480x832": (1, 1, 0),
    }
    assert list(result.totals) == ["81x480x832", "49x480x832", "1x480x832"]


def test_frames_seen_after_resampling():
    """30 -> 16 frames per second over 81 frames: frames 0 ... 150, 81 of them shown."""
    (row,) = plan(stated(frames=300, fps=30.0)).rows
    assert (row.frames_used, row.frames_lost) == (81, 219)
    (row,) = plan(stated(frames=49, fps=8.0)).rows  # each shown twice
    assert (row.frames_used, row.frames_lost, row.speed) == (41, 8, 1.0)


def test_speed_and_scale_are_told():
    (row,) = plan(stated(frames=100, fps=8.0, width=416, height=240), fps="source", upscale=True).rows
    assert row.speed == pytest.approx(2.0)
    assert row.notes == ("enlarged 2.00 times", "things move 2.00 times as fast as in the source")
    (row,) = plan(stated(frames=100, fps=16.0), fps=32).rows
    assert row.speed == pytest.approx(0.5)


def test_a_rate_that_a_reference_rounds_to_zero_still_has_a_speed():
    """DynamiCrafter tells its model 12 // 16 = 0 frames per second; 16 of the source's frames pass for each one."""
    row = plan(stated(frames=400, fps=12.0), compat="dynamicrafter", stride=16, frames=[17]).rows[0]
    assert (row.status, row.clip_fps) == ("used", 0)
    assert row.speed == pytest.approx(16 / (12 / 16))


def test_the_scale_is_that_of_the_part_that_is_used():
    """512 wide, 1024 tall, in a bucket 512 wide, 320 tall: DynamiCrafter makes the short side 320, bars beside it."""
    free = Geometry(8, 17, 320, 512)
    shape = {"width": 512, "height": 1024, "frames": 17, "fps": 8.0}
    values = {"geometry": free, "buckets": "single", "size": [320, 512]}
    assert plan(stated(**shape), compat="dynamicrafter", **values).rows[0].scale == pytest.approx(320 / 512)
    assert plan(stated(**shape), **values).rows[0].scale == pytest.approx(1)


def test_a_clip_that_cannot_be_cut_is_told_with_the_others(monkeypatch):
    def refuse(slot, *_, **__):
        raise DataError(Problem("the reference cannot use this video", found=slot.record.key))

    monkeypatch.setattr(fate, "cut_of", refuse)
    with pytest.raises(DataError) as caught:
        plan(stated(0), stated(1))
    assert [(p.found, p.where) for p in caught.value.problems] == [
        ("s/0", "table:0 (clip.mp4)"),
        ("s/1", "table:1 (clip.mp4)"),
    ]


def test_variable_rate_is_told(tmp_path):
    path = encode(
        tmp_path / "v.mkv",
        flat_frames(9),
        fps=30,
        milliseconds=np.cumsum([0, 40, 120, 33, 200, 40, 500, 17, 40]).tolist(),
    )
    record = Record("s/v", "s", "video", (path,), "x", str(path), {"frames": 10})
    (row,) = plan(record, geometry=TINY).rows
    assert "variable frame rate" in row.notes
    assert "the table is wrong: frames 10 stated, 9 measured" in row.notes


@pytest.mark.parametrize("short", ["fit", "skip", "stop"])
def test_short_clips(short):
    records = stated(0), stated(1, frames=80), stated(2, frames=3)
    if short == "stop":
        with pytest.raises(DataError) as caught:
            plan(*records, short=short)
        assert [(p.what, p.found) for p in caught.value.problems] == [
            ("shorter than every frame bucket", "80 frames at 16 fps"),
            ("shorter than every frame bucket", "3 frames at 16 fps"),
        ]
        return
    result = plan(*records, short=short)
    if short == "fit":
        assert [row.bucket for row in result.rows] == ["81x480x832", "77x480x832", "1x480x832"]
    else:
        assert [row.status for row in result.rows] == ["used", "left out", "left out"]
        assert result.rows[1].reason == "shorter than every frame bucket: 80 frames at 16 fps"
        assert result.rows[1].frames_lost == 80
        assert result.problems == ()


def test_nothing_left_is_an_error():
    with pytest.raises(DataError, match=r"no clip is left[\s\S]*2 entries: 2 x shorter than every frame bucket"):
        plan(stated(0, frames=3), stated(1, frames=4), short="skip")
    with pytest.raises(DataError, match="0 entries: no entries"):
        plan()


def test_a_family_without_single_pictures():
    even = Geometry(fps=8, frames=16, height=32, width=32, frames_per_latent=4, frames_offset=0)
    with pytest.raises(DataError, match="takes no single pictures"):
        plan(stated(0, frames=16), stated(1, kind="image"), geometry=even)


def test_too_small_without_upscale():
    with pytest.raises(DataError, match=r"too small for any bucket[\s\S]*12 x 480"):
        plan(stated(width=12), upscale=False)


def test_options_are_checked_first():
    with pytest.raises(RecipeError, match="13 or 17"):
        plan(frames=[16])


def test_bad_entries_stop_or_are_skipped(tmp_path):
    good = encode(tmp_path / "good.mp4", flat_frames(9))
    (tmp_path / "bad.mp4").write_text("this is text")
    records = [
        Record(f"s/{name}", "s", "video", (tmp_path / name,), "x", f"t.csv:{k}")
        for k, name in enumerate(("bad.mp4", good.name, "gone.mp4"), 2)
    ]
    (left_out,) = read_left_out(tmp_path)
    entries = (records[0], left_out, *records[1:])
    with pytest.raises(DataError) as caught:
        plan(*entries, geometry=TINY)
    problems = caught.value.problems
    assert [p.what for p in problems] == ["cannot be decoded as a video", "no caption file", "media file is missing"]
    assert problems[0].where == f"t.csv:2 ({tmp_path / 'bad.mp4'})"
    result = plan(*entries, geometry=TINY, on_bad="skip")
    assert [row.status for row in result.rows] == ["left out", "left out", "used", "left out"]
    assert [row.reason.partition(":")[0] for row in result.rows] == [
        p.what if p else "" for p in (*problems[:2], None, problems[2])
    ]
    assert len(result.problems) == 3
    assert len(result.slots) == 1


def read_left_out(tmp_path):
    folder = tmp_path / "uncaptioned"
    encode(folder.mkdir() or folder / "a.mp4", flat_frames(9))
    listing = read_records(options({"path": "uncaptioned", "name": "s"}), tmp_path)
    assert all(isinstance(entry, LeftOut) for entry in listing.entries)
    return listing.left_out


def test_variants():
    entries = [stated(k) for k in range(20)]
    result = make_plan(Listing(tuple(entries)), options(clip="random", num_variants=3), WAN, seed=0)
    assert len(result.held_out) == 1
    assert result.held_out[0].variant == 0
    assert len({slot.name for slot in result.slots}) == len(result.slots) == 19 * 3
    assert result.totals["81x480x832"].clips == 19


def test_a_plan_without_what_could_not_be_encoded():
    rules = options(clip="random", num_variants=2, held_out=0)
    whole = make_plan(Listing((stated(0), stated(1), stated(2))), rules, WAN, seed=0)
    first, second, third = ("s/0", "s/1", "s/2")
    names = {key: [slot.name for slot in whole.slots if slot.record.key == key] for key in (first, second, third)}
    less = whole.without({names[first][0]: "broken", **dict.fromkeys(names[second], "no picture")})
    assert [slot.name for slot in less.slots] == [names[first][1], *names[third]]
    assert [(row.status, row.reason) for row in less.rows] == [("used", ""), ("left out", "no picture"), ("used", "")]
    assert (less.totals["81x480x832"].clips, less.totals["81x480x832"].slots) == (2, 3)
    with pytest.raises(DataError, match=r"no clip is left[\s\S]*6 could not be encoded"):
        whole.without({slot.name: "broken" for slot in whole.slots})


def test_held_out_counts():
    def count(total, share):
        return len(held_out_keys([f"k{k}" for k in range(total)], share, seed=0))

    assert [count(n, 0.05) for n in (0, 1, 9, 10, 12, 30, 100)] == [0, 0, 0, 1, 1, 2, 5]
    assert [count(n, 0.5) for n in (1, 2, 4)] == [0, 1, 2]
    assert count(100, 0) == 0


def test_held_out_is_stable():
    keys = [f"k{k}" for k in range(200)]
    chosen = held_out_keys(keys, 0.1, seed=0)
    assert held_out_keys(keys[::-1], 0.1, seed=0) == chosen
    assert held_out_keys(keys, 0.1, seed=1) != chosen
    more = held_out_keys([*keys, *(f"new{k}" for k in range(10))], 0.1, seed=0)
    assert len(chosen & more) >= len(chosen) - 3


def test_regularisation_clips_are_never_held_out():
    sources = {"path": "mine"}, {"path": "base", "held_out": False}
    entries = [stated(k, source="mine") for k in range(20)] + [stated(k, source="base") for k in range(200)]
    result = make_plan(Listing(tuple(entries)), options(*sources, held_out=0.5), WAN, seed=0)
    assert len(result.held_out) == 10
    assert {slot.record.source for slot in result.held_out} == {"mine"}
    held = {row.key for row in result.rows if row.status == "held out"}
    assert held == {slot.record.key for slot in result.held_out}
    assert not held & {slot.record.key for slot in result.slots}


def test_a_thousand_stated_rows_are_planned_without_opening_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "probe", lambda path: pytest.fail(f"opened {path}"))
    lines = []
    for k in range(1000):
        (tmp_path / f"{k}.mp4").touch()
        size = {"width": 640 + k, "height": 480, "frames": 100 + k, "fps": 24}
        lines.append(json.dumps({"path": f"{k}.mp4", "caption": "x", **size}))
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    rules = options({"path": "t.jsonl"})
    started = time.process_time()
    result = make_plan(read_records(rules, tmp_path), rules, WAN, seed=0)
    assert time.process_time() - started < 5
    assert len(result.rows) == 1000
    assert len(result.held_out) == 50


def test_rows_say_what_is_made_of_a_clip():
    record = replace(stated(frames=100, fps=20.0), more_captions=("y", "z"), repeats=3)
    (row,) = plan(record, frames=[49], size=[480, 480], buckets="single").rows
    assert (row.caption, row.num_captions, row.num_slots, row.repeats) == ("x", 3, 1, 3)
    assert row.crop == (176.0, 0.0, 656.0, 480.0)
    assert (row.clip_fps, row.buckets) == (16.0, ("49x480x480",))
    json.dumps(asdict(row))
    (row,) = plan(record, fps="source", frames=[49]).rows
    assert (row.clip_fps, row.speed) == (20.0, pytest.approx(0.8))
    (row,) = plan(replace(record, kind="image"), crop="none").rows
    assert (row.crop, row.kind) == ((0.0, 0.0, 832.0, 480.0), "image")


def test_every_window_is_a_slot_and_all_frames_are_seen():
    result = plan(stated(frames=200), clip="chunks", frames=[49])
    assert [slot.variant for slot in result.slots] == [0, 1, 2, 3]
    (row,) = result.rows
    assert (row.num_slots, row.frames_used, row.frames_lost) == (4, 196, 4)
    assert result.warnings == ()
    (row,) = plan(stated(frames=200), clip="sliding", slide_frames=50, frames=[81]).rows
    assert (row.num_slots, row.frames_used) == (3, 181)


def test_windows_of_variants_are_numbered_window_by_window():
    rules = {"clip": "chunks", "crop": "random", "num_variants": 2, "frames": [49]}
    result = plan(stated(frames=150), **rules)
    assert [slot.variant for slot in result.slots] == [0, 1, 2, 3, 4, 5]


def test_variants_may_stand_in_several_buckets():
    budget = {"training_with_video_token_length": True, "video_sample_size": 256, "image_sample_size": 512}
    rules = options(buckets="videox", videox=budget, num_variants=6, frames=[81], held_out=0)
    result = make_plan(Listing((stated(frames=100),)), rules, WAN, seed=0)
    (row,) = result.rows
    assert len(result.slots) == row.num_slots == 6
    assert [slot.variant for slot in result.slots] == list(range(6))
    assert set(row.buckets) == {str(slot.bucket) for slot in result.slots} == {f"81x{s}" for s in SIZES_OF_TABLE}
    assert row.bucket == str(result.slots[0].bucket)
    assert f"stands in 3 buckets: {', '.join(row.buckets)}" in row.notes
    again = make_plan(Listing((stated(frames=100),)), rules, WAN, seed=0)
    assert again.slots == result.slots
    assert make_plan(Listing((stated(frames=100),)), rules, WAN, seed=1).slots != result.slots


SIZES_OF_TABLE = ("192x336", "288x496", "384x672")


def test_a_held_out_clip_gives_one_slot_and_its_row_says_so():
    entries = tuple(stated(k, frames=200) for k in range(10))
    result = make_plan(Listing(entries), options(clip="chunks", frames=[49]), WAN, seed=0)
    (row,) = [row for row in result.rows if row.status == "held out"]
    assert (row.num_slots, row.frames_used, row.frames_lost) == (1, 49, 151)
    assert len(result.slots) == 9 * 4


def test_sources_are_cut_by_their_own_rules():
    sources = {"path": "a"}, {"path": "b", "rules": {"frames": [17], "size": [64, 64], "buckets": "single"}}
    entries = stated(0, source="a"), stated(0, source="b")
    result = make_plan(Listing(entries), options(*sources, held_out=0), WAN, seed=0)
    assert [row.bucket for row in result.rows] == ["81x480x832", "17x64x64"]


def write(path, data):
    path.write_bytes(data)
    return path


def test_a_file_under_two_names_stays_on_one_side_and_says_so(tmp_path):
    entries = []
    for k in range(20):
        for copy in "ab":
            path = write(tmp_path / f"{k}{copy}.mp4", bytes([k]) * 9)
            entries.append(replace(stated(f"{k}{copy}"), media=(path,)))
    result = make_plan(Listing(tuple(entries)), options(held_out=0.3), WAN, seed=3)
    assert len(result.held_out) == 12
    held = {slot.record.key for slot in result.held_out}
    assert all((f"s/{k}a" in held) == (f"s/{k}b" in held) for k in range(20))
    notes = {row.key: row.notes for row in result.rows}
    assert notes["s/4a"] == ("the same file as s/4b",)
    assert notes["s/4b"] == ("the same file as s/4a",)
    assert "40 clips are the same file as another one: each counts for itself" in result.warnings


def test_files_of_one_size_are_not_taken_for_one_file(tmp_path):
    entries = tuple(replace(stated(k), media=(write(tmp_path / f"{k}.mp4", bytes([k])),)) for k in range(3))
    result = plan(*entries)
    assert all(row.notes == () for row in result.rows)
    (tmp_path / "2.mp4").unlink()
    (tmp_path / "2.mp4").symlink_to(tmp_path / "0.mp4")
    assert [row.notes for row in plan(*entries).rows] == [("the same file as s/2",), (), ("the same file as s/0",)]


def test_a_clip_that_a_regularisation_source_has_too_is_not_held_out(tmp_path):
    sources = {"path": "mine"}, {"path": "base", "held_out": False}
    entries = []
    for k in range(12):
        path = write(tmp_path / f"{k}.mp4", bytes([k]))
        entries.append(replace(stated(k, source="mine"), media=(path,)))
        if k < 10:
            entries.append(replace(stated(k, source="base"), media=(path,)))
    result = make_plan(Listing(tuple(entries)), options(*sources, held_out=0.5), WAN, seed=0)
    assert {slot.record.key for slot in result.held_out} < {"mine/10", "mine/11"}


def test_a_group_too_large_to_hold_out_is_passed_over():
    keys = [f"k{k}" for k in range(20)]
    same = dict.fromkeys(keys[:15], "k0")
    for seed in range(20):
        chosen = held_out_keys(keys, 0.1, seed=seed, same=same)
        assert len(chosen) == 2
        assert not chosen & set(keys[:15])
    assert held_out_keys(keys, 0.1, seed=0, same=dict.fromkeys(keys, "k0")) == frozenset()
    pairs = {key: keys[k // 2 * 2] for k, key in enumerate(keys)}
    assert len(held_out_keys(keys, 0.05, seed=0, same=pairs)) == 2  # one at least, and never half a pair


def test_pairs_need_a_model_that_takes_two_frames(tmp_path):
    made = [tmp_path / "a_start.png", tmp_path / "a_end.png"]
    for path, size in zip(made, ((64, 48), (80, 60)), strict=True):
        Image.new("RGB", size).save(path)
    record = Record("s/a", "s", "pair", tuple(made), "x", "s/a")
    two = Geometry(fps=8, frames=14, height=32, width=48, frames_per_latent=1, frames_offset=0)
    (row,) = plan(record, geometry=two).rows
    assert (row.bucket, row.frames, row.frames_used, row.frames_lost, row.num_slots) == ("2x32x48", 2, 2, 0, 1)
    assert row.notes == ("the two pictures differ in size: 64 x 48 and 80 x 60",)
    with pytest.raises(DataError, match=r"takes no pairs[\s\S]*leave pairs out"):
        plan(record, geometry=TINY)


def test_warnings_about_the_whole_dataset():
    pictures = [stated(k, kind="image") for k in range(3)]
    assert plan(*pictures).warnings == ("only pictures: the model will not learn motion",)
    assert plan(*pictures, stated(9)).warnings == ()
    still = Geometry(fps=1, frames=1, height=480, width=832)
    assert plan(*pictures, geometry=still).warnings == ()
    short = plan(stated(0), stated(1, frames=30), stated(2, frames=10)).warnings
    assert short == ("2 of 3 videos are shorter than every frame bucket: they give 9 to 29 frames each",)
    (warning,) = plan(stated(0, frames=300)).warnings
    assert warning.startswith("an epoch shows 27% of the videos' frames")


@pytest.mark.skipif(not SHARED_CLIPS.exists(), reason="the shared clips are not here")
def test_the_shared_clips():
    rules = options({"path": str(SHARED_CLIPS / "captions.jsonl")}, frames=[49, 81])
    result = make_plan(read_records(rules, SHARED_CLIPS), rules, WAN, seed=0)
    rows = {row.key.removeprefix("captions/"): row for row in result.rows}
    assert rows["crush_030.mp4"].bucket == "81x480x832"
    assert rows["hiker.mp4"].bucket == "81x480x720"  # 8 fps: 98 frames at 16; 1.5 : 1, not enlarged
    assert (rows["inpaint_video.mp4"].frames_lost, rows["crush_030.mp4"].frames_lost) == (0, 65)
    assert all(row.status == "used" for row in result.rows)


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({}, ["an epoch shows 9% of the videos' frames; data.clip = 'chunks' would show up to 33%"]),
        ({"fps": "source"}, ["an epoch shows 9% of the videos' frames; data.clip = 'chunks' would show up to 100%"]),
        ({"drop_start": 0.25}, ["an epoch shows 9% of the videos' frames; data.clip = 'chunks' would show up to 25%"]),
        ({"drop_start": 0.5}, []),
        ({"clip": "chunks"}, []),
        ({"clip": "uniform"}, []),
        ({"compat": "cogvideox"}, []),
    ],
)
def test_chunks_are_advised_for_what_they_would_show(rules, told):
    whole = stated(width=32, height=32, frames=96, fps=24.0)  # 9 of the 32 frames that 8 per second leave
    assert list(plan(whole, geometry=TINY, **rules).warnings) == told


def test_a_clip_of_few_frames_per_second_is_told():
    slow = stated(width=32, height=32, frames=40, fps=4.0)
    (row,) = plan(slow, geometry=TINY).rows
    assert row.notes == ("only 5 of 9 frames differ: the source has 4 fps",)
    assert plan(stated(width=32, height=32, frames=40, fps=8.0), geometry=TINY).rows[0].notes == ()


def test_videos_of_one_frame_are_told_as_still():
    entries = [stated(k, width=32, height=32, frames=3, fps=8.0) for k in range(2)]
    assert "only clips of one frame: the model will not learn motion" in plan(*entries, geometry=TINY).warnings
