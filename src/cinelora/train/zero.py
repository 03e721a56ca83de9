"""Owns a learner whose optimizer DeepSpeed cuts up (ZeRO-1 and 2): each rank steps its part of what learns, all hear.

In: a player, the options, the ranks, `Zero`. Out: a `ZeroLearner`, which stands for a `Learner` towards everybody else.
The backward pass stays ours (micros in pieces, steps that begin anew): gradients add up whole on each rank and are
given to DeepSpeed once a step, which averages, cuts, shortens and steps, and gathers the parameters. Checkpoints hold
the state of all ranks together, by name, so that any number of ranks can go on, also without DeepSpeed.
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cinelora.base.errors import Problem, RunError, WeightsError
from cinelora.contracts.roles import Player
from cinelora.train.optim import Learner
from cinelora.train.options import TrainOptions
from cinelora.train.place import Place, hearing_of_others
from cinelora.train.zero_asked import BUCKETS, Zero

if TYPE_CHECKING:
    from torch.optim import Optimizer

_MOMENTS = ("exp_avg", "exp_avg_sq")
_BUCKET = 500_000_000
"""DeepSpeed's own size of a message, in numbers."""


class ZeroLearner(Learner):
    """A player whose optimizer's state (and with ZeRO-2 averaged gradients) is spread over the ranks of `place`."""

    def __init__(
        self, player: Player, options: TrainOptions, place: Place, *, on_host: bool = False, fused: bool = False
    ):
        super().__init__(player, options, fused=fused)
        assert place.zero is not None
        self._place, self._stage, self._scaled = place, place.zero.stage, _Scaled(place.device)
        self._members = [list(group["params"]) for group in self.optimizer.param_groups]
        self._engaged = _engaged(self._members, self.optimizer, place, on_host=on_host)
        self._names = {id(parameter): name for name, parameter in self.parameters.items()}
        self._learning, self._norm = False, 0.0

    @property
    def told(self) -> str:
        """What is spread in truth: how many numbers this rank steps, of how many."""
        mine, whole = sum(len(flat) for flat in self._flats()), sum(p.numel() for p in self.parameters.values())
        version = import_module("deepspeed").__version__
        return (
            f"{self.name}: DeepSpeed {version}, ZeRO-{self._stage}: this rank has the optimizer's state of {mine:,} "
            f"numbers, of {whole:,} that learn"
        )

    def clear(self) -> None:
        """Forget the gradients, those of the whole parameters: the optimizer knows of its part alone."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def share(self, place: Place, clips: int) -> None:
        """Let DeepSpeed average the gradients over all clips, each rank keeping its part.

        DeepSpeed takes the mean over ranks, so those of n_r clips are taken n_r W / sum_r n_r times. Raises RunError
        where some parameters have no gradient on any rank: ZeRO's flat step cannot leave them as they are.
        """
        parameters = self.gradients()
        asked = torch.tensor([float(p.grad is not None) for p in parameters], device=place.device)
        with hearing_of_others():
            told = place.accelerator.reduce(torch.cat([asked, asked.new_tensor([clips])]), reduction="sum").tolist()
        self._learning = any(told[:-1])
        missing = [name for name, ranks in zip(self.parameters, told, strict=False) if not ranks]
        if self._learning and missing:
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            what = "ZeRO steps all parameters at once, and some were not asked in this step"
            do = "train without DeepSpeed, or adapt only what is asked in every step (lora.targets)"
            raise RunError(Problem(what, found=f"no gradient for {', '.join(missing[:3])}{more}", do=do))
        if not self._learning:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            elif clips * place.world != told[-1]:
                parameter.grad.mul_(clips * place.world / told[-1])
        with hearing_of_others():
            self._engaged.reduce_gradients(pipeline_parallel=True)

    def clip(self, scaler: torch.amp.GradScaler | None, number: int) -> float:
        """The norm of the whole gradient; DeepSpeed shortens its parts in the step."""
        if not self._learning:
            return 0.0
        with hearing_of_others():
            norm = self._engaged.scaled_global_norm()
        self._norm = self._scaled.unscaled(norm, scaler) if scaler else float(norm)
        limit = self.limit(self._norm, number)
        self._engaged.clip_grad = 0.0 if math.isinf(limit) else limit
        return self._norm

    def step(self, lr: float, scaler: torch.amp.GradScaler | None, number: int) -> None:
        """Make optimizer step `number` (from 1) and take it into the average."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if not self._learning:
            return
        if scaler:
            self._engaged.override_loss_scale(scaler.get_scale())
        made = math.isfinite(self._norm)
        if made:
            with hearing_of_others():
                self._engaged.step()
        if scaler:
            self._scaled.update(scaler)
        self._learning = False
        if self.average and made:
            self.average.update(number)

    def state(self) -> dict[str, Any]:
        """The whole optimizer's state by parameter name. All ranks must ask it; the first has it, others part of it."""
        found: dict[str, Any] = {}
        for flat, members in zip(self._flats(), self._members, strict=True):
            own = self.optimizer.state.get(flat)
            if not own:
                continue
            moments = {name: self._whole(own[name], members) for name in _MOMENTS}
            for k, parameter in enumerate(members):
                mine = {name: found[k] for name, found in moments.items() if found}
                found[self._names[id(parameter)]] = {"step": own["step"].detach().cpu().clone(), **mine}
        return {**found, "": super().state()[""]}

    def load_state(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take saved state over, and the parameters as they are now into the parts that are stepped.

        Raises WeightsError where shapes differ, and where some parameters have made fewer steps than others.
        """
        self._engaged.refresh_fp32_params()
        self._refuse_misfits(state)
        by_number: dict[int, dict[str, Any]] = {}
        for k, (flat, members) in enumerate(zip(self._flats(), self._members, strict=True)):
            saved = [state.get(self._names[id(parameter)]) for parameter in members]
            if not any(saved):
                continue
            steps = {float(one["step"]) if one else 0.0 for one in saved}
            if len(steps) > 1:
                what = "ZeRO steps all parameters at once, and in this checkpoint some have made fewer steps"
                found, do = f"steps {sorted(steps)}", "go on without DeepSpeed"
                raise WeightsError(Problem(what, found=found, do=do))
            moments = {name: self._part([one[name] for one in saved if one], flat) for name in _MOMENTS}
            by_number[k] = {"step": torch.tensor(steps.pop()), **moments}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": by_number, "param_groups": groups})

    def _refuse_misfits(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        for name, one in state.items():
            parameter = self.parameters.get(name)
            fits = parameter is not None and all(one[key].shape == parameter.shape for key in _MOMENTS if key in one)
            if name and not (fits and all(key in one for key in _MOMENTS)):
                what, do = "the saved optimizer state is of other parameters", "resume with the run's own recipe"
                raise WeightsError(Problem(what, found=name, do=do))

    def _flats(self) -> Iterator[Tensor]:
        """This rank's part of each group, one after another: what the optimizer steps."""
        return (group["params"][0] for group in self.optimizer.param_groups)

    def _whole(self, part: Tensor, members: list[nn.Parameter]) -> list[Tensor]:
        """All ranks' parts of a group as tensors like its members, in main memory of the first rank; [] on others."""
        flat = self._place.gathered(part.detach().to(self._place.device)).reshape(-1)
        if not self._place.first:
            return []
        sizes = [parameter.numel() for parameter in members]
        pieces = flat[: sum(sizes)].cpu().split(sizes)
        return [piece.view(p.shape).clone() for piece, p in zip(pieces, members, strict=True)]

    def _part(self, tensors: list[Tensor], like: Tensor) -> Tensor:
        """This rank's part of a group's tensors; behind the last there are zeros, as in DeepSpeed's parts."""
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        first = self._place.rank * len(like)
        part = torch.zeros(len(like))
        mine = flat[first : first + len(like)]
        part[: len(mine)] = mine
        return part


def _engaged(members: list[list[nn.Parameter]], optimizer: "Optimizer", place: Place, *, on_host: bool) -> Any:
    """DeepSpeed's optimizer around ours, over parameters that nothing else of DeepSpeed knows."""
    assert place.zero is not None
    os.environ.setdefault("DS_ACCELERATOR", place.device.type)  # otherwise a run on the CPU would be given a GPU
    deepspeed = import_module("deepspeed")
    # On a CPU it would compile a way of its own through shared memory; torch's will do.
    import_module("deepspeed.ops").__compatible_ops__["deepspeed_shm_comm"] = False
    weights = [weight for group in members for weight in group]
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_optimization": _settings(place.zero, weights, pinned=place.device.type == "cuda", on_host=on_host),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # which is compiled when it is first asked for
    }
    with _all_learning(weights):
        engine, *_ = deepspeed.initialize(
            model=_Holder(weights), optimizer=optimizer, config=config, dist_init_required=False
        )
    # They would average in the middle of a backward pass, which a rank may have to begin anew by itself.
    for hook in engine.optimizer._grad_acc_hooks:
        hook.remove()
    return engine.optimizer


