"""Checks of Framer's golden cases of networks, process and files, by kind. Tolerances are the README's.

Latents of the cases are B F C H W, of the project B C F H W. What the reference computes in another order of its batch
is there to look at, and no target.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from golden_case import Case
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file

from cinelora.contracts.flow import Batch, Clip
from cinelora.contracts.roles import Player
from cinelora.families.framer.card import CARD, OWN, TINY
from cinelora.families.framer.clip import FramerImages
from cinelora.families.framer.denoise import FramerDenoiser
from cinelora.families.framer.encode import FramerEncoder, FramerVae
from cinelora.families.framer.layouts import LORA_LAYOUTS
from cinelora.families.framer.opening import build_controlnet, build_unet
from cinelora.families.framer.places import Towers
from cinelora.lora.files import read_adapter, write_adapter
from cinelora.lora.inject import attach, inject
from cinelora.lora.options import LoraOptions
from cinelora.lora.peft_folder import read_peft_folder, write_peft_folder
from cinelora.nets.weights import fill
from cinelora.noise.edm import Edm, scalings
from cinelora.noise.options import NoiseOptions
from cinelora.train.optim import Learner
from cinelora.train.options import TrainOptions

SVD_XT = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "trained_betas": None,
    "use_karras_sigmas": True,
}
LARGEST: dict[str, float] = {}
"""The largest difference that each case has shown, for reports."""


class Told:
    """The tensors of a case, each of which has to be used; compares at one tolerance."""

    def __init__(self, case: Case, tensors: dict, *, rtol: float, atol: float):
        self.case, self.tensors, self.rtol, self.atol = case, tensors, rtol, atol
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.used.add(name)
        return self.tensors[name]

    def near(self, found, name: str, **more) -> None:
        close(self.case, torch.as_tensor(found), self[name], name, **{"rtol": self.rtol, "atol": self.atol, **more})

    def only_to_look_at(self, pattern: str) -> None:
        self.used |= {name for name in self.tensors if re.fullmatch(pattern, name)}

    def matching(self, pattern: str) -> list[re.Match]:
        return [match for name in self.tensors if (match := re.fullmatch(pattern, name))]

    def done(self) -> None:
        assert self.tensors.keys() - self.used == set(), "the case states what nothing was compared with"


def close(case: Case, found, wanted, what: str, *, rtol: float, atol: float) -> None:
    found, wanted = found.detach().double(), wanted.double()
    if found.shape == wanted.shape and found.numel():
        LARGEST[case.name] = max(LARGEST.get(case.name, 0.0), float((found - wanted).abs().max()))
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol, msg=lambda m: f"{case.name}: {what}\n{m}")


def turned(latents: torch.Tensor) -> torch.Tensor:
    return latents.transpose(1, 2)


def unet_of(case: Case, network: dict):
    return filled(build_unet(network), case)


def filled(net, case: Case):
    fill(net, case.tensors("weights.safetensors"), of="network", dtype_of=lambda name: torch.float32)
    return net


def asked(io: Told, rows=slice(None)) -> tuple:
    names = ("sample", "timestep", "encoder_hidden_states", "added_time_ids")
    return tuple(io[name][rows] for name in names)


@torch.no_grad()
def check_unet(case: Case, tmp_path: Path) -> None:
    net, io = unet_of(case, case.config["init"]), Told(case, case.io, rtol=1e-4, atol=3e-5)
    io.near(net(*asked(io)).sample, "out_per_sample")
    for match in io.matching(r"out_int_timestep_(\d+)_sample(\d+)"):
        k = int(match[2])
        sample, _, embeds, ids = asked(io, slice(k, k + 1))
        for t in (int(match[1]), torch.tensor(int(match[1])), torch.tensor([float(match[1])])):
            io.near(net(sample, t, embeds, ids).sample, match[0])
    for match in io.matching(r"up_feature_sample(\d+)\.(\d+)"):
        k = int(match[1])
        io.near(net(*asked(io, slice(k, k + 1))).features[int(match[2])], match[0])
    for match in io.matching(r"out_with_residuals_sample(\d+)"):
        k = int(match[1])
        down = [io[f"down_residual.{n}"] for n in range(len(io.matching(r"down_residual\.\d+")))]
        io.near(net(*asked(io, slice(k, k + 1)), down, io["mid_residual"]).sample, match[0])
    io.only_to_look_at(".*reference_order")
    io.done()


@torch.no_grad()
def check_controlnet(case: Case, tmp_path: Path) -> None:
    net, io = filled(build_controlnet(case.config["init"]), case), Told(case, case.io, rtol=1e-4, atol=3e-5)
    for match in io.matching(r"cond_embedding_s(\d+)"):
        io.near(net.controlnet_cond_embedding(io["controlnet_cond_u8"][int(match[1])].float()), match[0])
    calls: dict[tuple, dict[str, str]] = {}
    for match in io.matching(r"s(\d+)(?:_scale([\d.]+))?(_nocond)?\.(down\.\d+|mid)"):
        calls.setdefault(match.groups()[:3], {})[match[4]] = match[0]
    for (sample, scale, bare), names in calls.items():
        k = int(sample)
        maps = None if bare else io["controlnet_cond_u8"][k : k + 1]
        check_residuals(io, net(*asked(io, slice(k, k + 1)), maps, float(scale or 1)), names)
    if {("0", None, None), ("1", "0.5", None)} <= calls.keys():
        both = net(*asked(io), io["controlnet_cond_u8"], torch.tensor([1.0, 0.5]))
        frames = io["sample"].shape[1]
        for k, call in enumerate((("0", None, None), ("1", "0.5", None))):
            rows = slice(k * frames, (k + 1) * frames)
            check_residuals(io, SimpleNamespace(down=[one[rows] for one in both.down], mid=both.mid[rows]), calls[call])
    io.only_to_look_at(r"batched_reference_order\..*|tracks_sample\d+")
    io.done()


def check_residuals(io: Told, found, names: dict[str, str]) -> None:
    assert len(found.down) == len(names) - 1
    for kind, name in names.items():
        io.near(found.mid if kind == "mid" else found.down[int(kind.removeprefix("down."))], name)


def check_vae(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "vae"
    folder.mkdir()
    save_file(case.tensors("weights.safetensors"), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(case.config["init"]))
    vae = FramerVae(Towers(str(tmp_path)), replace(TINY, network={**TINY.network, "vae": {}}), "fp32")
    io = Told(case, case.io, rtol=1e-5, atol=1e-5)
    for vae.encode_chunk in (1, 2, 8):
        mean, logvar = vae.moments(io["image"])
        io.near(mean, "mean")
        io.near(mean, "mode")
        io.near(logvar, "logvar")
    assert vae.scaling == case.config["init"].get("scaling_factor", 0.18215)
    clip = Clip(SimpleNamespace(), turned(io["image"][None])[0], "", 7.0)
    (latents,) = vae.encode([clip])
    io.near(turned(latents["mean"][None])[0] / vae.scaling, "mean")
    deviation = (0.5 * turned(latents["logvar"][None])[0]).exp() / vae.scaling
    close(case, deviation, (0.5 * io["logvar"]).exp(), "deviation of scaled latents", rtol=1e-4, atol=1e-6)
    latent = io["latent"]
    io.near(vae.frames(latent), "decoded_all_frames")
    videos = torch.stack([latent, latent.flip(0)])
    io.near(torch.cat([vae.frames(video) for video in videos]), "decoded_two_videos")
    wanted = io["decoded_two_videos"].unflatten(0, (2, -1)).clamp(-1, 1)
    close(case, turned(vae.decode(turned(videos) * vae.scaling)), wanted, "two videos", rtol=1e-5, atol=1e-5)
    for vae.decode_chunk, name in ((case.config["decode_chunk"], "decoded_chunked"), (1, "decoded_single_frames")):
        io.near(vae.frames(latent), name)
    io.done()


def step_of(case: Case, io: Told, kind: str, options: NoiseOptions) -> tuple:
    """The denoiser, the process, and what the case says the step starts from."""
    denoiser = FramerDenoiser(unet_of(case, case.config["unet_init"]))
    return denoiser, Edm(options), turned(io[f"{kind}.latents"]), turned(io[f"{kind}.noise"])


def check_train_step(case: Case, tmp_path: Path) -> None:
    assert case.config["scheduler_config"] == SVD_XT
    for file in sorted(case.folder.glob("io*.safetensors")):
        io = Told(case, load_file(file), rtol=1e-4, atol=2e-5)
        with torch.no_grad():
            check_edm(case, io)
            check_script(case, io)
        io.done()


def check_edm(case: Case, io: Told) -> None:
    denoiser, process, clean, noise = step_of(case, io, "edm", NoiseOptions(kind="edm"))
    names = tuple(map(str, range(len(clean))))
    frames = io["edm.vae_mean_unscaled"]
    io.near(frames[:, 0], "edm.cond_first")
    io.near(frames[:, -1], "edm.cond_last")
    sigma = io["edm.sigma"]
    noised = process.mix(clean, noise, sigma)
    wrapped = scalings(sigma)
    for name in ("c_in", "c_skip", "c_out", "c_noise", "weight"):
        io.near(getattr(wrapped, name), f"edm.{name}")
    io.near(noised.t, "edm.c_noise")
    io.near(turned(noised.x) / wrapped.c_in.view(-1, 1, 1, 1, 1), "edm.noisy")
    io.near(turned(noised.target), "edm.v_target")
    ids = io["edm.added_time_ids"]
    ends = torch.stack([io["edm.cond_first"], io["edm.cond_last"]], 2)
    stored = {"embeds": io["edm.encoder_hidden_states"], "ends": ends[:, None], "ids": ids[:, None, ::2]}
    batch, each = Batch(clean, stored, names), []
    for k, bucket in enumerate(ids[:, 1].tolist()):
        denoiser.motion_bucket = bucket
        one = Batch(clean[k : k + 1], {name: value[k : k + 1] for name, value in stored.items()}, names[k : k + 1])
        each.append(denoiser.condition(one, None))
    conditions = {name: torch.cat([one[name] for one in each]) for name in each[0]}
    assert torch.equal(conditions["ids"], ids)
    io.near(denoiser.joined(noised.x, conditions["ends"]), "edm.model_input")
    output = denoiser.predict(noised.x, noised.t, conditions)
    io.near(turned(output), "edm.model_output")
    x0 = process.clean_of(output, noised.x, sigma)
    io.near(turned(x0), "edm.x0")
    each = wrapped.weight.view(-1, 1) * (turned(x0) - turned(clean)).square().flatten(2).mean(2)
    io.near(each, "edm.loss_per_sample_per_frame", rtol=1e-4)
    loss = process.loss(output, noised, batch)
    for name in ("edm.loss", "edm.loss_as_plain_mse_on_v"):
        io.near(loss.value, name, rtol=1e-5, atol=0)
    blank = FramerEncoder(FramerVae(Towers("random"), TINY, "fp32"), width=stored["embeds"].shape[2]).blank()
    nothing = {**conditions, **{name: torch.stack([value] * len(clean)) for name, value in blank.items()}}
    output = denoiser.predict(noised.x, noised.t, nothing)
    io.near(turned(output), "edm.dropped.model_output")
    io.near(process.loss(output, noised, batch).value, "edm.dropped.loss", rtol=1e-5, atol=0)


def check_script(case: Case, io: Told) -> None:
    options = NoiseOptions(kind="edm", compat="ddpm", prediction="eps", noise_offset=case.config["noise_offset"])
    denoiser, process, clean, noise = step_of(case, io, "ddpm_reference", options)
    denoiser.compat = "ddpm"
    base, each = turned(io["ddpm_reference.base_noise"]), turned(io["ddpm_reference.offset_noise"])
    io.near(turned(process.with_offset(base, each)), "ddpm_reference.noise")
    io.near(process.script.alphas, "ddpm_reference.alphas_cumprod", atol=1e-6)
    noised = process.script.mix(clean, noise, io["ddpm_reference.timesteps"])
    assert noised.t.tolist() == io["ddpm_reference.timesteps"].tolist()
    io.near(turned(noised.x), "ddpm_reference.noisy")
    batch = Batch(clean, {"embeds": io["ddpm_reference.encoder_hidden_states"]}, tuple(map(str, range(len(clean)))))
    conditions = denoiser.condition(batch, None)
    io.near(conditions["ids"], "ddpm_reference.added_time_ids", atol=0)
    io.near(denoiser.joined(noised.x, conditions["ends"]), "ddpm_reference.model_input")
    output = denoiser.predict(noised.x, noised.t, conditions)
    io.near(turned(output), "ddpm_reference.model_output")
    io.near(process.loss(output, noised, batch).value, "ddpm_reference.loss_epsilon", rtol=1e-5, atol=0)
    other = Edm(options.model_copy(update={"prediction": "v"})).script.mix(clean, noise, io["ddpm_reference.timesteps"])
    io.near(turned(other.target), "ddpm_reference.velocity")
    io.near(process.loss(output, other, batch).value, "ddpm_reference.loss_v_prediction", rtol=1e-5, atol=0)


def check_peft(case: Case, tmp_path: Path) -> None:
    config, io = case.config, Told(case, case.io, rtol=1e-4, atol=2e-5)
    folder = case.folder / "final" / "unet_lora"

    def fresh():
        return FramerDenoiser(unet_of(case, config["unet_init"]))

    def says(net) -> torch.Tensor:
        with torch.no_grad():
            return net(*asked(io)).sample

    file = read_peft_folder(folder, "unet")
    assert {file.rank(module) for module in file.modules()} == {config["r"]}
    assert set(file.alphas.values()) == {config["lora_alpha"]}
    denoiser = fresh()
    base = {name: weight.clone() for name, weight in denoiser.unet.state_dict().items()}
    io.near(says(denoiser.unet), "out_base")
    adapters = attach(denoiser.parts(), file)
    io.near(says(denoiser.unet), "out_lora")
    with adapters.scaled(0.5):
        io.near(says(denoiser.unet), "out_lora_half_strength")
    write_peft_folder(tmp_path / "unet_lora", adapters.file(), "unet")
    for written in (folder, tmp_path / "unet_lora"):
        check_folder(io, fresh().unet, written, base, says)
    for layout in LORA_LAYOUTS:
        write_adapter(tmp_path / f"{layout.name}.safetensors", adapters.file(), layout)
        other = fresh()
        attach(other.parts(), read_adapter(tmp_path / f"{layout.name}.safetensors", LORA_LAYOUTS))
        io.near(says(other.unet), "out_lora")
    check_learning(case, io, fresh(), file)
    io.done()


def check_folder(io: Told, net, folder: Path, base: dict, says: Callable) -> None:
    """What peft makes of a folder: the same answer, and the same weights once it is merged."""
    loaded = PeftModel.from_pretrained(net, folder)
    io.near(says(loaded), "out_lora")
    merged = loaded.merge_and_unload()
    io.near(says(merged), "out_merged")
    weights = merged.state_dict()
    assert weights.keys() == base.keys()
    assert sum(not torch.equal(weights[name], base[name]) for name in base) == int(io["merged_keys_count"])
    for match in io.matching(r"merged\.(.+)"):
        io.near(weights[match[1]], match[0], atol=1e-6, rtol=0)


def check_learning(case: Case, io: Told, denoiser: FramerDenoiser, start) -> None:
    """One step of the family's default adapter from the file's weights."""
    config = case.config
    own = r".*\.(" + "|".join(map(re.escape, config["target_modules"])) + ")"
    targets = "" if set(config["target_modules"]) == set(TARGETS) else own
    options = LoraOptions(rank=config["r"], alpha=config["lora_alpha"], targets=targets)
    adapters = inject(denoiser.parts(), options, presets=CARD.lora_presets, default_preset=CARD.default_preset)
    assert adapters.facts()["modules"].keys() == start.alphas.keys()
    adapters.load(start.tensors)
    process, clean = Edm(NoiseOptions(kind="edm")), turned(io["train.latents"])
    noised = process.mix(clean, turned(io["train.noise"]), io["train.sigma"])
    ends = torch.stack([io["train.cond_first"], io["train.cond_last"]], 2)
    conditions = {"embeds": io["encoder_hidden_states"], "ends": ends, "ids": io["added_time_ids"]}

    def loss() -> torch.Tensor:
        answer = denoiser.predict(noised.x, noised.t, conditions)
        return process.loss(answer, noised, Batch(clean, {}, ("a",))).value

    told = config["adamw"]
    learner = Learner(
        Player("adapter", adapters.parameters()),
        TrainOptions(
            optimizer="adamw",
            lr=told["lr"],
            betas=tuple(told["betas"]),
            eps=told["eps"],
            weight_decay=told["weight_decay"],
            clip_norm=told["max_grad_norm"],
        ),
    )
    learner.clear()
    value = loss()
    io.near(value, "train.loss", rtol=1e-5, atol=0)
    value.backward()
    check_each(io, "train.grad.", {n: w.grad for n, w in adapters.parameters().items()}, atol=1e-5, rtol=1e-3)
    io.near(learner.clip(None, 0), "train.grad_norm_before_clip", rtol=1e-3)
    learner.step(told["lr"], None, 1)
    check_each(io, "train.after_step.", adapters.parameters(), atol=2e-4, rtol=0)
    io.near(loss(), "train.loss_after_step", rtol=1e-3)


def check_each(io: Told, prefix: str, found: dict, **tolerance) -> None:
    spelt = {f"{prefix}base_model.model.{name.removeprefix('unet.')}": value for name, value in found.items()}
    assert {match[0] for match in io.matching(re.escape(prefix) + "base_model.*")} == spelt.keys()
    for name, value in spelt.items():
        io.near(value, name, **tolerance)


def check_sigmas(case: Case, tmp_path: Path) -> None:
    assert case.config["init"] == SVD_XT
    io = Told(case, case.io, rtol=1e-6, atol=0)
    process = Edm(NoiseOptions(kind="edm"))
    for n in case.config["n"]:
        sampler = process.sampler(n, "euler")
        io.near(sampler.sigmas, f"n{n}.sigmas")
        io.near(sampler.times(), f"n{n}.timesteps", atol=1e-6)
        first = float(sampler.sigmas[0])
        io.near((first**2 + 1) ** 0.5, f"n{n}.init_noise_sigma")
        x = turned(io[f"n{n}.sample0"]) / (first**2 + 1) ** 0.5
        for k, t in enumerate(sampler.times()):
            output, sigma = turned(io[f"n{n}.model_outputs"][k]), sampler.sigmas[k : k + 1]
            stays = partial_near(io, n, k)
            stays(x, "scaled_inputs")
            stays(process.clean_of(output, x, sigma), "pred_x0")
            x = sampler.step(output, t, x)
            stays(x * float(sampler.sigmas[k + 1] ** 2 + 1) ** 0.5, "samples_after")
    io.done()


def partial_near(io: Told, n: int, k: int) -> Callable:
    """Compares one step; relative to the largest number, as small ones are differences of large ones."""

    def near(found: torch.Tensor, name: str) -> None:
        wanted = io[f"n{n}.{name}"][k]
        atol = 1e-6 * float(wanted.abs().max())
        close(io.case, turned(found), wanted, f"n{n}.{name}, step {k}", rtol=1e-6, atol=atol)

    return near


def check_image_input(case: Case, tmp_path: Path) -> None:
    io = Told(case, case.io, rtol=0, atol=1e-5)
    picture = Image.open(case.folder / "image.png").convert("RGB")
    assert list(picture.size) == case.config["size_wh"]
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
    tower = FramerImages(Towers("random"), OWN, "fp32")
    io.near(tower.seen(pixels)[0], "pixel_values")
    tower.as_script = True
    io.near(tower.seen(pixels)[0][:, ::4, ::4], "training_script_pixels_every4")
    io.done()


TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
CHECKS: dict[str, Callable[[Case, Path], None]] = {
    "unet_forward": check_unet,
    "controlnet_forward": check_controlnet,
    "vae_encode_decode": check_vae,
    "training_step": check_train_step,
    "peft_lora_folder": check_peft,
    "sigmas": check_sigmas,
    "image_encoder_input": check_image_input,
}
