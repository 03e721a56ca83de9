"""Adapter files of other trainers through `cinelora sample`: what fits is drawn with, what does not is named."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cinelora.families import registry
from cinelora.lora.targets import linears
from cinelora.media.write import write_mp4, write_png

QUICK = ("--prompt", "a red circle", "--steps", "1", "--guidance", "1", "--frames", "1", "--size", "32", "32")
FAMILY = registry.FAMILIES["wan"]
LAYOUTS = {layout.name: layout for layout in registry.lora_layouts(FAMILY, FAMILY.variants["tiny"])}


def adapter(variant="tiny", *, without=(), rank=2, num_blocks=None) -> dict[str, torch.Tensor]:
    """Native tensors for the blocks of a variant; `without` are endings of modules that get none."""
    net = registry.skeleton(FAMILY, FAMILY.variants[variant])["transformer"]
    torch.manual_seed(3)
    found = {}
    for name, linear in linears(net).items():
        if not name.startswith("blocks.") or name.endswith(without):
            continue
        if int(name.split(".")[1]) >= (num_blocks or 99):
            continue
        found[f"transformer.{name}.lora_A.weight"] = torch.randn(rank, linear.in_features)
        found[f"transformer.{name}.lora_B.weight"] = torch.randn(linear.out_features, rank) * 0.01
    return found


def written(path, tensors, layout="videox-peft", alpha=None):
    """A file as another trainer writes it: with alpha as keys, or without any."""
    modules = [key.removesuffix(".lora_A.weight") for key in tensors if key.endswith(".lora_A.weight")]
    alphas = {f"{module}.alpha": torch.tensor(alpha) for module in modules if alpha is not None}
    spelt = LAYOUTS[layout].from_native({**tensors, **alphas})
    save_file(spelt, path)
    return str(path)


@pytest.fixture
def draw(typed, tmp_path):
    """`cinelora sample FILE` on the embedded base; gives back exit code and what was said."""

    def run(path, *words, model="wan/tiny"):
        return typed("sample", path, *QUICK, "--model", model, "--out", str(tmp_path / "drawn"), *words)

    return run


def test_an_adapter_without_o_is_drawn_with_and_what_it_leaves_alone_is_named(draw, tmp_path):
    path = written(tmp_path / "a.safetensors", adapter(without=("to_out.0",)), "musubi", alpha=1.0)
    code, said = draw(path)
    assert code == 0, said
    assert "adapter: 48 modules at strength 0.5" in said
    assert "none on transformer.blocks.*.attn1.to_out.0, transformer.blocks.*.attn2.to_out.0" in said
    assert "warning" not in said
    assert (tmp_path / "drawn" / "00.mp4").is_file()


def test_alpha_is_asked_for_where_a_file_of_videox_leaves_it_out(draw, tmp_path, caplog):
    path = written(tmp_path / "a.safetensors", adapter(rank=4))
    code, said = draw(path)
    assert code == 0, said
    assert "at strength 1" in said
    assert "does not say its strength for 60 modules: taken as alpha = rank" in caplog.text
    assert "--alpha" in caplog.text
    caplog.clear()
    code, said = draw(path, "--alpha", "2")
    assert code == 0, said
    assert "at strength 0.5" in said
    assert not caplog.records


def test_names_as_peft_has_them_in_training_are_read(draw, tmp_path):
    spelt = LAYOUTS["videox-peft"].from_native(adapter())
    named = {key.replace(".weight", ".default.weight"): tensor for key, tensor in spelt.items()}
    save_file(named, tmp_path / "a.safetensors")
    code, said = draw(str(tmp_path / "a.safetensors"), "--alpha", "2")
    assert code == 0, said
    assert "adapter: 60 modules at strength 1" in said


def picture_adapter(like):
    """An adapter of the small base with modules that only 2.1's image-to-video has."""
    size = next(iter(like.values())).shape[1]
    extra = {
        f"transformer.blocks.{k}.attn2.add_{p}_proj.lora_{m}.weight": torch.randn((2, size) if m == "A" else (size, 2))
        for k in (0, 1)
        for p in "kv"
        for m in "AB"
    }
    return {**like, **extra}


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("videox", "lora_unet__blocks_*_cross_attn_k_img x 2, lora_unet__blocks_*_cross_attn_v_img x 2"),
        ("musubi", "lora_unet_blocks_*_cross_attn_k_img x 2, lora_unet_blocks_*_cross_attn_v_img x 2"),
        ("comfyui", "diffusion_model.blocks.*.cross_attn.k_img x 2, diffusion_model.blocks.*.cross_attn.v_img x 2"),
    ],
)
def test_what_only_21_has_is_named_as_the_file_spells_it(layout, names, draw, tmp_path):
    path = written(tmp_path / "a.safetensors", picture_adapter(adapter()), layout, alpha=2.0)
    code, said = draw(path)
    assert code == 4
    assert "the base has no place for 4 of the adapter's 64 modules (wan/tiny)" in said
    assert f"found: {names}" in said
    assert "--allow-missing" in said
    assert not (tmp_path / "drawn").exists()
    code, said = draw(path, "--allow-missing")
    assert code == 0, said
    assert f"warning: 4 of the adapter's 64 modules are left out, the base has no place for them: {names}" in said
    assert "adapter: 60 modules" in said


