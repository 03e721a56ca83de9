import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cinelora.base.errors import RecipeError, WeightsError
from cinelora.cli.app import app
from cinelora.commands.lora_extract import extract
from cinelora.families.dynamicrafter.adapter_layouts import LORA_LAYOUTS
from cinelora.lora.files import read_adapter

UNET, TEXT = "model.diffusion_model.time_embed.0", "cond_stage_model.model.transformer.resblocks.0.mlp.c_fc"


def adapter(*modules, idle=()):
    found = {}
    for number, module in enumerate(modules):
        rng = torch.Generator().manual_seed(number)
        found[f"{module}.lora_a.weight"] = torch.randn(2, 3, generator=rng)
        found[f"{module}.lora_b.weight"] = torch.randn(4, 2, generator=rng) * (module not in idle)
    return found


def checkpoint(path, tensors, **more):
    weights = {f"{key.rpartition('.lora')[0]}.weight": torch.zeros(4, 3) for key in tensors if "lora_" in key}
    torch.save({"state_dict": {**weights, **tensors}, "epoch": 3, **more}, path)
    return path


def test_all_that_is_an_adapters_is_taken_as_it_is(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    own = adapter(UNET, TEXT, idle=(TEXT,))
    own[f"{UNET}.lora_a.weight"] = own[f"{UNET}.lora_a.weight"].half()
    path = checkpoint(tmp_path / "epoch=0-step=20.ckpt", own, loops={"n": 1})
    written = extract(path)
    assert str(written) == "epoch=0-step=20_lora.safetensors"
    found = load_file(written)
    assert found.keys() == own.keys()
    assert all(torch.equal(found[key], one) and found[key].dtype == one.dtype for key, one in own.items())
    told = capfd.readouterr().err
    assert "2 modules of rank 2" in told
    assert "does not say its strength" in told
    assert "1 of its modules change nothing" in told


@pytest.mark.parametrize(
    ("out", "file_format", "name"),
    [
        ("mine.ckpt", "", "mine.ckpt"),
        ("folder", "ckpt", "folder/x.y_lora.ckpt"),
        ("m.safetensors", "", "m.safetensors"),
    ],
)
def test_it_goes_where_it_is_asked_to(tmp_path, out, file_format, name):
    path = checkpoint(tmp_path / "x.y.ckpt", adapter(UNET))
    assert extract(path, out=tmp_path / out, file_format=file_format) == tmp_path / name
    assert (tmp_path / name).is_file()


def test_the_strength_is_noted_where_it_is_said(tmp_path):
    path = checkpoint(tmp_path / "x.ckpt", adapter(UNET, TEXT, idle=(TEXT,)))
    written = extract(path, out=tmp_path, alpha=0.5)
    file = read_adapter(written, LORA_LAYOUTS)
    assert file.modules() == ["unet.time_embed.0"]
    assert file.scale("unet.time_embed.0") == 0.5
    with safe_open(written, "pt") as opened:
        assert opened.metadata()["rank"] == "2"
        assert opened.metadata()["alpha"] == "1"
        assert sorted(opened.keys()) == [f"{UNET}.lora_a.weight", f"{UNET}.lora_b.weight"]


def test_a_strength_that_cannot_be_noted_is_refused(tmp_path):
    path = checkpoint(tmp_path / "x.ckpt", adapter("net.q"))
    with pytest.raises(RecipeError, match="known family"):
        extract(path, out=tmp_path, alpha=0.5)


@pytest.mark.parametrize("alpha", [0.0, -0.5, float("nan"), float("inf")])
def test_a_strength_that_is_none_is_not_noted(tmp_path, alpha):
    path = checkpoint(tmp_path / "x.ckpt", adapter(UNET))
    with pytest.raises(RecipeError, match="alpha is no strength"):
        extract(path, out=tmp_path / "out", alpha=alpha)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_one_file_will_do(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    checkpoint(folder / "last.ckpt", adapter(UNET))
    assert extract(folder, out=tmp_path).name == "last_lora.safetensors"
    checkpoint(folder / "other.ckpt", adapter(UNET))
    with pytest.raises(WeightsError, match=r"(?s)one file.*last\.ckpt, other\.ckpt"):
        extract(folder, out=tmp_path)
    with pytest.raises(WeightsError, match="nothing"):
        extract(tmp_path / "nowhere.ckpt", out=tmp_path)


def test_a_checkpoint_without_an_adapter_is_an_error_and_leaves_nothing(tmp_path):
    save_file({"a.weight": torch.ones(2)}, tmp_path / "base.safetensors")
    with pytest.raises(WeightsError, match="no key has lora_"):
        extract(tmp_path / "base.safetensors", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_half_an_adapter_is_an_error(tmp_path):
    own = adapter(UNET)
    del own[f"{UNET}.lora_b.weight"]
    with pytest.raises(WeightsError, match="no pair"):
        extract(checkpoint(tmp_path / "x.ckpt", own | {f"{UNET}.lora_c": torch.ones(1)}), out=tmp_path)


def test_pickled_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": {"a.lora_a.weight": Evil()}}, tmp_path / "x.ckpt")
    with pytest.raises(WeightsError):
        extract(tmp_path / "x.ckpt", out=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_formats_that_do_not_fit_are_refused(tmp_path):
    path = checkpoint(tmp_path / "x.ckpt", adapter(UNET))
    with pytest.raises(RecipeError, match=r"(?s)no such format.*nearest: safetensors"):
        extract(path, out=tmp_path, file_format="safetensor")
    with pytest.raises(RecipeError, match="differ"):
        extract(path, out=tmp_path / "a.ckpt", file_format="safetensors")
    with pytest.raises(RecipeError, match="replace what it is made of"):
        extract(path, out=path)


def test_the_words(tmp_path):
    path = checkpoint(tmp_path / "x.ckpt", adapter(UNET))
    words = ["lora", "extract", "--model", str(path), "--format", "ckpt", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert torch.load(tmp_path / "x_lora.ckpt", weights_only=True).keys() == adapter(UNET).keys()
    assert CliRunner().invoke(app, ["lora", "extract"]).exit_code == 2
