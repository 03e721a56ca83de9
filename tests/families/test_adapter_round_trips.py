"""An adapter through every layout of every family and back: the same effect, whatever ranks, strengths and formats."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_adapters import SMALL, made, same_effect, split
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer

from cinelora.base.errors import RecipeError
from cinelora.families import registry
from cinelora.lora.files import read_adapter, read_plain, spelled, write_adapter
from cinelora.lora.form import DOWN, UP
from cinelora.lora.peft_folder import WEIGHTS, peft_reading, write_peft_folder
from cinelora.lora.reading import understood
from cinelora.lora.targets import linears

FEW = 12
"""Modules of an adapter here: every kind comes again in other blocks."""
PAIRS = [
    (model, one.name, other.name)
    for model in SMALL
    for one in registry.lora_layouts(*split(model))
    for other in registry.lora_layouts(*split(model))
]
RANKS = st.lists(st.integers(1, 6), min_size=1, max_size=3)
ALPHAS = st.lists(st.floats(0.01, 100), min_size=1, max_size=3)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


@cache
def layouts(model):
    return {layout.name: layout for layout in registry.lora_layouts(*split(model))}


def through(file, model, name, dtype=None):
    """As a file of this layout says it."""
    tensors, header = spelled(file, layouts(model)[name], dtype=dtype)
    return understood(tensors, header, list(layouts(model).values()), where=name)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PAIRS), RANKS, ALPHAS, DTYPES)
def test_the_effect_survives_every_pair_of_layouts(pair, ranks, alphas, dtype):
    model, one, other = pair
    file = made(model, ranks=ranks, alphas=alphas, dtype=dtype, metadata={"steps": "7"}, most=FEW)
    first = through(file, model, one)
    assert not first.foreign
    second = through(first.file, model, other)
    # A strength that is folded in is rounded once for each time.
    few = 4 * torch.finfo(dtype).eps
    same_effect(file, second.file, tolerance=few)
    assert second.file.metadata["steps"] == "7"
    assert not second.silent
    if "folded" not in {layouts(model)[name].strength for name in (one, other)}:
        assert all(torch.equal(file.tensors[key], second.file.tensors[key]) for key in file.tensors)
        assert second.file.alphas == pytest.approx(file.alphas, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(PAIRS), RANKS, ALPHAS)
def test_a_strength_is_folded_in_before_rounding(pair, ranks, alphas):
    """In bf16 the effect is off by the rounding of the result alone, wherever the strength stands."""
    model, one, other = pair
    file = made(model, ranks=ranks, alphas=alphas, most=FEW)
    rounded = through(through(file, model, one).file, model, other, dtype=torch.bfloat16)
    assert all(tensor.dtype == torch.bfloat16 for tensor in rounded.file.tensors.values())
    same_effect(file, rounded.file, tolerance=2 * torch.finfo(torch.bfloat16).eps)
    exact = {m: (file.tensors[m + UP].float() * file.scale(m)).to(torch.bfloat16) for m in file.modules()}
    if layouts(model)[other].strength == "folded" and layouts(model)[one].strength != "folded":
        assert all(torch.equal(rounded.file.tensors[m + UP], exact[m]) for m in exact)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(PAIRS), RANKS, ALPHAS)
def test_dora_goes_where_its_lengths_have_a_place(pair, ranks, alphas):
    model, one, other = pair
    file = made(model, ranks=ranks, alphas=alphas, dora=True, most=FEW)
    for name in (one, other):
        if not layouts(model)[name].dora:
            with pytest.raises(RecipeError, match="DoRA"):
                spelled(file, layouts(model)[name])
            return
    second = through(through(file, model, one).file, model, other)
    assert second.file.dora
    assert all(torch.equal(file.tensors[key], second.file.tensors[key]) for key in file.tensors)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(SMALL), RANKS, ALPHAS)
def test_folders_of_peft_are_a_layout_as_well(tmp_path_factory, model, ranks, alphas):
    file = made(model, ranks=ranks, alphas=alphas, most=FEW)
    part = file.modules()[0].partition(".")[0]
    folder = tmp_path_factory.mktemp("peft") / "adapter"
    write_peft_folder(folder, file, part)
    tensors, _ = read_plain(folder / WEIGHTS)
    reading = peft_reading(folder, tensors, list(layouts(model).values()), part=part if part == "unet" else "")
    same_effect(file, reading.file)
    assert set(reading.stated.values()) == {"config"}


@pytest.mark.parametrize(
    "more", [{}, {"use_rslora": True}, {"alpha_pattern": {"to_q": 9}, "rank_pattern": {"to_k": 3}}]
)
def test_folders_that_peft_wrote_are_read_at_pefts_strength(tmp_path, more):
    net = network("wan/tiny")
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["to_q", "to_k"], init_lora_weights=False, **more)
    adapted = get_peft_model(net, config)
    adapted.save_pretrained(tmp_path / "a")
    tensors, _ = read_plain(tmp_path / "a" / WEIGHTS)
    reading = peft_reading(tmp_path / "a", tensors, list(layouts("wan/tiny").values()))
    for name, layer in adapted.base_model.model.named_modules():
        if isinstance(layer, LoraLayer):
            assert reading.file.scale(f"transformer.{name}") == pytest.approx(layer.scaling["default"]), name


def network(model):
    """The variant's network with weights."""
    family, variant = split(model)
    denoiser = registry.open_denoiser(family, variant, base=variant.base, dtype="fp32")
    return next(iter(denoiser.parts().values()))


