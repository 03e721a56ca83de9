"""Owns the verb `plan`: what a recipe will take of a GPU, of main memory, of the disk and of time, before any work.

In: a recipe, a GPU (its memory, or its name), how many of them. Out: a table, or JSON; the exit code says whether it
fits. No weights are read and no GPU is asked. Changes that would make it fit are tried, the cheapest first.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from cinelora.base.errors import DataError, RecipeError
from cinelora.base.log import open_console
from cinelora.commands.clips import data_of, encoding_of, plan_of
from cinelora.commands.memory import check_memory
from cinelora.commands.plan_gpu import Gpu, gpu_of
from cinelora.commands.plan_memory import Acted, Encoders, Micro, Phase
from cinelora.config.load import Loaded, load
from cinelora.contracts.flow import Bucket
from cinelora.data.batches import Batches, micro_rules
from cinelora.data.buckets import base_size, frame_buckets
from cinelora.data.cache_plan import in_words, tensor_bytes
from cinelora.data.plan import Plan
from cinelora.data.rules import source_weights
from cinelora.engine.account import CONTEXT_BYTES, MARGIN
from cinelora.preview.options import preview_bucket
from cinelora.train.schedules import total_steps

FITS, DOES_NOT_FIT = 0, 5
"""Exit codes, beside those of errors (`base/errors.py`)."""
MFU = 0.35
"""Share of a card's peak that the estimate of time reckons with, recomputation included (see `engine.flops`)."""
_READING_BYTES = 3_000_000_000
"""Main memory of Python, torch and the libraries, generously."""
_MOST_BUCKETS = 4
"""Of so many buckets, the largest, the memory is worked out; smaller ones take less."""

Change = tuple[str, dict[str, Any], str]
CHANGES: tuple[Change, ...] = (
    ("train", {"gradient_checkpointing": True}, "about a third more time"),
    ("memory", {"recompute": "blocks"}, "some more time"),
    ("memory", {"optimizer": "cpu"}, "a moment for each step"),
    ("memory", {"quantise": "int8"}, "weights are rounded to 8 bits"),
    ("memory", {"base": "streamed"}, "as many bytes of main memory; hidden where steps are long"),
    ("memory", {"activations": "offload"}, "main memory; hidden where steps are long"),
    ("memory", {"recompute": "nested"}, "attention is computed three times"),
    ("train", {"micro_size": 1}, "smaller micros; train.accumulation makes up for it"),
)
"""What may make a recipe fit, the cheapest first: section, options, what it costs."""


@dataclass
class Told:
    """All that the plan says; bytes, seconds, counts."""

    recipe: str
    phases: list[Phase] = field(default_factory=list)
    micros: list[Micro] = field(default_factory=list)
    main_memory_bytes: int = 0
    disk_bytes: int | None = None
    num_entries: int = 0
    steps: int | None = None
    step_seconds: float | None = None
    seconds: float | None = None
    gpu: Gpu | None = None
    world: int = 1
    changes: list[dict[str, str]] = field(default_factory=list)
    fits_with_changes: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def limiting(self) -> Phase:
        """The phase that holds most."""
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def fits(self) -> bool | None:
        """Whether every phase fits; None without a GPU to fit into."""
        return None if self.gpu is None else self.limiting.bytes <= self.gpu.room


def plan(recipe: Path, *, sets: Sequence[str], gpu: str = "", world: int = 1, as_json: bool = False) -> int:
    """Work a recipe out and print it; gives back the exit code. Raises RecipeError, DataError of clips aside."""
    loaded = load(recipe, list(sets))
    told = planned(loaded, gpu_of(gpu) if gpu else None, world=world)
    console = open_console()
    if as_json:
        console.print(json.dumps(as_table(told), indent=1))
    else:
        for line in lines(told):
            console.print(line)
    return DOES_NOT_FIT if told.fits is False else FITS


def planned(loaded: Loaded, gpu: Gpu | None, *, world: int = 1) -> Told:
    """The whole plan of a recipe for `world` GPUs of a kind."""
    check_memory(loaded, sharded=loaded.recipe.train.sharding != "none")
    told = Told(loaded.name, gpu=gpu, world=world, notes=list(_uncounted(loaded, world)))
    clips = _clips(loaded, told)
    buckets = _buckets(loaded, clips)
    acted, encoders = Acted(loaded, world=world), Encoders(loaded)
    told.phases += _encoding(loaded, encoders, buckets[0])
    told.micros = _micros(loaded, acted, buckets)
    told.phases += _below_the_cache(loaded, acted, encoders, buckets)
    if len(buckets) > _MOST_BUCKETS:
        told.notes.append(f"{len(buckets) - _MOST_BUCKETS} smaller buckets are not worked out: they take less")
    _other_things(loaded, told, clips, acted, encoders)
    if gpu is not None and not told.fits:
        _propose(told, gpu, loaded, lambda changed: list(_below_the_cache(changed, acted, encoders, buckets)))
    return told


