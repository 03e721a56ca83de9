"""Checks of EasyAnimate's golden training steps and of what its inpaint networks are told, through the product's code.

Names of losses are parsed: loss[_WEIGHTING][_with_motion_sub_SHARE][_threshold_LARGEST]. Every field of a case is
compared, and one that is not known fails.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import torch
from golden_case import Case
from safetensors.torch import save_file

from cinelora.contracts.flow import Batch, Noised
from cinelora.families.easyanimate.hunyuan import sizes_told
from cinelora.families.easyanimate.inpaint import joined, known_share, with_noise
from cinelora.families.easyanimate.layouts import LAYOUTS_BY_CLASS, LORA_LAYOUTS
from cinelora.families.easyanimate.networks import open_network, predict
from cinelora.lora.adapters import Adapters
from cinelora.lora.files import read_adapter
from cinelora.lora.inject import attach
from cinelora.media.masks import apply_mask
from cinelora.methods.finetune import Finetune
from cinelora.nets.weights import fill
from cinelora.noise.ddpm import Ddpm
from cinelora.noise.flow import Flow
from cinelora.noise.options import NoiseOptions
from cinelora.noise.sigma import Sigma
from cinelora.noise.timesteps import shifted

CONFIG = {"kind", "loss_type", "constructor", "weight_seed", "input_seed", "rtol", "atol", "source"}
CONFIG_OF = {
    "flow": {"scheduler", "lora", "vae_scaling_factor"},
    "ddpm": {"scheduler", "lora", "vae_scaling_factor"},
    "sigma": {"train_sampling_steps", "betas", "lora"},
}
INPAINT_CONFIG = {"kind", "first_frame_alone", "vae_scaling_factor", "noise_ratio", "seed", "rtol", "atol", "source"}
FLOW_SCHEDULER = {"num_train_timesteps", "shift", "use_dynamic_shifting"}
DYNAMIC = {"base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"}
"""Of the sampling shift; none has a say in training."""
DDPM_SCHEDULER = {"num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type"}
OF_SAMPLING = {"clip_sample", "clip_sample_range", "steps_offset", "timestep_spacing", "set_alpha_to_one"}
OF_SAMPLING |= {
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "variance_type",
    "rescale_betas_zero_snr",
}
"""All but the last have no say in training."""
PREDICTIONS = {"v_prediction": "v", "epsilon": "eps", "sample": "x0"}
LINEAR = r"linear 1e-4\.\.0\.02, 1000 steps, float64"
TEXTS = {
    "encoder_hidden_states": "text",
    "encoder_hidden_states_t5": "text_t5",
    "text_embedding_mask": "text_mask",
    "text_embedding_mask_t5": "text_t5_mask",
    "inpaint_latents": "inpaint",
    "clip_encoder_hidden_states": "clip",
    "clip_attention_mask": "clip_mask",
}
LOSS = re.compile(
    r"loss(?:_(?P<weighting>none|sigma_sqrt|cosmap|logit_normal|mode))?(?:_with_motion_sub_(?P<share>[\d.]+))?"
    r"(?:_threshold_(?P<largest>[\d.]+))?"
)
DRAWN = ("logit_normal", "mode")
"""Weighting schemes there that say how times are drawn, and weigh all alike."""
LEAST_SIGMA = 1e-4
"""sigma_sqrt refuses a range down to 0."""


def near(case: Case, found: torch.Tensor, wanted: torch.Tensor, what: str) -> None:
    torch.testing.assert_close(
        found.detach().float(),
        wanted.float(),
        rtol=case.config["rtol"],
        atol=case.config["atol"],
        msg=lambda text: f"{case.name}: {what}\n{text}",
    )


def class_of(constructor: Mapping[str, object]) -> str:
    """The original's class, which these cases do not name, by an argument that only it has."""
    marks = {
        "mmdit_layers": "EasyAnimateTransformer3DModel",
        "pooled_projection_dim": "HunyuanTransformer3DModel",
        "caption_channels": "Transformer3DModel",
    }
    return next(name for mark, name in marks.items() if mark in constructor)


