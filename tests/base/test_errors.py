import pytest

from cinelora.base.errors import (
    CineloraError,
    DataError,
    Problem,
    Problems,
    RecipeError,
    RunError,
    WeightsError,
    nearest,
)


def test_exit_codes_by_kind():
    assert [e.exit_code for e in (RecipeError, DataError, WeightsError, RunError)] == [2, 3, 4, 1]


def test_a_problem_says_what_found_allowed_where_do():
    text = str(
        Problem("frames do not fit", found="16", allowed="4k + 1", nearest="13 or 17", where="a.toml:3", do="use 17")
    )
    lines = ["frames do not fit", "found: 16", "allowed: 4k + 1", "nearest: 13 or 17", "where: a.toml:3", "do: use 17"]
    assert [line.strip() for line in text.splitlines()] == lines


def test_one_problem_stands_alone_and_many_are_numbered():
    assert str(DataError(Problem("bad"))) == "bad"
    text = str(DataError(Problem("first", found="x"), Problem("second")))
    assert text.splitlines()[0] == "2 problems in the data, all of them:"
    assert "1. first\n     found: x\n2. second" in text


def test_problems_are_raised_together_or_not_at_all():
    problems = Problems(WeightsError)
    problems.raise_if_any()
    problems.add("a", found="1")
    problems.add("b")
    with pytest.raises(WeightsError) as caught:
        problems.raise_if_any()
    assert [p.what for p in caught.value.problems] == ["a", "b"]


def test_nearest_finds_the_likely_word():
    assert nearest("lerning_rate", ["learning_rate", "rank"]) == "learning_rate"
    assert nearest("zzz", ["rank"]) == ""


def test_every_error_is_in_the_tree_of_the_docstring():
    import cinelora.base.errors as errors

    assert {c.__name__ for c in CineloraError.__subclasses__()} <= set(errors.__doc__.replace("-", " ").split())


def test_what_a_terminal_would_obey_is_written_out():
    told = str(Problem("missing", found="a\x1b[2J\x07\udcff.mp4", do="line one\nline two é"))
    assert told == "missing\n  found: a\\x1b[2J\\x07\\udcff.mp4\n  do: line one\nline two é"
