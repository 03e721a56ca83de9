"""The proof of single modules: rounding is no loss, however young the adapter; a wrong strength is one."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from cinelora.base.errors import RunError
from cinelora.lora.files import AdapterFile
from cinelora.lora.prove import check_loaded

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
