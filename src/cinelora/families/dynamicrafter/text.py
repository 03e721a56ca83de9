"""Owns the text tower of DynamiCrafter: the text half of open_clip's ViT-H, its last block left out.

In: clips' captions. Out: {"text": 77 D} each: what all blocks but the last say, normalised. Weights are read when it is
loaded.
"""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ftfy
import torch
from torch import Generator, Tensor
from transformers import ByT5Tokenizer, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from cinelora.base.dtypes import torch_dtype
from cinelora.base.files import sha256_text
from cinelora.contracts.flow import Clip
from cinelora.families.dynamicrafter.layouts import TEXT_LAYOUTS
from cinelora.families.dynamicrafter.places import open_part, tokenizer_folder
from cinelora.nets.t5 import open_tokenizer
from cinelora.nets.weights import RANDOM, build, open_network


def clean(caption: str) -> str:
    """Mend broken Unicode, resolve HTML entities, single white space, lower case: as open_clip does."""
    text = html.unescape(html.unescape(ftfy.fix_text(caption)))
    return re.sub(r"\s+", " ", text).strip().lower()


class ClipText:
    """Plays `contracts.roles.Tower`: "text" from captions. Padding is token 0, and is read like words."""

    name, reads, gives = "text", "caption", ("text",)

    def __init__(self, base: str, network: Mapping[str, Any], *, length: int, dtype: str):
        self.base, self.network, self.dtype = base, network, dtype
        self.max_tokens = length
        self.net: Any = None
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """Opened when it is first needed; letters as tokens where the base is drawn. Raises WeightsError."""
        if self._tokenizer is None:
            self._tokenizer = ByT5Tokenizer() if self.base == RANDOM else _tokenizer_in(tokenizer_folder(self.base))
        return self._tokenizer

    def fingerprint(self) -> str:
        """Weights, tokenizer files, sizes and number format."""
        files: list[tuple[str, str]] = []
        if self.base != RANDOM:
            found = sorted(file for file in tokenizer_folder(self.base).iterdir() if file.is_file())
            files = [(file.name, sha256_text(file.read_bytes().hex())) for file in found]
        weights = open_part(self.base, "text encoder", TEXT_LAYOUTS).fingerprint()
        return sha256_text(
            "dynamicrafter-text-1", weights, files, self.max_tokens, self.dtype, sorted(self.network.items())
        )

    def load(self, device: str) -> None:
        """Read the weights, if they are not in memory. Raises WeightsError."""
        if self.net is None:
            component = open_part(self.base, "text encoder", TEXT_LAYOUTS)
            last = self.network["vocab_size"] - 1
            config = CLIPTextConfig(
                hidden_act="gelu",
                max_position_embeddings=self.max_tokens,
                bos_token_id=last - 1,
                eos_token_id=last,
                pad_token_id=0,
                **self.network,
            )
            net: Any = build(lambda: CLIPTextModel(config))
            # No weight, so no file has it.
            net.embeddings.position_ids = torch.arange(self.max_tokens).expand(1, -1)
            dtype = torch_dtype(self.dtype)
            open_network(net, component, of="text encoder", dtype_of=lambda name: dtype)
            self.net = net
        self.net.to(device)

    def unload(self) -> None:
        """Let the weights go."""
        self.net = self._tokenizer = None

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """Captions -> "text" 77 D each, fp32 on the CPU. Nothing is random."""
        return self.said([clip.caption for clip in clips])

    def said(self, captions: Sequence[str]) -> list[dict[str, Tensor]]:
        """One dict per caption, as `encode`."""
        return [{"text": text} for text in self.embed(captions)] if captions else []

    def tokens(self, captions: Sequence[str]) -> list[int]:
        """How many tokens each caption has uncut, both marks included. No weights are read."""
        return [len(self.tokenizer(clean(caption)).input_ids) for caption in captions]

    def embed(self, captions: Sequence[str]) -> Tensor:
        """B captions -> B 77 D."""
        return self.hidden(torch.stack([self.ids(caption) for caption in captions]))

    def ids(self, caption: str) -> Tensor:
        """Token ids of one caption: cut so that the end mark stays, then zeros."""
        told = self.tokenizer(clean(caption), truncation=True, max_length=self.max_tokens).input_ids
        return torch.tensor([*told, *[0] * (self.max_tokens - len(told))])

    @torch.no_grad()
    def hidden(self, ids: Tensor) -> Tensor:
        """Token ids B S -> B S D, fp32 on the CPU: the states before the last block, through the last norm."""
        if self.net is None:
            self.load("cpu")
        states = self.net(ids.to(self.net.device), output_hidden_states=True).hidden_states[-2]
        return self.net.final_layer_norm(states).float().cpu()


def _tokenizer_in(folder: Path) -> Any:
    """The tokenizer of a folder, or CLIP's of bare vocab.json and merges.txt. Raises WeightsError."""
    bare = not (folder / "tokenizer.json").is_file() and (folder / "vocab.json").is_file()
    return CLIPTokenizer.from_pretrained(folder) if bare else open_tokenizer(folder)
