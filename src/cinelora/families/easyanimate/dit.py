"""Owns EasyAnimate v5 and v5.1: diffusers' MMDiT with rotary tables of the original, and how it is called.

In: constructor arguments under the original's names; then latents, times, conditions. Out: the network; its prediction.
diffusers' own tables stretch the positions a little wherever the crop of the base grid starts above 0.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import EasyAnimateTransformer3DModel
from torch import Tensor, nn

from cinelora.base.errors import Problems, WeightsError
from cinelora.nets.weights import build as on_meta

BASE_HEIGHT, BASE_WIDTH = 60, 90
"""Latent cells of the size that positions are scaled to (480 x 720 pixels), whatever the config's sample size."""
_THETA = 10_000.0
_NEEDED = ("in_channels", "out_channels", "patch_size")
_KNOWN = set(inspect.signature(EasyAnimateTransformer3DModel.__init__).parameters) - {"self"}
_ABSENT = {
    "ref_channels": "reference latents",
    "clip_channels": "CLIP's image tokens",
    "swa_layers": "sliding windows of attention",
}
"""Optional pieces of the original that diffusers' class lacks; no released text-to-video or inpaint network has any."""
_WITHOUT_EFFECT = {"enable_clip_in_inpaint", "position_of_clip_embedding", "add_ref_latent_in_control_model"}
"""Only matter beside the absent pieces."""

Corners = tuple[tuple[int, int], tuple[int, int]]


def crop_of(rows: int, columns: int, patch: int) -> Corners:
    """Corners (top, left), (bottom, right) of the base grid that tokens lie over: in its middle, one side whole."""
    down, across = BASE_HEIGHT // patch, BASE_WIDTH // patch
    if rows / columns > down / across:
        height, width = down, round(down / rows * columns)
    else:
        height, width = round(across / columns * rows), across
    top, left = round((down - height) / 2), round((across - width) / 2)
    return (top, left), (top + height, left + width)


def _angles(positions: Tensor, dim: int) -> Tensor:
    """Positions n -> angles n dim, each frequency twice: p theta^(-2k / dim)."""
    rates = 1.0 / _THETA ** (torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device) / dim)
    return torch.outer(positions.float(), rates).repeat_interleave(2, dim=1)


def rotary_tables(
    size: tuple[int, int, int], head_dim: int, crop: Corners, device: Any = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines L K of T x H x W tokens: a quarter of K for time, three eighths each for height and width.

    Token i of n between the corners a and b stands at a + (b - a) i / n; frames stand at whole numbers.
    """
    frames, rows, columns = size
    (top, left), (bottom, right) = crop
    steps = [torch.arange(n, dtype=torch.float64, device=device) for n in size]
    places = (steps[0], top + (bottom - top) * steps[1] / rows, left + (right - left) * steps[2] / columns)
    time, down, across = (_angles(p, dim) for p, dim in zip(places, _dims(head_dim), strict=True))
    grid = (
        time[:, None, None].expand(-1, rows, columns, -1),
        down[None, :, None].expand(frames, -1, columns, -1),
        across[None, None].expand(frames, rows, -1, -1),
    )
    angles = torch.cat(grid, dim=-1).flatten(0, 2)
    return angles.cos(), angles.sin()


def _dims(head_dim: int) -> tuple[int, int, int]:
    return head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3


class Rotary(nn.Module):
    """Stands in the network for diffusers' tables; no weights."""

    def __init__(self, patch: int, head_dim: int):
        super().__init__()
        self.patch, self.head_dim = patch, head_dim

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """B C T H W -> cosines and sines L K, fp32."""
        frames, rows, columns = latents.shape[2], latents.shape[3] // self.patch, latents.shape[4] // self.patch
        crop = crop_of(rows, columns, self.patch)
        return rotary_tables((frames, rows, columns), self.head_dim, crop, latents.device)


def build(arguments: Mapping[str, Any]) -> nn.Module:
    """The network on the meta device. Raises WeightsError for all values that are not supported, at once."""
    refuse_unsupported(arguments)
    taken = {key: value for key, value in arguments.items() if key in _KNOWN}
    net: nn.Module = on_meta(lambda: EasyAnimateTransformer3DModel(**taken))
    config: Any = net.config
    net.rope_embedding = Rotary(config.patch_size, config.attention_head_dim)
    return net


def refuse_unsupported(arguments: Mapping[str, Any]) -> None:
    """Raise WeightsError with every argument that this network cannot follow."""
    problems = Problems(WeightsError)
    do = "name a text-to-video or inpaint model of v5 or v5.1"
    for name in _NEEDED:
        if arguments.get(name) is None:
            problems.add(f"the denoiser's config lacks {name}", do="fetch the config anew")
    for name, what in _ABSENT.items():
        if arguments.get(name):
            problems.add(f"the denoiser has {what}, which is not supported", found=f"{name} {arguments[name]}", do=do)
    for name in sorted(arguments.keys() - _KNOWN - _ABSENT.keys() - _WITHOUT_EFFECT):
        if arguments[name] is not None:
            problems.add(f"the denoiser's config has an unknown entry {name}", found=str(arguments[name]), do=do)
    kind = arguments.get("time_position_encoding_type", "3d_rope")
    if kind != "3d_rope":
        what = "the denoiser has other positions than rotary ones in three dimensions"
        problems.add(what, found=str(kind), allowed="3d_rope", do=do)
    head = arguments.get("attention_head_dim", 64)
    if head % 16:
        problems.add("heads do not divide into time, height and width", found=f"{head} wide", allowed="multiples of 16")
    second, first = arguments.get("text_embed_dim_t5"), arguments.get("text_embed_dim", 3584)
    if arguments.get("add_norm_text_encoder") and second not in (None, first):
        what = "the norm before the second text projection has the first text's width, also in the original"
        problems.add(what, found=f"text_embed_dim_t5 {second}", allowed=str(first))
    problems.raise_if_any()


def predict(net: nn.Module, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
    """x B C T H W, t B in [0, 1000] -> B C T H W in x's format; inside, in the network's own.

    Conditions: "text" B S D, "text_t5" B S D where the network takes a second text, and "inpaint" or "control"
    B C T H W where it takes more than the noisy channels.
    """
    inner: Any = net
    dtype = inner.proj.weight.dtype
    second = conditions["text_t5"].to(dtype) if inner.text_proj_t5 is not None else None
    behind = next((conditions[name].to(dtype) for name in ("inpaint", "control") if name in conditions), None)
    found: Tensor = inner(
        hidden_states=x.to(dtype),
        timestep=t,
        encoder_hidden_states=conditions["text"].to(dtype),
        encoder_hidden_states_t5=second,
        inpaint_latents=behind,
        return_dict=False,
    )[0]
    return found.to(x.dtype)
