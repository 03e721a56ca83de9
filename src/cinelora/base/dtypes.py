"""Owns the names of number formats that recipes and files use, and their torch dtypes."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

DtypeName = Literal["fp32", "bf16", "fp16"]


def torch_dtype(name: str) -> "torch.dtype":
    """The torch dtype of a recipe's word."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
