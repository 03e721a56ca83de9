"""Owns section [method]: which losses a run takes. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import model_validator

from cinelora.base.errors import Problems, RecipeError
from cinelora.contracts.options import Options, option
from cinelora.noise.options import NoiseOptions, check_places

_DISTILL = ("name", ("distill",))


class MethodOptions(Options):
    """Section [method]."""

    name: Literal["finetune", "distill"] = option(
        "finetune",
        "what is learned: finetune = draw clips like those of the data; distill = draw in a few steps, without "
        "guidance, what the base draws in many (distribution matching, Yin et al. 2024; of the data it needs captions "
        "alone, or pictures to start from: see data.show)",
        costs="distill: a second adapter with its optimizer's state, and several forward passes in each "
        "step; the base stands in memory once",
    )
    motion_loss: float = option(
        0.0,
        "share of the loss that is of changes from one latent frame to the next, for clips of more than two; 0 = none, "
        "VideoX-Fun's motion_sub_loss takes 0.25. Held-out losses are without it",
        only_if=("name", ("finetune",)),
        ge=0,
        lt=1,
        unit="share of the loss",
    )
    expert_stretch: int = option(
        1,
        "where two experts learn: optimizer steps of one before it is the other's turn; train.steps counts both. Long "
        "stretches move weights less often with model.experts_in_memory = 'one'",
        only_if=("name", ("finetune",)),
        ge=1,
        unit="optimizer steps",
        costs="short stretches with model.experts_in_memory = 'one': time, since weights are moved at every change",
    )
    denoising_steps: tuple[int, ...] = option(
        (1000, 750, 500, 250),
        "the few steps of a distilled clip, in thousandths of the trained range of times before the shift, falling; "
        "previews and `cinelora sample` walk on the same ones",
        only_if=_DISTILL,
        min_length=1,
        unit="thousandths of the trained range of times",
        costs="time: n steps take (n + 1) / 2 forward passes on average for each clip that is drawn to "
        "learn from, one with start = 'clips'",
    )
    generator_every: int = option(
        5,
        "the generator learns once in so many optimizer steps, its critic in each; train.steps counts the critic's",
        only_if=_DISTILL,
        ge=1,
        unit="optimizer steps",
        costs="a step in which the generator learns, too, takes more than twice the time of one of the critic alone",
    )
    critic_lr: float | None = option(
        None, "largest learning rate of the critic; left out, train.lr", only_if=_DISTILL, gt=0
    )
    critic_schedule: Literal["constant", "linear", "cosine", "cosine_restarts", "polynomial"] | None = option(
        None, "how the critic's rate goes on after its warm-up; left out, train.schedule", only_if=_DISTILL
    )
    critic_warmup_steps: int | None = option(
        None,
        "optimizer steps over which the critic's rate rises; left out, train.warmup_steps",
        only_if=_DISTILL,
        ge=0,
        unit="optimizer steps",
    )
    start: Literal["noise", "clips"] = option(
        "noise",
        "what the generator learns from: noise = all its steps before the one that learns are drawn, from noise on; "
        "clips = one step from a clip of the data, noised to one of the levels: less work, and clips are needed",
        only_if=_DISTILL,
        costs="noise: the steps before the one that learns are drawn as well, each a forward pass",
    )
    real_guidance: float = option(
        6.0,
        "guidance of the base that the generator is to match; 1 = none, and a pass less",
        only_if=_DISTILL,
        ge=1,
        costs="above 1, a second pass of the base whenever the generator learns",
    )
    fake_guidance: float = option(
        1.0,
        "guidance of the critic where it is compared with the base; 1 = none",
        only_if=_DISTILL,
        ge=1,
        costs="above 1, a second pass of the critic whenever the generator learns",
    )
    negative_prompt: str = option("", "what both guidances lead away from; empty = the empty caption", only_if=_DISTILL)
    score_t_min: float = option(
        0.02,
        "noise level, after the shift, below which base and critic are not compared; 0 with compat = 'videox', unless "
        "set",
        only_if=_DISTILL,
        ge=0,
        lt=1,
        unit="noise level, 0 to 1",
    )
    score_t_max: float = option(
        0.98,
        "noise level above which they are not; 1 with compat = 'videox', unless set",
        only_if=_DISTILL,
        gt=0,
        le=1,
        unit="noise level, 0 to 1",
    )
    compat: Literal["none", "videox"] = option(
        "none",
        "`videox` draws few-step clips as VideoX-Fun does: from noise alone whatever range is trained, times told to "
        "the denoiser cut to whole numbers; what a TI2V is given is asked and judged as the rest is; and the critic "
        "learns nothing of errors above 50",
        only_if=_DISTILL,
    )

    @model_validator(mode="before")
    @classmethod
    def _videox_compares_everywhere(cls, said: Any) -> Any:
        """VideoX-Fun leaves no noise level out."""
        if isinstance(said, Mapping) and said.get("compat") == "videox":
            return {"score_t_min": 0.0, "score_t_max": 1.0, **said}
        return said

    @model_validator(mode="after")
    def _steps_fall(self) -> Self:
        check_places("denoising_steps", self.denoising_steps)
        if self.score_t_min >= self.score_t_max:
            raise ValueError(
                f"score_t_min must be below score_t_max, found {self.score_t_min:g} and {self.score_t_max:g}"
            )
        if self.negative_prompt and self.real_guidance == self.fake_guidance == 1:
            raise ValueError("negative_prompt has no effect where both guidances are 1")
        if self.start == "clips" and self.compat == "videox":
            raise ValueError("start = 'clips' is not what VideoX-Fun does; set compat = 'none', or start = 'noise'")
        return self


ADAPTERS = {"finetune": ("adapter",), "distill": ("generator", "critic")}


DRAWING = ("distill",)
"""Methods that draw the clips they learn from themselves, in the few steps of denoising_steps."""
PER_EXPERT = ("finetune",)
"""Methods that give each expert an adapter and turns of its own; others have all experts in each of their adapters."""


def adapters_of(options: MethodOptions, experts: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the adapters that the method trains, which are its players'.

    They are those of the `experts` that learn (`PER_EXPERT`), or the method's own.
    """
    return tuple(experts) if experts and options.name in PER_EXPERT else ADAPTERS[options.name]


