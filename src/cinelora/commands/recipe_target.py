"""Owns the reading of what `recipe show` and `recipe diff` are given: a recipe file, or the folder of a run."""

from dataclasses import dataclass
from pathlib import Path

from cinelora.base.errors import Problem, RecipeError, nearest
from cinelora.commands.run_folder import RunFolder
from cinelora.config.load import Loaded, load
from cinelora.config.origins import Value, values_of


@dataclass(frozen=True)
class Target:
    """A recipe that is checked, with the values that have an effect; `run` is its folder where it is that of a run."""

    path: Path
    loaded: Loaded
    values: list[Value]
    run: Path | None

    @property
    def title(self) -> str:
        """What it is: "my.toml: wan/t2v-1.3b, Wan 2.1 text-to-video 1.3B"."""
        model, variant = self.loaded.recipe.model, self.loaded.variant
        what = f"run {self.path}" if self.run else f"{self.path}"
        return f"{what}: {model.family}/{model.variant}, {variant.title}"


def opened(path: Path, sets: list[str]) -> Target:
    """Read and check a recipe or a run. Raises RecipeError with all problems, RunError where a run is damaged."""
    if path.is_dir():
        loaded = RunFolder(path).reload(sets)
        # A run's recipe spells every value out; what is no other than it would be by itself was not said by anybody.
        return Target(path, loaded, values_of(loaded, spelled_out=True), path)
    if not path.exists() and path.suffix != ".toml":
        near = nearest(path.name, [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else [])
        allowed, do = "a recipe (.toml), or the folder of a run", "name one that is there"
        raise RecipeError(Problem("no such recipe or run", found=str(path), allowed=allowed, nearest=near, do=do))
    loaded = load(path, sets)
    return Target(path, loaded, values_of(loaded), None)
