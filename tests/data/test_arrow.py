"""Parquet, folders of `datasets` and the Hub, as sources of rows."""

import logging
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Features, Value, Video
from huggingface_hub import constants
from pyarrow import parquet

from cinelora.base.errors import DataError
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import SourceOptions
from cinelora.data.readers.arrow import is_datasets_folder
from cinelora.data.readers.registry import open_reader
from cinelora.data.readers.table import TableReader, recognises


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()


def read(path, *, root=None, **values):
    return list(TableReader(path, "s", SourceOptions(path="s", **values), root=root or path.parent).read())


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def rows(*names, **more):
    return {"video": list(names), "caption": [f"this is {name}" for name in names], **more}


def written(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)
    return path


def said(entries):
    return [(entry.key, entry.caption) for entry in entries]


# --- Parquet


def test_parquet(tmp_path):
    touch(tmp_path, "a.mp4", "sub/b.png")
    more = {"width": [640, None], "fps": [12.5, 8.0], "a.b": [1, 2]}
    path = written(tmp_path / "t.parquet", rows("a.mp4", "sub/b.png", **more))
    assert recognises(path)
    records = read(path)
    assert said(records) == [("s/a.mp4", "this is a.mp4"), ("s/sub/b.png", "this is sub/b.png")]
    assert [record.where for record in records] == [f"{path}:1", f"{path}:2"]
    assert [dict(record.facts) for record in records] == [{"width": 640, "fps": 12.5}, {"fps": 8.0}]


def test_rows_are_counted_over_batches(tmp_path):
    path = written(tmp_path / "t.parquet", rows(*(f"{k}.mp4" for k in range(2500))))
    touch(tmp_path, "1700.mp4")
    entries = read(path)
    assert len(entries) == 2500
    (found,) = (entry for entry in entries if isinstance(entry, Record))
    assert (found.key, found.where) == ("s/1700.mp4", f"{path}:1701")


def test_columns_with_odd_names_and_lists(tmp_path):
    touch(tmp_path, "a.mp4")
    path = written(tmp_path / "t.parquet", {"meta.path": ["a.mp4"], "my texts": [["a cat", "an animal"]]})
    (record,) = read(path, path_column="meta.path", caption_column="my texts")
    assert (record.caption, record.more_captions) == ("a cat", ("an animal",))


def test_every_bad_row_of_parquet_is_told(tmp_path):
    touch(tmp_path, "a.mp4")
    columns = {
        "path": ["gone.mp4", None, "../x.mp4", "a.mp4", "a.mp4", "a.mp4"],
        "caption": ["x", "x", "x", None, "x", "x"],
    }
    path = written(tmp_path / "t.parquet", columns)
    entries = read(path)
    assert [entry.problems[0].what for entry in entries if isinstance(entry, LeftOut)] == [
        "media file is missing",
        "the entry names no media file",
        "the path leaves the media folder",
        "the caption is empty",
        "the same media stands in the dataset twice",
        "the same media stands in the dataset twice",
    ]
    assert [entry.where for entry in entries] == [f"{path}:{row}" for row in range(1, 7)]


def test_bytes_that_are_no_text(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    captions = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"x\xff")]
    )
    path = written(tmp_path / "t.parquet", {"path": pa.array(["a.mp4", "b.mp4"]), "caption": captions})
    good, bad = read(path)
    assert good.caption == "x"
    assert bad.where == f"{path}:2"
    assert bad.problems[0].what == "the caption is not text"
    assert "UnicodeDecodeError" in bad.problems[0].found


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": pa.array([], pa.string()), "caption": pa.array([], pa.string())}, "has no rows"),
        ({"pth": ["a"], "caption": ["x"]}, "no known path column"),
        ({"path": ["a"]}, "no known caption column"),
    ],
)
def test_parquet_without_clips(tmp_path, columns, message):
    path = written(tmp_path / "t.parquet", columns)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert caught.value.problems[0].where == str(path)


@pytest.mark.parametrize("content", [b"", b"path,caption\na.mp4,x\n", b"PAR1" + b"\0" * 50 + b"PAR1"])
def test_what_is_no_parquet(tmp_path, content):
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as Parquet") as caught:
        read(tmp_path / "t.parquet")
    assert caught.value.problems[0].where == str(tmp_path / "t.parquet")


def test_truncated_parquet(tmp_path):
    path = written(tmp_path / "t.parquet", rows(*(f"{k}.mp4" for k in range(100))))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(path)


# --- media values of `datasets`


def video_column(*values):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.table({"video": pa.array(values, kind), "caption": [f"c{k}" for k in range(len(values))]})