def _uncounted(loaded: Loaded, world: int) -> Iterator[str]:
    """What of the recipe the figures leave out."""
    train = loaded.recipe.train
    if loaded.recipe.method.name == "distill":
        yield "a distillation counts as one micro of the generator: passes beside it, without gradients, take more time"
    shared = [f"train.{name}" for name, on in (("sharding", train.sharding != "none"), ("zero", train.zero)) if on]
    if shared and world == 1:
        yield f"{' and '.join(shared)}: one GPU has nobody to share with; say how many work together: --world 8"


def _micros(loaded: Loaded, acted: Acted, buckets: Sequence[Bucket]) -> list[Micro]:
    """Training, of the largest buckets."""
    train, memory = loaded.recipe.train, loaded.recipe.memory
    return [acted.micro(one, train, memory, num_clips=train.micro_size) for one in buckets[:_MOST_BUCKETS]]


def _below_the_cache(loaded: Loaded, acted: Acted, encoders: Encoders, buckets: Sequence[Bucket]) -> Iterator[Phase]:
    """All that has the denoiser in memory: training, previews, saving."""
    train, memory = loaded.recipe.train, loaded.recipe.memory
    for micro in _micros(loaded, acted, buckets):
        yield Phase(f"training: {train.micro_size} x {micro.bucket}", micro.bytes, "acted out")
    yield from _drawing(loaded, acted, encoders)
    base = acted.base_bytes(memory) + acted.num_learning * 8
    yield Phase("saving and proving", base + acted.walk(buckets[-1]), "base counted, a pass acted out")


def _clips(loaded: Loaded, told: Told) -> Plan | None:
    """What becomes of each clip; None, and a note, where there are no clips to look at yet."""
    try:
        return plan_of(loaded)
    except DataError as error:
        first = str(error.problems[0]).splitlines()[0]
        told.notes.append(f"the clips cannot be planned ({first}): the recipe's largest bucket is taken")
        return None


def _buckets(loaded: Loaded, clips: Plan | None) -> list[Bucket]:
    """Those that clips are in, largest first; without clips the recipe's own largest."""
    found = {slot.bucket for slot in (*clips.slots, *clips.held_out)} if clips else set()
    if not found:
        rules, geometry = data_of(loaded), loaded.variant.geometry
        found = {Bucket(frame_buckets(rules, geometry)[0], *base_size(rules, geometry))}
    return sorted(found, key=lambda one: (-one.frames * one.height * one.width, one))


def _encoding(loaded: Loaded, encoders: Encoders, largest: Bucket) -> Iterator[Phase]:
    if loaded.recipe.data.cache == "off":
        phases = list(encoders.phases(largest))
        yield Phase("encoding in the loop", sum(phase.bytes for phase in phases), "all towers stay in memory")
    else:
        yield from encoders.phases(largest)


def _drawing(loaded: Loaded, acted: Acted, encoders: Encoders) -> Iterator[Phase]:
    if not loaded.recipe.preview.prompts:
        return
    bucket = preview_bucket(loaded.recipe.preview, loaded.variant.geometry)
    train, memory = loaded.recipe.train, loaded.recipe.memory
    held = acted.base_bytes(memory) + acted.learning_bytes(train, memory)
    yield Phase(f"preview: {bucket}", held + acted.walk(bucket), "acted out")
    decoding, how = encoders.decoding(bucket)
    yield Phase(f"preview: autoencoder, {bucket}", held + decoding, how)


def _other_things(loaded: Loaded, told: Told, clips: Plan | None, acted: Acted, encoders: Encoders) -> None:
    """Main memory, disk, steps, time."""
    whole = acted.base_bytes(loaded.recipe.memory.model_copy(update={"base": "resident", "quantise": "none"}))
    read = max([whole, *(encoders.weights.values())])
    told.main_memory_bytes = _READING_BYTES + read + acted.host_bytes(loaded.recipe.memory)
    if clips is None:
        told.steps = loaded.recipe.train.steps
    else:
        _disk(loaded, told, clips, encoders)
        _steps(loaded, told, clips)
    told.seconds = told.step_seconds = None
    if told.gpu and told.gpu.card and told.micros and told.steps:
        each = _mean_flops(told, clips) * loaded.recipe.train.accumulation / (told.gpu.card.peak * MFU)
        told.step_seconds, told.seconds = each, each * told.steps


