"""Checks of Wan's golden cases by kind, through the project's own code, and the list of what is not built yet.

References spell modules as the original checkpoints do; everything enters through `layouts`, `open_denoiser`,
`open_encoder`, `lora.inject` and the flow process.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from golden_case import Case, NotBuiltError
from safetensors.torch import save_file

from cinelora.contracts.flow import Batch, Clip
from cinelora.families.wan.card import TINY
from cinelora.families.wan.denoise import WanDenoiser, open_denoiser
from cinelora.families.wan.encode import open_encoder
from cinelora.families.wan.layouts import LORA_LAYOUTS, TEXT_LAYOUTS, TRANSFORMER, VAE_LAYOUTS, WEIGHT_LAYOUTS
from cinelora.lora.files import AdapterFile, read_adapter, write_adapter
from cinelora.lora.inject import attach, inject
from cinelora.lora.options import LoraOptions
from cinelora.lora.targets import linears
from cinelora.nets.layouts import Names
from cinelora.noise.flow import Flow
from cinelora.noise.options import NoiseOptions
from cinelora.noise.timesteps import shifted, unshifted

TEXT_LENGTH = 512
TO_ORIGINAL = Names([(native, original) for original, native in TRANSFORMER])


def layout(layouts, name):
    return next(one for one in layouts if one.name == name)


def network_of(config):
    """diffusers' constructor arguments of a case."""
    if "diffusers_args" in config:
        return {key: value for key, value in config["diffusers_args"].items() if value is not None}
    args = config["reference_args"]
    return {
        "num_attention_heads": args["num_heads"],
        "attention_head_dim": args["dim"] // args["num_heads"],
        "in_channels": args["in_dim"],
        "out_channels": args["out_dim"],
        "text_dim": args["text_dim"],
        "freq_dim": args["freq_dim"],
        "ffn_dim": args["ffn_dim"],
        "num_layers": args["num_layers"],
        "cross_attn_norm": args.get("cross_attn_norm", True),
        "eps": args.get("eps", 1e-6),
    }


def open_case(case: Case, base: Path) -> WanDenoiser:
    network = {**TINY.network, "transformer": network_of(case.config)}
    denoiser = open_denoiser(str(base), replace(TINY, network=network), "fp32")
    denoiser.text_dropout = 0.0
    return denoiser


def texts(case: Case, name: str) -> torch.Tensor:
    """`name`_0, `name`_1 ... padded with zeros to the text length, as one batch."""
    found = [case.io[key] for key in sorted(case.io) if re.fullmatch(rf"{name}_\d+", key)]
    return torch.stack([torch.nn.functional.pad(text, (0, 0, 0, TEXT_LENGTH - len(text))) for text in found])


def answer(case: Case, denoiser: WanDenoiser) -> torch.Tensor:
    with torch.no_grad():
        return denoiser.predict(case.io["x"], case.io["t"], {"text": texts(case, "context")})


def same_keys(case: Case, layouts, file: str) -> None:
    """The table takes the original's keys to those of the case's map, and back."""
    wanted, original = case.config_file(file), layout(layouts, "original")
    marked = {key: torch.tensor(number) for number, key in enumerate(wanted)}
    native = original.to_native(marked)
    assert {key: int(value) for key, value in native.items()} == {wanted[key]: int(marked[key]) for key in wanted}
    assert original.from_native(native).keys() == wanted.keys()


def check_transformer(case: Case, tmp_path: Path) -> None:
    denoiser = open_case(case, case.folder / "weights.safetensors")
    case.close(answer(case, denoiser), case.io["out"], "output")
    same_keys(case, WEIGHT_LAYOUTS, "key_map_to_diffusers.json")


