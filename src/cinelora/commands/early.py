"""Owns the early looks, before any weight is read: [lora] targets against names, the base against its headers."""

from pathlib import Path

from cinelora.base.errors import Problems, RecipeError
from cinelora.config.load import Loaded
from cinelora.families import registry
from cinelora.lora.targets import sizes


def check_targets(loaded: Loaded) -> None:
    """See that every target of the recipe matches something. Raises RecipeError with all that does not.

    The network is built on the meta device, which takes no memory, from the variant's card.
    """
    parts = registry.named(loaded.family.skeleton)(loaded.variant)
    options = loaded.recipe.lora
    if not options.targets:
        options = options.model_copy(update={"targets": loaded.family.default_preset})
    problems = Problems(RecipeError)
    for name, module in parts.items():
        if options.parts.get(name, "lora") != "lora":
            continue
        try:
            sizes(name, module, options, loaded.family.lora_presets)
        except RecipeError as error:
            problems.found += [loaded.source.located(problem) for problem in error.problems]
    problems.raise_if_any()


def check_base(loaded: Loaded) -> None:
    """See that the base's denoiser is this variant's, from its headers: the encoding ahead of it can take hours.

    Raises WeightsError with everything that is missing, too much or of another shape.
    """
    registry.named(loaded.family.check_base)(loaded.base, loaded.variant)


def check_base_at_hand(loaded: Loaded) -> None:
    """`check_base` for a base that is on this machine; one on the Hub is looked at when it is fetched."""
    if loaded.base == "embedded" or Path(loaded.base).exists():
        check_base(loaded)
