"""`cinelora lora convert` as it is typed: what is written, what other programs make of it, and what is refused."""

import json
import re

import pytest
import torch
from made_adapters import SMALL, made, original_of, same_effect, spelt, split
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cinelora.base.errors import WeightsError
from cinelora.commands import lora_convert
from cinelora.commands.lora_convert import Wishes, convert
from cinelora.families import registry
from cinelora.lora.consumers import Verdict
from cinelora.lora.files import HEADER_KEY, read_adapter, write_adapter
from cinelora.lora.form import DOWN, UP, AdapterFile

ATTENTION = r".*attn1\.(to_[qkv]|to_out\.0)"
BOTH = r".*(attn[12]\.(to_[qkv]|to_out\.0)|ff.*)"


def layouts(model):
    return {layout.name: layout for layout in registry.lora_layouts(*split(model))}


def write(path, file, model, layout=""):
    write_adapter(path, file, layouts(model)[layout or next(iter(layouts(model)))])


def header_of(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("model", SMALL)
def test_all_layouts_of_every_family_are_written_from_each(model, typed, tmp_path):
    file = made(model, ranks=(2, 3), alphas=(1.0, 6.0), pattern=BOTH)
    for start in layouts(model):
        write(tmp_path / "cat.safetensors", file, model, start)
        code, said = typed("lora", "convert", "cat.safetensors", "--to", "all", "--out", start, "--model", model)
        assert code == 0, said
        names = {path.name for path in (tmp_path / start).iterdir()}
        assert names == {"cat.peft", *(f"cat.{name}.safetensors" for name in layouts(model))}
        for name in layouts(model):
            back = read_adapter(tmp_path / start / f"cat.{name}.safetensors", list(layouts(model).values()))
            same_effect(file, back)
            assert header_of(tmp_path / start / f"cat.{name}.safetensors")["family"] == split(model)[0].name


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("wan/tiny", {"kohya": "musubi", "peft": "videox-peft", "original": "videox", "comfyui": "comfyui"}),
        ("cogvideox/tiny", {"kohya": "kohya", "peft": "peft", "original": "diffusers"}),
        ("easyanimate/tiny-v5.1", {"kohya": "videox", "comfyui": "videox", "original": "videox", "peft": "peft"}),
        ("framer/tiny", {"peft": "peft", "original": "peft-folder"}),
        ("dynamicrafter/tiny", {"original": "original", "peft": "peft"}),
    ],
)
def test_words_stand_for_the_families_own_layouts(model, words, typed, tmp_path):
    write(tmp_path / "cat.safetensors", made(model, pattern=ATTENTION), model)
    for word, layout in words.items():
        (tmp_path / word).mkdir()
        code, said = typed("lora", "convert", "cat.safetensors", "--to", word, "--out", word)
        assert code == 0, said
        assert [path.name for path in (tmp_path / word).iterdir()] == [
            "cat.peft" if layout == "peft-folder" else f"cat.{layout}.safetensors"
        ]


def test_the_headers_words_are_kept_and_what_is_no_longer_true_is_not(typed, tmp_path):
    header = {"ss_network_alpha": "2.0", "sshs_model_hash": "abc", "note": "mine", HEADER_KEY: "{}", "strength": "old"}
    file = made("wan/tiny", pattern=ATTENTION)
    tensors = spelt(file, original_of("wan/tiny"), ahead="lora_unet_", a=".lora_down.weight", b=".lora_up.weight",
                    underscored=True)  # fmt: skip
    save_file(tensors, tmp_path / "cat.safetensors", header)
    code, said = typed("lora", "convert", "cat.safetensors", "--to", "all", "--out", "out")
    assert code == 0, said
    told = {name: header_of(tmp_path / "out" / f"cat.{name}.safetensors") for name in layouts("wan/tiny")}
    for name, one in told.items():
        assert one["note"] == "mine"
        assert one["converted_from"] == "cat.safetensors (musubi)"
        assert "sshs_model_hash" not in one
        assert (HEADER_KEY in one) == (name == "diffusers")
        assert ("strength" in one) == ("ss_network_alpha" not in one) == (name == "videox-peft")
        assert "variant" not in one  # several fit
    assert json.loads(told["diffusers"][HEADER_KEY])["transformer.lora_alpha"] == 2


