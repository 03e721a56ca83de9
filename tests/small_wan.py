"""The smallest Wan with adapters that say something, for tests of what changes no number."""

from dataclasses import dataclass

import torch
from torch import nn

from cinelora.engine.fit_out import Fitted
from cinelora.families import registry
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions

CPU = torch.device("cpu")


@dataclass
class SmallWan:
    """The smallest Wan with adapters that say something."""

    denoiser: object
    adapters: object
    fitted: Fitted
    device: torch.device = CPU

    @property
    def part(self) -> nn.Module:
        return self.denoiser.parts()["transformer"]

    def micro(self, k: int) -> torch.Tensor:
        rng = torch.Generator().manual_seed(k)
        x = torch.randn(1, self.part.config.in_channels, 2, 8, 8, generator=rng)
        text = torch.randn(1, 7, self.part.config.text_dim, generator=rng)
        torch.manual_seed(k)  # dropout
        x, text, t = (one.to(self.device) for one in (x, text, torch.tensor([500.0 - 100 * k])))
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.denoiser.predict(x, t, {"text": text})

    def learned(self, *, steps: int = 2, forwards: int = 2) -> tuple[list[float], list[torch.Tensor]]:
        """Losses and adapters after steps of SGD, with an answer without gradients in between, as previews are."""
        learning, losses = list(self.adapters.parameters().values()), []
        for step in range(steps):
            loss = sum(self.micro(10 * step + k).float().square().mean() for k in range(forwards))
            loss.backward()
            losses.append(loss.item())
            for weight in learning:
                weight.data -= 0.1 * weight.grad
                weight.grad = None
            with torch.no_grad():
                losses.append(self.micro(5).float().sum().item())
        return losses, [weight.detach().clone() for weight in learning]


def wan(dropout: float = 0.1) -> SmallWan:
    card, kind = registry.find("wan", "tiny")
    denoiser = registry.open_denoiser(card, kind, base="embedded", dtype="bf16")
    options = LoraOptions(rank=2, dropout=dropout)
    adapters = inject(denoiser.parts(), options, presets=card.lora_presets, default_preset="attention", seed=1)
    with torch.no_grad():
        for k, weight in enumerate(adapters.parameters().values()):
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(k)) * 0.02)
    for part in denoiser.parts().values():
        part.train()
    return SmallWan(denoiser, adapters, Fitted())
