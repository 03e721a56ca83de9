"""Owns the text towers of EasyAnimate: T5 (v2, v3), BERT and mT5 (v4, v5), Qwen2-VL's language model (v5.1).

In: clips' captions. Out: {"text": S D} and of a second encoder {"text_t5": S D}, padded to the right to a whole length,
nothing set to zero; where the denoiser asks for them, masks {"text_mask": S}, {"text_t5_mask": S}, 1 = a word. Weights
are read when a tower is loaded. Special tokens are added, as in the pipelines that adapters are used with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from transformers import BertConfig, BertModel, ByT5Tokenizer, Qwen2VLTextConfig, T5Config, T5EncoderModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLTextModel

from cinelora.base.dtypes import torch_dtype
from cinelora.base.errors import Problem, WeightsError
from cinelora.base.files import sha256_text
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Clip
from cinelora.contracts.roles import Layout
from cinelora.families.easyanimate.layouts import BERT_LAYOUTS, QWEN_LAYOUTS, T5_LAYOUTS
from cinelora.nets.t5 import open_tokenizer, tied
from cinelora.nets.weights import Base, build, open_network, settled

BERT_LENGTH = 77
"""Tokens that the bilingual CLIP text encoder has positions for (its tokenizer's model_max_length)."""
_CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""What Qwen2-VL's own template makes of one message; for drawn bases, which have no files."""


@dataclass(frozen=True)
class TextKind:
    """What differs between the encoders.

    `make` builds the network without memory from its config; `states` asks it (ids B S, mask B S or None) -> B S D;
    `mend` takes its weights as files hold them; `chats` says that captions become a user's message.
    """

    mark: str
    layouts: Sequence[Layout]
    make: Callable[[Mapping[str, Any]], nn.Module]
    states: Callable[[Any, Tensor, Tensor | None], Tensor]
    mend: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    chats: bool = False


@dataclass(frozen=True)
class TextPlace:
    """Where an encoder stands: its component and tokenizer in the base, its length, the conditions it gives.

    `masked` says whether padding is hidden from the encoder; a second name in `gives` is that of the mask.
    """

    component: str
    tokenizer: str
    length: int
    gives: tuple[str, ...]
    masked: bool


class TextTower:
    """Plays `contracts.roles.Tower`, and counts tokens."""

    reads = "caption"

    def __init__(self, base: Base, kind: TextKind, place: TextPlace, network: Mapping[str, Any], *, dtype: str):
        self.base, self.kind, self.place, self.network, self.dtype = base, kind, place, network, dtype
        self.name, self.gives, self.max_tokens = place.gives[0], place.gives, place.length
        self.net: Any = None
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        """Opened when it is first needed; letters as tokens where the base is drawn. Raises WeightsError."""
        if self._tokenizer is None:
            random = self.base.is_random
            self._tokenizer = ByT5Tokenizer() if random else open_tokenizer(self.base.folder(self.place.tokenizer))
        return self._tokenizer

    def fingerprint(self) -> str:
        """Weights, tokenizer files, place and number format."""
        tokenizer: list[tuple[str, str]] = []
        if not self.base.is_random:
            files = sorted(file for file in self.base.folder(self.place.tokenizer).iterdir() if file.is_file())
            tokenizer = [(file.name, sha256_text(file.read_bytes().hex())) for file in files]
        weights = self.base.component(self.place.component, self.kind.layouts).fingerprint()
        settings = sorted(self.network.items()) if self.base.is_random else ()
        return sha256_text(self.kind.mark, weights, tokenizer, self.place, self.dtype, *settings)

    def load(self, device: str) -> None:
        """Read the weights, if they are not in memory. Raises WeightsError."""
        if self.net is None:
            component = self.base.component(self.place.component, self.kind.layouts)
            stated = component.config or {}
            with settled(component):
                net: Any = self.kind.make({**stated, **(stated.get("text_config") or {}), **self.network})
            open_network(net, component, of="text encoder", dtype_of=self._dtype_of, mend=self.kind.mend)
            if hasattr(net, "shared"):
                net.encoder.embed_tokens = net.shared
            self.net = net
        self.net.to(device)

    def _dtype_of(self, name: str) -> torch.dtype:
        """T5's second matrix of the feed-forward stays in fp32 beside fp16, in which it overflows."""
        return torch.float32 if self.dtype == "fp16" and ".wo." in name else torch_dtype(self.dtype)

    def unload(self) -> None:
        """Let the weights go."""
        self.net = self._tokenizer = None

    def encode(self, clips: Sequence[Clip], rng: Generator | None = None) -> list[dict[str, Tensor]]:
        """Captions -> what `gives` says, fp32 on the CPU. Nothing is random."""
        return self.said([clip.caption for clip in clips])

    def said(self, captions: Sequence[str]) -> list[dict[str, Tensor]]:
        """One dict per caption: states S D and, if asked for, the mask S."""
        told = self.tokenizer(
            self.written(captions),
            padding="max_length",
            padding_side="right",
            max_length=self.max_tokens,
            truncation=True,
            return_tensors="pt",
        )
        states = self.hidden(told.input_ids, told.attention_mask)
        both = zip(states, told.attention_mask.float(), strict=True)
        return [dict(zip(self.gives, pair[: len(self.gives)], strict=True)) for pair in both]

    def embed(self, captions: Sequence[str]) -> Tensor:
        """B captions -> states B S D."""
        return torch.stack([one[self.name] for one in self.said(captions)])

    def tokens(self, captions: Sequence[str]) -> list[int]:
        """How many tokens each caption has uncut, special ones and the template included. No weights are read."""
        return [len(ids) for ids in self.tokenizer(self.written(captions)).input_ids] if captions else []

    def written(self, captions: Sequence[str]) -> list[str]:
        """What is cut into tokens: captions, or each as a message that waits for its answer. Raises WeightsError."""
        if not self.kind.chats:
            return list(captions)
        if self.base.is_random:
            return [_CHAT.format(caption) for caption in captions]
        if not self.tokenizer.chat_template:
            problem = Problem(
                "the tokenizer of the base has no chat template, which captions are put into",
                where=str(self.base.folder(self.place.tokenizer)),
                do="fetch tokenizer_config.json (or chat_template.jinja) anew",
            )
            raise WeightsError(problem)
        messages = [[{"role": "user", "content": [{"type": "text", "text": caption}]}] for caption in captions]
        template = self.tokenizer.apply_chat_template
        return [template(one, tokenize=False, add_generation_prompt=True) for one in messages]

    @torch.no_grad()
    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids B S and their mask -> states B S D, fp32 on the CPU."""
        if self.net is None:
            self.load("cpu")
        device = self.net.device
        return self.kind.states(self.net, ids.to(device), mask.to(device) if self.place.masked else None).float().cpu()


def _last(net: Any, ids: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:  # transformers' BERT makes one of its own where none is given; T5 does, too: everything is read
        mask = torch.ones_like(ids)
    states: Tensor = net(ids, attention_mask=mask).last_hidden_state
    return states


def _last_but_one(net: Any, ids: Tensor, mask: Tensor | None) -> Tensor:
    """What goes into the last block: hidden state -2 of embeddings, blocks and the normed end."""
    states: Tensor = net(ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states[-2]
    return states


def _make_t5(config: Mapping[str, Any]) -> nn.Module:
    return build(lambda: T5EncoderModel(T5Config(**{"feed_forward_proj": "gated-gelu", **config})))


def _make_bert(config: Mapping[str, Any]) -> nn.Module:
    settings = BertConfig(**config)
    net: Any = build(lambda: BertModel(settings, add_pooling_layer=False))
    # Numbers of the places, and that all words are of one text: no weights, so they are made for real.
    net.embeddings.position_ids = torch.arange(settings.max_position_embeddings)[None]
    net.embeddings.token_type_ids = torch.zeros_like(net.embeddings.position_ids)
    return net


def _make_qwen(config: Mapping[str, Any]) -> nn.Module:
    """From what the whole model's config, or a card, says of the language model."""
    other = ("text_config", "vision_config", "model_type", "architectures", "torch_dtype", "dtype")
    settings = Qwen2VLTextConfig(**{key: value for key, value in config.items() if key not in other})
    net: Any = build(lambda: Qwen2VLTextModel(settings))
    net.rotary_emb = type(net.rotary_emb)(settings)  # a table that no file has
    return net


def _without_pooler(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Without what files may hold and the last states do not need: the pooler, the numbers of the places."""
    skipped = ("pooler.", "embeddings.position_ids", "embeddings.token_type_ids")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(skipped)}


T5 = TextKind("easyanimate-t5-1", T5_LAYOUTS, _make_t5, _last, tied)
BERT = TextKind("easyanimate-bert-1", BERT_LAYOUTS, _make_bert, _last, _without_pooler)
QWEN = TextKind("easyanimate-qwen-1", QWEN_LAYOUTS, _make_qwen, _last_but_one, lambda tensors: tensors, chats=True)


def open_texts(base: Base, variant: Variant, dtype: str) -> tuple[TextTower, ...]:
    """The text towers of a variant: its network says which; its conditions, whether masks are given.

    `network` of the card holds "text_encoder" and, of v4 and v5, "text_encoder_2"; what a base's own config says of
    them stands behind it.
    """
    network = variant.network
    masked = bool(network["transformer"].get("enable_text_attention_mask", True))

    def place(number: str, length: int, *, hidden: bool) -> TextPlace:
        name = "text_t5" if number else "text"
        gives = tuple(key for key in (name, f"{name}_mask") if key in variant.conditions)
        return TextPlace(f"text_encoder{number}", f"tokenizer{number}", length, gives, hidden)

    first = network["text_encoder"]
    if "text_encoder_2" in network:
        bert = place("", min(BERT_LENGTH, variant.text_length), hidden=masked)
        second = place("_2", variant.text_length, hidden=masked)
        return (
            TextTower(base, BERT, bert, first, dtype=dtype),
            TextTower(base, T5, second, network["text_encoder_2"], dtype=dtype),
        )
    if network["transformer"].get("_class_name") == "Transformer3DModel":
        return (TextTower(base, T5, place("", variant.text_length, hidden=masked), first, dtype=dtype),)
    return (TextTower(base, QWEN, place("", variant.text_length, hidden=True), first, dtype=dtype),)