def test_a_media_value_counts_by_its_path(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    values = [
        {"bytes": None, "path": "a.mp4"},
        {"bytes": b"video", "path": "b.mp4"},
        {"bytes": b"video", "path": "gone.mp4"},
        {"bytes": b"video", "path": None},
        {"bytes": None, "path": None},
        None,
        {"bytes": None, "path": "gone.mp4"},
        {"bytes": None, "path": "/etc/passwd.mp4"},
    ]
    parquet.write_table(video_column(*values), tmp_path / "t.parquet")
    entries = read(tmp_path / "t.parquet")
    assert [entry.key for entry in entries if isinstance(entry, Record)] == ["s/a.mp4", "s/b.mp4"]
    assert [entry.problems[0].what for entry in entries if isinstance(entry, LeftOut)] == [
        "the table holds the media file itself",
        "the table holds the media file itself",
        "the entry names no media file",
        "the entry names no media file",
        "media file is missing",
        "the path leaves the media folder",
    ]
    assert "save each to a file" in entries[2].problems[0].do


# --- folders of `datasets`


def test_save_to_disk(tmp_path):
    touch(tmp_path / "set", "videos/a.mp4", "videos/b.mp4")
    made = Dataset.from_dict(rows("videos/a.mp4", "videos/b.mp4", "videos/gone.mp4")).select([1, 0])
    made.save_to_disk(str(tmp_path / "set"))
    assert recognises(tmp_path / "set")
    reader = open_reader(tmp_path / "set", "s", SourceOptions(path="set"), base=tmp_path)
    records = list(reader.read())
    assert said(records) == [
        ("s/videos/b.mp4", "this is videos/b.mp4"),
        ("s/videos/a.mp4", "this is videos/a.mp4"),
    ]
    assert records[0].where == f"{tmp_path / 'set'}:1"


def test_saved_videos_are_inside_the_table_and_refused(tmp_path):
    touch(tmp_path, "a.mp4")
    features = Features({"video": Video(), "caption": Value("string")})
    made = Dataset.from_dict({"video": [str(tmp_path / "a.mp4")], "caption": ["x"]}, features=features)
    made.save_to_disk(str(tmp_path / "set"))
    (entry,) = read(tmp_path / "set")
    assert entry.problems[0].what == "the table holds the media file itself"


def test_the_training_split(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    touch(tmp_path, "a.mp4", "b.mp4")
    one, two = (Dataset.from_dict(rows(name)) for name in ("a.mp4", "b.mp4"))
    DatasetDict({"test": one, "train": two}).save_to_disk(str(tmp_path / "set"))
    assert [record.key for record in read(tmp_path / "set", media_root="x", root=tmp_path)] == ["s/b.mp4"]
    assert "'train' of test, train" in caplog.text
    DatasetDict({"only": one}).save_to_disk(str(tmp_path / "single"))
    assert [record.key for record in read(tmp_path / "single", media_root="x", root=tmp_path)] == ["s/a.mp4"]
    DatasetDict({"one": one, "two": two}).save_to_disk(str(tmp_path / "none"))
    with pytest.raises(DataError, match="no split 'train'") as caught:
        read(tmp_path / "none")
    assert caught.value.problems[0].found == "one, two"


@pytest.mark.parametrize("inside", ["", "data"])
def test_a_folder_of_parquet_files(tmp_path, inside, caplog):
    caplog.set_level(logging.INFO)
    touch(tmp_path / "set", "videos/a.mp4", "videos/b.mp4")
    written(tmp_path / "set" / inside / "train-00000-of-00002.parquet", rows("videos/b.mp4"))
    written(tmp_path / "set" / inside / "train-00001-of-00002.parquet", rows("videos/a.mp4"))
    written(tmp_path / "set" / inside / "test-00000-of-00001.parquet", rows("videos/gone.mp4"))
    assert recognises(tmp_path / "set")
    records = read(tmp_path / "set")
    assert [record.key for record in records] == ["s/videos/b.mp4", "s/videos/a.mp4"]
    assert [record.where[-2:] for record in records] == [":1", ":2"]
    assert "not test-00000-of-00001.parquet" in caplog.text


def test_files_of_one_table_have_the_same_columns(tmp_path):
    written(tmp_path / "set" / "a.parquet", rows("a.mp4"))
    bad = written(tmp_path / "set" / "b.parquet", {"video": ["b.mp4"], "text": ["x"]})
    with pytest.raises(DataError, match="different columns") as caught:
        read(tmp_path / "set")
    assert (caught.value.problems[0].where, caught.value.problems[0].found) == (str(bad), "video, text")


@pytest.mark.parametrize("form", ["stream", "file"])
def test_a_folder_of_arrow_files(tmp_path, form):
    """The cache of `datasets`: dataset_info.json and the stream that its writer leaves."""
    touch(tmp_path / "set", "a.mp4")
    table = pa.table(rows("a.mp4"))
    with (
        pa.OSFile(str(tmp_path / "set" / "x-train.arrow"), "wb") as sink,
        (pa.ipc.new_stream if form == "stream" else pa.ipc.new_file)(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    (tmp_path / "set" / "dataset_info.json").write_text("{}")
    assert [record.key for record in read(tmp_path / "set")] == ["s/a.mp4"]


def test_what_is_no_folder_of_datasets(tmp_path):
    touch(tmp_path / "clips", "a.mp4", "a.txt")
    written(tmp_path / "clips" / "metadata.parquet", rows("a.mp4"))
    assert not is_datasets_folder(tmp_path / "clips")
    (tmp_path / "empty").mkdir()
    assert not is_datasets_folder(tmp_path / "empty")
    (tmp_path / "empty" / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match="holds no table"):
        read(tmp_path / "empty")
    (tmp_path / "empty" / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as a folder of `datasets`"):
        read(tmp_path / "empty")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.arrow").write_bytes(b"no arrow")
    with pytest.raises(DataError, match="cannot be read as Arrow"):
        read(tmp_path / "bad")


# --- the Hub


def hub(name="hub:owner/clips", **values):
    return list(TableReader(Path(name), "s", SourceOptions(path=name, **values), root=Path(".")).read())


def test_a_dataset_of_the_hub(tmp_path, monkeypatch):
    """The library gives paths into its cache, where a file is a link to a blob without suffix."""
    cache = tmp_path / "hub"
    snapshot = cache / "datasets--owner--clips" / "snapshots" / "0123abc"
    touch(cache / "datasets--owner--clips", "blobs/ffff")
    touch(snapshot, "other.txt")
    (snapshot / "clips").mkdir()
    (snapshot / "clips" / "a.mp4").symlink_to("../../../blobs/ffff")
    paths = [str(snapshot / "clips" / "a.mp4"), "/etc/passwd.mp4"]
    features = Features({"video": Video(), "caption": Value("string")})
    made = Dataset.from_dict({"video": paths, "caption": ["a cat", "x"]}, features=features)
    asked = []
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **words: asked.append((names, words)) or made)
    record, bad = hub()
    assert (record.key, record.caption, record.where) == ("s/clips/a.mp4", "a cat", "hub:owner/clips:1")
    assert record.media[0].read_bytes() == b"x"
    assert bad.problems[0].what == "the path leaves the media folder"
    assert asked == [(("owner/clips",), {"split": "train"})]
    reader = open_reader(tmp_path / "nowhere", "s", SourceOptions(path="hub:owner/clips"), base=tmp_path)
    assert said([next(iter(reader.read()))]) == [("s/clips/a.mp4", "a cat")]


def test_names_in_a_dataset_of_the_hub_need_a_folder(tmp_path, monkeypatch):
    touch(tmp_path, "a.mp4")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: Dataset.from_dict(rows("a.mp4")))
    with pytest.raises(DataError, match="not where they lie") as caught:
        hub()
    assert (caught.value.problems[0].found, caught.value.problems[0].where) == ("a.mp4", "hub:owner/clips")
    source = SourceOptions(path="hub:owner/clips", media_root=".")
    reader = open_reader(tmp_path, "s", source, base=tmp_path)
    assert [record.key for record in reader.read()] == ["s/a.mp4"]


def test_a_dataset_that_cannot_be_had(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("Couldn't reach 'owner/clips' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(DataError) as caught:
        hub()
    (problem,) = caught.value.problems
    assert problem.what == "the dataset cannot be had"
    assert "OfflineModeIsEnabled" in problem.found
    assert problem.where == "hub:owner/clips"
    assert "name the folder" in problem.do


@pytest.mark.parametrize("name", ["hub:", "hub:a/b/c", "hub:../x", "hub:owner/na me"])
def test_what_is_no_name_of_the_hub(name, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(DataError, match="not a name of the Hub") as caught:
        hub(name)
    assert caught.value.problems[0].allowed == "hub:OWNER/NAME"


def test_a_folder_that_would_be_read_in_place_of_the_hub(tmp_path, monkeypatch):
    (tmp_path / "owner" / "clips").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(DataError, match="a folder of that name lies here"):
        hub()