def check_vae(case: Case, tmp_path: Path) -> None:
    (tmp_path / "Wan2.1_VAE.safetensors").symlink_to((case.folder / "weights.safetensors").resolve())
    network = {**TINY.network, "vae": case.config["diffusers_args"]}
    encoder = open_encoder(str(tmp_path), replace(TINY, network=network), "fp32")
    log_scale = torch.tensor(case.config["latents_std"]).log().view(-1, 1, 1, 1)
    for frames in case.config["frames"]:
        slot = SimpleNamespace(name=f"clip of {frames} frames")
        clips = [Clip(slot, pixels, "", 16.0) for pixels in case.io[f"video_{frames}"]]
        moments = encoder.vae.encode(clips)
        case.close(torch.stack([m["mean"] for m in moments]), case.io[f"mu_normalised_{frames}"], f"mean, {frames}")
        raw = torch.stack([m["logvar"] for m in moments]) + 2 * log_scale
        case.close(raw, case.io[f"logvar_raw_{frames}"], f"log-variance, {frames}")
        decoded = encoder.decode(case.io[f"latent_in_{frames}"])
        case.close(decoded, case.io[f"decoded_unclamped_{frames}"].clamp(-1, 1), f"decoded, {frames}")
    same_keys(case, VAE_LAYOUTS, "key_map_to_diffusers.json")


def check_umt5(case: Case, tmp_path: Path) -> None:
    (tmp_path / "models_t5_umt5-xxl-enc-bf16.safetensors").symlink_to((case.folder / "weights.safetensors").resolve())
    args = case.config["reference_args"]
    network = {
        "vocab_size": args["vocab"],
        "d_model": args["dim"],
        "d_kv": args["dim_attn"] // args["num_heads"],
        "d_ff": args["dim_ffn"],
        "num_layers": args["num_layers"],
        "num_heads": args["num_heads"],
        "relative_attention_num_buckets": args["num_buckets"],
    }
    variant = replace(TINY, network={**TINY.network, "text_encoder": network})
    tower = open_encoder(str(tmp_path), variant, "fp32").text
    tower.load("cpu")
    mask = case.io["attention_mask"]
    found = tower.hidden(case.io["input_ids"], mask)
    case.close(found[mask > 0], case.io["last_hidden_state"][mask > 0], "hidden states")
    assert found[mask == 0].abs().sum() == 0
    same_keys(case, TEXT_LAYOUTS, "key_map_to_transformers.json")


def natives_of(part, targets: list[str]) -> str:
    """The pattern of the modules whose original path ends with one of the targets."""
    endings = tuple("." + target for target in targets)
    chosen = [name for name in linears(part) if ("." + str(TO_ORIGINAL.rewrite(name))).endswith(endings)]
    return "|".join(re.escape(name) for name in chosen)


