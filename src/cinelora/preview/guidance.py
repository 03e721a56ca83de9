"""Owns how predictions under several conditions become one: guidance by text, by text and picture, and its rescaling.

In: what the denoiser says to all that is asked, to less of it, to nothing. Out: one prediction B C T H W.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SAID, SEEN, NOTHING = "said", "seen", "nothing"
"""What a prediction was asked with: all conditions; the picture without the text; neither."""


@dataclass(frozen=True)
class Guidance:
    """`text` g_t; `picture` g_p, None = the same; `rescale` is the share of the guided prediction brought to the
    deviation of the unguided one. Where it `rises`, g_t goes evenly from 1 in the first latent frame to `text` in the
    last, and g_p with it where it is the same."""

    text: float
    picture: float | None = None
    rescale: float = 0.0
    rises: bool = False

    @property
    def asks(self) -> tuple[str, ...]:
        """Which predictions `mixed` needs: those that count with another weight than 0."""
        picture = self.text if self.picture is None else self.picture
        together = self.text == picture and (self.picture is None or self.text == 1 or not self.rises)
        if together:
            return (SAID,) if self.text == 1 else (SAID, NOTHING)
        if picture == 1:
            return (SAID, SEEN)
        unsaid = self.text == 0 and not self.rises
        return (SEEN, NOTHING) if unsaid and not self.rescale else (SAID, SEEN, NOTHING)

    def mixed(self, answers: dict[str, Tensor]) -> Tensor:
        """nothing + g_p (seen - nothing) + g_t (said - seen), rescaled; B C T H W.

        With one scale this is nothing + g (said - nothing) (Ho and Salimans 2022), with two Brooks et al. 2023's.
        """
        if self.asks == (SAID,):
            return answers[SAID]
        text = self._over_frames(next(iter(answers.values()))) if self.rises else self.text
        picture = text if self.picture is None else self.picture
        weights = {SAID: text, SEEN: picture - text, NOTHING: 1 - picture}
        # Written as steps away from one of them, so that large weights do not cancel.
        anchor = NOTHING if NOTHING in answers else SEEN
        guided = answers[anchor].clone()
        for name, weight in weights.items():
            if name != anchor and name in answers:
                guided += weight * (answers[name] - answers[anchor])
        return rescaled(guided, answers[SAID], self.rescale) if self.rescale else guided

    def _over_frames(self, answer: Tensor) -> Tensor:
        """g_t of each latent frame, 1 1 T 1 1."""
        return torch.linspace(1, self.text, answer.shape[2]).to(answer.device).view(1, 1, -1, 1, 1)


def rescaled(guided: Tensor, said: Tensor, share: float) -> Tensor:
    """phi guided std(said) / std(guided) + (1 - phi) guided, phi = `share`, deviations of each clip; B C T H W.

    Guidance makes predictions too large, and clips too bright (Lin et al. 2024, section 3.4).
    """
    spread = tuple(range(1, guided.ndim))
    ratio = said.std(spread, keepdim=True) / guided.std(spread, keepdim=True)
    return guided * (share * ratio + (1 - share))
