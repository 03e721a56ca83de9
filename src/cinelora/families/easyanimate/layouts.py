"""Owns how EasyAnimate's weights and adapters are spelt in files.

Native names are those of diffusers for v5 and v5.1, and those of the published files for v4, v3 and v2 and for the text
encoders. Pure tables and dict -> dict; a row is (original, native), "{}" standing for a number.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from cinelora.nets.layouts import DiffusersLora, NativeLayout, OriginalLora, PrefixedLayout, Row

_SIDES = (
    *((f"attn2.to_{part}", f"attn1.add_{part}_proj") for part in "qkv"),
    ("attn2.to_out.0", "attn1.to_add_out"),
    *((f"attn2.norm_{part}", f"attn1.norm_added_{part}") for part in "qk"),
)
"""The text's side of joint attention: in v5 a second attention in name, in diffusers part of the first."""
_ATTENTION = tuple(f"to_{part}" for part in "qkv") + ("to_out.0",)
_FF = ("ff.net.0.proj", "ff.net.2")


def _same(names: Sequence[str]) -> tuple[Row, ...]:
    return tuple((name, name) for name in names)


_DIT_BLOCK = (
    "norm1.linear",
    *(f"attn1.{part}" for part in _ATTENTION),
    *(f"attn2.{part}" for part in _ATTENTION),
    "norm2.linear",
    *_FF,
    *(f"txt_{part}" for part in _FF),
)
_DIT_BEFORE = (
    *(f"time_embedding.linear_{k}" for k in (1, 2)),
    # ".1" of a projection behind a norm goes first: a row also matches what begins with its name and a dot.
    *(f"text_proj{second}{last}" for second in ("", "_t5") for last in (".1", "")),
)
_DIT_AFTER = ("norm_out.linear", "proj_out")
DIT: tuple[Row, ...] = (
    *_same(_DIT_BEFORE),
    *(
        (f"transformer_blocks.{{}}.{name}", f"transformer_blocks.{{}}.{dict(_SIDES).get(name, name)}")
        for name in _DIT_BLOCK
    ),
    *_same(_DIT_AFTER),
)
"""Every module of v5 and v5.1 that an adapter can stand on, in the original's order."""

_MOTION = "attn_temporal.temporal_transformer"
_MOTION_BLOCK = f"{_MOTION}.transformer_blocks.{{}}"
_PIXART_BLOCK = (
    *(f"attn1.{part}" for part in _ATTENTION),
    f"{_MOTION}.proj_in",
    *(f"{_MOTION_BLOCK}.attention_blocks.{{}}.{part}" for part in _ATTENTION),
    *(f"{_MOTION_BLOCK}.{part}" for part in _FF),
    f"{_MOTION}.proj_out",
    *(f"attn2.{part}" for part in _ATTENTION),
    *_FF,
)
_EMBEDDERS = ("timestep_embedder", "resolution_embedder", "aspect_ratio_embedder")
PIXART: tuple[Row, ...] = _same(
    (
        *(f"transformer_blocks.{{}}.{name}" for name in _PIXART_BLOCK),
        "long_connect_fc.{}",
        "proj_out",
        *(f"adaln_single.emb.{name}.linear_{k}" for name in _EMBEDDERS for k in (1, 2)),
        "adaln_single.linear",
        *(f"{name}_projection.linear_{k}" for name in ("caption", "clip") for k in (1, 2)),
    )
)
"""Of v2 and v3."""

_HUNYUAN_BLOCK = (
    *(f"norm{k}.linear" for k in (1, 2, 3)),
    *(f"{attention}.{part}" for attention in ("attn1", "attn2", "attn_clip") for part in _ATTENTION),
    "gate_clip.proj",
    *_FF,
    "skip_linear",
)
HUNYUAN: tuple[Row, ...] = _same(
    (
        *(f"time_extra_emb.{name}.linear_{k}" for name in ("timestep_embedder", "extra_embedder") for k in (1, 2)),
        *(f"time_extra_emb.pooler.{part}_proj" for part in "kqvc"),
        *(f"text_embedder.linear_{k}" for k in (1, 2)),
        "clip_projection.kv_proj",
        *(f"blocks.{{}}.{name}" for name in _HUNYUAN_BLOCK),
        "norm_out.linear",
        "proj_out",
    )
)
"""Of v4."""

