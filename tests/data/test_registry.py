import json
import tarfile

import pytest

from cinelora.base.errors import DataError
from cinelora.contracts.flow import Record
from cinelora.contracts.roles import Reader
from cinelora.data.options import SourceOptions
from cinelora.data.readers.registry import READERS, open_reader
from data.layouts import needs_clips, shared_captions, slug, write_layout


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def opened(path, **values):
    return open_reader(path, "s", SourceOptions(path=str(path), **values), base=path.parent)


def problems_of(path, **values):
    with pytest.raises(DataError) as caught:
        opened(path, **values)
    return caught.value.problems


def example(kind, folder):
    """The smallest source that is plainly of one kind."""
    touch(folder / "a.mp4", folder / "videos/p/7.mp4")
    texts = {
        "webvid": ("t.csv", "videoid,page_dir,name\n7,p,x\n"),
        "easyanimate": ("t.json", json.dumps([{"file_path": "a.mp4", "text": "x", "type": "video"}])),
        "table": ("t.csv", "path,caption\na.mp4,x\n"),
    }
    if kind in texts:
        name, text = texts[kind]
        (folder / name).write_text(text)
        return folder / name
    if kind == "prompts":
        (folder / "prompts.txt").write_text("x\n")
        (folder / "videos.txt").write_text("a.mp4\n")
        return folder
    if kind == "webdataset":
        with tarfile.open(folder / "clips.tar", "w") as tar:
            tar.add(folder / "a.mp4", "a.mp4")
            (folder / "a.json").write_text('{"caption": "x"}')
            tar.add(folder / "a.json", "a.json")
        return folder / "clips.tar"
    if kind == "pairs":
        touch(folder / "pairs" / "a_start.png", folder / "pairs" / "a_end.png")
        return folder / "pairs"
    (folder / "a.txt").write_text("x")
    (folder / "videos/p/7.txt").write_text("y")
    return folder


KINDS = ["webvid", "easyanimate", "webdataset", "table", "prompts", "pairs", "folder"]
ALSO = {"webvid": ["table"], "easyanimate": ["table"], "prompts": ["folder"], "pairs": ["folder"]}


@pytest.mark.parametrize("kind", KINDS)
def test_auto_knows_each_layout_and_says_so(tmp_path, capsys, kind):
    path = example(kind, tmp_path / "set")
    reader = opened(path)
    said = capsys.readouterr().err
    assert said.startswith(f"source 's': read as {kind} (")
    assert READERS[kind].layout in said
    for other in KINDS:
        assert (f"'{other}'" in said) == (other in ALSO.get(kind, []))
    assert isinstance(reader, Reader)
    assert type(reader) is type(opened(path, reader=kind))
    assert all(isinstance(entry, Record) for entry in reader.read())


def test_asking_for_a_reader_says_nothing(tmp_path, capsys):
    path = example("webvid", tmp_path / "set")
    opened(path, reader="webvid")
    assert capsys.readouterr().err == ""
    with pytest.raises(DataError, match="no known path column"):
        list(opened(path, reader="table").read())


def test_a_reader_that_is_asked_for_tells_what_it_misses(tmp_path):
    path = example("table", tmp_path / "set")
    for kind, message in (("webvid", "no column 'videoid'"), ("easyanimate", "no known path column")):
        with pytest.raises(DataError, match=message):
            list(opened(path, reader=kind).read())
    for kind, message in (("prompts", r"the file is missing[\s\S]*prompts.txt"), ("pairs", "no image pairs in it")):
        with pytest.raises(DataError, match=message):
            list(opened(path.parent, reader=kind).read())


@pytest.mark.parametrize("kind", ["webvid", "easyanimate", "table"])
def test_readers_of_tables_refuse_folders(tmp_path, kind):
    path = example("folder", tmp_path / "set")
    (problem,) = problems_of(path, reader=kind)
    assert problem.what == f"reader '{kind}' cannot read this path"
    assert problem.found == str(path)
    assert problem.allowed.endswith("readers that can: folder")


@pytest.mark.parametrize("kind", ["prompts", "pairs", "folder", "webdataset"])
def test_readers_of_folders_refuse_tables(tmp_path, kind):
    (problem,) = problems_of(example("easyanimate", tmp_path / "set"), reader=kind)
    assert problem.what == f"reader '{kind}' cannot read this path"
    assert problem.allowed.endswith("readers that can: easyanimate, table")


def test_paths_that_no_reader_knows(tmp_path):
    touch(tmp_path / "a.mp4")
    (problem,) = problems_of(tmp_path / "a.mp4")
    assert problem.what == "no reader knows this layout"
    assert all(kind.layout in problem.allowed for kind in READERS.values())
    (problem,) = problems_of(tmp_path / "gone")
    assert (problem.what, problem.found) == ("the source is missing", str(tmp_path / "gone"))


