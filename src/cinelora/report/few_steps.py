"""Owns what a run's recipe says of the few steps that it has learned, as lines of diffusers. Loads no torch.

In: a run's recipe as tables. Out: `FewSteps`, or None of a run that has learned none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from cinelora.base.errors import Problem, RecipeError
from cinelora.nets.usage import few_step_lines
from cinelora.noise.options import NoiseOptions


@dataclass(frozen=True)
class FewSteps:
    """The times of a distilled adapter's steps before the shift, in (0, 1], and the shift."""

    times: tuple[float, ...]
    shift: float

    @property
    def lines(self) -> str:
        """Lines that give a diffusers pipeline these steps."""
        return few_step_lines(self.times, shift=self.shift)


def few_steps(recipe: Mapping[str, Any]) -> FewSteps | None:
    """The steps that a resolved recipe's method learns. Raises RecipeError for a [noise] that cannot be."""
    method = recipe.get("method")
    if not isinstance(method, Mapping) or method.get("name") != "distill" or not method.get("denoising_steps"):
        return None
    try:
        noise = NoiseOptions.model_validate(recipe.get("noise", {}))
    except ValidationError as error:
        raise RecipeError(Problem("the section [noise] of the run cannot be read", found=str(error))) from error
    if method.get("compat") == "videox":
        noise = noise.model_copy(update={"t_min": 0.0, "t_max": 1.0})
    return FewSteps(tuple(noise.u_of(method["denoising_steps"])), noise.shift)
