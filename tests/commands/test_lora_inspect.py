"""`cinelora lora inspect` as it is typed: what it says of adapters of every kind, and of what is none."""

import json

import pytest
import torch
from made_adapters import SMALL, made, original_of, spelt, split
from PIL import Image
from safetensors.torch import save_file

from cinelora.families import registry
from cinelora.lora.files import write_adapter
from cinelora.lora.form import DOWN, UP, AdapterFile
from cinelora.lora.peft_folder import write_peft_folder

ATTENTION = r".*attn1\.(to_[qkv]|to_out\.0)"


def write(path, file, model, layout=""):
    layouts = {one.name: one for one in registry.lora_layouts(*split(model))}
    write_adapter(path, file, layouts[layout or next(iter(layouts))])


@pytest.fixture
def facts(typed, tmp_path):
    def run(*words):
        code, said = typed("lora", "inspect", *words, "--json")
        assert code == 0, said
        return json.loads(said[said.index("{") :])

    return run


@pytest.mark.parametrize("model", SMALL)
def test_every_layout_of_every_family_is_recognised(model, facts, tmp_path):
    family, variant = split(model)
    pattern = r".*attn.*|.*ff.*"
    for layout in registry.lora_layouts(family, variant):
        write_adapter(tmp_path / "a.safetensors", made(model, pattern=pattern), layout)
        found = facts("a.safetensors")
        assert (found["family"], found["layout"]) == (family.name, layout.name)
        assert model in found["fits"]
        assert found["strengths"] == ({"1": found["num_modules"]} if layout.strength == "folded" else
                                      {"0.5": found["num_modules"]})  # fmt: skip
        assert found["sure"].startswith("by keys and sizes")
        own = next(one for one in found["programs"] if one["program"] == "cinelora")
        assert own["loads"]


def test_the_answer_in_words(typed, tmp_path):
    header = {"family": "wan", "variant": "tiny", "steps": "120", "base": "embedded"}
    file = made("wan/tiny", ranks=(2, 4), alphas=(1.0, 6.0), pattern=ATTENTION, metadata=header)
    write(tmp_path / "cat.comfyui.safetensors", file, "wan/tiny", "comfyui")
    code, said = typed("lora", "inspect", "cat.comfyui.safetensors")
    assert code == 0
    for words in (
        "family wan (the file says so)",
        "variant tiny",
        "layout comfyui",
        "training base embedded; steps 120",
        "rank 2 x 12, 4 x 12; alpha 1 x 12, 6 x 12 (a tensor for each module)",
        "strength 0.5 x 12, 1.5 x 12 = alpha / rank",
        "transformer.blocks.* x 6: attn1.to_k, attn1.to_out.0, attn1.to_q, attn1.to_v",
        "transformer.blocks.5",
        "cinelora: yes",
        "ComfyUI: yes",
        "musubi-tuner: no: it looks for other keys",
        "cinelora lora convert cat.comfyui.safetensors --to musubi",
        "PeftModel.from_pretrained: no: it reads folders",
        "steps: 120",
    ):
        assert words in said, words


def test_norms_are_those_of_the_matrices(facts, tmp_path):
    file = made("wan/tiny", alphas=(6.0,), pattern=ATTENTION)
    write(tmp_path / "a.safetensors", file, "wan/tiny", "comfyui")
    found = facts("a.safetensors")
    for module in found["modules"]:
        name = module["name"]
        dense = file.scale(name) * file.tensors[name + UP] @ file.tensors[name + DOWN]
        assert module["norm"] == pytest.approx(dense.norm().item(), rel=1e-5)
    inside = [one["norm"] ** 2 for one in found["modules"] if one["name"].startswith("transformer.blocks.3.")]
    assert found["blocks"]["transformer.blocks.3"] == pytest.approx(sum(inside) ** 0.5)


def test_dead_torn_and_spoilt_adapters(facts, typed, tmp_path):
    file = made("wan/tiny", pattern=ATTENTION)
    zero, away, bad = (f"transformer.blocks.{k}.attn1.to_q" for k in range(3))
    tensors = {key: one for key, one in file.tensors.items() if not key.startswith(f"{away}.")}
    tensors[zero + UP] = torch.zeros(192, 4)
    write(tmp_path / "a.safetensors", AdapterFile(tensors, file.alphas), "wan/tiny")
    found = facts("a.safetensors")
    assert (found["dead"], found["lacks"], found["not_finite"]) == ([zero], [away], [])
    tensors[bad + DOWN] = torch.full((4, 192), torch.nan)
    write(tmp_path / "a.safetensors", AdapterFile(tensors, file.alphas), "wan/tiny")
    found = facts("a.safetensors")
    assert found["not_finite"] == [bad]
    assert next(one["norm"] for one in found["modules"] if one["name"] == bad) is None
    assert [(one["program"], one["loads"]) for one in found["programs"]] == [("cinelora", False)]
    code, said = typed("lora", "inspect", "a.safetensors")
    assert code == 0
    assert "modules with NaN or infinite numbers: 1" in said


