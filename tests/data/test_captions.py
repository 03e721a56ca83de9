import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cinelora.base.errors import DataError
from cinelora.data.captions import captions_of, has_word
from cinelora.data.options import SourceOptions


def all_of(texts, *, key="s/a.mp4", **values):
    return captions_of(texts, SourceOptions(path="x", **values), key=key)


def made(text, **values):
    (caption,) = all_of(text, **values)
    return caption


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        (" a cat \n sits\there\r\n", {}, "a cat sits here"),
        ("a cat", {"caption_prefix": "film of "}, "film of a cat"),
        ("a cat", {"caption_suffix": " at night"}, "a cat at night"),
        ("a cat", {"caption_suffix": ", film grain"}, "a cat, film grain"),
        ("A cat", {"trigger": "ohwx"}, "ohwx A cat"),
        ("a cat", {"trigger": "zorb"}, "zorb a cat"),
        ("a cat", {"trigger": " zorb ", "caption_prefix": "film of"}, "zorb film of a cat"),
        ("a cat", {"trigger": "zorb", "caption_suffix": "like zorb"}, "a cat like zorb"),
        ("the zorb turns", {"trigger": "zorb"}, "the zorb turns"),
        ("the zorb, turning", {"trigger": "zorb"}, "the zorb, turning"),
        ("the zorbs turn", {"trigger": "zorb"}, "zorb the zorbs turn"),
        ("the Zorb turns", {"trigger": "zorb"}, "zorb the Zorb turns"),
        ("x", {"trigger": "<id>", "caption_prefix": "<id> film"}, "<id> film x"),
        ("", {"empty_caption": "allow"}, ""),
        (" \n", {"empty_caption": "allow", "trigger": "zorb"}, "zorb"),
        ("The video shows a cat.", {}, "The video shows a cat."),
        ("The video shows a cat.", {"trim_openings": True, "trigger": "zorb"}, "zorb A cat."),
    ],
)
def test_one_caption(text, values, expected):
    assert made(text, **values) == expected


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_an_empty_caption_is_a_problem_even_with_a_trigger(text):
    with pytest.raises(DataError, match="the caption is empty"):
        made(text, trigger="zorb")
    with pytest.raises(DataError, match="the caption is empty"):
        made(text, trigger="zorb", caption_lines="each")


def test_half_a_character_is_a_problem():
    with pytest.raises(DataError, match="broken characters"):
        made("a \ud83d cat")


def test_words_are_whole():
    assert has_word("a (zorb).", "zorb")
    assert not has_word("a zorb_2", "zorb")
    assert not has_word("anything", "")


# --- several


def test_lines_are_captions_where_the_source_says_so():
    text = "a cat\r\n\n  a small  animal \na cat\n"
    assert all_of(text, caption_lines="each", trigger="zorb") == ("zorb a cat", "zorb a small animal")
    assert all_of(text) == ("a cat a small animal a cat",)


def test_a_list_of_captions():
    assert all_of(["a cat", "an animal\nsits", "a cat"]) == ("a cat", "an animal sits")
    assert all_of(("a cat", "an animal\nsits"), caption_lines="each") == ("a cat", "an animal", "sits")


def test_every_bad_one_of_several_is_told():
    with pytest.raises(DataError) as caught:
        all_of(["a cat", "", "a \ud83d", " "])
    told = [(problem.what, problem.found) for problem in caught.value.problems]
    assert told[0] == ("the caption is empty", "caption 2 of 4")
    assert told[1][0] == "the caption has broken characters in it"
    assert told[2] == ("the caption is empty", "caption 4 of 4")
    assert all_of(["a cat", ""], empty_caption="allow") == ("a cat", "")


# --- tags

TAGS = "zorb, red,  a big ball , night,film"


def test_tags_are_shuffled_behind_those_that_stay():
    captions = all_of(TAGS, shuffle_tags=4, keep_tags=2)
    assert len(set(captions)) == 4
    for caption in captions:
        tags = caption.split(", ")
        assert tags[:2] == ["zorb", "red"]
        assert sorted(tags[2:]) == ["a big ball", "film", "night"]


def test_orders_are_drawn_by_the_record():
    orders = {key: all_of(TAGS, key=key, shuffle_tags=1) for key in map(str, range(40))}
    assert orders["7"] == all_of(TAGS, key="7", shuffle_tags=1)
    assert len(set(orders.values())) > 20
    first = [caption.split(", ")[0] for (caption,) in orders.values()]
    assert set(first) == {"zorb", "red", "a big ball", "night", "film"}
    assert all_of(TAGS, key="7", shuffle_tags=3)[:1] == orders["7"]


@given(
    st.lists(st.text("abc ", min_size=1, max_size=4), min_size=1, max_size=6),
    st.integers(1, 100),
    st.integers(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_as_many_orders_as_there_are(tags, shuffle, keep):
    text = ",".join(tags)
    known = sorted(" ".join(tag.split()) for tag in text.split(",") if tag.strip())
    captions = all_of(text, empty_caption="allow", shuffle_tags=shuffle, keep_tags=keep)
    moved = max(0, len(known) - keep)
    assert 1 <= len(captions) <= min(shuffle, math.factorial(moved))
    if len(set(known)) == len(known) and moved > 1:
        assert len(captions) == min(shuffle, math.factorial(moved))
    for caption in captions:
        assert sorted(tag.strip() for tag in caption.split(",") if tag.strip()) == known


def test_a_caption_without_tags_stays():
    assert all_of("a cat sits", shuffle_tags=5) == ("a cat sits",)
    assert all_of("a cat,", shuffle_tags=5) == ("a cat,",)


def test_tags_are_kept_only_of_those_shuffled():
    with pytest.raises(ValueError, match="keep_tags has no effect"):
        SourceOptions(path="x", keep_tags=1)


@pytest.mark.parametrize("text", ["a\0cat", "a \x1b[31mred\x1b[0m cat", "a cat\x07", "\x7f"])
def test_control_characters_are_refused(text):
    with pytest.raises(DataError, match="broken characters"):
        all_of(text)
