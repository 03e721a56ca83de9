import pytest
from golden_case import find_cases

from cinelora.base.errors import DataError
from cinelora.contracts.flow import LeftOut
from cinelora.data.options import SourceOptions
from cinelora.data.readers.registry import open_reader
from cinelora.data.readers.webvid import recognises
from data.golden_webvid_csv import check_csv

HEADER = "videoid,contentUrl,duration,page_dir,name,dynamic_confidence\n"


def clips(folder, *names):
    for name in names:
        path = folder / "videos" / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def read(folder, text, **values):
    table = folder / "data.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    source = SourceOptions(path="data.csv", reader="webvid", **values)
    return list(open_reader(table, "s", source, base=folder).read())


def told(entry):
    assert isinstance(entry, LeftOut)
    assert all(problem.where for problem in entry.problems)
    return [problem.what for problem in entry.problems]


def test_rows_are_text_and_none_is_lost(tmp_path):
    clips(tmp_path, "000001_000050/00012", "a/7", "b/NA", "sub/dir/clip one", "b/1e3")
    entries = read(
        tmp_path,
        HEADER
        + '00012,http://x,PT20S,000001_000050,"A cat, sniffing\n a shoe",95\n'
        + "7,,,a,no other cell is filled,\n"
        + "NA,NA,N/A,b,NA,null\n"
        + 'clip one,x,x,sub/dir,"  quote ""inside""  ",1.50\n'
        + "1e3,x,x,b,nan,0\n",
    )
    assert [(entry.key, entry.caption, entry.where.rsplit(":")[-1]) for entry in entries] == [
        ("s/videos/000001_000050/00012.mp4", "A cat, sniffing a shoe", "2"),
        ("s/videos/a/7.mp4", "no other cell is filled", "4"),
        ("s/videos/b/NA.mp4", "NA", "5"),
        ("s/videos/sub/dir/clip one.mp4", 'quote "inside"', "6"),
        ("s/videos/b/1e3.mp4", "nan", "7"),
    ]
    assert entries[0].media[0].samefile(tmp_path / "videos/000001_000050/00012.mp4")
    assert {entry.kind for entry in entries} == {"video"}


def test_the_suffix_is_always_added(tmp_path):
    clips(tmp_path, "a/7.mp4", "a/8.v2")
    entries = read(tmp_path, HEADER + "7.mp4,,,a,x,\n8.v2,,,a,y,\n")
    assert [entry.key for entry in entries] == ["s/videos/a/7.mp4.mp4", "s/videos/a/8.v2.mp4"]


def test_media_root_and_order_of_columns(tmp_path):
    clips(tmp_path / "far", "a/7")
    (entry,) = read(tmp_path, "name,page_dir,videoid\nx,a,7\n", media_root="far")
    assert entry.media[0].samefile(tmp_path / "far" / "videos/a/7.mp4")


def test_rows_said_again_are_repeats(tmp_path, caplog):
    clips(tmp_path, "a/7", "a/8")
    rows = "7,,,a,x,95\n8,,,a,y,95\n" + "7,other,1,a,x,94\n" * 4
    seven, eight = read(tmp_path, HEADER + rows, repeats=3, video_repeats=2)
    assert (seven.repeats, eight.repeats) == (30, 6)
    assert "4 rows say a video and its caption once more" in caplog.text


def test_one_video_with_two_captions(tmp_path):
    clips(tmp_path, "a/7")
    first, second = read(tmp_path, HEADER + "7,,,a,x,\n7,,,a,y,\n")
    assert first.caption == "x"
    assert told(second) == ["the same media stands in the dataset twice"]
    assert second.problems[0].where.endswith("data.csv:2 and " + second.where)


def test_empty_captions(tmp_path):
    clips(tmp_path, "a/7")
    (entry,) = read(tmp_path, HEADER + "7,,,a, ,\n")
    assert told(entry) == ["the caption is empty"]
    (entry,) = read(tmp_path, HEADER + "7,,,a,,\n", empty_caption="allow")
    assert entry.caption == ""


