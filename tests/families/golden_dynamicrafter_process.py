"""Checks of DynamiCrafter's golden cases of the process, by kind: tables of the schedule, one whole training step.

Tables that the project does not keep are worked out here from the one that it does, the products of alphas.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from golden_case import Case
from golden_dynamicrafter_nets import near, tower_networks, towers_of, vae_network

from cinelora.contracts.flow import Batch, Bucket, Clip, Record, Slot
from cinelora.families.dynamicrafter.card import TINY
from cinelora.families.dynamicrafter.denoise import left_out
from cinelora.families.dynamicrafter.encode import open_encoder
from cinelora.families.dynamicrafter.nets.unet import sinusoids
from cinelora.families.dynamicrafter.opening import open_denoiser
from cinelora.noise.ddim import steps_over, times_of
from cinelora.noise.ddpm import Ddpm
from cinelora.noise.options import NoiseOptions
from cinelora.preview.guidance import rescaled

Tensors = dict[str, torch.Tensor]
REST = {
    *("timesteps", "rand_cond_frame", "fps_condition_type", "perframe_ae", "num_timesteps_cond", "log_every_t"),
    *("first_stage_key", "cond_stage_key", "cond_stage_trainable", "image_proj_model_trainable", "conditioning_key"),
    *("image_size", "channels", "scale_by_std", "scale_factor", "use_ema", "uncond_prob", "uncond_type", "interp_mode"),
}
"""Arguments of the reference's model that say nothing about the schedule."""
SPACINGS = {"uniform": "uniform", "uniform_trailing": "trailing", "quad": "quad"}


def process_of(params: Mapping[str, Any]) -> Ddpm:
    """The process that the reference's model arguments describe; unknown ones fail."""
    told = {key: value for key, value in params.items() if key not in REST and not key.endswith("_config")}
    options: dict[str, Any] = {"kind": "ddpm", "betas": "scaled_linear", "prediction": told.pop("parameterization")}
    options |= {"beta_start": told.pop("linear_start"), "beta_end": told.pop("linear_end")}
    options["zero_terminal_snr"] = told.pop("rescale_betas_zero_snr", False)
    scale, turning = told.pop("base_scale", 0.7), told.pop("turning_step", 400)
    if told.pop("use_dynamic_rescale", False):
        options |= {"rescale_to": scale, "rescale_times": turning}
    options["noise_offset"] = told.pop("noise_strength", 0.0)
    assert told.pop("loss_type", "l2") == "l2"
    assert not told, told
    assert params.get("timesteps", 1000) == 1000
    return Ddpm(NoiseOptions(**options))


