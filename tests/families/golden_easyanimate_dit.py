"""Checks of EasyAnimate's golden cases for v5 and v5.1 and for adapter files, through the project's own code.

`lora_network_file` serves every version: the class is the case's. Files spell modules as the original does.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import golden_easyanimate_legacy as legacy
import torch
from golden_case import Case
from safetensors import safe_open
from torch import nn

from cinelora.families.easyanimate.dit import crop_of, rotary_tables
from cinelora.families.easyanimate.layouts import LAYOUTS_BY_CLASS, LORA_LAYOUTS, VideoxLora
from cinelora.families.easyanimate.networks import open_network, predict
from cinelora.families.easyanimate.targets import LORA_PRESETS
from cinelora.families.easyanimate.text import BERT, T5
from cinelora.lora.adapters import Adapters
from cinelora.lora.files import DOWN, UP, AdapterFile, read_adapter, write_adapter
from cinelora.lora.inject import attach, inject
from cinelora.lora.options import LoraOptions
from cinelora.nets.weights import fill

DIT = "EasyAnimateTransformer3DModel"
CONDITIONS = {
    "encoder_hidden_states": "text",
    "encoder_hidden_states_t5": "text_t5",
    "text_embedding_mask": "text_mask",
    "text_embedding_mask_t5": "text_t5_mask",
    "inpaint_latents": "inpaint",
    "control_latents": "control",
    "clip_encoder_hidden_states": "clip",
    "clip_attention_mask": "clip_mask",
}
TEXT_KINDS = {"T5EncoderModel": T5, "BertModel": BERT}
SEEN = {"hidden_states", "timestep", "rope_cos", "rope_sin", *CONDITIONS}
TEXT_SEEN = {"input_ids", "text_mask"}
SIZES_SEEN = {"image_meta_size", "style", "resolution", "aspect_ratio"}
"""Where a case states them, networks of v2 to v4 are called with them as they stand."""
FORWARD = {"kind", "class", "constructor", "weight_seed", "input_seed", "rope", "rtol", "atol", "source"}
FILE = {"kind", "transformer_class", "constructor", "lora", "lora_module_names", "file_metadata", "tensor_count"}
FILE |= {"rtol", "atol", "source", "text_encoder", "rope", "weight_seed", "input_seed"}
SAID = {f"{what}_{mode}" for what in ("output", "text_hidden") for mode in ("base", "with_lora", "merged")}


def near(case: Case, found: torch.Tensor, wanted: torch.Tensor, what: str) -> None:
    """|found - wanted| <= atol + rtol |wanted|, the case's own."""
    torch.testing.assert_close(
        found.detach().float(),
        wanted.float(),
        rtol=case.config["rtol"],
        atol=case.config["atol"],
        msg=lambda text: f"{case.name}: {what}\n{text}",
    )


