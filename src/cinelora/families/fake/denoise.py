"""The fake denoiser: two blocks of linears that see a latent cell, the time and the mean of the text."""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn

from cinelora.base.dtypes import torch_dtype
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Batch
from cinelora.nets.conditions import dropped_text

WIDTH = 16


class Block(nn.Module):
    """x + out(silu(to_q(x)) * to_v(x)): enough to carry adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """... D -> ... D."""
        return x + self.out(nn.functional.silu(self.to_q(x)) * self.to_v(x))


class FakeNet(nn.Module):
    """4 latent channels + time + 8 text numbers in, 4 channels out."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4 + 1 + 8, WIDTH), nn.Linear(WIDTH, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.gradient_checkpointing = False

    def enable_gradient_checkpointing(self) -> None:
        """Same name as diffusers' networks have."""
        self.gradient_checkpointing = True

    def forward(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """x B 4 T h w, t B in [0, 1], text B S 8 -> B 4 T h w."""
        cells = x.movedim(1, -1)
        extra = torch.cat([t[:, None], text.mean(dim=1)], dim=1)
        extra = extra.view(len(x), 1, 1, 1, -1).expand(*cells.shape[:-1], -1)
        hidden = self.enter(torch.cat([cells, extra], dim=-1).to(self.enter.weight.dtype))
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden = torch.utils.checkpoint.checkpoint(block, hidden, use_reentrant=False)
            else:
                hidden = block(hidden)
        return self.leave(hidden).movedim(-1, 1)


class FakeDenoiser:
    """Plays the role of a family's denoiser that drops some captions."""

    def __init__(self, net: FakeNet):
        self.net = net
        self.text_dropout = 0.1
        self.blank: Mapping[str, Tensor] = {"text": torch.zeros(6, 8)}

    def parts(self) -> dict[str, nn.Module]:
        """One part."""
        return {"transformer": self.net}

    def arranged(self, latents: Tensor) -> Tensor:
        """As they are."""
        return latents

    def restored(self, latents: Tensor, frames: int) -> Tensor:
        """As they are."""
        return latents

    def condition(self, batch: Batch, rng: Generator | None) -> dict[str, Tensor]:
        """Put the blank in place of some clips' text."""
        return {"text": dropped_text(batch.conditions["text"], self.blank, self.text_dropout, rng)}

    def predict(self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """x B 4 T h w, t B in [0, 1000]."""
        return self.net(x, t / 1000, conditions["text"]).to(x.dtype)


def skeleton(variant: Variant) -> dict[str, nn.Module]:
    """The parts on the meta device: names and shapes, no memory."""
    with torch.device("meta"):
        return {"transformer": FakeNet()}


def check_base(base: str, variant: Variant) -> None:
    """There is nothing to read that could be wrong."""


def open_denoiser(base: str, variant: Variant, dtype: str) -> FakeDenoiser:
    """The same random weights each time, by the variant's own seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(variant.network.get("seed", 0))
        net = FakeNet()
    return FakeDenoiser(net.requires_grad_(False).to(torch_dtype(dtype)))
