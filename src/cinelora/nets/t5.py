"""Owns the text tower of families that read captions with a T5 encoder (T5, UMT5). Weights are read when it is loaded.

In: clips' captions. Out: {"text": S D} each: the encoder's last hidden states, padded to the family's length.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from transformers import AutoTokenizer, ByT5Tokenizer, PretrainedConfig, PreTrainedModel

from cinelora.base.dtypes import torch_dtype
from cinelora.base.errors import Problem, WeightsError
from cinelora.base.files import sha256_text
from cinelora.contracts.flow import Clip
from cinelora.contracts.roles import Layout
from cinelora.nets.weights import Base, build, network_of, open_network


@dataclass(frozen=True)
class T5Kind:
    """What differs between families: classes of transformers, `clean` for captions, and what padding is.

    `masked` says whether padding is hidden from the encoder and zero in its result (Wan), or read like words
    (CogVideoX). `mark` goes into the fingerprint.
    """

    mark: str
    config: type[PretrainedConfig]
    model: type[PreTrainedModel]
    layouts: Sequence[Layout]
    clean: Callable[[str], str]
    masked: bool


class T5Tower:
    """Plays `contracts.roles.Tower`: "text" from captions."""

    name, reads, gives = "text", "caption", ("text",)

    def __init__(self, base: Base, kind: T5Kind, network: Mapping[str, Any], *, length: int, dtype: str, title: str):
        self.base, self.kind, self.network, self.dtype, self.title = base, kind, network, dtype, title
        self.max_tokens = length
        self.net: Any = None
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """Opened when it is first needed; letters as tokens where the base is drawn. Raises WeightsError."""
        if self._tokenizer is None:
            self._tokenizer = ByT5Tokenizer() if self.base.is_random else open_tokenizer(self.base.folder("tokenizer"))
        return self._tokenizer

    def fingerprint(self) -> str:
        """Weights, tokenizer files, length and number format."""
        tokenizer: list[tuple[str, str]] = []
        if not self.base.is_random:
            files = sorted(file for file in self.base.folder("tokenizer").iterdir() if file.is_file())
            tokenizer = [(file.name, sha256_text(file.read_bytes().hex())) for file in files]
        weights = self.base.component("text_encoder", self.kind.layouts).fingerprint()
        settings = sorted(self.network.items()) if self.base.is_random else ()
        return sha256_text(self.kind.mark, weights, tokenizer, self.max_tokens, self.dtype, *settings)

    def load(self, device: str) -> None:
        """Read the weights, if they are not in memory. Raises WeightsError."""
        if self.net is None:
            component = self.base.component("text_encoder", self.kind.layouts)
            network = {"feed_forward_proj": "gated-gelu", **self.network}
            config = network_of(component, self.kind.config, network, title=self.title)
            net: Any = build(lambda: self.kind.model(self.kind.config(**config)))
            open_network(net, component, of="text encoder", dtype_of=self._dtype_of, mend=tied)
            net.encoder.embed_tokens = net.shared
            self.net = net
        self.net.to(device)

    def _dtype_of(self, name: str) -> torch.dtype:
        """fp16 overflows in the feed-forward's second matrix, so transformers keeps that one in fp32, and so do we."""
        return torch.float32 if self.dtype == "fp16" and ".wo." in name else torch_dtype(self.dtype)

    def unload(self) -> None:
        """Let the weights go."""
        self.net = self._tokenizer = None

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """Captions -> "text" S D each, fp32 on the CPU. Nothing is random."""
        return self.said([clip.caption for clip in clips])

    def said(self, captions: Sequence[str]) -> list[dict[str, Tensor]]:
        """One dict per caption, as `encode`."""
        return [{"text": text} for text in self.embed(captions)] if captions else []

    def tokens(self, captions: Sequence[str]) -> list[int]:
        """How many tokens each caption has uncut, the end mark included. No weights are read."""
        if not captions:
            return []
        return [len(ids) for ids in self.tokenizer([self.kind.clean(caption) for caption in captions]).input_ids]

    @torch.no_grad()
    def embed(self, captions: Sequence[str]) -> Tensor:
        """B captions -> B S D."""
        if self.net is None:
            self.load("cpu")
        told = self.tokenizer(
            [self.kind.clean(caption) for caption in captions],
            padding="max_length",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        return self.hidden(told.input_ids, told.attention_mask)

    @torch.no_grad()
    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids B S and their mask -> hidden states B S D, fp32 on the CPU; zero behind the mask if `masked`."""
        device = self.net.device
        if not self.kind.masked:
            return self.net(ids.to(device)).last_hidden_state.float().cpu()
        states = self.net(ids.to(device), mask.to(device)).last_hidden_state
        return (states.float() * mask.to(device).unsqueeze(-1)).cpu()


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a base. Raises WeightsError where its files are damaged."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the Rust half of tokenizers raises nothing narrower
        found = f"{type(error).__name__}: {error}".splitlines()[0]
        problem = Problem("cannot read the tokenizer of the base", found=found, where=str(folder), do="fetch it anew")
        raise WeightsError(problem) from error


def tied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The token table under both of its names; files hold one or both."""
    first, second = "shared.weight", "encoder.embed_tokens.weight"
    found = dict(tensors)
    for name, other in ((first, second), (second, first)):
        if name in tensors:
            found.setdefault(other, tensors[name])
    return found
