"""Owns the verb `init`: a commented recipe."""

import sys
from pathlib import Path

from cinelora.base.errors import Problem, RecipeError, RunError
from cinelora.base.files import write_text
from cinelora.base.log import console
from cinelora.config.write import template
from cinelora.families import registry


def split(model: str) -> tuple[str, str]:
    """ "wan/tiny" -> ("wan", "tiny"). Raises RecipeError."""
    family, slash, variant = model.partition("/")
    if not slash or not family or not variant:
        shown = [
            f"{f.name}/{v}" for f in registry.FAMILIES.values() if f.name not in registry.HIDDEN for v in f.variants
        ]
        raise RecipeError(Problem("name a family and a variant", found=model, allowed=", ".join(shown)))
    return family, variant


def init(model: str, *, out: Path | None) -> None:
    """Write a recipe for FAMILY/VARIANT to a file, or to standard output."""
    text = template(*registry.find(*split(model)))
    if out is None:
        sys.stdout.write(text + "\n")
        return
    if out.exists():
        raise RunError(Problem("this file exists", found=str(out), do="choose another name, or remove it"))
    write_text(out, text + "\n")
    console.print(f"wrote {out}; next: put your clips' folder into [[data.source]], then `cinelora check {out}`")
