"""Captions without clips: every layout that has some, keys that stay, and what is refused."""

import json

import pytest
from datasets import Dataset

from cinelora.base.errors import DataError
from cinelora.contracts.flow import LeftOut
from cinelora.data.options import DataOptions, SourceOptions
from cinelora.data.readers.captions import open_captions
from cinelora.data.sources import read_records
from media.makers import encode, flat_frames


def read(path, **values):
    source = SourceOptions(path=str(path), **values)
    return list(open_captions(path, "s", source, base=path.parent).read())


def the_problem(path, **values):
    with pytest.raises(DataError) as caught:
        read(path, **values)
    (problem,) = caught.value.problems
    return problem


def said(entries):
    assert all((entry.kind, entry.media, entry.mask) == ("caption", (), None) for entry in entries)
    assert len({entry.key for entry in entries}) == len(entries)
    return [entry.caption for entry in entries]


def test_a_list_has_one_caption_a_line(tmp_path):
    (tmp_path / "p.txt").write_bytes("\ufeffa  red ball\r\n\r\n  \na\u2028dog, \nüber".encode())
    entries = read(tmp_path / "p.txt", repeats=3, caption_dropout=0.25, trigger="ohwx")
    assert said(entries) == ["ohwx a red ball", "ohwx a dog,", "ohwx über"]
    assert [entry.where for entry in entries] == [f"{tmp_path}/p.txt:{line}" for line in (1, 4, 5)]
    assert {(entry.repeats, entry.caption_dropout, entry.source) for entry in entries} == {(3, 0.25, "s")}


