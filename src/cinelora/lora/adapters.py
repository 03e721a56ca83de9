"""Owns adapters that stand in a denoiser: their parameters, their strength, switching them, taking them out.

In: the layers that `inject` made. Out: parameters by stable names, tensors for files, facts for reports.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cinelora.base.errors import Problems, WeightsError
from cinelora.lora.files import AdapterFile


@dataclass(frozen=True)
class Adapted:
    """One module with an adapter: the part, the module's name in it, peft's LoraLayer."""

    part: str
    name: str
    layer: Any

    @property
    def key(self) -> str:
        """Part and module, as in the keys of files and parameters."""
        return f"{self.part}.{self.name}"


class Adapters:
    """One named adapter over all its modules, and the parts that learn in full beside it."""

    def __init__(self, layers: list[Adapted], full: Mapping[str, nn.Module], adapter_name: str):
        self.layers, self.full, self.adapter_name = layers, full, adapter_name

    @staticmethod
    def start_name(adapter_name: str) -> str:
        """Name of the frozen second adapter that holds a start taken from the base."""
        return f"{adapter_name}_start"

    def parameters(self) -> dict[str, nn.Parameter]:
        """Everything that learns: "transformer.blocks.0.attn1.to_q.lora_A.weight" and so on, in a stable order."""
        found: dict[str, nn.Parameter] = {}
        for adapted in self.layers:
            found |= {f"{adapted.key}.{ending}": weight for ending, weight in self._weights(adapted.layer)}
        return found | self.whole()

    def whole(self) -> dict[str, nn.Parameter]:
        """Those of `parameters` that are weights of parts that learn in full."""
        parts = self.full.items()
        return {f"{part}.{name}": weight for part, module in parts for name, weight in module.named_parameters()}

    def resident(self) -> list[nn.Parameter]:
        """Everything that came with it: what learns, and the frozen start that stands beside it. None of the base."""
        name = self.start_name(self.adapter_name)
        started = [adapted.layer for adapted in self.layers if self._has_start(adapted.layer)]
        starts = [matrices[name].weight for layer in started for matrices in (layer.lora_A, layer.lora_B)]
        return [*self.parameters().values(), *starts]

    def num_parameters(self) -> int:
        """How many numbers learn."""
        return sum(weight.numel() for weight in self.parameters().values())

    def tensors(self) -> dict[str, Tensor]:
        """The adapter as files hold it, on the CPU; a start from the base is folded in (twice the rank)."""
        found: dict[str, Tensor] = {}
        for adapted in self.layers:
            own = {f"{adapted.key}.{ending}": _copy(weight) for ending, weight in self._weights(adapted.layer)}
            if self._has_start(adapted.layer):
                start, (a, b) = self.start_name(self.adapter_name), (f"{adapted.key}.lora_{m}.weight" for m in "AB")
                own[a] = torch.cat([own[a], _copy(adapted.layer.lora_A[start].weight)])
                own[b] = torch.cat([own[b], -_copy(adapted.layer.lora_B[start].weight)], dim=1)
            found |= own
        return found

    def file(self, metadata: Mapping[str, str] | None = None) -> AdapterFile:
        """The adapter with its true strength (alpha such that alpha / rank is it), ready to be written."""
        tensors = self.tensors()
        alphas = {
            adapted.key: self._scale(adapted.layer) * len(tensors[f"{adapted.key}.lora_A.weight"])
            for adapted in self.layers
        }
        return AdapterFile(tensors, alphas, dict(metadata or {}))

    def full_tensors(self) -> dict[str, Tensor]:
        """The weights of the parts that learn in full, under "part.name"."""
        return {
            f"{part}.{name}": _copy(w) for part, module in self.full.items() for name, w in module.state_dict().items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Set every parameter by name. Raises WeightsError naming all that are missing, too many or of other shape."""
        own, problems = self.parameters(), Problems(WeightsError)
        for name in own.keys() - tensors.keys():
            problems.add(f"the adapter's {name} is missing")
        for name in tensors.keys() - own.keys():
            problems.add(f"{name} has no place in this adapter")
        for name in own.keys() & tensors.keys():
            if own[name].shape != tensors[name].shape:
                problems.add(
                    f"{name} has another shape",
                    found=str(tuple(tensors[name].shape)),
                    allowed=str(tuple(own[name].shape)),
                )
        problems.raise_if_any()
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(tensors[name])

    def activate(self) -> None:
        """Make this the only adapter that works and learns; others on the same base rest."""
        start = self.start_name(self.adapter_name)
        for adapted in self.layers:
            names = [self.adapter_name] + [start] * self._has_start(adapted.layer)
            adapted.layer.set_adapter(names)
            for matrices in (adapted.layer.lora_A, adapted.layer.lora_B):
                if start in matrices:
                    matrices[start].requires_grad_(False)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, the denoiser is the base alone."""
        learning = [(weight, weight.requires_grad) for weight in self.parameters().values()]
        try:
            for adapted in self.layers:
                adapted.layer.enable_adapters(False)
            yield
        finally:
            for adapted in self.layers:
                adapted.layer.enable_adapters(True)
            self.activate()
            for weight, flag in learning:
                weight.requires_grad_(flag)

    @contextmanager
    def scaled(self, factor: float) -> Iterator[None]:
        """Inside, the adapter works at `factor` of its strength; of DoRA only the direction is scaled."""
        names = (self.adapter_name, self.start_name(self.adapter_name))
        kept = [dict(adapted.layer.scaling) for adapted in self.layers]
        try:
            for adapted in self.layers:
                for name in names:
                    if name in adapted.layer.scaling:
                        adapted.layer.scaling[name] *= factor
            yield
        finally:
            for adapted, scaling in zip(self.layers, kept, strict=True):
                adapted.layer.scaling.update(scaling)

    def facts(self) -> dict[str, Any]:
        """What the adapter is, for reports and metadata: sizes, targets, strength of each module."""
        modules = {
            adapted.key: {
                "rank": adapted.layer.r[self.adapter_name],
                "alpha": adapted.layer.lora_alpha[self.adapter_name],
                "scale": self._scale(adapted.layer),
            }
            for adapted in self.layers
        }
        return {
            "num_parameters": self.num_parameters(),
            "num_modules": len(modules),
            "ranks": sorted({module["rank"] for module in modules.values()}),
            "alphas": sorted({module["alpha"] for module in modules.values()}),
            "full_parts": list(self.full),
            "modules": modules,
        }

    def _weights(self, layer: Any) -> Iterator[tuple[str, nn.Parameter]]:
        yield "lora_A.weight", layer.lora_A[self.adapter_name].weight
        yield "lora_B.weight", layer.lora_B[self.adapter_name].weight
        if self.adapter_name in layer.lora_magnitude_vector:
            yield "lora_magnitude_vector", layer.lora_magnitude_vector[self.adapter_name].weight

    def _has_start(self, layer: Any) -> bool:
        return self.start_name(self.adapter_name) in layer.lora_A

    def _scale(self, layer: Any) -> float:
        """alpha / rank, or alpha / sqrt(rank) under rsLoRA, as peft worked it out; not touched by `scaled`."""
        rank, alpha = layer.r[self.adapter_name], layer.lora_alpha[self.adapter_name]
        return alpha / (rank**0.5 if layer.use_rslora[self.adapter_name] else rank)


def _copy(weight: Tensor) -> Tensor:
    return weight.detach().to("cpu", copy=True).contiguous()
