"""Small Framer bases with random weights, in the layout of the public ones."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from cinelora.families.framer.controlnet import FramerControlNet
from cinelora.families.framer.folders import write_network
from cinelora.families.framer.unet import FramerUNet


def stirred(net):
    """Every weight at random, also those that start at zero."""
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.05) if weight.ndim > 1 else torch.nn.init.normal_(weight, 0.5, 0.2)
    return net


def write_base(folder: Path, network: dict) -> Path:
    """Framer's networks and Stable Video Diffusion's in one folder."""
    torch.manual_seed(12)
    write_network(folder / "unet", "unet", stirred(FramerUNet(**network["unet"])))
    trunk = {**network["unet"], **network["controlnet"]}
    write_network(folder / "controlnet", "controlnet", stirred(FramerControlNet(**trunk)))
    return write_towers(folder, network)


def write_towers(folder: Path, network: dict) -> Path:
    """Autoencoder and image encoder."""
    AutoencoderKLTemporalDecoder(**network["vae"]).save_pretrained(folder / "vae")
    config = CLIPVisionConfig(**network["image_encoder"])
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    return folder


def write_svd(folder: Path, network: dict) -> Path:
    """Plain Stable Video Diffusion: the UNet of diffusers with 8 channels, and no ControlNet."""
    torch.manual_seed(13)
    unet = stirred(UNetSpatioTemporalConditionModel(**{**network["unet"], "in_channels": 8}))
    unet.save_pretrained(folder / "unet")
    assert json.loads((folder / "unet" / "config.json").read_text())["in_channels"] == 8
    return write_towers(folder, network)
