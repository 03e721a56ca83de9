"""Owns the verb `sample`: videos from an adapter file."""

import math
import tomllib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cinelora.base.errors import Problem, RecipeError, RunError, WeightsError
from cinelora.base.log import console
from cinelora.commands.early import check_previews
from cinelora.commands.fit import fitted
from cinelora.commands.full_parts import files_beside, header_of, heard_in_samples, run_at, whole_parts
from cinelora.commands.init import split
from cinelora.commands.partners import partners, read_together
from cinelora.commands.session import open_denoiser, see, unload
from cinelora.config.load import Loaded, Source, check, set_all
from cinelora.config.told import must_say_of
from cinelora.families import registry
from cinelora.lora.files import AdapterFile, read_adapter, read_header
from cinelora.lora.inject import attach
from cinelora.lora.prove import fill_parts
from cinelora.media.write import write_mp4, write_png
from cinelora.noise.registry import open_process
from cinelora.preview.options import with_defaults
from cinelora.preview.sample import decode, prompt_conditions, walk, walk_of
from cinelora.preview.sheet import contact_sheet
from cinelora.train.place import open_place


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for; empty or None is the adapter's or the variant's own; `sets` go over all."""

    base: str = ""
    model: str = ""
    strength: float = 1.0
    num_steps: int | None = None
    guidance: float | None = None
    sampler: str = ""
    negative_prompt: str = ""
    seed: int = 0
    images: tuple[str, ...] = ()
    end_images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    video_strength: float | None = None
    alpha: float | None = None
    allow_missing: bool = False
    frames: int | None = None
    size: tuple[int, int] | None = None
    sets: tuple[str, ...] = ()


def sample(lora: Path, prompts: list[str], *, out: Path, wishes: Wishes) -> None:
    """Draw one video of each prompt into `out`, and a contact sheet.

    Raises WeightsError for files that do not fit, RecipeError for wishes that cannot be.
    """
    if not math.isfinite(wishes.strength):
        do = "give a number; 1 is the strength it was trained with, 0 shows the base"
        raise RecipeError(Problem("--strength is no number", found=f"{wishes.strength}", do=do))
    loaded, adapter, whole = _learned(lora, prompts, wishes)
    place = open_place(loaded.recipe.train, draws_only=True)
    encoder = registry.open_encoder(loaded.family, loaded.variant, base=loaded.base, dtype=loaded.recipe.model.dtype)
    away = loaded.recipe.preview.negative_prompt
    *said, against = prompt_conditions(encoder, [*prompts, away], device=str(place.device))
    seen = see(loaded, encoder, device=str(place.device))
    conditions = [{**one, **other} for one, other in zip(said, seen, strict=True)]
    blank = encoder.blank()
    unload(encoder)
    denoiser = open_denoiser(loaded, place, blank)
    fill_parts(denoiser.parts(), whole)
    adapters = attach(denoiser.parts(), adapter) if adapter else None
    seeds = [wishes.seed + k for k in range(len(prompts))]
    variant = loaded.variant
    how = walk_of(loaded.recipe.preview, variant.geometry, precision=place.precision, boundary=variant.boundary)
    with adapters.scaled(wishes.strength) if adapters else nullcontext():
        nothing = against if away else blank
        latents = walk(denoiser, open_process(loaded.recipe.noise), conditions, blank=nothing, seeds=seeds, how=how)
    videos = decode(encoder, latents, device=str(place.device), loop=loaded.recipe.preview.loop)
    for number, video in enumerate(videos):
        write_mp4(out / f"{number:02d}.mp4", video, loaded.variant.geometry.fps)
    write_png(out / "sheet.png", contact_sheet(list(videos), prompts))
    console.print(f"videos: {len(videos)} in {out}, all on {out / 'sheet.png'}")


def _learned(lora: Path, prompts: list[str], wishes: Wishes) -> tuple[Loaded, AdapterFile | None, dict[str, Path]]:
    """The recipe for sampling, the adapter if there is one, and the weights of parts that learned in full.

    Raises WeightsError, RecipeError, RunError.
    """
    whole = whole_parts(lora)
    path = None if whole and not list((lora / "adapter").glob("*.safetensors")) else _file_in(lora)
    run = run_at(lora)
    header = read_header(path) if path else header_of(run) if run else {}
    together = partners(path, header) if path and not wishes.model else {}
    if together:
        header = {**header, "variant": header["joint_variant"]}
    elif path == lora:
        whole = files_beside(lora, header)
    loaded = _around(path or lora, header, prompts, wishes)
    if lost := [part for part in whole if part not in loaded.variant.parts]:
        what, do = f"part {lost[0]!r} learned in full, and this model has no such part", "leave --model out"
        found = f"{loaded.family.name}/{loaded.variant.name}"
        raise RecipeError(Problem(what, found=found, where=str(lora), do=do))
    check_previews(loaded)
    adapter = _adapter(loaded, path, together, wishes) if path else None
    if adapter is None and (wishes.strength != 1.0 or wishes.alpha is not None):
        what, do = "a strength has no effect on what learned in full", "leave --strength and --alpha out"
        raise RecipeError(Problem(what, found=", ".join(whole), where=str(lora), do=do))
    learned = {*whole, *(module.partition(".")[0] for module in (adapter.modules() if adapter else ()))}
    heard = heard_in_samples(loaded, learned, lora)
    return loaded, adapter, {part: file for part, file in whole.items() if part in heard}


def _adapter(loaded: Loaded, path: Path, together: Mapping[str, Path], wishes: Wishes) -> AdapterFile:
    """What the file holds, or the files of experts that belong together. Raises WeightsError."""
    layouts = registry.lora_layouts(loaded.family, loaded.variant)
    if together:
        adapter = read_together(together, loaded.variant, layouts, alpha=wishes.alpha)
    else:
        adapter = read_adapter(path, layouts, alpha=wishes.alpha, allow_missing=wishes.allow_missing)
    return fitted(loaded, adapter, path, allow_missing=wishes.allow_missing)


def _file_in(lora: Path) -> Path:
    """The file itself, or a file of a run folder, diffusers' if it has one. Raises RunError where there is none."""
    if lora.is_file():
        return lora
    of_layouts = [sorted((lora / "adapter").glob(f"*.{name}safetensors")) for name in ("diffusers.", "")]
    files = sorted(next(filter(None, of_layouts), []), key=lambda p: (".best." in p.name, p.name))
    if not files:
        raise RunError(
            Problem("no adapter here", found=str(lora), do="name a .safetensors file or the folder of a finished run")
        )
    return files[0]


