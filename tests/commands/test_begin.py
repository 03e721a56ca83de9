"""Runs that begin with an adapter file: what stands in it learns on; what differs from the recipe is told at once."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from cinelora.base.errors import RecipeError, WeightsError
from cinelora.commands.begin import begin, check_start
from cinelora.config.load import load
from cinelora.families import registry
from cinelora.families.dynamicrafter.adapter_layouts import LORA_LAYOUTS
from cinelora.lora.files import AdapterFile, read_adapter, write_adapter
from cinelora.lora.inject import inject
from cinelora.media.write import write_mp4

RECIPE = """
[model]
family = "dynamicrafter"
variant = "tiny"
base = "random"
dtype = "fp32"
[data]
frames = [4]
size = [32, 48]
upscale = true
held_out = 0.0
[[data.source]]
path = "clips"
[lora]
rank = 4
alpha = 2
start = "start.safetensors"
[train]
steps = 1
lr = 1e-12
precision = "fp32"
device = "cpu"
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text(RECIPE)
    return lambda *sets: load(tmp_path / "r.toml", sets)


def fresh(loaded):
    parts = registry.skeleton(loaded.family, loaded.variant)
    parts = {part: net.to_empty(device="cpu") for part, net in parts.items()}
    presets, preset = loaded.family.lora_presets, loaded.family.default_preset
    return inject(parts, loaded.recipe.lora, presets=presets, default_preset=preset, seed=3)


def trained(loaded):
    """An adapter as the recipe makes them, with numbers of its own in A and B."""
    file = fresh(loaded).file({"family": "dynamicrafter", "targets": "reference"})
    generator = torch.Generator().manual_seed(1)
    tensors = {key: 0.1 * torch.randn(one.shape, generator=generator) for key, one in file.tensors.items()}
    return AdapterFile(tensors, file.alphas, file.metadata)


def as_trainer_writes(file, path):
    """FDoKE's own: no header, and adapters of an encoder that do nothing."""
    tensors = LORA_LAYOUTS[0].from_native(file.tensors)
    idle = "cond_stage_model.model.transformer.resblocks.0.mlp.c_fc"
    save_file({**tensors, f"{idle}.lora_a.weight": torch.ones(4, 6), f"{idle}.lora_b.weight": torch.zeros(9, 4)}, path)


@pytest.mark.parametrize("kind", ["original", "peft", "trainer"])
def test_adapters_begin_with_what_stands_in_the_file(recipe, tmp_path, kind, caplog):
    loaded, path = recipe(), tmp_path / "start.safetensors"
    file = trained(loaded)
    if kind == "trainer":
        as_trainer_writes(file, path)
    else:
        write_adapter(path, file, next(one for one in LORA_LAYOUTS if one.name == kind))
    adapters = fresh(loaded)
    begin(loaded, adapters)
    for name, weight in adapters.parameters().items():
        assert weight.equal(file.tensors[name]), name
    assert not caplog.records  # a file without a strength has the recipe's
    if kind == "trainer":
        read_adapter(path, LORA_LAYOUTS)
        assert "does not say its strength" in caplog.text


def test_parts_that_learn_in_full_begin_with_the_base(recipe, tmp_path):
    write_adapter(tmp_path / "start.safetensors", trained(recipe()), LORA_LAYOUTS[0])
    loaded = recipe('lora.parts={resampler = "full"}')
    adapters = fresh(loaded)
    before = {key: one.clone() for key, one in adapters.full_tensors().items()}
    begin(loaded, adapters)
    assert before
    after = adapters.full_tensors()
    assert all(torch.equal(after[key].nan_to_num(), one.nan_to_num()) for key, one in before.items())


def test_all_that_differs_is_told_with_the_line(recipe, tmp_path):
    write_adapter(tmp_path / "start.safetensors", trained(recipe()), LORA_LAYOUTS[0])
    with pytest.raises(RecipeError) as caught:
        check_start(recipe("lora.rank=8", "lora.targets=spatial", "lora.dora=true"))
    told = str(caught.value)
    for words in ("not among lora.targets", "'reference'", "other ranks", "another strength", "lora.dora = false"):
        assert words in told
    assert all(problem.where.endswith("r.toml:17") for problem in caught.value.problems)
    with pytest.raises(RecipeError, match="nothing for .* of the .* modules of lora.targets"):
        check_start(recipe("lora.targets=+resampler"))
    with pytest.raises(RecipeError, match="has no effect where start names an adapter"):
        recipe("lora.init=pissa")


def test_files_that_cannot_be_begun_with_are_told(recipe, tmp_path):
    path, file = tmp_path / "start.safetensors", trained(recipe())
    with pytest.raises(WeightsError, match="cannot read the adapter file"):
        check_start(recipe())
    first = next(iter(file.tensors))
    spoilt = AdapterFile({**file.tensors, first: file.tensors[first] * float("nan")}, file.alphas, {"full_parts": "[]"})
    write_adapter(path, spoilt, LORA_LAYOUTS[0])
    with pytest.raises(RecipeError, match="(?s)together with whole parts.*not finite"):
        check_start(recipe())
    small = {key: one[:, :8].contiguous() if "lora_A" in key else one for key, one in file.tensors.items()}
    write_adapter(path, AdapterFile(small, file.alphas), LORA_LAYOUTS[0])
    with pytest.raises(WeightsError, match="another size than in the base") as caught:
        check_start(recipe())
    assert caught.value.problems[0].where == str(path)


def test_a_run_begins_with_a_file_and_goes_on_without_it(recipe, tmp_path, typed):
    loaded = recipe()
    moving = torch.randint(0, 255, (24, 32, 48, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    write_mp4(tmp_path / "clips" / "a.mp4", moving.numpy(), 8.0)
    (tmp_path / "clips" / "a.txt").write_text("noise")
    file, path = trained(loaded), tmp_path / "start.safetensors"
    code, told = typed("check", "r.toml")
    assert code != 0
    assert "cannot read the adapter file" in told
    write_adapter(path, file, LORA_LAYOUTS[0])
    code, told = typed("train", "r.toml", "--set", "run.folder=run")
    assert code == 0, told
    assert "begins with the 126 modules of start.safetensors" in told
    after = LORA_LAYOUTS[0].to_native(load_file(tmp_path / "run" / "adapter" / "r.original.safetensors"))
    for key, one in file.tensors.items():  # as good as no rate
        torch.testing.assert_close(after[key], one, rtol=0, atol=1e-9)
    path.unlink()
    code, told = typed("train", "--resume", "run", "--set", "train.steps=2")
    assert code == 0, told
    assert "begins with" not in told
