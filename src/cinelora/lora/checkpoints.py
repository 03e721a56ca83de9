"""Owns plain files of weights: which keys of a checkpoint are an adapter's, and writing a table of tensors.

In: keys of any spelling; tensors by name. Out: the adapter's keys; a .safetensors or .ckpt file, whole or absent.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cinelora.base.files import write_whole
from cinelora.lora.files import write_tensors

Format = Literal["safetensors", "ckpt"]
_OF_ADAPTER = re.compile(r"(^|[._])lora_")
_ALPHA = ".alpha"


def adapter_keys(keys: Sequence[str]) -> list[str]:
    """The keys of matrices, magnitudes and alphas of adapters, in the checkpoint's order.

    A key of kohya's kind, <module>.alpha, counts only beside matrices of its module: networks have weights of that
    name too.
    """
    own = [key for key in keys if _OF_ADAPTER.search(key)]
    adapted = {re.split(r"\.lora_", key)[0] for key in own}
    return [key for key in keys if _OF_ADAPTER.search(key) or _is_alpha(key, adapted)]


def _is_alpha(key: str, adapted: set[str]) -> bool:
    return key.endswith(_ALPHA) and key.removesuffix(_ALPHA) in adapted


def write_weights(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None) -> None:
    """Write a flat table of tensors in the form that the path's ending says; a .ckpt file has no header.

    Raises RunError where the disk is full or read-only.
    """
    if path.suffix == ".safetensors":
        write_tensors(path, _apart(tensors), header or {})
    else:
        write_whole(path, lambda temporary: torch.save(_apart(tensors), temporary))


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor in memory of its own, in the order of its shape: safetensors asks for it, and pickling would write
    all of the memory that a piece stands in."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        shared = storage in seen or tensor.numel() * tensor.element_size() < tensor.untyped_storage().nbytes()
        seen.add(storage)
        found[name] = tensor.contiguous().clone() if shared else tensor.contiguous()
    return found
