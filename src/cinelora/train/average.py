"""Owns the exponential moving average of trained parameters (EMA).

In: parameters by name, after each optimizer step. Out: their mean, swapped in where it is to be used.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cinelora.base.errors import Problem, WeightsError


class Average:
    """m <- d m + (1 - d) p in fp32, d = min(decay, (1 + step) / (10 + step)), so that the start is soon forgotten."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float):
        self._parameters, self._decay = parameters, decay
        self.tensors = {name: p.detach().float().clone() for name, p in parameters.items()}
        """The means by name."""

    def update(self, step: int) -> None:
        """Take in the parameters as they are after optimizer step `step` (from 1)."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                self.tensors[name].lerp_(parameter.detach().to(self.tensors[name]), share)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take saved means over. Raises WeightsError where names or shapes differ."""
        refuse_others(self.tensors, tensors, "the saved average")
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the parameters be the means while the block runs; then bit for bit what they were."""
        kept = {name: p.detach().clone() for name, p in self._parameters.items()}
        try:
            _put(self._parameters, self.tensors)
            yield
        finally:
            _put(self._parameters, kept)


def _put(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def refuse_others(ours: Mapping[str, Tensor], saved: Mapping[str, Tensor], what: str) -> None:
    """Raise WeightsError that lists every parameter that one side lacks or that has another shape."""
    lines = [f"{name}: not in the file" for name in ours if name not in saved]
    lines += [f"{name}: not in this run" for name in saved if name not in ours]
    lines += [
        f"{name}: {tuple(saved[name].shape)} in the file, {tuple(ours[name].shape)} in this run"
        for name in ours
        if name in saved and saved[name].shape != ours[name].shape
    ]
    if lines:
        shown = "; ".join(lines[:10]) + (f"; and {len(lines) - 10} more" if len(lines) > 10 else "")
        do = "resume with the recipe that the run was started with ([model] and [lora] decide the parameters)"
        raise WeightsError(Problem(f"{what} holds other parameters than this run trains", found=shown, do=do))
