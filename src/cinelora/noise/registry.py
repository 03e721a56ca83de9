"""Owns which process a recipe's [noise] kind means."""

from cinelora.contracts.roles import Process
from cinelora.noise.ddpm import Ddpm
from cinelora.noise.edm import Edm
from cinelora.noise.flow import Flow
from cinelora.noise.options import NoiseOptions
from cinelora.noise.sigma import Sigma

PROCESSES: dict[str, type[Flow] | type[Ddpm] | type[Sigma] | type[Edm]] = {
    "flow": Flow,
    "ddpm": Ddpm,
    "sigma": Sigma,
    "edm": Edm,
}


def open_process(options: NoiseOptions, *, rank: int = 0, world: int = 1) -> Process:
    """The process of one worker; `rank` and `world` spread the times of a global batch over all workers."""
    return PROCESSES[options.kind](options, rank=rank, world=world)
