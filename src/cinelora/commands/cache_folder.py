"""Owns the verbs `cache ls | verify | gc | export`: a cache as a folder of files. No weight is read for them."""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from cinelora.base.errors import DataError, Problem, Problems, RecipeError, RunError
from cinelora.base.log import open_console
from cinelora.commands.cache import refuse_off
from cinelora.commands.clips import cache_of, encoder_of, encoding_of, plan_of, slots_of
from cinelora.commands.run_folder import RunFolder
from cinelora.commands.tiling import with_tiling
from cinelora.config.load import Loaded, load
from cinelora.data import cache_folder
from cinelora.data.cache import Cache, Todo
from cinelora.data.cache_folder import Kept
from cinelora.data.cache_plan import in_words
from cinelora.data.plan import Plan
from cinelora.train.place import device_of

_MOST = 20


def ls(target: Path, *, sets: list[str]) -> None:
    """Show what lies in a cache: of one recipe (and what it lacks), or in all."""
    console = open_console()
    if not _is_recipe(target):
        _refuse_sets(sets)
        cache_folder.refuse_no_cache(target)
        console.print(_table(target, cache_folder.contents(target)))
        return
    cache, todo, _ = _wanted(_loaded(target, sets))
    console.print(
        _table(cache.folder, [kept for kept in cache_folder.contents(cache.folder) if kept.path.stem in todo.keys])
    )
    missing = ", ".join(f"{len(work.to_make)} of {work.facts.name}" for work in todo.works if work.to_make)
    console.print(f"missing: {missing}; next: cinelora cache {target}" if missing else f"{target} needs nothing more")


def verify(target: Path, *, sets: list[str], delete: bool) -> None:
    """Read a whole cache. Raises RunError with the damaged entries, unless they are to be deleted."""
    console = open_console()
    if _is_recipe(target):
        folder = cache_of(_loaded(target, sets)).folder
    else:
        _refuse_sets(sets)
        folder = target
    cache_folder.refuse_no_cache(folder)
    entries = cache_folder.contents(folder)
    damaged = cache_folder.damaged([kept.path for kept in entries])
    problems = Problems(RunError)
    do = "cinelora cache verify --delete takes it away; the next `cinelora cache` makes it again"
    for path, damage in damaged.items():
        problems.add("an entry is damaged", found=damage, where=str(path), do=do)
    left = cache_folder.leftovers(folder)
    if left and not delete:
        console.print(f"{len(left)} half-written files of killed processes lie there; --delete takes them away")
    if not delete:
        problems.raise_if_any()
    cache_folder.remove(folder, [*damaged, *left])
    gone = f"; deleted: {len(damaged)} damaged entries, {len(left)} half-written files" if damaged or left else ""
    size = in_words(sum(kept.bytes for kept in entries))
    console.print(
        f"{len(entries)} entries read, {size}: {len(entries) - len(damaged)} are sound{gone if delete else ''}"
    )


def gc(targets: Sequence[Path], *, sets: list[str], delete: bool) -> None:
    """Delete what none of the recipes needs, or only show it. Raises RecipeError where they have several caches."""
    console = open_console()
    needed: set[str] = set()
    folders: dict[Path, Path] = {}
    for target in targets:
        cache, todo, _ = _wanted(_loaded(target, sets))
        needed |= todo.keys
        folders.setdefault(cache.folder.resolve(), target)
    if len(folders) > 1:
        found = "; ".join(f"{target}: {folder}" for folder, target in folders.items())
        raise RecipeError(Problem("these recipes do not share one cache", found=found, do="name those of one cache"))
    folder = next(iter(folders))
    cache_folder.refuse_no_cache(folder)
    extra = [kept for kept in cache_folder.contents(folder) if kept.path.stem not in needed]
    left = cache_folder.leftovers(folder)
    if extra:
        console.print(_table(folder, extra, title="not needed"))
    for kept in extra[:_MOST]:
        console.print(f"  {kept.path.relative_to(folder)}  {kept.tower}  {in_words(kept.bytes)}  {kept.by}")
    if len(extra) > _MOST:
        console.print(f"  and {len(extra) - _MOST} more")
    what = f"{len(extra)} entries and {len(left)} half-written files, {in_words(sum(kept.bytes for kept in extra))}"
    if delete:
        cache_folder.remove(folder, [*(kept.path for kept in extra), *left])
        console.print(f"deleted: {what}")
    else:
        console.print(f"would delete: {what}; --delete does it")


def export(recipe: Path, out: Path, *, sets: list[str]) -> None:
    """Copy a recipe's entries into a new folder that another machine can name as data.cache_dir."""
    loaded = _loaded(recipe, sets)
    cache, todo, plan = _wanted(loaded)
    records = [slot.record for slot in (*plan.slots, *plan.held_out)]
    size = cache_folder.export(cache.folder, todo.keys, records, media=cache.media, out=out)
    console = open_console()
    console.print(f"copied {len(todo.keys)} entries, {in_words(size)}, to {out}")
    console.print(f"there: cinelora train {recipe.name} --set data.cache_dir=FOLDER (clips copied with their times)")


def _is_recipe(target: Path) -> bool:
    """True for a recipe or a run; raises RecipeError where there is nothing."""
    if not target.exists():
        allowed = "a recipe (.toml), a run, or the folder of a cache"
        raise RecipeError(Problem("there is nothing of this name", found=str(target), allowed=allowed))
    return target.is_file() or RunFolder(target).origin.exists()


def _refuse_sets(sets: Sequence[str]) -> None:
    if sets:
        raise RecipeError(Problem("--set has no effect without a recipe", found=" ".join(sets), do="leave it out"))


def _loaded(target: Path, sets: list[str]) -> Loaded:
    """A recipe file, or the recipe of a run with all that was changed on its command line."""
    loaded = RunFolder(target).reload(sets) if target.is_dir() else load(target, sets)
    refuse_off(loaded)
    return loaded


def _wanted(loaded: Loaded) -> tuple[Cache, Todo, Plan]:
    """What a recipe needs of its cache. Raises DataError where that cannot be told of every clip."""
    plan = plan_of(loaded)
    buckets = [slot.bucket for slot in (*plan.slots, *plan.held_out)]
    loaded = with_tiling(loaded, buckets, device=device_of(loaded.recipe.train))
    cache = cache_of(loaded)
    encoding = encoding_of(loaded, encoder_of(loaded), device="cpu")
    todo = cache.look(slots_of(loaded, plan), encoding)
    if todo.problems:
        raise DataError(*todo.problems)
    return cache, todo, plan


def _table(folder: Path, entries: Iterable[Kept], *, title: str = "cache") -> Table:
    """Entries by tower and format: how many, how large, made when and for whom."""
    table = Table(title=f"{title}: {folder}", box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("tower", "format"):
        table.add_column(name)
    for name in ("entries", "size"):
        table.add_column(name, justify="right")
    table.add_column("made")
    table.add_column("by", overflow="fold")
    groups: dict[tuple[str, str], list[Kept]] = defaultdict(list)
    for kept in entries:
        groups[kept.tower, kept.dtype].append(kept)
    for (tower, dtype), group in sorted(groups.items()):
        size = in_words(sum(kept.bytes for kept in group))
        times = sorted(kept.made for kept in group if kept.made)
        by = ", ".join(sorted({kept.by.partition(" (")[0] for kept in group if kept.by}))
        cells = (
            tower,
            dtype,
            f"{len(group):,}",
            size,
            " to ".join(dict.fromkeys(map(_day, times[:1] + times[-1:]))),
            by,
        )
        table.add_row(*map(Text, cells))
    return table


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
