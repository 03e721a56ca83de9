"""Owns sections [train] and [held_out]: the loop, the optimizer, checkpoints, and the loss on clips kept apart."""

from typing import Literal, Self

from pydantic import model_validator

from cinelora.base.dtypes import DtypeName
from cinelora.contracts.options import Options, option

DEFAULT_STEPS = 1000
_PRODIGY = ("optimizer", ("prodigy",))
_LEAST_PRODIGY_LR = 0.1
_ONE_RATE_EACH = ("adamw", "adam", "adamw_8bit", "adam_8bit")
"""Optimizers whose groups may have rates of their own; prodigy finds one for all."""
_DECAYING = ("linear", "cosine", "cosine_restarts", "polynomial")


class TrainOptions(Options):
    """Section [train]. A step is an optimizer step: `accumulation` micro-batches of `micro_size` clips on each GPU."""

    steps: int | None = option(
        None,
        f"optimizer steps of the whole run; {DEFAULT_STEPS} where epochs is not given either",
        ge=1,
        unit="optimizer steps",
        costs="time in proportion",
    )
    epochs: float | None = option(
        None,
        "length of the run in passes over the data, in place of steps",
        gt=0,
        unit="passes over the data",
        costs="time in proportion",
    )
    micro_size: int = option(
        1,
        "clips in one forward pass; they share one bucket",
        ge=1,
        unit="clips",
        costs="memory of activations and time of a step in proportion",
    )
    accumulation: int = option(
        1,
        "micro-batches whose gradients are averaged before each optimizer step",
        ge=1,
        unit="micro-batches",
        costs="time of a step in proportion, no memory",
    )
    seed: int = option(
        42, "seed of everything random: data order, crops, noise, times, dropout, initial adapters", ge=0
    )

    optimizer: Literal["adamw", "adam", "adamw_8bit", "adam_8bit", "prodigy"] = option(
        "adamw",
        "what makes steps of gradients: AdamW (Loshchilov and Hutter 2019) or Adam (Kingma and Ba 2015); `_8bit` keeps "
        "their state in 8 bits (needs `pip install cinelora[gpu]`); prodigy finds its own rate (Mishchenko and Defazio "
        "2024; needs `pip install cinelora[optimizers]`; lr scales it, 1 is usual)",
        costs="memory of its state for each trained parameter: adamw and adam 8 bytes, `_8bit` about 2, prodigy 16",
    )
    lr: float = option(1e-4, "largest learning rate of the schedule", gt=0)
    lr_full: float | None = option(
        None,
        "largest learning rate of parts that learn in full (lora.parts) beside adapters; left out, lr",
        only_if=("optimizer", _ONE_RATE_EACH),
        gt=0,
    )
    betas: tuple[float, float] = option((0.9, 0.999), "decay rates of the running mean and square of gradients")
    eps: float = option(1e-8, "the optimizer's addition to the denominator", gt=0)
    weight_decay: float = option(
        0.0,
        "decay of matrices, vectors are not decayed: in units of the learning rate, under adam added to the gradient",
        ge=0,
    )
    prodigy_beta3: float | None = option(
        None, "decay of prodigy's estimate of the rate; left out, the root of the second beta", only_if=_PRODIGY, gt=0
    )
    prodigy_decoupled: bool = option(
        True, "whether prodigy decays weights as AdamW does, not as Adam", only_if=_PRODIGY
    )
    prodigy_bias_correction: bool = option(False, "whether prodigy corrects the bias of its means", only_if=_PRODIGY)
    prodigy_safeguard_warmup: bool = option(
        False, "whether a warm-up is kept out of prodigy's estimate; set it with warmup_steps", only_if=_PRODIGY
    )
    clip_norm: float = option(1.0, "largest norm of the whole gradient, applied once per optimizer step; 0 = off", ge=0)
    clip_norm_start_ratio: float = option(
        1.0,
        "how many times clip_norm the first step's limit is; it falls to clip_norm over clip_norm_start_steps",
        ge=1,
        le=1000,
        unit="times clip_norm",
    )
    clip_norm_start_steps: int = option(
        0,
        "optimizer steps over which the limit falls to clip_norm; from then on gradients above 5 times clip_norm are "
        "taken for outliers and shortened to clip_norm^2 / norm (at least clip_norm / 10). 0 = clip_norm throughout",
        ge=0,
        unit="optimizer steps",
    )

    schedule: Literal["constant", "linear", "cosine", "cosine_restarts", "polynomial"] = option(
        "constant", "how the learning rate goes on after the warm-up, counted in optimizer steps"
    )
    warmup_steps: int = option(
        0, "optimizer steps over which the learning rate rises to lr in equal parts", ge=0, unit="optimizer steps"
    )
    num_cycles: int = option(
        2, "how often the cosine starts again from lr", only_if=("schedule", ("cosine_restarts",)), ge=1, unit="times"
    )
    power: float = option(2.0, "exponent of the polynomial; 1 is linear", only_if=("schedule", ("polynomial",)), gt=0)
    final_lr_share: float = option(
        0.0, "share of lr that the schedule ends at", only_if=("schedule", _DECAYING), ge=0, le=1, unit="share of lr"
    )

    precision: DtypeName = option(
        "bf16",
        "autocast format of the forward pass; fp16 scales the loss and needs a GPU",
        costs="fp32 keeps activations of twice the size, and takes more time on a GPU",
    )
    gradient_checkpointing: bool = option(
        True,
        "whether activations are computed twice in place of being kept, which takes far less memory",
        costs="about a third more time for each step; false keeps the activations of every block in memory",
    )
    ema_decay: float = option(
        0.0,
        "weight of the past in a running mean of the adapter (of a distillation, the generator), which is then what is "
        "evaluated and saved; 0 = off",
        ge=0,
        lt=1,
        costs="a copy of the averaged adapter in fp32, in memory and in each checkpoint",
    )
    on_nonfinite: Literal["stop", "skip"] = option(
        "stop", "what a loss or gradient that is not finite does: stop the run, or skip the step (10 in a row stop it)"
    )

    save_every_steps: int = option(
        250,
        "optimizer steps between checkpoints; 0 = at the end only",
        ge=0,
        unit="optimizer steps",
        costs="training waits while a checkpoint is written; keep_last says how large it is",
    )
    keep_last: int = option(
        3,
        "newest checkpoints that are kept; the best by held-out loss stays besides",
        ge=1,
        unit="checkpoints",
        costs="disk: each holds the adapter three times in fp32 with AdamW (weights and two means), and "
        "once more with ema_decay",
    )
    keep_every_steps: int = option(
        0,
        "optimizer steps between adapters that are kept for good: files of their own in the run's folder history; "
        "0 = none by steps",
        ge=0,
        unit="optimizer steps",
        costs="disk: each time the adapter in every layout of lora.files",
    )
    keep_every_epochs: float = option(
        0.0,
        "the same counted in passes over the data, besides keep_every_steps; 0 = none by passes",
        ge=0,
        unit="passes over the data",
        costs="disk: each time the adapter in every layout of lora.files",
    )
    kept: Literal["adapter", "checkpoint"] = option(
        "adapter",
        "what keep_every_steps and keep_every_epochs keep: `adapter` files alone, or the whole `checkpoint` with the "
        "optimizer's state besides, as many times the size",
        costs="`checkpoint`: each time the disk that keep_last tells of, besides",
    )
    files_at_saves: bool = option(
        False,
        "whether the run's adapter files are written at every save_every_steps and where a signal stops the run, too, "
        "and not at its end alone: to try them while it goes on. Those at the end are proven to load",
        costs="training waits while the files are written, at every save_every_steps",
    )
    sharding: Literal["none", "fsdp", "machine"] = option(
        "none",
        "how several GPUs hold the frozen base: `none` = each has all of it; `fsdp` = each has a part, and blocks are "
        "put together when they are asked (FSDP2); `machine` = so among the GPUs of each machine, which spares the "
        "network between machines. What learns is whole on every GPU",
        costs="fsdp, machine: time of putting each block together, twice a step; the network decides how much",
    )
    zero: Literal[0, 1, 2] = option(
        0,
        "stage of DeepSpeed's ZeRO for what learns: each GPU holds a part of the optimizer's state (1), and of "
        "averaged gradients (2). Needs `pip install cinelora[deepspeed]`, several GPUs and adam or adamw; what "
        "`accelerate launch --use_deepspeed` asks for. For the base see sharding; the two go together. 0 = off",
        costs="time of messages in each step; what learns is small, so that little memory is saved",
    )
    num_lanes: int = option(
        0,
        "how many micro-batches count as worked on side by side: they share a bucket wherever possible, and a "
        "distillation's step that is learned; 0 = as many as there are GPUs at the run's start. A run on one GPU that "
        "is to give the numbers of one on n takes n, with accumulation n times as large",
        ge=0,
        unit="micro-batches",
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to train; auto takes a GPU where there is one")
    num_threads: int = option(0, "CPU threads of torch; 0 leaves it to torch", ge=0, unit="threads")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        if self.kept == "checkpoint" and not (self.keep_every_steps or self.keep_every_epochs):
            raise ValueError("kept = 'checkpoint' has no effect without keep_every_steps or keep_every_epochs")
        if self.clip_norm_start_ratio > 1 and not self.clip_norm_start_steps:
            raise ValueError("clip_norm_start_ratio has no effect without clip_norm_start_steps")
        if self.clip_norm_start_steps and not self.clip_norm:
            raise ValueError("clip_norm_start_steps has no effect where clip_norm is 0")
        if self.optimizer == "prodigy" and self.lr < _LEAST_PRODIGY_LR:
            raise ValueError(
                f"prodigy finds its own rate and lr only scales it: lr = {self.lr:g} would learn next to nothing; "
                "set lr = 1"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas lie in [0, 1)")
        return self


class HeldOutOptions(Options):
    """Section [held_out]: the same noise and times at every evaluation, apart from the training's randomness."""

    every_steps: int = option(
        100,
        "optimizer steps between evaluations; 0 = before the first and after the last step only",
        ge=0,
        unit="optimizer steps",
        costs="training waits while max_clips x num_timesteps x num_noises clips go through the denoiser, "
        "without gradients",
    )
    num_timesteps: int = option(
        4,
        "how many evenly spread quantiles of time each clip is evaluated at",
        ge=1,
        unit="quantiles of time",
        costs="time of each evaluation in proportion",
    )
    num_noises: int = option(
        1,
        "how many different noises at each of these times",
        ge=1,
        unit="noises",
        costs="time of each evaluation in proportion",
    )
    max_clips: int = option(
        32,
        "largest number of held-out clips that are evaluated",
        ge=1,
        unit="clips",
        costs="time of each evaluation in proportion",
    )
