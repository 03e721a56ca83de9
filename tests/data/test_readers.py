import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cinelora.base.errors import DataError
from cinelora.contracts.flow import LeftOut, Record
from cinelora.contracts.roles import Reader
from cinelora.data.options import SourceOptions
from cinelora.data.readers.folder import FolderReader
from cinelora.data.readers.registry import open_reader
from cinelora.data.readers.rows import csv_rows, json_line_rows, json_list_rows
from cinelora.data.readers.table import TableReader
from media.makers import SHARED_CLIPS


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def folder(path, **values):
    return list(FolderReader(path, "s", SourceOptions(path="s", **values)).read())


def table(path, *, root=None, **values):
    return list(TableReader(path, "s", SourceOptions(path="s", **values), root=root or path.parent).read())


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


# --- folders


def test_folder(tmp_path):
    for name in ("b.mp4", "a.PNG", "sub/c.webm", "sub/deep/d.gif", ".hidden/e.mp4", "._b.mp4"):
        touch(tmp_path / name)
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


def test_both_readers_play_the_role(tmp_path):
    touch(tmp_path / "a.mp4")
    write(tmp_path / "t.csv", "path,caption\na.mp4,x\n")
    for path, kind in ((tmp_path, FolderReader), (tmp_path / "t.csv", TableReader)):
        reader = open_reader(path, "s", SourceOptions(path="x"), base=tmp_path)
        assert isinstance(reader, Reader)
        assert isinstance(reader, kind)


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


# --- tables

ROWS = [("a.mp4", "a cat, sitting"), ("sub/b.png", 'say "hi"\nthere'), ("c.mp4", "über")]


def media(tmp_path):
    touch(*(tmp_path / name for name, _ in ROWS))


def expected():
    return [("s/a.mp4", "a cat, sitting"), ("s/sub/b.png", 'say "hi" there'), ("s/c.mp4", "über")]


def as_csv(delimiter):
    quoted = [tuple('"' + value.replace('"', '""') + '"' for value in row) for row in ROWS]
    return "\n".join(delimiter.join(row) for row in [("file_path", "text"), *quoted]) + "\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv(tmp_path, delimiter, mark):
    media(tmp_path)
    path = write(tmp_path / "t.csv", mark + as_csv(delimiter))
    records = table(path)
    assert [(r.key, r.caption) for r in records] == expected()
    assert [r.where for r in records] == [f"{path}:2", f"{path}:3", f"{path}:5"]


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_json(tmp_path, form):
    media(tmp_path)
    objects = [{"Video": name, "Prompt": text} for name, text in ROWS]
    if form == "jsonl":
        text = "\n\n".join(json.dumps(value) for value in objects)
    else:
        text = "[\n\n" + ",\n\n".join(json.dumps(value) for value in objects) + "\n]\n"
    path = write(tmp_path / f"t.{form}", text)
    records = table(path)
    assert [(r.key, r.caption) for r in records] == expected()
    lines = (1, 3, 5) if form == "jsonl" else (3, 5, 7)
    assert [r.where for r in records] == [f"{path}:{line}" for line in lines]


def test_triple_quotes(tmp_path):
    touch(tmp_path / "a.mp4")
    path = write(tmp_path / "t.csv", 'path,caption\na.mp4,"""A cat, ""sat""."""\n')
    assert table(path)[0].caption == '"A cat, "sat"."'


def test_columns_can_be_named(tmp_path):
    touch(tmp_path / "a.mp4")
    path = write(tmp_path / "t.csv", "path,clip,caption,long\nx.mp4,a.mp4,short,longer\n")
    record = table(path, path_column="clip", caption_column="long")[0]
    assert (record.key, record.caption) == ("s/a.mp4", "longer")


def test_facts(tmp_path):
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4")
    path = write(
        tmp_path / "t.csv",
        "path,caption,width,height,num_frames,FPS\na.mp4,x,640,480,49,29.97\nb.mp4,x,,,,\nc.mp4,x,wide,-1,4.5,nan\n",
    )
    first, second, third = table(path)
    assert dict(first.facts) == {"width": 640, "height": 480, "frames": 49, "fps": 29.97}
    assert dict(second.facts) == {}
    assert [p.what for p in third.problems] == [
        "width is not a positive whole number",
        "height is not a positive whole number",
        "num_frames is not a positive whole number",
        "FPS is not a positive number",
    ]
    assert {p.where for p in third.problems} == {f"{path}:4"}


def test_missing_columns_are_named_with_the_nearest(tmp_path):
    path = write(tmp_path / "t.csv", "fille_path,captoin\na.mp4,x\n")
    with pytest.raises(DataError) as caught:
        table(path)
    no_path, no_caption = caught.value.problems
    assert (no_path.found, no_caption.found) == ("fille_path, captoin", "fille_path, captoin")
    assert "fille_path" in no_path.nearest
    assert "captoin" in no_caption.nearest
    assert no_path.where == str(path)
    with pytest.raises(DataError, match="no column 'capton'") as caught:
        table(path, path_column="fille_path", caption_column="capton")
    assert caught.value.problems[0].nearest == "captoin"


