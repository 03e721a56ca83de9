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

from cinelora.contracts.flow import Batch, Clip, Noised
from cinelora.families.wan.card import TINY
from cinelora.families.wan.clip import WanClip
from cinelora.families.wan.denoise import WanDenoiser, open_denoiser
from cinelora.families.wan.encode import open_encoder
from cinelora.families.wan.layouts import (
    CLIP_LAYOUTS,
    LORA_LAYOUTS,
    TEXT_LAYOUTS,
    TRANSFORMER,
    VAE_LAYOUTS,
    WEIGHT_LAYOUTS,
)
from cinelora.families.wan.masks import first_given, given_channels, unknown_share
from cinelora.families.wan.places import open_base
from cinelora.lora.adapters import Adapters
from cinelora.lora.files import AdapterFile, read_adapter, write_adapter
from cinelora.lora.inject import attach, inject
from cinelora.lora.options import LoraOptions
from cinelora.lora.targets import linears
from cinelora.methods.distill import Distill, levels_of
from cinelora.methods.finetune import Finetune
from cinelora.methods.options import MethodOptions
from cinelora.nets.layouts import Names
from cinelora.noise.flow import Flow
from cinelora.noise.options import NoiseOptions
from cinelora.noise.timesteps import shifted, unshifted

TEXT_LENGTH = 512
TO_ORIGINAL = Names([(native, original) for original, native in TRANSFORMER])


def layout(layouts, name):
    return next(one for one in layouts if one.name == name)


