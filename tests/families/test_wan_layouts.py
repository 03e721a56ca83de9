"""Key tables against the reference's own structure, written out here from its constructor's numbers."""

import math

import pytest
import torch
from diffusers import AutoencoderKLWan
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from cinelora.base.errors import WeightsError
from cinelora.families.wan.card import CARD
from cinelora.families.wan.denoise import build_net
from cinelora.families.wan.layouts import CLIP_LAYOUTS, LORA_LAYOUTS, TEXT_LAYOUTS, VAE_LAYOUTS, WEIGHT_LAYOUTS
from cinelora.nets.weights import build

ORIGINAL, COMFYUI = WEIGHT_LAYOUTS[1:]
LORA = {layout.name: layout for layout in LORA_LAYOUTS}


def original_transformer(dim: int, ffn: int, layers: int, freq: int, text: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of Wan-Video's model for text-to-video."""

    def linear(name, inputs, outputs):
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    shapes = {"patch_embedding.weight": (dim, 16, 1, 2, 2), "patch_embedding.bias": (dim,)}
    shapes |= linear("text_embedding.0", text, dim) | linear("text_embedding.2", dim, dim)
    shapes |= linear("time_embedding.0", freq, dim) | linear("time_embedding.2", dim, dim)
    shapes |= linear("time_projection.1", dim, 6 * dim)
    for block in (f"blocks.{k}" for k in range(layers)):
        shapes[f"{block}.modulation"] = (1, 6, dim)
        shapes |= {f"{block}.norm3.weight": (dim,), f"{block}.norm3.bias": (dim,)}
        for attention in (f"{block}.self_attn", f"{block}.cross_attn"):
            for letter in "qkvo":
                shapes |= linear(f"{attention}.{letter}", dim, dim)
            shapes |= {f"{attention}.norm_q.weight": (dim,), f"{attention}.norm_k.weight": (dim,)}
        shapes |= linear(f"{block}.ffn.0", dim, ffn) | linear(f"{block}.ffn.2", ffn, dim)
    return shapes | {"head.modulation": (1, 2, dim)} | linear("head.head", dim, 64)


@pytest.mark.parametrize(
    ("variant", "sizes", "parameters"),
    [
        ("t2v-1.3b", (1536, 8960, 30, 256, 4096), 1_418_996_800),
        ("t2v-14b", (5120, 13824, 40, 256, 4096), 14_288_491_584),
    ],
)
def test_full_size_denoisers(variant, sizes, parameters):
    net = build_net(CARD.variants[variant].network["transformer"])
    assert all(weight.is_meta for weight in net.parameters())
    assert sum(weight.numel() for weight in net.parameters()) == parameters
    native = net.state_dict()
    wanted = original_transformer(*sizes)
    for layout, prefix in ((ORIGINAL, ""), (COMFYUI, "model.diffusion_model.")):
        spelt = layout.from_native(native)
        assert {name: tuple(weight.shape) for name, weight in spelt.items()} == {
            prefix + name: shape for name, shape in wanted.items()
        }
        back = layout.to_native(spelt)
        assert all(back[name] is native[name] for name in native)


def test_full_size_autoencoder():
    net = build(lambda: AutoencoderKLWan(**CARD.variants["t2v-14b"].network["vae"]))
    native = net.state_dict()
    assert sum(weight.numel() for weight in native.values()) == 126_892_531
    spelt = VAE_LAYOUTS[1].from_native(native)
    assert len(spelt) == 194
    assert tuple(spelt["encoder.conv1.weight"].shape) == (96, 3, 3, 3, 3)
    assert tuple(spelt["conv1.weight"].shape) == (32, 32, 1, 1, 1)
    assert tuple(spelt["decoder.upsamples.4.shortcut.weight"].shape) == (384, 192, 1, 1, 1)
    assert tuple(spelt["decoder.upsamples.11.resample.1.weight"].shape) == (96, 192, 3, 3)
    assert all(VAE_LAYOUTS[1].to_native(spelt)[name] is native[name] for name in native)
    assert VAE_LAYOUTS[2].from_native(native).keys() == {f"model.{name}" for name in spelt}


def test_full_size_autoencoder_of_22():
    net = build(lambda: AutoencoderKLWan(**CARD.variants["2.2-ti2v-5b"].network["vae"]))
    native = net.state_dict()
    assert sum(weight.numel() for weight in native.values()) == 704_688_668
    original = next(one for one in VAE_LAYOUTS if one.name == "original-2.2")
    spelt = original.from_native(native)
    assert tuple(spelt["encoder.conv1.weight"].shape) == (160, 12, 3, 3, 3)
    assert tuple(spelt["decoder.conv1.weight"].shape) == (1024, 48, 3, 3, 3)
    assert tuple(spelt["encoder.downsamples.1.downsamples.2.time_conv.weight"].shape) == (320, 320, 3, 1, 1)
    assert all(original.to_native(spelt)[name] is native[name] for name in native)
    assert [one.name for one in VAE_LAYOUTS if one.reads(list(spelt))] == ["original-2.2"]
    assert [one.name for one in VAE_LAYOUTS if one.reads([f"model.{key}" for key in spelt])] == ["wrapped-2.2"]


def test_full_size_image_encoder():
    config = CLIPVisionConfig(**CARD.variants["i2v-14b-480p"].network["image_encoder"])
    native = build(lambda: CLIPVisionModel(config)).state_dict()
    assert sum(weight.numel() for weight in native.values()) == 630_766_080
    shapes = {name: tuple(weight.shape) for name, weight in CLIP_LAYOUTS[2].from_native(native).items()}
    assert shapes["visual.transformer.31.attn.to_qkv.weight"] == (3840, 1280)
    assert shapes["visual.pos_embedding"] == (1, 257, 1280)
    assert shapes["visual.cls_embedding"] == (1, 1, 1280)
    older = CLIP_LAYOUTS[1].from_native(native)
    assert "vision_model.pre_layrnorm.weight" in older
    assert CLIP_LAYOUTS[1].to_native({**older, "visual_projection.weight": torch.ones(1)}).keys() == native.keys()


@pytest.mark.parametrize(
    ("variant", "sizes"),
    [
        ("i2v-14b-480p", {"image_dim": 1280, "in_channels": 36, "parameters": 16_394_878_784}),
        ("2.2-i2v-low", {"in_channels": 36, "parameters": 14_288_901_184}),
        ("2.2-ti2v-5b", {"in_channels": 48, "parameters": 4_999_787_712}),
    ],
)
def test_full_size_denoisers_that_take_pictures(variant, sizes):
    net = build_net(CARD.variants[variant].network["transformer"])
    assert net.config.in_channels == sizes["in_channels"]
    assert net.config.image_dim == sizes.get("image_dim")
    assert sum(weight.numel() for weight in net.parameters()) == sizes["parameters"]
    spelt = ORIGINAL.from_native(net.state_dict())
    assert ("blocks.39.cross_attn.k_img.weight" in spelt) == ("image_dim" in sizes)
    assert len(ORIGINAL.to_native(spelt)) == len(net.state_dict())


def test_full_size_text_encoder():
    numbers = CARD.variants["t2v-14b"].network["text_encoder"]
    net = build(lambda: UMT5EncoderModel(UMT5Config(feed_forward_proj="gated-gelu", **numbers)))
    native = {name: weight for name, weight in net.state_dict().items() if "embed_tokens" not in name}
    assert sum(weight.numel() for weight in native.values()) == 5_680_910_336
    spelt = TEXT_LAYOUTS[1].from_native(native)
    shapes = {name: tuple(weight.shape) for name, weight in spelt.items()}
    assert len(shapes) == 2 + 24 * 10
    assert shapes["token_embedding.weight"] == (256384, 4096)
    assert shapes["blocks.23.ffn.gate.0.weight"] == shapes["blocks.0.ffn.fc1.weight"] == (10240, 4096)
    assert shapes["blocks.5.pos_embedding.embedding.weight"] == (32, 64)
    assert all(TEXT_LAYOUTS[1].to_native(spelt)[name] is native[name] for name in native)


def test_norms_two_and_three_change_places():
    assert ORIGINAL.to_native({"blocks.7.norm3.weight": torch.ones(1)}).keys() == {"blocks.7.norm2.weight"}


def test_unknown_keys_are_named():
    with pytest.raises(WeightsError) as error:
        ORIGINAL.to_native({"audio_emb.proj.0.weight": torch.ones(1), "head.head.weight": torch.ones(1)})
    assert "1 keys" in str(error.value)
    assert "audio_emb.proj.0.weight" in str(error.value)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("diffusers", ["transformer.blocks.3.attn2.to_out.0.lora_A.weight"]),
        (
            "comfyui",
            ["diffusion_model.blocks.3.cross_attn.o.lora_A.weight", "diffusion_model.blocks.3.cross_attn.o.alpha"],
        ),
        ("musubi", ["lora_unet_blocks_3_cross_attn_o.lora_down.weight", "lora_unet_blocks_3_cross_attn_o.alpha"]),
        ("videox", ["lora_unet__blocks_3_cross_attn_o.lora_down.weight", "lora_unet__blocks_3_cross_attn_o.alpha"]),
        ("videox-peft", ["blocks.3.cross_attn.o.lora_A.weight"]),
        ("comfyui", ["diffusion_model.blocks.3.cross_attn.o.lora_down.weight"]),
    ],
)
def test_one_module_in_every_adapter_layout(name, keys):
    layout = next(one for one in LORA_LAYOUTS if one.reads(keys))
    assert layout.name == name
    native = list(layout.to_native({key: torch.ones(1) for key in keys}))
    module = "transformer.blocks.3.attn2.to_out.0"
    assert native == [f"{module}.lora_A.weight", f"{module}.alpha"][: len(keys)]
    if "lora_down" not in keys[0] or name != "comfyui":
        assert list(layout.from_native({key: torch.ones(1) for key in native})) == keys


def test_names_with_two_digits_are_not_cut():
    key = "lora_unet_blocks_12_ffn_0.lora_up.weight"
    assert list(LORA["musubi"].to_native({key: torch.ones(1)})) == [
        "transformer.blocks.12.ffn.net.0.proj.lora_B.weight"
    ]


def test_adapter_keys_of_other_models_are_nobodys():
    for key in ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "transformer_2.blocks.0.x", "unet.a.lora_A"):
        assert not any(layout.reads([key]) for layout in LORA_LAYOUTS)
    assert not any(layout.reads([]) for layout in LORA_LAYOUTS)


def test_rotary_table_is_real_on_a_network_without_weights():
    net = build_net(CARD.variants["t2v-1.3b"].network["transformer"])
    assert net.rope.freqs_cos.shape == (1024, 128)
    assert net.rope.freqs_cos[1, 0].item() == pytest.approx(math.cos(1.0), abs=1e-6)