@pytest.mark.parametrize(
    ("kind", "values", "dead"),
    [
        ("folder", {"media_root": ".", "captions": "names", "video_repeats": 2}, "media_root"),
        ("folder", {"path_column": "x", "caption_column": "y"}, "path_column, caption_column"),
        ("table", {"captions": "names", "media_root": ".", "video_repeats": 2}, "captions"),
        ("webvid", {"caption_column": "name", "media_root": "."}, "caption_column"),
        ("prompts", {"captions": "names", "media_root": "."}, "captions"),
        ("pairs", {"video_repeats": 2, "captions": "names"}, "video_repeats"),
    ],
)
def test_settings_that_nobody_would_read(tmp_path, kind, values, dead):
    path = example(kind, tmp_path / "set")
    (problem,) = problems_of(path, **values)
    assert problem.found == dead
    assert problem.what == f"settings of other layouts have no effect on {READERS[kind].layout}"
    assert problem.where == "data.source 's'"
    others = [other for other, one in READERS.items() if set(dead.split(", ")) <= set(one.reads)]
    assert others
    assert problem.allowed == f"readers that read them: {', '.join(others)}"
    live = {name: value for name, value in values.items() if name not in dead.split(", ")}
    assert isinstance(opened(path, **live), Reader)


def test_settings_that_no_single_reader_reads(tmp_path):
    (problem,) = problems_of(example("webvid", tmp_path / "set"), captions="names", path_column="x")
    assert (problem.found, problem.allowed) == ("path_column, captions", "")


def test_names_of_the_hub_need_no_file(tmp_path, capsys):
    source = SourceOptions(path="hub:someone/clips")
    reader = open_reader(tmp_path / source.path, "clips", source, base=tmp_path)
    assert type(reader) is type(opened(example("table", tmp_path / "set"), reader="table"))
    assert "source 'clips': read as table" in capsys.readouterr().err
    with pytest.raises(DataError, match="reader 'pairs' cannot read this path"):
        open_reader(tmp_path, "clips", source.model_copy(update={"reader": "pairs"}), base=tmp_path)


def test_every_reader_of_the_options_is_here():
    asked = SourceOptions.model_fields["reader"].annotation.__args__
    assert set(READERS) == set(asked) - {"auto", "captions"}


CHOSEN = {
    "folder": "folder",
    "names": "folder",
    "csv": "table",
    "jsonl": "table",
    "parquet": "table",
    "datasets": "table",
    "easyanimate-json": "easyanimate",
    "easyanimate-csv": "easyanimate",
    "webvid": "webvid",
    "prompts": "prompts",
    "cogvideox-csv": "table",
    "pairs": "pairs",
    "webdataset": "webdataset",
}


@needs_clips
@pytest.mark.parametrize("layout", CHOSEN)
def test_the_nine_clips_in_every_layout(tmp_path, capsys, layout):
    path = write_layout(layout, tmp_path / "set")
    records = list(opened(path, captions="names" if layout == "names" else "files").read())
    assert all(isinstance(record, Record) for record in records)
    assert f"read as {CHOSEN[layout]} (" in capsys.readouterr().err
    wanted = [caption for _, caption in shared_captions()]
    if layout == "names":
        wanted = [slug(caption).replace("_", " ") for caption in wanted]
    if layout == "pairs":
        assert {record.kind for record in records} == {"pair"}
        wanted = [""] * 9
    assert sorted(record.caption for record in records) == sorted(wanted)
    assert all(file.stat().st_size > 1000 for record in records for file in record.media)


def test_a_folder_is_read_by_its_metadata_file(tmp_path, capsys):
    touch(tmp_path / "clips" / "a.mp4", tmp_path / "clips" / "sub" / "b.mp4")
    (tmp_path / "clips" / "metadata.csv").write_text("file_name,text\na.mp4,one\nsub/b.mp4,two\n")
    found = list(opened(tmp_path / "clips").read())
    assert [(record.key, record.caption) for record in found] == [("s/a.mp4", "one"), ("s/sub/b.mp4", "two")]
    assert "read as table" in capsys.readouterr().err
    (tmp_path / "clips" / "metadata.jsonl").write_text("{}\n")  # two of them: not plain which one is meant
    assert all(not isinstance(record, Record) for record in opened(tmp_path / "clips").read())


@pytest.mark.parametrize("name", ["a" * 5000, "b/" * 3000 + "c", "a\0b"])
def test_a_source_that_cannot_be_reached_is_told(tmp_path, name):
    (problem,) = problems_of(tmp_path / name)
    assert problem.what == "the source cannot be reached"
    assert problem.where == "data.source 's'"


def test_a_single_clip_leads_to_its_folder(tmp_path):
    touch(tmp_path / "a.mp4")
    (problem,) = problems_of(tmp_path / "a.mp4")
    assert problem.do == "name the folder that it lies in, or a table that names it"
