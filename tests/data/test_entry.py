"""What every reader's records have in common: kind, repeats, captions, masks, and everything wrong told at once."""

import pytest

from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import SourceOptions
from cinelora.data.readers.entry import Entries


@pytest.fixture
def place(tmp_path):
    for name in ("a.mp4", "b.png", "p_start.png", "p_end.jpg"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def make(place, name, *, text="x", **values):
    entries = Entries("s", SourceOptions(path="s", **values))
    media = tuple(place / one for one in name) if isinstance(name, tuple) else place / name
    return entries.make(media, name if isinstance(name, str) else "p", text=text, where="here")


@pytest.mark.parametrize(("name", "kind", "repeats"), [("a.mp4", "video", 6), ("b.png", "image", 2)])
def test_videos_and_pictures_repeat_by_their_own_numbers(place, name, kind, repeats):
    record = make(place, name, repeats=2, video_repeats=3, caption_dropout=0.25)
    assert (record.kind, record.repeats, record.caption_dropout) == (kind, repeats, 0.25)
    assert (record.key, record.media, record.where) == (f"s/{name}", (place / name,), "here")


def test_a_pair_has_two_media(place):
    record = make(place, ("p_start.png", "p_end.jpg"), repeats=2, video_repeats=3)
    assert (record.kind, record.key, record.repeats) == ("pair", "s/p", 2)
    assert record.media == (place / "p_start.png", place / "p_end.jpg")
    bad = make(place, ("p_start.png", "p_gone.jpg"))
    assert [problem.what for problem in bad.problems] == ["media file is missing"]


def test_captions_keep_their_order(place):
    record = make(place, "a.mp4", text="one\ntwo", caption_lines="each", trigger="zorb")
    assert (record.caption, record.more_captions) == ("zorb one", ("zorb two",))
    assert make(place, "a.mp4").more_captions == ()


@pytest.mark.parametrize("mask", ["a_m.mp4", "a_m.png", "a_m.JPG"])
def test_the_mask_beside(place, mask):
    assert make(place, "a.mp4").mask is None
    (place / mask).write_bytes(b"x")
    assert make(place, "a.mp4", mask_suffix="_m").mask == place / mask


def test_what_is_no_mask(place):
    (place / "a_m.txt").write_bytes(b"x")
    bad = make(place, "a.mp4", mask_suffix="_m")
    assert isinstance(bad, LeftOut)
    (problem,) = bad.problems
    assert (problem.what, problem.where) == ("the clip has no mask", "here")
    assert problem.allowed.startswith("one file a_m with any of .mp4")


def test_everything_wrong_with_an_entry_is_told(place):
    bad = make(place, "gone.mp4", text=" ", mask_suffix="_m")
    assert [problem.what for problem in bad.problems] == [
        "media file is missing",
        "the caption is empty",
        "the clip has no mask",
    ]
    assert {problem.where for problem in bad.problems} == {"here"}


def test_a_key_is_given_out_once(place):
    entries = Entries("s", SourceOptions(path="s"))
    made = [entries.make(place / "a.mp4", "a.mp4", text="x", where=where) for where in ("t:1", "t:1", "t:2")]
    assert [type(entry) for entry in made] == [Record, LeftOut, LeftOut]
    assert [entry.problems[0].where for entry in made[1:]] == ["t:1", "t:1 and t:2"]
