"""Text tables, and what folders and tables have in common."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cinelora.base.errors import DataError
from cinelora.contracts.flow import LeftOut, Record
from cinelora.contracts.geometry import Geometry
from cinelora.contracts.roles import Reader
from cinelora.data.options import DataOptions, SourceOptions
from cinelora.data.plan import make_plan
from cinelora.data.readers.folder import FolderReader
from cinelora.data.readers.registry import open_reader
from cinelora.data.readers.rows import csv_rows, json_line_rows, json_list_rows
from cinelora.data.readers.table import TableReader
from cinelora.data.sources import read_records
from data.layouts import needs_clips, shared_captions, slug, write_layout
from media.makers import SHARED_CLIPS, encode, flat_frames

SEED = Path(__file__).resolve().parents[2].parent / "shared" / "seeds" / "003_55b8e74b6a6823a6.txt"


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def table(path, *, root=None, **values):
    return list(TableReader(path, "s", SourceOptions(path="s", **values), root=root or path.parent).read())


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def test_both_readers_play_the_role(tmp_path):
    touch(tmp_path / "a.mp4")
    write(tmp_path / "t.csv", "path,caption\na.mp4,x\n")
    for path, kind in ((tmp_path, FolderReader), (tmp_path / "t.csv", TableReader)):
        reader = open_reader(path, "s", SourceOptions(path="x"), base=tmp_path)
        assert isinstance(reader, Reader)
        assert isinstance(reader, kind)


@needs_clips
@pytest.mark.parametrize("kind", ["folder", "names", "csv", "jsonl", "parquet", "datasets", "cogvideox-csv"])
def test_the_shared_clips_in_every_layout(tmp_path, kind):
    path = write_layout(kind, tmp_path)
    source = SourceOptions(path="s", captions="names" if kind == "names" else "files")
    reader = TableReader(path, "s", source, root=path.parent) if kind not in ("folder", "names") else None
    records = list((reader or FolderReader(path, "s", source)).read())
    said = [slug(caption).replace("_", " ") if kind == "names" else caption for _, caption in shared_captions()]
    assert sorted(record.caption for record in records) == sorted(said)
    assert all(record.media[0].stat().st_size > 100_000 for record in records)


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


# The lines of the CogVideoX guide for its single CSV; its header stands for names that one chooses.
GUIDE = [
    '"""A black and white animated sequence featuring a rabbit, named Rabbity Ribfried, and an anthropomorphic goat in '
    'a musical, playful environment, showcasing their evolving interaction.""","""00000.mp4"""',
    '"""A black and white animated sequence on a ship\'s deck features a bulldog character, named Bully Bulldoger, '
    "showcasing exaggerated facial expressions and body language. The character progresses from confident to focused, "
    "then to strained and distressed, displaying a range of emotions as it navigates challenges. The ship's interior "
    "remains static in the background, with minimalistic details such as a bell and open door. The character's dynamic "
    "movements and changing expressions drive the narrative, with no camera movement to distract from its evolving "
    'reactions and physical gestures.""","""00001.mp4"""',
]


@pytest.mark.parametrize("header", ["text,video", "<CAPTION_COLUMN>,<PATH_TO_VIDEO_COLUMN>"])
def test_the_table_of_the_cogvideox_guide(tmp_path, header):
    touch(tmp_path / "videos" / "00000.mp4", tmp_path / "videos" / "00001.mp4")
    path = write(tmp_path / "metadata.csv", "\n".join([header, *GUIDE, "..."]) + "\n")
    names = {} if header == "text,video" else {"caption_column": "<CAPTION_COLUMN>"}
    names |= {"path_column": "<PATH_TO_VIDEO_COLUMN>"} if names else {}
    *records, dots = table(path, root=tmp_path / "videos", **names)
    assert [record.key for record in records] == ["s/00000.mp4", "s/00001.mp4"]
    for record, line in zip(records, GUIDE, strict=True):
        assert record.caption == line.split('"""')[1]
        assert '"' not in record.caption
    assert dots.problems[0].what == "the row does not fit the header"


