import io
from dataclasses import dataclass

import pytest
from rich.console import Console

from cinelora.families.fake.card import CARD
from cinelora.report.rows import bucket_text, read_rows, source_text, target_text, totals
from cinelora.report.table import buckets_table, clips_table, families_table


def row(key="s/a.mp4", status="used", **more):
    facts = {"width": 64, "height": 48, "frames": 20, "fps": 8.0, "seconds": 2.5}
    used = {"bucket": "17x48x64", "frames_used": 17, "frames_lost": 3, "scale": 1.0}
    return {"key": key, "where": "t.csv:2", "source": "s", "kind": "video", "status": status, **facts, **used, **more}


def left_out(key="s/b.mp4"):
    return {"key": key, "where": "t.csv:3", "source": "s", "kind": "video", "status": "left out", "reason": "no frames"}


def shown(table, width=200):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def test_totals_count_by_bucket_the_fullest_first():
    rows, notes = read_rows(
        [row("a"), row("b"), row("c", "held out"), row("d", bucket="5x48x64", frames_used=5, frames_lost=0), left_out()]
    )
    assert notes == []
    found = totals(rows)
    assert list(found) == ["17x48x64", "5x48x64"]
    first = found["17x48x64"]
    assert (first.used, first.held_out, first.frames_seen, first.frames_lost) == (2, 1, 51, 9)


def test_what_deserves_a_look_stands_first():
    raw = [
        row("z", frames_lost=0),
        row("y", frames_lost=2),
        row("x", frames_lost=9),
        left_out("w"),
        row("a", frames_lost=0),
    ]
    raw.append(row("n", frames_lost=0, notes=["enlarged 2 times"]))
    assert [one.key for one in read_rows(raw)[0]] == ["w", "x", "y", "n", "a", "z"]


def test_missing_and_wrong_facts_are_counted():
    raw = [row("a"), row("b", fps=None), row("c", width="<b>wide</b>"), {"status": "used"}]
    rows, notes = read_rows(raw)
    assert [one.width for one in rows if one.key == "c"] == [None]
    assert "2 of 4 rows of the data table do not state fps" in notes
    assert "1 of 4 rows of the data table do not state width as a number" in notes
    assert "1 of 4 rows of the data table do not state key" in notes


def test_zeros_of_the_plan_mean_not_known():
    nothing = {"width": 0, "height": 0, "frames": 0, "fps": 0.0, "seconds": 0.0, "bucket": "", "scale": 0.0}
    bad = left_out() | nothing | {"frames_used": 0, "frames_lost": 0, "notes": ()}
    image = row("i", kind="image", frames=1, fps=0.0, seconds=0.0, frames_used=1, frames_lost=0, bucket="1x48x64")
    rows, notes = read_rows([bad, image])
    assert notes == []
    assert [source_text(one) for one in rows] == ["", "64 × 48, 1 frame"]
    assert (rows[0].frames_used, rows[0].frames_lost, rows[1].frames_lost) == (None, None, 0)
    assert read_rows([row("v", fps=0.0)])[1] == ["1 of 1 rows of the data table do not state fps"]


def test_left_out_rows_need_no_measures():
    assert read_rows([left_out()])[1] == []
    assert read_rows([left_out()])[0][0].notes == ("no frames",)


@pytest.mark.parametrize("given", ["17x48x64", [17, 48, 64], {"frames": 17, "height": 48, "width": 64}])
def test_buckets_are_read_in_each_form(given):
    assert bucket_text(given) == "17x48x64"


def test_dataclass_rows_are_taken():
    @dataclass
    class Row:
        key: str = "k"
        status: str = "left out"
        reason: str = "because"

    assert read_rows([Row()])[0][0].notes == ("because",)
    with pytest.raises(TypeError, match="not a str"):
        read_rows(["a"])


def test_source_text():
    rows, _ = read_rows([row("a", fps=29.97002997), row("b", frames=1, kind="image", fps=None)])
    said = {one.key: source_text(one) for one in rows}
    assert said == {"a": "64 × 48, 20 frames, 29.97 fps, 2.5 s", "b": "64 × 48, 1 frame"}