class Step:
    """The network of a case with its adapter, and the fields that are still to be compared."""

    def __init__(self, case: Case, folder: Path):
        self.case, self.io = case, case.io
        self.left = set(case.io)
        self.kind = class_of(case.config["constructor"])
        self.net = open_network({"_class_name": self.kind, **case.config["constructor"]})
        tensors = case.tensors("weights.safetensors")
        adapter = _below(tensors, "lora.")
        # Without an adapter beside them, the network's keys have no prefix.
        base = _below(tensors, "transformer." if adapter else "")
        native = next(one for one in LAYOUTS_BY_CLASS[self.kind] if one.reads(list(base))).to_native(base)
        fill(self.net, native, of="denoiser", dtype_of=lambda name: torch.float32)
        self.adapters = self._adapters(adapter, folder)
        assert len(tensors) == len(base) + len(adapter)

    def _adapters(self, tensors: dict[str, torch.Tensor], folder: Path) -> Adapters | None:
        told = self.case.config.get("lora")
        assert bool(told) == bool(tensors)
        if not told:
            return None
        assert set(told) == {"rank", "alpha"}
        save_file(tensors, folder / "lora.safetensors")
        file = read_adapter(folder / "lora.safetensors", LORA_LAYOUTS)
        assert {file.rank(module) for module in file.modules()} == {told["rank"]}
        assert set(file.alphas.values()) == {float(told["alpha"])}
        adapters = attach({"transformer": self.net}, file)
        for weight in adapters.parameters().values():
            weight.requires_grad_(True)
        return adapters

    def take(self, *names: str) -> None:
        self.left -= set(names)

    def same(self, found: torch.Tensor, name: str) -> None:
        near(self.case, found, self.io[name], name)
        self.take(name)

    def predict(self, noised: Noised) -> torch.Tensor:
        """The network's answer, compared with the case's."""
        conditions = {ours: self.io[theirs] for theirs, ours in TEXTS.items() if theirs in self.io}
        self.take(*TEXTS, "style")
        if "image_meta_size" in self.io:
            self.same(sizes_told(noised.x), "image_meta_size")
        prediction = predict(self.net, noised.x, noised.t, conditions, kind=self.kind)
        self.same(prediction, "model_output")
        return prediction

    def check_rope(self) -> None:
        """The tables are inside of the network, whose output is compared."""
        self.take("rope_cos", "rope_sin")

    def check_gradients(self, loss: torch.Tensor) -> None:
        if self.adapters is None:
            return
        loss.backward()
        # What the last block makes of the text leads nowhere: no gradient here, zeros there.
        learned = self.adapters.parameters()
        grads = {n: torch.zeros_like(w) if w.grad is None else w.grad for n, w in learned.items()}
        layout = next(one for one in LORA_LAYOUTS if one.name == "videox")
        spelt = {f"grad.{name}": grad for name, grad in layout.from_native(grads).items()}
        assert set(spelt) == {name for name in self.io if name.startswith("grad.")}
        for name, grad in spelt.items():
            self.same(grad, name)
        if "lora_grad_norm" in self.io:
            norm = torch.stack([grad.norm() for grad in grads.values()]).norm()
            self.same(norm[None], "lora_grad_norm")

    def done(self) -> None:
        assert not self.left, f"{self.case.name}: fields that nothing compared: {sorted(self.left)}"


def _below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value.float() for key, value in tensors.items() if key.startswith(prefix)}


def judged(process: Flow | Ddpm | Sigma, prediction: torch.Tensor, noised: Noised, clean: torch.Tensor, share: float):
    """The Loss that the plain method takes of a given prediction."""
    denoiser = SimpleNamespace(predict=lambda x, t, conditions: prediction)
    method = Finetune(denoiser, process, SimpleNamespace(parameters=dict, whole=dict))
    batch = Batch(clean, {}, tuple(str(k) for k in range(len(clean))))
    return method.compare(noised, {}, batch, motion_loss=share)


