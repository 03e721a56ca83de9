"""Flags as argparse reads them, and keys of TOML and YAML with their lines."""

import argparse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cinelora.base.errors import RecipeError
from cinelora.config.importing.config_files import read_toml, read_yaml
from cinelora.config.importing.dialect import Dialect, Old
from cinelora.config.importing.flags import Flags
from cinelora.config.importing.shell import read_shell

SETTINGS = {
    "rank": Old("lora.rank"),
    "learning_rate": Old("train.lr"),
    "learning_rate_critic": Old("method.critic_lr"),
    "low_vram": Old(switch=True),
    "prompts": Old("preview.prompts", many=True),
    "args": Old(many=True),
    "base": Old(many=True),
    "a.b": Old(),
}
DIALECT = Dialect("d", "the trainer", SETTINGS, short={"-b": "base"}, pairs=("args",), reads=("base",))


def read(line):
    command = read_shell(f"run {line}", "run.sh").commands[0]
    return Flags(DIALECT, "run.sh").read(command.words[1:])


def said(line):
    found = read(line)
    assert found.problems == []
    return {one.name: one.value for one in found.said}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--rank 4 --learning_rate=1e-4", {"rank": "4", "learning_rate": "1e-4"}),
        ("--low_vram --rank -1", {"low_vram": True, "rank": "-1"}),
        ("--low_vram false", {"low_vram": False}),
        ("--low_v --rank=", {"low_vram": True, "rank": ""}),
        ("--prompts 'a b' c --rank 1", {"prompts": ["a b", "c"], "rank": "1"}),
        ("--prompts=a", {"prompts": ["a"]}),
        ("-b x.yaml y.yaml a.b=c", {"base": ["x.yaml", "y.yaml"], "a.b": "c"}),
        ("--rank 1 ... --low_vram", {"rank": "1", "low_vram": True}),
        ("--learning_rate 1 --learning_rate 2", {"learning_rate": "2"}),
    ],
)
def test_flags_are_read_as_argparse_does(line, expected):
    assert said(line) == expected


FLAGS = st.sampled_from(
    ["--rank", "--learning_rate", "--learning_rate_critic", "--low_vram", "--prompts", "--lo", "--p"]
)
VALUES = st.sampled_from(["1", "-2", "1e-4", "word", "a b"])


@given(st.lists(st.tuples(FLAGS, st.lists(VALUES, max_size=3), st.booleans()), max_size=4))
@settings(max_examples=200, deadline=None)
def test_what_argparse_takes_is_taken_alike(chosen):
    parser = argparse.ArgumentParser(exit_on_error=False, add_help=False)
    for name in ("rank", "learning_rate", "learning_rate_critic"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--low_vram", action="store_true")
    parser.add_argument("--prompts", nargs="+")
    words = []
    for flag, values, joined in chosen:
        words += [f"{flag}={values[0]}", *values[1:]] if joined and values else [flag, *values]
    quoted = " ".join(f"'{word}'" for word in words)
    try:
        theirs, rest = parser.parse_known_args(words)
    except (argparse.ArgumentError, SystemExit):
        return
    found = read(quoted)
    if rest:
        assert found.problems
        return
    ours = {one.name: one.value for one in found.said}
    assert ours == {name: value for name, value in vars(theirs).items() if value not in (None, False)}


@pytest.mark.parametrize(
    ("line", "what", "near"),
    [
        ("--learning_rat_critic=1", "the trainer has no such flag", "--learning_rate_critic"),
        ("--ranks 3 4 --low_vram", "the trainer has no such flag", "--rank"),
        ("--learning-rate=1", "the trainer has no such flag", "--learning_rate"),
        ("--l 1", "--l is the beginning of several flags", ""),
        ("--rank --low_vram", "--rank has no value", ""),
        ("--low_vram=yes", "--low_vram takes no value", ""),
        ("--rank 1 stray", "a word that belongs to no flag", ""),
        ("-x 1", "the trainer has no such flag", "-b"),
    ],
)
def test_what_is_wrong_is_told_with_the_nearest(line, what, near):
    (problem,) = read(line).problems
    assert problem.what == what
    assert problem.nearest.partition(", ")[0] == near
    assert problem.where == "run.sh:1"
    assert problem.do


def test_toml_keys_have_lines_and_numbers():
    text = "a = 1\n[b]\nc = [1, 2]\n[[d]]\ne = 'x'\n[[d]]\ne = 'y'\n[d.f]\ng = true\n"
    assert [(one.name, one.value, one.where) for one in read_toml(text, "x.toml")] == [
        ("a", 1, "x.toml:1"),
        ("b.c", [1, 2], "x.toml:3"),
        ("d.0.e", "x", "x.toml:5"),
        ("d.1.e", "y", "x.toml:7"),
        ("d.1.f.g", True, "x.toml:9"),
    ]


def test_yaml_keys_have_lines_and_types():
    text = "a: 1e-4\nb:\n  c: [1, 2]\n  d: null\n  e: 'yes'\n  f: yes\nlist:\n- g: x\n- g: 2.5\n"
    text += "empty: {}\nh: &x 1_000\ni: *x\n"
    assert [(one.name, one.value, one.where) for one in read_yaml(text, "x.yaml")] == [
        ("a", 1e-4, "x.yaml:1"),
        ("b.c", [1, 2], "x.yaml:3"),
        ("b.d", None, "x.yaml:4"),
        ("b.e", "yes", "x.yaml:5"),
        ("b.f", True, "x.yaml:6"),
        ("list.0.g", "x", "x.yaml:8"),
        ("list.1.g", 2.5, "x.yaml:9"),
        ("empty", {}, "x.yaml:10"),
        ("h", 1000, "x.yaml:11"),
        ("i", 1000, "x.yaml:11"),
    ]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]\n"
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    ["a: [1", "- x\n- y\n", "just words", "a: &a\n  b: *a\n", "a: &a [*a]\n", BOMB, "[" * 3000, "? [x]\n: &y {z: *y}"],
)
def test_yaml_that_cannot_be_read_is_refused(text):
    with pytest.raises(RecipeError):
        read_yaml(text, "x.yaml")


def test_yaml_tags_make_nothing():
    (one,) = read_yaml("a: !!python/object/apply:os.system ['true']\n", "x.yaml")
    assert one.value == ["true"]


def test_toml_that_cannot_be_read_is_refused_with_its_line():
    with pytest.raises(RecipeError, match="valid TOML") as caught:
        read_toml("a = 1\nb = \n", "x.toml")
    assert caught.value.problems[0].where == "x.toml:2"
