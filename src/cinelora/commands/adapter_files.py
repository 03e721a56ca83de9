"""Owns what a run saves: adapter files of each part that learned, what they say of themselves, and their proof.

In: a Session whose adapters are trained. Out: adapter/NAME.LAYOUT.safetensors, of experts adapter/NAME.LABEL.LAYOUT,
and weights/NAME.PART of parts that learned in full; of families whose tools read folders those in final/ and best/.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import cinelora
from cinelora.base.log import console
from cinelora.commands.full_parts import BEST, LAST, folders_of, noted
from cinelora.commands.run_folder import RunFolder
from cinelora.commands.session import Session, Spoken, open_denoiser
from cinelora.config.load import Loaded
from cinelora.config.write import resolved
from cinelora.contracts.card import Expert, Variant
from cinelora.contracts.flow import Batch, Bucket
from cinelora.contracts.roles import AdapterLayout, Denoiser
from cinelora.families import registry
from cinelora.lora.files import AdapterFile, cannot_carry, write_adapter, write_tensors
from cinelora.lora.prove import (
    SHARE_OF_EFFECT,
    Probe,
    Proof,
    check_written,
    fill_parts,
    prove,
    prove_read,
    take_probe,
)
from cinelora.nets.experts import Experts
from cinelora.report.versions import versions
from cinelora.train.place import Place


@dataclass(frozen=True)
class Written:
    """One adapter of a run as its files hold it: their name without the layout, and what it fits.

    `full` are the files of weights of parts that learned in full, by part, `folder` that of what else was written;
    `adapted` is False where only such parts learned.
    """

    name: str
    variant: Variant
    full: Mapping[str, Path] = field(default_factory=dict)
    folder: Path | None = None
    adapted: bool = True


@dataclass(frozen=True)
class Saved:
    """What was written, and what it must say once it is read back."""

    files: Written
    probe: Probe


def save_adapters(session: Session, name: str, steps: int) -> list[Saved]:
    """Write the files of the adapters as they are now, and note what they must reproduce once they are read back.

    Only the first rank writes; others note the same while they hold pieces of the base.
    """
    written = write_adapters(session, name, steps, folder=session.folder.adapter)
    return [Saved(files, _probe(session, expert)) for expert, files in written.items()]


def write_adapters(session: Session, name: str, steps: int, *, folder: Path) -> dict[str, Written]:
    """Write the files of the adapters as they are now; by expert, what was written."""
    session.activate()
    whole = _whole(session)
    full, folders = _write_full(session, whole, name, steps)
    written = {}
    for expert_name, expert in _experts(session).items():
        own = f"{name}.{expert.label}" if expert else name
        variant = expert.variant if expert else session.loaded.variant
        file = whole.of_part(expert.part, *expert.variant.parts) if expert else whole
        weights = _own_weights(full, expert)
        if file.tensors and session.place.first:
            told = replace(file, metadata=_metadata(session, name, steps, expert_name))
            _write_layouts(session.loaded, folder / own, told)
        if file.tensors or weights:
            written[expert_name] = Written(own, variant, weights, folders, adapted=bool(file.tensors))
    return written


def _experts(session: Session) -> Mapping[str, Expert | None]:
    return session.loaded.variant.experts or {"": None}


def _own_weights(full: Mapping[str, Path], expert: Expert | None) -> dict[str, Path]:
    """The files of weights by the part's name in what is loaded: of an expert its own part, under its own name."""
    if expert is None:
        return dict(full)
    return dict.fromkeys(expert.variant.parts, full[expert.part]) if expert.part in full else {}


def _whole(session: Session) -> AdapterFile:
    """All adapters that are drawn with, as one."""
    files = [adapters.file() for adapters in session.drawn.values()]
    tensors = {key: tensor for file in files for key, tensor in file.tensors.items()}
    return AdapterFile(tensors, {key: alpha for file in files for key, alpha in file.alphas.items()})


def _write_layouts(loaded: Loaded, place: Path, file: AdapterFile) -> None:
    """A file of each layout that is asked for; those that an earlier part of the run wrote are not left to grow old.

    Each is read back: those that are kept for good meet no base. Raises RunError where one holds something else.
    """
    for layout in registry.lora_layouts(loaded.family, loaded.variant):
        _file_of(place, layout).unlink(missing_ok=True)
    for layout in consumed_layouts(loaded):
        if reason := cannot_carry(file, layout):
            console.print(f"no {layout.name} file: {reason}")
        else:
            write_adapter(_file_of(place, layout), file, layout)
            check_written(_file_of(place, layout), layout, file)


def _file_of(place: Path, layout: AdapterLayout) -> Path:
    return place.with_name(f"{place.name}.{layout.name}.safetensors")


def _write_full(session: Session, whole: AdapterFile, name: str, steps: int) -> tuple[dict[str, Path], Path | None]:
    """The parts that learned in full, by part the file of their weights; and the folder, of families that write one."""
    full: dict[str, dict[str, Tensor]] = {}
    for adapters in session.drawn.values():
        for key, tensor in adapters.full_tensors().items():
            part, _, own = key.partition(".")
            full.setdefault(part, {})[own] = tensor
    loaded, metadata = session.loaded, _metadata(session, name, steps)
    writer = folders_of(loaded.family)
    if writer is not None:
        folder = _folder_of(session, name)
        file = replace(whole, metadata=metadata)
        return writer.write(folder, session.denoiser.parts(), file, full=full, base=loaded.base), folder
    paths = {part: session.folder.path / "weights" / f"{name}.{part}.safetensors" for part in full}
    for part, path in paths.items() if session.place.first else ():
        write_tensors(path, full[part], metadata)
    return paths, None