def drawn_of(options: MethodOptions, experts: Sequence[str] = ()) -> tuple[str, ...]:
    """Names of the adapters that previews are drawn with and that are saved: every expert's, or the method's first."""
    names = adapters_of(options, experts)
    return names if options.name in PER_EXPERT else names[:1]


def learns_from_clips(options: MethodOptions, *, t_max: float = 1.0) -> str:
    """What makes the method learn from the latents of clips; empty where captions, sizes and pictures are all it takes.

    `t_max` is the highest noise level that is trained: below 1 the first step starts from a noised clip.
    """
    if options.name not in DRAWING:
        return f"method.name = '{options.name}'"
    if options.start == "clips":
        return "method.start = 'clips'"
    if options.compat == "videox":  # which starts from noise alone in any case
        return ""
    if t_max < 1:
        return f"noise.t_max = {t_max:g} (the first step starts from a noised clip)"
    first = options.denoising_steps[0]
    return f"method.denoising_steps starts at {first}, so from a noised clip" if first < 1000 else ""


def sampling_of(options: MethodOptions) -> dict[str, Any]:
    """Defaults of [preview] that follow from the method: a distilled generator draws on its own few steps."""
    if options.name not in DRAWING:
        return {}
    steps = list(options.denoising_steps)
    walk = {"sampler": "renoise", "denoising_steps": steps, "num_steps": len(steps)}
    return {**walk, "guidance": 1.0, "low_noise_guidance": None}


def sampling_notes(options: MethodOptions, *, guidance: float) -> list[str]:
    """What is worth saying of previews that are drawn otherwise than the method learns."""
    if options.name in DRAWING and guidance > 1:
        return [f"preview.guidance = {guidance:g}: a distilled generator has learned guidance already, 1 is usual"]
    return []


def check_method(options: MethodOptions, *, noise: NoiseOptions, parts: Mapping[str, str]) -> None:
    """Raise RecipeError where the method cannot go with what [noise] or lora.parts says."""
    for look in CHECKS.get(options.name, ()):
        look(options, noise, parts)


def _needs_a_kept_flow(options: MethodOptions, noise: NoiseOptions, parts: Mapping[str, str]) -> None:
    problems = Problems(RecipeError)
    if noise.kind != "flow":
        what, do = "distill needs a base that predicts a flow", "choose a variant of noise.kind = flow"
        problems.add(what, found=f"noise.kind = {noise.kind}", where="method.name", do=do)
    if noise.frame_share:
        what, do = "noise.frame_share has no effect in this run", "remove it, or choose another method"
        problems.add(what, found="method.name = 'distill'", where="noise.frame_share", do=do)
    if options.score_t_min >= noise.t_max or options.score_t_max <= noise.t_min:
        what = "no noise level at which base and critic may be compared is one of those that are trained"
        found = f"method.score_t_min = {options.score_t_min:g}, method.score_t_max = {options.score_t_max:g}"
        allowed, where = f"some of {noise.t_min:g} to {noise.t_max:g}", "method.score_t_min"
        problems.add(what, found=found, allowed=allowed, where=where, do="leave both out, or widen them")
    if full := [name for name, mode in parts.items() if mode == "full"]:
        what = "distill keeps the base as it is, to compare with, so no part can learn in full"
        problems.add(what, found=", ".join(full), where="lora.parts", do="set them to lora or frozen")
    problems.raise_if_any()


CHECKS = {"distill": (_needs_a_kept_flow,)}