@contextmanager
def _all_learning(weights: list[nn.Parameter]) -> Iterator[None]:
    """Let all weights ask for gradients while the block runs: a player whose turn it is not has none that do."""
    asking = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    yield
    for weight, was in zip(weights, asking, strict=True):
        weight.requires_grad_(was)


def _settings(zero: Zero, weights: list[nn.Parameter], *, pinned: bool, on_host: bool) -> dict[str, Any]:
    """DeepSpeed's table `zero_optimization`. It sets memory aside for messages, so these are no larger than needed."""
    largest = max(2, *(weight.numel() for weight in weights), sum(weight.numel() for weight in weights))
    size = {name: min(int(zero.buckets.get(name, _BUCKET)), largest) // 2 * 2 for name in BUCKETS}
    plain = {"contiguous_gradients": False, "overlap_comm": False, "round_robin_gradients": False}
    host = {"offload_optimizer": {"device": "cpu", "pin_memory": pinned}} if on_host else {}
    return {"stage": zero.stage, **plain, **size, **host}


class _Holder(nn.Module):
    """A module of parameters that is never asked."""

    def __init__(self, weights: list[nn.Parameter]):
        super().__init__()
        self.weights = nn.ParameterList(weights)


class _Scaled:
    """Lets a GradScaler see a norm in place of gradients: whole ones are on no rank, and one norm is alike on all."""

    def __init__(self, device: torch.device):
        self._norm = nn.Parameter(torch.zeros((), device=device))
        self._optimizer = torch.optim.SGD([self._norm], lr=0.0)

    def unscaled(self, norm: Tensor, scaler: torch.amp.GradScaler) -> float:
        """The norm that unscaled gradients have; infinite where one is not finite."""
        self._norm.grad = norm.detach().to(self._norm).clone()
        scaler.unscale_(self._optimizer)
        return float(self._norm.grad)

    def update(self, scaler: torch.amp.GradScaler) -> None:
        """Let the scaler raise or lower its scale."""
        scaler.step(self._optimizer)
        scaler.update()
