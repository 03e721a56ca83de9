"""Owns the list of methods: from section [method] to what plays the role of Method."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from cinelora.contracts.roles import Denoiser, Method, Process
from cinelora.lora.adapters import Adapters
from cinelora.methods.distill import Distill
from cinelora.methods.experts import ExpertTurns
from cinelora.methods.finetune import Finetune
from cinelora.methods.options import MethodOptions
from cinelora.noise.flow import Flow


def open_method(
    options: MethodOptions,
    denoiser: Denoiser,
    process: Process,
    *,
    adapters: Mapping[str, Adapters],
    negative: Mapping[str, Tensor],
    levels: Mapping[str, Process] | None = None,
) -> Method:
    """The method that a recipe names, on a denoiser in which the adapters of `adapters_of` stand.

    `negative` are the conditions of method.negative_prompt, without a batch dimension; `levels` has for each expert
    that learns by itself the process of its own noise levels.
    """
    return METHODS[options.name](Given(options, denoiser, process, adapters, negative, levels or {}))


@dataclass(frozen=True)
class Given:
    """What a method is made of; see `open_method`."""

    options: MethodOptions
    denoiser: Denoiser
    process: Process
    adapters: Mapping[str, Adapters]
    negative: Mapping[str, Tensor]
    levels: Mapping[str, Process]


def _finetune(given: Given) -> Method:
    each = {
        name: Finetune(
            given.denoiser, given.levels.get(name, given.process), own, motion_loss=given.options.motion_loss
        )
        for name, own in given.adapters.items()
    }
    first = next(iter(each.values()))
    if not given.levels:
        return first
    joint = Finetune(given.denoiser, given.process, next(iter(given.adapters.values())))
    return ExpertTurns(each, joint, stretch=given.options.expert_stretch)


def _distill(given: Given) -> Method:
    # `check_method` let only a flow pass.
    process = cast(Flow, given.process)
    return Distill(given.denoiser, process, given.adapters, options=given.options, negative=given.negative)


METHODS = {"finetune": _finetune, "distill": _distill}
