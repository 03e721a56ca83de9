"""Owns the proof that a saved adapter file does what was trained, by reading it back as its consumers do.

In: the file, a way to open a fresh base, and what the trained denoiser said to some input. Out: how far the
reloaded one is off; more than rounding is an error. The diffusers file goes through diffusers' own loader; the other
layouts through `apply`, an own form of ComfyUI's rule.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cinelora.base.errors import Problem, RunError, WeightsError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.roles import AdapterLayout, Denoiser
from cinelora.lora.files import DOWN, MAGNITUDE, UP, AdapterFile, read_adapter
from cinelora.lora.inject import attach
from cinelora.lora.targets import linears

SHARE_OF_EFFECT = 0.02
"""How much of the adapter's own effect may be lost: a wrong strength or a lost block is far more."""
_NUM_PROBES = 16
"""Random inputs to each module. After few steps B is nearly of rank one, so that for one in twenty inputs B A v all but
vanishes, and bf16's rounding is more than SHARE_OF_EFFECT of it; over several inputs it is a third of that."""


@dataclass(frozen=True)
class Probe:
    """An input (x B C T H W, t B, conditions) and what the trained denoiser made of it."""

    x: Tensor
    t: Tensor
    conditions: Mapping[str, Tensor]
    expected: Tensor


@dataclass(frozen=True)
class Proof:
    """`difference` from what was trained and `effect` of the adapter, both as norms over the whole output."""

    difference: float
    effect: float


