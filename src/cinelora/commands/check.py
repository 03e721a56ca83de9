"""Owns the verb `check`: all problems at once, and what would become of each clip. No weight is read."""

import os
from pathlib import Path

from cinelora.base.errors import DataError, Problem, Problems, RecipeError, RunError, nearest
from cinelora.base.log import open_console
from cinelora.commands.clips import check_streamed, data_of, refuse_streamed, survey_of
from cinelora.commands.init import split
from cinelora.config.load import Loaded, Source, load
from cinelora.config.load import check as check_recipe
from cinelora.config.told import must_say_of
from cinelora.data.plan import Plan, make_plan, nothing_left, stopping
from cinelora.data.sources import Listing, read_records
from cinelora.report.table import buckets_table, clips_table

DEFAULT_MODEL = "wan/tiny"


def check(target: Path, *, model: str, sets: list[str], report: Path | None = None) -> None:
    """Check a recipe, or a folder or table of clips for a model. Raises all errors of the first kind found.

    With `report`, every clip is looked into, and a page of the dataset is written into that folder.
    """
    is_recipe = target.suffix == ".toml"
    _refuse_words(target, is_recipe=is_recipe, model=model, sets=sets)
    loaded = load(target, sets) if is_recipe else _around(target, model or DEFAULT_MODEL)
    if is_recipe:
        check_streamed(loaded)
        _look_early(loaded)
    if report:
        refuse_run(report)
        refuse_streamed(loaded)
    listing, plan = _lenient_plan(loaded)
    console = open_console()
    if plan.slots:
        console.print(buckets_table(plan.rows))
    console.print(clips_table(plan.rows))
    for warning in plan.warnings:
        console.print(f"warning: {warning}")
    problems = [*plan.problems, *(_look(loaded, listing, plan, report) if report else ())]
    fatal = stopping(problems, loaded.recipe.data) if plan.slots else problems
    if fatal:
        raise DataError(*fatal)
    if not plan.slots:
        raise nothing_left(plan.rows)
    said = f"{len(problems)} problems skipped" if problems else "no problem found"
    left_out = sum(row.status == "left out" for row in plan.rows)
    said += f"; {left_out} left out" if left_out > len(problems) else ""
    files = sum(row.status == "used" for row in plan.rows)
    made = f" (made of {files} entries)" if len(plan.slots) != files else ""
    console.print(f"{len(plan.slots)} clips to train on{made}, {len(plan.held_out)} held out; {said}")
    following = f"train {target}" if is_recipe else f"init {model or DEFAULT_MODEL} -o my.toml"
    console.print(f"next: cinelora {following}")


def _look_early(loaded: Loaded) -> None:
    """What `train` looks at before it encodes; a dataset alone needs none of it."""
    from cinelora.commands.begin import check_start
    from cinelora.commands.early import (
        check_base_at_hand,
        check_previews,
        check_shown,
        check_targets,
    )  # peft takes seconds to import

    check_shown(loaded)
    check_targets(loaded)
    check_start(loaded)
    check_previews(loaded)
    check_base_at_hand(loaded)


def refuse_run(folder: Path) -> None:
    """Raise RunError where the page of the dataset would take the place of a run's, or cannot be written at all."""
    place = next(one for one in (folder, *folder.absolute().parents) if os.path.exists(one))
    if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
        what, do = "the report cannot be written there", "name a folder that can be written to"
        raise RunError(Problem(what, found=str(folder), do=do))
    if any(os.path.exists(folder / name) for name in ("events.jsonl", "recipe.toml")):
        what = "this folder holds a run, whose report would be overwritten"
        raise RunError(Problem(what, found=str(folder), do="name another folder for --report"))


def _look(loaded: Loaded, listing: Listing, plan: Plan, folder: Path) -> tuple[Problem, ...]:
    """Look into every clip and write the page; gives back the problems that only this look finds."""
    from cinelora.commands.data_report import write_report  # the encoder's tokenizer takes seconds to import

    written = write_report(loaded, listing, plan, folder)
    console = open_console()
    console.print(f"warnings: {written.num_warnings}, problems: {len(plan.problems) + len(written.problems)}")
    console.print(f"to work through: {written.problems_csv}")
    console.print(f"report: {written.page}")
    return written.problems


def _refuse_words(target: Path, *, is_recipe: bool, model: str, sets: list[str]) -> None:
    """Raise RecipeError for a target that is not there, and for words that would have no effect on it."""
    problems = Problems(RecipeError)
    if not is_recipe and not os.path.exists(target):
        problems.add(
            "there is nothing to check",
            found=str(target),
            allowed="a recipe (.toml), a folder of clips, or a table of clips",
            nearest=nearest(target.name, [p.name for p in target.parent.iterdir()] if target.parent.is_dir() else []),
        )
    if is_recipe and model:
        problems.add("--model has no effect on a recipe", found=model, do="leave it out, or --set model.variant=...")
    if not is_recipe and sets:
        do = "write a recipe around the clips: cinelora init FAMILY/VARIANT"
        problems.add("--set has no effect without a recipe", found=" ".join(sets), do=do)
    problems.raise_if_any()


def _around(target: Path, model: str) -> Loaded:
    """A recipe with every default around a dataset."""
    family, variant = split(model)
    of_source, of_lora = must_say_of(family, variant)
    tables = {
        "model": {"family": family, "variant": variant},
        "data": {"source": [{"path": str(target.resolve()), **of_source}]},
        "lora": of_lora,
    }
    source = Source(tables, file=str(target), said={("model",): f"--model {model}"})
    return check_recipe(source, folder=Path(), name=target.stem)


def _lenient_plan(loaded: Loaded) -> tuple[Listing, Plan]:
    """The plan with every bad clip as a row rather than an error, so that the table can show them all."""
    if (streamed := survey_of(loaded)) is not None:
        return Listing(()), streamed  # the files of its clips are gone
    data, train = loaded.recipe.data, loaded.recipe.train
    listing, geometry = read_records(data_of(loaded), loaded.folder), loaded.variant.geometry
    return listing, make_plan(listing, data, geometry, seed=train.seed, lenient=True, micro_size=train.micro_size)
