"""Checks of DynamiCrafter's golden cases of adapters and sampling, by kind, through the project's own code."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from golden_case import Case
from golden_dynamicrafter_nets import near, net_of
from golden_dynamicrafter_process import SPACINGS, process_of
from safetensors import safe_open
from safetensors.torch import load_file

from cinelora.commands.lora_apply import Asked, apply
from cinelora.commands.lora_extract import extract
from cinelora.contracts.flow import Batch
from cinelora.contracts.roles import Player
from cinelora.families.dynamicrafter.adapter_layouts import CheckpointLora
from cinelora.families.dynamicrafter.layouts import UNET, WEIGHT_LAYOUTS
from cinelora.families.dynamicrafter.opening import build_unet
from cinelora.families.dynamicrafter.targets import PRESETS
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from cinelora.lora.targets import linears
from cinelora.noise.ddim import DdimSampler, steps_over, times_of
from cinelora.noise.ddpm import alphas_of, scales_of
from cinelora.preview.guidance import NOTHING, SAID, SEEN, Guidance
from cinelora.train.optim import Learner
from cinelora.train.options import TrainOptions


def check_training_step(case: Case, tmp_path: Path) -> None:
    config, io = case.config, case.io
    unet = net_of(case, build_unet(config["unet"]), WEIGHT_LAYOUTS).eval()
    told = config["lora"]
    assert told["dropout"] == 0 or config["mode"].startswith("eval")
    # The original's alpha is the strength itself, whatever the rank is.
    options = LoraOptions(
        rank=told["rank"],
        alpha=told["alpha"] * told["rank"],
        dropout=told["dropout"],
        targets=without(told["skip_layers"], linears(unet)),
    )
    adapters = inject({"unet": unet}, options, presets=PRESETS, default_preset="reference")
    unet.eval()
    assert {UNET + one.name for one in adapters.layers} == set(config["wrapped_modules_in_unet"])
    assert {module["scale"] for module in adapters.facts()["modules"].values()} == {told["effective_scale"]}
    first = native(io, "init/")
    adapters.load(first)
    process = process_of(config["model"])
    noised = process.mix(io["z"], io["noise"], io["t"])

    def say(x: torch.Tensor) -> torch.Tensor:
        return unet(torch.cat([x, io["c_concat"]], 1), io["t"], io["context"], io.get("fs"))

    batch = Batch(io["z"], {}, tuple("abcdefgh"[: len(io["z"])]))
    if "model_output_with_lora" in io:
        near(say(io["z"]), io["model_output_with_lora"], "output with the adapter")
    learner = Learner(Player("adapter", adapters.parameters()), train_options(config["optimizer"]))
    wanted = native(io, "grad/")
    for number in range(2):
        learner.clear()
        found = process.loss(say(noised.x), noised, batch).value
        near(found, io[f"loss_step{number + 1}"], "loss", rtol=1e-5, atol=0)
        found.backward()
        if not number:
            for name, weight in adapters.parameters().items():
                near(weight.grad, wanted[name], f"gradient of {name}", rtol=1e-3, atol=1e-6)
        norm = learner.clip(None, number)
        near(torch.tensor(norm), io[f"grad_norm_step{number + 1}"], "norm", rtol=1e-3, atol=1e-6)
        learner.step(config["optimizer"]["lr"], None, number + 1)
    threshold = config["check"]["after_step2"]["threshold_on_abs_grad"]
    after = native(io, "after_step2/")
    for name, weight in adapters.parameters().items():
        counts = wanted[name].abs() > threshold
        near(weight.detach()[counts], after[name][counts], f"{name} after two steps", rtol=0, atol=1e-4)


def without(words: Sequence[str], names: Iterable[str]) -> str:
    """The reference's targets but those whose names have one of these words in them, their prefix included."""
    kept = [re.escape(name) for name in names if not any(word in UNET + name for word in words)]
    return "|".join(kept) if words else "reference"


