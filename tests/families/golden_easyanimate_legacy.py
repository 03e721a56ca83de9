"""Checks of EasyAnimate's golden cases for the networks of v4, v3 and v2, through the project's own code.

Cases state their kind (`transformer_forward`) and the original's class; tolerances are the case's own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from golden_case import Case
from torch import nn

from cinelora.families.easyanimate import hunyuan
from cinelora.families.easyanimate.networks import open_network
from cinelora.nets.weights import fill

CLASSES = ("HunyuanTransformer3DModel", "Transformer3DModel")
PREFIX = "transformer."
STATED = {"kind", "class", "constructor", "weight_seed", "input_seed", "rope", "rtol", "atol", "source"}
INPUTS = (
    "encoder_hidden_states",
    "encoder_hidden_states_t5",
    "text_embedding_mask",
    "text_embedding_mask_t5",
    "inpaint_latents",
    "control_latents",
    "clip_encoder_hidden_states",
    "clip_attention_mask",
    "image_meta_size",
    "style",
    "resolution",
    "aspect_ratio",
)


def near(case: Case, found: torch.Tensor, wanted: torch.Tensor, what: str) -> None:
    """|found - wanted| <= atol + rtol |wanted|, the case's own."""
    torch.testing.assert_close(
        found.detach().float(),
        wanted.float(),
        rtol=case.config["rtol"],
        atol=case.config["atol"],
        msg=lambda text: f"{case.name}: {what}\n{text}",
    )


def net_of(case: Case, kind: str = "") -> nn.Module:
    """The case's network with its weights: every key has its place, and every place its key.

    Files that hold more than the network name its weights "transformer.NAME".
    """
    net = open_network({"_class_name": kind or case.config["class"], **case.config["constructor"]})
    tensors = case.tensors("weights.safetensors")
    own = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    fill(net, own or tensors, of="denoiser", dtype_of=lambda name: torch.float32)
    return net


def inputs_of(case: Case) -> dict[str, Any]:
    io = case.io
    given: dict[str, Any] = {name: io[name] for name in INPUTS if name in io}
    if "rope_cos" in io:
        given["image_rotary_emb"] = (io["rope_cos"], io["rope_sin"])
    return given


def check_forward(case: Case, tmp_path: Path) -> None:
    assert case.config["class"] in CLASSES
    assert set(case.config) <= STATED, f"{case.name}: {set(case.config) - STATED}"
    net, io = net_of(case), case.io
    known = {*INPUTS, "hidden_states", "timestep", "output", "rope_cos", "rope_sin"}
    assert set(io) <= known, f"{case.name}: {set(io) - known}"
    check_rotary(case)
    with torch.no_grad():
        found = net(io["hidden_states"], io["timestep"], **inputs_of(case))
    near(case, found, io["output"], "output")


def check_rotary(case: Case) -> None:
    """The tables of our own against those of the original's pipeline, for the size that the case states."""
    if "rope_cos" not in case.io or "rope" not in case.config:
        return
    told = case.config["rope"]
    assert set(told) == {"kind", "crops_coords", "grid_size"}
    assert told["kind"] == "2d"
    assert [list(corner) for corner in hunyuan.crop_of(*told["grid_size"])] == told["crops_coords"]
    found = hunyuan.rotary_tables(*told["grid_size"], case.config["constructor"]["attention_head_dim"])
    for table, name in zip(found, ("rope_cos", "rope_sin"), strict=True):
        torch.testing.assert_close(table, case.io[name], rtol=0, atol=1e-5)


CHECKS: dict[str, Callable[[Case, Path], None]] = {"transformer_forward": check_forward}
EXPECTED_FAILURES: tuple = ()
