"""Owns what [memory] means for a recipe: what cannot go together, and the denoiser that is made to fit.

In: a Loaded recipe, its place. Out: errors before a weight is read; parts ready for adapters, then ready to learn.
"""

from collections.abc import Iterable, Mapping

from torch import nn

from cinelora.base.errors import Problems, RecipeError
from cinelora.base.log import console
from cinelora.config.load import Loaded
from cinelora.engine.fit_out import Fitted, fit_out, prepare
from cinelora.engine.options import MemoryOptions
from cinelora.engine.quantise import check_quantise
from cinelora.lora.adapters import Adapters
from cinelora.lora.inject import FROM_BASE
from cinelora.train.place import Place


def check_memory(loaded: Loaded, *, sharded: bool) -> None:
    """See that nothing in [memory] stands in the way of something else. Raises RecipeError with all that does."""
    problems = Problems(RecipeError)
    for what, section, do in (*_unheard(loaded), *_apart(loaded, sharded=sharded), *_unquantised(loaded)):
        value = getattr(loaded.recipe.memory, section)
        problems.add(what, found=f"memory.{section} = {value!r}", where=f"memory.{section}", do=do)
    problems.found = [loaded.source.located(problem) for problem in problems.found]
    problems.raise_if_any()
    check_quantise(loaded.recipe.memory.quantise)


Found = Iterable[tuple[str, str, str]]
"""What is wrong, the option of [memory], what to do."""


def _unheard(loaded: Loaded) -> Found:
    if loaded.recipe.memory.recompute != "blocks" and not loaded.recipe.train.gradient_checkpointing:
        do = "set train.gradient_checkpointing = true, or leave it out"
        yield "nothing is computed twice in this recipe", "recompute", do
    memory = loaded.recipe.memory
    if loaded.recipe.speed.compile and memory.base == "streamed" and memory.recompute in ("attention", "nested"):
        do = "set memory.recompute = 'blocks', or speed.compile = false"
        yield "a compiled block cannot ask for its weights in the middle", "recompute", do


def _apart(loaded: Loaded, *, sharded: bool) -> Found:
    """What cannot be where ranks hold pieces of the base, or experts take turns on the GPU."""
    memory, defaults = loaded.recipe.memory, MemoryOptions()
    set_apart = [
        name for name in ("base", "quantise", "activations") if getattr(memory, name) != getattr(defaults, name)
    ]
    for name in set_apart if sharded else ():
        do = f"set it to {getattr(defaults, name)!r}, or train.sharding = 'none'"
        yield "a base that is spread over GPUs cannot have this", name, do
    one = loaded.variant.experts and loaded.recipe.model.experts_in_memory == "one"
    for name in set_apart if one else ():
        if name != "activations":
            do = "set model.experts_in_memory = 'all'; memory.base = 'streamed' keeps less on the GPU than one expert"
            yield "experts that take turns on the GPU cannot have this", name, do


def _unquantised(loaded: Loaded) -> Found:
    """What needs the base's weights whole."""
    if loaded.recipe.memory.quantise == "none":
        return
    lora = loaded.recipe.lora
    if lora.dora:
        yield "DoRA measures the base's own weights, and these are rounded", "quantise", "set lora.dora = false"
    if lora.init in FROM_BASE:
        what = f"lora.init = {lora.init!r} starts from the base's own weights, and these are rounded"
        yield what, "quantise", "set lora.init = 'default'"
    if loaded.family.folders:
        what = "this family's folders hold weights of the base, which would be rounded ones"
        yield what, "quantise", "set memory.quantise = 'none'; memory.base = 'streamed' saves more"


def prepared(loaded: Loaded, parts: Mapping[str, nn.Module], place: Place, *, move: bool) -> None:
    """Ahead of adapters: the base in the number format of [memory], on its device if it is to `move` there."""
    full = [part for part, mode in loaded.recipe.lora.parts.items() if mode == "full"]
    found = prepare(parts, loaded.recipe.memory, device=place.device, learning=full, move=move)
    if found is not None:
        console.print(f"{found}")


def fitted_out(loaded: Loaded, parts: Mapping[str, nn.Module], players: Iterable[Adapters], place: Place) -> Fitted:
    """With adapters in: whatever else [memory] says, and [speed] of the denoiser."""
    twice = loaded.recipe.train.gradient_checkpointing
    adapters = [weight for one in players for weight in one.resident()]
    recipe = loaded.recipe
    found = fit_out(parts, recipe.memory, device=place.device, twice=twice, adapters=adapters, speed=recipe.speed)
    if told := str(found):
        console.print(told)
    return found
