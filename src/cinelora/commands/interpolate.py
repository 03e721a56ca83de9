"""Owns the verb `interpolate`: the frames between the two pictures of every pair in a folder.

In: ID_start and ID_end pictures, maybe ID_tracks.npz or .json (control points, evenly in time), a base, an adapter.
Out: ID.mp4 or ID.gif, and ID_tracks.npz where points steered it. All pairs are looked at, then the image encoders leave
the memory, all are walked, and then decoded.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor

from cinelora.base.errors import Problem, Problems, RecipeError, RunError
from cinelora.base.log import console, logger, progress
from cinelora.commands.full_parts import BEST, LAST, run_at
from cinelora.commands.init import split
from cinelora.commands.sample import recipe_in
from cinelora.commands.session import open_denoiser, unload
from cinelora.commands.tracks import pairs_of
from cinelora.config.load import Loaded, Source, check
from cinelora.config.told import must_say_of
from cinelora.contracts.flow import Bucket, Clip, Record, Slot, Tracks
from cinelora.data.clips import load_clip, load_control
from cinelora.data.options import ClipRules
from cinelora.families import registry
from cinelora.families.framer.autopilot import Autopilot
from cinelora.families.framer.encode import FramerEncoder
from cinelora.families.framer.folders import FOLDERS, read_adapters
from cinelora.families.framer.interpolate import (
    Given,
    Interpolation,
    Interpolator,
    Pictures,
    Steering,
    look_at,
)
from cinelora.families.framer.opening import open_controlnet, open_unet
from cinelora.lora.files import AdapterFile, read_adapter, read_header
from cinelora.lora.fit import without
from cinelora.lora.inject import attach
from cinelora.media.sift import Choice, chosen, matches, opencv
from cinelora.media.track_file import TrackFile, write_tracks
from cinelora.media.write import write_gif, write_mp4
from cinelora.nets.trajectories import steered
from cinelora.train.place import Place, open_place

if TYPE_CHECKING:
    from numpy.typing import NDArray

Steer = Literal["none", "tracks", "sift"]
_WITH_TRACKS = "-tracks"
_NUM_SEEDS = 2**63
DEFAULT_MODEL = "framer/512x320"
_SIFT_SCALE = 0.5
"""What the ControlNet's work is multiplied by where SIFT found the points: they are less sure than a person's."""


@dataclass(frozen=True)
class InterpolateWishes:
    """What the command line asks for. `how` are fields of `Interpolation`; what is left out is the variant's own.

    `model` and `base` are those of the run that `lora` or `controlnet` names, unless they are said.

    `steer` says where points come from: nowhere, files beside the pairs, or SIFT (`num_points` of them by `choice`).
    `controlnet` is a folder with a trained one, in place of the base's. `decode_chunk` frames are decoded at once.
    """

    model: str = ""
    base: str = ""
    lora: Path | None = None
    strength: float = 1.0
    controlnet: Path | None = None
    steer: Steer = "none"
    choice: Choice = "random"
    num_points: int = 5
    track_suffix: str = "_tracks"
    crop: Literal["centre", "none"] = "none"
    how: Mapping[str, Any] = field(default_factory=dict)
    control_scale: float | None = None
    decode_chunk: int = 0
    seed: int = 0
    kind: Literal["mp4", "gif", "both"] = "mp4"


@dataclass
class _Job:
    """One pair on its way."""

    record: Record
    rng: Generator
    steering: Steering | None
    told: Pictures
    latents: Tensor | None = None


def interpolate(folder: Path, *, out: Path, wishes: InterpolateWishes) -> None:
    """Draw one video for each pair. Raises DataError, RecipeError, WeightsError with all that is wrong."""
    _refuse_idle(wishes)
    if wishes.steer == "sift":
        opencv()
    loaded = _loaded(folder, wishes)
    place = open_place(loaded.recipe.train, draws_only=True)
    how = how_of(loaded, wishes, precision=place.precision)
    how.check()
    learned = _learned(loaded, wishes)
    records = pairs_of(folder, track_suffix=wishes.track_suffix if wishes.steer == "tracks" else "")
    _make(out)
    encoder = registry.open_encoder(loaded.family, loaded.variant, base=loaded.base, dtype=loaded.recipe.model.dtype)
    assert isinstance(encoder, FramerEncoder)
    encoder.vae.decode_chunk = wishes.decode_chunk or None
    jobs = _looked_at(records, encoder, place, how, wishes)
    unload(encoder)
    _walked(jobs, loaded, place, learned, how=how, strength=wishes.strength)
    for job in jobs:
        assert job.latents is not None
        pixels = encoder.decode(job.latents.to(place.device))[0].permute(1, 2, 3, 0)
        _write(out, job, ((pixels.cpu() + 1) * 127.5).round().to(torch.uint8).numpy(), how, wishes.kind)
    unload(encoder)
    console.print(f"videos: {len(jobs)} in {out}")


def _make(out: Path) -> None:
    """Make the folder for videos, before hours of drawing them. Raises RunError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what, do = "videos cannot be written there", "name another folder: --out"
        raise RunError(Problem(what, found=f"{out}: {error.strerror}", do=do)) from error


