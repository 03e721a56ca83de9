"""Folders of media with captions beside them."""

import os
from pathlib import Path

import pytest
from PIL import Image

from cinelora.base.errors import DataError
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import SourceOptions
from cinelora.data.readers.folder import FolderReader


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def folder(path, **values):
    return list(FolderReader(path, "s", SourceOptions(path="s", **values)).read())


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def test_folder(tmp_path):
    for name in ("b.mp4", "a.PNG", "sub/c.webm", "sub/deep/d.gif", ".hidden/e.mp4", "._b.mp4"):
        touch(tmp_path / name)
    pictures = [Image.new("RGB", (8, 8), (k, 0, 0)) for k in (0, 200)]
    pictures[0].save(tmp_path / "sub/deep/d.gif", save_all=True, append_images=pictures[1:])
    write(tmp_path / "b.txt", "\ufeffa cat\nsits")
    write(tmp_path / "a.caption", "a picture")
    write(tmp_path / "sub/c.txt", "third")
    write(tmp_path / "sub/deep/d.txt", "fourth")
    records = folder(tmp_path, trigger="zorb")
    assert [(r.key, r.kind, r.caption) for r in records] == [
        ("s/a.PNG", "image", "zorb a picture"),
        ("s/b.mp4", "video", "zorb a cat sits"),
        ("s/sub/c.webm", "video", "zorb third"),
        ("s/sub/deep/d.gif", "video", "zorb fourth"),
    ]
    assert records[1].media == (tmp_path / "b.mp4",)
    assert records[1].where == str(tmp_path / "b.mp4")


def test_folder_tells_everything_that_is_wrong(tmp_path):
    touch(*(tmp_path / f"{name}.mp4" for name in ("none", "empty", "latin", "utf16", "two", "good")))
    write(tmp_path / "empty.txt", " \n")
    write(tmp_path / "latin.txt", b"a caf\xe9")
    write(tmp_path / "utf16.txt", "caption".encode("utf-16"))
    write(tmp_path / "two.txt", "x")
    write(tmp_path / "two.caption", "y")
    write(tmp_path / "good.txt", "x")
    entries = folder(tmp_path)
    told = {entry.where.rsplit("/")[-1]: entry.problems for entry in entries if isinstance(entry, LeftOut)}
    assert {name: problems[0].what for name, problems in told.items()} == {
        "none.mp4": "no caption file",
        "empty.mp4": "the caption is empty",
        "latin.mp4": "is not UTF-8 text",
        "utf16.mp4": "is not UTF-8 text",
        "two.mp4": "two caption files",
    }
    assert told["latin.mp4"][0].found == "byte 0xe9 at offset 5"
    assert told["latin.mp4"][0].where.endswith("latin.txt")
    assert "UTF-16" in told["utf16.mp4"][0].found
    assert [entry.key for entry in entries if isinstance(entry, Record)] == ["s/good.mp4"]


def test_folder_without_media(tmp_path):
    write(tmp_path / "a.txt", "x")
    with pytest.raises(DataError, match=r"no videos or images[\s\S]*1 x \.txt"):
        folder(tmp_path)


def test_folder_names_what_it_passes_over(tmp_path, caplog):
    touch(tmp_path / "a.mp4", tmp_path / "b.wmv")
    write(tmp_path / "a.txt", "x")
    write(tmp_path / "orphan.txt", "x")
    assert len(folder(tmp_path)) == 1
    assert "b.wmv, orphan.txt" in caplog.text


def test_folder_follows_links_once(tmp_path):
    touch(tmp_path / "far" / "a.mp4")
    write(tmp_path / "far" / "a.txt", "x")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "near").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "loop").symlink_to(tmp_path / "far")
    assert [record.key for record in folder(tmp_path / "set")] == ["s/near/a.mp4"]


