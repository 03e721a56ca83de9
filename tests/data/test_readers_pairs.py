from collections import Counter
from pathlib import Path

import pytest
from golden_case import FOLDERS
from PIL import Image

from cinelora.base.errors import DataError
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import SourceOptions
from cinelora.data.readers import pairs
from cinelora.data.readers.pairs import recognises
from cinelora.data.readers.registry import open_reader

GOLDEN = FOLDERS[1] / "framer" / "dataset"


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def write(folder, **texts):
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)


def read(folder, **values):
    source = SourceOptions(path=str(folder), reader="pairs", **values)
    return list(open_reader(folder, "s", source, base=folder).read())


def told(entry):
    assert isinstance(entry, LeftOut)
    assert all(problem.where for problem in entry.problems)
    return [problem.what for problem in entry.problems]


def test_pairs_in_any_case_and_kind_by_id(tmp_path, caplog):
    touch(tmp_path, "b_start.jpg", "b_END.PNG", "a_Start.JPEG", "a_end.webp", "sub/my_start_start.png")
    touch(tmp_path, "sub/my_start_end.bmp", ".hidden/c_start.png", "B_start.png", "B_end.png")
    records = read(tmp_path, repeats=2)
    assert [(r.key, [file.name for file in r.media]) for r in records] == [
        ("s/B", ["B_start.png", "B_end.png"]),
        ("s/a", ["a_Start.JPEG", "a_end.webp"]),
        ("s/b", ["b_start.jpg", "b_END.PNG"]),
        ("s/sub/my_start", ["my_start_start.png", "my_start_end.bmp"]),
    ]
    assert {(r.kind, r.caption, r.repeats) for r in records} == {("pair", "", 2)}
    assert [text for text in caplog.messages if "go without words" in text] == [
        f"{tmp_path}: no caption file in it, so all pairs go without words"
    ]


def test_captions_beside_and_from_names(tmp_path, caplog):
    touch(tmp_path, "red_ball-rolls_start.png", "red_ball-rolls_end.png", "v1.5_start.png", "v1.5_end.png")
    (tmp_path / "red_ball-rolls.caption").write_text("a ball\nrolls")
    write(tmp_path, **{"v1.5": "a dog"})
    assert [r.caption for r in read(tmp_path, trigger="zorb")] == ["zorb a ball rolls", "zorb a dog"]
    assert not caplog.messages
    assert [r.caption for r in read(tmp_path, captions="names")] == ["red ball rolls", "v1.5"]


def test_one_caption_means_that_all_need_one(tmp_path, caplog):
    touch(tmp_path, *(f"{name}_{half}.png" for name in "abcd" for half in ("start", "end")))
    write(tmp_path, a="x", b=" ", d_start="y")
    (tmp_path / "a.caption").write_text("x")
    assert [told(entry) for entry in read(tmp_path)] == [
        ["two caption files"],
        ["the caption is empty"],
        ["no caption file"],
        ["no caption file"],
    ]
    assert "d_start.txt" in caplog.text
    assert [r.caption for r in read(tmp_path, empty_caption="allow")[1:]] == ["", "", ""]


def test_halves_without_a_partner(tmp_path):
    touch(tmp_path, "horse_start.png", "hrse_end.png", "b_end.jpg", "ok_start.png", "ok_end.png")
    b, horse, hrse, ok = read(tmp_path)
    assert (told(b), b.problems[0].found) == (["the pair has no start"], "b_end.jpg")
    assert b.problems[0].allowed.startswith("b_start with any of .png")
    assert told(horse) == ["the pair has no end"]
    assert horse.problems[0].nearest == str(tmp_path / "hrse_end.png")
    assert hrse.problems[0].nearest == str(tmp_path / "horse_start.png")
    assert isinstance(ok, Record)