_T5_LAYER = "encoder.block.{}.layer.{}"
T5: tuple[Row, ...] = _same(
    (
        *(f"{_T5_LAYER}.SelfAttention.{part}" for part in "qkvo"),
        *(f"{_T5_LAYER}.DenseReluDense.{part}" for part in ("wi", "wi_0", "wi_1", "wo")),
    )
)
_BERT_LAYER = "encoder.layer.{}"
BERT: tuple[Row, ...] = _same(
    (
        *(f"{_BERT_LAYER}.attention.self.{part}" for part in ("query", "key", "value")),
        *(f"{_BERT_LAYER}.{part}.dense" for part in ("attention.output", "intermediate", "output")),
    )
)


class OriginalDit:
    """v5's and v5.1's published keys: six names of each block differ from diffusers', all others are equal."""

    name = "original"
    _theirs = re.compile(r"(transformer_blocks\.\d+\.)(attn2\.(?:to_[qkv]|to_out\.0|norm_[qk]))(?=\.)")
    _ours = re.compile(r"(transformer_blocks\.\d+\.)(attn1\.(?:add_[qkv]_proj|to_add_out|norm_added_[qk]))(?=\.)")

    def reads(self, keys: Sequence[str]) -> bool:
        """True where a block has a second attention and the network a projection of text."""
        return any(self._theirs.match(key) for key in keys) and any(key.startswith("text_proj.") for key in keys)

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Original -> diffusers."""
        names = dict(_SIDES)
        return {self._theirs.sub(lambda m: m[1] + names[m[2]], key): value for key, value in tensors.items()}

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """diffusers -> original."""
        names = {ours: theirs for theirs, ours in _SIDES}
        return {self._ours.sub(lambda m: m[1] + names[m[2]], key): value for key, value in tensors.items()}


def _original(rows: Sequence[Row], prefix: str, part: str) -> OriginalLora:
    return OriginalLora("videox", rows, "key", prefix=prefix, underscored=True, part=part)


class VideoxLora:
    """What EasyAnimate's trainer writes: `lora_unet__<original name>.lora_down.weight`, `lora_te_...`, each with alpha.

    The text's side of v5 and the second attention of v2 and v3 are spelt alike (attn2_to_q). `older` says that files
    are of v2 to v4; where it is not known, a file with any module that only those have is theirs, and any other is
    v5's. T5 is the second text encoder where the file has BERT too (v4, v5).
    """

    name: str = "videox"
    strength: Literal["key", "header", "folded"] = "key"
    dora = False
    _older = re.compile(r"lora_unet__(blocks_|long_connect|adaln_single|(caption|clip)_projection|.*_attn_temporal_)")

    _older_name = re.compile(
        r"(?<!transformer_)blocks[._]\d|long_connect|adaln_single|(caption|clip)_projection|attn_temporal"
    )

    def __init__(self, *, older: bool | None = None) -> None:
        self.is_older = older
        self.dit = _original(DIT, "lora_unet__", "transformer")
        self.older = _original((*PIXART, *HUNYUAN), "lora_unet__", "transformer")
        self.bert = _original(BERT, "lora_te_", "text_encoder")
        self.t5, self.second_t5 = (_original(T5, "lora_te_", part) for part in ("text_encoder", "text_encoder_2"))

    def reads(self, keys: Sequence[str]) -> bool:
        """True where every key is a module's of the networks or of their text encoders."""
        groups = self._by_speller(keys)
        return bool(keys) and all(speller.reads(own) for speller, own in groups)

    def tables(self, keys: Sequence[str]) -> tuple[tuple[str, Sequence[Row]], ...]:
        """What the modules of the network are called that such keys are of, with dots or underscores, and T5's."""
        older = any(self._older_name.search(key) for key in keys)
        network = self.older if older or self.is_older else self.dit
        return (("transformer", network.rows), ("text_encoder", (*T5, *BERT)))

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Original -> native. Raises WeightsError naming keys that no table knows."""
        found: dict[str, Tensor] = {}
        for speller, own in self._by_speller(list(tensors)):
            found |= speller.to_native({key: tensors[key] for key in own})
        return found

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Native -> original, text encoders first, v5's modules in the original network's order."""
        spellers = {
            "text_encoder.encoder.layer.": self.bert,
            "text_encoder.": self.t5,
            "text_encoder_2.": self.second_t5,
        }
        groups: dict[str, dict[str, Tensor]] = {start: {} for start in (*spellers, "")}
        for key, value in tensors.items():
            groups[next(start for start in groups if key.startswith(start))][key] = value
        found: dict[str, Tensor] = {}
        for start, speller in spellers.items():
            found |= speller.from_native(groups[start])
        return found | self._network(groups[""])

    def _network(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.is_older or not all(self.dit.originals.rewrite(_module(key)) for key in tensors):
            return self.older.from_native(tensors)
        ordered = sorted(tensors, key=lambda key: _PLACES.of(_module(key)))
        return self.dit.from_native({key: tensors[key] for key in ordered})

    def _by_speller(self, keys: Sequence[str]) -> list[tuple[OriginalLora, list[str]]]:
        """The tables with the keys that each is to read, none of them empty."""
        older = any(self._older.match(key) for key in keys) if self.is_older is None else self.is_older
        has_bert = any(key.startswith("lora_te_encoder_layer_") for key in keys)
        groups: dict[OriginalLora, list[str]] = {}
        for key in keys:
            speller = self.older if older else self.dit
            if key.startswith("lora_te_encoder_layer_"):
                speller = self.bert
            elif key.startswith("lora_te_"):
                speller = self.second_t5 if has_bert else self.t5
            groups.setdefault(speller, []).append(key)
        return list(groups.items())


def _module(key: str) -> str:
    """ "transformer.proj_out.lora_A.weight" -> "proj_out" with its ending, as the tables' native side has it."""
    return key.removeprefix("transformer.")


class _Places:
    """Where modules stand in the original v5 network, by native names."""

    def __init__(self) -> None:
        self.order = {native: k for k, (_, native) in enumerate(DIT)}

    def of(self, key: str) -> tuple[int, int, int]:
        """(before, in or after the blocks; the block; the place in it)."""
        name = re.split(r"\.(?:lora_|alpha$)", key)[0]
        number = re.match(r"transformer_blocks\.(\d+)\.", name)
        place = self.order[re.sub(r"^(transformer_blocks\.)\d+", r"\1{}", name)]
        if number:
            return 1, int(number[1]), place
        return (0 if place < len(_DIT_BEFORE) else 2), 0, place


_PLACES = _Places()

WEIGHT_LAYOUTS = (OriginalDit(), NativeLayout("diffusers", "time_embedding."))
"""Of v5 and v5.1."""
HUNYUAN_LAYOUTS = (NativeLayout("original", "time_extra_emb."),)
PIXART_LAYOUTS = (NativeLayout("original", "adaln_single."),)
LAYOUTS_BY_CLASS = {
    "EasyAnimateTransformer3DModel": WEIGHT_LAYOUTS,
    "HunyuanTransformer3DModel": HUNYUAN_LAYOUTS,
    "Transformer3DModel": PIXART_LAYOUTS,
}
T5_LAYOUTS = (NativeLayout("transformers", "encoder.block."),)
BERT_LAYOUTS = (
    NativeLayout("transformers", "embeddings."),
    PrefixedLayout("transformers-whole", "bert.", "embeddings."),
)
QWEN_LAYOUTS = (
    NativeLayout("transformers-text", "embed_tokens."),
    PrefixedLayout("transformers-4", "model.", "embed_tokens."),
    PrefixedLayout("transformers-5", "model.language_model.", "embed_tokens."),
)
"""Of Qwen2-VL's whole files the language model alone is taken: no pictures are read, no words are written."""

_NATIVE = _same(tuple(dict.fromkeys(native for table in (DIT, PIXART, HUNYUAN) for _, native in table)))
_DIFFUSERS = DiffusersLora("transformer", "text_encoder", "text_encoder_2")
_PEFT = OriginalLora("peft", _NATIVE, "folded", prefix="base_model.model.")
LORA_LAYOUTS = (_DIFFUSERS, VideoxLora(), _PEFT)
"""ComfyUI itself has no EasyAnimate network; EasyAnimate's own nodes for it read what its trainer writes."""
OLDER_LORA_LAYOUTS = (_DIFFUSERS, VideoxLora(older=True), _PEFT)
"""Of v2 to v4."""
