"""Owns what families do alike with conditions below the cache line. In: conditions, draws. Out: conditions."""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from cinelora.base.errors import Problem, RunError


def dropped_text(text: Tensor, blank: Mapping[str, Tensor], share: float, rng: Generator | None) -> Tensor:
    """Embeddings B S D with those of a `share` of the clips replaced by the empty caption's; all whole without `rng`.

    Raises RunError where the empty caption's is needed and not there.
    """
    return dropped_texts({"text": text}, blank, share, rng)["text"]


def dropped_texts(
    texts: Mapping[str, Tensor], blank: Mapping[str, Tensor], share: float, rng: Generator | None
) -> dict[str, Tensor]:
    """The same of several tensors B ... that are said of one caption: a clip loses all of them or none."""
    if share <= 0 or rng is None:
        return dict(texts)
    return blanked(texts, blank, torch.rand(len(next(iter(texts.values()))), generator=rng) < share)


def blanked(texts: Mapping[str, Tensor], blank: Mapping[str, Tensor], dropped: Tensor) -> dict[str, Tensor]:
    """Tensors B ... of one caption, with those of the `dropped` clips (B, true or false) replaced by the empty one's.

    Raises RunError with all that the empty caption lacks.
    """
    missing = [name for name in texts if name not in blank]
    if missing:
        raise RunError(
            Problem(
                "text dropout needs the embedding of the empty caption",
                found=f"no {', '.join(missing)}",
                do="set denoiser.blank = encoder.blank() before training, or text_dropout = 0",
            )
        )
    return {name: _exchanged(text, blank[name], dropped) for name, text in texts.items()}


def _exchanged(text: Tensor, blank: Tensor, dropped: Tensor) -> Tensor:
    chosen = dropped.view(-1, *[1] * (text.ndim - 1)).to(text.device)
    return torch.where(chosen, blank.to(text), text)
