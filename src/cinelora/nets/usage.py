"""Owns the lines that sample with an adapter in diffusers, as model cards show them. Text alone."""

import re
from collections.abc import Collection, Sequence


def diffusers_usage(*, picture: bool = False, loading: str = "", loading_second: str = "") -> str:
    """The template `Family.usage` (or `Variant.usage`) of a pipeline that loads adapters.

    `picture`: it starts from one; `loading`: a further argument that loading takes; `loading_second`: that of a second
    file, {second_file}.
    """
    helpers = "export_to_video, load_image" if picture else "export_to_video"
    start = 'image=load_image("start.png"), ' if picture else ""
    more = f", {loading}" if loading else ""
    if loading_second:
        more += f')\npipe.load_lora_weights("{{repository}}", weight_name="{{second_file}}", {loading_second}'
    return f"""
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import {helpers}

pipe = DiffusionPipeline.from_pretrained("{{base}}", torch_dtype=torch.bfloat16).to("cuda")
pipe.load_lora_weights("{{repository}}", weight_name="{{file}}"{more})
video = pipe(
    {start}prompt={{prompt}},
    num_frames={{frames}}, height={{height}}, width={{width}},
    guidance_scale={{guidance}}, num_inference_steps={{num_steps}},
).frames[0]
export_to_video(video, "sample.mp4", fps={{fps}})
"""


def few_step_lines(times: Sequence[float], *, shift: float) -> str:
    """Lines that let `pipe` draw on the steps of a distilled adapter: `times` before the shift, from (0, 1].

    Left alone, the scheduler shifts a table that is shifted already; pipelines hand it no more than a number of steps.
    """
    listed = ", ".join(f"{time:.7g}" for time in times)
    return f"""
# The {len(times)} steps that were learned, with noise anew after each; sigmas are those before the shift.
from functools import partial
from diffusers import FlowMatchLCMScheduler

scheduler = FlowMatchLCMScheduler(shift={shift:g})
scheduler.set_timesteps = partial(scheduler.set_timesteps, sigmas=[{listed}])
pipe.scheduler = scheduler
"""


def with_few_steps(usage: str, lines: str) -> str:
    """A template of `diffusers_usage` with these lines ahead of the sampling."""
    before, sampling, after = usage.partition("video = pipe(")
    return f"{before.rstrip()}\n{lines}\n{sampling}{after}" if sampling else usage


def with_folders(usage: str, folders: Collection[str]) -> str:
    """A template whose lines marked "?NAME: " stay where a run left that folder, and "!NAME: " where it did not."""
    kept = []
    for line in usage.splitlines():
        mark = re.match(r"([?!])(\w+): ?", line)
        if mark is None:
            kept.append(line)
        elif (mark[2] in folders) == (mark[1] == "?"):
            kept.append(line[mark.end() :])
    return "\n".join(kept)