def take_probe(denoiser: Denoiser, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Probe:
    """Note what the trained denoiser says, without dropout and gradient."""
    return Probe(x, t, conditions, answer(denoiser, x, t, conditions))


def answer(denoiser: Denoiser, x: Tensor, t: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
    """`predict` with every part in evaluation mode, which is put back afterwards."""
    parts = list(denoiser.parts().values())
    training = [part.training for part in parts]
    try:
        for part in parts:
            part.eval()
        with torch.no_grad():
            return denoiser.predict(x, t, conditions).float().cpu()
    finally:
        for part, flag in zip(parts, training, strict=True):
            part.train(flag)


def prove(
    path: Path,
    layout: AdapterLayout,
    probe: Probe,
    *,
    reopen: Callable[[], Denoiser],
    pipeline: Callable[[Denoiser], Any] | None = None,
) -> Proof:
    """Load the file onto a fresh base and compare its answer with the trained one.

    `pipeline` (a family's diffusers pipeline around a denoiser) is used for the diffusers layout. Raises RunError
    where a key of the file finds no place, or where the answers differ by more than rounding.
    """
    denoiser = reopen()
    base = answer(denoiser, probe.x, probe.t, probe.conditions)
    if layout.name == "diffusers" and pipeline is not None:
        pipeline(denoiser).load_lora_weights(str(path.parent), weight_name=path.name)
        check_loaded(denoiser.parts(), read_adapter(path, [layout]), where=str(path))
    else:
        _put(denoiser, read_adapter(path, [layout]), where=str(path))
    return _compared(denoiser, base, probe, what=f"{layout.name} file", where=str(path))


def prove_read(
    file: AdapterFile | None, probe: Probe, *, reopen: Callable[[], Denoiser], bare: Callable[[], Denoiser], where: str
) -> Proof:
    """The same for what was read already: an adapter, or None where only whole parts learned.

    `reopen` opens the base with the written weights of those parts in it, `bare` without. Raises RunError.
    """
    denoiser = bare()
    base = answer(denoiser, probe.x, probe.t, probe.conditions)
    denoiser = reopen()
    if file is not None:
        _put(denoiser, file, where=where)
    return _compared(denoiser, base, probe, what="folder", where=where)


def _put(denoiser: Denoiser, file: AdapterFile, *, where: str) -> None:
    # ComfyUI's rule has no DoRA; what reads it in such a layout is peft, or this project.
    if file.dora:
        attach(denoiser.parts(), file)
    else:
        apply(denoiser.parts(), file, where=where)


def fill_parts(parts: Mapping[str, nn.Module], written: Mapping[str, Path]) -> None:
    """Put written weights into whole parts, in fp32 as they were trained. Raises WeightsError where they do not fit."""
    for part, path in written.items():
        if part not in parts:
            what, do = f"the denoiser has no part {part!r}", "use the family and variant that it was trained on"
            raise WeightsError(Problem(what, allowed=", ".join(parts), where=str(path), do=do))
        module, tensors = parts[part].float(), _weights_in(path)
        own = module.state_dict()
        wrong = [name for name in own.keys() | tensors.keys() if name not in own or name not in tensors]
        wrong += [name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape]
        if wrong:
            found = ", ".join(sorted(wrong)[:4]) + (" ..." if len(wrong) > 4 else "")
            what = f"{len(wrong)} weights of the file are not those of the part {part!r}"
            raise WeightsError(Problem(what, found=found, where=str(path), do="use the base that it was trained on"))
        module.load_state_dict(tensors)


def _weights_in(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        what, do = "cannot read the weights of a part that learned in full", "write or fetch the file anew"
        raise WeightsError(Problem(what, found=str(error), where=str(path), do=do)) from error


def _compared(denoiser: Denoiser, base: Tensor, probe: Probe, *, what: str, where: str) -> Proof:
    """How far the reloaded denoiser's answer is off. Raises RunError where that is more than rounding."""
    found = answer(denoiser, probe.x, probe.t, probe.conditions)
    proof = Proof(_norm(found - probe.expected), _norm(probe.expected - base))
    allowed = SHARE_OF_EFFECT * proof.effect + _rounding(denoiser) * _norm(probe.expected)
    if not proof.difference <= allowed:
        raise RunError(
            Problem(
                f"the saved {what} does not give what was trained",
                found=f"output off by {proof.difference:.3g}; the effect of the training is {proof.effect:.3g}",
                allowed=f"up to {allowed:.3g}",
                where=where,
                do="keep the checkpoint and report this: the file must not be shared",
            )
        )
    return proof


def apply(parts: Mapping[str, nn.Module], file: AdapterFile, *, where: str = "") -> None:
    """Add the adapter to modules as ComfyUI reads it: y = W x + alpha / rank B A x for every module that a key names.

    It is added beside W rather than into it, so that rounding of a low-precision base neither hides nor makes up a
    difference. Raises RunError naming every module of the file that the base does not have.
    """
    known = {f"{part}.{name}": linear for part, module in parts.items() for name, linear in linears(module).items()}
    lost = [module for module in file.modules() if module not in known]
    if lost:
        raise RunError(
            Problem(
                f"{len(lost)} modules of the saved file are not in the base", found=", ".join(lost[:4]), where=where
            )
        )
    for module in file.modules():
        a, b = (file.tensors[module + ending].float() for ending in (DOWN, UP))
        known[module].register_forward_hook(_adding(a, b, file.scale(module)))


def check_loaded(parts: Mapping[str, nn.Module], file: AdapterFile, *, where: str = "") -> None:
    """See that another loader put every module of the file in place, at the strength the file means.

    Compares scale B A v for a few random v per module: on a bf16 base, rounding of the whole output can be as large as
    a young adapter's effect, and would hide a lost module or a wrong strength. Raises RunError naming the modules.
    """
    layers: dict[str, Any] = {
        f"{part}.{name}": layer
        for part, module in parts.items()
        for name, layer in module.named_modules()
        if isinstance(layer, LoraLayer)
    }
    wrong = [
        module for module in file.modules() if module not in layers or not _acts_alike(layers[module], file, module)
    ]
    if wrong or len(layers) != len(file.modules()):
        raise RunError(
            Problem(
                f"{len(wrong)} of {len(file.modules())} modules of the saved file were not loaded as they were trained",
                found=", ".join(wrong[:4]) or f"{len(layers)} modules with adapters",
                where=where,
                do="keep the checkpoint and report this: the file must not be shared",
            )
        )


def check_written(path: Path, layout: AdapterLayout, file: AdapterFile) -> None:
    """See that a file holds the adapter that it was written from, module by module, without a base to load it onto.

    Raises RunError naming the modules that are lost, too many, or of another effect.
    """
    found = read_adapter(path, [layout])
    own, read = file.modules(), found.modules()
    wrong = [module for module in own if module not in read or not _says_alike(found, file, module)]
    wrong += [module for module in read if module not in own]
    if wrong:
        what = f"{len(wrong)} of {len(own)} modules of the saved {layout.name} file are not as they were trained"
        do = "keep the checkpoint and report this: the file must not be shared"
        raise RunError(Problem(what, found=", ".join(wrong[:4]), where=str(path), do=do))


def _says_alike(found: AdapterFile, file: AdapterFile, module: str) -> bool:
    if found.sizes(module) != file.sizes(module):
        return False
    own, other = (one.tensors.get(module + MAGNITUDE) for one in (file, found))
    if (own is None) != (other is None) or (own is not None and other is not None and not own.equal(other)):
        return False
    v = _inputs(file, module)
    return _near(_effect(found, module, v), _effect(file, module, v))


def _acts_alike(layer: Any, file: AdapterFile, module: str) -> bool:
    name, v = next(iter(layer.lora_A)), _inputs(file, module)
    a, b = (matrices[name].weight.detach().cpu().double() for matrices in (layer.lora_A, layer.lora_B))
    return _near(layer.scaling[name] * b @ (a @ v), _effect(file, module, v))


def _inputs(file: AdapterFile, module: str) -> Tensor:
    return torch.randn(file.sizes(module)[0], _NUM_PROBES, generator=torch_rng("prove", module)).double()


def _effect(file: AdapterFile, module: str, v: Tensor) -> Tensor:
    """scale B A v."""
    return file.scale(module) * file.tensors[module + UP].double() @ (file.tensors[module + DOWN].double() @ v)


def _near(found: Tensor, wanted: Tensor) -> bool:
    return _norm(found - wanted) <= SHARE_OF_EFFECT * _norm(wanted)


def _adding(a: Tensor, b: Tensor, scale: float) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0].float()
        added = nn.functional.linear(nn.functional.linear(x, a.to(x.device)), b.to(x.device)) * scale
        return (output + added).to(output.dtype)

    return hook


def _rounding(denoiser: Denoiser) -> float:
    """Share of the output that may be lost to rounding in the coarsest number format, the base's or autocast's.

    Measured on the tiny base with adapters rounded to bf16, as diffusers loads them: a third of bf16's epsilon.
    """
    weights = [weight for part in denoiser.parts().values() for weight in part.parameters()]
    formats = {weight.dtype for weight in weights}
    kinds = {weight.device.type for weight in weights}
    formats |= {torch.get_autocast_dtype(kind) for kind in kinds if torch.is_autocast_enabled(kind)}
    return 2 * max(torch.finfo(dtype).eps for dtype in formats if dtype.is_floating_point) + 1e-5


def _norm(difference: Tensor) -> float:
    return difference.double().norm().item()
