"""Owns the list of methods: from section [method] to what plays the role of Method."""

from collections.abc import Mapping

from torch import nn

from cinelora.contracts.roles import Denoiser, Method, Process
from cinelora.methods.finetune import Finetune
from cinelora.methods.options import MethodOptions


def open_method(
    options: MethodOptions, denoiser: Denoiser, process: Process, *, parameters: Mapping[str, nn.Parameter]
) -> Method:
    """The method that a recipe names, on a denoiser whose adapters have these parameters."""
    return METHODS[options.name](denoiser, process, parameters)


METHODS = {"finetune": Finetune}
