import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cinelora.base.errors import DataError
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import SourceOptions
from cinelora.data.readers.easyanimate import recognises
from cinelora.data.readers.registry import open_reader

ROWS = [
    {"file_path": "v/b.mp4", "text": "a dog", "type": "video", "width": 720, "height": 480},
    {"file_path": "a.jpg", "text": "a cat, sitting", "type": "image"},
    {"file_path": "c.PNG", "text": 'says "hi"'},
    {"file_path": "a.mp4", "text": "a bird", "type": "video"},
]


def media(folder, *names):
    for name in names or [row["file_path"] for row in ROWS]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def read(path, content, **values):
    content = json.dumps(content) if isinstance(content, list) else content
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    source = SourceOptions(path=path.name, reader="easyanimate", **values)
    return list(open_reader(path, "s", source, base=path.parent).read())


def told(entry):
    assert isinstance(entry, LeftOut)
    assert all(problem.where == entry.where for problem in entry.problems)
    return [problem.what for problem in entry.problems]


def as_csv(delimiter=","):
    lines = [delimiter.join(("file_path", "text", "type", "width", "height"))]
    for row in ROWS:
        text = '"' + row["text"].replace('"', '""') + '"'
        rest = (row.get("type", ""), str(row.get("width", "")), str(row.get("height", "")))
        lines.append(delimiter.join((row["file_path"], text, *rest)))
    return "\ufeff" + "\r\n".join(lines) + "\r\n"


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "tsv"])
def test_videos_and_images_in_one_run(tmp_path, form):
    media(tmp_path)
    content = {
        "json": json.dumps(ROWS, indent=1),
        "jsonl": "\n".join(map(json.dumps, ROWS)),
        "csv": as_csv(),
        "tsv": as_csv("\t"),
    }
    records = read(tmp_path / f"m.{form}", content[form], repeats=2, video_repeats=3)
    assert [(r.key, r.kind, r.caption, r.repeats) for r in records] == [
        ("s/v/b.mp4", "video", "a dog", 6),
        ("s/a.jpg", "image", "a cat, sitting", 2),
        ("s/c.PNG", "image", 'says "hi"', 2),
        ("s/a.mp4", "video", "a bird", 6),
    ]
    assert [dict(r.facts) for r in records] == [{"width": 720, "height": 480}, {}, {}, {}]


def test_where_no_row_has_a_type_the_files_say_it(tmp_path):
    media(tmp_path)
    rows = [{"file_path": row["file_path"], "text": "x", "type": ""} for row in ROWS]
    for content in (rows, [{k: row[k] for k in ("file_path", "text")} for row in rows]):
        assert [r.kind for r in read(tmp_path / "m.json", content)] == ["video", "image", "image", "video"]


def test_types_that_are_wrong_or_contradict(tmp_path):
    media(tmp_path, *(f"{name}.mp4" for name in "abcdefg"), "h.png", "j.png")
    rows = [
        ("a.mp4", "Video"),
        ("b.mp4", "movie"),
        ("c.mp4", 7),
        ("d.mp4", None),
        ("e.mp4", ""),
        ("f.mp4", "image"),
        ("g.mp4", " video "),
        ("h.png", "video"),
        ("i.gif", "image"),
        ("j.png", None),
        ("k.gif", "image"),
        ("gone.gif", "image"),
        ("gone.mp4", "image"),
    ]
    grey = [Image.new("L", (8, 8), level) for level in (0, 90)]
    grey[0].save(tmp_path / "i.gif", save_all=True, append_images=grey[1:], duration=100)
    grey[0].save(tmp_path / "k.gif")
    content = [{"file_path": path, "text": "x", "type": kind} for path, kind in rows]
    entries = read(tmp_path / "m.json", content)
    wrong, contradicts = ["not a known type"], ["the type contradicts the file"]
    assert [told(e) if isinstance(e, LeftOut) else e.kind for e in entries] == [
        *(wrong, wrong, wrong, contradicts, contradicts, contradicts, "video", contradicts, contradicts, "image"),
        *("image", ["media file is missing"], [*contradicts, "media file is missing"]),
    ]
    problems = [entry.problems[0] if isinstance(entry, LeftOut) else None for entry in entries]
    assert (problems[0].found, problems[0].nearest) == ("'Video'", "video")
    assert "image" in problems[0].allowed
    assert problems[3].found == "no type, which means 'image', and d.mp4"
    assert problems[5].found == "type 'image', and f.mp4"
    assert problems[5].allowed == "video"
    assert problems[7].do == "write 'image' as its type, or name a video"


def test_a_type_is_missing_from_some_rows(tmp_path):
    media(tmp_path, "a.mp4", "b.png", "c.mp4")
    rows = [{"file_path": f, "text": "x"} for f in ("a.mp4", "b.png")] + [
        {"file_path": "c.mp4", "text": "x", "type": "video"}
    ]
    first, second, third = read(tmp_path / "m.json", rows)
    assert told(first) == ["the type contradicts the file"]
    assert (second.kind, third.kind) == ("image", "video")