def test_a_strength_that_nobody_says_is_told(facts, tmp_path):
    file = made("wan/tiny", pattern=ATTENTION)
    save_file(spelt(file, original_of("wan/tiny"), ahead="diffusion_model.", a=".lora_A.weight", b=".lora_B.weight",
                    alpha=False), tmp_path / "a.safetensors")  # fmt: skip
    found = facts("a.safetensors")
    assert list(found["strength_stands_in"]) == ["nowhere: readers take alpha = rank"]
    assert "give the training's with --alpha" in found["programs"][0]["reason"]
    assert next(one for one in found["programs"] if one["program"] == "ComfyUI")["loads"]
    told = facts("a.safetensors", "--alpha", "2")
    assert told["strengths"] == {"0.5": 24}
    answer = next(one for one in told["programs"] if one["program"] == "ComfyUI")
    assert "at strength 1, and the file means 0.5" in answer["reason"]


def test_folders_pickles_and_runs(facts, typed, tmp_path):
    file = made("wan/tiny", pattern=ATTENTION)
    write_peft_folder(tmp_path / "folder", file, "transformer")
    found = facts("folder")
    assert (found["family"], list(found["strength_stands_in"])) == ("wan", ["adapter_config.json"])
    assert next(one for one in found["programs"] if "from_pretrained" in one["program"])["loads"]
    assert facts("folder/adapter_model.safetensors")["strengths"] == {"0.5": 24}
    torch.save({"state_dict": dict(file.tensors)}, tmp_path / "a.ckpt")
    assert facts("a.ckpt")["family"] == "wan"
    header = {"family": "wan", "variant": "tiny-high", "expert": "high"}
    for label in ("high_noise", "low_noise"):
        for layout in ("diffusers", "comfyui"):
            told = AdapterFile(file.tensors, file.alphas, {**header, "variant": f"tiny-{label[:-6]}"})
            write(tmp_path / "run" / "adapter" / f"x.{label}.{layout}.safetensors", told, "wan/tiny", layout)
    code, said = typed("lora", "inspect", "run", "--json")
    both = json.loads(said[said.index("[") :])
    assert code == 0
    assert [(one["variant"], one["layout"]) for one in both] == [("tiny-high", "diffusers"), ("tiny-low", "diffusers")]


def test_the_page_and_the_picture(typed, tmp_path):
    file = made("wan/tiny", pattern=ATTENTION, metadata={"<b>evil</b>": "<script>alert(1)</script>"})
    write(tmp_path / "a.safetensors", file, "wan/tiny")
    code, said = typed("lora", "inspect", "a.safetensors", "--html", "a.html", "--png", "a.png")
    assert code == 0, said
    page = (tmp_path / "a.html").read_text()
    assert page.count("<rect") == 6
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    with Image.open(tmp_path / "a.png") as picture:
        blue = sum(count for count, colour in picture.getcolors(1 << 20) if colour == (66, 120, 190))
    assert blue > 6 * 10 * 300
    for words in (("--html", "a.txt"), ("--png", "a.safetensors")):
        code, said = typed("lora", "inspect", "a.safetensors", *words)
        assert code == 2
        assert words[1] in said


def test_a_named_base_says_how_much_its_weights_change(facts, typed, tmp_path):
    from cinelora.families.wan.card import TINY
    from cinelora.nets.weights import read_tensors

    file = made("wan/tiny", pattern=ATTENTION)
    write(tmp_path / "a.safetensors", file, "wan/tiny")
    found = [one for one in registry.skeleton(registry.FAMILIES["wan"], TINY).values()][0]
    weights = {name: torch.full(one.shape, 2.0) for name, one in found.state_dict().items()}
    save_file(weights, tmp_path / "base.safetensors")
    assert len(read_tensors(tmp_path / "base.safetensors")) == len(weights)
    module = facts("a.safetensors", "--base", "base.safetensors")["modules"][0]
    assert module["share_of_base"] == pytest.approx(module["norm"] / (2.0 * 192), rel=1e-5)
    code, said = typed("lora", "inspect", "a.safetensors", "--base", "base.safetensors")
    assert "a module's weight changes by" in said
    code, said = typed("lora", "inspect", "a.safetensors", "--base", "nowhere")
    assert code == 4


def pairs(names, *, width=32, a=".lora_A.weight", b=".lora_B.weight"):
    return {n + end: torch.ones((4, width) if end == a else (width, 4)) for n in names for end in (a, b)}


STRANGERS = {
    "a language model": [f"base_model.model.model.layers.{k}.self_attn.{one}_proj" for k in range(2) for one in "qkvo"],
    "SDXL": [
        *(f"lora_unet_down_blocks_1_attentions_0_transformer_blocks_{k}_attn1_to_q" for k in range(3)),
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
    ],
    "FLUX.1": [
        *(f"transformer.single_transformer_blocks.{k}.attn.to_q" for k in range(2)),
        "transformer.transformer_blocks.0.attn.add_q_proj",
    ],
    "HunyuanVideo": [f"diffusion_model.double_blocks.{k}.img_attn_qkv" for k in range(2)],
    "LTX-Video": [f"transformer.transformer_blocks.{k}.{one}.to_q" for k in range(2) for one in ("attn1", "attn2")],
}


