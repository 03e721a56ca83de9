"""Owns where a run computes and in which format: device, ranks, autocast, loss scaling. The one door to accelerate.

In: the options, the environment of a launcher. Out: a `Place`. What engaged is what was asked for, or it is an error:
a launcher that starts two independent runs in place of one on two GPUs is found out here.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn

from cinelora.base.dtypes import DtypeName
from cinelora.base.errors import Problem, RecipeError, RunError
from cinelora.contracts.flow import Batch
from cinelora.train.options import TrainOptions

_PATIENCE = InitProcessGroupKwargs(timeout=timedelta(hours=6))
"""How long ranks wait for each other: while the first draws previews the rest has nothing to do, and NCCL's own ten
minutes are less than that takes on a large base. A rank that died is seen by the launcher at once."""


@dataclass(frozen=True)
class Place:
    """Device, ranks and number format of a run."""

    accelerator: Accelerator
    precision: DtypeName

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self.accelerator.device

    @property
    def rank(self) -> int:
        """Number of this process."""
        return self.accelerator.process_index

    @property
    def world(self) -> int:
        """How many processes work together."""
        return self.accelerator.num_processes

    @property
    def first(self) -> bool:
        """True in the one process that writes files."""
        return self.accelerator.is_main_process

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """Loss scaling, for fp16 only."""
        return self.accelerator.scaler

    def autocast(self) -> AbstractContextManager[None]:
        """The forward pass' number format."""
        return self.accelerator.autocast()

    def move(self, batch: Batch) -> Batch:
        """The batch on this device; in an fp32 run conditions that were stored in fewer bits become fp32."""

        def there(tensor: Tensor) -> Tensor:
            whole = self.precision == "fp32" and tensor.is_floating_point()
            return tensor.to(self.device, torch.float32 if whole else tensor.dtype, non_blocking=True)

        return replace(
            batch,
            latents=there(batch.latents),
            conditions={name: there(tensor) for name, tensor in batch.conditions.items()},
            weights=None if batch.weights is None else there(batch.weights),
            loss_mask=None if batch.loss_mask is None else there(batch.loss_mask),
        )

    def backward(self, value: Tensor) -> None:
        """Backpropagate, scaled where the format needs it."""
        (self.scaler.scale(value) if self.scaler else value).backward()

    def average_gradients(self, parameters: Sequence[nn.Parameter], clips: int) -> None:
        """Let every rank have the mean gradient over all clips: sum_r n_r g_r / sum_r n_r, in one message.

        A parameter that has a gradient on no rank keeps none, so that no optimizer touches it.
        """
        if self.world == 1:
            return
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        asked = [float(p.grad is not None) for p in parameters]
        flat = torch.cat([*(g.reshape(-1) * clips for g in grads), grads[0].new_tensor([*asked, clips])])
        flat = self.accelerator.reduce(flat, reduction="sum")
        *parts, ranks, total = flat.split([*(p.numel() for p in parameters), len(parameters), 1])
        for parameter, part, asking in zip(parameters, parts, ranks.tolist(), strict=True):
            parameter.grad = (part / total).view_as(parameter) if asking else None

    def mean(self, value: float, clips: int) -> float:
        """The mean over all ranks' clips of a number that this rank has for its own."""
        if self.world == 1:
            return value
        total = self.accelerator.reduce(
            torch.tensor([value * clips, clips], device=self.device, dtype=torch.float64), "sum"
        )
        return float(total[0] / total[1])

    def any(self, fact: bool) -> bool:
        """True on every rank where it is true on one."""
        if self.world == 1:
            return fact
        return bool(self.accelerator.reduce(torch.tensor([float(fact)], device=self.device), "sum")[0] > 0)

    def meet(self) -> None:
        """Wait for all ranks."""
        self.accelerator.wait_for_everyone()

    def leave(self) -> None:
        """End the work together: a rank that exits while another still holds its connections can be aborted by them."""
        if self.world > 1:
            self.meet()
            self.accelerator.end_training()


def device_of(options: TrainOptions, *, number: int = 0) -> str:
    """The device for work that waits for no other rank: the CPU, or this machine's GPU `number` (counted round).

    Raises RecipeError where a GPU is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if options.device == "cuda" and not has_gpu:
        do = 'set train.device = "auto", or install a torch build for this GPU'
        raise RecipeError(Problem("train.device asks for a GPU", found="torch sees none", allowed="auto, cpu", do=do))
    if options.device == "cpu" or not has_gpu:
        return "cpu"
    return f"cuda:{number % torch.cuda.device_count()}"


def open_place(options: TrainOptions) -> Place:
    """Find the device and join the other ranks. Raises RecipeError or RunError where that is not what was asked for."""
    cpu = device_of(options) == "cpu"
    if cpu and options.precision == "fp16":
        raise RecipeError(
            Problem(
                "fp16 training needs a GPU",
                found="training on the CPU",
                allowed="bf16, fp32",
                do="change train.precision",
            )
        )
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    _refuse_sharding()
    precision = {"fp32": "no"}.get(options.precision, options.precision)
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        # accelerate keeps one precision per process; a second run in this process may want another. Ranks stay joined.
        AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=[_PATIENCE])
    place = Place(accelerator, options.precision)
    _refuse_alone(place)
    return place


def _refuse_sharding() -> None:
    """Every rank holds the whole base here, so a launcher that was told to spread it would be told so in vain."""
    asked = [name for name in ("DEEPSPEED", "FSDP") if os.environ.get(f"ACCELERATE_USE_{name}", "false") == "true"]
    if asked:
        what, do = "the launcher asks for weights that are spread over GPUs, which is not done here", "leave it out"
        problem = Problem(what, found=f"{asked[0]} (of `accelerate launch` or its configuration file)", do=do)
        raise RunError(problem)


def _refuse_alone(place: Place) -> None:
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if asked != place.world:
        raise RunError(
            Problem(
                "the launcher started several processes, but they do not work together",
                found=f"{place.world} joined",
                allowed=f"{asked} (WORLD_SIZE)",
                do="start with `accelerate launch` or `torchrun`; on the CPU set ACCELERATE_USE_CPU=true",
            )
        )


def settle(parts: Mapping[str, nn.Module], place: Place, *, gradient_checkpointing: bool, move: bool = True) -> None:
    """Move the denoiser's parts to the place and let them compute activations twice where asked for.

    Without `move` they stay where they are, for a denoiser that fetches them itself. Raises RecipeError where a part
    cannot compute twice.
    """
    unable = [name for name, part in parts.items() if not hasattr(part, "enable_gradient_checkpointing")]
    if gradient_checkpointing and unable:
        raise RecipeError(
            Problem(
                "gradient checkpointing is not possible here",
                found=f"{', '.join(unable)} cannot do it",
                do="set train.gradient_checkpointing = false",
            )
        )
    for part in parts.values():
        if move:
            part.to(place.device)
        if gradient_checkpointing:
            part.enable_gradient_checkpointing()  # type: ignore[operator]  # seen above