def part_of(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def native_of(kind: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    layout = next(one for one in LAYOUTS_BY_CLASS[kind] if one.reads(list(tensors)))
    return layout.to_native(tensors)


def net_of(kind: str, constructor: dict[str, Any], tensors: dict[str, torch.Tensor]) -> nn.Module:
    """The network with its weights: every key of the file has its place, and every place its key."""
    net = open_network({"_class_name": kind, **constructor})
    fill(net, native_of(kind, tensors), of="denoiser", dtype_of=lambda name: torch.float32)
    return net


def conditions_of(io: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {ours: io[theirs] for theirs, ours in CONDITIONS.items() if theirs in io}


def check_rope(case: Case, net: nn.Module) -> None:
    """The tables are the original's, of the corners that the case states."""
    io = case.io
    if "rope_cos" not in io:
        return
    cos, sin = net.rope_embedding(io["hidden_states"])
    torch.testing.assert_close(cos, io["rope_cos"], rtol=0, atol=1e-5)
    torch.testing.assert_close(sin, io["rope_sin"], rtol=0, atol=1e-5)
    if "rope" in case.config:
        told = case.config["rope"]
        assert set(told) == {"kind", "crops_coords", "grid_size", "temporal_size"}
        assert told["kind"] == "3d"
        crop = crop_of(*told["grid_size"], net.config.patch_size)
        assert [list(corner) for corner in crop] == told["crops_coords"]
        size = (told["temporal_size"], *told["grid_size"])
        again = rotary_tables(size, net.config.attention_head_dim, crop)
        assert torch.equal(again[0], cos)
        assert torch.equal(again[1], sin)


def check_forward(case: Case, tmp_path: Path) -> None:
    kind, io = case.config["class"], case.io
    if kind != DIT:
        legacy.CHECKS[case.kind](case, tmp_path)
        return
    assert set(case.config) <= FORWARD, sorted(set(case.config) - FORWARD)
    tensors = case.tensors("weights.safetensors")
    net = net_of(kind, case.config["constructor"], tensors)
    check_rope(case, net)
    assert set(io) <= SEEN | {"output"}, sorted(set(io) - SEEN)
    with torch.no_grad():
        found = predict(net, io["hidden_states"], io["timestep"], conditions_of(io), kind=kind)
    near(case, found, io["output"], "output")
    layout = next(one for one in LAYOUTS_BY_CLASS[kind] if one.reads(list(tensors)))
    assert layout.from_native(net.state_dict()).keys() == tensors.keys()


class Adapted:
    """The networks of a case of an adapter file, fresh each time."""

    def __init__(self, case: Case):
        self.case, self.config, self.io = case, case.config, case.io
        assert set(case.config) <= FILE, sorted(set(case.config) - FILE)
        known = SEEN | TEXT_SEEN | SAID | SIZES_SEEN
        assert set(case.io) <= known, sorted(set(case.io) - known)
        self.kind = case.config["transformer_class"]
        self.weights = case.tensors("weights.safetensors")

    def parts(self, weights: dict[str, torch.Tensor] | None = None) -> dict[str, nn.Module]:
        weights = weights or self.weights
        found = {"transformer": net_of(self.kind, self.config["constructor"], part_of(weights, "transformer."))}
        if "text_encoder" in self.config:
            told = self.config["text_encoder"]
            kind = TEXT_KINDS[told["kind"]]
            net: Any = kind.make(told["config"])
            tensors = kind.mend(part_of(weights, "text_encoder."))
            fill(net, tensors, of="text encoder", dtype_of=lambda name: torch.float32)
            if kind is T5:
                net.encoder.embed_tokens = net.shared
            found["text_encoder"] = net
        return found

    @torch.no_grad()
    def compare(self, parts: dict[str, nn.Module], mode: str) -> None:
        io, net = self.io, parts["transformer"]
        if self.kind != DIT and io.keys() & SIZES_SEEN:
            found = net(io["hidden_states"], io["timestep"], **legacy.inputs_of(self.case))
        else:
            found = predict(net, io["hidden_states"], io["timestep"], conditions_of(io), kind=self.kind)
        near(self.case, found, io[f"output_{mode}"], f"output, {mode}")
        if "text_encoder" in parts:
            kind = TEXT_KINDS[self.config["text_encoder"]["kind"]]
            states = kind.states(parts["text_encoder"], io["input_ids"], io["text_mask"])
            near(self.case, states, io[f"text_hidden_{mode}"], f"text, {mode}")

    def merged(self, file: AdapterFile, strength: float) -> dict[str, torch.Tensor]:
        """Weights that the merge changes, spelt as the original does: W + strength alpha / rank B A."""
        found = {}
        for part, net in self.parts().items():
            own, changed = net.state_dict(), {}
            for module in (module for module in file.modules() if module.startswith(part + ".")):
                name = module.removeprefix(part + ".") + ".weight"
                a, b = (file.tensors[module + ending].float() for ending in (DOWN, UP))
                changed[name] = own[name] + strength * file.scale(module) * b @ a
            if part == "transformer":
                changed = original_of(self.kind, changed)
            found |= {f"{part}.{name}": value for name, value in changed.items()}
        return found


def original_of(kind: str, native: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return LAYOUTS_BY_CLASS[kind][0].from_native(native)


def check_told(case: Case, path: Path, file: AdapterFile) -> None:
    """What the case says of the file: its size, its metadata, the modules, ranks and alphas."""
    told = case.config
    with safe_open(path, "pt") as opened:
        assert len(opened.keys()) == told["tensor_count"] == 3 * len(file.modules())
    assert dict(file.metadata) == told["file_metadata"]
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert hashlib.sha256(data[start:]).hexdigest() == told["file_metadata"]["sshs_model_hash"]
    assert {file.rank(module) for module in file.modules()} == {told["lora"]["rank"]}
    assert set(file.alphas.values()) == {float(told["lora"]["alpha"])}
    names = {key.partition(".")[0] for key in VideoxLora().from_native(dict(file.tensors))}
    assert names == set(told["lora_module_names"])


def module_names(adapters: Adapters) -> list[str]:
    """The modules of a new adapter as its original file would name them, in order."""
    return list(dict.fromkeys(key.partition(".")[0] for key in VideoxLora().from_native(adapters.tensors())))


def check_lora_file(case: Case, tmp_path: Path) -> None:
    adapted, path = Adapted(case), case.folder / "lora.safetensors"
    file = read_adapter(path, LORA_LAYOUTS)
    check_told(case, path, file)
    check_rope(case, adapted.parts()["transformer"]) if adapted.kind == DIT else legacy.check_rotary(case)
    adapted.compare(adapted.parts(), "base")
    parts = adapted.parts()
    attach(parts, file)
    adapted.compare(parts, "with_lora")
    strength = case.config["lora"]["multiplier_for_merge"]
    parts = adapted.parts()
    with attach(parts, file).scaled(strength):
        adapted.compare(parts, "merged")
    wanted, found = case.tensors("merged_changed.safetensors"), adapted.merged(file, strength)
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        near(case, found[name], weight, f"merged {name}")
    adapted.compare(adapted.parts({**adapted.weights, **found}), "merged")
    rank, alpha = (case.config["lora"][name] for name in ("rank", "alpha"))
    new = inject(
        adapted.parts(),
        LoraOptions(rank=rank, alpha=alpha, targets="all-linears"),
        presets=LORA_PRESETS,
        default_preset="",
    )
    # The original goes through text encoders first.
    assert module_names(new) == case.config["lora_module_names"]
    check_rewritten(case, adapted, file, tmp_path)
    low = case.folder / "lora_bf16.safetensors"
    if low.is_file():
        check_low(case, file, low)


def check_rewritten(case: Case, adapted: Adapted, file: AdapterFile, tmp_path: Path) -> None:
    """Written in every layout that can carry it and read again, it does the same; in the original's, key for key."""
    for layout in LORA_LAYOUTS:
        if layout.name == "peft" and "text_encoder" in case.config:
            continue
        path = tmp_path / f"{layout.name}.safetensors"
        write_adapter(path, file, layout)
        again = read_adapter(path, LORA_LAYOUTS)
        parts = adapted.parts()
        attach(parts, again)
        adapted.compare(parts, "with_lora")
    mine, theirs = tmp_path / "videox.safetensors", case.folder / "lora.safetensors"
    with safe_open(mine, "pt") as one, safe_open(theirs, "pt") as other:
        assert set(one.keys()) == set(other.keys())
        for key in other.keys():  # noqa: SIM118
            assert torch.equal(one.get_tensor(key), other.get_tensor(key)), key


def check_low(case: Case, file: AdapterFile, path: Path) -> None:
    """The same file saved in bf16, alphas too."""
    low = read_adapter(path, LORA_LAYOUTS)
    with safe_open(path, "pt") as opened:
        assert {str(opened.get_tensor(key).dtype) for key in opened.keys()} == {"torch.bfloat16"}  # noqa: SIM118
    assert low.modules() == file.modules()
    assert low.alphas == file.alphas
    for name, tensor in file.tensors.items():
        assert torch.equal(low.tensors[name], tensor.bfloat16()), name


CHECKS: dict[str, Callable[[Case, Path], None]] = {
    "transformer_forward": check_forward,
    "lora_network_file": check_lora_file,
}
EXPECTED_FAILURES: tuple = ()
