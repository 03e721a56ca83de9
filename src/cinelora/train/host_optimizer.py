"""Owns an optimizer whose state lives in main memory: its step is made on the CPU, on copies of the parameters.

In: parameters, what makes the optimizer. Out: `HostOptimizer`, which stands for it towards everybody else. Gradients
and parameters go down ahead of a step and parameters come up behind it, so that there is no second truth in between.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class HostOptimizer(Optimizer):
    """Plays the optimizer over `parameters` that `make` makes over copies of them on the CPU."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], make: Callable[[dict[str, nn.Parameter]], Optimizer]):
        copies = {name: nn.Parameter(_down(weight.detach())) for name, weight in parameters.items()}
        self.inner = make(copies)
        self._copy_of = dict(zip(parameters.values(), copies.values(), strict=True))
        own = {id(copy): weight for weight, copy in self._copy_of.items()}
        groups = self.inner.param_groups
        super().__init__([{"params": [own[id(copy)] for copy in group["params"]]} for group in groups], {})
        for mine, theirs in zip(self.param_groups, groups, strict=True):
            mine.update({key: value for key, value in theirs.items() if key != "params"})
        self._show_state()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Copies down, the step, parameters up. Those without a gradient stay as they are."""
        moved = [(weight, copy) for weight, copy in self._copy_of.items() if weight.grad is not None]
        for weight, copy in moved:
            copy.data.copy_(weight.detach(), non_blocking=True)
            copy.grad = _down(weight.grad)  # type: ignore[arg-type]  # seen above
        if any(weight.is_cuda for weight, _ in moved):
            torch.cuda.synchronize()
        self._tell_inner()
        self.inner.step()
        with torch.no_grad():
            for weight, copy in moved:
                weight.copy_(copy)
        for copy in self._copy_of.values():
            copy.grad = None
        self._hear_inner()
        self._show_state()

    def state_dict(self) -> dict[str, Any]:
        """The inner one's: parameters are numbered alike."""
        self._tell_inner()
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Into the inner one, on the CPU."""
        self.inner.load_state_dict(state_dict)
        self._hear_inner()
        self._show_state()

    def _tell_inner(self) -> None:
        """The rates of now, which others write into this one's groups."""
        for mine, theirs in zip(self.param_groups, self.inner.param_groups, strict=True):
            theirs.update({key: value for key, value in mine.items() if key != "params"})

    def _hear_inner(self) -> None:
        """What the inner one knows of its groups (prodigy's rate)."""
        for mine, theirs in zip(self.param_groups, self.inner.param_groups, strict=True):
            mine.update({key: value for key, value in theirs.items() if key != "params"})

    def _show_state(self) -> None:
        self.state.clear()
        found = {weight: self.inner.state[copy] for weight, copy in self._copy_of.items() if copy in self.inner.state}
        self.state.update(found)  # type: ignore[arg-type]  # parameters are tensors


def _down(tensor: Tensor) -> Tensor:
    """A copy in main memory, page-locked where it comes from a GPU."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor.detach(), non_blocking=True)
