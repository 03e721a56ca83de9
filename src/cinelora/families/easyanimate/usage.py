"""Owns the lines of model cards that sample with an EasyAnimate adapter: text alone, no imports.

diffusers has no LoRA loader for EasyAnimate, so that its own file is put in with peft, where diffusers has the network;
for all versions this project's command samples.
"""

PEFT_LINES = """
import json
import torch
from diffusers import EasyAnimatePipeline
from diffusers.utils import export_to_video
from huggingface_hub import hf_hub_download
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import safe_open

# The base in diffusers' layout is published beside the original one.
pipe = EasyAnimatePipeline.from_pretrained("{base}-diffusers", torch_dtype=torch.bfloat16)
with safe_open(hf_hub_download("{repository}", "{file}"), "pt") as file:
    told = json.loads(file.metadata()["lora_adapter_metadata"])
    weights = {{name.removeprefix("transformer."): file.get_tensor(name) for name in file.keys()}}
config = LoraConfig(**{{name.removeprefix("transformer."): value for name, value in told.items()}})
inject_adapter_in_model(config, pipe.transformer)
set_peft_model_state_dict(pipe.transformer, weights)
pipe.to("cuda")
video = pipe(
    prompt={prompt},
    num_frames={frames}, height={height}, width={width},
    guidance_scale={guidance}, num_inference_steps={num_steps},
).frames[0]
export_to_video(video, "sample.mp4", fps={fps})
"""

OWN_LINES = """
import subprocess
from huggingface_hub import hf_hub_download

# `cinelora sample` fetches the base {base}, and writes samples/00.mp4 at {fps} frames per second.
file = hf_hub_download("{repository}", "{file}")
words = ["--frames", "{frames}", "--size", "{height}", "{width}", "--guidance", "{guidance}", "--steps", "{num_steps}"]
subprocess.run(["cinelora", "sample", file, "--prompt", {prompt}, *words], check=True)
"""
