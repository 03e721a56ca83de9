"""DynamiCrafter's presets, its files of adapters, and bases with an adapter in them."""

import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cinelora.base.errors import RecipeError
from cinelora.commands.lora_apply import Asked, apply
from cinelora.families.dynamicrafter.adapter_layouts import LORA_LAYOUTS, merged_name, picked
from cinelora.families.dynamicrafter.card import CARD, MEDIUM, TINY
from cinelora.families.dynamicrafter.layouts import IMAGE, RESAMPLER, TEXT, UNET
from cinelora.families.dynamicrafter.opening import open_denoiser, skeleton
from cinelora.families.dynamicrafter.targets import PRESETS
from cinelora.lora.files import read_adapter, write_adapter
from cinelora.lora.inject import attach, inject
from cinelora.lora.options import LoraOptions
from cinelora.lora.targets import linears, planned, sizes

ORIGINAL, PEFT = LORA_LAYOUTS


def chosen(preset, variant=MEDIUM):
    options = LoraOptions(targets=preset)
    return {part: set(sizes(part, net, options, PRESETS)) for part, net in skeleton(variant).items()}


def test_reference_is_every_linear_of_the_unet():
    assert {part: len(names) for part, names in chosen("reference").items()} == {"unet": 452, "resampler": 0}


def test_spatial_and_temporal_share_the_unet_out():
    spatial, temporal = chosen("spatial")["unet"], chosen("temporal")["unet"]
    assert not spatial & temporal
    assert spatial | temporal == chosen("reference")["unet"]
    assert {name for name in temporal if name.startswith("init_attn")}
    over_frames = {name for name in temporal if not name.startswith("init_attn")}
    assert all(re.match(r"(input_blocks\.\d+|middle_block|output_blocks\.\d+)\.2\.", name) for name in over_frames)
    assert {"time_embed.0", "fps_embedding.2", "middle_block.0.emb_layers.1", "middle_block.1.proj_in"} <= spatial
    assert not any(".2.transformer_blocks" in name or name.startswith("init_attn") for name in spatial)


def test_attention_is_its_projections():
    kinds = {re.sub(r".*\.(attn\d\..*)", r"\1", name) for name in chosen("attention")["unet"]}
    own = {f"attn{k}.{one}" for k in (1, 2) for one in ("to_q", "to_k", "to_v", "to_out.0")}
    assert kinds == own | {"attn2.to_k_ip", "attn2.to_v_ip"}


@pytest.mark.parametrize("name", ["reference", "spatial", "temporal", "attention"])
def test_the_resampler_can_come_along(name):
    both = chosen(f"{name}+resampler")
    assert both["unet"] == chosen(name)["unet"]
    assert both["resampler"] == set(linears(skeleton(MEDIUM)["resampler"]))
    assert not chosen(name)["resampler"]
    assert chosen("+resampler") == chosen("reference+resampler")


def test_the_resampler_can_learn_in_full_beside_an_adapter():
    parts = open_denoiser("random", TINY, "fp32").parts()
    options = LoraOptions(rank=2, targets="temporal", parts={"resampler": "full"})
    adapters = inject(parts, options, presets=PRESETS, default_preset="reference")
    learning = adapters.parameters()
    assert {name for name in learning if name.startswith("resampler.")} == {
        f"resampler.{name}" for name, _ in parts["resampler"].named_parameters()
    }
    assert all(".2." in name or ".init_attn." in name for name in learning if name.startswith("unet."))
    for name, weight in [*parts["unet"].named_parameters(), *parts["resampler"].named_parameters()]:
        assert weight.requires_grad == any(weight is one for one in learning.values()), name


def adapted(base, targets="+resampler"):
    """A denoiser with an adapter that does something, and the adapter."""
    denoiser = open_denoiser(str(base), TINY, "fp32")
    options = LoraOptions(rank=2, alpha=1, targets=targets, alpha_pattern={r".*\.to_q": 3.0})
    adapters = inject(denoiser.parts(), options, presets=PRESETS, default_preset="reference")
    with torch.no_grad():
        for number, weight in enumerate(adapters.parameters().values()):
            weight.copy_(0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)))
    return denoiser, adapters


@torch.no_grad()
def said(denoiser):
    rng = torch.Generator().manual_seed(3)
    for part in denoiser.parts().values():
        part.eval()
    resampler, shape = denoiser.resampler.shape, denoiser.unet.shape
    conditions = {
        "text": torch.randn(1, 77, shape.context_dim, generator=rng),
        "clip": torch.randn(1, 1, 17, resampler.embedding_dim, generator=rng),
        "image": torch.randn(1, 4, 4, 8, 8, generator=rng),
        "fps": torch.tensor([[8.0]]),
    }
    x = torch.randn(1, 4, 4, 8, 8, generator=rng)
    return denoiser.predict(x, torch.tensor([500.0]), conditions)


@pytest.mark.parametrize("layout", LORA_LAYOUTS, ids=lambda one: one.name)
def test_files_give_back_what_was_trained(dynamicrafter_base, tmp_path, layout):
    denoiser, adapters = adapted(dynamicrafter_base)
    wanted = said(denoiser)
    write_adapter(tmp_path / "x.safetensors", adapters.file({"rank": "2", "alpha": "1"}), layout)
    keys = list(load_file(tmp_path / "x.safetensors"))
    ahead, ends = ("", ("lora_a.weight", "lora_b.weight")) if layout is ORIGINAL else (
        "base_model.model.", ("lora_A.weight", "lora_B.weight"))  # fmt: skip
    assert all(key.startswith((ahead + UNET, ahead + RESAMPLER)) and key.endswith(ends) for key in keys)
    fresh = open_denoiser(str(dynamicrafter_base), TINY, "fp32")
    plain = said(fresh)
    file = read_adapter(tmp_path / "x.safetensors", LORA_LAYOUTS)
    assert file.metadata["rank"] == "2"
    attach(fresh.parts(), file)
    torch.testing.assert_close(said(fresh), wanted, rtol=1e-4, atol=1e-5)
    assert (wanted - plain).abs().max() > 0.01