def _around(path: Path, header: dict[str, str], prompts: list[str], wishes: Wishes) -> Loaded:
    """A recipe for sampling: the adapter's model and process, the variant's defaults, the wishes."""
    named = wishes.model or "/".join(filter(None, (header.get("family"), header.get("variant"))))
    if not named:
        raise RecipeError(
            Problem(
                "the adapter does not say which model it is for", found=str(path), do="name it: --model FAMILY/VARIANT"
            )
        )
    if not wishes.model and named in registry.FAMILIES:
        variants, do = ", ".join(registry.FAMILIES[named].variants), f"name it: --model {named}/VARIANT"
        what = "the adapter does not say which variant it is for"
        raise RecipeError(Problem(what, found=str(path), allowed=variants, do=do))
    family, variant = split(named)
    own = recipe_in(header, path) if header.get("family") in (None, family) else {}
    asked = {"num_steps": wishes.num_steps, "guidance": wishes.guidance, "sampler": wishes.sampler or None}
    preview = {
        **with_defaults(_walk_in(own), {key: value for key, value in asked.items() if value is not None}),
        "prompts": prompts,
        "negative_prompt": wishes.negative_prompt or None,
        "images": list(wishes.images) or None,
        "end_images": list(wishes.end_images) or None,
        "videos": list(wishes.videos) or None,
        "video_strength": wishes.video_strength,
        "seed": wishes.seed,
        "frames": wishes.frames,
        "size": list(wishes.size) if wishes.size else None,
    }
    model = {"family": family, "variant": variant, "base": wishes.base or header.get("base", "")}
    told = {name: own["model"][name] for name in ("dtype", "motion_bucket") if name in own.get("model", {})}
    of_source, of_lora = must_say_of(family, variant)
    tables = {
        "model": {**model, **told},
        "data": {"source": [{"path": ".", **of_source}]},
        "lora": of_lora,
        "noise": _noise_in(own, of_joint=header.get("joint_variant") not in (None, variant)),
        "train": _precision_in(own),
        "method": own["method"] if _is_distilled(own) else {},
        "preview": {key: value for key, value in preview.items() if value is not None},
    }
    source = Source(tables, file="the command line")
    set_all(source, wishes.sets)
    return check(source, folder=Path(), name=path.stem)


def _noise_in(recipe: Mapping[str, Any], *, of_joint: bool) -> dict[str, Any]:
    """The process that the adapter learned in; of an expert drawn alone without the joint run's noise levels."""
    noise = recipe.get("noise", {})
    return {name: value for name, value in noise.items() if not (of_joint and name in ("t_min", "t_max"))}


def _precision_in(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The format that the adapter's previews were drawn in, but fp16, which only a GPU computes in."""
    precision = recipe.get("train", {}).get("precision")
    return {"precision": precision} if precision in ("fp32", "bf16") else {}


_WALK = ("sampler", "denoising_steps", "num_steps", "guidance", "low_noise_guidance")


def _walk_in(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """How the previews of a distillation were drawn: the few steps that it learned work in no other way.

    Other adapters are drawn as the variant's card says, whatever their previews had to be quick with.
    """
    preview = recipe.get("preview", {}) if _is_distilled(recipe) else {}
    return {name: value for name, value in preview.items() if name in _WALK}


def _is_distilled(recipe: Mapping[str, Any]) -> bool:
    return recipe.get("method", {}).get("name") == "distill"


def recipe_in(header: Mapping[str, str], path: Path) -> dict[str, Any]:
    """The recipe that the adapter carries: it was trained with that shift and format, so it is sampled with them.

    Raises WeightsError where it is damaged. Its values are checked as any recipe's.
    """
    what, do = "the recipe in the adapter's header cannot be read", "write or fetch the file anew"
    try:
        recipe = tomllib.loads(header.get("recipe", ""))
    except tomllib.TOMLDecodeError as error:
        raise WeightsError(Problem(what, found=str(error), where=str(path), do=do)) from error
    if odd := [name for name, section in recipe.items() if not isinstance(section, dict)]:
        found = f"no section: {', '.join(odd)}"
        raise WeightsError(Problem(what, found=found, where=str(path), do=do))
    return recipe
