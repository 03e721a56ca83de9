"""Owns the DynamiCrafter denoiser: what is drawn below the cache line, the Resampler, and the call into the UNet.

In: latents B C T H W, t B in [0, 1000), conditions as the encoder gives them (`encode`). Out: velocity or noise, as the
base predicts, same shape. The picture goes in twice: its latents behind the channels of x, and what the image encoder
says of it, through the Resampler, beside the text.
"""

from collections.abc import Mapping

import torch
from torch import Generator, Tensor, nn

from cinelora.contracts.flow import Batch
from cinelora.families.dynamicrafter.nets.resampler import Resampler
from cinelora.families.dynamicrafter.nets.unet import UNet3D
from cinelora.nets.conditions import blanked


class DynamiCrafterDenoiser:
    """Plays `contracts.roles.Denoiser`.

    `text_dropout` and `image_dropout` are the shares of clips whose caption, and whose picture, is left out in a step;
    of a left-out picture the encoder sees grey, its latents stay (`left_out`). `image_noise`: the picture's latents get
    noise of a deviation drawn between 0 and this, so that less of a frame can be copied from them. `interpolates`:
    first and last frame are given in their places, instead of one frame in all of them.
    """

    def __init__(self, unet: UNet3D, resampler: Resampler, *, interpolates: bool = False):
        self.unet, self.resampler, self.interpolates = unet, resampler, interpolates
        self.text_dropout, self.image_dropout, self.image_noise = 0.1, 0.1, 0.0
        self.blank: Mapping[str, Tensor] = {}

    def parts(self) -> dict[str, nn.Module]:
        """Two of them."""
        return {"unet": self.unet, "resampler": self.resampler}

    def arranged(self, latents: Tensor) -> Tensor:
        """As they are."""
        return latents

    def restored(self, latents: Tensor, frames: int) -> Tensor:
        """As they are."""
        return latents

    def condition(self, batch: Batch, rng: Generator | None) -> dict[str, Tensor]:
        """What the networks are told: "text" B S D, "clip" B 1 S D, "grey" B S D, "image" B C T H W, "fps" B 1.

        One of the frames that the image encoder has seen is drawn for each clip, text and pictures are left out and
        noised; without `rng` nothing is drawn: the first frame, whole text. In training the picture's latents are those
        of the batch, else those that the encoder gave; of a batch without pictures, zeros.
        """
        given = {**self._nothing(batch), **batch.conditions}
        count, text = len(batch.latents), given["text"]
        if rng is None:
            frame = torch.zeros(count, dtype=torch.long)
            clip, image = given["clip"][:, :1], self._placed(given["image"], batch.latents.shape[2])
        else:
            draws = torch.rand(count, generator=rng)
            number = self._drawn(*given["clip"].shape[:2], rng)
            no_text, no_picture = left_out(draws, self.text_dropout, self.image_dropout)
            text = blanked({"text": text}, self.blank, no_text)["text"] if self.text_dropout > 0 else text
            rows = torch.arange(count)
            frame = given["frame"][rows, number].long().cpu()
            seen = given["clip"][rows, number]
            clip = torch.where(no_picture.view(-1, 1, 1).to(seen.device), given["grey"].to(seen), seen)[:, None]
            image = self._noised(self.picture_of(batch.latents, frame), rng)
        return {"text": text, "clip": clip, "grey": given["grey"], "image": image, "fps": given["fps"]}

    def without(self, conditions: Mapping[str, Tensor], *, picture: bool = True) -> dict[str, Tensor]:
        """Conditions of `condition` with grey in place of what the image encoder saw, for guidance; latents stay.

        The text is the caller's: guidance leads away from the empty or a negative caption.
        """
        return {**conditions, "clip": conditions["grey"][:, None]} if picture else dict(conditions)

    def picture_of(self, latents: Tensor, frame: Tensor) -> Tensor:
        """The latents that are given of a clip B C T H W: number `frame` B everywhere, or its ends in their places."""
        if self.interpolates:
            return self._placed(latents[:, :, [0, -1]], latents.shape[2])
        frame = frame.clamp(0, latents.shape[2] - 1)
        one = latents[torch.arange(len(latents)), :, frame.to(latents.device)]
        return self._placed(one[:, :, None], latents.shape[2])

    def _placed(self, given: Tensor, frames: int) -> Tensor:
        """B C P H W -> B C T H W: a frame in all places, or two at the ends with zeros between (one = both are it).

        A clip of one frame would be given whole; it gets zeros.
        """
        if frames == 1:
            return torch.zeros_like(given[:, :, :1])
        if not self.interpolates:
            return given[:, :, :1].expand(-1, -1, frames, -1, -1)
        image = given.new_zeros(*given.shape[:2], frames, *given.shape[3:])
        image[:, :, 0] = given[:, :, 0]
        image[:, :, -1] = given[:, :, -1]
        return image

    def _noised(self, image: Tensor, rng: Generator) -> Tensor:
        """The same noise in every frame, as it is one picture; zeros stay zeros."""
        if not self.image_noise:
            return image
        sigma = self.image_noise * torch.rand(len(image), 1, 1, 1, 1, generator=rng)
        noise = torch.randn(*image.shape[:2], 1, *image.shape[3:], generator=rng)
        given = image.abs().amax((1, 3, 4), keepdim=True) > 0
        return image + (sigma * noise).to(image) * given

    @staticmethod
    def _drawn(count: int, versions: int, rng: Generator) -> Tensor:
        """Which of the frames that were seen a step takes: a drawn one where there are some, else the first."""
        return torch.randint(min(1, versions - 1), versions, (count,), generator=rng)

    def _nothing(self, batch: Batch) -> dict[str, Tensor]:
        """Zeros for what a batch of words alone does not have."""
        x, shape = batch.latents, self.resampler.shape
        count, channels, _, height, width = x.shape
        return {
            "clip": x.new_zeros(count, 1, 1, shape.embedding_dim),
            "grey": x.new_zeros(count, 1, shape.embedding_dim),
            "frame": x.new_zeros(count, 1),
            "image": x.new_zeros(count, channels, 1, height, width),
            "fps": x.new_full((count, 1), float(self.unet.shape.default_fs)),
        }

    def predict(self, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """x B C T H W, t B, conditions of `condition` -> prediction in x's format; inside, in the networks' own."""
        dtype = self.unet.out[2].weight.dtype
        pictures = self.picture_tokens(conditions["clip"][:, 0], x.shape[2]).to(dtype)
        context = torch.cat([conditions["text"].to(dtype), pictures], 1)
        video = torch.cat([x, conditions["image"].to(x)], 1).to(dtype)
        return self.unet(video, t, context, conditions["fps"][:, 0].to(t)).to(x.dtype)

    def picture_tokens(self, clip: Tensor, frames: int) -> Tensor:
        """What the image encoder says of a picture, B S D' -> B (T 16) D.

        The Resampler has queries for each of its own number of frames (16). For another number each frame takes those
        of the frame at the same share of the clip; handed over whole, they would all go to every frame, which the base
        has never seen.
        """
        tokens = self.resampler(clip.to(self.resampler.latents.dtype))
        own = self.resampler.shape.video_length
        if own is None or own == frames:
            return tokens
        nearest = ((torch.arange(frames) + 0.5) * own / frames).long()
        return tokens.unflatten(1, (own, -1))[:, nearest.to(tokens.device)].flatten(1, 2)


def left_out(draws: Tensor, text: float, picture: float) -> tuple[Tensor, Tensor]:
    """Which clips lose their text and which their picture, from one draw in [0, 1) each: B, B.

    Text below `text`; pictures in a range of length `picture` that begins below, so that both are lost in half of the
    smaller share. With 0.1 and 0.1: text alone, both and picture alone in 0.05 each (the reference's uncond_prob).
    """
    start = min(text - min(text, picture) / 2, 1 - picture)
    return draws < text, (draws >= start) & (draws < start + picture)