def test_each_layout_reads_its_own_only(dynamicrafter_base, tmp_path):
    _, adapters = adapted(dynamicrafter_base)
    for layout in LORA_LAYOUTS:
        keys = list(layout.from_native(adapters.tensors()))
        assert [one.name for one in LORA_LAYOUTS if one.reads(keys)] == [layout.name]
        native = layout.to_native(layout.from_native(adapters.tensors()))
        assert native.keys() == adapters.tensors().keys()
    assert not ORIGINAL.reads([])
    assert not ORIGINAL.reads([f"{TEXT}x.lora_a.weight", f"{TEXT}x.lora_b.weight"])
    assert not ORIGINAL.reads([f"{UNET}x.lora_a.weight", "first_stage_model.x.lora_a.weight"])


def test_adapters_of_the_towers_are_left_out_and_told_where_they_count(caplog):
    own = {f"{UNET}x.lora_a.weight": torch.ones(2, 3), f"{UNET}x.lora_b.weight": torch.ones(4, 2)}
    idle = {f"{IMAGE}visual.y.lora_a.weight": torch.ones(2, 3), f"{IMAGE}visual.y.lora_b.weight": torch.zeros(4, 2)}
    assert ORIGINAL.reads(list(own | idle))
    assert ORIGINAL.to_native(own | idle).keys() == {"unet.x.lora_A.weight", "unet.x.lora_B.weight"}
    assert not caplog.records
    ORIGINAL.to_native({**own, **{key: one + 1 for key, one in idle.items()}})
    assert "left out: adapters of 1 modules" in caplog.text


@pytest.mark.parametrize("layout", LORA_LAYOUTS, ids=lambda one: one.name)
def test_a_base_with_an_adapter_in_it_is_a_base(dynamicrafter_base, tmp_path, layout):
    denoiser, adapters = adapted(dynamicrafter_base)
    lora = tmp_path / f"x.{layout.name}.safetensors"
    write_adapter(lora, adapters.file({"family": "dynamicrafter", "variant": "tiny"}), layout)
    written = apply(dynamicrafter_base, lora, Asked(out=tmp_path / "merged"))
    assert written.name == "dynamicrafter_tiny_x.safetensors"
    whole = open_denoiser(str(written), TINY, "fp32")
    torch.testing.assert_close(said(whole), said(denoiser), rtol=1e-4, atol=1e-5)
    with safe_open(written, "pt") as file:
        assert file.metadata()["merged_strength"] == "0.5, 1.5"
    low = apply(dynamicrafter_base, lora, Asked(out=tmp_path / "low", dtype="bf16"))
    assert {one.dtype for one in load_file(low).values()} == {torch.bfloat16}
    open_denoiser(str(low), TINY, "bf16")


def test_a_base_of_half_precision_and_without_towers_will_do(dynamicrafter_base, tmp_path):
    _, adapters = adapted(dynamicrafter_base)
    whole = load_file(dynamicrafter_base / "model.safetensors")
    pruned = {key: one.half() for key, one in whole.items() if key.startswith((UNET, RESAMPLER, "first_stage_model."))}
    save_file(pruned, tmp_path / "dynamicrafter_512_fp16_pruned.safetensors")
    write_adapter(tmp_path / "x.safetensors", adapters.file(), ORIGINAL)
    base = tmp_path / "dynamicrafter_512_fp16_pruned.safetensors"
    written = apply(base, tmp_path / "x.safetensors", Asked(out=tmp_path, dtype="fp16"))
    assert written.name == "dynamicrafter_512_x.safetensors"
    found = load_file(written)
    assert found.keys() == pruned.keys()
    assert {one.dtype for one in found.values()} == {torch.float16}
    open_denoiser(str(written), TINY, "fp32")


@pytest.mark.parametrize(
    ("variant", "adapter", "name"),
    [
        ("512", "mine", "dynamicrafter_512_mine"),
        ("1024", "mine", "dynamicrafter_1024_mine"),
        ("256", "mine", "dynamicrafter_256_mine"),
        ("512-interp", "mine", "dynamicrafter_512_interp_mine"),
        ("512", "cartoon-interpreter", "dynamicrafter_512_car-reter"),
        ("512", "trained-1024px", "dynamicrafter_512_trained-px"),
        ("256", "512", "dynamicrafter_256_lora"),
        ("1024", "cartoon", "dynamicrafter_1024_cartoon"),
        ("1024", "512", "dynamicrafter_1024_512"),
        ("tiny", "mine", "dynamicrafter_tiny_mine"),
    ],
)
def test_comfyui_finds_the_configuration_by_the_name(variant, adapter, name):
    assert merged_name(variant, adapter) == name
    wanted = {"512": "512", "1024": "1024", "256": "256", "512-interp": "interp-512", "tiny": ""}
    assert picked(name) == wanted[variant]


def test_every_variant_of_the_card_has_a_name():
    assert {picked(merged_name(name, "x")) for name in CARD.variants} == {"256", "512", "1024", "interp-512", ""}


@pytest.mark.parametrize(
    ("slip", "preset"), [("spatal", "spatial"), ("resampler", "+resampler"), ("atention", "attention")]
)
def test_a_slip_of_a_presets_name_is_told(slip, preset):
    with pytest.raises(RecipeError) as caught:
        planned(skeleton(TINY), LoraOptions(targets=slip), CARD.lora_presets)
    assert caught.value.problems[0].nearest == preset
