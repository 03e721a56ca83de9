"""Owns the Framer denoiser: what is drawn below the cache line, and the call into UNet and ControlNet.

In: the process' input B C T H W, its time B, conditions {"embeds": B 2 D}, {"ends": B K C 2 H W} and {"ids": B K 2} as
the encoder gives them. Out: the velocity, same shape.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from cinelora.base.errors import Problem, RunError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch
from cinelora.families.framer.controlnet import FramerControlNet
from cinelora.families.framer.unet import FramerUNet

MOTION_BUCKET = 127.0
SAMPLING_NOISE = 0.02
"""Deviation of the noise on the pixels of given frames when clips are sampled."""
SCRIPT_IDS = 7.0, MOTION_BUCKET, 0.0
"""Time ids that FramerTurbo's training script gives every clip."""
Maps = Callable[[Batch, Generator | None], tuple[Tensor, Tensor] | None]
"""Heat maps B 3 F H W (0 to 255) and B, how strongly each clip's work (0 where it has no tracks); None = none have."""


class FramerDenoiser:
    """Plays `contracts.roles.Denoiser`.

    `image_dropout` is the share of clips of which something given is left out in a step, so that guidance works: of a
    third of them the embeddings, of a third the latents, of a third both. `draw_maps` makes a ControlNet's maps of a
    batch; `fps` is that of batches without pictures. `compat` "ddpm" gives what FramerTurbo's script does: ends of the
    noised latents themselves, fixed ids, nothing left out. There is no text: `text_dropout` and `blank` have no effect.
    """

    def __init__(self, unet: FramerUNet, controlnet: FramerControlNet | None = None, *, image_dropout: float = 0.3):
        self.unet, self.controlnet, self.image_dropout = unet, controlnet, image_dropout
        self.motion_bucket, self.fps = MOTION_BUCKET, 7.0
        self.compat: Literal["none", "ddpm"] = "none"
        self.draw_maps: Maps | None = None
        self.text_dropout = 0.0
        self.blank: Mapping[str, Tensor] = {}

    def parts(self) -> dict[str, nn.Module]:
        """The UNet, and the ControlNet where there is one."""
        return {"unet": self.unet} | ({} if self.controlnet is None else {"controlnet": self.controlnet})

    def arranged(self, latents: Tensor) -> Tensor:
        """As they are."""
        return latents

    def restored(self, latents: Tensor, frames: int) -> Tensor:
        """As they are."""
        return latents

    def condition(self, batch: Batch, rng: Generator | None) -> dict[str, Tensor]:
        """What the networks are told: "embeds" B 2 D, "ends" B C 2 H W, "ids" B 3; "maps" and "control" of tracks.

        One noised version of the given frames is drawn, and some are left out; without `rng` version 0, and nothing is.
        Where a batch has no pictures, zeros stand in their place.
        Raises RunError for clips of one frame.
        """
        if batch.latents.shape[2] < 2:
            do = "use clips of 2 frames or more"
            raise RunError(Problem("Framer needs a first and a last frame", found=batch.names[0], do=do))
        given = {**self._nothing(batch.latents), **batch.conditions}
        if self.compat == "ddpm" and batch.latents.any():  # previews have none, and are told what pipelines tell
            return self._as_script(batch.latents, given["embeds"]) | self._maps(batch, rng)
        embeds, versions = given["embeds"], given["ends"]
        which = self._version(*versions.shape[:2], rng)
        rows = torch.arange(len(which))
        ends, told = versions[rows, which], given["ids"][rows, which].float()
        ids = torch.stack([told[:, 0], torch.full_like(told[:, 0], self.motion_bucket), told[:, 1]], 1)
        keeps_embeds, keeps_ends = self._kept(len(which), rng)
        kept = {
            "embeds": embeds * keeps_embeds.view(-1, 1, 1).to(embeds),
            "ends": ends * keeps_ends.view(-1, 1, 1, 1, 1).to(ends),
            "ids": ids,
        }
        return kept | self._maps(batch, rng)

    def _nothing(self, latents: Tensor) -> dict[str, Tensor]:
        """What stands for a batch without pictures: zeros, at the variant's own rate and the noise of sampling."""
        count, channels, _, *size = latents.shape
        ids = latents.new_tensor([[self.fps - 1, SAMPLING_NOISE]]).expand(count, 1, -1)
        embeds = latents.new_zeros(count, 2, self.unet.config.cross_attention_dim)
        return {"embeds": embeds, "ends": latents.new_zeros(count, 1, channels, 2, *size), "ids": ids}

    def example(self, latents: Tensor) -> dict[str, Tensor]:
        """Drawn conditions in which everything that can learn has a say, to prove saved files with."""
        rng = torch_rng("framer example")
        blank = self._nothing(latents)
        embeds, ends = (torch.randn(blank[name].shape, generator=rng).to(latents) for name in ("embeds", "ends"))
        ids = latents.new_tensor([[self.fps - 1, self.motion_bucket, SAMPLING_NOISE]]).expand(len(latents), -1)
        maps: dict[str, Tensor] = {}
        if self.controlnet is not None:
            maps = self._no_maps(latents)
            maps["maps"] = 255 * torch.rand(maps["maps"].shape, generator=rng).to(latents)
            maps["control"] = torch.ones_like(maps["control"])
        return {"embeds": embeds, "ends": ends[:, 0], "ids": ids, **maps}

    def _version(self, count: int, num_versions: int, rng: Generator | None) -> Tensor:
        """Number 0 is the one of sampling, for previews and held-out losses."""
        if rng is None:
            return torch.zeros(count, dtype=torch.long)
        return torch.randint(min(1, num_versions - 1), num_versions, (count,), generator=rng)

    def _kept(self, count: int, rng: Generator | None) -> tuple[Tensor, Tensor]:
        """Which clips keep their embeddings, and which the latents of their ends: B each, true or false."""
        if rng is None:
            return torch.ones(2, count, dtype=torch.bool).unbind()
        u, third = torch.rand(count, generator=rng), self.image_dropout / 3
        return u >= 2 * third, (u < third) | (u >= 3 * third)

    def _as_script(self, latents: Tensor, embeds: Tensor) -> dict[str, Tensor]:
        ids = torch.tensor(SCRIPT_IDS, device=latents.device).expand(len(latents), -1)
        return {"embeds": embeds, "ends": latents[:, :, [0, -1]], "ids": ids}

    def _maps(self, batch: Batch, rng: Generator | None) -> dict[str, Tensor]:
        if self.controlnet is None or self.draw_maps is None:
            return {}
        drawn = self.draw_maps(batch, rng)
        if drawn is not None:
            return {"maps": drawn[0], "control": drawn[1]}
        # In training the ControlNet is asked all the same, so that a batch without tracks has gradients, which are 0.
        return {} if rng is None else self._no_maps(batch.latents)

    def _no_maps(self, latents: Tensor) -> dict[str, Tensor]:
        config = self.controlnet.config
        cell = 2 ** (len(config.conditioning_embedding_out_channels) - 1)
        count, _, frames, height, width = latents.shape
        maps = latents.new_zeros(count, config.conditioning_channels, frames, height * cell, width * cell)
        return {"maps": maps, "control": latents.new_zeros(count)}

    def predict(self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """x B C T H W, t B -> velocity, in x's format; inside, in each network's own.

        Conditions are those of `condition`. "ends" B C 2 1 1 stand for every size; of "control" 0 nothing is added.
        """
        dtype = _format(self.unet)
        given = self.joined(x, conditions["ends"])
        embeds, ids = conditions["embeds"], conditions["ids"].float()
        more: dict[str, Any] = {}
        if self.controlnet is not None and "maps" in conditions:
            own, maps = _format(self.controlnet), conditions["maps"].transpose(1, 2)
            residuals = self.controlnet(given.to(own), t, embeds.to(own), ids, maps.to(own), conditions["control"])
            more = {"down_block_additional_residuals": residuals.down, "mid_block_additional_residual": residuals.mid}
        found = self.unet(given.to(dtype), t, embeds.to(dtype), ids, **more)
        return found.sample.transpose(1, 2).to(x.dtype)

    def joined(self, x: Tensor, ends: Tensor) -> Tensor:
        """x B C T H W and ends B C 2 H W -> the networks' input B T 2C+1 H W.

        Behind the noisy channels: the first frame's latents, the mask token in each frame between, the last frame's;
        then the mask, 0 where a frame is given and 1 between.
        """
        video = x.transpose(1, 2)
        count, frames, channels, *size = video.shape
        token = self.unet.mask_token
        token = token.full_tensor() if hasattr(token, "full_tensor") else token  # of a sharded part, all of it
        between = token.to(x).expand(count, frames - 2, channels, *size)
        first, last = ends.to(x).expand(-1, -1, -1, *size).transpose(1, 2).split(1, 1)
        mask = x.new_zeros(count, frames, 1, *size)
        mask[:, 1:-1] = 1
        return torch.cat([video, torch.cat([first, between, last], 1), mask], 2)


def _format(part: nn.Module) -> torch.dtype:
    return part.conv_in.weight.dtype
