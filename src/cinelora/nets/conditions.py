"""Owns what families do alike with conditions below the cache line. In: conditions, draws. Out: conditions."""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from cinelora.base.errors import Problem, RunError


def dropped_text(text: Tensor, blank: Mapping[str, Tensor], share: float, rng: Generator | None) -> Tensor:
    """Embeddings B S D with those of a `share` of the clips replaced by the empty caption's; all whole without `rng`.

    Raises RunError where the empty caption's is needed and not there.
    """
    if share <= 0 or rng is None:
        return text
    if "text" not in blank:
        raise RunError(
            Problem(
                "text dropout needs the embedding of the empty caption",
                do="set denoiser.blank = encoder.blank() before training, or text_dropout = 0",
            )
        )
    dropped = torch.rand(len(text), generator=rng) < share
    return torch.where(dropped.view(-1, 1, 1).to(text.device), blank["text"].to(text), text)
