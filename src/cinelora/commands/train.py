"""Owns the verb `train`: check, cache, train, save, prove, report. `demo` goes the same way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from cinelora.base.errors import Problem, RecipeError, Stopped
from cinelora.base.log import console
from cinelora.commands.adapter_files import Saved, prove_files, save_adapters, write_adapters
from cinelora.commands.begin import begin, check_start
from cinelora.commands.clips import encoder_of, encoding_of, fill, fill_share, plan_of, reader_of, shards_of, tell_fill
from cinelora.commands.diary import Tell, diary
from cinelora.commands.early import check_base, check_previews, check_schedule, check_shown, check_spread, check_targets
from cinelora.commands.memory import check_memory
from cinelora.commands.push import push
from cinelora.commands.run_folder import RunFolder
from cinelora.commands.session import Session, Spoken, speak
from cinelora.commands.speed import check_speed, for_the_loop
from cinelora.commands.tiling import with_tiling
from cinelora.config.load import Loaded, load
from cinelora.data.batches import Batches, batcher, copies_of, held_out_micros, micro_rules
from cinelora.data.cache_fill import FillReport
from cinelora.data.cache_work import Share
from cinelora.data.encoding import Encoding
from cinelora.data.plan import Plan
from cinelora.data.rules import source_weights
from cinelora.data.shards import is_streamed
from cinelora.data.stream import Stream
from cinelora.engine.attention import attention
from cinelora.lora.adapters import Adapters
from cinelora.methods.registry import open_method
from cinelora.report.page import write_page
from cinelora.report.table import buckets_table
from cinelora.report.trackers import check_installed
from cinelora.train.checkpoint import folder_name, latest, read_adapters
from cinelora.train.held_out import HeldOut
from cinelora.train.loop import Hook, Result, Trainer, Work
from cinelora.train.optim import check_optimizer
from cinelora.train.place import Place, open_place
from cinelora.train.same_run import Micros, lanes_of
from cinelora.train.schedules import kept_counts, step_counts

FREE_ON_RESUME = (
    "train.steps",
    "train.epochs",
    "train.save_every_steps",
    "train.keep_last",
    "train.keep_every_steps",
    "train.keep_every_epochs",
    "train.kept",
    "train.files_at_saves",
    "train.on_nonfinite",
    "train.accumulation",
    "train.sharding",
    "train.zero",
    "speed.num_workers",
    "speed.prefetch_micros",
    "speed.compile_limit",
    "train.gradient_checkpointing",
    "memory.recompute",
    "memory.activations",
    "memory.base",
    "memory.ring_blocks",
    "memory.optimizer",
    "memory.vae_tiling",
    "lora.files",
    "preview",
    "report",
)
"""Settings that a resumed run may change: they do not touch the numbers of the steps already made.

train.accumulation only together with the number of GPUs, so that a step has as many micros (`train/same_run.py`).
"""


def train(recipe: Path | None, *, sets: list[str], resume: Path | None) -> None:
    """Train a recipe, or go on with a run. Raises the errors of every part, each with its exit code."""
    if resume is None and recipe is None:
        raise RecipeError(Problem("nothing to train", do="name a recipe, or go on with a run: --resume RUN"))
    if resume is None:
        assert recipe is not None
        loaded = load(recipe, sets)
        folder = RunFolder(loaded.run_folder)
    else:
        folder = RunFolder(resume)
        loaded = _resumed(folder, recipe, sets)
    train_loaded(loaded, folder, resume=resume is not None)


def _resumed(folder: RunFolder, recipe: Path | None, sets: list[str]) -> Loaded:
    """The run's own recipe, or the given one if it only differs in what may change. Raises RecipeError."""
    old = folder.reload([])
    new = folder.reload(sets) if recipe is None else load(recipe, sets)
    was, now = _flat(old.recipe.model_dump()), _flat(new.recipe.model_dump())
    changed = [key for key in was | now if was.get(key) != now.get(key) and not key.startswith(FREE_ON_RESUME)]
    if changed:
        raise RecipeError(
            Problem(
                "a resumed run goes on exactly, so these settings cannot change",
                found="; ".join(f"{key}: was {was.get(key)!r}, now {now.get(key)!r}" for key in changed),
                allowed=f"changes of {', '.join(FREE_ON_RESUME)}",
                where=str(folder.recipe),
                do="leave them as they were, or start a new run",
            )
        )
    return new


