"""Owns what becomes of a run whose memory is full: the largest micro first as a probe, and the same micro in pieces.

In: a method, what else could free memory. Out: a micro's loss in as many pieces as fit. A micro is drawn as a whole and
then learned in pieces, one backward pass each, whose gradients add up to those of the whole. (Dropout inside of modules
draws by shape, so with it pieces have other masks.) Where a micro cannot be divided, more is computed twice, if that is
left. The step then begins anew, with the same clips and the same draws.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator

from cinelora.base.errors import Problem, RunError
from cinelora.base.log import logger
from cinelora.contracts.flow import Batch, Loss
from cinelora.contracts.roles import Method

FULL = "the GPU's memory is full"
"""What an error says where nothing is left."""
Relieve = Callable[[], str]
"""Does something that frees memory and says what; "" where there is nothing left to do."""


def nothing_left() -> str:
    """No relief."""
    return ""


@dataclass(frozen=True)
class Piece:
    """Some clips of a micro: their share of it, and their loss when it is asked for."""

    share: float
    loss: Callable[[], Loss]


class Fitting:
    """Knows in how many pieces micros of each shape fit.

    Ranks that work `together` get no relief: one that asks the base more often than the others waits for ever.
    """

    def __init__(self, method: Method, *, relieve: Relieve = nothing_left, together: bool = False):
        self._method, self._relieve, self._together = method, relieve, together
        self._num: dict[tuple[int, ...], int] = {}
        self._last: tuple[int, ...] = ()

    def pieces(self, player: str, batch: Batch, rng: Generator, shared: Generator) -> Sequence[Piece]:
        """The micro's pieces; all its draws are made now."""
        shape = tuple(batch.latents.shape)
        self._last = shape
        num = self._num.get(shape, 1)
        if num == 1:
            return [Piece(1.0, lambda: self._method.loss(player, batch, rng, shared))]
        found = self._method.pieces(player, batch, rng, shared, num)  # type: ignore[attr-defined]
        return [Piece(count / shape[0], loss) for count, loss in found]

    def relieve(self, error: str) -> str:
        """Make room after memory was full; gives back what is done, in words. Raises RunError where nothing is left."""
        clear()
        num, count = self._num.get(self._last, 1), self._last[0] if self._last else 1
        if self._together:
            done = ""
        elif num < count and hasattr(self._method, "pieces"):
            self._num[self._last] = min(count, 2 * num)
            done = f"micros of {count} clips of this size are learned in {self._num[self._last]} pieces"
        else:
            done = self._relieve()
        if not done:
            more = "train.gradient_checkpointing = true" if self._together else "memory.base = 'streamed'"
            do = f"see `cinelora plan`; lower train.micro_size, data.frames or data.size, or set {more}"
            raise RunError(Problem(FULL, found=error, do=do))
        clear()
        logger.warning("the GPU's memory is full (%s): %s; the step begins anew", error, done)
        return done


def clear() -> None:
    """Give back what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def joined(pieces: Sequence[tuple[float, Loss]]) -> Loss:
    """The loss of a whole micro from its pieces', each with its share; detached."""
    if len(pieces) == 1:
        return pieces[0][1]
    value = torch.stack([share * loss.value.detach().float() for share, loss in pieces]).sum()
    each = torch.cat([loss.each.reshape(-1) for _, loss in pieces])
    return Loss(value, each, _terms([(share, loss.terms) for share, loss in pieces]))


def _terms(found: Sequence[tuple[float, Mapping]]) -> dict:
    """Means of named terms, each over the pieces that have it."""
    names = list(dict.fromkeys(name for _, terms in found for name in terms))
    total = {name: sum(share for share, terms in found if name in terms) for name in names}
    return {name: sum(share * terms[name] for share, terms in found if name in terms) / total[name] for name in names}


def detached(loss: Loss) -> Loss:
    """The loss without what its backward pass would need."""
    return replace(loss, value=loss.value.detach())