def how_of(loaded: Loaded, wishes: InterpolateWishes, *, precision: str) -> Interpolation:
    """The variant's own size, length, rate and steps, the motion that was learned, over them what is asked for."""
    geometry, sampling = loaded.variant.geometry, loaded.variant.sampling
    own = {"frames": geometry.frames, "height": geometry.height, "width": geometry.width, "fps": geometry.fps}
    scale = wishes.control_scale
    if scale is None:
        scale = _SIFT_SCALE if wishes.steer == "sift" else 1.0
    told = {"num_steps": sampling["num_steps"], "motion_bucket": loaded.recipe.model.motion_bucket}
    given = {**own, **told, **wishes.how}
    return Interpolation(**given, control_scale=scale, precision=precision)


def _refuse_idle(wishes: InterpolateWishes) -> None:
    """Raise RecipeError with every wish that cannot be, or has no effect beside the others."""
    problems = Problems(RecipeError)
    usual = InterpolateWishes()
    said = {name: getattr(wishes, name) != getattr(usual, name) for name in ("choice", "num_points", "strength")}
    for name in ("choice", "num_points"):
        if said[name] and wishes.steer != "sift":
            problems.add(f"{name} has no effect without SIFT's points", do="name --steer sift")
    steering = {"a control scale": wishes.control_scale, "a control range": wishes.how.get("control_range")}
    for name, value in {**steering, "a ControlNet": wishes.controlnet}.items():
        if value is not None and wishes.steer == "none":
            problems.add(f"{name} has no effect without points", found=str(value), do="name --steer tracks or sift")
    if not math.isfinite(wishes.strength):
        problems.add("the strength is no number", found=f"{wishes.strength}", do="1 is as trained, 0 the base")
    if not 0 <= wishes.seed < _NUM_SEEDS:
        problems.add("no such seed", found=f"{wishes.seed}", allowed=f"0 to {_NUM_SEEDS - 1}")
    if said["strength"] and wishes.lora is None:
        problems.add("a strength has no effect without an adapter", found=f"{wishes.strength}", do="name one: --lora")
    problems.raise_if_any()


def _of_run(wishes: InterpolateWishes) -> dict[str, Any]:
    """Section [model]: what the adapter or the ControlNet was trained with, as far as nothing else is said."""
    for place in filter(None, (wishes.lora, wishes.controlnet)):
        model, rest = _stated(place)
        if model:
            same = wishes.model in ("", model) or wishes.model + _WITH_TRACKS == model
            rest["base"] = wishes.base or (rest.get("base", "") if same else "")
            return {"name": wishes.model or model, **rest}
    return {"name": wishes.model or DEFAULT_MODEL, "base": wishes.base}


def _stated(place: Path) -> tuple[str, dict[str, Any]]:
    """The model that a run or the header of an adapter's file names, its base and motion; "" where nothing does."""
    if run := _run_around(place):
        kept = {"base": run.base_anywhere, "motion_bucket": run.recipe.model.motion_bucket}
        return f"{run.family.name}/{run.variant.name}", kept if run.family.name == "framer" else {}
    header = read_header(place) if place.is_file() else {}
    family, variant = header.get("family", ""), header.get("variant", "")
    if not (family and variant):
        return "", {}
    told = recipe_in(header, place).get("model", {})
    motion = {"motion_bucket": told["motion_bucket"]} if "motion_bucket" in told else {}
    return f"{family}/{variant}", {"base": header.get("base", ""), **motion}


def _run_around(place: Path) -> Loaded | None:
    """The run at this place, or whose folder `final` or `best` it is."""
    return run_at(place.parent if place.name in (LAST, BEST) else place)


