"""Owns the list of methods: from section [method] to what plays the role of Method."""

from collections.abc import Mapping
from typing import cast

from torch import Tensor

from cinelora.contracts.roles import Denoiser, Method, Process
from cinelora.lora.adapters import Adapters
from cinelora.methods.distill import Distill
from cinelora.methods.finetune import Finetune
from cinelora.methods.options import MethodOptions, adapters_of
from cinelora.noise.flow import Flow


def open_method(
    options: MethodOptions,
    denoiser: Denoiser,
    process: Process,
    *,
    adapters: Mapping[str, Adapters],
    negative: Mapping[str, Tensor],
) -> Method:
    """The method that a recipe names, on a denoiser in which the adapters of `adapters_of` stand.

    `negative` are the conditions of method.negative_prompt, without a batch dimension.
    """
    return METHODS[options.name](options, denoiser, process, adapters, negative)


def _finetune(
    options: MethodOptions,
    denoiser: Denoiser,
    process: Process,
    adapters: Mapping[str, Adapters],
    negative: Mapping[str, Tensor],
) -> Method:
    (only,) = adapters_of(options)
    return Finetune(denoiser, process, adapters[only], motion_loss=options.motion_loss)


def _distill(
    options: MethodOptions,
    denoiser: Denoiser,
    process: Process,
    adapters: Mapping[str, Adapters],
    negative: Mapping[str, Tensor],
) -> Method:
    # `check_method` let only a flow pass.
    return Distill(denoiser, cast(Flow, process), adapters, options=options, negative=negative)


METHODS = {"finetune": _finetune, "distill": _distill}
