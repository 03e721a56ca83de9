"""Small EasyAnimate bases on disk, one of each version, in the layout of the published ones.

What a drawn base holds in memory is written under the published names, each component with its config.json.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from wan_bases import byte_tokenizer

from cinelora.contracts.card import Variant
from cinelora.families.easyanimate.denoise import open_denoiser
from cinelora.families.easyanimate.encode import open_encoder
from cinelora.families.easyanimate.layouts import LAYOUTS_BY_CLASS

SCHEDULERS = {
    "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "use_dynamic_shifting": True},
    "ddpm": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "sigma": {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "epsilon"},
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def write_base(folder: Path, variant: Variant) -> Path:
    """A folder of the drawn weights of a variant."""
    network: dict[str, Any] = dict(variant.network)
    denoiser = open_denoiser("random", variant, "fp32")
    layout = LAYOUTS_BY_CLASS[network["transformer"]["_class_name"]][0]
    _write(folder / "transformer", network["transformer"], layout.from_native(denoiser.net.state_dict()))
    for tower in open_encoder("random", variant, "fp32").towers():
        name = _component(tower)
        if name:
            tower.load("cpu")
            _write(folder / name, network[name], tower.net.state_dict())
        if name.startswith("text_encoder"):
            tokenizer = byte_tokenizer()
            tokenizer.chat_template = TEMPLATE if tower.kind.chats else None
            tokenizer.save_pretrained(folder / name.replace("text_encoder", "tokenizer"))
    process = variant.process
    told = dict(SCHEDULERS[process["kind"]])
    if "betas" in process:
        told |= {"beta_schedule": process["betas"], "beta_start": process["beta_start"]}
        told |= {"beta_end": process["beta_end"], "num_train_timesteps": 1000}
        told |= {"rescale_betas_zero_snr": process.get("zero_terminal_snr", False)}
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(told))
    return folder


def _component(tower: Any) -> str:
    if hasattr(tower, "place"):
        return tower.place.component
    return {"vae": "vae", "clip": "image_encoder"}.get(tower.name, "")


def _write(folder: Path, config: dict[str, Any], tensors: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    once = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    save_file(once, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
