"""Where options are used is read from the source: on small packages, then on the project's own."""

import ast
from pathlib import Path

import pytest

import cinelora
from cinelora.config.recipe import Recipe
from cinelora.config.schema import keys_of
from cinelora.config.source_types import Sources
from cinelora.config.uses import option_of, read_uses, uses

OPTIONS = """
class Inner:
    size: int = 1
    unread: int = 2

class Outer(Inner):
    items: list[Inner] = ()
    name: str = "a"

    def _check(self):
        return self.name
"""
PARTS = {
    "annotated": "def f(options: Inner):\n    return options.size\n",
    "quoted": "def f(options: 'Inner | None'):\n    return options.size\n",
    "of another class": "class Other:\n    size: int = 1\ndef f(options: Other):\n    return options.size\n",
    "of nothing known": "def f(options):\n    return options.size\n",
    "set": "def f(options: Inner):\n    options.size = 3\n",
    "a loop": "def f(outer: Outer):\n    for k, one in enumerate(outer.items):\n        yield one.size\n",
    "zipped": "def f(outer: Outer):\n    return [two.size for one, two in zip('ab', outer.items)]\n",
    "inherited": "def f(outer: Outer):\n    return outer.size\n",
    "kept": "class C:\n    def __init__(self, o: Inner):\n        self.o = o\n    def f(self):\n        self.o.size\n",
    "given back": "def g() -> dict[str, Inner]: ...\ndef f():\n    return g()['a'].size\n",
    "unpacked": "def f(a: Inner, b):\n    one, two = a, b\n    return one.size\n",
    "by name": "def f(options: Inner):\n    return [getattr(options, name) for name in ('size',)]\n",
    "a lambda": "def f() -> Callable[[str, Inner], int]:\n    return lambda a, b: b.size\n",
}
NOT = ("of another class", "of nothing known", "set")


def package(tmp_path, text):
    folder = tmp_path / "pack"
    folder.mkdir()
    (folder / "options.py").write_text(OPTIONS)
    (folder / "work.py").write_text("from pack.options import Inner, Outer\n" + text)
    return folder


@pytest.mark.parametrize("name", PARTS)
def test_an_attribute_counts_where_its_object_is_of_the_class(tmp_path, name):
    found = read_uses(package(tmp_path, PARTS[name]))
    places = found.used.get(("pack.options:Inner", "size"), [])
    lines = ("from pack.options import Inner, Outer\n" + PARTS[name]).splitlines()
    assert len(places) == (name not in NOT)
    for place in places:
        file, _, line = place.rpartition(":")
        assert file == "pack/work.py"
        assert "size" in lines[int(line) - 1] or "getattr" in lines[int(line) - 1]


def test_what_nothing_reads_has_no_use_and_what_is_checked_alone_neither(tmp_path):
    found = read_uses(package(tmp_path, PARTS["annotated"]))
    assert ("pack.options:Inner", "unread") not in found.used
    assert not found.used.get(("pack.options:Outer", "name"))
    assert found.checked["pack.options:Outer", "name"] == ["pack/options.py:11"]
    assert found.declared["pack.options:Inner", "unread"] == "pack/options.py:4"


def test_raw_tables_are_read_by_their_keys(tmp_path):
    text = (
        "class Source:\n    tables: dict\ndef f(source: Source):\n    inner = source.tables.get('inner')\n"
        "    return inner['size']\n"
    )
    folder = package(tmp_path, text)
    (folder / "options.py").write_text(OPTIONS + "\nclass Whole:\n    inner: Inner\n")
    found = read_uses(folder, tables={"pack.work:Source": "pack.options:Whole"})
    assert found.used["pack.options:Inner", "size"] == ["pack/work.py:6"]
    assert found.used["pack.options:Whole", "inner"] == ["pack/work.py:5"]


def test_a_package_without_source_has_no_places(tmp_path):
    assert Sources(tmp_path).modules == []
    assert read_uses(tmp_path).declared == {}


def test_every_key_of_a_recipe_is_declared_and_used_where_it_is_said_to_be():
    found, root = uses(), Path(cinelora.__file__).parents[1]
    texts: dict[str, list[str]] = {}
    num = 0
    for key in keys_of(Recipe):
        name = key.names[-1]
        declared = found.declared[option_of(key.owner, name)]
        for place, words in [
            (declared, (f"{name}:",)),
            *((p, (name, "getattr")) for p in found.used[option_of(key.owner, name)]),
        ]:
            file, _, line = place.rpartition(":")
            lines = texts.setdefault(file, (root / file).read_text().splitlines())
            assert any(word in lines[int(line) - 1] for word in words), f"{key.dotted}: {place}"
            num += 1
        assert found.used[option_of(key.owner, name)], f"nothing reads {key.dotted}"
    assert num > 400


def test_names_that_many_things_have_are_told_apart():
    """`size` is an attribute of pictures, files and geometries, too; every use of data.size is of its own room."""
    found = uses()
    of_data = {place.rpartition(":")[0] for place in found.used["cinelora.data.options:ClipRules", "size"]}
    of_previews = {place.rpartition(":")[0] for place in found.used["cinelora.preview.options:PreviewOptions", "size"]}
    assert of_data
    assert all(file.startswith("cinelora/data/") for file in of_data)
    assert of_previews
    assert not any(file.startswith("cinelora/data/") for file in of_previews)


def test_the_source_is_read_and_not_run():
    tree = ast.parse((Path(cinelora.__file__).parent / "config" / "uses.py").read_text())
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"exec", "eval", "__import__", "import_module"}