def share_of(text: str) -> float:
    """ "0.25", or "025" for it."""
    return float(text) if "." in text else int(text) / 10 ** (len(text) - 1)


def check_losses(step: Step, open_process: Callable, mix: Callable, prediction: torch.Tensor) -> torch.Tensor:
    """Every loss of the case; gives back the plain one, with its graph."""
    plain = None
    names = sorted(name for name in step.left if LOSS.fullmatch(name))
    assert names
    for name in names:
        told = LOSS.fullmatch(name)
        weighting = "none" if told["weighting"] in (None, *DRAWN) else told["weighting"]
        process = open_process(weighting=weighting, max_error=float(told["largest"] or 50))
        share = share_of(told["share"] or "0")
        loss = judged(process, prediction, mix(process), step.io["latents"], share)
        step.same(loss.value[None], name)
        if "motion" in loss.terms:
            near(step.case, loss.terms["motion"][None], step.io["motion_sub_loss"], "motion_sub_loss")
            step.take("motion_sub_loss")
        if not share and not told["largest"] and weighting == "none":
            plain = loss.value
    assert plain is not None
    return plain


def check_flow(case: Case, tmp_path: Path) -> None:
    told, step = case.config["scheduler"], Step(case, tmp_path)
    assert FLOW_SCHEDULER <= set(told) <= FLOW_SCHEDULER | DYNAMIC
    assert told["num_train_timesteps"] == 1000
    shift = 1.0 if told["use_dynamic_shifting"] else float(told["shift"])
    io = case.io

    def open_flow(*, weighting: str, max_error: float) -> Flow:
        least = LEAST_SIGMA if weighting == "sigma_sqrt" else 0.0
        return Flow(NoiseOptions(kind="flow", shift=shift, weighting=weighting, max_error=max_error, t_min=least))

    # The reference takes number u of 1000 levels that fall from noise alone.
    level = (1000 - (io["u"].double() * 1000).long()).double() / 1000
    sigma = shifted(level, shift)
    step.same(sigma, "sigmas")
    noised = open_flow(weighting="none", max_error=50).mix(io["latents"], io["noise"], sigma)
    step.same(noised.t, "timesteps")
    step.same(noised.x, "noisy_latents")
    step.same(noised.target, "target")
    check_told(step)
    prediction = step.predict(noised)
    plain = check_losses(step, open_flow, lambda process: process.mix(io["latents"], io["noise"], sigma), prediction)
    step.check_gradients(plain)
    step.check_rope()
    step.take("u", "latents", "noise")
    step.done()


def check_told(step: Step) -> None:
    """The way from masks of pixels to what the network is told."""
    io = step.io
    if "mask_pixels" not in io:
        return
    latents = io["mask_latents"]
    mask = known_share(io["mask_pixels"][:, :, 0], tuple(latents.shape[2:]), first_alone=True)
    step.same(mask, "mask_resized")
    scaling = step.case.config["vae_scaling_factor"]
    step.same(joined(mask, latents, given=io["t2v_flag"], scaling=scaling), "inpaint_latents")
    step.take("mask_pixels", "mask_latents", "t2v_flag")


def check_ddpm(case: Case, tmp_path: Path) -> None:
    told, step, io = case.config["scheduler"], Step(case, tmp_path), case.io
    assert DDPM_SCHEDULER <= set(told) <= DDPM_SCHEDULER | OF_SAMPLING
    assert told["num_train_timesteps"] == 1000

    def open_ddpm(*, weighting: str, max_error: float) -> Ddpm:
        assert weighting == "none"
        return Ddpm(
            NoiseOptions(
                kind="ddpm",
                betas=told["beta_schedule"],
                beta_start=told["beta_start"],
                beta_end=told["beta_end"],
                prediction=PREDICTIONS[told["prediction_type"]],
                zero_terminal_snr=told.get("rescale_betas_zero_snr", False),
                max_error=max_error,
            )
        )

    process = open_ddpm(weighting="none", max_error=50)
    step.same(process.alphas, "alphas_cumprod")
    noised = process.mix(io["latents"], io["noise"], io["timesteps"])
    assert torch.equal(noised.t.long(), io["timesteps"])
    step.same(noised.x, "noisy_latents")
    step.same(noised.target, "target")
    check_told(step)
    prediction = step.predict(noised)
    mix = lambda process: process.mix(io["latents"], io["noise"], io["timesteps"])  # noqa: E731
    step.check_gradients(check_losses(step, open_ddpm, mix, prediction))
    step.check_rope()
    step.take("timesteps", "latents", "noise")
    step.done()


