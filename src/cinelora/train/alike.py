"""Owns the check that all ranks hold the same numbers, since each makes every step by itself.

In: tensors by name. Out: nothing, or an error that names those which differ.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from cinelora.base.errors import Problem, RunError
from cinelora.train.place import Place

_PIECE = 1 << 20
"""Elements that are summed at once, so that the sums need little memory."""


def sums_of(tensors: Mapping[str, Tensor]) -> Tensor:
    """A checksum of each tensor: its numbers' bits as integers, each times an odd one of its own, summed mod 2^64."""
    return torch.stack([_sum(tensor.detach()) for tensor in tensors.values()])


def _sum(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1).float().view(torch.int32)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for first in range(0, len(flat), _PIECE):
        piece = flat[first : first + _PIECE].long()
        places = torch.arange(first, first + len(piece), device=flat.device)
        total += (piece * (2 * places + 1)).sum()
    return total


def refuse_apart(tensors: Mapping[str, Tensor], place: Place, step: int) -> None:
    """Raise RunError on every rank where the tensors of one differ from those of the first."""
    if place.world == 1:
        return
    sums = place.gathered(sums_of(tensors))
    wrong = (sums != sums[:1]).any(0)
    if wrong.any():
        names = [name for name, bad in zip(tensors, wrong.tolist(), strict=True) if bad]
        ranks = (sums != sums[:1]).any(1).nonzero()[:, 0].tolist()
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise RunError(
            Problem(
                "what learns is no longer the same on all ranks",
                found=f"after step {step}: {', '.join(names[:3])}{more} on rank {', '.join(map(str, ranks))}",
                do="go on from the checkpoint before with --resume; if it comes back, one GPU may be faulty: report it",
            )
        )
