"""Folders of adapters: what is written is what peft reads, and the way back from peft's own."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from cinelora.base.errors import RecipeError, WeightsError
from cinelora.base.seeds import torch_rng
from cinelora.lora.files import AdapterFile
from cinelora.lora.inject import attach, inject
from cinelora.lora.options import LoraOptions
from cinelora.lora.peft_folder import CONFIG, WEIGHTS, is_peft_folder, read_peft_folder, write_peft_folder

X = torch.randn(3, 6, generator=torch_rng("x"))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.ModuleDict({"to_q": nn.Linear(6, 6), "out": nn.Linear(6, 6)}) for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = x + block["out"](torch.tanh(block["to_q"](x)))
        return x


def adapters(**options):
    net = Small()
    options = LoraOptions(**{"rank": 2, "alpha": 3.0, "targets": r"blocks\.\d\.(to_q|out)", **options})
    made = inject({"unet": net}, options, presets={}, default_preset="")
    with torch.no_grad():
        for k, weight in enumerate(made.parameters().values()):
            weight.add_(torch.randn(weight.shape, generator=torch_rng("w", k)) * 0.3)
    return net, made


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rslora": True},
        {"dora": True},
        {"targets": r"blocks\.1\.to_q"},
        {"rank_pattern": {r"blocks\.1\.to_q": 5}, "alpha_pattern": {r"blocks\.0\.out": 0.5}},
        {"init": "olora"},
    ],
)
def test_peft_reads_what_was_trained(tmp_path, options):
    net, made = adapters(**options)
    with torch.no_grad():
        wanted = net(X)
    write_peft_folder(tmp_path / "unet_lora", made.file({"steps": "7"}), "unet", base="org/name", base_class="a.b:C")
    assert is_peft_folder(tmp_path / "unet_lora")
    loaded = PeftModel.from_pretrained(Small(), tmp_path / "unet_lora")
    with torch.no_grad():
        torch.testing.assert_close(loaded(X), wanted)
        torch.testing.assert_close(loaded.merge_and_unload()(X), wanted, rtol=1e-4, atol=1e-5)
    config = json.loads((tmp_path / "unet_lora" / CONFIG).read_text())
    assert config["base_model_name_or_path"] == "org/name"
    assert config["auto_mapping"] == {"parent_library": "a.b", "base_model_class": "C"}
    again = read_peft_folder(tmp_path / "unet_lora", "unet")
    assert again.metadata["steps"] == "7"
    fresh = Small()
    attach({"unet": fresh}, again)
    with torch.no_grad():
        torch.testing.assert_close(fresh(X), wanted)
    (tmp_path / "unet_lora" / "old").touch()
    write_peft_folder(tmp_path / "unet_lora", made.file(), "unet")
    assert sorted(file.name for file in (tmp_path / "unet_lora").iterdir()) == [CONFIG, WEIGHTS]


@pytest.mark.parametrize("more", [{}, {"use_rslora": True}, {"alpha_pattern": {"out": 9}, "rank_pattern": {"to_q": 4}}])
def test_what_peft_wrote_is_read_at_its_strength(tmp_path, more):
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["to_q", "out"], init_lora_weights=False, **more)
    theirs = get_peft_model(Small(), config)
    theirs.save_pretrained(tmp_path)
    fresh = Small()
    attach({"unet": fresh}, read_peft_folder(tmp_path, "unet"))
    with torch.no_grad():
        torch.testing.assert_close(fresh(X), theirs(X))
        assert not torch.allclose(fresh(X), Small()(X))


def test_one_part_of_an_adapter_goes_into_a_folder(tmp_path):
    _, made = adapters()
    own = made.file()
    both = AdapterFile(
        {**own.tensors, **{f"controlnet.{key.removeprefix('unet.')}": value for key, value in own.tensors.items()}},
        {**own.alphas, **{f"controlnet.{key.removeprefix('unet.')}": 8.0 for key in own.alphas}},
    )
    write_peft_folder(tmp_path / "c", both, "controlnet")
    found = read_peft_folder(tmp_path / "c", "controlnet")
    assert len(found.modules()) == 4
    assert set(found.alphas.values()) == {8.0}
    assert all(key.startswith("controlnet.blocks.") for key in found.tensors)
    with pytest.raises(RecipeError, match="no modules of part 'transformer'"):
        write_peft_folder(tmp_path / "t", both, "transformer")
    assert not (tmp_path / "t").exists()


def damaged(folder, **config):
    write_peft_folder(folder, adapters()[1].file(), "unet")
    told = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**told, **config}))


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"peft_type": "LOHA"}, "no LoRA"),
        ({"modules_to_save": ["conv_in"]}, "modules_to_save"),
        ({"bias": "all"}, "bias = all"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa_niter_4"}, "its start has changed"),
        ({"init_lora_weights": "olora"}, "its start has changed"),
        ({"lora_alpha": "much"}, "strengths in the adapter's configuration"),
        ({"alpha_pattern": {"(": 8}}, "strengths in the adapter's configuration"),
        ({"alpha_pattern": [8]}, "strengths in the adapter's configuration"),
    ],
)
def test_other_kinds_of_adapters_are_refused(tmp_path, config, word):
    damaged(tmp_path / "a", **config)
    with pytest.raises(WeightsError, match=word):
        read_peft_folder(tmp_path / "a", "unet")


def test_damaged_folders_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="configuration"):
        read_peft_folder(tmp_path / "none", "unet")
    damaged(tmp_path / "a")
    (tmp_path / "a" / CONFIG).write_text("{")
    with pytest.raises(WeightsError, match="configuration"):
        read_peft_folder(tmp_path / "a", "unet")
    damaged(tmp_path / "b")
    tensors = load_file(tmp_path / "b" / WEIGHTS)
    save_file(
        {key.replace("base_model.model.", "unet."): value for key, value in tensors.items()}, tmp_path / "b" / WEIGHTS
    )
    with pytest.raises(WeightsError, match="layout"):
        read_peft_folder(tmp_path / "b", "unet")
    damaged(tmp_path / "c")
    (tmp_path / "c" / WEIGHTS).unlink()
    assert not is_peft_folder(tmp_path / "c")
    with pytest.raises(WeightsError, match="cannot read"):
        read_peft_folder(tmp_path / "c", "unet")
