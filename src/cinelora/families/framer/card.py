"""The card of the Framer family: interpolation between two frames, with or without tracks, and small ones.

Sources: the models' config.json files; 14 frames of 512x320 at 7 per second, 30 steps, guidance 1 to 3 (Framer);
levels of SVD (14 frames) and of SVD-XT (25) from their paper.
"""

from typing import Any

from cinelora.contracts.card import Family, Variant
from cinelora.contracts.geometry import Geometry
from cinelora.families.framer import networks

_OWN_BASE = "wwen1997/framer_512x320"
_SVD_BASE = "stabilityai/stable-video-diffusion-img2vid-xt"
_LATENTS = {
    "min_frames": 2,
    "max_frames": 25,
    "frames_per_latent": 1,
    "frames_offset": 0,
    "latent_cell": 8,
    "size_multiple": 8,
    "latent_channels": 4,
}
_OWN = Geometry(fps=7, frames=14, height=320, width=512, **_LATENTS)
_XT = Geometry(fps=7, frames=25, height=576, width=1024, **_LATENTS)
_SAMPLING = {"num_steps": 30, "guidance": 3.0, "guidance_schedule": "frames", "sampler": "euler"}


_USAGE = f'''
# In a checkout of Framer, whose classes are not in diffusers. A base on the Hub is fetched, or name its folder.
import torch
from diffusers.utils import export_to_video, load_image
from models_diffusers.controlnet_svd import ControlNetSVDModel
from models_diffusers.unet_spatio_temporal_condition import UNetSpatioTemporalConditionModel
from peft import PeftModel
from pipelines.pipeline_stable_video_diffusion_interp_control import StableVideoDiffusionInterpControlPipeline

half, own = {{{{"torch_dtype": torch.float16}}}}, {{{{"custom_resume": True}}}}
!unet: unet = UNetSpatioTemporalConditionModel.from_pretrained("{{base}}", subfolder="unet", **own, **half)
?unet: unet = UNetSpatioTemporalConditionModel.from_pretrained("{{repository}}", subfolder="unet", **own, **half)
?unet_lora: unet = PeftModel.from_pretrained(unet, "{{repository}}", subfolder="unet_lora").merge_and_unload()
!controlnet: controlnet = ControlNetSVDModel.from_pretrained("{_OWN_BASE}", subfolder="controlnet", **half)
?controlnet: controlnet = ControlNetSVDModel.from_pretrained("{{repository}}", subfolder="controlnet", **half)
?controlnet_lora: controlnet = PeftModel.from_pretrained(controlnet, "{{repository}}", subfolder="controlnet_lora")
?controlnet_lora: controlnet = controlnet.merge_and_unload()
pipe = StableVideoDiffusionInterpControlPipeline.from_pretrained(
    "{_SVD_BASE}", unet=unet, controlnet=controlnet, **half
).to("cuda")
# Tracks steer with with_control=True and point_tracks: frames x points x 2, pixels of this size.
video = pipe(
    image=load_image("start.png"), image_end=load_image("end.png"), with_control=False,
    num_frames={{frames}}, height={{height}}, width={{width}},
    max_guidance_scale={{guidance}}, num_inference_steps={{num_steps}},
).frames[0]
export_to_video(video, "sample.mp4", fps={{fps}})
'''
"""The lines of a model card: with the classes of Framer's own release, as diffusers has none."""


def _levels(mean: float) -> dict[str, object]:
    return {"kind": "edm", "p_mean": mean, "p_std": 1.6, "prediction": "v"}


def _conditions(width: int) -> dict[str, str]:
    """CLIP of both ends; their latents, not scaled, in K noised versions; frames per second - 1 and noise of each."""
    return {"embeds": f"2 {width}", "ends": "K 4 2 H W", "ids": "K 2"}


def _tracked(about: dict[str, Any]) -> dict[str, Any]:
    """The same with a ControlNet that reads tracks (`nets.tracks`)."""
    new = ("controlnet",) if about["network"].get("fresh_controlnet") else ()
    conditions = {**about["conditions"], "tracks": "256 F 3"}
    parts: dict[str, Any] = {"parts": ("unet", "controlnet"), "learns_from": {"controlnet": "tracks"}}
    return {**about, **parts, "conditions": conditions, "new_parts": new}


_NETWORK = {
    "unet": networks.UNET,
    "controlnet": networks.CONTROLNET,
    "vae": networks.VAE,
    "image_encoder": networks.IMAGE_ENCODER,
}
_SMALL = {
    "unet": networks.TINY_UNET,
    "controlnet": networks.TINY_CONTROLNET,
    "vae": networks.TINY_VAE,
    "image_encoder": networks.TINY_IMAGE_ENCODER,
}
_FRAMER: dict[str, Any] = {
    "parts": ("unet",),
    "base": _OWN_BASE,
    "geometry": _OWN,
    "conditions": _conditions(1024),
    "process": _levels(0.7),
    "sampling": _SAMPLING,
    "network": _NETWORK,
    "text_length": 0,
}
_SVD: dict[str, Any] = {
    **_FRAMER,
    "base": _SVD_BASE,
    "geometry": _XT,
    "process": _levels(1.0),
    "network": {**_NETWORK, "fresh_controlnet": True},
}
_TINY: dict[str, Any] = {
    **_FRAMER,
    "base": "random",
    "geometry": Geometry(fps=7, frames=3, height=64, width=96, **_LATENTS),
    "conditions": _conditions(16),
    "sampling": {**_SAMPLING, "num_steps": 4},
    "network": _SMALL,
}

OWN = Variant(name="512x320", title="Framer 512x320", **_FRAMER)
OWN_TRACKS = Variant(name="512x320-tracks", title="Framer 512x320 with tracks", **_tracked(_FRAMER))
SVD = Variant(name="svd-xt", title="Framer on SVD-XT", **_SVD)
SVD_TRACKS = Variant(name="svd-xt-tracks", title="Framer on SVD-XT with tracks", **_tracked(_SVD))
TINY = Variant(name="tiny", title="Framer tiny (drawn weights, to try a recipe out)", **_TINY)
TINY_TRACKS = Variant(
    name="tiny-tracks", title="Framer tiny with tracks (drawn weights, to try a recipe out)", **_tracked(_TINY)
)

CARD = Family(
    name="framer",
    title="Framer",
    variants={v.name: v for v in (OWN, OWN_TRACKS, SVD, SVD_TRACKS, TINY, TINY_TRACKS)},
    open_encoder="cinelora.families.framer.encode:open_encoder",
    open_denoiser="cinelora.families.framer.opening:open_denoiser",
    skeleton="cinelora.families.framer.opening:skeleton",
    check_base="cinelora.families.framer.opening:check_base",
    lora_presets={
        "attention": r".*\.(to_q|to_k|to_v|to_out\.0)",
        "attention+ffn": r".*\.(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2)",
        "all-linears": r".*",
    },
    default_preset="attention+ffn",
    lora_layouts="cinelora.families.framer.layouts:LORA_LAYOUTS",
    consumers="cinelora.families.framer.consumers:CONSUMERS",
    weight_layouts="cinelora.families.framer.layouts:WEIGHT_LAYOUTS",
    adapter_files=("diffusers", "peft"),
    default_files=("diffusers",),
    folders="cinelora.families.framer.folders:FOLDERS",
    usage=_USAGE,
)
