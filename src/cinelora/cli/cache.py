"""Owns the words of `cinelora cache`: `cache RECIPE` encodes, `cache ls | verify | gc | export` look after the files.

`cache RECIPE` is `cache fill RECIPE`: a first word that is a file, ends in .toml or is an option means a recipe.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one option of the recipe; may be repeated.")
]
RecipeFile = Annotated[Path, typer.Argument(help="A recipe (TOML).", metavar="RECIPE")]
Target = Annotated[
    Path, typer.Argument(metavar="RECIPE|RUN|FOLDER", help="A recipe (TOML), a run, or the folder of a cache.")
]
Delete = Annotated[bool, typer.Option("--delete", help="Do it; left out, it is only shown.")]


class _FillFirst(TyperGroup):
    """Reads `cache RECIPE ...` as `cache fill RECIPE ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `fill` before words that start with a recipe or an option of it."""
        first = args[0] if args else "--help"
        is_recipe = first.endswith(".toml") or Path(first).exists() or (first.startswith("-") and first != "--help")
        return super().parse_args(ctx, ["fill", *args] if is_recipe and first not in self.commands else args)


app = typer.Typer(
    cls=_FillFirst,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Encode clips and captions ahead of training (cache RECIPE), and look after what is encoded.",
)


@app.command()
def fill(
    recipe: RecipeFile,
    sets: Sets = None,
    workers: Annotated[
        int, typer.Option(min=1, max=1024, help="Processes on this machine: one per GPU, or sharing the cores.")
    ] = 1,
    share: Annotated[
        str, typer.Option(metavar="I/N", help="Do the I-th of N shares, the others elsewhere on the same cache.")
    ] = "",
    dealt: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Encode clips and captions ahead of training; goes on where it stopped. The word `fill` may be left out."""
    from cinelora.commands.cache import cache as run

    run(recipe, sets=sets or [], workers=workers, share=share, dealt=dealt)


@app.command()
def ls(target: Target, sets: Sets = None) -> None:
    """Show what is encoded: of a recipe or run, or all that lies in a folder."""
    from cinelora.commands.cache_folder import ls as run

    run(target, sets=sets or [])


@app.command()
def verify(
    target: Target,
    sets: Sets = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete what is damaged or half-written.")] = False,
) -> None:
    """Read a whole cache and tell what is damaged."""
    from cinelora.commands.cache_folder import verify as run

    run(target, sets=sets or [], delete=delete)


@app.command()
def gc(
    recipes: Annotated[
        list[Path], typer.Argument(metavar="RECIPE|RUN...", help="Recipes (TOML) or runs: all that use the cache.")
    ],
    sets: Sets = None,
    delete: Delete = False,
) -> None:
    """Delete what none of these recipes and runs needs; without --delete it is only shown."""
    from cinelora.commands.cache_folder import gc as run

    run(recipes, sets=sets or [], delete=delete)


@app.command()
def export(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE|RUN", help="A recipe (TOML), or a run.")],
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder for the copy.")],
    sets: Sets = None,
) -> None:
    """Copy what a recipe needs into a folder for another machine."""
    from cinelora.commands.cache_folder import export as run

    run(recipe, out, sets=sets or [])
