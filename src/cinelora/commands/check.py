"""Owns the verb `check`: all problems at once, and what would become of each clip. No weight is read."""

from pathlib import Path

from rich.console import Console

from cinelora.base.errors import DataError
from cinelora.commands.init import split
from cinelora.commands.targets import check_targets
from cinelora.config.load import Loaded, Source, load
from cinelora.config.load import check as check_recipe
from cinelora.data.plan import Plan, make_plan
from cinelora.data.sources import read_records
from cinelora.report.table import buckets_table, clips_table


def check(target: Path, *, model: str, sets: list[str]) -> None:
    """Check a recipe, or a folder or table of clips for a model. Raises all errors of the first kind found."""
    is_recipe = target.suffix == ".toml"
    loaded = load(target, sets) if is_recipe else _around(target, model)
    if is_recipe:
        check_targets(loaded)
    plan = _lenient_plan(loaded)
    console = Console()
    console.print(buckets_table(plan.rows))
    console.print(clips_table(plan.rows))
    if plan.problems and loaded.recipe.data.on_bad == "stop":
        raise DataError(*plan.problems)
    said = f"{len(plan.problems)} problems skipped" if plan.problems else "no problem found"
    console.print(f"{len(plan.slots)} clips to train on, {len(plan.held_out)} held out; {said}")
    console.print(f"next: cinelora train {target}" if is_recipe else f"next: cinelora init {model} -o my.toml")


def _around(target: Path, model: str) -> Loaded:
    """A recipe with every default around a dataset."""
    family, variant = split(model)
    tables = {"model": {"family": family, "variant": variant}, "data": {"source": [{"path": str(target.resolve())}]}}
    return check_recipe(Source(tables, file=str(target)), folder=Path(), name=target.stem)


def _lenient_plan(loaded: Loaded) -> Plan:
    """The plan with every bad clip as a row rather than an error, so that the table can show them all."""
    data = loaded.recipe.data.model_copy(update={"on_bad": "skip"})
    listing = read_records(data, loaded.folder)
    return make_plan(listing, data, loaded.variant.geometry, seed=loaded.recipe.train.seed)
