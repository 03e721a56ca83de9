"""Owns the Recipe: every section's options in one frozen object, checked whole before a weight is read."""

from cinelora.contracts.options import Options, option
from cinelora.data.options import DataOptions
from cinelora.engine.options import MemoryOptions, SpeedOptions
from cinelora.families.options import ModelOptions
from cinelora.lora.options import LoraOptions
from cinelora.methods.options import MethodOptions
from cinelora.noise.options import NoiseOptions
from cinelora.preview.options import PreviewOptions
from cinelora.report.options import ReportOptions
from cinelora.train.options import HeldOutOptions, TrainOptions


class RunOptions(Options):
    """Section [run]."""

    folder: str = option("", "folder of this run, below the folder you start in; empty means runs/NAME-OF-THE-RECIPE")


class Recipe(Options):
    """A whole run. Sections stand in the order in which they come into play."""

    model: ModelOptions = option(help="the base checkpoint")
    data: DataOptions = option(help="clips, captions, buckets and the cache")
    lora: LoraOptions = option(help="what trains", default_factory=LoraOptions)
    noise: NoiseOptions = option(help="the diffusion process", default_factory=NoiseOptions)
    method: MethodOptions = option(help="which losses are taken", default_factory=MethodOptions)
    train: TrainOptions = option(help="the loop, the optimizer, checkpoints", default_factory=TrainOptions)
    memory: MemoryOptions = option(help="what is done to fit into the GPU", default_factory=MemoryOptions)
    speed: SpeedOptions = option(help="what is done to be done sooner", default_factory=SpeedOptions)
    held_out: HeldOutOptions = option(help="the loss on clips that are not trained on", default_factory=HeldOutOptions)
    preview: PreviewOptions = option(help="videos drawn before, during and after", default_factory=PreviewOptions)
    report: ReportOptions = option(help="page and trackers", default_factory=ReportOptions)
    run: RunOptions = option(help="where the run is kept", default_factory=RunOptions)
