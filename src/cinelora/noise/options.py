"""Owns the options of section [noise]: which times a clip is noised to, and how much each time's loss counts.

A variant's `process` table stands under these values, so that a recipe says only what differs. Imports no torch.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import model_validator

from cinelora.contracts.options import Options, option

SCRIPT_OFFSET = 0.05
"""`noise_offset` under compat, as FramerTurbo's script has it."""
_ON_TABLE = ("kind", ("ddpm", "sigma"))


class NoiseOptions(Options):
    """Noise level sigma lies in [0, 1]: 0 is the clean clip, 1 is noise alone."""

    kind: Literal["flow", "ddpm", "sigma", "edm"] = option(
        "flow",
        "the process, which the base was trained with: `flow` mixes clip and noise on a straight line and learns the "
        "way from clip to noise; `ddpm` goes over a table of 1000 levels; `sigma` goes over one, too, and the base "
        "predicts the noise and how sure it is; `edm` adds noise of any level, as Stable Video Diffusion; the "
        "variant's own unless set",
    )
    prediction: Literal["v", "eps", "x0"] = option(
        "v",
        "what the base predicts: velocity, the noise, or the clip; the variant's own unless set (`edm`: v, or eps with "
        "compat)",
        only_if=("kind", ("ddpm", "edm")),
    )
    p_mean: float = option(
        0.7,
        "mean of ln sigma, from which levels are drawn: sigma = exp(p_mean + p_std n), n normal; more noise for more "
        "frames; the variant's own unless set; no effect under compat",
        only_if=("kind", ("edm",)),
        unit="ln sigma",
    )
    p_std: float = option(
        1.6,
        "deviation of ln sigma; the variant's own unless set; no effect under compat",
        only_if=("kind", ("edm",)),
        gt=0,
        unit="ln sigma",
    )
    compat: Literal["none", "ddpm"] = option(
        "none",
        "`ddpm` learns as FramerTurbo's training script does (a table of 1000 levels with whole times, given latents "
        "scaled, fixed ids), which is not how the base was trained: to compare with, not for results",
        only_if=("kind", ("edm",)),
    )
    betas: Literal["scaled_linear", "linear"] = option(
        "scaled_linear",
        "how betas are spread between beta_start and beta_end: evenly in their roots, or themselves",
        only_if=_ON_TABLE,
    )
    beta_start: float = option(0.00085, "first beta of the table", only_if=_ON_TABLE, gt=0, lt=1)
    beta_end: float = option(0.012, "last beta of the table", only_if=_ON_TABLE, gt=0, lt=1)
    snr_shift: float = option(
        1.0,
        "divides the signal-to-noise ratio of every level by this: more noise for more pixels; 1 changes nothing",
        only_if=("kind", ("ddpm",)),
        gt=0,
    )
    zero_terminal_snr: bool = option(
        False, "whether the last level is noise alone (Lin et al. 2024)", only_if=("kind", ("ddpm",))
    )
    rescale_to: float = option(
        1.0,
        "clean clips are multiplied by 1 at the first time, by less and less up to `rescale_times`, and by this from "
        "there on (DynamiCrafter's dynamic rescale, its base_scale); 1 changes nothing; the variant's own unless set",
        only_if=("kind", ("ddpm",)),
        gt=0,
        le=1,
    )
    rescale_times: int = option(
        400,
        "over how many of the table's times the multiplier goes down from 1 to `rescale_to`",
        only_if=("kind", ("ddpm",)),
        ge=2,
        le=1000,
        unit="times of the table",
    )
    noise_offset: float | None = option(
        None,
        "deviation of what is added to all noise of a frame at once, so that brightness is learned (offset noise; 0.05 "
        "to 0.1 are usual): of each channel, or with `edm`, under compat alone, of all channels as FramerTurbo's "
        "script does; 0 = off; left out, 0.05 under compat, else 0",
        only_if=("kind", ("ddpm", "edm")),
        ge=0,
        unit="deviation of the noise",
    )
    min_snr: float = option(
        0.0,
        "gamma of min-SNR weighting (Hang et al. 2023; 5 is usual): levels with little noise count less; 0 = off",
        only_if=("kind", ("ddpm",)),
        ge=0,
    )
    num_levels: int = option(
        1000,
        "how many levels of the table are trained, evenly spread from its first to its last; 1000 = all",
        only_if=("kind", ("sigma",)),
        ge=2,
        le=1000,
        unit="levels",
    )
    snr_loss: bool = option(
        False,
        "whether the first 250 levels, those with the least noise, are compared as clips and not as noise",
        only_if=("kind", ("sigma",)),
    )
    spacing: Literal["trailing", "linspace", "leading", "uniform", "quad"] = option(
        "trailing",
        "which levels a preview of n steps goes over: `trailing` from the last one down; `linspace` from the last to "
        "the first; `leading` in whole steps from the first up, so that the last is left out; with the sampler "
        "ddim-eta also `uniform`, as `leading` but one level up and with more steps where n does not divide 1000, and "
        "`quad`, closer together towards the clip",
        only_if=_ON_TABLE,
    )
    eta: float = option(
        1.0,
        "how much fresh noise each step of the sampler ddim-eta draws: 1 as much as DDPM, 0 none",
        only_if=_ON_TABLE,
        ge=0,
        le=1,
    )
    shift: float = option(
        1.0,
        "moves times towards noise: sigma = s u / (1 + (s - 1) u); 1 changes nothing, larger suits more pixels; "
        "the variant's own value unless set",
        only_if=("kind", ("flow",)),
        gt=0,
    )
    sampling_shift: float | None = option(
        None,
        "shift of previews, for bases that are trained without the shift they are sampled with; left out, shift. "
        "Not of the sampler renoise, which keeps to that of training",
        only_if=("kind", ("flow",)),
        gt=0,
    )
    timesteps: Literal["uniform", "logit_normal", "mode", "cosmap"] = option(
        "uniform",
        "how u is drawn before the shift: `uniform`; `logit_normal` prefers the middle; `mode` and `cosmap` as in SD3",
        only_if=("kind", ("flow", "ddpm")),
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
        "spread the times of one step's clips (over all micros and GPUs) evenly, not each drawn alone; steadier losses",
    )
    strata: Literal["fine", "ranks"] = option(
        "fine",
        "how times are spread: `fine` = every clip of a step has an equal part of the range for itself; `ranks` = each "
        "rank keeps to one part of it (EasyAnimate's uniform_sampling; no effect on one GPU)",
        only_if=("stratified", (True,)),
    )
    t_min: float = option(
        0.0,
        "lowest noise level that is trained, after the shift (included)",
        only_if=("kind", ("flow", "ddpm")),
        ge=0,
        lt=1,
        unit="noise level, 0 to 1",
    )
    t_max: float = option(
        1.0,
        "highest noise level that is trained, after the shift (left out)",
        only_if=("kind", ("flow", "ddpm")),
        gt=0,
        le=1,
        unit="noise level, 0 to 1",
    )
    weighting: Literal["none", "sigma_sqrt", "cosmap"] = option(
        "none",
        "what a clip's loss is multiplied by: `none` 1; `sigma_sqrt` sigma^-2; "
        "`cosmap` 2 / (pi (1 - 2 sigma + 2 sigma^2))",
        only_if=("kind", ("flow",)),
    )

    max_error: float = option(
        0.0,
        "errors of single elements above this count as none, against outliers; 0 = all count, 50 as in EasyAnimate",
        only_if=("kind", ("flow", "ddpm")),
        ge=0,
    )
    frame_share: float = option(
        0.0,
        "share of its noise that a latent frame has from the one before it (EasyAnimate's noise_share_in_frames takes "
        "0.5; later frames then have less noise). Held-out losses are without it",
        ge=0,
        lt=1,
        unit="share of the noise",
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

    @model_validator(mode="after")
    def _edm_predicts_velocity(self) -> "NoiseOptions":
        allowed = ("v", "eps") if self.compat == "ddpm" else ("v",)
        if self.kind == "edm" and self.prediction not in allowed:
            raise ValueError(
                f"prediction = {self.prediction!r} does not go with kind = 'edm' and compat = {self.compat!r}: "
                f"use {' or '.join(map(repr, allowed))}"
            )
        return self

    @model_validator(mode="after")
    def _edm_is_offset_under_compat(self) -> "NoiseOptions":
        if self.kind == "edm" and self.compat == "none" and self.noise_offset is not None:
            raise ValueError("noise_offset has no effect with kind = 'edm' and compat = 'none': remove it")
        return self

    @property
    def offset(self) -> float:
        """`noise_offset`, or what stands for it where it is left out."""
        if self.noise_offset is None:
            return SCRIPT_OFFSET if self.kind == "edm" and self.compat == "ddpm" else 0.0
        return self.noise_offset

    @property
    def u_range(self) -> tuple[float, float]:
        """t_min and t_max before the shift: u = sigma / (s - (s - 1) sigma)."""
        low, high = (sigma / (self.shift - (self.shift - 1) * sigma) for sigma in (self.t_min, self.t_max))
        return low, high

    def u_of(self, places: Sequence[float]) -> list[float]:
        """Places, in thousandths of the trained range (1000 = its noisiest end), as times before the shift."""
        low, high = self.u_range
        return [low + place / 1000 * (high - low) for place in places]


def check_places(name: str, places: Sequence[int]) -> None:
    """Raise ValueError where the places of an option `name` do not fall, or leave [1, 1000]."""
    if any(not 1 <= place <= 1000 for place in places) or list(places) != sorted(set(places), reverse=True):
        raise ValueError(f"{name} must fall and lie between 1 and 1000, found {list(places)}")
