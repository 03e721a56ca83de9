"""Owns the words of `cinelora import`."""

from pathlib import Path
from typing import Annotated

import typer

from cinelora.cli.cache import Sets


def import_recipe(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="A launch script, a YAML or TOML file of an old trainer, or several that belong together; "
            "- is standard input.",
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; standard output if left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Tell everything as JSON.")] = False,
    model: Annotated[
        str, typer.Option(metavar="FAMILY/VARIANT", help="Left out, the one that the name of the base says.")
    ] = "",
    dialect: Annotated[
        str, typer.Option(metavar="NAME", help="Whose command it is, where its program's name does not say so.")
    ] = "",
    command: Annotated[int, typer.Option(help="Which training command, where there are several; from 1.", min=0)] = 0,
    sets: Sets = None,
) -> None:
    """Make a recipe of an old trainer's launch command or configuration, and tell what became of each setting."""
    from cinelora.commands.import_recipe import Wishes
    from cinelora.commands.import_recipe import import_recipe as run

    run(source, Wishes(out, force, as_json, dialect, model, command, tuple(sets or ())))
