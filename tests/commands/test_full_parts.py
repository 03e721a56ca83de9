import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cinelora.base.errors import WeightsError
from cinelora.commands.full_parts import NOTED, files_beside, noted
from cinelora.commands.lora_apply import Asked, apply
from cinelora.lora.prove import fill_parts


def parts():
    """Of a denoiser, in half the precision."""
    return {"unet": nn.Linear(2, 2).bfloat16(), "resampler": nn.Linear(3, 3).bfloat16()}


def learned(path, part="resampler"):
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {"weight": torch.randn(3, 3), "bias": torch.randn(3)}
    save_file(weights, path.parent / f"{path.name}.{part}.safetensors")
    return weights


def test_a_header_says_which_parts_learned_in_full():
    assert noted({}) == {}
    assert json.loads(noted({"resampler": None})[NOTED]) == ["resampler"]


def test_weights_go_into_a_fresh_base_as_they_learned(tmp_path):
    weights, fresh = learned(tmp_path / "x"), parts()
    kept = fresh["unet"].weight.clone()
    fill_parts(fresh, {"resampler": tmp_path / "x.resampler.safetensors"})
    assert torch.equal(fresh["resampler"].weight, weights["weight"])
    assert torch.equal(fresh["unet"].weight, kept)


def test_weights_that_do_not_fit_or_cannot_be_read_are_refused(tmp_path):
    learned(tmp_path / "x", "unet")
    file = {"unet": tmp_path / "x.unet.safetensors"}
    with pytest.raises(WeightsError, match=r"(?s)2 weights of the file are not those of the part 'unet'.*bias, weight"):
        fill_parts(parts(), file)
    file["unet"].write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="cannot read the weights of a part that learned in full"):
        fill_parts(parts(), file)


@pytest.mark.parametrize("said", ["[", '"resampler"', "[1]", '["../../secret"]', "{}"])
def test_a_header_that_lists_no_parts_is_told(tmp_path, said):
    with pytest.raises(WeightsError, match="parts that learned in full cannot be read"):
        files_beside(tmp_path / "x.safetensors", {NOTED: said})


def test_a_part_that_the_denoiser_does_not_have_is_told(tmp_path):
    learned(tmp_path / "x", "controlnet")
    with pytest.raises(WeightsError, match="no part 'controlnet'"):
        fill_parts(parts(), {"controlnet": tmp_path / "x.controlnet.safetensors"})


@pytest.mark.parametrize(("stem", "folder"), [("x", "final"), ("x.best", "best"), ("x.step-2", "history/x.step-2")])
def test_those_of_a_family_with_folders_are_found_there(tmp_path, stem, folder):
    weights = tmp_path / folder / "controlnet" / "diffusion_pytorch_model.safetensors"
    weights.parent.mkdir(parents=True)
    save_file({"weight": torch.zeros(1)}, weights)
    adapter = tmp_path / ("history" if "step" in stem else "adapter") / f"{stem}.diffusers.safetensors"
    header = {"family": "framer", **noted({"controlnet": None})}
    assert files_beside(adapter, header) == {"controlnet": weights}


@pytest.mark.parametrize("place", ["weights/x", "adapter/x"])
def test_they_are_found_from_the_adapter(tmp_path, place):
    learned(tmp_path / place)
    adapter = tmp_path / "adapter" / "x.original.safetensors"
    header = noted({"resampler": None})
    assert list(files_beside(adapter, header).values()) == [tmp_path / f"{place}.resampler.safetensors"]
    assert files_beside(adapter, {}) == {}
    with pytest.raises(WeightsError, match=r"(?s)all of the part 'resampler'.*y\.resampler\.safetensors"):
        files_beside(tmp_path / "adapter" / "y.original.safetensors", header)


def test_a_merged_base_has_them_too(tmp_path):
    base = {
        "model.diffusion_model.time_embed.0.weight": torch.zeros(4, 3),
        "image_proj_model.norm_out.weight": torch.zeros(3, dtype=torch.float16),
    }
    save_file(base, tmp_path / "dynamicrafter_512.safetensors")
    module = "model.diffusion_model.time_embed.0"
    adapter = {f"{module}.lora_a.weight": torch.ones(1, 3), f"{module}.lora_b.weight": torch.ones(4, 1)}
    save_file(adapter, tmp_path / "x.original.safetensors", noted({"resampler": None}))
    asked = Asked(alpha=1, out=tmp_path / "out.safetensors")
    with pytest.raises(WeightsError, match="whose weights are not here"):
        apply(tmp_path / "dynamicrafter_512.safetensors", tmp_path / "x.original.safetensors", asked)
    save_file({"norm_out.weight": torch.ones(3)}, tmp_path / "x.resampler.safetensors")
    found = load_file(apply(tmp_path / "dynamicrafter_512.safetensors", tmp_path / "x.original.safetensors", asked))
    assert torch.equal(found[f"{module}.weight"], torch.ones(4, 3))
    assert torch.equal(found["image_proj_model.norm_out.weight"], torch.ones(3, dtype=torch.float16))
    save_file({"norm_out.weight": torch.ones(4)}, tmp_path / "x.resampler.safetensors")
    with pytest.raises(WeightsError, match="no place for the part 'resampler'"):
        apply(tmp_path / "dynamicrafter_512.safetensors", tmp_path / "x.original.safetensors", asked)
