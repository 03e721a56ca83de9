"""Owns the verb `report`: the page of a run, written again."""

from pathlib import Path

from cinelora.base.errors import Problem, RunError
from cinelora.base.log import console
from cinelora.commands.run_folder import RunFolder
from cinelora.report.page import write_page


def report(run_folder: Path) -> None:
    """Write report.html. Raises RunError where the folder holds no run or is damaged."""
    folder = RunFolder(run_folder)
    if run_folder.is_dir() and not folder.recipe.exists() and not folder.events.exists():
        do = "name a folder that `cinelora train` made"
        raise RunError(Problem("this folder holds no run", found=str(run_folder), do=do))
    console.print(f"report: {write_page(run_folder)}")