def native(io: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """What stands behind a prefix in the trainer's own spelling, by the names that parameters have here."""
    own = {key.removeprefix(prefix): one for key, one in io.items() if key.startswith(prefix)}
    layout = CheckpointLora()
    assert layout.reads(list(own))
    back = layout.from_native(layout.to_native(own))
    assert back.keys() == own.keys()
    return layout.to_native(own)


def train_options(told: Mapping[str, Any]) -> TrainOptions:
    assert told["name"] == "AdamW"
    return TrainOptions(
        optimizer="adamw",
        lr=told["lr"],
        betas=tuple(told["betas"]),
        eps=told["eps"],
        weight_decay=told["weight_decay"],
        clip_norm=told["clip_grad_norm"] or 0.0,
    )


def read(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


def same(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, one in wanted.items():
        assert found[key].dtype == one.dtype, key
        assert torch.equal(found[key], one), key


def check_extract(case: Case, tmp_path: Path) -> None:
    told = case.config["cases"]
    assert told
    for row in told:
        assert set(row) <= {"in", "format", "out"}, row
        written = extract(case.folder / row["in"], out=tmp_path, file_format=row["format"])
        assert written == tmp_path / row["out"]
        found, wanted = read(written), read(case.folder / row["out"])
        same(found, wanted)
        if row["format"] == "safetensors":
            with safe_open(written, "pt") as file:
                assert not file.metadata()
        elif row["format"] == "ckpt":
            assert list(found) == list(wanted)
        assert {key: list(one.shape) for key, one in found.items()} == case.config["out_keys"]


def check_apply(case: Case, tmp_path: Path) -> None:
    config = case.config
    base, lora = case.folder / config["base"], case.folder / config["lora"]
    whole = torch.load(base, weights_only=True)
    whole = whole.get("state_dict", whole)
    for row in config["runs"]:
        assert set(row) <= {"alpha", "output_name", "changed_keys", "all_keys", "dtypes", "top_level"}, row
        asked = Asked(alpha=row["alpha"], out=tmp_path, file_format=config["format"], original_names=True)
        written = apply(base, lora, asked)
        assert written.name == row["output_name"]
        found = read(written)
        assert found.keys() == whole.keys()
        assert len(found) == row["all_keys"]
        assert sorted({str(one.dtype) for one in found.values()}) == sorted(row["dtypes"])
        prefix = f"alpha_{row['alpha']}/"
        changed = {key.removeprefix(prefix): one for key, one in case.io.items() if key.startswith(prefix)}
        assert len(changed) == row["changed_keys"]
        same({key: one for key, one in found.items() if key not in changed},
             {key: one for key, one in whole.items() if key not in changed})  # fmt: skip
        for key, one in changed.items():
            near(found[key], one, key, rtol=0, atol=1e-6)


IO = {"x_T", "noises", "c_concat", "samples", "x_per_step", "pred_x0_per_step", "timesteps_visited"}


def sampler_of(case: Case) -> DdimSampler:
    told, options = case.config["sampler"], process_of(case.config["model"]).options
    times = times_of(SPACINGS[told["spacing"]], told["steps"])
    steps = steps_over(alphas_of(options), times, eta=told["eta"], scales=scales_of(options))
    assert len(steps.times) == told["actual_steps"]
    return DdimSampler(steps, prediction=options.prediction)


def contexts_of(case: Case) -> dict[str, torch.Tensor]:
    """What the cross attention of each pass gets, by the names that guidance has for the passes."""
    io = case.io
    found = {SAID: io["context"]}
    if "uncond_context" in io:
        found[NOTHING] = io["uncond_context"]
    others = [name for name in io if "context" in name and name not in ("context", "uncond_context")]
    assert len(others) <= 1, others
    return {**found, **({SEEN: io[others[0]]} if others else {})}


@torch.no_grad()
def check_ddim(case: Case, tmp_path: Path) -> None:
    told, io = case.config["sampler"], case.io
    known = {"steps", "actual_steps", "eta", "guidance_scale", "spacing", "guidance_rescale", "image_guidance_scale"}
    assert set(told) <= {*known, "fs"}, told
    unet, sampler = net_of(case, build_unet(case.config["unet"]), WEIGHT_LAYOUTS).eval(), sampler_of(case)
    guidance = Guidance(told["guidance_scale"], told["image_guidance_scale"], told["guidance_rescale"])
    assert {name for name in io if "context" not in name} <= IO, set(io)
    contexts, fs = contexts_of(case), told.get("fs") and torch.tensor(told["fs"])
    times = sampler.times()
    assert torch.equal(times, io["timesteps_visited"])
    x = io["x_T"]
    for number, t in enumerate(times):
        video, at = torch.cat([x, io["c_concat"]], 1), t.expand(len(x))
        answers = {name: unet(video, at, contexts[name], fs) for name in guidance.asks}
        noise = io["noises"][number] if "noises" in io else None
        x, clean = sampler.moved(guidance.mixed(answers), x, number, noise)
        for name, found in (("pred_x0_per_step", clean), ("x_per_step", x)):
            if name in io:
                near(found, io[name][number], f"{name} {number}", rtol=1e-3, atol=2e-4)
    near(x, io["samples"], "samples", rtol=1e-3, atol=2e-4)


CHECKS = {
    "lora_training_step": check_training_step,
    "lora_extract": check_extract,
    "lora_apply": check_apply,
    "ddim_sampling": check_ddim,
}