def test_thousands_of_halves_without_a_partner_are_told_without_comparing_all_names(tmp_path, monkeypatch):
    touch(tmp_path, *(f"clip{k}a_start.png" for k in range(300)), *(f"clip{k}b_end.png" for k in range(300)))
    monkeypatch.setattr(pairs, "nearest", lambda *_, **__: pytest.fail("names were compared"))
    assert Counter(what for entry in read(tmp_path) for what in told(entry)) == {
        "the pair has no end": 300,
        "the pair has no start": 300,
    }


def test_halves_that_are_too_many_or_no_pictures(tmp_path):
    touch(tmp_path, "a_start.png", "a_START.jpg", "a_end.png", "b_start.mp4", "b_end.png", "c_start.tiff", "c_end.png")
    touch(tmp_path, "d_start.png", "d_end.json", "e_start.png")
    (tmp_path / "f_start.png").mkdir()
    grey = [Image.new("L", (8, 8), level) for level in (0, 90)]
    grey[0].save(tmp_path / "e_end.webp", save_all=True, append_images=grey[1:], duration=100)
    a, b, c, d, e = read(tmp_path)
    assert (told(e), e.problems[0].found) == (["the end of the pair is not a picture"], "e_end.webp")
    assert (told(a), a.problems[0].found) == (["the pair has 2 files for its start"], "a_START.jpg, a_start.png")
    assert (told(b), b.problems[0].found) == (["the start of the pair is not a picture"], "b_start.mp4")
    assert told(c) == ["the start of the pair is not a picture"]
    assert told(d) == ["the end of the pair is not a picture"]


def test_all_that_is_wrong_with_a_pair(tmp_path):
    touch(tmp_path, "a_start.png", "a_start.jpg")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (entry,) = read(tmp_path)
    assert told(entry) == ["the pair has 2 files for its start", "the pair has no end", "is not UTF-8 text"]
    assert [Path(problem.where).name for problem in entry.problems] == ["a_start.jpg", "a_start.jpg", "a.txt"]


def test_masks_of_pairs(tmp_path, caplog):
    touch(tmp_path, "a_start.png", "a_end.png", "a_start_mask.png")
    (record,) = read(tmp_path, mask_suffix="_mask")
    assert record.mask == tmp_path / "a_start_mask.png"
    assert "a_start_mask" not in caplog.text


def test_what_is_passed_over_is_named(tmp_path, caplog):
    touch(tmp_path, "a_start.png", "a_end.png", "other.png", "log_end.json", "_start.png", "c.mp4")
    assert len(read(tmp_path)) == 1
    assert "_start.png, c.mp4, log_end.json, other.png" in caplog.text


@pytest.mark.parametrize("names", [(), ("a.png", "b.txt"), ("run_end.json",), ("_start.png", "_end.png")])
def test_folders_without_pairs(tmp_path, names):
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=r"no image pairs in it[\s\S]*ID_start") as caught:
        read(tmp_path)
    assert caught.value.problems[0].where == str(tmp_path)


def test_recognises_folders_of_pairs_only(tmp_path):
    touch(tmp_path / "pairs", "x/a_start.png", "x/a_END.JPG", "b_start.webp", "readme.md")
    touch(tmp_path / "mixed", "a_start.png", "a_end.png", "b.png")
    touch(tmp_path / "texts", "a_start.txt", "a_end.txt")
    assert recognises(tmp_path / "pairs")
    assert not recognises(tmp_path / "mixed")
    assert not recognises(tmp_path / "texts")
    assert not recognises(tmp_path / "pairs" / "b_start.webp")


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden cases are not here")
def test_the_pairs_of_framer():
    """The reference takes lower-case jpg and png only, and drops the half pair without a word."""
    entries = read(GOLDEN / "pairs")
    assert [entry.key for entry in entries if isinstance(entry, Record)] == ["s/D", "s/a", "s/b", "s/c"]
    assert [told(entry) for entry in entries if isinstance(entry, LeftOut)] == [["the pair has no end"]]
