"""Owns pictures of clips: a contact sheet of many, sheets beside each other, and two clips side by side.

In: pixels F H W 3, uint8, with words to write beside them. Out: pixels of the same form. Written words are in
Pillow's own font, which has Latin letters only.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]

PAPER, INK, QUIET = (250, 250, 248), (24, 26, 27), (110, 114, 118)
GAP = 4
"""Pixels between pictures."""
TEXT_HEIGHT = 13
LINE_HEIGHT = 18


def contact_sheet(
    clips: Sequence[Pixels], labels: Sequence[str] = (), *, num_columns: int = 8, min_height: int = 96
) -> Pixels:
    """One picture, a row of evenly spaced frames for each clip (F H W 3, any lengths, one size), words above each row.

    Clips lower than `min_height` are enlarged by a whole factor. Raises ValueError without clips or on mixed sizes.
    """
    _refuse_mixed(clips)
    if labels and len(labels) != len(clips):
        raise ValueError(f"{len(clips)} clips, {len(labels)} labels")
    rows = []
    for number, clip in enumerate(clips):
        chosen = np.linspace(0, len(clip) - 1, min(num_columns, len(clip))).round().astype(int)
        frames = [_enlarged(clip[k], min_height) for k in chosen]
        rows.append(_row(frames, num_columns, labels[number] if labels else ""))
    return np.concatenate(rows)


def beside(
    columns: Mapping[str, Sequence[Pixels]], labels: Sequence[str], *, num_frames: int = 2, min_height: int = 96
) -> Pixels:
    """Contact sheets beside each other: a row for each label, `num_frames` of a clip in each column, names on top.

    Every column has as many clips as there are labels. Raises ValueError where one has not, or without columns.
    """
    _refuse_mixed([clip for clips in columns.values() for clip in clips])
    blank = [" "] * len(labels)  # as high as the label, which is written over all columns
    sheets = [contact_sheet(c, blank, num_columns=num_frames, min_height=min_height) for c in columns.values()]
    height, width = sheets[0].shape[:2]
    step = width + 4 * GAP
    page = _paper(len(sheets) * step - 4 * GAP, LINE_HEIGHT + height)
    for number, (title, sheet) in enumerate(zip(columns, sheets, strict=True)):
        page.paste(Image.fromarray(sheet), (number * step, LINE_HEIGHT))
        _write(page, (number * step, 1), title, width, QUIET)
    for number, label in enumerate(labels):
        _write(page, (0, LINE_HEIGHT + number * height // len(labels) + 1), label, page.width, INK)
    return np.asarray(page)


def side_by_side(
    left: Pixels,
    right: Pixels,
    *,
    titles: tuple[str, str] = ("before", "after"),
    caption: str = "",
    min_height: int = 192,
) -> Pixels:
    """Two clips of one size, F H W 3 each, as one with a title above each and a caption below; even height and width.

    The shorter clip's last frame stays. Raises ValueError on mixed sizes.
    """
    _refuse_mixed([left, right])
    frames = max(len(left), len(right))
    pictures = []
    for k in range(frames):
        pair = [_enlarged(clip[min(k, len(clip) - 1)], min_height) for clip in (left, right)]
        pictures.append(_pair(pair, titles, caption))
    return np.stack(pictures)


def _row(frames: Sequence[Pixels], num_columns: int, label: str) -> Pixels:
    height, width = frames[0].shape[:2]
    top = LINE_HEIGHT if label else 0
    page = _paper(num_columns * (width + GAP) - GAP, top + height + GAP)
    for column, frame in enumerate(frames):
        page.paste(Image.fromarray(frame), (column * (width + GAP), top))
    if label:
        _write(page, (0, 1), label, page.width, INK)
    return np.asarray(page)


def _pair(pair: Sequence[Pixels], titles: tuple[str, str], caption: str) -> Pixels:
    height, width = pair[0].shape[:2]
    below = LINE_HEIGHT if caption else 0
    page = _paper(_even(2 * width + GAP), _even(LINE_HEIGHT + height + below))
    for column, (frame, title) in enumerate(zip(pair, titles, strict=True)):
        left = column * (width + GAP)
        page.paste(Image.fromarray(frame), (left, LINE_HEIGHT))
        _write(page, (left + 2, 1), title, width - 2, QUIET)
    if caption:
        _write(page, (2, LINE_HEIGHT + height + 1), caption, page.width - 4, INK)
    return np.asarray(page)


def _enlarged(frame: Pixels, min_height: int) -> Pixels:
    factor = -(-min_height // frame.shape[0])
    return frame.repeat(factor, 0).repeat(factor, 1)


def _write(page: Image.Image, corner: tuple[int, int], text: str, width: int, ink: tuple[int, int, int]) -> None:
    """One line of text, cut with dots where it would be wider than `width` pixels."""
    font = ImageFont.load_default(TEXT_HEIGHT)
    line = " ".join(text.split())
    if font.getlength(line) > width:
        while line and font.getlength(line + "...") > width:
            line = line[:-1]
        line += "..."
    ImageDraw.Draw(page).text(corner, line, fill=ink, font=font)


def _paper(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), PAPER)


def _even(pixels: int) -> int:
    return pixels + pixels % 2


def _refuse_mixed(clips: Sequence[Pixels]) -> None:
    sizes = {clip.shape[1:] for clip in clips}
    if len(sizes) != 1:
        raise ValueError(f"clips of one size are needed, not of {sorted(sizes)}")