def test_number_formats_and_what_rounding_loses(typed, tmp_path):
    write(tmp_path / "cat.safetensors", made("wan/tiny", alphas=(0.7,), pattern=ATTENTION), "wan/tiny")
    for dtype, kind in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        words = ("--to", "videox-peft", "--to", "comfyui", "--dtype", dtype, "--out", dtype)
        code, said = typed("lora", "convert", "cat.safetensors", *words)
        assert code == 0, said
        for name in ("videox-peft", "comfyui"):
            tensors = load_file(tmp_path / dtype / f"cat.{name}.safetensors")
            assert {one.dtype for key, one in tensors.items() if not key.endswith(".alpha")} == {kind}
            assert {one.dtype for key, one in tensors.items() if key.endswith(".alpha")} <= {torch.float32}
        lost = [float(one) for one in re.findall(r"at most (\S+) of it", said)]
        assert all(0 < one < 4 * torch.finfo(kind).eps for one in lost)
        assert len(lost) == (0 if dtype == "fp32" else 2)


def test_the_file_that_out_names(typed, tmp_path):
    write(tmp_path / "cat.diffusers.safetensors", made("wan/tiny", pattern=ATTENTION), "wan/tiny")
    assert (
        typed("lora", "convert", "cat.diffusers.safetensors", "--to", "kohya", "--out", "new/dog.safetensors")[0] == 0
    )
    assert (tmp_path / "new" / "dog.safetensors").is_file()
    assert typed("lora", "convert", "cat.diffusers.safetensors", "--to", "kohya")[0] == 0
    assert (tmp_path / "cat.musubi.safetensors").is_file()
    assert typed("lora", "convert", "cat.diffusers.safetensors", "--to", "peft-folder", "--out", "here")[0] == 0
    assert (tmp_path / "here" / "adapter_config.json").is_file()


def test_files_of_experts_stay_partners(typed, tmp_path):
    told = {"high": {"file": "x.high_noise", "levels": [0.9, 1]}, "low": {"file": "x.low_noise", "levels": [0, 0.9]}}
    for name in told:
        header = {"family": "wan", "variant": f"tiny-{name}", "expert": name, "joint_variant": "tiny-experts",
                  "experts": json.dumps(told)}  # fmt: skip
        file = made("wan/tiny", pattern=ATTENTION, metadata=header)
        write(tmp_path / "run" / "adapter" / f"x.{name}_noise.diffusers.safetensors", file, "wan/tiny")
    code, said = typed("lora", "convert", "run", "--to", "comfyui", "--out", "out")
    assert code == 0, said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "x.high_noise.comfyui.safetensors",
        "x.low_noise.comfyui.safetensors",
    }
    from cinelora.commands.partners import partners

    path = tmp_path / "out" / "x.high_noise.comfyui.safetensors"
    assert set(partners(path, header_of(path))) == {"high", "low"}


def test_peft_loads_what_came_from_a_comfyui_file(typed, tmp_path):
    family, variant = split("wan/tiny")
    file = made("wan/tiny", ranks=(2, 4), alphas=(1.0, 6.0), pattern=ATTENTION)
    write(tmp_path / "cat.safetensors", file, "wan/tiny", "comfyui")
    assert typed("lora", "convert", "cat.safetensors", "--to", "peft-folder")[0] == 0
    net = registry.open_denoiser(family, variant, base="embedded", dtype="fp32").parts()["transformer"]
    loaded = PeftModel.from_pretrained(net, tmp_path / "cat.peft").base_model.model
    for module in file.modules():
        layer = loaded.get_submodule(module.removeprefix("transformer."))
        found = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        torch.testing.assert_close(found, file.scale(module) * file.tensors[module + UP] @ file.tensors[module + DOWN])


