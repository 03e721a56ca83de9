"""Owns the GPU that is planned for. In: its memory, or its name, in a person's words. Out: `Gpu`."""

import math
from dataclasses import dataclass

from cinelora.base.errors import Problem, RecipeError
from cinelora.engine.account import CONTEXT_BYTES, MARGIN
from cinelora.engine.flops import CARDS, Card, card_named


@dataclass(frozen=True)
class Gpu:
    """What is planned for; `card` None where nothing is known but the memory."""

    gigabytes: float
    card: Card | None = None
    assumed: bool = False

    @property
    def room(self) -> int:
        """Bytes that the account may fill: all but the margin."""
        return int(self.gigabytes * 1e9 * (1 - MARGIN)) - CONTEXT_BYTES


def gpu_of(text: str) -> Gpu:
    """ "24GB" or a card's name, such as "H100". Raises RecipeError for neither."""
    if card := card_named(text):
        return Gpu(card.gigabytes, card)
    number = text.lower().removesuffix("b").removesuffix("gi").removesuffix("g").strip()
    try:
        gigabytes = float(number)
    except ValueError:
        names = ", ".join(card.name for card in CARDS)
        problem = Problem("no such GPU is known", found=text, allowed=f"its memory, such as 24GB, or one of {names}")
        raise RecipeError(problem) from None
    if not 0 < gigabytes < math.inf:
        raise RecipeError(Problem("a GPU needs some memory, and not endless much", found=text, allowed="such as 24GB"))
    alike = [card for card in CARDS if abs(card.gigabytes - gigabytes) < 0.5]
    return Gpu(gigabytes, alike[-1] if alike else None, assumed=bool(alike))
