"""Owns the verb `report`: the page of a run, written again."""

from pathlib import Path

from cinelora.base.log import console
from cinelora.report.page import write_page


def report(run_folder: Path) -> None:
    """Write report.html. Raises RunError where the folder holds no run or is damaged."""
    console.print(f"report: {write_page(run_folder)}")