def test_every_bad_row_is_told_with_its_line(tmp_path):
    clips(tmp_path, "a/7")
    (tmp_path / "out.mp4").write_bytes(b"x")
    entries = read(
        tmp_path,
        HEADER
        + "8,,,a,x,\n"
        + " ,,, ,x,\n"
        + "7,,,../..,x,\n"
        + "../../out,,,a,x,\n"
        + "7,,,/a,x,\n"
        + "7,,,a,x\n"
        + "7,,,a,x,\n",
    )
    assert [entry.where.rsplit(":")[-1] for entry in entries] == list("2345678")
    assert [told(entry) for entry in entries[:-1]] == [
        ["media file is missing"],
        ["the row has no videoid", "the row has no page_dir"],
        ["page_dir leaves the folder videos"],
        ["videoid leaves the folder videos"],
        ["page_dir leaves the folder videos"],
        ["the row does not fit the header"],
    ]
    assert entries[0].problems[0].found.endswith("videos/a/8.mp4")
    assert entries[2].problems[0].found == "../.."
    assert entries[-1].key == "s/videos/a/7.mp4"


def test_links_do_not_lead_out(tmp_path):
    clips(tmp_path / "far", "a/7")
    (tmp_path / "set" / "videos").mkdir(parents=True)
    (tmp_path / "set" / "videos" / "a").symlink_to(tmp_path / "far" / "videos" / "a")
    (entry,) = read(tmp_path / "set", HEADER + "7,,,a,x,\n")
    assert told(entry) == ["the path leaves the media folder"]


def test_mark_line_ends_and_delimiters(tmp_path):
    clips(tmp_path, "a/7")
    for delimiter in ",;\t":
        text = "\ufeffvideoid,page_dir,name\r\n7,a,x\r\n".replace(",", delimiter)
        (entry,) = read(tmp_path, text)
        assert (entry.key, entry.caption) == ("s/videos/a/7.mp4", "x")


def test_missing_columns_are_told_together(tmp_path):
    with pytest.raises(DataError) as caught:
        read(tmp_path, "video_id,pagedir,text\n7,a,x\n")
    assert [(problem.what, problem.nearest) for problem in caught.value.problems] == [
        ("the table has no column 'videoid'", "video_id"),
        ("the table has no column 'page_dir'", "pagedir"),
        ("the table has no column 'name'", ""),
    ]
    assert {problem.where for problem in caught.value.problems} == {str(tmp_path / "data.csv")}
    assert "videoid, page_dir, name" in caught.value.problems[0].do


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        (HEADER, "has no rows"),
        ("videoid|page_dir|name\n7|a|x\n", "no column 'videoid'"),
        (b"videoid,page_dir,name\n7,a,caf\xe9\n", "0xe9 at offset 29"),
        ("videoid,page_dir,name\n7,a,x\n".encode("utf-16"), "UTF-16"),
        (b"videoid,name,page_dir,name\n7,a,x,y\n", "names a column twice"),
    ],
)
def test_what_is_no_table(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_recognises_by_the_header(tmp_path):
    table = tmp_path / "t.csv"
    for text, known in [
        (HEADER + "7,,,a,x,\n", True),
        ("Name,VideoID,page_dir\nx,7,a\n", True),
        ("videoid,page_dir\n7,a\n", False),
        (HEADER, False),
        (b"\xff\xfe\x00", False),
        ("videoid,page_dir,name\n" + "7,a,é\n" * 60_000, True),
    ]:
        table.write_bytes(text if isinstance(text, bytes) else text.encode())
        assert recognises(table) is known
    (tmp_path / "t.json").write_text('[{"videoid": "7", "page_dir": "a", "name": "x"}]')
    assert not recognises(tmp_path / "t.json")
    assert not recognises(tmp_path)


CASES = [case for case in find_cases(None) if case.kind == "webvid_dataset"]


@pytest.mark.skipif(not CASES, reason="the golden cases are not here")
def test_the_rows_of_the_reference(tmp_path):
    for number, case in enumerate(CASES):
        check_csv(case, tmp_path / str(number))