def check_training_step(case: Case, tmp_path: Path) -> None:
    config, io = case.config, case.io
    if config["train_mode"] != "normal" or config["motion_sub_loss_ratio"]:
        raise NotBuiltError("image conditions and the motion loss")
    weights = case.tensors("weights.safetensors")
    base = {key.removeprefix("base."): value for key, value in weights.items() if key.startswith("base.")}
    save_file(base, tmp_path / "base.safetensors")
    denoiser = open_case(case, tmp_path / "base.safetensors")
    lora = config["lora"]
    targets = natives_of(denoiser.net, lora["targets"])
    options = LoraOptions(rank=lora["rank"], alpha=lora["alpha"], targets=targets)
    adapters = inject(denoiser.parts(), options, presets={}, default_preset="")
    bare = {key.removeprefix("lora."): value for key, value in weights.items() if key.startswith("lora.")}
    adapters.load(layout(LORA_LAYOUTS, "peft").to_native(bare))

    scheme = config["weighting_scheme"]
    weighting = scheme if scheme in ("sigma_sqrt", "cosmap") else "none"
    process = Flow(NoiseOptions(shift=config["scheduler_shift"], weighting=weighting, t_min=0.001))
    index = torch.tensor(config["timestep_indices"], dtype=torch.float64)
    case.close(shifted(1 - index / 1000, config["scheduler_shift"]), io["sigmas"].flatten(), "sigmas")
    noised = process.mix(io["latents"], io["noise"], io["sigmas"].flatten())
    case.close(noised.x, io["noisy_latents"], "noisy latents")
    case.close(noised.t, io["timesteps_model"].flatten(), "times")
    case.close(noised.target, io["target"], "target")
    case.close(noised.weight, io["weighting"].flatten(), "weights")
    batch = Batch(io["latents"], {"text": texts(case, "prompt")}, tuple(map(str, range(len(index)))))
    prediction = denoiser.predict(noised.x, noised.t, denoiser.condition(batch, torch.Generator()))
    case.close(prediction, io["model_output"], "output")
    assert (prediction - noised.target).abs().max() <= config["error_threshold"]
    loss = process.loss(prediction, noised, batch)
    case.close(loss.value, io["loss"].reshape(()), "loss")
    loss.value.backward()
    grads = {name: weight.grad for name, weight in adapters.parameters().items()}
    norm = torch.stack([grad.norm() for grad in grads.values()]).norm()
    case.close(norm, io["grad_norm"].reshape(()), "norm of all gradients")
    wanted = {key.removeprefix("grad."): value for key, value in io.items() if key.startswith("grad.")}
    assert wanted
    for name, grad in layout(LORA_LAYOUTS, "peft").to_native(wanted).items():
        case.close(grads[name], grad, f"gradient of {name}")


def check_merged(case: Case, file: AdapterFile, merged: str) -> None:
    """W + scale B A of every adapted module, against the reference's merged weights."""
    base, wanted = case.tensors("weights.safetensors"), case.tensors(merged)
    found = {}
    for module in file.modules():
        original = TO_ORIGINAL.rewrite(module.removeprefix("transformer.")) + ".weight"
        a, b = (file.tensors[f"{module}.lora_{letter}.weight"].float() for letter in "AB")
        found[original] = base[original] + file.scale(module) * b @ a
    assert found.keys() == wanted.keys()
    for name, weight in found.items():
        case.close(weight, wanted[name], f"merged {name}")


def with_adapter(case: Case, file: AdapterFile) -> torch.Tensor:
    denoiser = open_case(case, case.folder / "weights.safetensors")
    attach(denoiser.parts(), file)
    return answer(case, denoiser)


def check_interchange(case: Case, tmp_path: Path) -> None:
    for name in case.config["files"]:
        file = read_adapter(case.folder / name, LORA_LAYOUTS)
        case.close(with_adapter(case, file), case.io[case.config["all_give"]], name)
        for one in LORA_LAYOUTS:
            write_adapter(tmp_path / f"{one.name}.safetensors", file, one)
            back = read_adapter(tmp_path / f"{one.name}.safetensors", LORA_LAYOUTS)
            assert back.tensors.keys() == file.tensors.keys()
            case.close(with_adapter(case, back), case.io[case.config["all_give"]], f"{name} rewritten as {one.name}")


def adapted(file: AdapterFile) -> list[str]:
    return sorted(TO_ORIGINAL.rewrite(module.removeprefix("transformer.")) for module in file.modules())


def check_peft(case: Case, tmp_path: Path) -> None:
    case.close(answer(case, open_case(case, case.folder / "weights.safetensors")), case.io["out_without_lora"], "base")
    for name in case.config["files"]:
        told = read_adapter(case.folder / name, LORA_LAYOUTS, alpha=case.config["alpha"])
        silent = read_adapter(case.folder / name, LORA_LAYOUTS)
        assert adapted(told) == sorted(case.config["adapted_modules"])
        assert {told.scale(module) for module in told.modules()} == {case.config["effective_scale"]}
        case.close(with_adapter(case, told), case.io["out_training_scale"], f"{name} with alpha")
        case.close(with_adapter(case, silent), case.io["out_scale_one"], f"{name} without")
        check_merged(case, told, "merged_training_scale.safetensors")
        check_merged(case, silent, "merged_scale_one.safetensors")


