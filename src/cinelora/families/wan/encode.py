"""Owns all that turns clips into what the Wan denoiser takes: the text encoder, the autoencoder, and the way back.

In: clips (pixels C F H W in [-1, 1], captions). Out: normalised moments 16 T h w and {"text": S D}; pixels again.
Weights are read when a tower is loaded, never before.
"""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ftfy
import torch
from diffusers import AutoencoderKLWan
from torch import Generator, Tensor
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

from cinelora.base.dtypes import torch_dtype
from cinelora.base.errors import Problem, WeightsError
from cinelora.base.files import sha256_text
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Clip, Encoded
from cinelora.families.wan.layouts import TEXT_LAYOUTS, VAE_LAYOUTS
from cinelora.families.wan.weights import build, fill, locate, tokenizer_folder


def clean(caption: str) -> str:
    """Mend broken Unicode, resolve HTML entities, and make all white space single: as Wan's pipelines do."""
    text = html.unescape(html.unescape(ftfy.fix_text(caption)))
    return re.sub(r"\s+", " ", text).strip()


class WanText:
    """The tower that makes "text": UMT5's last hidden states, zero beyond the caption's own length."""

    name, reads, gives = "text", "caption", ("text",)

    def __init__(self, base: str, variant: Variant, dtype: str):
        self.base, self.variant, self.dtype = base, variant, dtype
        self.net: UMT5EncoderModel | None = None
        self.tokenizer: Any = None

    def fingerprint(self) -> str:
        """Weights, tokenizer files, length and number format."""
        files = sorted(file for file in tokenizer_folder(self.base).iterdir() if file.is_file())
        tokenizer = [(file.name, sha256_text(file.read_bytes().hex())) for file in files]
        weights = locate(self.base, "text_encoder", TEXT_LAYOUTS).fingerprint()
        return sha256_text("wan-text-1", weights, tokenizer, self.variant.text_length, self.dtype)

    def load(self, device: str) -> None:
        """Read the weights, if they are not in memory. Raises WeightsError."""
        if self.net is None:
            component = locate(self.base, "text_encoder", TEXT_LAYOUTS)
            config = {**(component.config or {}), **self.variant.network["text_encoder"]}
            net = build(lambda: UMT5EncoderModel(UMT5Config(**{"feed_forward_proj": "gated-gelu", **config})))
            tensors = _tied(component.tensors())
            fill(net, tensors, of="text encoder", dtype_of=self._dtype_of, where=component.where)
            net.encoder.embed_tokens = net.shared
            self.net = net
        self.net.to(device)

    def _dtype_of(self, name: str) -> torch.dtype:
        """fp16 overflows in the feed-forward's second matrix, so transformers keeps that one in fp32, and so do we."""
        return torch.float32 if self.dtype == "fp16" and ".wo." in name else torch_dtype(self.dtype)

    def unload(self) -> None:
        """Let the weights go."""
        self.net = self.tokenizer = None

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """Captions -> "text" S D each, fp32 on the CPU. Nothing is random."""
        return [{"text": text} for text in self.embed([clip.caption for clip in clips])]

    @torch.no_grad()
    def embed(self, captions: Sequence[str]) -> Tensor:
        """B captions -> B S D."""
        if self.net is None:
            self.load("cpu")
        tokens = self._tokenizer()(
            [clean(caption) for caption in captions],
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        return self.hidden(tokens.input_ids, tokens.attention_mask)

    @property
    def max_tokens(self) -> int:
        """How many tokens of a caption count, the end token included."""
        return self.variant.text_length

    def tokens(self, captions: Sequence[str]) -> list[int]:
        """How many tokens each caption has before it is cut, the end token included. Reads no weights."""
        if not captions:
            return []
        cleaned = [clean(caption) for caption in captions]
        ids = self._tokenizer()(cleaned, truncation=False, padding=False, return_attention_mask=False, verbose=False)
        return [len(one) for one in ids["input_ids"]]

    def _tokenizer(self) -> Any:
        if self.tokenizer is None:
            self.tokenizer = _open_tokenizer(tokenizer_folder(self.base))
        return self.tokenizer

    @torch.no_grad()
    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids B S and their mask -> hidden states B S D, zero where the mask is."""
        device = self.net.device
        states = self.net(ids.to(device), mask.to(device)).last_hidden_state
        return (states.float() * mask.to(device).unsqueeze(-1)).cpu()


def _open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a base. Raises WeightsError where its files are damaged."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the Rust half of tokenizers raises nothing narrower
        found = f"{type(error).__name__}: {error}".splitlines()[0]
        problem = Problem("cannot read the tokenizer of the base", found=found, where=str(folder), do="fetch it anew")
        raise WeightsError(problem) from error


def _tied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The token table under both of its names; files hold one or both."""
    first, second = "shared.weight", "encoder.embed_tokens.weight"
    found = dict(tensors)
    for name, other in ((first, second), (second, first)):
        if name in tensors:
            found.setdefault(other, tensors[name])
    return found


class WanVae:
    """The tower that makes latents: the causal autoencoder, and its decoder.

    Mean and log-variance are both normalised with the model's latent statistics: mean' = (mu - m) / s,
    logvar' = logvar - 2 log s, so that sampling from them has the right width.
    """

    name, reads, gives = "vae", "pixels", ("mean", "logvar")

    def __init__(self, base: str, variant: Variant, dtype: str):
        self.base, self.variant, self.dtype = base, variant, dtype
        self.tiling = False
        self.net: AutoencoderKLWan | None = None

    def fingerprint(self) -> str:
        """Weights, statistics (in the config), number format and tiling."""
        weights = locate(self.base, "vae", VAE_LAYOUTS).fingerprint()
        return sha256_text("wan-vae-1", weights, self.dtype, self.tiling, sorted(self.variant.network["vae"].items()))

    def load(self, device: str) -> None:
        """Read the weights, if they are not in memory. Raises WeightsError."""
        if self.net is None:
            component = locate(self.base, "vae", VAE_LAYOUTS)
            stated = {key: value for key, value in (component.config or {}).items() if not key.startswith("_")}
            network = {**stated, **self.variant.network["vae"]}
            net = build(lambda: AutoencoderKLWan(**network))
            dtype = torch_dtype(self.dtype)
            fill(net, component.tensors(), of="autoencoder", dtype_of=lambda name: dtype, where=component.where)
            self.net = net
        self.net.to(device)
        self.net.use_tiling = self.tiling

    def unload(self) -> None:
        """Let the weights go."""
        self.net = None

    @torch.no_grad()
    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """One clip at a time: 3 F H W -> mean and logvar 16 T h w, fp32 on the CPU. Nothing is drawn here."""
        if self.net is None:
            self.load("cpu")
        shift, log_scale = self._statistics()
        found = []
        for clip in clips:
            posterior = self.net.encode(clip.pixels[None].to(self.net.device, self.net.dtype)).latent_dist
            mean, logvar = (moment[0].float().cpu() for moment in (posterior.mean, posterior.logvar))
            found.append({"mean": (mean - shift) * torch.exp(-log_scale), "logvar": logvar - 2 * log_scale})
        return found

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """B 16 T h w -> B 3 F H W in [-1, 1], fp32, one clip at a time, on the latents' device."""
        self.load(str(latents.device))
        shift, log_scale = (part.to(latents.device) for part in self._statistics())
        raw = latents.float() * torch.exp(log_scale) + shift
        clips = [self.net.decode(clip[None].to(self.net.dtype), return_dict=False)[0].float() for clip in raw]
        return torch.cat(clips).clamp(-1, 1)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and log of the deviation of raw latents, each 16 1 1 1."""
        config = self.net.config
        mean, deviation = (torch.tensor(part).view(-1, 1, 1, 1) for part in (config.latents_mean, config.latents_std))
        return mean, deviation.log()


class WanEncoder:
    """Both towers; plays `contracts.roles.Encoder`."""

    def __init__(self, text: WanText, vae: WanVae):
        self.text, self.vae = text, vae
        self._blank: dict[str, Tensor] | None = None

    def towers(self) -> tuple[WanText, WanVae]:
        """Text, then latents."""
        return self.text, self.vae

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[Encoded]:
        """Run both towers."""
        text, moments = (tower.encode(clips, rng) for tower in self.towers())
        return [Encoded(m["mean"], m["logvar"], t) for t, m in zip(text, moments, strict=True)]

    def decode(self, latents: Tensor) -> Tensor:
        """B 16 T h w -> B 3 F H W in [-1, 1]."""
        return self.vae.decode(latents)

    def blank(self) -> Mapping[str, Tensor]:
        """The empty caption's "text" S D. A text encoder that was not in memory does not stay there."""
        if self._blank is None:
            loaded = self.text.net is not None
            self._blank = {"text": self.text.embed([""])[0]}
            if not loaded:
                self.text.unload()
        return self._blank


def open_encoder(base: str, variant: Variant, dtype: str) -> WanEncoder:
    """Both towers on a base; no weights are read yet.

    `dtype` is the text encoder's. The autoencoder computes in fp32, as diffusers advises for Wan: it is small, and in
    bf16 it would lose more of a latent than its own posterior's width.
    """
    return WanEncoder(WanText(base, variant, dtype), WanVae(base, variant, "fp32"))
