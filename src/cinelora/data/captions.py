"""Owns what becomes of a caption between the dataset's text and the text encoder.

In: the text as it stands, the source's options. Out: one line.
"""

import re

from cinelora.base.errors import DataError, Problem
from cinelora.data.options import SourceOptions


def caption_of(text: str, source: SourceOptions) -> str:
    """Trigger, prefix and text, one space between; line breaks and runs of spaces become one space.

    The trigger is left out where prefix or text have it as a whole word. Raises DataError for an empty text unless the
    source allows it.
    """
    words = " ".join(text.split())
    if not words and source.empty_caption == "stop":
        raise DataError(Problem("the caption is empty", do="write one, or set empty_caption = 'allow' for this source"))
    if not is_text(words):
        raise DataError(Problem("the caption has broken characters in it", found=ascii(words)[:60], do="write it anew"))
    caption = _joined(source.caption_prefix.strip(), words)
    trigger = source.trigger.strip()
    return caption if has_word(caption, trigger) else _joined(trigger, caption)


def has_word(text: str, word: str) -> bool:
    """True where `word` stands in `text` and is not part of a longer word; case counts, as it does for tokens."""
    return bool(word) and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def is_text(text: str) -> bool:
    """True where `text` can be written as UTF-8; half of a surrogate pair cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)
