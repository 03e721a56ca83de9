"""Owns the options of section [lora]: which modules get an adapter, its size and start. Imports no torch."""

from typing import Literal

from pydantic import model_validator

from cinelora.contracts.options import Options, option

PartMode = Literal["lora", "full", "frozen"]
DORA_FILES = ("diffusers", "peft")
"""Layouts whose readers apply DoRA's lengths as training did."""


class LoraOptions(Options):
    """A module's weight W becomes W + scale B A, with scale = alpha / rank (alpha / sqrt(rank) under rslora)."""

    rank: int = option(
        16,
        "rows of A and columns of B: more learns more and makes a larger file",
        ge=1,
        unit="rows",
        costs="each adapted module has rank x (inputs + outputs) parameters: 16 bytes of memory each with "
        "AdamW (weight, gradient and two means in fp32), 4 in a file",
    )
    alpha: float | None = option(
        None, "strength of the adapter is alpha / rank; leave it out for alpha = rank, a strength of 1", gt=0
    )
    targets: str = option(
        "",
        "which linear modules get an adapter: a preset's name, or a regular expression that must match the module's "
        "whole name; empty is the family's default preset",
        costs="every module that gets an adapter has the parameters that lora.rank tells of",
    )
    rank_pattern: dict[str, int] = option(
        help="another rank for some modules: {regular expression of the whole module name = rank}",
        default_factory=dict,
        unit="rows",
        costs="as lora.rank, for these modules",
    )
    alpha_pattern: dict[str, float] = option(
        help="another alpha for some modules: {regular expression of the whole module name = alpha}",
        default_factory=dict,
    )
    dropout: float = option(
        0.0, "share of A's inputs that is zeroed in each training step", ge=0, lt=1, unit="share of the inputs"
    )
    rslora: bool = option(False, "strength alpha / sqrt(rank), which keeps large ranks learning (Kalajdzievski 2023)")
    dora: bool = option(
        False,
        "learn direction and length of each weight row apart (DoRA, Liu et al. 2024); ComfyUI cannot read it",
        costs="time and memory: each module's W + B A is computed whole in every forward pass, for the "
        "lengths of its rows",
    )
    init: Literal["default", "gaussian", "orthogonal", "pissa", "pissa_niter_4", "olora"] = option(
        "default",
        "how A and B start: `default` and `gaussian` random A and zero B; `orthogonal` (even ranks); `pissa` and "
        "`olora` from the base's own largest directions (slow on large bases; `pissa_niter_4` is a faster estimate); "
        "the output before training is the base's in all of them",
        costs="`pissa` and `olora`: time before the first step, as every adapted weight is decomposed, a "
        "second, frozen adapter in memory, and files of twice the rank",
    )
    start: str = option(
        "",
        "an adapter file whose A and B the run begins with, in place of fresh ones, with a new optimizer: the targets, "
        "ranks and strength are those of the file, or it is refused (one that says no strength gets the recipe's). A "
        ".ckpt goes through `cinelora lora extract` first; to go on with a run there is `cinelora train --resume`",
    )
    parts: dict[str, PartMode] = option(
        help="what happens to each part of the denoiser: lora, full (all its weights learn) or frozen; lora if unnamed",
        default_factory=dict,
        costs="`full`: 16 bytes of memory with AdamW for every weight of the part, not those of an adapter "
        "alone, and checkpoints as much larger",
    )
    files: tuple[str, ...] = option(
        (),
        "layouts in which a run writes its adapter, each a file that is read back and compared; `cinelora families` "
        "lists those of each family, and which are written where none are named (DoRA goes into diffusers' alone)",
        costs="for each, a file of the adapter's size at every writing, and at the end the time of reading "
        "the base anew to prove it",
    )

    @model_validator(mode="after")
    def _choices_fit(self) -> "LoraOptions":
        if self.dora and self.init in ("pissa", "pissa_niter_4", "olora"):
            raise ValueError(f"dora cannot start from init = '{self.init}': use default, gaussian or orthogonal")
        if self.start and self.init != "default":
            raise ValueError(
                f"init = '{self.init}' has no effect where start names an adapter to begin with: remove it"
            )
        low = [f"{name} = {value}" for name, value in self.rank_pattern.items() if value < 1]
        low += [f"{name} = {value}" for name, value in self.alpha_pattern.items() if value <= 0]
        if low:
            raise ValueError(f"ranks must be at least 1 and alphas above 0, found {', '.join(low)}")
        if len(set(self.files)) < len(self.files):
            raise ValueError(f"files names a layout twice, found {', '.join(self.files)}")
        unfit = [name for name in self.files if self.dora and name not in DORA_FILES]
        if unfit:
            raise ValueError(
                f"files of the layout {' and '.join(unfit)} cannot hold dora's lengths: take "
                f"{' or '.join(DORA_FILES)}, whichever the family has, or leave dora out"
            )
        return self
