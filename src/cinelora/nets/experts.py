"""Owns several denoisers as one: each clip goes to the expert whose noise levels it is in.

In: a Denoiser for each expert, all of one architecture. Out: a Denoiser whose parts are theirs. Where only one fits
into the GPU's memory, the base weights of the others wait in main memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from cinelora.contracts.flow import Batch
from cinelora.contracts.roles import Denoiser

Conditions = Mapping[str, Tensor]
_TIMES = 1000.0


@dataclass(frozen=True)
class Member:
    """One expert: its denoiser of a single part, that part's name among all, the noise level that it begins at."""

    denoiser: Denoiser
    part: str
    t_min: float

    @property
    def module(self) -> nn.Module:
        """Its network."""
        (only,) = self.denoiser.parts().values()
        return only


class Experts:
    """Plays `contracts.roles.Denoiser`. `members` by name, noisiest first; the last one takes all that is left.

    Conditions are the first member's affair, since all take the same. With `one_in_memory` a member's base weights come
    to the device of what it is asked, and go to main memory when another is asked; adapters, put in later, stay.
    """

    def __init__(self, members: Mapping[str, Member], *, one_in_memory: bool = False):
        self.members = dict(members)
        self._first = next(iter(self.members.values())).denoiser
        self._moved = {name: _tensors(member.module) for name, member in members.items()} if one_in_memory else {}

    @property
    def moves_itself(self) -> bool:
        """True where parts are not to be moved by others."""
        return bool(self._moved)

    @property
    def text_dropout(self) -> float:
        """Share of clips whose text is dropped."""
        return self._first.text_dropout

    @text_dropout.setter
    def text_dropout(self, share: float) -> None:
        self._first.text_dropout = share

    @property
    def blank(self) -> Conditions:
        """The conditions of nothing said."""
        return self._first.blank

    @blank.setter
    def blank(self, conditions: Conditions) -> None:
        self._first.blank = conditions

    @property
    def image_dropout(self) -> float:
        """Share of clips whose picture is dropped. Raises AttributeError where none is taken."""
        return self._first.image_dropout  # type: ignore[attr-defined]

    @image_dropout.setter
    def image_dropout(self, share: float) -> None:
        self._first.image_dropout = share  # type: ignore[attr-defined]

    def parts(self) -> dict[str, nn.Module]:
        """The network of each."""
        return {member.part: member.module for member in self.members.values()}

    def arranged(self, latents: Tensor) -> Tensor:
        """As the first member takes them."""
        return self._first.arranged(latents)

    def restored(self, latents: Tensor, frames: int) -> Tensor:
        """The way back."""
        return self._first.restored(latents, frames)

    def condition(self, batch: Batch, rng: Generator | None) -> dict[str, Tensor]:
        """The first member's, which serve all."""
        return self._first.condition(batch, rng)

    def predict(self, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """Each clip of x B C T H W by the expert of its t B; conditions B ... go along. Prediction B C T H W."""
        asked = self.asked(t)
        if len(asked) == 1:
            return self._predict(asked[0][0], x, t, conditions)
        rows = [row for _, row in asked]
        found = [
            self._predict(name, x[row], t[row], {key: one[row.to(one.device)] for key, one in conditions.items()})
            for name, row in asked
        ]
        return torch.cat(found)[torch.cat(rows).argsort()]

    def asked(self, t: Tensor) -> list[tuple[str, Tensor]]:
        """Which experts the times t B in [0, 1000] ask, and for which clips: (name, rows); those for none left out."""
        free = torch.ones_like(t, dtype=torch.bool)
        found: list[tuple[str, Tensor]] = []
        for number, (name, member) in enumerate(self.members.items()):
            last = number == len(self.members) - 1
            mine = free if last else free & (t >= member.t_min * _TIMES)
            free = free & ~mine
            if mine.any():
                found.append((name, mine.nonzero()[:, 0]))
        return found

    def bring(self, name: str, device: torch.device) -> None:
        """Have the base weights of this expert alone on the device, if it is so wanted."""
        for other, tensors in self._moved.items():
            if other != name:
                _move(tensors, torch.device("cpu"))
        _move(self._moved.get(name, ()), device)

    def _predict(self, name: str, x: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        self.bring(name, x.device)
        found = self.members[name].denoiser.predict(x, t, conditions)
        if self._moved and found.requires_grad:
            # By the time of the backward pass another one may have been asked.
            found.register_hook(lambda gradient: self.bring(name, gradient.device))
        return found


def _tensors(module: nn.Module) -> Sequence[Tensor]:
    """What the module is made of now, before adapters are put into it: those must stay with their optimizer."""

    def all_of() -> Iterator[Tensor]:
        yield from module.parameters()
        yield from module.buffers()

    return tuple(all_of())


def _move(tensors: Sequence[Tensor], device: torch.device) -> None:
    for tensor in tensors:
        if tensor.device != device:
            tensor.data = tensor.data.to(device)
