"""Owns the verb `cache`: encode ahead of training, alone, with workers, or a share of it on each of many machines."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cinelora.base.errors import Problem, Problems, RecipeError
from cinelora.base.log import console
from cinelora.base.workers import available_threads
from cinelora.commands.cache_team import Hand, gather, serve
from cinelora.commands.clips import cache_of, encoder_of, encoding_of, fill_share, plan_of, tell_fill
from cinelora.commands.early import check_base, check_shown, check_targets
from cinelora.commands.tiling import with_tiling
from cinelora.config.load import Loaded, load
from cinelora.data.cache_fill import Events, Maker
from cinelora.data.cache_work import WHOLE, Share, TowerWork
from cinelora.train.place import device_of


def cache(recipe: Path, *, sets: list[str], workers: int = 1, share: str = "", dealt: bool = False) -> None:
    """Encode every clip and caption of a recipe that is not in the cache yet; damaged entries are made again.

    Under a launcher (torchrun) each process takes its share, and none waits for another. `dealt` is a worker's word.
    """
    loaded = load(recipe, sets)
    refuse_off(loaded)
    ours = _share(share, workers)
    if dealt:
        folder, by = cache_of(loaded).folder, f"{loaded.name} (worker {ours})"
        serve(lambda device: encoding_of(loaded, encoder_of(loaded), device=device), folder, by=by)
        return
    console.quiet = ours.number != 1 and _launched() is not None  # one voice for all processes of a launcher
    check_shown(loaded)
    plan = plan_of(loaded)
    check_targets(loaded)
    check_base(loaded)
    device = device_of(loaded.recipe.train, number=int(os.environ.get("LOCAL_RANK", "0")))
    settled = with_tiling(loaded, [slot.bucket for slot in (*plan.slots, *plan.held_out)], device=device)
    if settled is not loaded:
        loaded, sets = settled, [*sets, "memory.vae_tiling=on"]
    encoding = encoding_of(loaded, encoder_of(loaded), device=device)
    maker = _team(loaded, recipe, sets, workers) if workers > 1 else None
    report = fill_share(loaded, plan, encoding, verify=True, share=ours, maker=maker)
    tell_fill(report, share=ours)
    console.print(f"next: cinelora train {recipe}")


def refuse_off(loaded: Loaded) -> None:
    """Raise RecipeError where a recipe keeps no cache."""
    if loaded.recipe.data.cache == "off":
        raise RecipeError(Problem("there is nothing to cache", found='data.cache = "off"', do='set data.cache = "on"'))


def _launched() -> Share | None:
    """This process' share among those that a launcher started; None without one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    return Share(int(os.environ.get("RANK", "0")) + 1, world) if world > 1 else None


def _share(text: str, workers: int) -> Share:
    """Whose work this process does. Raises RecipeError where that is said twice."""
    launched = _launched()
    problems = Problems(RecipeError)
    if text and workers > 1:
        problems.add("--workers and --share do not go together", do="share by --share alone, or take --workers alone")
    if launched and (text or workers > 1):
        found = f"{launched.total} processes (WORLD_SIZE)"
        problems.add("a launcher already shares the work", found=found, do="leave out --workers and --share")
    problems.raise_if_any()
    return Share.of(text) if text else launched or WHOLE


def _team(loaded: Loaded, recipe: Path, sets: Sequence[str], num: int) -> Maker:
    """Make entries in several processes: one GPU each where there are any, else a part of the cores each."""
    said = [word for text in sets for word in ("--set", text)]
    cores = loaded.recipe.train.num_threads or available_threads()

    def made(works: Sequence[TowerWork]) -> Events:
        count = min(num, max(len(work.to_make) for work in works))

        def command(number: int) -> list[str]:
            words = ["cache", "fill", str(recipe), "--share", f"{number}/{count}", "--dealt", *said]
            return [sys.executable, "-m", "cinelora.cli", *words]

        hands = [
            Hand(
                tuple(work.dealt(k, count) for work in works),
                device_of(loaded.recipe.train, number=k),
                max(1, cores // count),
            )
            for k in range(count)
        ]
        return gather(command, hands)

    return made