def network_of(case: Case):
    """diffusers' constructor arguments of a case; one that is given CLIP's view has the layers for it."""
    if "diffusers_args" in case.config:
        return {key: value for key, value in case.config["diffusers_args"].items() if value is not None}
    args, clip = case.config["reference_args"], case.io.get("clip_fea")
    return {
        **({} if clip is None else {"image_dim": clip.shape[-1], "added_kv_proj_dim": args["dim"]}),
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
    network = {**TINY.network, "transformer": network_of(case)}
    conditions = dict(TINY.conditions)
    if case.config["reference_args"]["model_type"] in ("i2v", "ti2v"):
        conditions["image"] = "C T H W"
    denoiser = open_denoiser(str(base), replace(TINY, network=network, conditions=conditions), "fp32")
    denoiser.text_dropout = denoiser.image_dropout = 0.0
    return denoiser


def texts(case: Case, name: str) -> torch.Tensor:
    """`name`_0, `name`_1 ... padded with zeros to the text length, as one batch."""
    found = [case.io[key] for key in sorted(case.io) if re.fullmatch(rf"{name}_\d+", key)]
    return torch.stack([torch.nn.functional.pad(text, (0, 0, 0, TEXT_LENGTH - len(text))) for text in found])


def asked(case: Case) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """t B and the conditions of a forward pass; times of tokens become one time and the mask that spreads it."""
    io, t = case.io, case.io["t"]
    given = {"text": texts(case, "context")}
    given |= {ours: io[theirs] for theirs, ours in (("y", "image"), ("clip_fea", "clip")) if theirs in io}
    if t.ndim == 1:
        return t, given
    _, _, frames, height, width = io["x"].shape
    top = t.max(1).values
    tokens = (t / top[:, None]).view(len(t), 1, frames, height // 2, width // 2)
    given["loss_mask"] = tokens.repeat_interleave(2, 3).repeat_interleave(2, 4)
    given["image"] = io["x"]
    return top, given


def answer(case: Case, denoiser: WanDenoiser) -> torch.Tensor:
    t, given = asked(case)
    with torch.no_grad():
        return denoiser.flow(case.io["x"], t, given)


def same_keys(case: Case, layouts, file: str, name: str = "original") -> None:
    """The table takes the original's keys to those of the case's map, and back."""
    wanted, original = case.config_file(file), layout(layouts, name)
    marked = {key: torch.tensor(number) for number, key in enumerate(wanted)}
    native = original.to_native(marked)
    assert {key: int(value) for key, value in native.items()} == {wanted[key]: int(marked[key]) for key in wanted}
    assert original.from_native(native).keys() == wanted.keys()


def check_transformer(case: Case, tmp_path: Path) -> None:
    denoiser = open_case(case, case.folder / "weights.safetensors")
    case.close(answer(case, denoiser), case.io["out"], "output")
    if (case.folder / "key_map_to_diffusers.json").is_file():
        same_keys(case, WEIGHT_LAYOUTS, "key_map_to_diffusers.json")


def check_vae(case: Case, tmp_path: Path) -> None:
    second = case.kind == "vae2.2"
    (tmp_path / f"Wan{'2.2' if second else '2.1'}_VAE.safetensors").symlink_to(
        (case.folder / "weights.safetensors").resolve()
    )
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
    same_keys(case, VAE_LAYOUTS, "key_map_to_diffusers.json", "original-2.2" if second else "original")


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


def check_clip(case: Case, tmp_path: Path) -> None:
    name = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.safetensors"
    weights = case.tensors("weights.safetensors")
    save_file({**weights, "textual.unused": torch.zeros(1), "log_scale": torch.zeros(1)}, tmp_path / name)
    args = case.config["reference_args"]
    network = {
        "hidden_size": args["dim"],
        "intermediate_size": int(args["mlp_ratio"] * args["dim"]),
        "num_hidden_layers": args["num_layers"],
        "num_attention_heads": args["num_heads"],
        "image_size": args["image_size"],
        "patch_size": args["patch_size"],
        "hidden_act": {"gelu": "gelu", "quick_gelu": "quick_gelu"}[args["activation"]],
    }
    tower = WanClip(open_base(str(tmp_path)), network, "fp32")
    case.close(tower.features(case.io["pixels"]), case.io["features"], "features")
    original = layout(CLIP_LAYOUTS, "original")
    back = original.from_native(original.to_native(weights))
    assert back.keys() == weights.keys() - {"visual.head"}
    assert all(torch.equal(back[key], weights[key]) for key in back)


def check_masks(case: Case, tmp_path: Path) -> None:
    names = sorted(key.removesuffix(".pixel_mask") for key in case.io if key.endswith(".pixel_mask"))
    assert names
    for name in names:
        unknown = case.io[f"{name}.pixel_mask"][:, :, 0]
        for what, made in (("mask_i2v_channels", given_channels), ("mask_ti2v", unknown_share)):
            wanted = case.io[f"{name}.{what}"]
            case.close(made(unknown, tuple(wanted.shape[2:])), wanted, f"{name}, {what}")
            if name == "first_frame":
                ours = first_given(1, wanted.shape[2])
                assert torch.equal(made(ours, tuple(wanted.shape[2:])), made(unknown, tuple(wanted.shape[2:])))


def natives_of(part, targets: list[str]) -> str:
    """The pattern of the modules whose original path ends with one of the targets."""
    endings = tuple("." + target for target in targets)
    chosen = [name for name in linears(part) if ("." + str(TO_ORIGINAL.rewrite(name))).endswith(endings)]
    return "|".join(re.escape(name) for name in chosen)


def conditions_of(case: Case) -> dict[str, torch.Tensor]:
    """What a case's step is given of pictures, as the denoiser's `condition` hands it out.

    A TI2V learns without them in the other of its two branches, whatever else the case holds.
    """
    io, mode = case.io, case.config["train_mode"]
    if mode == "normal" or (mode == "ti2v" and case.config["image_conditioned_branch"] is False):
        return {}
    found = {"image": io["condition_latents"]}
    found |= {"clip": io["clip_fea"]} if "clip_fea" in io else {}
    return found | {"loss_mask": io["mask"]} if mode == "ti2v" else found


def check_training_step(case: Case, tmp_path: Path) -> None:
    config, io = case.config, case.io
    weights = case.tensors("weights.safetensors")
    base = {key.removeprefix("base."): value for key, value in weights.items() if key.startswith("base.")}
    save_file(base, tmp_path / "base.safetensors")
    denoiser = open_case(case, tmp_path / "base.safetensors")
    lora = config["lora"]
    targets = natives_of(denoiser.net, lora["targets"])
    options = LoraOptions(rank=lora["rank"], alpha=lora["alpha"], targets=targets)
    adapters = inject(denoiser.parts(), options, presets={}, default_preset="")
    bare = {key.removeprefix("lora."): value for key, value in weights.items() if key.startswith("lora.")}
    adapters.load(layout(LORA_LAYOUTS, "videox-peft").to_native(bare))

    scheme = config["weighting_scheme"]
    weighting = scheme if scheme in ("sigma_sqrt", "cosmap") else "none"
    largest = float(config["error_threshold"])
    process = Flow(NoiseOptions(shift=config["scheduler_shift"], weighting=weighting, t_min=0.001, max_error=largest))
    index = torch.tensor(config["timestep_indices"], dtype=torch.float64)
    case.close(shifted(1 - index / 1000, config["scheduler_shift"]), io["sigmas"].flatten(), "sigmas")
    noised = process.mix(io["latents"], io["noise"], io["sigmas"].flatten())
    case.close(noised.target, io["target"], "target")
    case.close(noised.weight, io["weighting"].flatten(), "weights")
    given = {"text": texts(case, "prompt"), **conditions_of(case)}
    case.close(denoiser.placed(noised.x, given), io["noisy_latents"], "noisy latents")
    spread = "loss_mask" in given
    times = denoiser.token_times(noised.t, given["loss_mask"]) if spread else noised.t
    # Without a picture the reference tells a TI2V the one time of a clip once for each token.
    told = io["timesteps_model"].view(len(times), -1)
    case.close(times.view(len(times), -1).expand_as(told), told, "times")
    # The reference learns of what a TI2V is given, too; the network's own answer is compared, without the mask.
    said = SimpleNamespace(predict=lambda x, t, conditions: denoiser.flow(x, t, given), parts=denoiser.parts)
    prediction = said.predict(noised.x, noised.t, given)
    case.close(prediction, io["model_output"], "output")
    batch = Batch(io["latents"], given, tuple(map(str, range(len(index)))))
    ratio = config["motion_sub_loss_ratio"] or 0.0
    loss = Finetune(said, process, adapters).compare(noised, {}, batch, motion_loss=ratio)
    case.close(loss.value, io["loss"].reshape(()), "loss")
    loss.value.backward()
    grads = {name: weight.grad for name, weight in adapters.parameters().items()}
    norm = torch.stack([grad.norm() for grad in grads.values()]).norm()
    case.close(norm, io["grad_norm"].reshape(()), "norm of all gradients")
    wanted = {key.removeprefix("grad."): value for key, value in io.items() if key.startswith("grad.")}
    assert wanted
    for name, grad in layout(LORA_LAYOUTS, "videox-peft").to_native(wanted).items():
        case.close(grads[name], grad, f"gradient of {name}")


class Negatives(Distill):
    """With a negative prompt of each clip's own, as cases have them."""

    def unsaid(self, given, num_clips):
        return {**given, **self.negative}


def distill_of(case: Case, tmp_path: Path) -> tuple[Distill, dict[str, torch.Tensor]]:
    """The method with both adapters of the case, and the conditions of its prompts."""
    config = case.config
    weights = case.tensors("weights.safetensors")
    split = {
        kind: {key.removeprefix(f"{kind}."): value for key, value in weights.items() if key.startswith(f"{kind}.")}
        for kind in ("base", "generator_lora", "fake_lora")
    }
    save_file(split["base"], tmp_path / "base.safetensors")
    denoiser = open_case(case, tmp_path / "base.safetensors")
    lora = config["lora"]
    options = LoraOptions(rank=lora["rank"], alpha=lora["alpha"], targets=natives_of(denoiser.net, lora["targets"]))
    players = {}
    for name, kind in (("generator", "generator_lora"), ("critic", "fake_lora")):
        players[name] = inject(denoiser.parts(), options, presets={}, default_preset="", adapter_name=name)
        players[name].load(layout(LORA_LAYOUTS, "videox-peft").to_native(split[kind]))
    method = MethodOptions(
        name="distill",
        denoising_steps=tuple(config["denoising_step_indices"]),
        real_guidance=config["real_guidance_scale"],
        fake_guidance=config["fake_guidance_scale"] or 1.0,
        compat="videox",
    )
    process = Flow(NoiseOptions(shift=config["scheduler_shift"]))
    negative = {"text": texts(case, "negative")}
    found = Negatives(denoiser, process, players, options=method, negative=negative)
    given = {"text": texts(case, "prompt")}
    return found, given | conditions_of(case)


def draws_of(case: Case, player: str) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The noises of the simulated steps, and that of the score, as the case drew them for one player."""
    keys = sorted(key for key in case.io if key.startswith(f"{player}.draw_") and key.endswith("_randn"))
    *noises, last = (case.io[key] for key in keys)
    assert len(noises) == case.config[f"{player}_final_step_index"] + 1
    return noises, last


def same_gradients(case: Case, adapters: Adapters, player: str) -> None:
    grads = {name: weight.grad for name, weight in adapters.parameters().items()}
    norm = torch.stack([grad.norm() for grad in grads.values()]).norm()
    case.close(norm, case.io[f"{player}_grad_norm"].reshape(()), f"norm of the {player}'s gradients")
    prefix = f"grad.{player}."
    wanted = {key.removeprefix(prefix): value for key, value in case.io.items() if key.startswith(prefix)}
    assert wanted
    for name, grad in layout(LORA_LAYOUTS, "videox-peft").to_native(wanted).items():
        case.close(grads[name], grad, f"the {player}'s gradient of {name}")


def check_distill(case: Case, tmp_path: Path) -> None:
    method, given = distill_of(case, tmp_path)
    io, process = case.io, method.process
    wanted = torch.tensor(case.config["denoising_timesteps"])
    case.close(torch.tensor([1000 * level.sigma for level in method.levels]), wanted, "denoising times")
    assert [level.t for level in method.levels] == [int(t) for t in wanted]

    def simulated(player: str) -> tuple[torch.Tensor, Noised, Batch]:
        noises, noise = draws_of(case, player)
        clean = method.simulate(noises[0], noises, given, learning=player == "generator")
        index = torch.tensor(case.config[f"{player}_score_index"], dtype=torch.float64)
        # The reference's table is made in fp32, and the networks tell its last bit.
        sigma = io[f"{player}_timestep"].flatten() / 1000
        case.close(sigma, shifted(1 - index / 1000, case.config["scheduler_shift"]), f"the {player}'s score levels")
        noised = process.mix(clean.detach(), noise, sigma)
        case.close(clean, io[f"{player}_x0"], f"the {player}'s clean clip")
        # The critic's is noted with the picture in its place, the generator's before that.
        x = method.denoiser.placed(noised.x, given) if player == "critic" else noised.x
        case.close(x, io[f"{player}_noisy_input"], f"the {player}'s noisy clip")
        case.close(noised.t, io[f"{player}_timestep"].flatten(), f"the {player}'s times")
        return clean, noised, Batch(clean.detach(), given, tuple(map(str, range(len(index)))))

    clean, noised, batch = simulated("generator")
    found = method.direction(clean, noised, given, batch)
    case.close(found.fake, io["fake_x0"], "what the critic sees")
    case.close(found.real, io["real_x0"], "what the base sees")
    case.close(found.normaliser, io["normalizer"], "normaliser")
    case.close(found.gradient, io["dmd_gradient"], "gradient in the clip")
    loss = method.generator_loss(clean, noised, given, batch).value
    case.close(loss, io["dmd_loss"].reshape(()), "loss of the generator")
    loss.backward()
    same_gradients(case, method.generator, "generator")
    assert all(weight.grad is None for weight in method.critic.parameters().values())

    clean, noised, batch = simulated("critic")
    loss = method.critic_loss(clean, noised, given, batch).value
    case.close(loss, io["critic_loss"].reshape(()), "loss of the critic")
    loss.backward()
    same_gradients(case, method.critic, "critic")
    with torch.no_grad():
        # Of the case's own input: the errors of the clip that was drawn would come on top.
        x, t = io["critic_noisy_input"], io["critic_timestep"].flatten()
        case.close(method.predict(x, t, given), io["critic_output"], "output of the critic")


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
    file = read_adapter(case.folder / case.config["file"], LORA_LAYOUTS)
    assert adapted(file) == sorted(case.config["adapted_modules"])
    assert {file.scale(module) for module in file.modules()} == {case.config["effective_scale"]}
    case.close(with_adapter(case, file), case.io["out_with_lora"], "output")
    check_merged(case, file, "merged.safetensors")


def same_lists(case: Case, process: Flow, lists: dict) -> None:
    """The reference's few steps, and the plain ones: its times without their being cut."""
    for name, wanted in lists.items():
        steps = tuple(map(int, name.split(",")))
        levels = levels_of(MethodOptions(name="distill", denoising_steps=steps, compat="videox"), process)
        assert [level.t for level in levels] == wanted["integer_timesteps_seen_by_model"]
        sigmas = torch.tensor([[level.sigma, level.taken] for level in levels])
        case.close(sigmas[:, 0], torch.tensor(wanted["sigma_used_for_renoise"]), f"noise of steps {name}")
        case.close(sigmas[:, 1], torch.tensor(wanted["sigma_used_for_x0"]), f"clean clip of steps {name}")
        plain = levels_of(MethodOptions(name="distill", denoising_steps=steps), process)
        case.close(torch.tensor([level.t for level in plain]), torch.tensor(wanted["timesteps"]), f"steps {name}")


def check_schedules(case: Case, tmp_path: Path) -> None:
    """Training tables, boundaries, sampling sigmas, and the few-step lists of distillation.

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
        same_lists(case, process, table["denoising_lists"])
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
    "i2v22": check_transformer,
    "i2v_clip": check_transformer,
    "ti2v": check_transformer,
    "vae2.2": check_vae,
    "clip_visual_penultimate": check_clip,
    "image_condition_masks": check_masks,
    "dmd_distill_step": check_distill,
}

EXPECTED_FAILURES: tuple[tuple[str, Callable[[dict], bool]], ...] = ()
"""(kind, which of its cases): strict, so that a case which passes must leave the list. Empty when Wan is complete."""
