"""Owns section [method]: which losses a run takes. Imports no torch."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import model_validator

from cinelora.base.errors import Problems, RecipeError
from cinelora.contracts.options import Options, option

_DISTILL = ("name", ("distill",))


class MethodOptions(Options):
    """Section [method]."""

    name: Literal["finetune", "distill"] = option(
        "finetune",
        "what is learned: finetune = draw clips like those of the data; distill = draw in a few steps, without "
        "guidance, what the base draws in many (distribution matching, Yin et al. 2024; clips give sizes, captions "
        "and pictures to start from)",
    )
    motion_loss: float = option(
        0.0,
        "share of the loss that is of changes from one latent frame to the next, for clips of more than two; 0 = none, "
        "VideoX-Fun's motion_sub_loss takes 0.25. Held-out losses are without it",
        only_if=("name", ("finetune",)),
        ge=0,
        lt=1,
    )
    denoising_steps: tuple[int, ...] = option(
        (1000, 750, 500, 250),
        "the few steps of a distilled clip, in thousandths of the trained range of times before the shift, falling; "
        "evenly spread ones are those of preview.sampler = 'renoise' with as many steps",
        only_if=_DISTILL,
        min_length=1,
    )
    generator_every: int = option(
        5,
        "the generator learns once in so many optimizer steps, its critic in each; train.steps counts the critic's",
        only_if=_DISTILL,
        ge=1,
    )
    critic_lr: float | None = option(
        None, "largest learning rate of the critic; left out, train.lr", only_if=_DISTILL, gt=0
    )
    real_guidance: float = option(
        6.0, "guidance of the base that the generator is to match; 1 = none, and a pass less", only_if=_DISTILL, ge=1
    )
    fake_guidance: float = option(
        1.0, "guidance of the critic where it is compared with the base; 1 = none", only_if=_DISTILL, ge=1
    )
    negative_prompt: str = option("", "what both guidances lead away from; empty = the empty caption", only_if=_DISTILL)
    score_t_min: float = option(
        0.02, "noise level, after the shift, below which base and critic are not compared", only_if=_DISTILL, ge=0, lt=1
    )
    score_t_max: float = option(0.98, "noise level above which they are not", only_if=_DISTILL, gt=0, le=1)
    compat: Literal["none", "videox"] = option(
        "none",
        "`videox` draws few-step clips as VideoX-Fun does: from noise alone whatever range is trained, times told to "
        "the denoiser cut to whole numbers; and the critic learns nothing of errors above 50",
        only_if=_DISTILL,
    )

    @model_validator(mode="after")
    def _steps_fall(self) -> Self:
        steps = self.denoising_steps
        if any(not 1 <= step <= 1000 for step in steps) or list(steps) != sorted(set(steps), reverse=True):
            raise ValueError(f"denoising_steps must fall and lie between 1 and 1000, found {list(steps)}")
        if self.score_t_min >= self.score_t_max:
            raise ValueError(
                f"score_t_min must be below score_t_max, found {self.score_t_min:g} and {self.score_t_max:g}"
            )
        if self.negative_prompt and self.real_guidance == self.fake_guidance == 1:
            raise ValueError("negative_prompt has no effect where both guidances are 1")
        return self


ADAPTERS = {"finetune": ("adapter",), "distill": ("generator", "critic")}


def adapters_of(options: MethodOptions) -> tuple[str, ...]:
    """Names of the adapters that the method trains on one base, which are its players'; the first is what is saved."""
    return ADAPTERS[options.name]


def check_method(options: MethodOptions, *, process: str, parts: Mapping[str, str]) -> None:
    """Raise RecipeError where the method cannot go with noise.kind or with what lora.parts says."""
    for look in CHECKS.get(options.name, ()):
        look(process, parts)


def _needs_a_kept_flow(process: str, parts: Mapping[str, str]) -> None:
    problems = Problems(RecipeError)
    if process != "flow":
        what, do = "distill needs a base that predicts a flow", "choose a variant of noise.kind = flow"
        problems.add(what, found=f"noise.kind = {process}", where="method.name", do=do)
    if full := [name for name, mode in parts.items() if mode == "full"]:
        what = "distill keeps the base as it is, to compare with, so no part can learn in full"
        problems.add(what, found=", ".join(full), where="lora.parts", do="set them to lora or frozen")
    problems.raise_if_any()


CHECKS = {"distill": (_needs_a_kept_flow,)}