def test_everything_wrong_with_a_row_is_told(tmp_path):
    media(tmp_path, "a.mp4", "in/x.mp4")
    (tmp_path / "folder.mp4").mkdir()
    rows = [
        {"file_path": "gone.mp4", "text": "", "type": "film", "width": "wide"},
        {"file_path": "../a.mp4", "text": 7, "type": "video"},
        {"file_path": "/etc/hosts.mp4", "text": "x", "type": "video"},
        {"text": "x", "type": "video"},
        {"file_path": "a.wmv", "text": "x", "type": "video"},
        {"file_path": "folder.mp4", "text": "x", "type": "video"},
        {"file_path": "a.mp4", "text": "x", "type": "video"},
        {"file_path": "in/../a.mp4", "text": "y", "type": "video"},
        {"file_path": "in/x.mp4", "type": "video"},
        "x",
    ]
    entries = read(tmp_path / "m.jsonl", "\n".join(map(json.dumps, rows)) + '\n{"file_path":\n')
    assert [told(entry) for entry in entries if isinstance(entry, LeftOut) and "twice" not in str(entry.problems)] == [
        ["width is not a positive whole number", "not a known type", "media file is missing", "the caption is empty"],
        ["the path leaves the media folder", "the caption is not text"],
        ["the path leaves the media folder"],
        ["the entry names no media file"],
        ["not a known kind of media"],
        ["media path is not a file"],
        ["the caption is empty"],
        ["the entry is not a JSON object"],
        ["not valid JSON"],
    ]
    assert [entry.where.rsplit(":")[-1] for entry in entries] == [str(line) for line in range(1, 12)]
    assert [entry.key for entry in entries if isinstance(entry, Record)] == ["s/a.mp4"]
    assert entries[7].problems[0].what == "the same media stands in the dataset twice"


def test_paths_from_media_root_and_absolute_ones(tmp_path):
    media(tmp_path / "set", "a.mp4", "b.mp4")
    (tmp_path / "tables").mkdir()
    path = tmp_path / "tables" / "m.json"
    rows = [{"file_path": "a.mp4", "text": "x"}, {"file_path": str(tmp_path / "set" / "b.mp4"), "text": "y"}]
    assert [r.key for r in read(path, rows, media_root="../set")] == ["s/a.mp4", "s/b.mp4"]
    assert [told(entry) for entry in read(path, rows)] == [
        ["media file is missing"],
        ["the path leaves the media folder"],
    ]


def test_triple_quotes_of_a_csv(tmp_path):
    media(tmp_path, "a.mp4")
    (record,) = read(tmp_path / "m.csv", 'file_path,text,type\n"""a.mp4""","""A cat, sitting.""",video\n')
    assert (record.key, record.caption) == ("s/a.mp4", "A cat, sitting.")


def test_columns_can_be_named(tmp_path):
    media(tmp_path, "a.mp4")
    rows = [{"file_path": "no.mp4", "clip": "a.mp4", "text": "short", "long": "longer", "type": "video"}]
    (record,) = read(tmp_path / "m.json", rows, path_column="clip", caption_column="long")
    assert (record.key, record.caption) == ("s/a.mp4", "longer")


def test_missing_columns_are_told_together(tmp_path):
    with pytest.raises(DataError) as caught:
        read(tmp_path / "m.csv", "filepath,txt\na.mp4,x\n")
    assert [(p.found, p.allowed, p.nearest) for p in caught.value.problems] == [
        ("filepath, txt", "file_path", "filepath"),
        ("filepath, txt", "text", "txt"),
    ]
    media(tmp_path, "a.mp4")
    (record,) = read(tmp_path / "m.csv", "file_path\na.mp4\n", empty_caption="allow")
    assert record.caption == ""
    with pytest.raises(DataError, match="no column 'tetx'"):
        read(tmp_path / "m.csv", "file_path,text\na.mp4,x\n", empty_caption="allow", caption_column="tetx")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.json", "[]", "has no rows"),
        ("m.csv", "file_path,text,type\n", "has no rows"),
        ("m.csv", "file_path|text|type\na.mp4|x|video\n", "no known path column"),
        ("m.json", '{"file_path": "a.mp4"}', "not a JSON list"),
        ("m.json", "[1, 2]", "not a JSON object"),
        ("m.json", b"\xff\xfe[]", "UTF-16"),
        ("m.csv", 'file_path,text\n"a.mp4,x\n', "broken from here on"),
    ],
)
def test_what_is_no_table(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path / name, text)


def test_recognises_by_the_columns(tmp_path):
    for name, text, known in [
        ("a.json", json.dumps(ROWS), True),
        ("b.json", json.dumps(ROWS * 5000, indent=2), True),
        ("c.csv", as_csv(), True),
        ("d.csv", "file_path,caption\na.mp4,x\n", False),
        ("e.json", '[{"file_path": "a.mp4", "caption": "x"}]', False),
        ("f.json", '{"file_path": "a.mp4", "text": "x"}', False),
        ("g.json", "[" * 100_000, False),
        ("h.txt", as_csv(), False),
    ]:
        (tmp_path / name).write_text(text)
        assert recognises(tmp_path / name) is known, name
    assert not recognises(tmp_path)


VALUES = st.one_of(st.none(), st.integers(), st.text(max_size=5), st.sampled_from(["a.mp4", "b.png", "video", "image"]))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(["file_path", "text", "type", "width"]), VALUES), max_size=5))
def test_every_row_is_accounted_for(tmp_path, rows):
    media(tmp_path, "a.mp4", "b.png")
    try:
        entries = read(tmp_path / "m.json", rows)
    except DataError:
        return
    assert len(entries) == len(rows)
    for entry, row in zip(entries, rows, strict=True):
        if isinstance(entry, Record):
            assert entry.caption == " ".join(row["text"].split())
            assert entry.kind == ("video" if row["file_path"].strip() == "a.mp4" else "image")
