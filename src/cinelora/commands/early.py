"""Owns the early looks, before any weight is read: targets, the base's headers, what previews start from."""

from pathlib import Path

from cinelora.base.errors import Problem, Problems, RecipeError
from cinelora.commands.clips import encoder_of
from cinelora.config.load import Loaded
from cinelora.families import registry
from cinelora.lora.targets import sizes
from cinelora.noise.registry import open_process
from cinelora.preview.sample import check_pictures


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


def check_previews(loaded: Loaded) -> None:
    """See that previews have the pictures that the variant starts from, and a walk of its process.

    Raises RecipeError.
    """
    options = loaded.recipe.preview
    if not options.prompts:
        return
    try:
        check_pictures(encoder_of(loaded), len(options.images))
        open_process(loaded.recipe.noise).sampler(options.num_steps, options.sampler)
    except RecipeError as error:
        raise RecipeError(*(loaded.source.located(problem) for problem in error.problems)) from error
    missing = [path for path in pictures_of(loaded) if not path.is_file()]
    if missing:
        where, do = "preview.images", "correct the path, which starts from the recipe's folder"
        found = ", ".join(map(str, missing))
        problem = Problem("a picture to start from is missing", found=found, where=where, do=do)
        raise RecipeError(loaded.source.located(problem))


def pictures_of(loaded: Loaded) -> list[Path]:
    """The pictures that previews start from; relative ones from the recipe's folder."""
    return [loaded.folder / Path(image).expanduser() for image in loaded.recipe.preview.images]