def _loaded(folder: Path, wishes: InterpolateWishes) -> Loaded:
    """A recipe for sampling. Raises RecipeError for a family that does not interpolate."""
    told = _of_run(wishes)
    model = told.pop("name")
    family, variant = split(model)
    if family != "framer":
        what, do = "this family does not interpolate", "name a variant of framer, such as framer/512x320"
        raise RecipeError(Problem(what, found=model, do=do))
    variant = variant.removesuffix(_WITH_TRACKS) + (_WITH_TRACKS if wishes.steer != "none" else "")
    of_source, of_lora = must_say_of(family, variant)
    tables = {
        "model": {"family": family, "variant": variant, **told},
        "data": {"source": [{"path": str(folder), **of_source}]},
        "lora": of_lora,
    }
    loaded = check(Source(tables, file="the command line"), folder=Path(), name="interpolate")
    if loaded.variant.new_parts and "controlnet" not in _whole(wishes):
        what, do = (
            "this base has no ControlNet, so points have no effect",
            "name a trained one: --controlnet, or --lora of its run",
        )
        raise RecipeError(Problem(what, found=f"{family}/{variant}", do=do))
    return loaded


def _looked_at(
    records: Sequence[Record], encoder: FramerEncoder, place: Place, how: Interpolation, wishes: InterpolateWishes
) -> list[_Job]:
    """What the networks are told of each pair, and where its points go. Raises DataError."""
    rules = ClipRules(crop=wishes.crop)
    jobs = []
    for tower in encoder.towers():
        tower.load(str(place.device))
    with progress("looking at pairs", len(records)) as advance:
        for record in records:
            slot = Slot(record, Bucket(2, how.height, how.width))
            geometry = encoder.vae.variant.geometry
            clip = load_clip(slot, rules, geometry, seed=wishes.seed)
            control = load_control(slot, rules, geometry, seed=wishes.seed) if wishes.steer == "tracks" else None
            rng = torch.Generator().manual_seed(wishes.seed)
            told = look_at(encoder, *clip.pixels.unbind(1), noise=how.noise, rng=rng)
            jobs.append(_Job(record, rng, _steering(clip, control, how, wishes), told))
            advance()
    return jobs


