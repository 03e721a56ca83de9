"""Checks of EasyAnimate's golden autoencoders, through the tower that a run uses."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from golden_case import Case
from safetensors.torch import save_file

from cinelora.contracts.card import Variant
from cinelora.contracts.geometry import Geometry
from cinelora.families.easyanimate.vae import Autoencoder, EasyAnimateVae, MagvitConfig
from cinelora.families.easyanimate.vae_config import FRAMES
from cinelora.nets.weights import Base

KNOWN = {"kind", "class", "constructor", "weight_seed", "input_seed", "rtol", "atol", "source"}
FIELDS = {"sample", "eps", "latent_random", "posterior_mean", "posterior_logvar", "posterior_sample"}
FIELDS |= {"decoded_from_mean", "decoded_random"}


def tower_of(case: Case, folder: Path) -> EasyAnimateVae:
    """The case as a base on disk: config.json as published, weights in fp32, one key of a discriminator among them."""
    (folder / "vae").mkdir()
    told = {"_class_name": case.config["class"], **case.config["constructor"]}
    (folder / "vae" / "config.json").write_text(json.dumps(told))
    tensors = {key: value.float() for key, value in case.tensors("weights.safetensors").items()}
    save_file({**tensors, "loss.logvar": torch.zeros(1)}, folder / "vae" / "diffusion_pytorch_model.safetensors")
    variant = Variant("case", "the case", "", Geometry(8, 9, 32, 32), {}, network={"vae": {}})
    return EasyAnimateVae(Base(str(folder)), variant, "fp32")


def near(case: Case, found: torch.Tensor, wanted: torch.Tensor, what: str) -> None:
    torch.testing.assert_close(
        found,
        wanted,
        rtol=case.config["rtol"],
        atol=case.config["atol"],
        msg=lambda text: f"{case.name}: {what}\n{text}",
    )


def check_vae(case: Case, tmp_path: Path) -> None:
    config, io = case.config, case.io
    assert set(config) == KNOWN
    assert config["class"] == "AutoencoderKLMagvit"
    assert set(io) == FIELDS
    tower = tower_of(case, tmp_path)
    assert tower.config == MagvitConfig(**config["constructor"])
    moments = [tower.moments(clip) for clip in io["sample"]]
    mean, logvar = (torch.stack(part) for part in zip(*moments, strict=True))
    near(case, mean, io["posterior_mean"], "mean")
    near(case, logvar, io["posterior_logvar"], "logvar")
    near(case, mean + torch.exp(logvar / 2) * io["eps"], io["posterior_sample"], "sample")
    autoencoder = Autoencoder(tower.net, tower.config)
    with torch.no_grad():
        batch = autoencoder.encode(io["sample"])
        near(case, batch[0], io["posterior_mean"], "mean of the batch")
        near(case, batch[1], io["posterior_logvar"], "logvar of the batch")
        near(case, autoencoder.decode(io["posterior_mean"]), io["decoded_from_mean"], "decoded mean")
        near(case, autoencoder.decode(io["latent_random"]), io["decoded_random"], "decoded latents")
    check_tower(case, tower)


def check_tower(case: Case, tower: EasyAnimateVae) -> None:
    """Scaled there and back, and sizes as the card's geometry says."""
    io, scaling = case.io, case.config["constructor"]["scaling_factor"]
    mean, logvar = tower.scaled(io["sample"][0])
    near(case, mean, io["posterior_mean"][0] * scaling, "scaled mean")
    near(case, torch.exp(logvar / 2), torch.exp(io["posterior_logvar"][0] / 2) * scaling, "scaled deviation")
    pixels = tower.decode(io["posterior_mean"] * scaling)
    if not tower.config.smooth or io["sample"].shape[2] <= tower.config.mini_batch_encoder:
        near(case, pixels, io["decoded_from_mean"].clamp(-1, 1), "pixels")
    geometry = replace(tower.variant.geometry, **FRAMES.get(tower.config.way, {}), latent_channels=mean.shape[0])
    _, _, frames, height, width = io["sample"].shape
    assert geometry.fits_frames(frames)
    assert geometry.latent_shape(type(geometry.bucket)(frames, height, width)) == mean.shape
    assert pixels.shape == io["sample"].shape


CHECKS = {"vae_encode_decode": check_vae}
