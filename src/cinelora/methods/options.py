"""Owns section [method]: which losses a run takes."""

from typing import Literal

from cinelora.contracts.options import Options, option


class MethodOptions(Options):
    """Section [method]."""

    name: Literal["finetune"] = option("finetune", "what is learned: finetune = draw clips like those of the data")
