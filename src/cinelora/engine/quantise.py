"""Owns frozen linear layers whose weights are kept in few bits: int8 and fp8 by row, nf4 by groups of 64.

In: parts ahead of their adapters. Out: the same parts, of whose blocks the linear layers are `QuantisedLinear`. For
each product the weight is made whole in the format that is computed in, forward and backward anew, so that nothing but
the few bits is kept (torchao's own linears keep the whole weight until the backward pass). Adapters on top stay fp32.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from cinelora.base.errors import Problem, RecipeError, RunError
from cinelora.engine.blocks import blocks_of

LEAST_NUMBERS = 4096
"""Smaller weights stay as they are: there is nothing to win."""
_GROUP = 64


@dataclass(frozen=True)
class Format:
    """A number format: `pack` makes codes and scales of a weight O I, `whole` the weight again in a dtype."""

    pack: Callable[[Tensor], tuple[Tensor, Tensor]]
    whole: Callable[[Tensor, Tensor, torch.Size, torch.dtype], Tensor]


def _by_row(weight: Tensor, largest: float) -> tuple[Tensor, Tensor]:
    """W / s and s = max |W| / largest of each row, s in bf16's digits so that no product rounds it again."""
    most = weight.abs().amax(1, keepdim=True)
    scale = torch.where(most > 0, most / largest, 1.0).bfloat16().float()
    return weight / scale, scale


def _pack_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    scaled, scale = _by_row(weight, 127.0)
    return scaled.round().clamp(-127, 127).to(torch.int8), scale


def _pack_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    most = torch.finfo(torch.float8_e4m3fn).max
    scaled, scale = _by_row(weight, most)
    # As int8 outside, since peft would give adapters the format of a floating-point base.
    return scaled.clamp(-most, most).to(torch.float8_e4m3fn).view(torch.int8), scale


def _pack_nf4(weight: Tensor) -> tuple[Tensor, Tensor]:
    codes, state = _bitsandbytes().quantize_4bit(weight.contiguous(), blocksize=_GROUP, quant_type="nf4")
    return codes, state.absmax.float()


def _whole_nf4(codes: Tensor, scale: Tensor, size: torch.Size, dtype: torch.dtype) -> Tensor:
    make = _bitsandbytes()
    table = make.get_4bit_type("nf4", device=codes.device)
    state = make.QuantState(absmax=scale, shape=size, dtype=dtype, blocksize=_GROUP, code=table, quant_type="nf4")
    found: Tensor = make.dequantize_4bit(codes, state)
    return found.view(size)


def _bitsandbytes() -> Any:
    return import_module("bitsandbytes.functional")


FORMATS: dict[str, Format] = {
    "int8": Format(_pack_int8, lambda codes, scale, size, dtype: codes.to(dtype) * scale.to(dtype)),
    "fp8": Format(
        _pack_fp8, lambda codes, scale, size, dtype: codes.view(torch.float8_e4m3fn).to(dtype) * scale.to(dtype)
    ),
    "nf4": Format(_pack_nf4, _whole_nf4),
}


class QuantisedLinear(nn.Linear):
    """y = x W^T + b with W kept in few bits. `weight` holds the codes, `scale` what they are multiples of."""

    def __init__(self, linear: nn.Linear, kind: str):
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.kind, self.format = kind, linear.weight.dtype
        codes, scale = FORMATS[kind].pack(linear.weight.detach().float())
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias

    def whole(self, dtype: torch.dtype) -> Tensor:
        """The weight O I as it computes."""
        size = torch.Size((self.out_features, self.in_features))
        return FORMATS[self.kind].whole(self.weight, self.scale, size, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """... I -> ... O, in autocast's format or else in that of the weight before."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.format
        size = torch.Size((self.out_features, self.in_features))
        found: Tensor = _Product.apply(x.to(dtype), self.weight, self.scale, self.kind, size)
        return found if self.bias is None else found + self.bias.to(dtype)

    def extra_repr(self) -> str:
        """What nn.Linear says, and the format."""
        return f"{super().extra_repr()}, {self.kind}"


class _Product(torch.autograd.Function):
    """x W^T, keeping codes and scales for the backward pass: dx = dy W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scale: Tensor, kind: str, size: torch.Size) -> Tensor:
        ctx.save_for_backward(codes, scale)
        ctx.kind, ctx.size = kind, size
        return nn.functional.linear(x, FORMATS[kind].whole(codes, scale, size, x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        codes, scale = ctx.saved_tensors
        (gradient,) = gradients
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        whole = FORMATS[ctx.kind].whole(codes, scale, ctx.size, gradient.dtype)
        return gradient @ whole, None, None, None, None


@dataclass(frozen=True)
class Quantised:
    """What became of the parts: how many layers, bytes of their weights before and after."""

    kind: str
    num_layers: int
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        before, after = self.bytes_before / 2**30, self.bytes_after / 2**30
        return f"{self.num_layers} linear layers of the base in {self.kind}: {after:.3g} GiB in place of {before:.3g}"


def check_quantise(kind: str) -> None:
    """Raise RunError where a format needs a package that is not installed. Loads nothing."""
    if kind == "nf4" and find_spec("bitsandbytes") is None:
        what, do = "memory.quantise = 'nf4' needs bitsandbytes", "pip install 'cinelora[gpu]', or take int8 or fp8"
        raise RunError(Problem(what, found="no package bitsandbytes", do=do))


def quantise(
    parts: Mapping[str, nn.Module], kind: str, *, learning: Collection[str] = (), device: torch.device | None = None
) -> Quantised:
    """Put `QuantisedLinear` in the place of the linear layers of all blocks, but for the parts `learning` in full.

    Each layer is made on `device` and goes back to where it was, so that the base is never there as a whole. Raises
    RecipeError where there is no such layer.
    """
    check_quantise(kind)
    num, before, after = 0, 0, 0
    for part in (part for name, part in parts.items() if name not in learning):
        for block in blocks_of(part).values():
            for owner, name, linear in list(_linears(block)):
                new = _made(linear, kind, device)
                setattr(owner, name, new)
                num += 1
                before += linear.weight.nbytes
                after += new.weight.nbytes + new.scale.nbytes
    if not num:
        what, do = "there is nothing to quantise", "set memory.quantise = 'none'"
        found = "no linear layers in frozen blocks"
        raise RecipeError(Problem(what, found=found, where="memory.quantise", do=do))
    return Quantised(kind, num, before, after)


def _made(linear: nn.Linear, kind: str, device: torch.device | None) -> QuantisedLinear:
    home = linear.weight.device
    there = nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta")
    there.weight = nn.Parameter(linear.weight.detach().to(device or home), requires_grad=False)
    new = QuantisedLinear(there, kind).to(home)
    new.bias = linear.bias
    return new.train(linear.training)


def _linears(block: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    return [
        (owner, name, child)
        for owner in block.modules()
        for name, child in owner.named_children()
        if type(child) is nn.Linear and child.weight.numel() >= LEAST_NUMBERS
    ]
