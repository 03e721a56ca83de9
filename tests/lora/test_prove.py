"""The proof of single modules: rounding is no loss, however young the adapter; a wrong strength is one."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from cinelora.base.errors import RunError
from cinelora.families.dynamicrafter.layouts import PartsLora
from cinelora.lora.files import AdapterFile, write_adapter
from cinelora.lora.prove import check_loaded, check_written

NUM_MODULES, SIZE, RANK = 100, 64, 8


def young(*, scale=1.0):
    """Modules whose B is of rank one, as after one step, loaded in bf16; and the file that they came from."""
    part = nn.ModuleDict({f"m{k}": nn.Linear(SIZE, SIZE, dtype=torch.bfloat16) for k in range(NUM_MODULES)})
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(part)), part)
    rng = torch.Generator().manual_seed(0)
    tensors = {}
    for name, layer in part.items():
        a = torch.randn(RANK, SIZE, generator=rng)
        b = torch.randn(SIZE, 1, generator=rng) @ torch.randn(1, RANK, generator=rng)
        tensors |= {f"part.{name}.lora_A.weight": a, f"part.{name}.lora_B.weight": b}
        layer.lora_A["default"].weight.data = a.bfloat16()
        layer.lora_B["default"].weight.data = b.bfloat16() * scale
    return part, AdapterFile(tensors, {f"part.{name}": float(RANK) for name in part})


def test_rounding_of_a_young_adapter_is_no_loss():
    part, file = young()
    check_loaded({"part": part}, file)


def test_a_strength_that_is_off_by_a_few_per_cent_is_found():
    part, file = young(scale=1.05)
    with pytest.raises(RunError, match=f"{NUM_MODULES} of {NUM_MODULES}"):
        check_loaded({"part": part}, file)


def small(**changed):
    """Two modules of the Resampler, and what is said of them."""
    rng = torch.Generator().manual_seed(0)
    tensors = {}
    for module in ("resampler.proj_in", "resampler.proj_out"):
        tensors[f"{module}.lora_A.weight"] = torch.randn(2, 6, generator=rng)
        tensors[f"{module}.lora_B.weight"] = torch.randn(5, 2, generator=rng)
    return AdapterFile({**tensors, **changed}, dict.fromkeys(("resampler.proj_in", "resampler.proj_out"), 1.0))


def test_a_file_that_holds_another_adapter_than_it_was_written_from_is_found(tmp_path):
    path, layout, file = tmp_path / "a.safetensors", PartsLora("peft"), small()
    write_adapter(path, file, layout)
    check_written(path, layout, file)
    other = file.tensors["resampler.proj_in.lora_B.weight"] * 1.05
    lengths = {"resampler.proj_in.lora_magnitude_vector": torch.ones(5)}
    longer = {"resampler.proj_in.lora_magnitude_vector": torch.ones(5) * 1.01}
    for written in (
        small(**{"resampler.proj_in.lora_B.weight": other}),
        AdapterFile(file.tensors, {**file.alphas, "resampler.proj_in": 1.1}),
        small(**{"resampler.proj_in.lora_A.weight": torch.ones(2, 7)}),
        small(**lengths),
    ):
        write_adapter(path, written, layout)
        with pytest.raises(RunError, match=r"1 of 2 modules of the saved peft file") as caught:
            check_written(path, layout, file)
        assert caught.value.problems[0].found == "resampler.proj_in"
    write_adapter(path, small(**lengths), layout)
    check_written(path, layout, small(**lengths))
    with pytest.raises(RunError, match=r"1 of 2 modules"):
        check_written(path, layout, small(**longer))
    one = AdapterFile({k: v for k, v in file.tensors.items() if "proj_in" in k}, {"resampler.proj_in": 1.0})
    write_adapter(path, one, layout)
    with pytest.raises(RunError, match=r"1 of 2 modules"):
        check_written(path, layout, file)
    write_adapter(path, file, layout)
    with pytest.raises(RunError, match=r"1 of 1 modules"):
        check_written(path, layout, one)
