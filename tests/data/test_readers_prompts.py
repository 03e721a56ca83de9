import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cinelora.base.errors import DataError
from cinelora.contracts.flow import LeftOut, Record
from cinelora.data.options import SourceOptions
from cinelora.data.readers.prompts import recognises
from cinelora.data.readers.registry import open_reader


def write(folder, prompts, videos, names=("prompts.txt", "videos.txt")):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(names, (prompts, videos), strict=True):
        if text is not None:
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def media(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def read(folder, **values):
    source = SourceOptions(path=str(folder), reader="prompts", **values)
    return list(open_reader(folder, "s", source, base=folder.parent).read())


def the_problem(folder, **values):
    with pytest.raises(DataError) as caught:
        read(folder, **values)
    (problem,) = caught.value.problems
    return problem


def test_lines_belong_together(tmp_path):
    media(tmp_path, "videos/1.mp4", "videos/0.mp4", "p.png")
    write(tmp_path, "\ufeffa  cat\r\na\u2028dog, \r\nüber\r\n", "\ufeffvideos/1.mp4\r\n videos/0.mp4 \r\np.png\r\n")
    records = read(tmp_path, repeats=2, video_repeats=2)
    assert [(r.key, r.kind, r.caption, r.where, r.repeats) for r in records] == [
        ("s/videos/1.mp4", "video", "a cat", f"{tmp_path}/videos.txt:1", 4),
        ("s/videos/0.mp4", "video", "a dog,", f"{tmp_path}/videos.txt:2", 4),
        ("s/p.png", "image", "über", f"{tmp_path}/videos.txt:3", 2),
    ]


def test_the_last_line_may_end_or_not(tmp_path):
    media(tmp_path, "a.mp4", "b.mp4")
    write(tmp_path, "x\ny", "a.mp4\nb.mp4\n")
    assert [r.caption for r in read(tmp_path)] == ["x", "y"]


def test_an_empty_caption_line_stays_a_line(tmp_path):
    media(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    write(tmp_path, "x\n\ny\n", "a.mp4\nb.mp4\nc.mp4\n")
    first, empty, last = read(tmp_path)
    assert (first.caption, last.caption, last.key) == ("x", "y", "s/c.mp4")
    assert [(p.what, p.where) for p in empty.problems] == [("the caption is empty", f"{tmp_path}/prompts.txt:2")]
    assert [r.caption for r in read(tmp_path, empty_caption="allow")] == ["x", "", "y"]
    write(tmp_path, "x\ny\n\n", "a.mp4\nb.mp4\nc.mp4\n")
    assert [isinstance(entry, Record) for entry in read(tmp_path)] == [True, True, False]


@pytest.mark.parametrize(
    ("prompts", "videos", "counts", "line", "why"),
    [
        ("1\n2\n\n3\n", "a.mp4\nb.mp4\nc.mp4\n", (4, 3), "prompts.txt:3", "empty"),
        ("1\n2\n3\n", "a.mp4\n\nb.mp4\nc.mp4\n", (3, 4), "videos.txt:2", "empty"),
        ("1\n\n3\n4", "a.mp4\nb.mp4\nc.mp4\n\n\n", (4, 5), "videos.txt:4", "empty"),
        ("1\n\n3\n", "a.mp4\nb.mp4\nc.mp4\na.mp4", (3, 4), "prompts.txt:2", "empty"),
        ("1\n2\n", "a.mp4\nand more of 1\nb.mp4\n", (2, 3), "videos.txt:2", "not the path of a video or an image"),
        ("1\n2\n", "a.mp4\nb.mp4\ngone.mp4\n", (2, 3), "videos.txt:3", "no such file"),
        ("1\n2\n", "a.mp4\n../b.mp4\nc.mp4\n", (2, 3), "videos.txt:2", "the path leaves the media folder"),
        ("1\n2\n3\n4\n5", "a.mp4\nb.mp4\nc.mp4\n", (5, 3), "prompts.txt:4", "no partner: '4'"),
        ("1\n2\n", "a.mp4\nb.mp4\nc.mp4\n", (2, 3), "videos.txt:3", "no partner: 'c.mp4'"),
        ("1\n2\n", "a.mp4\n" + "x" * 5000 + ".mp4\nc.mp4\n", (2, 3), "videos.txt:2", "no such file"),
    ],
)
def test_counts_that_differ(tmp_path, prompts, videos, counts, line, why):
    media(tmp_path, "set/a.mp4", "set/b.mp4", "set/c.mp4")
    write(tmp_path / "set", prompts, videos)
    problem = the_problem(tmp_path / "set")
    assert problem.what == "the files do not have the same number of lines"
    assert f"{counts[0]} in prompts.txt, {counts[1]} in videos.txt" in problem.found
    assert problem.where == str(tmp_path / "set" / line)
    assert why in problem.found
    assert problem.do


def test_names_of_the_files(tmp_path):
    media(tmp_path, "a.mp4")
    write(tmp_path, "x", "a.mp4", names=("captions.txt", "list"))
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    no_prompts, no_videos = caught.value.problems
    assert (no_prompts.nearest, no_videos.found) == ("captions.txt", str(tmp_path / "videos.txt"))
    assert "caption_column" in no_prompts.do
    assert "path_column" in no_videos.do
    (record,) = read(tmp_path, caption_column="captions.txt", path_column="list")
    assert (record.key, record.caption, record.where) == ("s/a.mp4", "x", f"{tmp_path}/list:1")


def test_every_bad_line_is_told(tmp_path):
    media(tmp_path, "set/a.mp4", "out.mp4")
    (tmp_path / "set" / "d.mp4").mkdir()
    values = [
        "a.mp4",
        "gone.mp4",
        "../out.mp4",
        str(tmp_path / "out.mp4"),
        "a.mp4",
        "note.doc",
        " ",
        "d.mp4",
        "n\0.mp4",
    ]
    write(tmp_path / "set", "\n".join(["x", "", *"xxxxxxx"]), "\n".join(values))
    entries = read(tmp_path / "set")
    assert isinstance(entries[0], Record)
    assert [[problem.what for problem in entry.problems] for entry in entries[1:]] == [
        ["media file is missing", "the caption is empty"],
        ["the path leaves the media folder"],
        ["the path leaves the media folder"],
        ["the same media stands in the dataset twice"],
        ["not a known kind of media"],
        ["the entry names no media file"],
        ["media path is not a file"],
        ["the path has broken characters in it"],
    ]
    assert [entry.where for entry in entries] == [f"{tmp_path}/set/videos.txt:{line}" for line in range(1, 10)]
    assert [p.where.rsplit("/")[-1] for p in entries[1].problems] == ["videos.txt:2", "prompts.txt:2"]


def test_absolute_paths_and_media_root(tmp_path):
    media(tmp_path / "far", "a.mp4", "b.mp4")
    write(tmp_path / "set", "x\ny\n", f"a.mp4\n{tmp_path}/far/b.mp4\n")
    assert [r.key for r in read(tmp_path / "set", media_root="far")] == ["s/a.mp4", "s/b.mp4"]
    assert all(isinstance(entry, LeftOut) for entry in read(tmp_path / "set"))


@pytest.mark.parametrize(
    ("prompts", "videos", "what", "where"),
    [
        ("", "", "the file has no lines", "prompts.txt"),
        (" \n\n", "a.mp4\n", "the file has no lines", "prompts.txt"),
        (b"caf\xe9\n", "a.mp4\n", "is not UTF-8 text", "prompts.txt"),
        ("x", "a.mp4".encode("utf-16"), "is not UTF-8 text", "videos.txt"),
        ("x", None, "the file is missing", ""),
    ],
)
def test_files_that_cannot_be_used(tmp_path, prompts, videos, what, where):
    write(tmp_path, prompts, videos)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    problem = caught.value.problems[0]
    assert (problem.what, problem.where) == (what, str(tmp_path / where))


def test_recognises_both_files(tmp_path):
    for names, known in [
        (("prompts.txt", "videos.txt"), True),
        (("prompts.txt", "video.txt"), True),
        (("prompt.txt", "videos.txt"), True),
        (("captions.txt", "videos.txt"), True),
        (("prompts.txt", "readme.txt"), False),
        (("a.txt", "videos.txt"), False),
    ]:
        folder = tmp_path / "-".join(names)
        write(folder, "x", "a.mp4", names=names)
        assert recognises(folder) is known, names
    captioned = tmp_path / "clips"
    write(captioned, "x", "y", names=("prompt.txt", "video.txt"))
    media(captioned, "prompt.mp4", "video.mp4")
    assert not recognises(captioned)
    assert not recognises(tmp_path / "gone")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary() | st.text(alphabet="a.mp4\n\r /\0é").map(str.encode), st.text(alphabet="xy \n\r").map(str.encode))
def test_every_line_is_accounted_for(tmp_path, videos, prompts):
    media(tmp_path, "a.mp4")
    write(tmp_path, prompts, videos)
    try:
        entries = read(tmp_path)
    except DataError:
        return
    assert len(entries) == prompts.count(b"\n") + (not prompts.endswith(b"\n"))
    assert all(entry.key == "s/a.mp4" for entry in entries if isinstance(entry, Record))