def test_an_adapter_of_21_on_22_is_told_where_it_fits_before_a_weight_is_read(draw, tmp_path):
    path = written(tmp_path / "a.safetensors", adapter("i2v-14b-480p", rank=1, num_blocks=1), "comfyui", alpha=1.0)
    write_png(tmp_path / "start.png", np.zeros((32, 32, 3), np.uint8))
    words = ("--base", "nowhere", "--image", str(tmp_path / "start.png"))
    code, said = draw(path, *words, model="wan/2.2-i2v-low")
    assert code == 4, said
    assert "no place for 2 of the adapter's 12 modules (wan/2.2-i2v-low)" in said
    assert "the adapter fits wan/i2v-14b-480p, wan/i2v-14b-720p" in said
    assert "diffusion_model.blocks.0.cross_attn.k_img, diffusion_model.blocks.0.cross_attn.v_img" in said
    assert "does not exist" not in said


def test_an_adapter_of_another_size_is_told_where_it_fits(draw, tmp_path):
    path = written(tmp_path / "a.safetensors", adapter("t2v-1.3b", rank=1, num_blocks=1), "comfyui", alpha=1.0)
    code, said = draw(path, "--base", "nowhere", model="wan/t2v-14b")
    assert code == 4
    assert "10 of the adapter's 10 modules have another size" in said
    assert "diffusion_model.blocks.0.cross_attn.k 1536 in, 1536 out; the base has 5120 in, 5120 out" in said
    assert "fits wan/t2v-1.3b" in said
    assert "--allow-missing" not in said


def test_a_block_too_many_is_named(draw, tmp_path):
    tensors = adapter()
    more = {key.replace("blocks.5.", "blocks.6."): tensor.clone() for key, tensor in tensors.items() if ".5." in key}
    code, said = draw(written(tmp_path / "a.safetensors", {**tensors, **more}, "comfyui", alpha=2.0))
    assert code == 4
    assert "the base has no place for 10 of the adapter's 70 modules" in said
    assert "found: diffusion_model.blocks.6.cross_attn.k, diffusion_model.blocks.6.cross_attn.o" in said


def test_a_block_that_is_missing_is_named(draw, tmp_path):
    code, said = draw(written(tmp_path / "a.safetensors", adapter(num_blocks=5), "comfyui", alpha=2.0))
    assert code == 0, said
    assert "warning: the adapter lacks 10 modules that it has in other blocks: transformer.blocks.5.attn1.to_q" in said


@pytest.mark.parametrize("matrix", ["lora_A", "lora_B"])
def test_half_a_module_is_named_as_the_file_spells_it(matrix, draw, tmp_path):
    tensors = adapter()
    del tensors[f"transformer.blocks.1.ffn.net.2.{matrix}.weight"]
    code, said = draw(written(tmp_path / "a.safetensors", tensors, "musubi", alpha=2.0))
    assert code == 4
    assert f"lora_unet_blocks_1_ffn_2 has no {matrix}" in said
    assert "do: the file is not whole" in said


def test_an_adapter_for_the_text_encoder_is_named(draw, tmp_path):
    spelt = LAYOUTS["videox"].from_native(adapter())
    save_file({**spelt, "lora_te__blocks_0_attn_q.lora_down.weight": torch.zeros(2, 4)}, tmp_path / "a.safetensors")
    code, said = draw(str(tmp_path / "a.safetensors"))
    assert code == 4
    assert "1 of 121 keys have no place in the layout videox" in said
    assert "lora_te__blocks_0_attn_q.lora_down.weight" in said


def test_an_adapter_of_one_expert_is_not_given_to_both(draw, tmp_path):
    path = written(tmp_path / "a.safetensors", adapter(), "comfyui", alpha=2.0)
    code, said = draw(path, model="wan/tiny-experts")
    assert code == 4
    assert "the adapter is one expert's, and this model has two" in said
    assert "--model wan/tiny-high or wan/tiny-low" in said


def test_an_adapter_that_calls_itself_the_other_expert_is_told(draw, tmp_path):
    path = written(tmp_path / "mine_high_noise.safetensors", adapter(), "comfyui", alpha=2.0)
    code, said = draw(path, model="wan/tiny-low")
    assert code == 0, said
    assert "warning: mine_high_noise.safetensors calls itself high_noise, and is drawn with by tiny-low" in said
    assert "--model wan/tiny-high" in said
    assert "calls itself" not in draw(path, model="wan/tiny-high")[1]
    assert "calls itself" not in draw(path)[1]