def check_sigma(case: Case, tmp_path: Path) -> None:
    step, io = Step(case, tmp_path), case.io
    assert re.fullmatch(LINEAR, case.config["betas"])

    def open_sigma(*, snr_loss: bool) -> Sigma:
        return Sigma(
            NoiseOptions(
                kind="sigma",
                betas="linear",
                beta_start=1e-4,
                beta_end=0.02,
                num_levels=case.config["train_sampling_steps"],
                snr_loss=snr_loss,
            )
        )

    noised = open_sigma(snr_loss=False).mix(io["latents"], io["noise"], io["timesteps"])
    assert torch.equal(noised.t.long(), io["model_timesteps"])
    step.same(noised.x, "noisy_latents")
    prediction, plain = step.predict(noised), None
    for prefix, snr_loss in (("", False), ("snr_", True)):
        process = open_sigma(snr_loss=snr_loss)
        rows = []
        for k in range(len(prediction)):
            clean, noise, level = (io[name][k : k + 1] for name in ("latents", "noise", "timesteps"))
            rows.append(judged(process, prediction[k : k + 1], process.mix(clean, noise, level), clean, 0.0))
        whole = judged(
            process, prediction, process.mix(io["latents"], io["noise"], io["timesteps"]), io["latents"], 0.0
        )
        near(case, whole.each, io[f"{prefix}loss"], f"{prefix}loss of the batch's clips")
        near(case, whole.value, io[f"{prefix}loss"].mean(), f"{prefix}loss of the batch")
        plain = whole.value if plain is None else plain
        step.same(torch.stack([row.value for row in rows]), f"{prefix}loss")
        for term in ("mse", "vb"):
            step.same(torch.stack([row.terms[term] for row in rows]), f"{prefix}{term}")
    step.check_gradients(plain)
    step.check_rope()
    step.take("timesteps", "model_timesteps", "latents", "noise")
    step.done()


def check_training_step(case: Case, tmp_path: Path) -> None:
    kind = case.config["loss_type"]
    steps = {"flow": check_flow, "ddpm": check_ddpm, "sigma": check_sigma}
    assert CONFIG <= set(case.config) <= CONFIG | CONFIG_OF[kind]
    steps[kind](case, tmp_path)


def check_inpaint_conditioning(case: Case, tmp_path: Path) -> None:
    config, io = case.config, dict(case.io)
    assert set(config) == INPAINT_CONFIG

    def same(found: torch.Tensor, name: str) -> None:
        near(case, found, io.pop(name), name)

    mask, latents = io.pop("mask")[:, :, 0].float(), io.pop("latent_like")
    pixels, flag = io.pop("pixel_values"), io.pop("t2v_flag")
    # B F C H W there, B C F H W here.
    masked = apply_mask(pixels, mask[:, :, None])
    same(masked, "mask_pixel_values")
    told = known_share(mask, tuple(latents.shape[2:]), first_alone=config["first_frame_alone"])
    same(told, "mask_resized")
    same(joined(told, latents, given=flag, scaling=config["vae_scaling_factor"]), "inpaint_latents")
    noise = io.pop("unit_noise")
    same(with_noise(masked.transpose(1, 2), noise, config["noise_ratio"]), "noised_fixed_ratio")
    draws = io.pop("t2v_draw")
    for whole, draw, given in zip(mask.flatten(1).all(1), draws, flag, strict=True):
        assert float(given) == (0.0 if whole and draw < 0.9 else 1.0)
    assert not io


CHECKS = {"training_step": check_training_step, "inpaint_conditioning": check_inpaint_conditioning}