def _disk(loaded: Loaded, told: Told, clips: Plan, encoders: Encoders) -> None:
    """Bytes of all entries of the cache, from shapes; texts at most."""
    if loaded.recipe.data.cache == "off":
        told.disk_bytes = 0
        return
    encoding = encoding_of(loaded, encoders.encoder, device="cpu")
    counts = Counter(slot.bucket for slot in (*clips.slots, *clips.held_out))
    total = 0
    for bucket, count in counts.items():
        for tower in encoders.towers:
            size = tensor_bytes(tower.gives, bucket, encoding)
            if size is None:
                told.notes.append(f"the disk that {tower.name} takes is not known ahead")
            total += count * (size or 0)
    told.disk_bytes, told.num_entries = total, sum(counts.values()) * len(encoders.towers)
    told.notes = list(dict.fromkeys(told.notes))


def _steps(loaded: Loaded, told: Told, clips: Plan) -> None:
    options, data = loaded.recipe.train, loaded.recipe.data
    if not clips.slots:
        told.steps = options.steps
        return
    rules = micro_rules(options.micro_size, data)
    batches = Batches(clips.slots, source_weights(data), rules, seed=options.seed, world=told.world)
    told.steps = total_steps(options, batches.micros_per_epoch)


def _mean_flops(told: Told, clips: Plan | None) -> float:
    """Of a micro, by how often its bucket comes; of buckets that were not worked out, as the smallest that was."""
    by_bucket = {micro.bucket: micro.flops for micro in told.micros}
    if clips is None or not clips.slots:
        return told.micros[0].flops
    counts = Counter(slot.bucket for slot in clips.slots)
    smallest = told.micros[-1].flops
    return sum(n * by_bucket.get(bucket, smallest) for bucket, n in counts.items()) / counts.total()


def _propose(told: Told, gpu: Gpu, loaded: Loaded, phases: Callable[[Loaded], list[Phase]]) -> None:
    """The cheapest change that makes all fit, else the fewest together; and what is left to do by hand."""
    room = gpu.room
    useful = [change for change in CHANGES if _changes_anything(loaded, change)]
    tried = [*([one] for one in useful), *(useful[:k] for k in range(2, len(useful) + 1))]

    def peak(changes: Sequence[Change], kind: str = "") -> float:
        changed = _with(loaded, changes)
        return math.inf if changed is None else max(p.bytes for p in phases(changed) if p.name.startswith(kind))

    left = [phase for phase in told.phases if phase.bytes > room]
    needed = any(not phase.name.startswith("encoding") for phase in left)
    found = next((one for kind in ("", "training") for one in tried if needed and peak(one, kind) <= room), [])
    kind = "" if found and peak(found) <= room else "training"
    for change in sorted(found, key=CHANGES.index):  # some may not be needed with the rest
        fewer = [one for one in found if one is not change]
        found = fewer if fewer and peak(fewer, kind) <= room else found
    if found:
        told.changes += [_named(change) for change in found]
        told.changes[-1]["then"] = _gib(peak(found))
        changed = _with(loaded, found)
        above = [phase for phase in left if phase.name.startswith("encoding")]
        left = [*above, *(phase for phase in phases(changed) if phase.bytes > room)] if changed else left
    told.changes += list({one["set"]: one for one in map(_advice, left)}.values())
    told.fits_with_changes = not left


def _advice(phase: Phase) -> dict[str, str]:
    name = phase.name
    if name.startswith("training"):
        do = "a smaller data.size, fewer data.frames, or a GPU with more memory"
        return {"set": do, "costs": "smaller clips", "then": "", "for": name}
    if name.startswith("encoding: text"):
        return {"set": "encode on another device: cinelora cache", "costs": "once", "then": "", "for": name}
    if "autoencoder" in name or "vae" in name:
        return {"set": 'memory.vae_tiling = "on"', "costs": "faint seams, more time", "then": "", "for": name}
    return {"set": "a smaller preview.size, fewer preview.frames", "costs": "smaller previews", "then": "", "for": name}


def _changes_anything(loaded: Loaded, change: Change) -> bool:
    section = getattr(loaded.recipe, change[0])
    if change[1] == {"recompute": "blocks"} and section.recompute == "nested":
        return False  # which takes less memory as it is
    return any(getattr(section, name) != value for name, value in change[1].items())


