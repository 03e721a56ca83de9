"""Owns what the conversions are that tables of old trainers name ("square", "count"): old values to a recipe's value.

In: the values as they were said, None for one that was not, and the `Old` they belong to (None of a `Joint`). Out: the
value, or None where there is nothing to say. A value that does not fit raises ValueError with what is wrong.
"""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from cinelora.base.errors import nearest
from cinelora.config.importing.dialect import Old
from cinelora.config.importing.said import as_it_looks, word_of

Values = Sequence[Any]
Conversion = Callable[[Values, Old | None], Any]
CONVERSIONS: dict[str, Conversion] = {}


def conversion(name: str) -> Callable[[Conversion], Conversion]:
    """Put a function into the list under a name."""

    def put(function: Conversion) -> Conversion:
        assert name not in CONVERSIONS, name
        CONVERSIONS[name] = function
        return function

    return put


def number(value: Any) -> float | int:
    """A value as a number. Raises ValueError."""
    found = as_it_looks(value)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ValueError("should be a number")
    return found


def _items(value: Any) -> list[Any]:
    """A list as it is; a word as what stands between its commas or blanks."""
    if isinstance(value, list | tuple):
        return list(value)
    return [item for item in re.split(r"[,\s]+", value.strip(" []()")) if item] if isinstance(value, str) else [value]


@conversion("same")
def same(values: Values, old: Old | None) -> Any:
    """A number, a truth, a word or a list, as it looks."""
    return as_it_looks(values[0])


@conversion("text")
def text(values: Values, old: Old | None) -> Any:
    """A word as it is, even one that looks like a number."""
    return None if values[0] is None else word_of(values[0])


@conversion("texts")
def texts(values: Values, old: Old | None) -> Any:
    """Several words as they are; one word is a list of one."""
    value = values[0]
    return None if value is None else [word_of(one) for one in (value if isinstance(value, list | tuple) else [value])]


@conversion("list")
def as_list(values: Values, old: Old | None) -> Any:
    """Several settings, or the items of one, as a list of what they look like."""
    if len(values) == 1:
        return None if values[0] is None else [as_it_looks(item) for item in _items(values[0])]
    return None if all(value is None for value in values) else [as_it_looks(value) for value in values]


@conversion("numbers")
def numbers(values: Values, old: Old | None) -> Any:
    """The same, numbers alone."""
    found = as_list(values, old)
    return None if found is None else [number(value) for value in found if value is not None]


@conversion("words")
def words(values: Values, old: Old | None) -> Any:
    """Words between commas as a list of words."""
    return None if values[0] is None else [word_of(item) for item in _items(values[0])]


@conversion("one")
def one(values: Values, old: Old | None) -> Any:
    """A value as a list of one."""
    return None if values[0] is None else [as_it_looks(values[0])]


@conversion("square")
def square(values: Values, old: Old | None) -> Any:
    """The side of a square as height and width."""
    return None if values[0] is None else [number(values[0])] * 2


@conversion("pair")
def pair(values: Values, old: Old | None) -> Any:
    """Two numbers: a list, or 480x832."""
    if values[0] is None:
        return None
    found = re.split(r"\s*[xX*,]\s*", values[0]) if isinstance(values[0], str) else list(values[0])
    if len(found) != 2:
        raise ValueError("should be two numbers, height and width")
    return [number(side) for side in found]


@conversion("flag")
def flag(values: Values, old: Old | None) -> Any:
    """True where a switch is set, False where it is not."""
    return as_it_looks(values[0]) not in (None, False, "unset")


@conversion("not")
def inverse(values: Values, old: Old | None) -> Any:
    """False where a switch is set, True where it is not."""
    return not flag(values, old)


@conversion("count")
def count(values: Values, old: Old | None) -> Any:
    """A number; 0 is nothing to say."""
    return None if values[0] is None else number(values[0]) or None


@conversion("quarter")
def quarter(values: Values, old: Old | None) -> Any:
    """A quarter of a number: passes over four variants of each clip stand for four passes there."""
    return None if values[0] is None else number(values[0]) / 4


@conversion("if_set")
def if_set(values: Values, old: Old | None) -> Any:
    """The second value where the first, a switch, is set; else nothing."""
    return as_it_looks(values[1]) if flag(values[:1], old) else None


@conversion("guidance")
def guidance(values: Values, old: Old | None) -> Any:
    """A scale of guidance where 0 means none, which is 1 here."""
    return None if values[0] is None else number(values[0]) or 1.0


@conversion("hub_base")
def hub_base(values: Values, old: Old | None) -> Any:
    """A base, a revision and the kind of files on the Hub: OWNER/NAME@REVISION#fp16."""
    base, revision, kind = (word_of(value) for value in values)
    if not base:
        return None
    if not revision and not kind:
        return base
    if base.startswith((".", "/", "~")) or base.count("/") != 1:
        raise ValueError("a revision or kind of files is of a base on the Hub, OWNER/NAME, and this is a folder")
    return base + (f"@{revision}" if revision else "") + (f"#{kind}" if kind else "")


