"""Owns the words of `cinelora recipe`: `show`, `diff` and `explain`."""

from pathlib import Path
from typing import Annotated

import typer

from cinelora.cli.cache import Sets

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="See what recipes and runs say, where they differ, what keys mean.",
)

Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
_EITHER = "A recipe (TOML), or the folder of a run."


@app.command()
def show(
    target: Annotated[Path, typer.Argument(metavar="RECIPE|RUN", help=_EITHER)],
    sets: Sets = None,
    everything: Annotated[bool, typer.Option("--all", help="Show untouched defaults, too.")] = False,
    as_json: Json = False,
) -> None:
    """Print a recipe as it is after all defaults, each value with where it comes from."""
    from cinelora.commands.recipe_show import show as run

    run(target, sets=sets or [], everything=everything, as_json=as_json)


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help=_EITHER)],
    second: Annotated[Path, typer.Argument(metavar="B", help=_EITHER)],
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 1 where they differ.")] = False,
    as_json: Json = False,
) -> None:
    """Tell what differs between two recipes or runs: values, data, versions, adapters."""
    from cinelora.commands.recipe_diff import diff as run

    if run(first, second, as_json=as_json) and exit_code:
        raise typer.Exit(1)


@app.command(context_settings={"ignore_unknown_options": True})
def explain(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY", help="Such as train.lr, lr, a section, or --learning_rate of another trainer; left out, all."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Tell what a key means, its default, what it costs, where it is used, and what other trainers call it."""
    from cinelora.commands.recipe_explain import explain as run

    run(key, as_json=as_json)
