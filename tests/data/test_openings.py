import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cinelora.data.openings import without_opening

CUT = {
    "The video shows a cat on a mat.": "A cat on a mat.",
    "the video clip depicts that a cat sleeps": "A cat sleeps",
    "This short video features: two dogs": "Two dogs",
    "The images show a row of houses": "A row of houses",
    "In this video, we see a man walking.": "A man walking.",
    "In this video, a man walks.": "A man walks.",
    "In the image we can see that snow falls": "Snow falls",
    "Throughout the scene, the camera is still.": "The camera is still.",
    "The scene opens with a harbour at dawn": "A harbour at dawn",
    "The opening shot captures élan": "Élan",
    "A brief clip showing a red car": "A red car",
    "A video that shows 3 birds": "3 birds",
    "This is a video of a lake": "A lake",
    "Here, we see a lake": "A lake",
    "The viewer can observe a lake": "A lake",
    "Caption: a lake": "A lake",
    "Certainly! Here is a detailed caption for the video: The video shows a lake.": "A lake.",
    "Here's a short description of this clip: a lake": "A lake",
    "The video shows the video shows a lake": "A lake",
}
KEPT = (
    "A cat on a mat.",
    "A video of a cat",
    "The black and white video shows a cat",
    "The video is set in Rome",
    "The video follows a man through Rome",
    "The videographer shows a cat",
    "The video showsa cat",
    "In this video a man walks",
    "We seek a cat",
    "the scene opens, with a bang",
    "The video shows",
    "The video shows ...",
    'This video depicts "_"',
    "",
)


@pytest.mark.parametrize("caption", CUT)
def test_what_is_cut(caption):
    assert without_opening(caption) == CUT[caption]


@pytest.mark.parametrize("caption", KEPT)
def test_what_stays(caption):
    assert without_opening(caption) == caption


WORDS = "the this a in video clip scene image shows depicts opens with we see can , : . of cat ß ſhows İ é 2 Caption:"
PIECES = st.sampled_from(WORDS.split())
CAPTIONS = st.one_of(st.lists(PIECES, max_size=12).map(" ".join), st.text().map(lambda text: " ".join(text.split())))


@given(CAPTIONS)
@settings(max_examples=400, deadline=None)
def test_cutting_twice_is_cutting_once_and_leaves_whole_words(caption):
    rest = without_opening(caption)
    assert without_opening(rest) == rest
    if rest == caption:
        return
    assert any(letter.isalnum() for letter in rest)
    tail = caption[-len(rest) :] if len(rest) <= len(caption) else ""
    assert rest[1:] == tail[1:]
    assert rest[0] in (tail[0], tail[0].upper())
    assert caption[: -len(rest)].endswith(" ")


def test_long_captions_are_cut_at_once():
    """No pattern may take time that grows with the square of the text."""
    caption = "The video shows " * 2000 + "a lake"
    assert without_opening(caption) == "A lake"
    assert without_opening("here is the " + "a " * 50_000) == "here is the " + "a " * 50_000