@conversion("pieces")
def pieces(values: Values, old: Old | None) -> Any:
    """Names of modules between commas as one regular expression, by the table's `pieces`; none of them = nothing."""
    names = [word_of(item) for item in _items(values[0])] if values[0] is not None else []
    known = old.pieces if old else {}
    if unknown := [name for name in names if name not in known]:
        near = nearest(unknown[0], known)
        raise ValueError(f"{unknown[0]!r} is no module that is known here" + (f"; nearest: {near}" if near else ""))
    return rf"(.*\.)?({'|'.join(known[name] for name in names)})" if names else None


@conversion("first")
def first(values: Values, old: Old | None) -> Any:
    """The first value that is said: what a table says of itself, then what holds for all."""
    return next((as_it_looks(value) for value in values if value is not None), None)


@conversion("double")
def double(values: Values, old: Old | None) -> Any:
    """Twice a number."""
    return None if values[0] is None else number(values[0]) * 2


@conversion("thousandths")
def thousandths(values: Values, old: Old | None) -> Any:
    """A time of 0 to 1000 as a share."""
    return None if values[0] is None else number(values[0]) / 1000


@conversion("product")
def product(values: Values, old: Old | None) -> Any:
    """The first number times the others."""
    if any(value is None for value in values):
        return None
    found = math.prod(number(value) for value in values)
    return int(found) if found == int(found) else found


@conversion("quotient")
def quotient(values: Values, old: Old | None) -> Any:
    """The first number through the second."""
    if any(value is None for value in values):
        return None
    if not number(values[1]):
        raise ValueError("should not be 0")
    found = number(values[0]) / number(values[1])
    return int(found) if found == int(found) else found


@conversion("steps")
def steps(values: Values, old: Old | None) -> Any:
    """A whole number of steps; a share of the run is none."""
    found = number(values[0]) if values[0] is not None else None
    if found is not None and found != int(found):
        raise ValueError("should be a number of optimizer steps: a share of the run cannot be told in them")
    return None if found is None else int(found)


@conversion("frames")
def frames(values: Values, old: Old | None) -> Any:
    """Numbers of frames, each cut to 4 k + 1, in rising order."""
    if values[0] is None:
        return None
    found = [number(item) for item in _items(values[0])]
    if not found or min(found) < 1 or any(item != int(item) for item in found):
        raise ValueError("should be whole numbers from 1 up")
    return sorted({(int(item) - 1) // 4 * 4 + 1 for item in found})


@conversion("frames_of_videos")
def frames_of_videos(values: Values, old: Old | None) -> Any:
    """The same without the 1 that stands for pictures beside videos."""
    found = frames(values, old)
    return [item for item in found if item > 1] or found if found else None


@conversion("width_height")
def width_height(values: Values, old: Old | None) -> Any:
    """Width and height as height and width; one number is the side of a square."""
    if values[0] is None:
        return None
    found = [number(item) for item in _items(values[0])]
    if len(found) not in (1, 2):
        raise ValueError("should be width and height")
    return [found[-1], found[0]]


@conversion("side")
def side(values: Values, old: Old | None) -> Any:
    """A list of one side, or of one pair of width and height, as height and width."""
    found = values[0]
    if isinstance(found, list | tuple):
        if len(found) != 1:
            raise ValueError(
                "several sizes make a clip count several times; write a source for each, with its own size"
            )
        found = found[0]
    return width_height([found], old)


@conversion("split")
def split(values: Values, old: Old | None) -> Any:
    """A text parted by the second value."""
    if values[0] is None:
        return None
    if not word_of(values[1]):
        raise ValueError("should be parted by something")
    return [part for piece in word_of(values[0]).split(word_of(values[1])) if (part := piece.strip())]


@conversion("hub_or_folder")
def hub_or_folder(values: Values, old: Old | None) -> Any:
    """A folder, or a dataset on the Hub as hub:OWNER/NAME."""
    place = word_of(values[0])
    on_hub = place.count("/") == 1 and not place.startswith((".", "/", "~")) and not Path(place).exists()
    return f"hub:{place}" if on_hub else place or None


@conversion("below")
def below(values: Values, old: Old | None) -> Any:
    """A folder and a name in it."""
    return "/".join(part.rstrip("/") for value in values if (part := word_of(value))) or None


@conversion("folder")
def folder(values: Values, old: Old | None) -> Any:
    """The folder that a file is in."""
    return None if values[0] is None else str(PurePosixPath(word_of(values[0])).parent)


@conversion("from_main")
def from_main(values: Values, old: Old | None) -> Any:
    """A path that starts from a program's folder main/, as it is from the folder above."""
    place = word_of(values[0])
    if not place or place.startswith(("/", "~")):
        return place or None
    return place.removeprefix("../") if place.startswith("../") else f"main/{place.removeprefix('./')}"


@conversion("without")
def without(values: Values, old: Old | None) -> Any:
    """Parts of module names as a regular expression of names that hold none of them; none of them = nothing to say."""
    names = [word_of(item).removeprefix("model.diffusion_model.") for item in _items(values[0] or [])]
    return f"(?!.*({'|'.join(map(re.escape, names))})).*" if names else None
