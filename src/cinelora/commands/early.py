"""Owns the early looks, before any weight is read: targets, the base's headers, what previews start from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cinelora.base.errors import Problem, Problems, RecipeError, WeightsError
from cinelora.base.log import console
from cinelora.commands.clips import encoder_of
from cinelora.config.load import Loaded
from cinelora.contracts.card import Variant
from cinelora.data.encoding import runs
from cinelora.families import registry
from cinelora.lora.targets import planned
from cinelora.nets.schedule import contradictions
from cinelora.nets.weights import RANDOM, may_be_on_hub
from cinelora.noise.registry import open_process
from cinelora.preview.options import preview_bucket
from cinelora.preview.pictures import check_film, check_picture, check_pictures, takes_ends

if TYPE_CHECKING:
    from cinelora.train.place import Place


def check_targets(loaded: Loaded) -> None:
    """See that every target of the recipe matches something. Raises RecipeError with all that does not.

    The network is built on the meta device, which takes no memory, from the variant's card.
    """
    parts = registry.skeleton(loaded.family, loaded.variant)
    options = loaded.recipe.lora
    if not options.targets:
        options = options.model_copy(update={"targets": loaded.family.default_preset})
    try:
        planned(parts, options, loaded.family.lora_presets)
    except RecipeError as error:
        raise RecipeError(*(loaded.source.located(problem) for problem in error.problems)) from error


def check_shown(loaded: Loaded) -> None:
    """See that a run without clips is shown what its variant starts from. Raises RecipeError."""
    show, problems = loaded.recipe.data.show, Problems(RecipeError)
    if show == "clips":
        return
    seeing = [t for t in encoder_of(loaded).towers() if runs(t, "pictures") and not runs(t, "captions")]
    needed = [tower for tower in seeing if not getattr(tower, "optional", False)]
    if show == "captions" and needed:
        what, do = "this variant cannot start from a caption alone", "set data.show = 'pictures', and name pictures"
        found = "conditions made of pixels: " + ", ".join(name for tower in needed for name in tower.gives)
        problems.add(what, found=found, where="data.show", do=do)
    if show == "pictures" and not seeing:
        what, do = "this variant takes no pictures to start from", "set data.show = 'captions', or take one that does"
        problems.add(what, found="data.show = 'pictures'", where="data.show", do=do)
    problems.found = [loaded.source.located(problem) for problem in problems.found]
    problems.raise_if_any()


def check_base(loaded: Loaded) -> None:
    """See that the base's denoiser is this variant's, from its headers: the encoding ahead of it can take hours.

    Raises WeightsError with everything that is missing, too much or of another shape, and the variants that do fit.
    """
    try:
        registry.check_base(loaded.family, loaded.variant, loaded.base)
    except WeightsError as error:
        fitting = [name for name, variant in loaded.family.variants.items() if _fits(loaded, variant)]
        if not fitting:
            raise
        do = f"this base fits model.variant = {' or '.join(map(repr, fitting))}; choose that, or name another base"
        raise WeightsError(*(replace(problem, do=do) for problem in error.problems)) from error


def _fits(loaded: Loaded, variant: Variant) -> bool:
    """True where a base on this machine is a variant's."""
    if not Path(loaded.base).exists():
        return False
    try:
        registry.check_base(loaded.family, variant, loaded.base)
    except WeightsError:
        return False
    return True


def check_base_at_hand(loaded: Loaded) -> None:
    """Look at a base and its schedule that are on this machine; one on the Hub is looked at when it is fetched.

    Raises WeightsError where it does not fit, or is missing and can be of no Hub.
    """
    if loaded.base == RANDOM:
        return
    if loaded.base == "embedded" or Path(loaded.base).exists() or not may_be_on_hub(loaded.base):
        check_base(loaded)
        check_schedule(loaded)


def check_previews(loaded: Loaded) -> None:
    """See that previews have the pictures that the variant starts from, and a walk of its process.

    Raises RecipeError.
    """
    options = loaded.recipe.preview
    if not options.prompts:
        return
    try:
        frames, encoder = preview_bucket(options, loaded.variant.geometry).frames, encoder_of(loaded)
        ends = options.images if options.loop else options.end_images
        if options.loop and not takes_ends(encoder):
            what, do = "clips of this variant cannot go round: they take no picture to end at", "remove preview.loop"
            raise RecipeError(Problem(what, found="preview.loop = true", where="preview.loop", do=do))
        check_pictures(encoder, len(options.images), len(ends), frames=frames)
        process, strength = open_process(loaded.recipe.noise), options.strength_of_videos
        process.sampler(options.num_steps, options.sampler, options.denoising_steps, strength=strength)
        _check_files(loaded)
    except RecipeError as error:
        raise RecipeError(*(loaded.source.located(problem) for problem in error.problems)) from error


