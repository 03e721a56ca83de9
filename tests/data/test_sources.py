import pytest

from cinelora.base.errors import DataError, RecipeError
from cinelora.data.options import DataOptions
from cinelora.data.rules import source_names, source_weights
from cinelora.data.sources import read_records


def options(*sources, **values):
    return DataOptions(source=list(sources), **values)


def clip(path, caption="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)


def test_sources_in_order_relative_to_the_recipe(tmp_path):
    clip(tmp_path / "data" / "one" / "a.mp4")
    clip(tmp_path / "data" / "two" / "b.mp4")
    (tmp_path / "data" / "three.csv").write_text("path,caption\ntwo/b.mp4,y\n")
    listing = read_records(
        options({"path": "one"}, {"path": str(tmp_path / "data/two")}, {"path": "three.csv"}), tmp_path / "data"
    )
    assert [record.key for record in listing.records] == ["one/a.mp4", "two/b.mp4", "three/two/b.mp4"]
    assert [record.source for record in listing.records] == ["one", "two", "three"]
    assert not listing.left_out


def test_names():
    made = options({"path": "x/clips"}, {"path": "y/clips"}, {"path": "z", "name": "clips-2"}, {"path": "."})
    assert source_names(made) == ("clips", "clips-3", "clips-2", "source")
    assert source_weights(options({"path": "a", "weight": 2}, {"path": "b"})) == {"a": 2.0, "b": 0.0}


def test_one_name_twice():
    with pytest.raises(RecipeError, match=r"same name[\s\S]*x"):
        source_names(options({"path": "a", "name": "x"}, {"path": "b", "name": "x"}))
    with pytest.raises(RecipeError, match="slash"):
        source_names(options({"path": "a", "name": "x/y"}))


def test_sources_that_cannot_be_listed_are_told_together(tmp_path):
    clip(tmp_path / "good" / "a.mp4", caption=None)
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    (tmp_path / "t.doc").write_text("x")
    names = ("good", "gone", "empty", "t.csv", "t.doc")
    sources = [{"path": name} for name in names] + [{"path": "t.csv", "reader": "folder", "name": "wrong"}]
    with pytest.raises(DataError) as caught:
        read_records(options(*sources), tmp_path)
    assert [problem.what for problem in caught.value.problems] == [
        "the source is missing",
        "no videos or images in it",
        "the table has no known path column",
        "the table has no known caption column",
        "no reader knows this layout",
        "reader 'folder' cannot read this path",
        "no caption file",
    ]
    assert all(problem.where for problem in caught.value.problems)
    with pytest.raises(DataError) as caught:
        read_records(options(*sources, on_bad="skip"), tmp_path)
    assert "no caption file" not in [problem.what for problem in caught.value.problems]


def test_bad_entries_are_handed_on_in_their_place(tmp_path):
    for name, caption in (("a", "x"), ("b", None), ("c", "x")):
        clip(tmp_path / "set" / f"{name}.mp4", caption)
    listing = read_records(options({"path": "set"}), tmp_path)
    assert [type(entry).__name__ for entry in listing.entries] == ["Record", "LeftOut", "Record"]
    assert listing.left_out[0].where.endswith("b.mp4")


def test_settings_of_tables_are_refused_on_a_folder(tmp_path):
    clip(tmp_path / "one" / "a.mp4")
    with pytest.raises(DataError, match=r"no effect on a folder[\s\S]*media_root, caption_column"):
        read_records(options({"path": "one", "media_root": "x", "caption_column": "y"}), tmp_path)