def test_file_names_that_are_not_text(tmp_path):
    touch(tmp_path / "a.mp4")
    write(tmp_path / "a.txt", "x")
    try:
        with open(os.fsencode(tmp_path) + b"/\xff.mp4", "wb"), open(os.fsencode(tmp_path) + b"/\xff.txt", "wb") as file:
            file.write(b"x")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    bad = [entry for entry in folder(tmp_path) if isinstance(entry, LeftOut)]
    assert [entry.problems[0].what for entry in bad] == ["the name of the media file is not text"]


def test_captions_from_names(tmp_path, caplog):
    touch(tmp_path / "a_red-ball__rolls 03.mp4", tmp_path / "sub" / "two.cats.png", tmp_path / "_-.mp4")
    write(tmp_path / "sub" / "two.cats.txt", "not read")
    bad, *records = folder(tmp_path, captions="names", trigger="zorb")
    assert [(record.key, record.caption) for record in records] == [
        ("s/a_red-ball__rolls 03.mp4", "zorb a red ball rolls 03"),
        ("s/sub/two.cats.png", "zorb two.cats"),
    ]
    assert bad.problems[0].what == "the caption is empty"
    assert "sub/two.cats.txt" in caplog.text


def test_masks_are_no_clips(tmp_path, caplog):
    names = ("a.mp4", "a_mask.PNG", "sub/b.png", "sub/b_mask.mp4", "lost_mask.png", "c.mp4", "d.mp4", "d_mask.png")
    touch(*(tmp_path / name for name in (*names, "d_mask.mp4")))
    for name in ("a", "sub/b", "c", "d"):
        write(tmp_path / f"{name}.txt", "x")
    entries = folder(tmp_path, mask_suffix="_mask")
    records = {entry.key: entry.mask for entry in entries if isinstance(entry, Record)}
    assert records == {"s/a.mp4": tmp_path / "a_mask.PNG", "s/sub/b.png": tmp_path / "sub/b_mask.mp4"}
    told = {entry.where: entry.problems for entry in entries if isinstance(entry, LeftOut)}
    assert {Path(where).name: problems[0].what for where, problems in told.items()} == {
        "c.mp4": "the clip has no mask",
        "d.mp4": "the clip has two masks",
    }
    assert told[str(tmp_path / "d.mp4")][0].found == "d_mask.mp4, d_mask.png"
    assert "another source" in told[str(tmp_path / "c.mp4")][0].do
    assert "masks of no clip: lost_mask.png" in caplog.text
    assert len(entries) == 4
    assert len([entry for entry in folder(tmp_path) if "mask" in Path(entry.where).name]) == 5


def test_a_folder_with_a_table_is_told_of_it(tmp_path):
    touch(tmp_path / "a.mp4")
    write(tmp_path / "metadata.csv", "file_name,text\na.mp4,x\n")
    assert "metadata.csv" in folder(tmp_path)[0].problems[0].do


def test_caption_files_in_capitals(tmp_path):
    touch(tmp_path / "a.MP4")
    write(tmp_path / "a.TXT", "x")
    assert folder(tmp_path)[0].caption == "x"


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    touch(tmp_path / "a.mp4", tmp_path / "shut" / "b.mp4")
    real = os.scandir

    def scandir(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="cannot be listed") as caught:
        folder(tmp_path)
    assert caught.value.problems[0].where == str(tmp_path / "shut")


def test_what_runs_and_reports_wrote_is_no_clip(tmp_path, caplog):
    touch(
        tmp_path / "a.mp4", *(tmp_path / "runs/r" / name for name in ("recipe.toml", "events.jsonl", "samples/0.mp4"))
    )
    touch(*(tmp_path / "look" / name for name in ("report.html", "problems.csv", "clips.json", "strips/1.webp")))
    touch(tmp_path / "mine/recipe.toml", tmp_path / "mine/b.mp4")
    for name in ("a.txt", "mine/b.txt"):
        write(tmp_path / name, "x")
    assert [record.key for record in folder(tmp_path)] == ["s/a.mp4", "s/mine/b.mp4"]
    assert f"{tmp_path}: what runs and reports wrote, passed over: look, runs/r" in caplog.messages