def _folder_of(session: Session, name: str) -> Path:
    """Where the folders of an adapter of this name stand: the last, the best, or one of those that are kept."""
    if name == session.loaded.name:
        return session.folder.path / LAST
    return session.folder.path / BEST if name.endswith(f".{BEST}") else session.folder.history / name


def _metadata(session: Session, stem: str, steps: int, expert: str = "") -> dict[str, str]:
    """What an adapter file says of itself; that of an expert says where those of the others are, too."""
    loaded = session.loaded
    recipe, family, variant = loaded.recipe, loaded.family, loaded.variant
    told: dict[str, str] = {}
    if expert:
        each = variant.experts.items()
        facts = {name: {"file": f"{stem}.{one.label}", "levels": one.levels} for name, one in each}
        told = {"expert": expert, "joint_variant": variant.name, "experts": json.dumps(facts)}
        variant = variant.experts[expert].variant
    return {
        "family": family.name,
        "variant": variant.name,
        **({"diffusers_loading": variant.loading} if variant.loading else {}),
        "base": loaded.base_anywhere,
        "rank": str(recipe.lora.rank),
        "alpha": str(recipe.lora.alpha or recipe.lora.rank),
        "targets": recipe.lora.targets or family.default_preset,
        "steps": str(steps),
        **({} if expert else noted({part: None for one in session.drawn.values() for part in one.full})),
        **told,
        "recipe": resolved(recipe),
        "versions": json.dumps(versions()),
        "made_by": f"cinelora {cinelora.__version__}",
    }


def _probe(session: Session, expert: str) -> Probe:
    """A small fixed input and what the denoiser, or one expert of it, says to it now."""
    denoiser, device = session.denoiser, session.place.device
    geometry = session.loaded.variant.geometry
    side = 2 * max(geometry.size_multiple, 2 * geometry.latent_cell)  # norms need some cells
    bucket = Bucket(geometry.few_frames, side, side)
    x = torch.randn((1, *geometry.latent_shape(bucket)), generator=torch.Generator().manual_seed(0))
    first = session.spoken.conditions[0] if session.spoken.conditions else session.spoken.blank
    # What is made of pictures has a preview's size, so the probe goes without.
    said = {name: first[name][None].to(device) for name in session.spoken.blank}
    batch = Batch(x.to(device), said, ("probe",))
    # Of a family without text nothing is left to say, so it makes something up.
    made_up = getattr(denoiser, "example", None)
    conditions = made_up(batch.latents) if made_up else denoiser.condition(batch, None)
    x = denoiser.arranged(batch.latents)
    with session.place.autocast():
        return take_probe(_asked(denoiser, expert, device), x, torch.tensor([500.0], device=device), conditions)


def _asked(denoiser: Denoiser, expert: str, device: torch.device) -> Denoiser:
    if not isinstance(denoiser, Experts):
        return denoiser
    denoiser.bring(expert, device)
    return denoiser.members[expert].denoiser


def consumed_layouts(loaded: Loaded) -> list[AdapterLayout]:
    """The spellings that a run writes: those of lora.files, or the family's own choice."""
    wanted = loaded.recipe.lora.files or loaded.family.default_files
    return [layout for layout in registry.lora_layouts(loaded.family, loaded.variant) if layout.name in wanted]


def prove_files(loaded: Loaded, place: Place, folder: RunFolder, *, spoken: Spoken, saved: Sequence[Saved]) -> None:
    """Load every written file onto a fresh base and compare it with its probe. Raises RunError where one is off."""
    pipeline = registry.named(loaded.family.pipeline) if loaded.family.pipeline else None
    reader = folders_of(loaded.family)
    for one in saved:
        files, probe = one.files, _moved(one.probe, place.device)
        bare = partial(open_denoiser, replace(loaded, variant=files.variant), place, spoken.blank)
        reopen = partial(_with_full, bare, files.full)
        for layout in consumed_layouts(loaded):
            path = _file_of(folder.adapter / files.name, layout)
            if not path.exists():
                continue
            with place.autocast():
                proof = prove(path, layout, probe, reopen=reopen, pipeline=pipeline)
            _tell(path, proof)
        # Weights beside an adapter's file are proven with it; an adapter in folders is read from there.
        if files.folder is not None or not files.adapted:
            file = reader.read(files.folder) if reader and files.folder else None
            where = str(files.folder or next(iter(files.full.values())).parent)
            with place.autocast():
                proof = prove_read(file, probe, reopen=reopen, bare=bare, where=where)
            _tell(where, proof)


def _moved(probe: Probe, device: torch.device) -> Probe:
    conditions = {name: tensor.to(device) for name, tensor in probe.conditions.items()}
    return replace(probe, x=probe.x.to(device), t=probe.t.to(device), conditions=conditions)


def _with_full(bare: Callable[[], Denoiser], written: Mapping[str, Path]) -> Denoiser:
    """A fresh base with the weights of parts that learned in full."""
    denoiser = bare()
    fill_parts(denoiser.parts(), written)
    return denoiser


def _tell(what: Path | str, proof: Proof) -> None:
    share = proof.difference / proof.effect if proof.effect else 0.0
    why = "; as much as the base's format rounds" if share > SHARE_OF_EFFECT else ""
    console.print(f"proven: {what} loads and gives what was trained (off by {share:.1e} of its effect{why})")