def check_spread(loaded: Loaded, place: "Place", *, measured: bool = False) -> None:
    """See that a base that is to be spread over ranks can be. Raises RecipeError with everything in its way.

    What the run makes can be `measured` at its end by one rank alone.
    """
    if place.zero:
        _check_zero(loaded, place)
    if not place.sharded:
        return
    recipe, problems = loaded.recipe, Problems(RecipeError)
    found, where = f"train.sharding = {place.sharding!r}", "train.sharding"
    if loaded.variant.experts and recipe.model.experts_in_memory == "one":
        do = "set model.experts_in_memory = 'all': each GPU then has a part of every expert"
        problems.add("one expert in memory at a time cannot be spread over GPUs", found=found, where=where, do=do)
    if loaded.variant.experts and recipe.method.name == "distill":
        what, do = "experts that are distilled together cannot be spread over GPUs", "distil one, or do not spread"
        reason = f"{found}; GPUs draw noise levels of other experts, and would wait for one another for ever"
        problems.add(what, found=reason, where=where, do=do)
    if loaded.family.folders:
        do = "leave sharding out: its bases fit into one GPU"
        what = "this family's folders hold weights of the base, which no GPU has whole"
        problems.add(what, found=found, where=where, do=do)
    if measured:
        problems.add("a demo measures with the whole base", found=found, where=where, do="start it without sharding")
    problems.found = [loaded.source.located(problem) for problem in problems.found]
    problems.raise_if_any()


def _check_zero(loaded: Loaded, place: "Place") -> None:
    """See that DeepSpeed can have the optimizers of what learns. Raises RecipeError with everything in its way."""
    recipe, problems, zero = loaded.recipe, Problems(RecipeError), place.zero
    assert zero is not None
    found, where = f"ZeRO-{zero.asked}", "train.zero"
    if loaded.variant.experts and recipe.model.experts_in_memory == "one":
        do = "set model.experts_in_memory = 'all', or train without DeepSpeed"
        what = "DeepSpeed holds what learns in one piece, and experts that take turns on the GPU take it along"
        problems.add(what, found=found, where=where, do=do)
    if loaded.variant.experts and recipe.method.name == "distill":
        what = "ZeRO steps all that a player learns at once, and a step may ask one expert alone"
        problems.add(what, found=found, where=where, do="train without DeepSpeed")
    if zero.offload and zero.offload != recipe.memory.optimizer:
        what, do = "DeepSpeed's settings contradict the recipe", "set memory.optimizer, or offload_optimizer"
        found, allowed = f"offload_optimizer = {zero.offload}", f"memory.optimizer = {recipe.memory.optimizer!r}"
        problems.add(what, found=found, allowed=allowed, where="memory.optimizer", do=do)
    problems.found = [loaded.source.located(problem) for problem in problems.found]
    problems.raise_if_any()


_STARTS = {"images": "a picture to start from", "end_images": "a picture to end at", "videos": "a video to go on from"}


def _check_files(loaded: Loaded) -> None:
    """See that what previews start from is there, and videos long enough. Raises RecipeError, DataError."""
    problems = Problems(RecipeError)
    for name, what in _STARTS.items():
        missing = [path for path in starts_of(loaded, name) if not path.is_file()]
        if missing:
            found, do = ", ".join(map(str, missing)), "correct the path, which starts from the recipe's folder"
            problems.add(f"{what} is missing", found=found, where=f"preview.{name}", do=do)
    problems.raise_if_any()
    for name in ("images", "end_images"):
        for path in starts_of(loaded, name):
            check_picture(path, name)
    geometry = loaded.variant.geometry
    for path in starts_of(loaded, "videos"):
        check_film(path, preview_bucket(loaded.recipe.preview, geometry), geometry.fps)


def starts_of(loaded: Loaded, name: str) -> list[Path]:
    """What previews start from: "images", "end_images" or "videos"; relative ones from the recipe's folder."""
    return [loaded.folder / Path(file).expanduser() for file in getattr(loaded.recipe.preview, name)]


def check_schedule(loaded: Loaded) -> None:
    """Tell where [noise] is another process than the one which the base says that it was trained with.

    A recipe may mean it so, thus it is no error. Raises WeightsError where the base's file is damaged.
    """
    stated = registry.stated_noise(loaded.family, loaded.variant, loaded.base)
    for name, (own, said) in contradictions(stated, loaded.recipe.noise.model_dump()).items():
        told = f"the base's scheduler config says {own!r}"
        console.print(
            f"warning: noise.{name} is {said!r}, and {told}; set noise.{name} = {json.dumps(own)} to train as it was"
        )