def test_folders_of_both_parts_of_framer(typed, tmp_path):
    file = made("framer/tiny-tracks", pattern=r".*\.attn1\.to_q")
    write(tmp_path / "cat.safetensors", file, "framer/tiny-tracks")
    code, said = typed("lora", "convert", "cat.safetensors", "--to", "original")
    assert code == 0, said
    assert {path.name for path in (tmp_path / "cat.peft").iterdir()} == {"unet_lora", "controlnet_lora"}
    code, said = typed("lora", "convert", "cat.safetensors", "--to", "peft")
    assert code == 2
    assert "UNet alone" in said
    code, said = typed("lora", "convert", "cat.peft", "--to", "diffusers", "--out", "back")
    assert code == 0, said
    found = [
        read_adapter(path, list(layouts("framer/tiny").values())) for path in sorted((tmp_path / "back").iterdir())
    ]
    assert {module for one in found for module in one.modules()} == set(file.modules())


def test_text_encoders_modules_of_easyanimate_go_along(typed, tmp_path):
    file = made("easyanimate/tiny-v3", pattern=ATTENTION)
    name = "text_encoder.encoder.block.0.layer.0.SelfAttention.q"
    tensors = {**file.tensors, name + DOWN: torch.randn(4, 32), name + UP: torch.randn(32, 4)}
    file = AdapterFile(tensors, {**file.alphas, name: 2.0})
    write(tmp_path / "cat.safetensors", file, "easyanimate/tiny-v3")
    code, said = typed("lora", "convert", "cat.safetensors", "--to", "videox", "--model", "easyanimate/tiny-v3")
    assert code == 0, said
    assert "lora_te_encoder_block_0_layer_0_SelfAttention_q.alpha" in load_file(tmp_path / "cat.videox.safetensors")


