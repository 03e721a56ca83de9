"""Owns the options of section [noise]: which times a clip is noised to, and how much each time's loss counts.

A variant's `process` table stands under these values, so that a recipe says only what differs. Imports no torch.
"""

from typing import Literal

from pydantic import model_validator

from cinelora.contracts.options import Options, option


class NoiseOptions(Options):
    """Noise level sigma lies in [0, 1]: 0 is the clean clip, 1 is noise alone."""

    kind: Literal["flow"] = option(
        "flow", "the process: `flow` mixes clip and noise on a straight line and learns the way from clip to noise"
    )
    shift: float = option(
        1.0,
        "moves times towards noise: sigma = s u / (1 + (s - 1) u); 1 changes nothing, larger suits more pixels; "
        "the variant's own value unless set",
        gt=0,
    )
    timesteps: Literal["uniform", "logit_normal", "mode", "cosmap"] = option(
        "uniform",
        "how u is drawn before the shift: `uniform`; `logit_normal` prefers the middle; `mode` and `cosmap` as in SD3",
    )
    logit_mean: float = option(
        0.0, "mean of the normal under `logit_normal`; above 0 prefers noise", only_if=("timesteps", ("logit_normal",))
    )
    logit_std: float = option(
        1.0,
        "width of the normal under `logit_normal`; smaller stays closer to the middle",
        only_if=("timesteps", ("logit_normal",)),
        gt=0,
    )
    mode_scale: float = option(
        1.29,
        "strength of `mode`: 0 is uniform, above 0 prefers the middle, below 0 the ends",
        only_if=("timesteps", ("mode",)),
        ge=-1.0,
        le=1.75,
    )
    stratified: bool = option(
        True,
        "spread the times of one micro-batch (over all ranks) evenly instead of drawing each alone; steadier losses",
    )
    strata: Literal["fine", "ranks"] = option(
        "fine",
        "how times are spread: `fine` = every clip of the micro-batches of all ranks has an equal part of the range "
        "for itself; `ranks` = every rank keeps to one part of it (EasyAnimate's uniform_sampling; no effect on one "
        "GPU)",
        only_if=("stratified", (True,)),
    )
    t_min: float = option(0.0, "lowest noise level that is trained, after the shift (included)", ge=0, lt=1)
    t_max: float = option(1.0, "highest noise level that is trained, after the shift (left out)", gt=0, le=1)
    weighting: Literal["none", "sigma_sqrt", "cosmap"] = option(
        "none",
        "what a clip's loss is multiplied by: `none` 1; `sigma_sqrt` sigma^-2; "
        "`cosmap` 2 / (pi (1 - 2 sigma + 2 sigma^2))",
    )

    @model_validator(mode="after")
    def _range_is_sound(self) -> "NoiseOptions":
        if self.t_min >= self.t_max:
            raise ValueError(f"t_min must be below t_max, found t_min = {self.t_min}, t_max = {self.t_max}")
        if self.weighting == "sigma_sqrt" and self.t_min <= 0:
            raise ValueError(
                "weighting = 'sigma_sqrt' divides by sigma^2, which has no mean down to sigma = 0: "
                "set t_min above 0 (0.001 is the lowest point of a table of 1000 times)"
            )
        return self
