"""Owns the lines that sample with an adapter in diffusers, as model cards show them. Text alone, no imports."""


def diffusers_usage(*, picture: bool = False, loading: str = "") -> str:
    """The template `Family.usage` (or `Variant.usage`) of a pipeline that loads adapters.

    `picture`: it starts from one; `loading`: a further argument that loading takes.
    """
    helpers = "export_to_video, load_image" if picture else "export_to_video"
    start = 'image=load_image("start.png"), ' if picture else ""
    more = f", {loading}" if loading else ""
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