@pytest.mark.skipif(not SEED.exists(), reason="the guides are not here")
def test_the_guide_says_what_is_tested():
    assert set(GUIDE) <= set(SEED.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize(
    ("field", "caption"),
    [
        ('"""A cat, ""sat""."""', 'A cat, "sat".'),
        ('"""Hello,"" he said, ""you."""', '"Hello," he said, "you."'),
        ('"a ""small"" cat"', 'a "small" cat'),
        ('"""small"" cats"', '"small" cats'),
        ("plain", "plain"),
    ],
)
def test_quotes_around_a_whole_value_go_and_others_stay(tmp_path, field, caption):
    touch(tmp_path / "a.mp4")
    assert table(write(tmp_path / "t.csv", f"path,caption\na.mp4,{field}\n"))[0].caption == caption
    as_json = json.dumps({"path": "a.mp4", "caption": f'"{caption}"'})
    assert table(write(tmp_path / "t.jsonl", as_json))[0].caption == f'"{caption}"'


@pytest.mark.parametrize("mark", ["|", ":", "^"])
def test_a_delimiter_that_is_none(tmp_path, mark):
    path = write(tmp_path / "t.csv", f"path{mark}caption\na.mp4{mark}a cat\n")
    with pytest.raises(DataError) as caught:
        table(path)
    assert len(caught.value.problems) == 2
    assert {problem.found for problem in caught.value.problems} == {f"path{mark}caption"}
    assert {problem.do for problem in caught.value.problems} == {
        "separate the columns by a comma, a semicolon or a tab"
    }
    assert {problem.where for problem in caught.value.problems} == {str(path)}


def test_the_delimiter_is_that_of_the_rows(tmp_path):
    """Comma and semicolon both split this header in two; only one of them splits the rows, too."""
    touch(tmp_path / "a.mp4")
    path = write(tmp_path / "t.csv", "path;caption, long\na.mp4;a cat\n")
    assert table(path, caption_column="caption, long")[0].caption == "a cat"


def test_line_ends_and_a_mark(tmp_path):
    media(tmp_path)
    path = write(tmp_path / "t.csv", "\ufeff" + as_csv(",").replace("\n", "\r\n"))
    assert [(r.key, r.caption) for r in table(path)] == expected()
    assert [r.where for r in table(path)] == [f"{path}:2", f"{path}:3", f"{path}:5"]


def test_entries_on_one_line_are_told_apart(tmp_path):
    touch(tmp_path / "a.mp4")
    objects = [{"path": "a.mp4", "caption": "x"}, {"path": "b.mp4", "caption": "x"}, {"path": "a.mp4", "caption": "y"}]
    path = write(tmp_path / "t.json", json.dumps(objects))
    first, missing, again = table(path)
    assert isinstance(first, Record)
    assert [missing.where, again.where] == [f"{path}:1 (entry 2)", f"{path}:1 (entry 3)"]
    assert again.problems[0].what == "the same media stands in the dataset twice"
    assert again.problems[0].where == f"{path}:1 and {path}:1 (entry 3)"


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_a_key_twice_in_one_entry(tmp_path, form):
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4")
    lines = ['{"path": "b.mp4", "caption": "x"}', '{"path": "a.mp4", "path": "b.mp4", "caption": "x"}']
    text = "\n".join(lines) if form == "jsonl" else "[" + ",\n".join(lines) + "]"
    path = write(tmp_path / f"t.{form}", text)
    good, bad = table(path)
    assert good.key == "s/b.mp4"
    assert bad.problems[0].what == "the entry names a key twice"
    assert bad.problems[0].where == f"{path}:2"


def test_several_captions_in_a_list(tmp_path):
    touch(*(tmp_path / f"{name}.mp4" for name in "abc"))
    lines = [
        {"path": "a.mp4", "captions": ["a cat", "an animal", "a cat"]},
        {"path": "b.mp4", "captions": []},
        {"path": "c.mp4", "captions": ["a", 3]},
    ]
    first, empty, mixed = table(write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, lines))))
    assert (first.caption, first.more_captions) == ("a cat", ("an animal",))
    assert empty.problems[0].what == "the caption is empty"
    assert mixed.problems[0].what == "the caption is not text"


