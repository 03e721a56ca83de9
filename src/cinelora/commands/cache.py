"""Owns the verb `cache`: encode ahead of training."""

from pathlib import Path

from cinelora.base.errors import Problem, RecipeError
from cinelora.base.log import console
from cinelora.commands.clips import encoder_of, encoding_of, fill, plan_of, tell_fill
from cinelora.commands.early import check_base, check_targets
from cinelora.config.load import load
from cinelora.train.place import open_place


def cache(recipe: Path, *, sets: list[str]) -> None:
    """Encode every clip and caption of a recipe that is not in the cache yet; damaged entries are made again."""
    loaded = load(recipe, sets)
    if loaded.recipe.data.cache == "off":
        raise RecipeError(Problem("there is nothing to cache", found='data.cache = "off"', do='set data.cache = "on"'))
    plan = plan_of(loaded)
    check_targets(loaded)
    check_base(loaded)
    place = open_place(loaded.recipe.train)
    report, _ = fill(loaded, plan, encoding_of(loaded, encoder_of(loaded), device=str(place.device)), verify=True)
    tell_fill(report)
    place.leave()
    console.print(f"next: cinelora train {recipe}")
