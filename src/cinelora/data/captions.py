"""Owns what becomes of captions between the dataset's text and the text encoder.

In: the texts of one entry as they stand, the source's options. Out: one line per caption, the first one first.
"""

import math
import re
import unicodedata
from collections.abc import Sequence

from cinelora.base.errors import DataError, Problem
from cinelora.base.seeds import numpy_rng
from cinelora.data.openings import without_opening
from cinelora.data.options import DataOptions, SourceOptions

_NO_SPACE_BEFORE = ",.;:!?"


def captions_of(texts: str | Sequence[str], source: SourceOptions, *, key: str) -> tuple[str, ...]:
    """All captions of an entry, at least one, none twice: lines told apart, openings cut, tags shuffled, words added.

    `texts` is one text, or several that say the same; `key` is the record's, which the orders of tags are drawn by.
    Without captions that is the empty one, as it stands.
    Raises DataError for an empty caption unless the source allows it, and for characters that are none.
    """
    if source.captions == "none":
        return ("",)
    given = _lines(texts, source)
    problems = [problem for number, words in enumerate(given, 1) if (problem := _problem(words, number, given, source))]
    if problems:
        raise DataError(*problems)
    captions: list[str] = []
    for number, words in enumerate(given):
        trimmed = without_opening(words) if source.trim_openings else words
        captions += [completed(text, source) for text in _orders(trimmed, source, key, number)]
    return tuple(dict.fromkeys(captions))


def without_words(options: DataOptions) -> DataOptions:
    """The same sources for a denoiser that reads no text: no caption is looked for, and none is missed."""
    plain = {"captions": "none", "empty_caption": "allow"}
    return options.model_copy(update={"source": [one.model_copy(update=plain) for one in options.source]})


def completed(words: str, source: SourceOptions) -> str:
    """Trigger, prefix, text and suffix, one space between, none before a suffix that is punctuation.

    The trigger is left out where the others have it as a whole word.
    """
    suffix = source.caption_suffix.strip()
    caption = _joined(source.caption_prefix.strip(), words)
    caption = caption + suffix if suffix[:1] in _NO_SPACE_BEFORE else _joined(caption, suffix)
    trigger = source.trigger.strip()
    return caption if has_word(caption, trigger) else _joined(trigger, caption)


def has_word(text: str, word: str) -> bool:
    """True where `word` stands in `text` and is not part of a longer word; case counts, as it does for tokens."""
    return bool(word) and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None


def is_text(text: str) -> bool:
    """True where `text` can be written as UTF-8; half of a surrogate pair cannot."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _lines(texts: str | Sequence[str], source: SourceOptions) -> list[str]:
    """The texts, each as one line of single-spaced words; where each line is a caption, empty lines are none."""
    given = [texts] if isinstance(texts, str) else list(texts)
    if source.caption_lines == "each":
        given = [line for text in given for line in text.splitlines() if line.strip()]
    return [" ".join(text.split()) for text in given] or [""]


def _problem(words: str, number: int, given: Sequence[str], source: SourceOptions) -> Problem | None:
    of_several = f"caption {number} of {len(given)}" if len(given) > 1 else ""
    if not words and source.empty_caption == "stop":
        do = "write one, or set empty_caption = 'allow' for this source"
        return Problem("the caption is empty", found=of_several, do=do)
    if not is_text(words) or any(unicodedata.category(letter) == "Cc" for letter in words):
        return Problem("the caption has broken characters in it", found=ascii(words)[:60], do="write it anew")
    return None


def _orders(words: str, source: SourceOptions, key: str, number: int) -> list[str]:
    """The caption with its tags in `shuffle_tags` orders, all different where there are so many."""
    tags = [tag.strip() for tag in words.split(",") if tag.strip()] if source.shuffle_tags else []
    kept, moved = tags[: source.keep_tags], tags[source.keep_tags :]
    if len(moved) < 2:
        return [words]
    rng = numpy_rng("tags", key, number)
    num_orders = min(source.shuffle_tags, math.factorial(len(moved)))
    orders: dict[tuple[int, ...], None] = {}
    while len(orders) < num_orders:
        orders[tuple(rng.permutation(len(moved)).tolist())] = None
    return [", ".join([*kept, *(moved[place] for place in order)]) for order in orders]


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part)