def tables_of(process: Ddpm) -> Tensors:
    """The reference's tables by name."""
    products, kind = process.alphas, process.options.prediction
    before = torch.cat([torch.ones(1, dtype=torch.float64), products[:-1]])
    alphas = products / before
    betas, rest = 1 - alphas, 1 - products
    variance = betas * (1 - before) / rest
    tables = {
        "betas": betas,
        "alphas_cumprod": products,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": products.sqrt(),
        "sqrt_one_minus_alphas_cumprod": rest.sqrt(),
        "log_one_minus_alphas_cumprod": rest.log(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / rest,
        "posterior_mean_coef2": (1 - before) * alphas.sqrt() / rest,
        "scale_arr": torch.cat([process.scales[: process.options.rescale_times], process.scales[-1].repeat(1000)]),
    }
    zeros = torch.zeros_like(products)
    tables["sqrt_recip_alphas_cumprod"] = zeros if kind == "v" else (1 / products).sqrt()
    tables["sqrt_recipm1_alphas_cumprod"] = zeros if kind == "v" else (1 / products - 1).sqrt()
    bound = betas.square() / (2 * variance * alphas * rest)
    bound = 0.5 * products.sqrt() / (2 - products) if kind == "x0" else bound
    bound[0] = bound[1]
    tables["lvlb_weights"] = torch.ones_like(products) if kind == "v" else bound
    return tables


def check_schedule(case: Case, tmp_path: Path) -> None:
    io, used = case.io, set[str]()

    def same(found: torch.Tensor, name: str) -> None:
        used.add(name)
        if io[name].is_floating_point():
            near(found, io[name], name, rtol=1e-5, atol=1e-6)
        else:
            assert found.tolist() == io[name].tolist(), name

    for name in (name for name in io if name.startswith("ddim_timesteps/")):
        _, total, spacing, steps = name.split("/")
        same(torch.tensor(times_of(SPACINGS[spacing], int(steps), int(total))), name)
    for config, params in case.config["configs"].items():
        process, tables = process_of(params), tables_of(process_of(params))
        own = {name.removeprefix(f"{config}/"): name for name in io if name.startswith(f"{config}/")}
        for name in own.keys() & tables.keys():
            same(tables[name], own[name])
        for name in (name for name in own if name.startswith("ddim/")):
            _, spacing, steps, eta, kind = name.split("/")
            times = times_of(SPACINGS[spacing], int(steps))
            levels = steps_over(process.alphas, times, eta=float(eta.removeprefix("eta")))
            same({"alphas": levels.alphas, "alphas_prev": levels.following, "sigmas": levels.sigmas}[kind], own[name])
        check_algebra(process, io, own, same)
        used.add(own["t"])
    for name in (name for name in io if name.startswith("rescale_noise_cfg_")):
        same(rescaled(io["cfg_in"], io["cfg_cond"], float(name.rpartition("_")[2])), name)
    for name in (name for name in io if name.startswith("timestep_embedding_")):
        same(sinusoids(io["temb_t"], int(name.rpartition("_")[2])), name)
    used |= {"cfg_in", "cfg_cond", "temb_t", "noise", "model_v", "x0"}
    assert set(io) == used, set(io) - used


def check_algebra(process: Ddpm, io: Tensors, own: Mapping[str, str], same: Callable) -> None:
    """q_sample, the velocity, and the ways back; by a process of velocity without rescaling, which `same` compares."""
    t, plain = io[own["t"]], process.options.model_copy(update={"prediction": "v", "rescale_to": 1.0})
    velocity = Ddpm(plain)
    clean, noise = io["x0"], io["noise"]
    noised = velocity.mix(clean, noise, t)
    a = process.alphas[t].view(-1, *[1] * (noise.ndim - 1))
    found = {
        "q_sample": noised.x,
        "v": noised.target,
        "x0_from_v": velocity.clean_of(io["model_v"], io[own["q_sample"]], t),
        "eps_from_v": (a.sqrt() * io["model_v"] + (1 - a).sqrt() * io[own["q_sample"]]).float(),
        "x0_rescaled": clean * process.scales[t].float().view_as(a),
    }
    for name in found.keys() & own.keys():
        same(found[name], own[name])


def variant_of(params: Mapping[str, Any], towers: Mapping[str, Any]):
    """The card's small variant with the networks of a case's whole model."""
    texts, images = tower_networks(towers)
    stage = params["first_stage_config"]["params"]
    network = {
        **TINY.network,
        "unet": params["unet_config"]["params"],
        "resampler": params["image_proj_stage_config"]["params"],
        "vae": vae_network(stage, params["scale_factor"]),
        "text_encoder": texts,
        "image_encoder": images,
        "pace": {"fps": "fps", "fs": "stride"}[params.get("fps_condition_type", "fs")],
        "interpolates": params.get("interp_mode", False),
    }
    return replace(TINY, network=network, text_length=towers["text_cfg"]["context_length"])


def clip_of(pixels: torch.Tensor, *, fps: float, stride: float) -> Clip:
    record = Record("clip", "clips", "video", (Path("clip.mp4"),), "", "clip.mp4")
    return Clip(Slot(record, Bucket(*pixels.shape[1:])), pixels, "", fps, stride=stride)


@torch.no_grad()
def check_training(case: Case, tmp_path: Path) -> None:
    """From pixels and token ids to the loss, by encoder, denoiser and process; draws are the case's."""
    io, params = case.io, case.config["model"]["params"]
    base = str(case.folder / "weights.safetensors")
    variant, index = variant_of(params, case.config["open_clip_config"]), case.config["cond_frame_index"]
    assert params.get("uncond_type", "empty_seq") in ("empty_seq", "zero_embed")  # of sampling alone
    encoder, denoiser = open_encoder(base, variant, "fp32"), open_denoiser(base, variant, "fp32")
    z = latents_of(encoder.vae, io)
    near(z, io["z"], "z")
    text, picture = towers_of(Path(base), case.config["open_clip_config"])
    texts, empty = text.hidden(io["tokens_captions"]), text.hidden(io["tokens_null"][None])[0]
    lost, unseen = left_out(io["random_num"], 2 * params["uncond_prob"], 2 * params["uncond_prob"])
    shown = io["video"][:, :, index] * (~unseen).view(-1, 1, 1, 1)
    near(shown, io["clip_image_input"], "what the image encoder sees")
    features = picture.features(picture.seen(shown))
    near(features, io["clip_image_tokens"], "image tokens")
    told = encoder.towers()[-1].told
    clips = zip(io["video"], io["fps"].tolist(), io["frame_stride"].tolist(), strict=True)
    pace = torch.tensor([told(clip_of(pixels, fps=fps, stride=stride)) for pixels, fps, stride in clips])
    assert pace.tolist() == io["fs_used"].tolist()
    image = denoiser.picture_of(z, torch.full((len(z),), index))
    near(image, io["c_concat"], "c_concat")
    said = torch.where(lost.view(-1, 1, 1), empty, texts)
    tokens = denoiser.picture_tokens(features, z.shape[2])
    near(tokens, io["image_context"], "image context")
    near(torch.cat([said, tokens], 1), io["context"], "context")
    process = process_of(params)
    noised = process.mix(z, io["noise"], io["t"])
    near(z * process.scales[io["t"]].float().view(-1, 1, 1, 1, 1), io["x_start_scaled"], "rescaled latents")
    near(noised.x, io["x_noisy"], "noisy latents")
    near(noised.target, io["target"], "target")
    conditions = {"text": said, "clip": features[:, None], "image": image, "fps": pace[:, None]}
    output = denoiser.predict(noised.x, noised.t, conditions)
    near(output, io["model_output"], "model output")
    loss = process.loss(output, noised, Batch(z, conditions, tuple("abcdefgh"[: len(z)])))
    near(loss.each, io["per_sample_loss"], "loss of each clip")
    torch.testing.assert_close(loss.value, io["loss"], rtol=1e-5, atol=0)
    assert math.isclose(float(loss.value), case.config["loss"], rel_tol=1e-5)
    check_logged(case, loss.value)
    check_condition(denoiser, {**conditions, "empty": empty}, case, z=z, features=features)


def latents_of(vae, io: Tensors) -> torch.Tensor:
    """The scaled sample of every frame, from the case's noise (frames of a clip together)."""
    count, _, frames = io["video"].shape[:3]
    noise = io["posterior_noise"].unflatten(0, (count, frames)).transpose(1, 2)
    moments = [vae.scaled(pixels) for pixels in io["video"]]
    means, logvars = (torch.stack(parts) for parts in zip(*moments, strict=True))
    return means + torch.exp(0.5 * logvars) * noise


def check_logged(case: Case, loss: torch.Tensor) -> None:
    """What the reference logs: the simple loss, and the bound's, which is the same with weights of 1."""
    for name in (name for name in case.io if name.startswith("log_val_loss")):
        if name != "log_val_loss_vlb" or case.config["model"]["params"]["parameterization"] == "v":
            near(loss, case.io[name], name)


def check_condition(denoiser, told: Tensors, case: Case, *, z: torch.Tensor, features: torch.Tensor) -> None:
    """`condition` comes to the same from stored conditions, when it draws what the case drew."""
    index = case.config["cond_frame_index"]
    denoiser.blank = {"text": told["empty"]}
    share = 2 * case.config["model"]["params"]["uncond_prob"]
    denoiser.text_dropout = denoiser.image_dropout = share
    stored = {
        "text": told["text"],
        "clip": features[:, None],
        "frame": torch.full((len(z), 1), float(index)),
        "grey": torch.zeros_like(features),
        "image": z[:, :, :1],
        "fps": told["fps"],
    }
    found = denoiser.condition(Batch(z, stored, tuple("abcdefgh"[: len(z)])), torch.Generator().manual_seed(0))
    near(found["image"], case.io["c_concat"], "c_concat by condition")
    assert found["clip"].shape == features[:, None].shape


CHECKS: dict[str, Callable[[Case, Path], None]] = {"schedule": check_schedule, "training_loss": check_training}