def _with(loaded: Loaded, changes: Sequence[Change]) -> Loaded | None:
    """The recipe with changes; None where they cannot go together with it."""
    sections: dict[str, dict[str, Any]] = {"train": {}, "memory": {}}
    for section, options, _ in changes:
        sections[section] |= options
    recipe = loaded.recipe
    changed = {name: getattr(recipe, name).model_copy(update=update) for name, update in sections.items()}
    found = replace(loaded, recipe=recipe.model_copy(update=changed))
    try:
        check_memory(found, sharded=recipe.train.sharding != "none")
    except RecipeError:
        return None
    return found


def _named(change: Change) -> dict[str, str]:
    section, options, costs = change
    said = ", ".join(f"{section}.{name} = {json.dumps(value)}" for name, value in options.items())
    return {"set": said, "costs": costs, "then": ""}


def as_table(told: Told) -> dict[str, Any]:
    """The plan for programs."""
    gpu = told.gpu
    return {
        "recipe": told.recipe,
        "fits": told.fits,
        "limiting": told.limiting.name,
        "peak_bytes": told.limiting.bytes,
        "phases": [asdict(phase) for phase in told.phases],
        "training": [{**asdict(micro), "bucket": str(micro.bucket)} for micro in told.micros],
        "gpu": None
        if gpu is None
        else {"gigabytes": gpu.gigabytes, "room_bytes": gpu.room, "world": told.world}
        | {"card": gpu.card.name if gpu.card else None, "assumed": gpu.assumed},
        "margin": {"share": MARGIN, "bytes": CONTEXT_BYTES},
        "main_memory_bytes": told.main_memory_bytes,
        "disk_bytes": told.disk_bytes,
        "steps": told.steps,
        "step_seconds": told.step_seconds,
        "seconds": told.seconds,
        "changes": told.changes,
        "fits_with_changes": told.fits_with_changes,
        "notes": told.notes,
    }


def lines(told: Told) -> Iterator[Table | str]:
    """The plan for a person."""
    table = Table(box=None, pad_edge=False)
    for name, justify in (("phase", "left"), ("peak", "right"), ("known how", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for phase in told.phases:
        mark = " <- limiting" if phase is told.limiting else ""
        table.add_row(phase.name, _gib(phase.bytes), phase.how + mark)
    yield table
    each = " for each process" if told.world > 1 else ""
    yield f"main memory: about {_gib(told.main_memory_bytes)}{each}" + _disk_told(told)
    for micro in told.micros[:1]:
        held = f"base {_gib(micro.base)}, what learns {_gib(micro.learning)}"
        yield f"largest micro: {micro.tokens:,} tokens, {micro.flops / 1e12:,.0f} TFLOP; {held}"
    yield _time_told(told)
    yield from (f"note: {note}" for note in told.notes)
    yield f"an estimate: {MARGIN:.0%} and {_gib(CONTEXT_BYTES)} are kept free for what it does not see"
    yield from _verdict(told)


def _verdict(told: Told) -> Iterator[str]:
    if told.gpu is None:
        yield "next: name a GPU to see whether it fits: --gpu 24GB"
        return
    room, peak = _gib(told.gpu.room), _gib(told.limiting.bytes)
    if told.fits:
        yield f"fits into {told.gpu.gigabytes:g} GB: {peak} of {room}"
        return
    yield f"does not fit into {told.gpu.gigabytes:g} GB: {told.limiting.name} takes {peak} of {room}"
    for change in told.changes:
        then = f" -> {change['then']}" if change["then"] else ""
        yield (
            f"  set {change['set']} ({change['costs']}){then}" if " = " in change["set"] else f"  take {change['set']}"
        )


def _disk_told(told: Told) -> str:
    return "" if told.disk_bytes is None else f"; cache on disk: at most {in_words(told.disk_bytes)}"


def _time_told(told: Told) -> str:
    steps = "steps: not known" if told.steps is None else f"steps: {told.steps:,}"
    if told.step_seconds is None or told.seconds is None or told.gpu is None or told.gpu.card is None:
        return f"{steps}; time: name a card, such as --gpu H100"
    card = f"{'as on the' if told.gpu.assumed else 'on the'} {told.gpu.card.name} at {MFU:.0%} of its peak"
    return f"{steps}; about {told.step_seconds:.3g} s each, {told.seconds / 3600:.3g} hours in all, {card}"


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.3g} GiB"