def _steering(clip: Clip, control: Tracks | None, how: Interpolation, wishes: InterpolateWishes) -> Steering | None:
    """Where the points of a pair go; None where there are none."""
    if wishes.steer == "tracks" and control is not None:
        return Given(Tracks(*steered(control.points, control.visible, how.frames)))
    if wishes.steer != "sift":
        return None
    first, last = (
        ((one + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy() for one in clip.pixels.unbind(1)
    )
    found = matches(first, last)
    if not len(found.first):
        logger.warning("%s: no point of one picture is found in the other, so nothing steers", clip.slot.record.key)
        return None
    few = chosen(found, wishes.choice, np.random.default_rng(wishes.seed), most=wishes.num_points)
    return Autopilot(few.control, how.frames, (how.height, how.width))


def _walked(
    jobs: Sequence[_Job],
    loaded: Loaded,
    place: Place,
    learned: "_Learned",
    *,
    how: Interpolation,
    strength: float,
) -> None:
    """Fill in the latents of every job; the denoiser is in memory for that long."""
    denoiser: Any = open_denoiser(loaded, place, {})  # nothing is left out of captions, as there are none
    for part, folder in learned.whole.items():
        setattr(denoiser, part, _opened(loaded, denoiser, part, folder).to(place.device))
    adapters = attach(denoiser.parts(), learned.adapter) if learned.adapter else None
    interpolator = Interpolator(denoiser)
    scaled = adapters.scaled(strength) if adapters else nullcontext()
    with progress("interpolating", len(jobs) * how.num_steps) as advance, scaled:
        for job in jobs:
            found = interpolator.walk(job.told, how, job.rng, steering=job.steering, seen=lambda step, x: advance())
            job.latents = found.cpu()
            if not job.latents.isfinite().all():
                what, do = "the drawn latents are not finite", "lower --guidance or --strength, or take other weights"
                raise RunError(Problem(what, found=job.record.key, do=do))


@dataclass(frozen=True)
class _Learned:
    """What was trained: the adapter, and parts that learned in full with a folder that has each."""

    adapter: AdapterFile | None
    whole: Mapping[str, Path]


def _learned(loaded: Loaded, wishes: InterpolateWishes) -> _Learned:
    """What has a say here of what was trained. Raises WeightsError, RecipeError, RunError."""
    parts, whole = loaded.variant.parts, _whole(wishes)
    used = {part: folder for part, folder in whole.items() if part in parts}
    if wishes.lora is None:
        return _Learned(None, used)
    file = _adapter_file(loaded, wishes.lora)
    modules = file.modules() if file else []
    trained = {*_whole(replace(wishes, controlnet=None)), *map(_part, modules)}
    if not trained.intersection(parts):
        what, do = "what was trained has no say where nothing steers", "name --steer tracks or sift"
        raise RecipeError(Problem(what, found=", ".join(sorted(trained)), where=str(wishes.lora), do=do))
    idle = [module for module in modules if _part(module) not in parts]
    if file and idle:
        logger.info("nothing steers, so the adapter of the ControlNet is left out: %d modules", len(idle))
        file = without(file, idle)
    file = file if file and file.tensors else None
    if file is None and wishes.strength != 1.0:
        what, do = "a strength has no effect on what learned in full", "leave --strength out"
        raise RecipeError(Problem(what, found=", ".join(sorted(trained)), where=str(wishes.lora), do=do))
    return _Learned(file, used)


def _whole(wishes: InterpolateWishes) -> dict[str, Path]:
    """Parts that learned in full, each with a folder that has one: those of `lora`, and `controlnet` over its own."""
    found: dict[str, Path] = {}
    if wishes.lora is not None and wishes.lora.is_dir():
        folder, run = _final(wishes.lora), _run_around(wishes.lora)
        # Of plain SVD a run leaves the UNet behind, too: the base with a channel more.
        asked = [part for part, mode in run.recipe.lora.parts.items() if mode == "full"] if run else None
        found = {part: folder for part in FOLDERS.full(folder) if asked is None or part in asked}
    if wishes.controlnet is not None:
        folder = wishes.controlnet
        found["controlnet"] = folder.parent if (folder / "config.json").is_file() else _final(folder)
    return found


def _opened(loaded: Loaded, denoiser: Any, part: str, folder: Path) -> Any:
    """A trained part in place of the base's, in its format. Raises WeightsError where the folder has none."""
    if part == "unet":
        return open_unet(str(folder), loaded.variant, denoiser.unet.conv_in.weight.dtype)
    network = {name: value for name, value in loaded.variant.network.items() if name != "fresh_controlnet"}
    return open_controlnet(str(folder), replace(loaded.variant, network=network), denoiser.unet)


def _final(folder: Path) -> Path:
    """The folder that a run leaves its folders in, or the folder itself."""
    return folder / LAST if (folder / LAST).is_dir() else folder


def _part(module: str) -> str:
    return module.partition(".")[0]


def _adapter_file(loaded: Loaded, lora: Path) -> AdapterFile | None:
    """What is at this place; None where only whole parts are. Raises WeightsError, RunError."""
    if lora.is_dir():
        folder = _final(lora)
        return FOLDERS.read(folder) if FOLDERS.full(folder) else read_adapters(folder)
    if lora.is_file():
        file = read_adapter(lora, registry.lora_layouts(loaded.family, loaded.variant))
        modes = recipe_in(file.metadata, lora).get("lora", {}).get("parts", {})
        if full := [part for part in loaded.variant.parts if modes.get(part) == "full"]:
            logger.warning(
                "%s: the %s that learned beside it is in its run's folder: --lora RUN", lora, ", ".join(full)
            )
        return file
    do = "name a run, a folder that peft wrote (unet_lora), or a .safetensors file"
    raise RunError(Problem("no adapter here", found=str(lora), do=do))


def _write(out: Path, job: _Job, pixels: "NDArray[np.uint8]", how: Interpolation, kind: str) -> None:
    """ID.mp4 and ID.gif as asked for, and the tracks as they were in the last step."""
    name = job.record.key.partition("/")[2]
    if kind != "gif":
        write_mp4(out / f"{name}.mp4", pixels, how.fps)
    if kind != "mp4":
        write_gif(out / f"{name}.gif", pixels, how.fps)
    if job.steering is not None:
        points = job.steering.tracks()
        size = float(how.width), float(how.height)
        write_tracks(out / f"{name}_tracks.npz", TrackFile(points.points, points.visible, size=size))