def test_clips_table_folds_what_is_as_it_should_be_alone():
    raw = [row(f"fine-{k:03d}", frames_lost=0) for k in range(100)] + [left_out(f"bad-{k:03d}") for k in range(30)]
    text = shown(clips_table(raw, most=40))
    assert text.count("bad-") == 30
    assert text.count("fine-") == 10
    assert "and 90 more, used as they are" in text
    assert text.index("bad-000") < text.index("fine-000")


def test_clips_table_ends_however_many_clips_lose_frames():
    raw = [row(f"lossy-{k:05d}", frames_lost=3) for k in range(700)] + [row("fine", frames_lost=0)]
    text = shown(clips_table(raw))
    assert text.count("lossy-") == 500
    assert "and 200 more that are left out, lose frames or have something to tell" in text
    assert "and 1 more, used as they are" in text


def test_buckets_table_says_which_share_an_epoch_shows():
    text = shown(buckets_table([row("a", frames_used=9, frames_lost=3), row("b", frames_used=9, frames_lost=15)]))
    assert "50%" in text


def test_clips_table_tells_reasons_and_takes_brackets_as_they_are():
    text = shown(clips_table([left_out("s/[red]clip[/red].mp4"), row("s/x.mp4")]))
    assert "[red]clip[/red].mp4" in text
    assert "no frames" in text
    assert "more, used" not in text


def test_buckets_table_has_every_number():
    line = next(x for x in shown(buckets_table([row("a"), row("b", "held out")])).splitlines() if "17x48x64" in x)
    assert line.split() == ["17x48x64", "1", "1", "34", "6", "85%"]


def test_families_table_shows_variants_and_hides_the_hidden():
    assert "fake/tiny" in shown(families_table({"fake": CARD}))
    assert "32x32" in shown(families_table({"fake": CARD}))
    assert "fake/tiny" not in shown(families_table({"fake": CARD}, hidden=("fake",)))


def test_what_newer_tables_say_is_read_and_not_missed_in_older_ones():
    new = row("a", clip_fps=8.0, speed=2.0, num_slots=3, repeats=1, crop=[0, 1.5, 64, 46.5], caption="a\n  cat")
    rows, notes = read_rows([new | {"buckets": ["17x48x64", "5x48x64"]}, row("b")])
    a, b = sorted(rows, key=lambda one: one.key)
    assert notes == []
    assert (a.crop, a.caption) == ((0, 1.5, 64, 46.5), "a cat")
    assert target_text(a) == "17 × 48 × 64 at 8 fps, 1 more bucket, 3 clips, 2.00 times as fast"
    assert (b.crop, b.caption, target_text(b)) == (None, "", "17 × 48 × 64")


def test_a_picture_has_no_rate_and_no_speed():
    rows, _ = read_rows([row("i", kind="image", bucket="1x48x64", clip_fps=8.0, speed=2.0)])
    assert target_text(rows[0]) == "1 × 48 × 64"
    assert target_text(read_rows([left_out()])[0][0]) == ""


@pytest.mark.parametrize("crop", [[1, 2, 3], "all", [1, 2, 3, "x"], [0, 0, float("nan"), 1], None])
def test_a_crop_that_is_none_is_none(crop):
    assert read_rows([row(crop=crop)])[0][0].crop is None


def test_a_bucket_tells_its_share_of_frames():
    rows, _ = read_rows([row("a"), row("b", bucket="5x48x64", frames_used=0, frames_lost=0)])
    assert {name: total.share_seen for name, total in totals(rows).items()} == {"17x48x64": "85%", "5x48x64": ""}


def test_a_clip_in_several_buckets_counts_in_each():
    rows, _ = read_rows([row("a", buckets=["17x48x64", "17x32x64"]), row("b", bucket="17x32x64", buckets=["17x32x64"])])
    found = totals(rows)
    assert [(name, total.used, total.frames_seen) for name, total in found.items()] == [
        ("17x32x64", 2, 17),
        ("17x48x64", 1, 17),
    ]
