"""What other programs call modules, against keys that the references wrote; and their rules on files of each kind."""

import re

import pytest
import torch
from golden_case import find_cases
from made_adapters import made, modules_of, split
from safetensors.torch import load_file

from cinelora.families import registry
from cinelora.families.cogvideox.consumers import comfyui
from cinelora.families.dynamicrafter.consumers import in_checkpoint
from cinelora.families.easyanimate import consumers as easyanimate
from cinelora.families.wan import consumers as wan
from cinelora.lora.consumers import Consumers, verdict
from cinelora.lora.files import spelled
from cinelora.lora.form import UP, AdapterFile

WITH_CONSUMERS = ("wan/tiny", "cogvideox/tiny", "easyanimate/tiny-v5.1", "easyanimate/tiny-v3", "framer/tiny")


def consumers(model) -> Consumers:
    return registry.named(split(model)[0].consumers)


def program(model, name):
    return next(one for one in consumers(model).programs if one.program.startswith(name))


def written(file, model, layout):
    layouts = {one.name: one for one in registry.lora_layouts(*split(model))}
    return spelled(file, layouts[layout])


def said(file, model, layout, name):
    tensors, header = written(file, model, layout)
    return verdict(program(model, name), tensors, header, file=file, modules=list(modules_of(model)))


def shapes(names):
    return {re.sub(r"\d+(?=\.(?!\d))", "#", name, count=1) for name in names}


@pytest.mark.parametrize(
    ("case", "model", "rule"),
    [
        ("wan/transformer_i2v_clip", "wan/i2v-14b-480p", wan.original),
        ("wan/transformer_ti2v", "wan/2.2-ti2v-5b", wan.original),
        ("easyanimate/transformer_v5_t2v", "easyanimate/v5-12b", easyanimate.original),
        ("easyanimate/transformer_v3_inp", "easyanimate/v3-512-inp", easyanimate.original),
    ],
)
def test_names_are_those_of_the_reference_networks(case, model, rule, pytestconfig):
    found = [one for one in find_cases(pytestconfig.getoption("--golden")) if one.name == case]
    if not found:
        pytest.skip("the golden cases are not here")
    weights = found[0].tensors("weights.safetensors")
    theirs = {key.removesuffix(".weight") for key, one in weights.items() if key.endswith(".weight") and one.ndim == 2}
    ours = shapes(filter(None, (rule(name) for name in modules_of(model))))
    # Embeddings and autoencoders' like are two-dimensional, too.
    odd = {name for name in shapes(theirs) - ours if not re.search("pos_embed|embedding_padding|query|resampler", name)}
    assert odd == set()
    assert all(rule(name) for name in modules_of(model))


def test_names_of_comfyuis_cogvideox():
    assert comfyui("transformer.transformer_blocks.3.attn1.to_q") == "blocks.3.q"
    assert comfyui("transformer.transformer_blocks.3.attn1.to_out.0") == "blocks.3.attn_out"
    assert comfyui("transformer.transformer_blocks.3.ff.net.0.proj") == "blocks.3.ff_proj"
    assert comfyui("transformer.transformer_blocks.3.norm1.linear") == "blocks.3.norm1.linear"
    assert comfyui("transformer.time_embedding.linear_1") == "time_embedding_linear_1"
    assert comfyui("transformer.patch_embed.text_proj") == "patch_embed.text_proj"


@pytest.mark.parametrize("model", WITH_CONSUMERS)
def test_every_program_takes_what_is_written_for_it_and_every_word_is_a_layout(model):
    names = {one.name for one in registry.lora_layouts(*split(model))}
    own = consumers(model)
    assert set(own.aliases.values()) <= {*names, "peft-folder"}
    file = made(model, ranks=(2, 3), alphas=(1.0, 6.0), pattern=ATTENTION)
    for one in own.programs:
        assert set(one.layouts) <= {*names, "peft-folder"}
        for layout in set(one.layouts) & names:
            answer = said(file, model, layout, one.program)
            assert answer.loads, (one.program, layout, answer.reason)


ATTENTION = r"transformer\.(transformer_)?blocks.*(attn.*(to_[qkv]|to_out\.0)|ffn\.net\.(0\.proj|2))|unet.*attn1\.to_q"


@pytest.mark.parametrize(
    ("layout", "takers"),
    [
        ("diffusers", {"diffusers"}),
        ("comfyui", {"diffusers", "ComfyUI", "VideoX-Fun", "DiffSynth-Studio"}),
        ("musubi", {"diffusers", "ComfyUI", "musubi-tuner"}),
        ("videox", {"ComfyUI", "VideoX-Fun"}),
        ("videox-peft", {"VideoX-Fun", "DiffSynth-Studio"}),
    ],
)
def test_who_takes_which_of_wans_layouts(layout, takers):
    """ComfyUI takes VideoX-Fun's underscores since block 0 has cross_attn.k; facts of `wan.md`, section 3."""
    file = made("wan/tiny", pattern=ATTENTION)
    names = ("diffusers", "ComfyUI", "musubi-tuner", "VideoX-Fun", "DiffSynth-Studio")
    assert {name for name in names if said(file, "wan/tiny", layout, name).loads} == takers