def _flat(tables: dict, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in tables.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def train_loaded(
    loaded: Loaded, folder: RunFolder, *, resume: bool = False, after: Callable[[Session], None] | None = None
) -> Result:
    """The whole way of one run; `after` sees the trained session before its denoiser is let go."""
    folder.refuse_used(resume=resume)
    plan = _looked_at(loaded, resume=resume)
    place = open_place(loaded.recipe.train)
    check_spread(loaded, place, measured=after is not None)
    check_memory(loaded, sharded=place.sharded)
    check_speed(loaded, place.device)
    console.quiet = not place.first  # one voice for all ranks
    loaded = with_tiling(loaded, [slot.bucket for slot in (*plan.slots, *plan.held_out)], device=str(place.device))
    console.print(buckets_table(plan.rows))
    for warning in plan.warnings:
        console.print(f"warning: {warning}")
    check_schedule(loaded)
    with _together(place), _claimed(folder, place, resume=resume):
        if place.first:
            folder.describe(loaded)
            folder.list_clips(plan)
        encoding, plan, spoken = _encode(loaded, plan, place)
        if place.first:
            folder.list_clips(plan)
        with diary(loaded, folder, place, resume=resume) as tell:
            session = Session.open(loaded, place, folder, encoder=encoding.encoder, spoken=spoken)
            if latest(folder.checkpoints) is None:
                begin(loaded, session.adapters)
            result, saved = _learn(session, plan, encoding, tell=tell, resume=resume)
            if after is not None and place.first:
                after(session)
        session.release()
        if place.first:
            _finish(loaded, place, folder, spoken=spoken, saved=saved)
        return result


def _looked_at(loaded: Loaded, *, resume: bool) -> Plan:
    """The plan of the clips, after all looks that need neither weights nor other ranks. Raises what they find."""
    check_installed(loaded.recipe.report)
    check_optimizer(loaded.recipe.train)
    check_shown(loaded)
    plan = plan_of(loaded)
    check_targets(loaded)
    if not resume:
        check_start(loaded)
    check_previews(loaded)
    check_base(loaded)
    return plan


def _finish(loaded: Loaded, place: Place, folder: RunFolder, *, spoken: Spoken, saved: list[Saved]) -> None:
    """Prove the files that were saved, on this rank alone; the page; the Hub where it is asked for."""
    whole = not place.sharded and loaded.recipe.memory.base == "resident"
    prove_files(loaded, place if whole else place.apart(), folder, spoken=spoken, saved=saved)
    console.print(f"report: {write_page(folder.path)}")
    if loaded.recipe.report.hub:
        push(folder.path, loaded.recipe.report.hub, private=True)


@contextmanager
def _together(place: Place) -> Iterator[None]:
    """Let the ranks part in good order, also when a signal ends the run; after an error each goes down by itself."""
    try:
        yield
    except Stopped:
        place.leave()
        raise
    place.leave()


@contextmanager
def _claimed(folder: RunFolder, place: Place, *, resume: bool) -> Iterator[None]:
    """Hold the folder for this run: the first rank takes it, the others begin once it has."""
    with folder.claimed(resume=resume) if place.first else nullcontext():
        place.meet()
        yield


def _encode(loaded: Loaded, plan: Plan, place: Place) -> tuple[Encoding, Plan, Spoken]:
    """Everything above the cache line; afterwards no encoder is in memory (unless the cache is off)."""
    encoder = encoder_of(loaded)
    encoding = encoding_of(loaded, encoder, device=str(place.device))
    if loaded.recipe.data.cache == "on":
        report, plan = _fill(loaded, plan, encoding, place)
        tell_fill(report)
    if not place.first:
        place.meet()  # the first rank makes what is missing, the others find it
    spoken = speak(loaded, encoding)
    if place.first:
        place.meet()
    return encoding, plan, spoken


def _fill(loaded: Loaded, plan: Plan, encoding: Encoding, place: Place) -> tuple[FillReport, Plan]:
    """Fill the cache: each rank its share, then all look at all, so that they have one plan. Reports the own share."""
    if place.world == 1:
        return fill(loaded, plan, encoding, verify=False)
    share = Share(place.rank + 1, place.world)
    report = fill_share(loaded, plan, encoding, verify=False, share=share)
    place.meet()
    return report, fill(loaded, plan, encoding, verify=False)[1]


def _learn(session: Session, plan: Plan, encoding: Encoding, *, tell: Tell, resume: bool) -> tuple[Result, list[Saved]]:
    """The loop with all around it; gives back its result and what the saved files are to be compared with."""
    newest = latest(session.folder.checkpoints) if resume else None
    lanes = lanes_of(session.loaded.recipe.train, session.place.world, newest)
    trainer = Trainer(_work(session, plan, encoding, tell, lanes=lanes))
    step = trainer.resume() if resume else 0
    if session.place.asking and step == 0 and session.loaded.recipe.preview.before:
        _preview(session, 0, tell)
    with attention(session.loaded.recipe.speed.attention):
        result = trainer.run()
    if isinstance(trainer.work.batches, Stream) and session.place.first:
        left_out = trainer.work.batches.left_out.values()
        session.folder.list_clips(replace(plan, rows=(*plan.rows, *left_out)))
    if result.stopped:
        if session.place.first and session.loaded.recipe.train.files_at_saves:
            with trainer.averaged():
                _write_now(session, result.step)
        _tell_stop(session, result)
    return result, _save(session, trainer, result, tell) if session.place.asking else []


def _work(session: Session, plan: Plan, encoding: Encoding, tell: Tell, *, lanes: int) -> Work:
    recipe, place = session.loaded.recipe, session.place
    options, geometry = recipe.train, session.loaded.variant.geometry
    micros = held_out_micros(plan.held_out, options.micro_size, max_clips=recipe.held_out.max_clips)
    batches = _micros(session, plan, lanes)
    return Work(
        method=open_method(
            recipe.method,
            session.denoiser,
            session.process,
            adapters=session.players,
            negative=session.spoken.against,
            levels=session.levels(),
        ),
        batches=batches,
        batch=batcher(reader_of(session.loaded, encoding), copies=copies_of(recipe.data, geometry)),
        options=options,
        place=place,
        checkpoints=session.folder.checkpoints,
        held_out=HeldOut(micros, recipe.held_out, seed=options.seed) if micros else None,
        tell=tell,
        hooks=_hooks(session, batches, tell),
        lanes=lanes,
        bound=_bound(session, batches),
        memory=recipe.memory,
        waited=session.fitted.waited,
        **for_the_loop(session.loaded, session.denoiser.parts(), place),
    )


def _bound(session: Session, batches: Micros) -> str:
    """What binds the run to its number of ranks."""
    if isinstance(batches, Stream):
        return "each GPU reads its own shards of a stream"
    noise = session.loaded.recipe.noise
    return "each GPU has its own noise levels (noise.strata)" if noise.stratified and noise.strata == "ranks" else ""


def _once(call: Callable[[int], None]) -> Callable[[int], None]:
    """The same for each step once, though two counts may fall on it."""
    done: set[int] = set()

    def called(step: int) -> None:
        if step not in done:
            done.add(step)
            call(step)

    return called


def _hooks(session: Session, batches: Micros, tell: Tell) -> list[Hook]:
    """What is due between steps: adapter files for now and for good, and previews. Raises RecipeError for a stream."""
    options, preview, passes = session.loaded.recipe.train, session.loaded.recipe.preview, batches.micros_per_epoch
    drawn = step_counts(
        preview.every_steps,
        preview.every_epochs,
        passes,
        accumulation=options.accumulation,
        instead="preview.every_steps",
    )
    keep, draw = _once(lambda step: _keep(session, step)), _once(lambda step: _preview(session, step, tell))
    write = Hook(options.save_every_steps, lambda step: _write_now(session, step))
    return [
        *([write] if options.files_at_saves else []),
        *(Hook(every, keep) for every in kept_counts(options, passes)),
        *(Hook(every, draw) for every in drawn),
    ]


def _write_now(session: Session, step: int) -> None:
    """The run's adapter files as of now; at the end they are written anew, and proven."""
    if session.place.first:
        write_adapters(session, session.loaded.name, step, folder=session.folder.adapter)


def _keep(session: Session, step: int) -> None:
    name = f"{session.loaded.name}.{folder_name(step)}"
    if session.place.first:
        write_adapters(session, name, step, folder=session.folder.history)


def _micros(session: Session, plan: Plan, lanes: int) -> Micros:
    """Which clips each micro holds: from the plan's slots, or from a stream of shards."""
    data, options, place = session.loaded.recipe.data, session.loaded.recipe.train, session.place
    if is_streamed(data, session.loaded.folder):
        shards = shards_of(session.loaded)
        gigabytes, apart = sum(shards.sizes) / 1e9, len(plan.held_out)
        console.print(f"streaming {len(shards.all)} shards of {gigabytes:.3g} GB; {apart} of their clips are held out")
        return Stream(
            shards,
            options.micro_size,
            num_kept=options.accumulation,
            rank=place.rank,
            world=place.world,
            notes=session.folder.path / "stream" / f"rank-{place.rank}.jsonl",
        )
    return Batches(
        plan.slots,
        source_weights(data),
        micro_rules(options.micro_size, data, lanes=lanes),
        seed=options.seed,
        rank=place.rank,
        world=place.world,
    )


def _preview(session: Session, step: int, tell: Tell) -> None:
    label = folder_name(step) if step else "before"
    if session.spoken.prompts:
        tell("preview", step=step, files=session.preview(label))


def _tell_stop(session: Session, result: Result) -> None:
    if session.place.first:
        write_page(session.folder.path)
    raise Stopped(
        Problem(
            f"stopped by a signal after step {result.step} of {result.total}; everything is saved",
            do=f"go on exactly here: cinelora train --resume {session.folder.path}",
        )
    )


def _save(session: Session, trainer: Trainer, result: Result, tell: Tell) -> list[Saved]:
    """Draw the last previews, write the files of the last and of the best step, note what they must reproduce."""
    name = session.loaded.name
    with trainer.averaged():
        _preview(session, result.step, tell)
        saved = save_adapters(session, name, result.step)
    if result.best_step is not None and result.best_step != result.step:
        averaged = session.loaded.recipe.train.ema_decay > 0
        checkpoint = session.folder.checkpoints / folder_name(result.best_step)
        last = {player: _copied(adapters) for player, adapters in session.drawn.items()}
        for player, adapters in session.drawn.items():
            adapters.load(read_adapters(checkpoint, player=player, averaged=averaged))
        saved += save_adapters(session, f"{name}.best", result.best_step)
        for player, adapters in session.drawn.items():
            adapters.load(last[player])
    tell("export", step=result.step, files=sorted(p.name for p in session.folder.adapter.glob("*.safetensors")))
    return saved


def _copied(adapters: Adapters) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in adapters.parameters().items()}