def test_keys_are_of_the_words_and_stay_when_others_come(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\na dog\na cat\nein Hund läuft\n犬が走る\n!?\n" + "x" * 300)
    keys = [entry.key for entry in read(tmp_path / "p.txt")]
    assert len(set(keys)) == 7
    assert keys[0].startswith("s/a-cat-")
    assert keys[2] == f"{keys[0]}-2"
    assert keys[3].startswith("s/ein-hund-läuft-")
    assert keys[4].startswith("s/犬が走る-")
    assert all(len(key) < 60 for key in keys)
    (tmp_path / "p.txt").write_text("new\na dog\nanother\na cat\n")
    assert {keys[0], keys[1]} < {entry.key for entry in read(tmp_path / "p.txt")}


@pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.csv", "t.tsv", "t.parquet"])
def test_tables_need_captions_alone_and_their_paths_are_not_looked_at(tmp_path, name):
    path, rows = tmp_path / name, [{"text": "a cat"}, {"text": "a dog"}]
    rows = [{"file_path": f"gone/../../{k}.mp4", "type": "nonsense", **row} for k, row in enumerate(rows)]
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        lines = [("\t" if path.suffix == ".tsv" else ",").join(row) for row in (rows[0], *map(dict.values, rows))]
        path.write_text("\n".join(lines))
    for reader in ("auto", "captions", "table", "easyanimate"):
        assert said(read(path, reader=reader)) == ["a cat", "a dog"]


def test_a_column_of_another_name_and_several_captions(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"words": ["a cat", "one cat"]}\n{"words": "a dog"}\n')
    first, second = read(tmp_path / "t.jsonl", caption_column="words")
    assert (first.caption, first.more_captions, second.caption) == ("a cat", ("one cat",), "a dog")
    problem = the_problem(tmp_path / "t.jsonl")
    assert (problem.what, problem.found) == ("the table has no known caption column", "words")
    (tmp_path / "w.csv").write_text("videoid,page_dir,name\n1,a,a cat\n2,b,a dog\n")
    assert said(read(tmp_path / "w.csv")) == ["a cat", "a dog"]


def test_folders_of_clips_are_not_opened(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "broken.mp4").write_bytes(b"no video at all")
    (folder / "broken.txt").write_text("a cat")
    (folder / "two_words.png").write_bytes(b"")
    (folder / "two_words.txt").write_text("a dog")
    entries = read(folder, repeats=2)
    assert said(entries) == ["a cat", "a dog"]
    assert [(entry.key, entry.repeats) for entry in entries] == [("s/broken.mp4", 2), ("s/two_words.png", 2)]
    assert said(read(folder, captions="names")) == ["broken", "two words"]
    (folder / "two_words.txt").unlink()
    assert isinstance(read(folder)[1], LeftOut)


def test_folders_of_lists_and_of_texts(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    (tmp_path / "videos.txt").write_text("one line alone\n")
    assert said(read(tmp_path)) == said(read(tmp_path, reader="prompts")) == ["a cat", "a dog"]
    (tmp_path / "prompts.txt").rename(tmp_path / "mine.txt")
    assert said(read(tmp_path, caption_column="mine.txt")) == ["a cat", "a dog"]
    (tmp_path / "mine.txt").unlink()
    (tmp_path / "videos.txt").unlink()
    (tmp_path / "b.txt").write_text("two\nlines\n")
    (tmp_path / "a.caption").write_text("first")
    assert said(read(tmp_path)) == ["first", "two lines"]
    assert said(read(tmp_path, caption_lines="each"))[1] == "two"


def test_the_table_of_a_folder_is_found(tmp_path):
    encode(tmp_path / "a.mp4", flat_frames(5, 32, 32), fps=8)
    (tmp_path / "metadata.csv").write_text("file_name,text\na.mp4,a cat\n")
    assert said(read(tmp_path)) == ["a cat"]


def test_what_is_wrong_with_an_entry_stands_where_it_is(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a cat"}\n{"text": 5}\nno json\n{"text": ""}\n{"text": "a\\u0007b"}\n')
    ok, *wrong = read(tmp_path / "t.jsonl")
    assert ok.caption == "a cat"
    assert [(entry.problems[0].what, entry.where) for entry in wrong] == [
        ("the caption is not text", f"{tmp_path}/t.jsonl:2"),
        ("not valid JSON", f"{tmp_path}/t.jsonl:3"),
        ("the caption is empty", f"{tmp_path}/t.jsonl:4"),
        ("the caption has broken characters in it", f"{tmp_path}/t.jsonl:5"),
    ]
    assert [problem.where for entry in wrong for problem in entry.problems] == [entry.where for entry in wrong]


@pytest.mark.parametrize(
    ("files", "values", "what"),
    [
        ({"p.txt": "\n \n"}, {"path": "p.txt"}, "the file has no lines"),
        ({"p.txt": b"\xff\xfea"}, {"path": "p.txt"}, "is not UTF-8 text"),
        ({"p.bin": "x"}, {"path": "p.bin"}, "there are no captions to read"),
        ({"p.txt": "x"}, {"path": "p.txt", "reader": "folder"}, "there are no captions to read"),
        ({}, {"path": "gone.txt"}, "the source is missing"),
        ({"f/a.bin": "x"}, {"path": "f"}, "no captions in it"),
        ({"f/a.txt": "x"}, {"path": "f", "reader": "prompts"}, "the file is missing"),
        ({"f/a.txt": "x"}, {"path": "f", "caption_column": "b.txt"}, "the file is missing"),
        ({"p.txt": "x"}, {"path": "p.txt", "captions": "names"}, "settings of other layouts have no effect"),
        ({"p.txt": "x"}, {"path": "p.txt", "caption_column": "b"}, "settings of other layouts have no effect"),
        ({"f/a.mp4": "x", "f/a.txt": "x"}, {"path": "f", "caption_lines": "one", "captions": "names"}, ""),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path, files, values, what):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    options = DataOptions(show="captions", source=[values])
    if not what:
        assert len(read_records(options, tmp_path).records) == 1
        return
    with pytest.raises(DataError, match=what):
        read_records(options, tmp_path)


def test_a_list_without_the_option_is_told_what_to_set(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\n")
    with pytest.raises(DataError, match=r"data.show = 'captions'"):
        read_records(DataOptions(source=[{"path": "p.txt"}]), tmp_path)