def test_comfyui_does_not_know_videox_files_without_that_one_key():
    file = made("wan/tiny", pattern=r".*attn1\.to_q")
    answer = said(file, "wan/tiny", "videox", "ComfyUI")
    assert not answer.loads
    assert "lora_unet__blocks_0_self_attn_q" in answer.reason


def test_diffusers_stops_at_a_musubi_file_without_o():
    file = made("wan/tiny", pattern=r".*(attn[12]\.to_[qkv]|ffn.*)")
    answer = said(file, "wan/tiny", "musubi", "diffusers")
    assert not answer.loads
    assert "its converter stops at" in answer.reason


def test_the_files_tensors_stay_as_they_are_though_diffusers_scales_in_place():
    file = made("wan/tiny", pattern=ATTENTION)
    tensors, header = written(file, "wan/tiny", "comfyui")
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    taken = program("wan/tiny", "diffusers").take(tensors, header, list(modules_of("wan/tiny")))
    assert len(taken.modules) == len(file.modules())
    assert all(torch.equal(tensors[key], before[key]) for key in before)


def test_a_strength_that_a_program_does_not_see_is_told():
    file = made("wan/tiny", pattern=r".*attn1\.to_q")
    tensors, _ = written(file, "wan/tiny", "diffusers")
    answer = verdict(program("wan/tiny", "diffusers"), tensors, {}, file=file, modules=list(modules_of("wan/tiny")))
    assert not answer.loads
    assert "at strength 1, and the file means 0.5" in answer.reason


def test_a_swap_of_modules_is_seen():
    """The same sizes, other places: what a wrong table would do."""
    file = made("wan/tiny", pattern=r".*blocks\.0\.attn1\.to_[qk]")
    tensors, header = written(file, "wan/tiny", "comfyui")
    swapped = {key.replace("_attn.q", "_attn.X").replace("_attn.k", "_attn.q").replace("_attn.X", "_attn.k"): tensor
               for key, tensor in tensors.items()}  # fmt: skip
    answer = verdict(program("wan/tiny", "ComfyUI"), swapped, header, file=file, modules=list(modules_of("wan/tiny")))
    assert not answer.loads
    assert "would do something else" in answer.reason


def test_keys_without_a_place_are_named():
    file = made("wan/tiny", pattern=r".*attn1\.to_q")
    tensors, header = written(file, "wan/tiny", "comfyui")
    more = {**tensors, "diffusion_model.blocks.77.self_attn.q.lora_A.weight": torch.ones(4, 192)}
    answer = verdict(program("wan/tiny", "ComfyUI"), more, header, file=file, modules=list(modules_of("wan/tiny")))
    assert answer.unmatched == ("diffusion_model.blocks.77.self_attn.q.lora_A.weight",)
    fewer = {key: one for key, one in tensors.items() if "blocks.3" not in key}
    answer = verdict(program("wan/tiny", "ComfyUI"), fewer, header, file=file, modules=list(modules_of("wan/tiny")))
    assert "1 modules are not loaded: transformer.blocks.3.attn1.to_q" in answer.reason


def test_modules_of_another_size_are_no_match():
    file = made("wan/tiny", pattern=r".*blocks\.0\.attn1\.to_q")
    tensors, header = written(file, "wan/tiny", "comfyui")
    name = file.modules()[0]
    cut = AdapterFile({**file.tensors, name + UP: file.tensors[name + UP][:7]}, file.alphas)
    answer = verdict(program("wan/tiny", "ComfyUI"), tensors, header, file=cut, modules=list(modules_of("wan/tiny")))
    assert not answer.loads


def test_rule_of_easyanimates_scripts_is_that_of_its_own_files(pytestconfig):
    found = [one for one in find_cases(pytestconfig.getoption("--golden")) if one.name == "easyanimate/lora_v5_1"]
    if not found:
        pytest.skip("the golden cases are not here")
    keys = [key for key in load_file(found[0].folder / "lora.safetensors") if key.endswith(".lora_up.weight")]
    known = {
        re.sub(r"\d+", "#", "lora_unet__" + easyanimate.original(name).replace(".", "_"))
        for name in modules_of("easyanimate/v5.1-12b")
    }
    assert {re.sub(r"\d+", "#", key.removesuffix(".lora_up.weight")) for key in keys} <= known


def test_dynamicrafters_modules_stand_beside_weights_of_the_checkpoint():
    assert in_checkpoint("unet.time_embed.0") == "model.diffusion_model.time_embed.0"
    assert in_checkpoint("resampler.layers.0.1.3") == "image_proj_model.layers.0.1.3"
    file = made("dynamicrafter/tiny", ranks=(3,), alphas=(1.5,))
    assert said(file, "dynamicrafter/tiny", "original", "FDoKE").loads
    assert not said(file, "dynamicrafter/tiny", "peft", "FDoKE").loads