def test_a_negative_prompt_leads_away_where_there_is_guidance(draw, tmp_path):
    path = written(tmp_path / "a.safetensors", adapter(), "musubi", alpha=1.0)
    drawn = []
    for words in ((), ("--negative-prompt", "a red cross moves left on a black background")):
        assert draw(path, "--guidance", "3", *words)[0] == 0
        drawn.append((tmp_path / "drawn" / "00.mp4").read_bytes())
    assert drawn[0] != drawn[1]
    code, said = draw(path, "--guidance", "1", "--negative-prompt", "blurred")
    assert code == 2
    assert "negative_prompt has no effect with guidance = 1" in said


def test_numbers_that_are_not_finite_are_told_before_anything_is_drawn(draw, tmp_path):
    tensors = adapter()
    tensors["transformer.blocks.0.attn1.to_q.lora_B.weight"].fill_(float("nan"))
    path = written(tmp_path / "a.safetensors", tensors, alpha=1.0)
    code, said = draw(path)
    assert code != 0
    assert "1 tensors of the adapter hold numbers that are not finite" in said
    assert "to_q" in said
    assert path in said.replace("\n", "")


def header_file(path, **header):
    """An adapter of the tiny base that says these things of itself."""
    save_file(LAYOUTS["comfyui"].from_native(adapter()), path, metadata=header)
    return str(path)


def test_a_recipe_in_a_header_whose_sections_are_none_is_told(typed, tmp_path):
    path = header_file(tmp_path / "a.safetensors", family="wan", variant="tiny", recipe="method = 3\nnoise = 4")
    code, said = typed("sample", path, *QUICK, "--out", str(tmp_path / "drawn"))
    assert code != 0
    assert "the recipe in the adapter's header cannot be read" in said
    assert "no section: method, noise" in said


def test_a_model_of_another_family_is_told_by_the_keys_and_not_by_the_adapters_own_recipe(typed, tmp_path):
    recipe = '[noise]\nkind = "flow"\nshift = 2.0\n'
    path = header_file(tmp_path / "a.safetensors", family="wan", variant="tiny", recipe=recipe)
    code, said = typed("sample", path, *QUICK, "--model", "cogvideox/tiny", "--out", str(tmp_path / "drawn"))
    assert code != 0
    assert "no adapter layout that this family reads" in said
    assert "sampler" not in said


def test_a_file_that_names_a_family_alone_is_asked_for_its_variant(typed, tmp_path):
    save_file(LAYOUTS["videox-peft"].from_native(adapter()), tmp_path / "a.safetensors", {"family": "wan"})
    code, said = typed("sample", str(tmp_path / "a.safetensors"), *QUICK)
    assert code == 2
    assert "does not say which variant" in said
    assert "--model wan/VARIANT" in said


def test_a_pickled_adapter_is_told_how_to_be_read(typed, tmp_path):
    torch.save(adapter(), tmp_path / "a.ckpt")
    code, said = typed("sample", str(tmp_path / "a.ckpt"), *QUICK, "--model", "wan/tiny")
    assert code == 4
    assert "cinelora lora extract" in said


FULL = """
[model]
family = "wan"
variant = "tiny"
[data]
frames = [5]
size = [32, 48]
buckets = "single"
[[data.source]]
path = "clips"
empty_caption = "allow"
[lora]
parts = {transformer = "full"}
[train]
steps = 2
precision = "fp32"
device = "cpu"
[preview]
prompts = ["a red circle"]
num_steps = 2
frames = 5
size = [32, 48]
[run]
folder = "run"
"""


def test_a_run_that_learned_in_full_is_drawn_with_as_its_previews_were(typed, tmp_path):
    write_mp4(tmp_path / "clips" / "a.mp4", np.full((5, 32, 48, 3), 90, np.uint8), 16.0)
    (tmp_path / "clips" / "a.txt").write_text("a circle")
    (tmp_path / "r.toml").write_text(FULL)
    code, said = typed("train", "r.toml")
    assert code == 0, said
    words = ("--prompt", "a red circle", "--steps", "2", "--frames", "5", "--size", "32", "48")
    code, said = typed("sample", "run", *words, "--out", "drawn")
    assert code == 0, said
    drawn, before = ((tmp_path / place / "00.mp4").read_bytes() for place in ("drawn", "run/samples/before"))
    assert drawn == (tmp_path / "run" / "samples" / "step-000002" / "00.mp4").read_bytes() != before
    code, said = typed("sample", "run", *words, "--model", "framer/tiny")
    assert code == 2, said
    assert "part 'transformer' learned in full, and this model has no such part" in said
    (tmp_path / "run" / "weights" / "r.transformer.safetensors").unlink()
    code, said = typed("sample", "run", *words)
    assert code == 1, said
    assert "has not left the weights of part 'transformer'" in said
    assert "cinelora train --resume run" in said