@pytest.mark.parametrize("model", ["wan/tiny", "cogvideox/tiny", "easyanimate/tiny-v5.1", "framer/tiny"])
def test_peft_loads_the_folders(model, tmp_path):
    """`PeftModel.from_pretrained`: every module is in its place, at the strength that is meant."""
    file = made(model, ranks=(2, 3), alphas=(1.0, 5.0), most=FEW)
    part = file.modules()[0].partition(".")[0]
    write_peft_folder(tmp_path / "a", file, part)
    loaded = PeftModel.from_pretrained(network(model), tmp_path / "a")
    layers = {
        f"{part}.{name}": one for name, one in loaded.base_model.model.named_modules() if isinstance(one, LoraLayer)
    }
    assert set(layers) == set(file.modules())
    for module, layer in layers.items():
        assert layer.scaling["default"] == pytest.approx(file.scale(module))
        assert torch.equal(layer.lora_A["default"].weight, file.tensors[module + DOWN])
        assert torch.equal(layer.lora_B["default"].weight, file.tensors[module + UP])


@pytest.mark.parametrize("model", ["wan/tiny", "cogvideox/tiny"])
def test_diffusers_loads_what_came_from_any_layout(model, tmp_path):
    """`load_lora_weights` of files that began in another layout."""
    family, variant = split(model)
    file = made(model, ranks=(2, 3), alphas=(1.0, 5.0), pattern=r".*(attn[12]\.(to_[qkv]|to_out\.0)|ff.*)")
    for start in layouts(model):
        path = tmp_path / f"{start}.safetensors"
        write_adapter(path, through(file, model, start).file, layouts(model)["diffusers"])
        denoiser = registry.open_denoiser(family, variant, base=variant.base, dtype="fp32")
        registry.named(family.pipeline)(denoiser).load_lora_weights(str(tmp_path), weight_name=path.name)
        net = denoiser.parts()["transformer"]
        layers = {f"transformer.{name}": one for name, one in net.named_modules() if isinstance(one, LoraLayer)}
        assert set(layers) == set(file.modules()) <= {f"transformer.{name}" for name in linears(net)}
        for module, layer in layers.items():
            name = next(iter(layer.lora_A))
            found = layer.scaling[name] * layer.lora_B[name].weight @ layer.lora_A[name].weight
            wanted = file.scale(module) * file.tensors[module + UP] @ file.tensors[module + DOWN]
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        same_effect(file, read_adapter(path, list(layouts(model).values())), tolerance=1e-5)