def test_links_inside_keep_their_names(tmp_path):
    """A link may name a file without a suffix, as a cache of the Hub has them, and the mask lies beside the link."""
    touch(tmp_path / "set" / "blobs" / "0a1b")
    (tmp_path / "set" / "a.mp4").symlink_to("blobs/0a1b")
    path = write(tmp_path / "set" / "t.jsonl", json.dumps({"path": "x/../a.mp4", "caption": "x"}))
    (record,) = table(path)
    assert record.key == "s/a.mp4"
    assert record.media[0].read_bytes() == b"x"
    touch(tmp_path / "set" / "b.mp4")
    (tmp_path / "way").symlink_to(tmp_path / "set")
    path = write(tmp_path / "set" / "t.jsonl", json.dumps({"path": str(tmp_path / "way" / "b.mp4"), "caption": "x"}))
    assert [record.key for root in ("set", "way") for record in table(path, root=tmp_path / root)] == ["s/b.mp4"] * 2


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


def test_unusable_media_are_told_with_their_rows(tmp_path):
    """What only opening a file shows is told by the plan, all at once, with the row that named the file."""
    encode(tmp_path / "good.mp4", flat_frames(9))
    (tmp_path / "text.mp4").write_text("this is no video\n" * 50)
    (tmp_path / "empty.mp4").write_bytes(b"")
    whole = encode(tmp_path / "cut.mp4", flat_frames(9)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    path = write(tmp_path / "t.csv", "path,caption\ngood.mp4,x\ntext.mp4,x\nempty.mp4,x\ncut.mp4,x\ngone.mp4,x\n")
    rules = DataOptions(source=[{"path": "t.csv"}])
    with pytest.raises(DataError) as caught:
        make_plan(read_records(rules, tmp_path), rules, Geometry(fps=8, frames=9, height=32, width=32), seed=0)
    told = {problem.where: problem.what for problem in caught.value.problems}
    named = {
        line: next(what for where, what in told.items() if where.startswith(f"{path}:{line}")) for line in range(3, 7)
    }
    assert named == {
        3: "cannot be decoded as a video",
        4: "media file is empty",
        5: "cannot be decoded as a video",
        6: "media file is missing",
    }
    assert len(told) == 4


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


def test_facts_that_no_clip_has_are_not_believed(tmp_path):
    touch(tmp_path / "a.mp4")
    path = write(tmp_path / "t.csv", "path,caption,width,height,frames,fps\na.mp4,x,1e9,64,1e12,20000\n")
    (entry,) = table(path)
    assert [(p.what, p.found, p.allowed) for p in entry.problems] == [
        ("width is larger than any clip's", "'1e9'", "at most 65,536"),
        ("frames is larger than any clip's", "'1e12'", "at most 10,000,000"),
        ("fps is larger than any clip's", "'20000'", "at most 10,000"),
    ]


def test_utf_16_without_a_mark_is_told(tmp_path):
    path = write(tmp_path / "t.csv", "path,caption\na.mp4,x\n", encoding="utf-16-le")
    with pytest.raises(DataError, match=r"is not UTF-8 text[\s\S]*looks like UTF-16[\s\S]*t\.csv"):
        table(path)


def test_broken_rows_say_what_to_do(tmp_path):
    touch(tmp_path / "a.mp4")
    _, short, open_quote = table(write(tmp_path / "t.csv", 'path,caption\na.mp4,x\na.mp4\na.mp4,"x\n'))
    assert (
        short.problems[0].do == "write the fields that are missing; those without a value stay empty between delimiters"
    )
    assert open_quote.problems[0].found == "a double quote that is never closed"
    lines = table(write(tmp_path / "t.jsonl", '{"path": "a.mp4", "caption": "x"}\n{"path": \n'))
    assert (lines[1].where, lines[1].problems[0].found) == (f"{tmp_path}/t.jsonl:2", "Expecting value at column 10")


def test_which_of_two_known_columns_is_taken_is_told(tmp_path, caplog):
    touch(tmp_path / "a.mp4")
    path = write(tmp_path / "t.csv", "video,file,Prompt,caption\nb.mp4,a.mp4,y,x\n")
    assert [(entry.key, entry.caption) for entry in table(path)] == [("s/a.mp4", "x")]
    told = " | ".join(caplog.messages)
    assert "path taken from column 'file', not from 'video' (path_column)" in told
    assert "caption taken from column 'caption', not from 'Prompt' (caption_column)" in told
    caplog.clear()
    table(path, path_column="file", caption_column="caption")
    assert caplog.messages == []
