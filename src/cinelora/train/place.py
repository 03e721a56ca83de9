"""Owns where a run computes and in which format: device, ranks, autocast, loss scaling. The one door to accelerate.

In: the options, the environment of a launcher. Out: a `Place`. What engaged is what was asked for, or it is an error:
a launcher that starts two independent runs in place of one on two GPUs is found out here.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn

from cinelora.base.dtypes import DtypeName, torch_dtype
from cinelora.base.errors import Problem, RecipeError, RunError
from cinelora.contracts.flow import Batch
from cinelora.train.launcher import Sharding, asked_sharding, asked_world, refuse_no_launcher
from cinelora.train.options import TrainOptions
from cinelora.train.zero_asked import Zero, asked_zero

_PATIENCE = InitProcessGroupKwargs(timeout=timedelta(hours=6))
"""How long ranks wait for each other: while the first draws previews the rest has nothing to do, and NCCL's own ten
minutes are less than that takes on a large base. A rank that died is seen by the launcher at once."""


@dataclass(frozen=True)
class Place:
    """Device, ranks and number format of a run. `sharding` says how ranks hold the base; `other` is another device.

    `zero` says how DeepSpeed spreads the optimizers of what learns, where it does.
    """

    accelerator: Accelerator
    precision: DtypeName
    sharding: Sharding = "none"
    other: torch.device | None = None
    zero: Zero | None = None

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""
        return self.other or self.accelerator.device

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
    def sharded(self) -> bool:
        """True where ranks hold pieces of the base, so that all must ask it equally often."""
        return self.sharding != "none"

    @property
    def asking(self) -> bool:
        """True where this rank goes along when the first has something drawn: it is the first, or has a piece."""
        return self.first or self.sharded

    @property
    def told(self) -> str:
        """Who computes where, in words: as accelerate and torch.distributed themselves say."""
        if self.world == 1:
            return f"one process on {self.device}, {self.precision}"
        kind, backend = self.accelerator.distributed_type.value, dist.get_backend()
        return f"{dist.get_world_size()} ranks ({kind}, {backend}) on {self.device.type}, {self.precision}"

    def apart(self) -> "Place":
        """The CPU of this rank, for what it does by itself while the base is spread over all."""
        return replace(self, sharding="none", other=torch.device("cpu"))

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """Loss scaling, for fp16 only."""
        return self.accelerator.scaler

    def autocast(self) -> AbstractContextManager[None]:
        """The forward pass' number format."""
        if self.other is not None:
            lower = self.precision != "fp32"
            return torch.autocast(self.other.type, torch_dtype(self.precision) if lower else None, enabled=lower)
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
        with hearing_of_others():
            flat = self.accelerator.reduce(flat, reduction="sum")
        *parts, ranks, total = flat.split([*(p.numel() for p in parameters), len(parameters), 1])
        for parameter, part, asking in zip(parameters, parts, ranks.tolist(), strict=True):
            parameter.grad = (part / total).view_as(parameter) if asking else None

    def mean(self, value: float, clips: int) -> float:
        """The mean over all ranks' clips of a number that this rank has for its own."""
        if self.world == 1:
            return value
        mine = torch.tensor([value * clips, clips], device=self.device, dtype=torch.float64)
        with hearing_of_others():
            total = self.accelerator.reduce(mine, "sum")
        return float(total[0] / total[1])

    def any(self, fact: bool) -> bool:
        """True on every rank where it is true on one."""
        if self.world == 1:
            return fact
        with hearing_of_others():
            return bool(self.accelerator.reduce(torch.tensor([float(fact)], device=self.device), "sum")[0] > 0)

    def gathered(self, mine: Tensor) -> Tensor:
        """The tensor of every rank, stacked in a first dimension."""
        if self.world == 1:
            return mine[None]
        with hearing_of_others():
            return self.accelerator.gather(mine[None].contiguous())  # type: ignore[return-value]

    def meet(self) -> None:
        """Wait for all ranks."""
        with hearing_of_others():
            self.accelerator.wait_for_everyone()

    def leave(self) -> None:
        """End the work together: a rank that exits while another still holds its connections can be aborted by them."""
        if self.world > 1:
            self.meet()
            self.accelerator.end_training()


_BROKEN = ("gloo", "nccl", "connection", "timed out", "process group")
"""What errors of torch.distributed speak of where the other end is gone; most have no class of their own."""


@contextmanager
def hearing_of_others() -> Iterator[None]:
    """Tell a rank that is gone (torch's error of a broken connection, or of waiting too long) as such."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        said = str(error).strip()
        if not dist.is_initialized() or not any(word in said.lower() for word in _BROKEN):
            raise
        what, do = "another rank of this run is gone", "read its own message above; go on exactly with --resume"
        raise RunError(Problem(what, found=said.splitlines()[0][:200], do=do)) from error


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


def open_place(options: TrainOptions, *, draws_only: bool = False) -> Place:
    """Find the device and join the other ranks; what `draws_only` holds the whole base, however it was trained.

    Raises RecipeError or RunError where that is not what was asked for.
    """
    refuse_no_launcher()
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
    zero = asked_zero(options, draws_only=draws_only)
    sharding = "none" if draws_only else asked_sharding(options.sharding)
    if zero and zero.asked == 3 and sharding == "none":
        sharding = "fsdp"
    precision = {"fp32": "no"}.get(options.precision, options.precision)
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        # accelerate keeps one precision per process; a second run in this process may want another. Ranks stay joined.
        AcceleratorState._reset_state()
    accelerator = Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=[_PATIENCE])
    place = Place(accelerator, options.precision, sharding, zero=zero)
    _refuse_alone(place)
    return place


def _refuse_alone(place: Place) -> None:
    """Raise RunError where other processes were to work along and do not, or where nobody is there to share with."""
    asked = asked_world()
    if asked != place.world:
        raise RunError(
            Problem(
                "several processes were asked for, but they do not work together",
                found=f"{place.world} joined",
                allowed=f"{asked} (WORLD_SIZE, or --num_processes of `accelerate launch`)",
                do=f"start with `torchrun --nproc_per_node {asked} -m cinelora.cli train ...`, on CPUs, too",
            )
        )
    if place.zero and place.world == 1:
        what, do = "there is nobody to share the optimizer with", "start several processes, or leave DeepSpeed out"
        raise RunError(Problem(what, found=f"ZeRO-{place.zero.asked} in one process", do=do))
    if place.sharded and place.world == 1:
        what, do = "there is nobody to share the base with", 'start several processes, or set train.sharding = "none"'
        raise RunError(Problem(what, found=f"train.sharding = {place.sharding!r} in one process", do=do))