def test_every_bad_row_is_told_with_its_line(tmp_path):
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "n.doc")
    (tmp_path / "d.mp4").mkdir()
    lines = [
        {"path": "a.mp4", "caption": "x"},
        {"path": "gone.mp4", "caption": ""},
        {"path": "a.mp4", "caption": "again"},
        {"path": "n.doc", "caption": "x"},
        {"path": "d.mp4", "caption": "x"},
        {"path": "b.mp4", "caption": 7},
        {"caption": "x"},
        {"path": None, "caption": "x"},
        ["b.mp4", "x"],
        {"path": "b.mp4", "caption": None},
    ]
    path = write(tmp_path / "t.jsonl", "\n".join(json.dumps(line) for line in lines) + '\n{"path": \n')
    bad = [entry for entry in table(path) if isinstance(entry, LeftOut)]
    told = [(int(entry.where.rsplit(":")[-1]), [problem.what for problem in entry.problems]) for entry in bad]
    assert told == [
        (2, ["media file is missing", "the caption is empty"]),
        (3, ["the same media stands in the dataset twice"]),
        (4, ["not a known kind of media"]),
        (5, ["media path is not a file"]),
        (6, ["the caption is not text"]),
        (7, ["the entry names no media file"]),
        (8, ["the entry names no media file"]),
        (9, ["the entry is not a JSON object"]),
        (10, ["the caption is empty"]),
        (11, ["not valid JSON"]),
    ]
    assert all(problem.where for entry in bad for problem in entry.problems)


@pytest.mark.parametrize("escape", ["../out.mp4", "sub/../../out.mp4", "{outside}", "link/out.mp4", "/etc/passwd.mp4"])
def test_paths_stay_inside(tmp_path, escape):
    touch(tmp_path / "out.mp4", tmp_path / "set" / "in.mp4")
    (tmp_path / "set" / "link").symlink_to(tmp_path)
    value = escape.format(outside=tmp_path / "out.mp4")
    path = write(tmp_path / "set" / "t.jsonl", json.dumps({"path": value, "caption": "x"}))
    (entry,) = table(path)
    assert entry.problems[0].what == "the path leaves the media folder"
    assert entry.problems[0].found == value


def test_absolute_paths_inside_and_media_root(tmp_path):
    touch(tmp_path / "videos" / "a.mp4")
    absolute = str(tmp_path / "videos" / "a.mp4")
    (tmp_path / "tables").mkdir()
    path = write(tmp_path / "tables" / "t.jsonl", json.dumps({"path": absolute, "caption": "x"}))
    assert isinstance(table(path)[0], LeftOut)
    reader = open_reader(path, "s", SourceOptions(path="x", media_root="videos"), base=tmp_path)
    assert [record.key for record in reader.read()] == ["s/a.mp4"]


def test_odd_strings_in_paths(tmp_path):
    values = ["a\0.mp4", "\ud800.mp4", "x" * 5000 + ".mp4", "  "]
    lines = [json.dumps({"path": value, "caption": "x"}) for value in values]
    entries = table(write(tmp_path / "t.jsonl", "\n".join(lines)))
    assert [entry.problems[0].what for entry in entries] == [
        "the path has broken characters in it",
        "the path has broken characters in it",
        "media file cannot be reached",
        "the entry names no media file",
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "has no rows"),
        ("t.csv", "path,caption\n", "has no rows"),
        ("t.jsonl", "\n\n", "has no rows"),
        ("t.json", "[]", "has no rows"),
        ("t.json", '{"path": "a"}', "not a JSON list"),
        ("t.csv", b"path,caption\na.mp4,caf\xe9\n", "0xe9 at offset 22"),
        ("t.csv", "path,path\na.mp4,x\n", "names a column twice"),
        ("t.jsonl", "path,caption\na.mp4,x\n", "not valid JSON"),
        ("t.csv", 'path,caption\n"a.mp4,x\n', "broken from here on"),
    ],
)
def test_what_is_no_table(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        table(write(tmp_path / name, text))


def test_rows_that_do_not_fit_the_header():
    rows = list(csv_rows("path,caption\na,b\nc,d,e\n\nf\n"))
    assert [(row.line, bool(row.problem)) for row in rows] == [(2, False), (3, True), (5, True)]
    assert rows[1].problem.found == "3 fields"


def test_no_caption_column_where_none_is_needed(tmp_path):
    touch(tmp_path / "a.mp4")
    path = write(tmp_path / "t.csv", "path\na.mp4\n")
    assert table(path, empty_caption="allow", trigger="zorb")[0].caption == "zorb"
    with pytest.raises(DataError, match="no known caption column"):
        table(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.one_of(st.text(), st.text(alphabet='{}[]",:\\ \n\tpath0e+-\ud800')), st.sampled_from(["csv", "jsonl", "json"])
)
def test_any_text_gives_entries_or_a_data_error(tmp_path, text, form):
    path = write(tmp_path / f"t.{form}", text.encode("utf-8", "surrogatepass"))
    try:
        entries = table(path)
    except DataError:
        return
    assert all(isinstance(entry, LeftOut) for entry in entries)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none()), min_size=1), min_size=1))
def test_json_lists_read_as_json_does(objects):
    for text in (json.dumps(objects), json.dumps(objects, indent=2)):
        rows = list(json_list_rows(text))
        assert [row.values for row in rows] == objects
        assert [row.line for row in rows] == sorted(row.line for row in rows)
    lines = "\n".join(json.dumps(value) for value in objects)
    assert [row.values for row in json_line_rows(lines)] == objects


@pytest.mark.skipif(not SHARED_CLIPS.exists(), reason="the shared clips are not here")
def test_the_shared_table():
    records = table(SHARED_CLIPS / "captions.jsonl")
    assert len(records) == 9
    assert all(isinstance(record, Record) and record.caption for record in records)
