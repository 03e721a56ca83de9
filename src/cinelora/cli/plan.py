"""Owns the words of `cinelora plan`."""

from pathlib import Path
from typing import Annotated

import typer

from cinelora.cli.cache import RecipeFile, Sets


def plan(
    recipe: RecipeFile,
    sets: Sets = None,
    gpu: Annotated[
        str, typer.Option(metavar="24GB|NAME", help="What it is to fit into: a GPU's memory, or its name (H100).")
    ] = "",
    world: Annotated[int, typer.Option(help="How many such GPUs work together.", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what a recipe takes of memory, disk and time, before any work; exit code 5 where it does not fit."""
    from cinelora.commands.plan import plan as run

    raise typer.Exit(run(Path(recipe), sets=sets or [], gpu=gpu, world=world, as_json=as_json))
