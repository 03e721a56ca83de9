"""EasyAnimate's text towers: which state is taken, lengths, masks, the template, files as they are published."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)
from wan_bases import byte_tokenizer

from cinelora.base.errors import WeightsError
from cinelora.contracts.card import Variant
from cinelora.contracts.geometry import Geometry
from cinelora.contracts.roles import CountsTokens, Tower
from cinelora.families.easyanimate.text import BERT_LENGTH, open_texts
from cinelora.nets.conditions import dropped_texts
from cinelora.nets.encoder import TowerEncoder
from cinelora.nets.weights import Base

CAPTIONS = ["a red ball", "", "x" * 300]
SMALL_T5 = {"vocab_size": 384, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
SMALL_BERT = {
    "vocab_size": 384,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 80,
}
SMALL_QWEN = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
}
VISION = {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2}
T5_ALONE = {"transformer": {"_class_name": "Transformer3DModel"}, "text_encoder": SMALL_T5}
BOTH = {
    "transformer": {"_class_name": "HunyuanTransformer3DModel", "enable_text_attention_mask": True},
    "text_encoder": SMALL_BERT,
    "text_encoder_2": SMALL_T5,
}
CHATTING = {"transformer": {"_class_name": "EasyAnimateTransformer3DModel"}, "text_encoder": SMALL_QWEN}
MASKS = ("text", "text_mask", "text_t5", "text_t5_mask")


def variant(network: dict, *conditions: str, length: int = 64) -> Variant:
    return Variant(
        name="v",
        title="a small one",
        base="random",
        geometry=Geometry(fps=8, frames=9, height=64, width=64),
        conditions=dict.fromkeys(conditions, "S"),
        network=network,
        text_length=length,
    )


def towers(network: dict, *conditions: str, base: str | Path = "random", **more):
    return open_texts(Base(str(base)), variant(network, *conditions, **more), "fp32")


def test_versions_have_their_encoders_lengths_and_conditions():
    (t5,) = towers(T5_ALONE, "text", "text_mask", length=256)
    bert, second = towers(BOTH, *MASKS, length=256)
    (qwen,) = towers(CHATTING, "text", length=256)
    assert [one.gives for one in (t5, bert, second, qwen)] == [
        ("text", "text_mask"),
        ("text", "text_mask"),
        ("text_t5", "text_t5_mask"),
        ("text",),
    ]
    assert [one.max_tokens for one in (t5, bert, second, qwen)] == [256, BERT_LENGTH, 256, 256]
    assert [one.place.component for one in (bert, second)] == ["text_encoder", "text_encoder_2"]
    assert len({one.name for one in (bert, second)}) == 2
    assert all(isinstance(one, Tower) and isinstance(one, CountsTokens) for one in (t5, bert, second, qwen))


@pytest.mark.parametrize("network", [T5_ALONE, BOTH, CHATTING], ids=["t5", "both", "qwen"])
def test_captions_become_whole_lengths_each_for_itself(network):
    for tower in towers(network, *MASKS, length=80):
        together = tower.said(CAPTIONS)
        for caption, one in zip(CAPTIONS, together, strict=True):
            states, mask = (one[name] for name in tower.gives)
            count = min(tower.tokens([caption])[0], tower.max_tokens)
            assert states.shape == (tower.max_tokens, states.shape[1])
            assert mask.tolist() == [1.0] * count + [0.0] * (tower.max_tokens - count), "padding is on the right"
            assert states.dtype == mask.dtype == torch.float32
            assert states.isfinite().all()
            assert states[-1].any(), "padding is not set to zero"
            torch.testing.assert_close(tower.said([caption])[0][tower.name], states, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(tower.embed(CAPTIONS)[0], together[0][tower.name])


def test_hidden_padding_has_no_say_and_read_padding_has():
    """Longer padding changes the words' states only where the encoder reads it (v5)."""
    for reads in (True, False):
        network = {**BOTH, "transformer": {**BOTH["transformer"], "enable_text_attention_mask": reads}}
        for number in (0, 1):
            short, long = (towers(network, *MASKS, length=length)[number] for length in (40, 60))
            count = short.tokens(["a ball"])[0]
            one, other = (tower.embed(["a ball"])[0, :count] for tower in (short, long))
            assert torch.allclose(one, other, atol=1e-5) is reads


def test_special_tokens_are_added():
    (t5,) = towers(T5_ALONE, "text")
    assert t5.tokens(["abc", ""]) == [4, 1]
    assert t5.tokens([]) == []
    assert t5.net is None


