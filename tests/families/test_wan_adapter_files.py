"""Each layout of an adapter file against its reader's own rule, written out here or that of diffusers."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from wan_bases import SMALL

from cinelora.base.seeds import torch_rng
from cinelora.families.wan.card import CARD
from cinelora.families.wan.denoise import open_denoiser
from cinelora.families.wan.layouts import LORA_LAYOUTS, WEIGHT_LAYOUTS
from cinelora.families.wan.pipeline import open_pipeline
from cinelora.lora.files import read_adapter, write_adapter
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from cinelora.lora.prove import answer

LAYOUTS = {layout.name: layout for layout in LORA_LAYOUTS}
ORIGINAL = WEIGHT_LAYOUTS[1]
X, T = torch.randn(1, 16, 2, 4, 4, generator=torch_rng("x")), torch.tensor([400.0])
TEXT = {"text": torch.randn(1, 32, 64, generator=torch_rng("text"))}
SEED_TARGETS = r"blocks\.\d+\.(attn[12]\.to_[qkv]|ffn\.net\.(0\.proj|2))"
"""VideoX-Fun's --target_name="q,k,v,ffn.0,ffn.2"."""


def opened():
    return open_denoiser("random", SMALL, "fp32")


def trained(targets="attention+ffn", **options):
    """An adapter at strength 0.5, and what the denoiser says with it."""
    denoiser = opened()
    options = LoraOptions(**{"rank": 4, "alpha": 2.0, "targets": targets, **options})
    adapters = inject(denoiser.parts(), options, presets=CARD.lora_presets, default_preset=CARD.default_preset)
    torch.manual_seed(4)
    with torch.no_grad():
        for weight in adapters.parameters().values():
            weight.add_(0.2 * torch.randn_like(weight))
    return adapters.file({"steps": "1"}), answer(denoiser, X, T, TEXT)


def same(found, wanted):
    base = answer(opened(), X, T, TEXT)
    assert (wanted - base).norm() > 0.1 * base.norm()
    assert (found - wanted).norm() < 1e-4 * (wanted - base).norm()


def merged_as_videox(path):
    """VideoX-Fun's rule: W += (alpha / rank, or 1 where the file has no alpha) up down, on the original's modules.

    Keys with underscores behind lora_unet__, or dotted ones with lora_A and lora_B.
    """
    denoiser = opened()
    weights = ORIGINAL.from_native(denoiser.net.state_dict())
    places = {name.removesuffix(".weight").replace(".", "_"): name for name in weights if name.endswith(".weight")}
    file = {key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): t for key, t in load_file(path).items()}
    used = set()
    for key in [key for key in file if key.endswith(".lora_up.weight")]:
        module = key.removesuffix(".lora_up.weight")
        up, down = file[key], file[f"{module}.lora_down.weight"]
        scale = file[f"{module}.alpha"].item() / len(down) if f"{module}.alpha" in file else 1.0
        place = places[module.removeprefix("lora_unet__").replace(".", "_")]
        weights[place] = weights[place] + scale * up @ down
        used |= {key, f"{module}.lora_down.weight", f"{module}.alpha"}
    assert set(file) <= used
    denoiser.net.load_state_dict(ORIGINAL.to_native(weights))
    return answer(denoiser, X, T, TEXT)


@pytest.mark.parametrize("targets", ["attention+ffn", "all-linears", SEED_TARGETS])
@pytest.mark.parametrize("layout", ["videox", "videox-peft"])
def test_videox_merges_what_was_trained(layout, targets, tmp_path):
    file, wanted = trained(targets)
    write_adapter(tmp_path / "a.safetensors", file, LAYOUTS[layout])
    same(merged_as_videox(tmp_path / "a.safetensors"), wanted)


def test_the_strength_is_in_the_weights_only_where_the_layout_has_no_alpha(tmp_path):
    file, _ = trained()
    for name, layout in LAYOUTS.items():
        write_adapter(tmp_path / "a.safetensors", file, layout)
        written = load_file(tmp_path / "a.safetensors")
        assert any(key.endswith(".alpha") for key in written) == (name in ("comfyui", "musubi", "videox"))
        assert {read_adapter(tmp_path / "a.safetensors", LORA_LAYOUTS).scale(m) for m in file.modules()} == (
            {1.0} if name == "videox-peft" else {0.5}
        )


@pytest.mark.parametrize("layout", ["diffusers", "comfyui", "musubi"])
def test_diffusers_loads_them_at_the_strength_of_training(layout, tmp_path):
    """Its reader of musubi's spelling wants q, k, v, o, ffn.0 and ffn.2 of every block, which this adapter has."""
    file, wanted = trained()
    write_adapter(tmp_path / "a.safetensors", file, LAYOUTS[layout])
    denoiser = opened()
    open_pipeline(denoiser).load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    same(answer(denoiser, X, T, TEXT), wanted)


def test_diffusers_does_not_load_a_musubi_file_without_o(tmp_path):
    """What the guide says of it; should this pass one day, the guide can say less."""
    file, _ = trained(SEED_TARGETS)
    write_adapter(tmp_path / "a.safetensors", file, LAYOUTS["musubi"])
    with pytest.raises(KeyError):
        open_pipeline(opened()).load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    for layout in ("diffusers", "comfyui"):
        write_adapter(tmp_path / "a.safetensors", file, LAYOUTS[layout])
        open_pipeline(opened()).load_lora_weights(str(tmp_path), weight_name="a.safetensors")


def test_the_seeds_targets_are_those_that_peft_takes_by_their_endings():
    file, _ = trained(SEED_TARGETS)
    ends = ("q", "k", "v", "ffn.0", "ffn.2")
    originals = [name.removesuffix(".weight") for name in ORIGINAL.from_native(opened().net.state_dict())]
    wanted = {name for name in originals if any(name.endswith(f".{end}") for end in ends)}
    spelt = LAYOUTS["videox-peft"].from_native(dict(file.tensors))
    assert {key.removesuffix(".lora_A.weight") for key in spelt if "lora_A" in key} == wanted


def test_peft_names_of_training_are_read(tmp_path):
    file, _ = trained()
    spelt = LAYOUTS["videox-peft"].from_native(dict(file.tensors))
    save_file({k.replace(".weight", ".default.weight"): t for k, t in spelt.items()}, tmp_path / "a.safetensors")
    back = read_adapter(tmp_path / "a.safetensors", LORA_LAYOUTS, alpha=2.0)
    assert back.tensors.keys() == file.tensors.keys()
    assert back.alphas == file.alphas