BAD = {
    "no such word": (("--to", "komfyui"), 2, ("has no layout of that name", "nearest: comfyui")),
    "no such format": (("--to", "kohya", "--dtype", "fp8"), 2, ("no such number format", "fp16")),
    "over itself": (("--to", "diffusers"), 2, ("would replace what it is made of",)),
    "several in one file": (("--to", "all", "--out", "one.safetensors"), 2, ("several results need a folder",)),
    "another ending": (("--to", "kohya", "--out", "one.ckpt"), 2, ("safetensors",)),
    "another family": (("--to", "kohya", "--model", "cogvideox/tiny"), 4, ("has no place for 24 of", "cogvideox/tiny")),
    "another size": (("--to", "kohya", "--model", "wan/t2v-1.3b"), 4, ("another size", "--model wan/tiny")),
    "no strength": (("--to", "kohya", "--alpha", "0"), 2, ("alpha is no strength",)),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused_and_nothing_is_written(name, typed, tmp_path):
    words, wanted, told = BAD[name]
    write(tmp_path / "cat.diffusers.safetensors", made("wan/tiny", pattern=ATTENTION), "wan/tiny")
    before = (tmp_path / "cat.diffusers.safetensors").read_bytes()
    code, said = typed("lora", "convert", "cat.diffusers.safetensors", *words)
    assert code == wanted, said
    for one in told:
        assert one in said
    assert [path.name for path in tmp_path.iterdir()] == ["cat.diffusers.safetensors"]
    assert (tmp_path / "cat.diffusers.safetensors").read_bytes() == before


def test_numbers_that_a_format_cannot_hold(typed, tmp_path):
    file = made("wan/tiny", pattern=ATTENTION)
    large = AdapterFile({key: 1e6 * one for key, one in file.tensors.items()}, file.alphas)
    write(tmp_path / "cat.safetensors", large, "wan/tiny")
    code, said = typed("lora", "convert", "cat.safetensors", "--to", "comfyui", "--dtype", "fp16", "--out", "out")
    assert code == 4
    assert "too large for fp16" in said
    odd = {key: torch.full_like(one, torch.inf) for key, one in file.tensors.items()}
    write(tmp_path / "cat.safetensors", AdapterFile(odd, file.alphas), "wan/tiny")
    code, said = typed("lora", "convert", "cat.safetensors", "--to", "comfyui", "--out", "out")
    assert code == 4
    assert "not finite" in said
    assert not (tmp_path / "out").exists()


def test_dora_is_refused_by_name_and_left_out_of_all(typed, tmp_path):
    write(tmp_path / "cat.safetensors", made("wan/tiny", pattern=ATTENTION, dora=True), "wan/tiny")
    code, said = typed("lora", "convert", "cat.safetensors", "--to", "comfyui", "--out", "out")
    assert code == 2
    assert "DoRA" in said
    code, said = typed("lora", "convert", "cat.safetensors", "--to", "all", "--out", "out")
    assert code == 0
    assert "no comfyui file: the comfyui layout has no place for DoRA's lengths" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cat.diffusers.safetensors", "cat.peft"}


def test_changes_of_whole_weights_are_left_out_only_when_told(typed, tmp_path, caplog):
    file = made("wan/tiny", pattern=ATTENTION)
    tensors = spelt(file, original_of("wan/tiny"), ahead="diffusion_model.", a=".lora_down.weight", b=".lora_up.weight")
    save_file({**tensors, "diffusion_model.blocks.0.norm3.diff_b": torch.ones(192)}, tmp_path / "cat.safetensors")
    code, said = typed("lora", "convert", "cat.safetensors", "--to", "kohya")
    assert code == 4
    assert "diffusion_model.blocks.*.norm3" in said
    code, said = typed("lora", "convert", "cat.safetensors", "--to", "kohya", "--allow-missing")
    assert code == 0
    assert "left out 1 tensors" in caplog.text
    same_effect(file, read_adapter(tmp_path / "cat.musubi.safetensors", list(layouts("wan/tiny").values())))


def test_what_a_program_would_not_take_is_not_written(tmp_path, monkeypatch):
    """Its keys are named, and no file is left, nor those of other layouts."""
    write(tmp_path / "cat.safetensors", made("wan/tiny", pattern=ATTENTION), "wan/tiny")

    def unhappy(program, tensors, header, *, file, modules):
        return Verdict(program.program, program.program != "musubi-tuner", "it has no place", ("lora_unet_odd.alpha",))

    monkeypatch.setattr(lora_convert, "verdict", unhappy)
    with pytest.raises(WeightsError, match="musubi-tuner would not load the musubi file") as error:
        convert(tmp_path / "cat.safetensors", ["all"], Wishes(out=tmp_path / "out"))
    assert "lora_unet_odd.alpha" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_wrong_table_would_be_seen(tmp_path, monkeypatch):
    """q and k swapped in what is written, and in what is read back: ComfyUI's own rule is not of that table."""
    layout = layouts("wan/tiny")["comfyui"]
    own = layout.from_native, layout.to_native

    def swapped(tensors):
        names = {"to_q": "to_k", "to_k": "to_q"}
        return {re.sub("to_[qk]", lambda match: names[match[0]], key): one for key, one in tensors.items()}

    write(tmp_path / "cat.safetensors", made("wan/tiny", pattern=ATTENTION), "wan/tiny")
    monkeypatch.setattr(layout, "from_native", lambda tensors: own[0](swapped(tensors)))
    monkeypatch.setattr(layout, "to_native", lambda tensors: swapped(own[1](tensors)))
    with pytest.raises(WeightsError, match="ComfyUI would not load the comfyui file"):
        convert(tmp_path / "cat.safetensors", ["comfyui"], Wishes(out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
