import numpy as np
import pytest

from cinelora.preview.sheet import GAP, LINE_HEIGHT, PAPER, beside, contact_sheet, side_by_side


def clip(frames, colour=None):
    """Frame k is of grey k (or of one colour), 8 x 12."""
    pixels = np.zeros((frames, 8, 12, 3), np.uint8)
    pixels[:] = np.arange(frames)[:, None, None, None] if colour is None else colour
    return pixels


def test_sheet_takes_evenly_spaced_frames_with_both_ends():
    page = contact_sheet([clip(9)], num_columns=3, min_height=8)
    assert page.shape == (8 + GAP, 3 * 12 + 2 * GAP, 3)
    assert [int(page[0, k * (12 + GAP), 0]) for k in range(3)] == [0, 4, 8]
    assert tuple(page[0, 12]) == PAPER


def test_sheet_stacks_clips_of_other_lengths_and_enlarges_by_whole_factors():
    page = contact_sheet([clip(9), clip(1, 200)], num_columns=4, min_height=20)
    assert page.shape[0] == 2 * (24 + GAP)
    assert tuple(page[24 + GAP, 0]) == (200, 200, 200)
    assert tuple(page[24 + GAP, 36 + GAP]) == PAPER


def test_labels_are_written_above_their_row_and_cut_to_fit():
    bare = contact_sheet([clip(2)], num_columns=4, min_height=40)
    page = contact_sheet([clip(2)], ["x" * 500], num_columns=4, min_height=40)
    assert page.shape[0] == bare.shape[0] + LINE_HEIGHT
    assert (page[:LINE_HEIGHT] != PAPER).any()
    assert (page[LINE_HEIGHT:] == bare).all()


def test_side_by_side_keeps_the_last_frame_of_the_shorter_and_is_even():
    both = side_by_side(clip(3), clip(5, 99), caption="a <b>cat</b>", min_height=8)
    assert both.shape[0] == 5
    assert both.shape[1] % 2 == 0
    assert both.shape[2] % 2 == 0
    row = LINE_HEIGHT + 4
    assert both[:, row, 4, 0].tolist() == [0, 1, 2, 2, 2]
    assert (both[:, row, 12 + GAP + 4] == 99).all()


def test_sheets_beside_each_other_have_equal_rows_names_on_top_and_labels_on_the_left():
    columns = {"base": [clip(3, 10), clip(3, 20)], "adapter": [clip(5, 30), clip(5, 40)]}
    page = beside(columns, ["first", "second"], num_frames=2, min_height=8)
    block = 2 * 12 + GAP
    row = LINE_HEIGHT + 8 + GAP
    assert page.shape == (LINE_HEIGHT + 2 * row, 2 * block + 4 * GAP, 3)
    for line, colours in enumerate(((10, 30), (20, 40))):
        top = LINE_HEIGHT + line * row + LINE_HEIGHT
        right = block + 4 * GAP
        found = [int(page[top, x, 0]) for x in (0, 12 + GAP, right, right + 12 + GAP)]
        assert found == [colours[0]] * 2 + [colours[1]] * 2
    for top in (0, LINE_HEIGHT, LINE_HEIGHT + row):
        assert (page[top : top + LINE_HEIGHT, :block] != PAPER).any()
    longer = beside(columns, ["first", "x" * 500], num_frames=2, min_height=8)
    assert (longer[LINE_HEIGHT + row : 2 * LINE_HEIGHT + row, block:] != PAPER).any()  # over all columns
    with pytest.raises(ValueError, match="1 clips, 2 labels"):
        beside({"base": [clip(3)]}, ["a", "b"])
    with pytest.raises(ValueError, match="1 clips, 2 labels"):
        beside({"base": [clip(3)] * 2, "adapter": [clip(3)]}, ["a", "b"])


def test_text_without_letters_of_the_font_does_not_fail():
    assert side_by_side(clip(1), clip(1), caption="一只猫\nнеон").shape[0] == 1


@pytest.mark.parametrize("clips", [[], [clip(2), clip(2)[:, :4]]])
def test_mixed_sizes_are_refused(clips):
    with pytest.raises(ValueError, match="one size"):
        contact_sheet(clips)


def test_labels_must_be_as_many():
    with pytest.raises(ValueError, match="2 labels"):
        contact_sheet([clip(1)], ["a", "b"])
