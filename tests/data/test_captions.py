import pytest

from cinelora.base.errors import DataError
from cinelora.data.captions import caption_of, has_word
from cinelora.data.options import SourceOptions


def made(text, **values):
    return caption_of(text, SourceOptions(path="x", **values))


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        (" a cat \n sits\there\r\n", {}, "a cat sits here"),
        ("a cat", {"caption_prefix": "film of "}, "film of a cat"),
        ("a cat", {"trigger": "zorb"}, "zorb a cat"),
        ("a cat", {"trigger": " zorb ", "caption_prefix": "film of"}, "zorb film of a cat"),
        ("the zorb turns", {"trigger": "zorb"}, "the zorb turns"),
        ("the zorb, turning", {"trigger": "zorb"}, "the zorb, turning"),
        ("the zorbs turn", {"trigger": "zorb"}, "zorb the zorbs turn"),
        ("the Zorb turns", {"trigger": "zorb"}, "zorb the Zorb turns"),
        ("x", {"trigger": "<id>", "caption_prefix": "<id> film"}, "<id> film x"),
        ("", {"empty_caption": "allow"}, ""),
        (" \n", {"empty_caption": "allow", "trigger": "zorb"}, "zorb"),
    ],
)
def test_one_line_with_single_spaces(text, values, expected):
    assert made(text, **values) == expected


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_an_empty_caption_is_a_problem_even_with_a_trigger(text):
    with pytest.raises(DataError, match="the caption is empty"):
        made(text, trigger="zorb")


def test_half_a_character_is_a_problem():
    with pytest.raises(DataError, match="broken characters"):
        made("a \ud83d cat")


def test_words_are_whole():
    assert has_word("a (zorb).", "zorb")
    assert not has_word("a zorb_2", "zorb")
    assert not has_word("anything", "")