def test_qwen_gives_what_goes_into_its_last_block():
    (tower,) = towers(CHATTING, "text")
    found = tower.embed(CAPTIONS[:2])
    net = tower.net
    last, kept = net.layers[-1], []
    hook = last.register_forward_pre_hook(
        lambda module, given, named: kept.append(given[0] if given else named["hidden_states"]), with_kwargs=True
    )
    told = tower.tokenizer(
        tower.written(CAPTIONS[:2]),
        padding="max_length",
        max_length=64,
        truncation=True,
        padding_side="right",
        return_tensors="pt",
    )
    with torch.no_grad():
        net(told.input_ids, attention_mask=told.attention_mask)
    hook.remove()
    torch.testing.assert_close(found, kept[0])


def test_captions_are_a_users_message_and_an_answer_is_awaited():
    (tower,) = towers(CHATTING, "text", length=256)
    (written,) = tower.written(["a ball"])
    assert written.endswith("<|im_start|>user\na ball<|im_end|>\n<|im_start|>assistant\n")
    assert tower.tokens(["a ball"]) == [len(tower.tokenizer(written).input_ids)]
    assert tower.tokens(["a ball!"])[0] == tower.tokens(["a ball"])[0] + 1


TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{{ part.text }}{% endfor %}</>{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


def write_qwen(folder: Path, template: str | None = TEMPLATE) -> Path:
    torch.manual_seed(3)
    config = Qwen2VLConfig(text_config=SMALL_QWEN, vision_config=VISION)
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder / "text_encoder")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def flattened(folder: Path) -> None:
    """As files and configs were written in the days of the release: one level, `model.` and `visual.`."""
    file, config = folder / "text_encoder" / "model.safetensors", folder / "text_encoder" / "config.json"
    tensors = load_file(file)
    old = {
        key.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value
        for key, value in tensors.items()
    }
    save_file(old, file, {"format": "pt"})
    told = json.loads(config.read_text())
    text = told.pop("text_config")
    rope = text.pop("rope_parameters")
    text |= {"rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    config.write_text(json.dumps({**text, **told, "model_type": "qwen2_vl", "torch_dtype": "float32"}))


def test_whole_qwen_files_of_both_ages_give_the_reference_numbers(tmp_path):
    base = write_qwen(tmp_path)
    reference = Qwen2VLForConditionalGeneration.from_pretrained(base / "text_encoder").eval()
    network = {**CHATTING, "text_encoder": {}}
    (tower,) = towers(network, "text", base=base)
    assert tower.written(["a ball"]) == ["<user>a ball</><answer>"]
    tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer")
    told = tokenizer(["<user>a ball</><answer>"], padding="max_length", max_length=64, return_tensors="pt")
    with torch.no_grad():
        states = reference(
            input_ids=told.input_ids, attention_mask=told.attention_mask, output_hidden_states=True
        ).hidden_states
    assert len(states) == 4
    torch.testing.assert_close(tower.embed(["a ball"]), states[-2].float(), rtol=1e-4, atol=1e-5)
    first = tower.fingerprint()
    flattened(base)
    (again,) = towers(network, "text", base=base)
    torch.testing.assert_close(again.embed(["a ball"]), states[-2].float(), rtol=1e-4, atol=1e-5)
    assert again.fingerprint() != first


def test_a_tokenizer_without_a_template_is_told(tmp_path):
    (tower,) = towers(CHATTING, "text", base=write_qwen(tmp_path, template=None))
    with pytest.raises(WeightsError, match="chat template"):
        tower.tokens(["a ball"])


@pytest.fixture
def pair(tmp_path) -> Path:
    torch.manual_seed(4)
    BertModel(BertConfig(**SMALL_BERT)).save_pretrained(tmp_path / "text_encoder")
    T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", **SMALL_T5)).save_pretrained(tmp_path / "text_encoder_2")
    for name in ("tokenizer", "tokenizer_2"):
        byte_tokenizer().save_pretrained(tmp_path / name)
    return tmp_path


def test_both_encoders_give_the_reference_numbers(pair):
    network = {**BOTH, "text_encoder": {}, "text_encoder_2": {}}
    found = towers(network, *MASKS, base=pair, length=70)
    for tower, kind in zip(found, (BertModel, T5EncoderModel), strict=True):
        reference = kind.from_pretrained(pair / tower.place.component).eval()
        told = AutoTokenizer.from_pretrained(pair / tower.place.tokenizer)(
            CAPTIONS, padding="max_length", truncation=True, max_length=tower.max_tokens, return_tensors="pt"
        )
        with torch.no_grad():
            states = reference(told.input_ids, attention_mask=told.attention_mask).last_hidden_state
        torch.testing.assert_close(tower.embed(CAPTIONS), states, rtol=1e-4, atol=1e-5)
        masks = torch.stack([one[tower.gives[1]] for one in tower.said(CAPTIONS)])
        assert torch.equal(masks, told.attention_mask.float())


@pytest.mark.parametrize("spelling", ["prefixed", "with numbers of places"])
def test_bert_files_of_other_makers_are_read(pair, spelling):
    network = {**BOTH, "text_encoder": {}, "text_encoder_2": {}}
    before = towers(network, *MASKS, base=pair)[0].embed(CAPTIONS)
    file = pair / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    if spelling == "prefixed":
        tensors = {"bert." + key: value for key, value in tensors.items()} | {"cls.predictions.bias": torch.zeros(3)}
    else:
        tensors["embeddings.position_ids"] = torch.arange(80)[None]
    save_file(tensors, file, {"format": "pt"})
    torch.testing.assert_close(towers(network, *MASKS, base=pair)[0].embed(CAPTIONS), before)


def test_fingerprints_follow_what_changes_the_states():
    def prints(network=BOTH, length=64):
        return [tower.fingerprint() for tower in towers(network, *MASKS, length=length)]

    plain, reading = prints(), {**BOTH, "transformer": {"enable_text_attention_mask": False}}
    assert prints() == plain
    assert len(set(plain)) == 2
    assert all(a != b for a, b in zip(plain, prints(length=60), strict=True))
    assert all(a != b for a, b in zip(plain, prints(reading), strict=True))


def test_the_blank_is_what_every_tower_says_of_nothing():
    bert, second = towers(BOTH, *MASKS)
    bert.load("cpu")
    encoder = TowerEncoder(bert, replace_vae(), second)
    blank = encoder.blank()
    assert set(blank) == set(MASKS)
    assert second.net is None, "what was not in memory does not stay there"
    assert bert.net is not None
    for tower in (bert, second):
        for name, tensor in tower.said([""])[0].items():
            assert torch.equal(blank[name], tensor)
    assert encoder.blank() is blank


def replace_vae():
    class Vae:
        name, reads, gives = "vae", "pixels", ("mean", "logvar")

    return Vae()


def test_a_clip_loses_all_its_texts_or_none():
    texts = {"text": torch.ones(200, 3, 4), "text_mask": torch.ones(200, 3), "text_t5": torch.ones(200, 5, 6)}
    blank = {name: torch.zeros(tensor.shape[1:]) for name, tensor in texts.items()}
    found = dropped_texts(texts, blank, 0.3, torch.Generator().manual_seed(0))
    kept = {name: tensor.flatten(1).all(1) for name, tensor in found.items()}
    assert all(torch.equal(kept[name], kept["text"]) for name in kept)
    assert all(torch.equal(found[name].flatten(1).any(1), kept["text"]) for name in found)
    assert 0.15 < 1 - kept["text"].float().mean() < 0.45
    assert all(torch.equal(one, texts[name]) for name, one in dropped_texts(texts, blank, 0.3, None).items())


def test_weights_of_another_encoder_are_refused(pair):
    (pair / "text_encoder" / "config.json").rename(pair / "text_encoder" / "kept.json")
    shutil_swap(pair)
    with pytest.raises(WeightsError):
        towers({**BOTH, "text_encoder": SMALL_BERT}, *MASKS, base=pair)[0].embed(["a"])


def shutil_swap(folder: Path) -> None:
    (folder / "text_encoder" / "config.json").write_text(json.dumps(SMALL_BERT))
    target = folder / "text_encoder" / "model.safetensors"
    target.write_bytes((folder / "text_encoder_2" / "model.safetensors").read_bytes())


def test_formats_are_as_asked_and_t5_keeps_what_overflows():
    for dtype, wo in (("bf16", torch.bfloat16), ("fp16", torch.float32)):
        (tower,) = open_texts(Base("random"), replace(variant(T5_ALONE, "text")), dtype)
        tower.load("cpu")
        block = tower.net.encoder.block[0].layer
        assert block[1].DenseReluDense.wo.weight.dtype == wo
        assert block[0].SelfAttention.q.weight.dtype == (torch.bfloat16 if dtype == "bf16" else torch.float16)


@pytest.mark.parametrize("said", [{"hidden_act": 5}, {"hidden_act": "zzz"}, {"layer_norm_eps": "tiny"}])
def test_a_config_of_which_nothing_can_be_made_is_told(said, pair):
    file = pair / "text_encoder" / "config.json"
    file.write_text(json.dumps({**SMALL_BERT, **said}))
    with pytest.raises(WeightsError, match="text_encoder") as caught:
        towers(BOTH, *MASKS, base=pair)[0].embed(["a"])
    assert caught.value.problems[0].where == str(file)