@pytest.mark.parametrize("name", STRANGERS)
def test_adapters_of_other_models_are_told_as_what_they_look_like(name, typed, tmp_path):
    save_file(pairs(STRANGERS[name], width=2048), tmp_path / "a.safetensors")
    code, said = typed("lora", "inspect", "a.safetensors")
    assert code == 4
    assert "the adapter is of no family here" in said
    assert f"it looks like {name}" in said
    assert "wan, cogvideox, easyanimate" in said


def test_the_family_that_understands_some_of_it_is_named(typed, tmp_path):
    save_file(
        pairs(["diffusion_model.blocks.0.self_attn.q", "diffusion_model.blocks.0.vace.q"]), tmp_path / "a.safetensors"
    )
    code, said = typed("lora", "inspect", "a.safetensors")
    assert code == 4
    assert "wan (it understands 2 of 4 keys)" in said
    assert "found: diffusion_model.blocks.0.vace.q.lora_A.weight" in said


def test_a_header_that_names_another_family_is_told_with_the_one_that_fits(typed, tmp_path):
    told = {"family": "framer", "variant": "gone"}
    save_file(pairs(["diffusion_model.blocks.0.self_attn.q"]), tmp_path / "a.safetensors", told)
    code, said = typed("lora", "inspect", "a.safetensors")
    assert code == 4
    assert "nearest: wan (it understands 2 of 2 keys" in said
    assert "the file says that it is of framer" in said
    assert "--model FAMILY/VARIANT" in said


def test_whole_networks_and_checkpoints_are_no_adapters(typed, tmp_path):
    save_file({"blocks.0.self_attn.q.weight": torch.ones(2, 2), "text_embedding.0.weight": torch.ones(2, 2)},
              tmp_path / "whole.safetensors")  # fmt: skip
    code, said = typed("lora", "inspect", "whole.safetensors")
    assert code == 4
    assert "whole weights of wan" in said
    weights = {f"model.layers.{k}.weight": torch.ones(2, 2) for k in range(9)}
    save_file({**weights, **pairs(["model.layers.0"])}, tmp_path / "trained.safetensors")
    code, said = typed("lora", "inspect", "trained.safetensors")
    assert code == 4
    assert "cinelora lora extract --model trained.safetensors" in said


class Evil:
    def __reduce__(self):
        return (open, ("pwned", "w"))


def test_damaged_and_hostile_files(typed, tmp_path):
    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "garbage.safetensors").write_bytes(b"\xff" * 64)
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "words.txt").write_text("words")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "adapter_config.json").write_text("{}")
    for name, words in (
        ("evil.pt", "code in it is never run"),
        ("garbage.safetensors", "cannot read the adapter file"),
        ("empty.safetensors", "cannot read the adapter file"),
        ("words.txt", "no file of weights by its name"),
        ("folder", "has no weights"),
        ("absent.safetensors", "there is no such file or folder"),
        (".", "one adapter is needed"),
    ):
        code, said = typed("lora", "inspect", name)
        assert code == 4, name
        assert words in said, name
    assert not (tmp_path / "pwned").exists()


def test_control_characters_of_a_header_do_not_reach_the_terminal(typed, tmp_path):
    file = made("wan/tiny", pattern=r".*0\.attn1\.to_q", metadata={"\x1b[31mred": "\x1b]0;title\x07"})
    write(tmp_path / "a.safetensors", file, "wan/tiny")
    code, said = typed("lora", "inspect", "a.safetensors")
    assert code == 0
    assert "\x1b" not in said
    assert "\\x1b[31mred" in said


def test_what_the_header_says_of_the_training(facts, tmp_path):
    recipe = '[method]\nname = "distill"\n[preview]\nnum_steps = 4\n[[data.source]]\npath = "x"\ntrigger = "ohwx"\n'
    for header, wanted in (
        ({"recipe": recipe, "steps": "9"}, {"steps": "9", "distilled": "to 4 steps", "trigger": "ohwx"}),
        (
            {"training_info": '{"step": 1200, "epoch": 3}', "name": "cat"},
            {"steps": "1200", "epochs": "3", "title": "cat"},
        ),
        ({"ss_steps": "77", "modelspec.trigger_phrase": "sks"}, {"steps": "77", "trigger": "sks"}),
        ({"recipe": "[broken", "training_info": "[1"}, {}),
    ):
        file = made("wan/tiny", pattern=r".*0\.attn1\.to_q", metadata=header)
        write(tmp_path / "a.safetensors", file, "wan/tiny")
        assert facts("a.safetensors")["training"] == wanted