def check_network(case: Case, tmp_path: Path) -> None:
    if case.config["reference_args"]["model_type"] != "t2v":
        raise NotBuiltError("image conditions")
    file = read_adapter(case.folder / case.config["file"], LORA_LAYOUTS)
    assert adapted(file) == sorted(case.config["adapted_modules"])
    assert {file.scale(module) for module in file.modules()} == {case.config["effective_scale"]}
    case.close(with_adapter(case, file), case.io["out_with_lora"], "output")
    check_merged(case, file, "merged.safetensors")


def check_schedules(case: Case, tmp_path: Path) -> None:
    """Training tables, boundaries and sampling sigmas; the few-step lists of distillation are not looked at here.

    `euler_sigmas` of the case shift twice (the reference's samplers do not match its training); an Euler walk here
    takes the plain shifted sigmas, which the case has as those of its DPM++ solver.
    """
    for name, table in case.config["shifts"].items():
        shift = float(name)
        u = 1 - torch.arange(1000, dtype=torch.float64) / 1000
        sigmas = shifted(u, shift)
        case.close(sigmas, case.io[f"train_sigmas_shift{name}"], f"training sigmas, shift {name}")
        case.close(1000 * sigmas, case.io[f"train_timesteps_shift{name}"], f"training times, shift {name}")
        for boundary, facts in table["boundaries"].items():
            assert facts["closest_index"] == (sigmas - float(boundary)).abs().argmin()
            edge = 1 - float(unshifted(torch.tensor(float(boundary), dtype=torch.float64), shift))
            assert abs(1000 * edge - facts["closest_index"]) < 1
        process = Flow(NoiseOptions(shift=shift))
        for steps, walks in table["inference"].items():
            for kind, wanted in (("euler", "dpmpp_sigmas"), ("unipc", "diffusers_unipc_sigmas")):
                found = process.sampler(int(steps), kind).sigmas
                case.close(found, torch.tensor(walks[wanted]), f"{kind}, {steps} steps, shift {name}")


def not_built(what: str) -> Callable[[Case, Path], None]:
    def check(case: Case, tmp_path: Path) -> None:
        raise NotBuiltError(what)

    return check


CHECKS: dict[str, Callable[[Case, Path], None]] = {
    "t2v": check_transformer,
    "vae2.1": check_vae,
    "umt5_encoder": check_umt5,
    "flow_training_step": check_training_step,
    "lora_interchange_layouts": check_interchange,
    "lora_peft_file": check_peft,
    "lora_network_file": check_network,
    "flow_schedule_tables": check_schedules,
    "i2v22": not_built("image-to-video 2.2"),
    "i2v_clip": not_built("image-to-video 2.1"),
    "ti2v": not_built("text-and-image-to-video"),
    "vae2.2": not_built("the autoencoder of 2.2"),
    "clip_visual_penultimate": not_built("the image encoder of 2.1"),
    "image_condition_masks": not_built("image conditions"),
    "dmd_distill_step": not_built("distillation"),
}

EXPECTED_FAILURES: tuple[tuple[str, Callable[[dict], bool]], ...] = (
    ("i2v22", lambda config: True),
    ("i2v_clip", lambda config: True),
    ("ti2v", lambda config: True),
    ("vae2.2", lambda config: True),
    ("clip_visual_penultimate", lambda config: True),
    ("image_condition_masks", lambda config: True),
    ("dmd_distill_step", lambda config: True),
    ("flow_training_step", lambda config: config["train_mode"] != "normal" or bool(config["motion_sub_loss_ratio"])),
    ("lora_network_file", lambda config: config["reference_args"]["model_type"] != "t2v"),
)
"""(kind, which of its cases): strict, so that a case which passes must leave the list. Empty when Wan is complete."""
