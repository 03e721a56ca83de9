"""Checks of CogVideoX's golden cases by kind, through the project's own code. Tolerances are the README's.

Latents of the cases are B F C H W, of the project B C F H W. Whole diffusers folders are opened as bases.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from golden_case import Case
from safetensors.torch import load_file

from cinelora.contracts.flow import Batch, Clip
from cinelora.contracts.roles import Player
from cinelora.families.cogvideox.card import TINY
from cinelora.families.cogvideox.denoise import CogVideoXDenoiser, build_net, open_denoiser
from cinelora.families.cogvideox.encode import open_encoder
from cinelora.families.cogvideox.layouts import LORA_LAYOUTS
from cinelora.lora.files import read_adapter, write_adapter
from cinelora.lora.inject import attach, inject
from cinelora.lora.options import LoraOptions
from cinelora.nets.encoder import TowerEncoder
from cinelora.nets.files import read_json
from cinelora.nets.weights import fill
from cinelora.noise.ddpm import Ddpm, alphas_of
from cinelora.noise.options import NoiseOptions
from cinelora.preview.sample import Walk, walk
from cinelora.train.optim import Learner
from cinelora.train.options import TrainOptions

TARGETS = r"transformer_blocks\.\d+\.attn1\.(to_q|to_k|to_v|to_out\.0)"
PREDICTIONS = {"v_prediction": "v", "epsilon": "eps", "sample": "x0"}


def near(found: torch.Tensor, wanted: torch.Tensor, what: str, *, rtol: float = 1e-4, of_max: float = 1e-4) -> None:
    """|found - wanted| <= rtol |wanted| + of_max max|wanted|."""
    wanted = wanted.float()
    torch.testing.assert_close(
        found.detach().float(),
        wanted,
        rtol=rtol,
        atol=of_max * float(wanted.abs().max()),
        msg=lambda text: f"{what}\n{text}",
    )


def turned(latents: torch.Tensor) -> torch.Tensor:
    return latents.transpose(1, 2)


def base_of(case: Case) -> Path:
    return (case.folder / case.config["pipeline"]).resolve() if "pipeline" in case.config else case.folder


def variant_of(base: Path):
    """The card's small variant with the networks of a diffusers folder."""
    vae = read_json(base / "vae" / "config.json")
    transformer = read_json(base / "transformer" / "config.json")
    network = {"transformer": {}, "vae": {"scaling_factor": vae["scaling_factor"]}, "text_encoder": {}}
    conditions = {"text": "S D"}
    if transformer["in_channels"] > transformer["out_channels"]:
        conditions |= {"image_mean": "K C H W", "image_logvar": "K C H W"}
    return replace(TINY, network=network, conditions=conditions, text_length=transformer["max_text_seq_length"])


def schedule_of(config: dict) -> NoiseOptions:
    assert config["num_train_timesteps"] == 1000
    assert config["set_alpha_to_one"]
    assert not config["clip_sample"]
    assert config["timestep_spacing"] == "trailing"
    return NoiseOptions(
        kind="ddpm",
        betas=config["beta_schedule"],
        beta_start=config["beta_start"],
        beta_end=config["beta_end"],
        prediction=PREDICTIONS[config["prediction_type"]],
        snr_shift=config["snr_shift_scale"],
        zero_terminal_snr=config["rescale_betas_zero_snr"],
    )


def process_of(case: Case) -> Ddpm:
    config = case.config.get("scheduler") or read_json(base_of(case) / "scheduler" / "scheduler_config.json")
    return Ddpm(schedule_of(config))


def denoiser_of(case: Case, *, as_pipeline: bool = False) -> CogVideoXDenoiser:
    """The case's denoiser; `as_pipeline` scales rotary positions to its own size, as diffusers' pipelines do."""
    if "transformer" in case.config:
        net = build_net(case.config["transformer"])
        fill(net, case.tensors("weights.safetensors"), of="denoiser", dtype_of=lambda name: torch.float32)
        denoiser = CogVideoXDenoiser(net)
    else:
        base = base_of(case)
        denoiser = open_denoiser(str(base), variant_of(base), "fp32")
    facts = case.config if "transformer" in case.config else read_json(base_of(case) / "case.json")
    if facts.get("rope_base") and not as_pipeline:
        denoiser.rope_base = tuple(pixels // 16 for pixels in facts["rope_base"])
    return denoiser


def encoder_of(base: Path) -> TowerEncoder:
    return open_encoder(str(base), variant_of(base), "fp32")


def clip_of(pixels: torch.Tensor) -> Clip:
    return Clip(SimpleNamespace(), pixels, "", 8.0)


def check_rope(denoiser: CogVideoXDenoiser, io: dict, video: torch.Tensor) -> None:
    if "rope_cos" in io:
        cos, sin = denoiser._rotary(video)
        torch.testing.assert_close(cos, io["rope_cos"], rtol=0, atol=1e-5)
        torch.testing.assert_close(sin, io["rope_sin"], rtol=0, atol=1e-5)


def answer(denoiser: CogVideoXDenoiser, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """The network's answer to x B F C H W, which holds the image's channels too where there are some."""
    channels = denoiser.net.config.out_channels
    conditions = {"text": text, "image": turned(x)[:, channels:]}
    with torch.no_grad():
        return turned(denoiser.predict(turned(x)[:, :channels], t, conditions))


def check_pipeline(case: Case, tmp_path: Path) -> None:
    encoder, io = encoder_of(case.folder), case.io
    for k, prompt in enumerate(case.config["prompts"]):
        assert encoder.text.max_tokens == case.config["max_sequence_length"] == io[f"text.{k}.input_ids"].shape[1]
        near(encoder.text.embed([prompt]), io[f"text.{k}.embeds"], f"text {k}")
    vae = encoder.vae
    for key in sorted(key for key in io if key.startswith("vae.") and key.endswith(".video")):
        name = key.removesuffix(".video")
        mean, logvar = vae.moments(io[key][0])
        near(mean, io[f"{name}.mean"][0], f"{name} mean")
        near(logvar, io[f"{name}.logvar"][0], f"{name} logvar")
        if f"{name}.eps" not in io:
            continue
        scaled = vae.encode([clip_of(io[key][0])])[0]
        sample = scaled["mean"] + torch.exp(0.5 * scaled["logvar"]) * io[f"{name}.eps"][0]
        near(sample, io[f"{name}.sample_scaled"][0], f"{name} sample")
        near(vae.decode(sample[None]), io[f"{name}.decoded"].clamp(-1, 1), f"{name} decoded")
        tiling = case.config["tiling"]
        vae.net.enable_tiling(**tiling)
        near(vae.net.encode(io[key]).latent_dist.mean, io[f"{name}.tiled_mean"], f"{name} tiled mean")
        raw = sample[None] / vae.scaling
        near(vae.net.decode(raw).sample, io[f"{name}.tiled_decoded"], f"{name} tiled decoded")
        vae.net.use_tiling = False
    denoiser = denoiser_of(case)
    for name in ("dit", "dit2"):
        if f"{name}.in" in io:
            found = answer(denoiser, io[f"{name}.in"], io[f"{name}.t"], io[f"{name}.text"])
            near(found, io[f"{name}.out"], name)


def check_image(case: Case) -> None:
    """The noised first frame and its moments, from the case's own draws."""
    io = case.tensors("image_io.safetensors")
    noisy = io["image.pixels"] + io["image.sigma"].view(-1, 1, 1, 1, 1) * io["image.pixel_noise"]
    near(noisy, io["image.noisy"], "noised image")
    vae = encoder_of(base_of(case)).vae
    mean, logvar = vae.moments(noisy[0])
    near(mean, io["image.mean"][0], "image mean")
    near(logvar, io["image.logvar"][0], "image logvar")
    sample = (mean + torch.exp(0.5 * logvar) * io["image.eps"][0]) * vae.image_scaling
    near(sample[:, 0], case.io["image_latents"][0, 0], "image latents")


def check_train_step(case: Case, tmp_path: Path) -> None:
    config, io = case.config, case.io
    denoiser, process = denoiser_of(case), process_of(case)
    if "image_io.safetensors" in {file.name for file in case.folder.iterdir()}:
        check_image(case)
    options = LoraOptions(rank=config["rank"], alpha=config["lora_alpha"], targets=TARGETS)
    adapters = inject(denoiser.parts(), options, presets={}, default_preset="")
    first = case.tensors("lora_init.safetensors")
    assert set(adapters.parameters()) == set(first)
    adapters.load(first)
    clean = turned(io["x0"])
    if "x0_unpadded" in io:
        assert torch.equal(denoiser.arranged(turned(io["x0_unpadded"])), clean)
    noised = process.mix(clean, turned(io["noise"]), io["timesteps"])
    near(turned(noised.x), io["noisy"], "noisy")
    check_rope(denoiser, io, io["noisy"])
    conditions = {"text": io["prompt_embeds"]}
    if "image_latents" in io:
        conditions["image"] = turned(io["image_latents"])

    def loss():
        prediction = denoiser.predict(noised.x, noised.t, conditions)
        return prediction, process.loss(prediction, noised, Batch(clean, conditions, ("a", "b")))

    prediction, found = loss()
    near(turned(prediction), io["model_output"], "output")
    near(turned(process.clean_of(prediction, noised.x, noised.t)), io["x0_pred"], "x0")
    near(found.each, io["loss_per_sample"], "loss of each clip", of_max=0)
    near(found.value, io["loss"], "loss", of_max=0)
    found.value.backward()
    grads = {name: weight.grad.clone() for name, weight in adapters.parameters().items()}
    near(torch.stack([grad.norm() for grad in grads.values()]).norm(), io["grad_norm"], "norm", rtol=1e-3)
    for name, grad in grads.items():
        near(grad, io[f"grad.{name}"], f"gradient of {name}", rtol=1e-3)
    if "optimizer" in config:
        check_steps(case, adapters, first, lambda: loss()[1].value)


def check_steps(case: Case, adapters, first: dict, loss: Callable) -> None:
    """Three steps of Adam and of AdamW from the same start."""
    told = case.config["optimizer"]
    for kind in ("adam", "adamw"):
        adapters.load(first)
        options = TrainOptions(
            optimizer=kind,
            lr=told["lr"],
            betas=tuple(told["betas"]),
            eps=told["eps"],
            weight_decay=told["weight_decay"],
            clip_norm=told["max_grad_norm"],
        )
        learner = Learner(Player("adapter", adapters.parameters()), options)
        losses, norms = [], []
        for number in range(told["steps"]):
            learner.clear()
            value = loss()
            value.backward()
            losses.append(float(value))
            norms.append(learner.clip(None, number))
            learner.step(told["lr"], None, number + 1)
        near(torch.tensor(losses), case.io[f"{kind}.losses"], f"{kind}: losses", of_max=0)
        near(torch.tensor(norms), case.io[f"{kind}.grad_norms"], f"{kind}: norms", rtol=1e-3)
        for name, weight in adapters.parameters().items():
            wanted = case.io[f"{kind}.after3.{name}"]
            torch.testing.assert_close(weight.detach(), wanted, rtol=0, atol=5e-5, msg=lambda m, n=name: f"{n}\n{m}")


def check_schedule(case: Case, tmp_path: Path) -> None:
    for k, row in enumerate(case.config["rows"]):
        options = schedule_of(row["config"])
        process, io = Ddpm(options), case.io
        alphas = alphas_of(options)
        torch.testing.assert_close(alphas.float(), io[f"{k}.alphas_cumprod"], rtol=0, atol=1e-5)
        for t, value in row["alphas_cumprod_double"].items():
            assert abs(float(alphas[int(t)]) - value) < 1e-9
        for steps, wanted in row["timesteps"].items():
            assert process.sampler(int(steps), "ddim").times().tolist() == wanted
        noised = process.mix(io[f"{k}.x"], io[f"{k}.noise"], io[f"{k}.t"])
        torch.testing.assert_close(noised.x, io[f"{k}.add_noise"], rtol=0, atol=1e-5)
        torch.testing.assert_close(noised.target, io[f"{k}.velocity_target"], rtol=0, atol=1e-5)
        near((1 / (1 - alphas[io[f"{k}.t"]])).float(), io[f"{k}.loss_weight"], "weights of the x0 form")
        for name in (name for name in io if name.startswith(f"{k}.ddim_step") and name.endswith(".prev")):
            number = int(name.removeprefix(f"{k}.ddim_step").removesuffix(".prev"))
            check_ddim_step(row, number, process, {n.removeprefix(f"{k}."): v for n, v in io.items()})


def check_ddim_step(row: dict, number: int, process: Ddpm, io: dict) -> None:
    """Step `number` of a walk of three."""
    sampler = process.sampler(3, "ddim")
    t = sampler.times()[number]
    assert int(t) == row["timesteps"]["3"][number]
    found = sampler.step(io["step_model_out"], t, io["step_in"])
    torch.testing.assert_close(found, io[f"ddim_step{number}.prev"], rtol=0, atol=1e-5)
    x0 = process.clean_of(io["step_model_out"], io["step_in"], t.expand(len(io["step_in"])))
    torch.testing.assert_close(x0, io[f"ddim_step{number}.x0"], rtol=0, atol=1e-5)


def check_rotary(case: Case, tmp_path: Path) -> None:
    for k, row in enumerate(case.config["rows"]):
        patch_size_t = row.get("patch_size_t")
        sample = (row["sample_height"], row["sample_width"]) if row["kind"] == "pipeline" else (60, 90)
        config = SimpleNamespace(
            use_rotary_positional_embeddings=True,
            in_channels=16,
            out_channels=16,
            patch_size=2,
            patch_size_t=patch_size_t,
            attention_head_dim=row["head_dim"],
            sample_height=sample[0],
            sample_width=sample[1],
        )
        denoiser = CogVideoXDenoiser(SimpleNamespace(config=config))
        frames = row["latent_frames"]
        video = torch.empty(1, frames + frames % (patch_size_t or 1), 1, row["height"] // 8, row["width"] // 8)
        cos, sin = denoiser._rotary(video)
        assert len(cos) == row["tokens"]
        stride = int(re.search(r"every (\d+)", row.get("stored_rows", "every 1-st"))[1])
        for name, table in (("cos", cos), ("sin", sin)):
            rows = table[::stride]
            torch.testing.assert_close(rows, case.io[f"{k}.{name}"], rtol=0, atol=1e-5)
            assert abs(float(table.double().sum()) - row[f"{name}_sum"]) < 1e-3 * row[f"{name}_abs_sum"]
            assert abs(float(table.double().abs().sum()) - row[f"{name}_abs_sum"]) < 1e-4 * row[f"{name}_abs_sum"]


def check_lora_file(case: Case, tmp_path: Path) -> None:
    config, io = case.config, case.io

    def say(file=None, strength=1.0):
        denoiser = denoiser_of(case)
        asked = denoiser, io["hidden_states"], io["timestep"], io["text"]
        if file is None:
            return answer(*asked)
        with attach(denoiser.parts(), file).scaled(strength):
            return answer(*asked)

    near(say(), io["out.base"], "base")
    silent = read_adapter(case.folder / "pytorch_lora_weights.safetensors", LORA_LAYOUTS)
    for name in (name for name in io if name.startswith("out.scale_")):
        near(say(silent, float(name.removeprefix("out.scale_"))), io[name], name)
    told = read_adapter(case.folder / "pytorch_lora_weights.safetensors", LORA_LAYOUTS, alpha=config["lora_alpha"])
    assert {told.scale(module) for module in told.modules()} == {config["effective_scale"]}
    near(say(told), io[f"out.scale_{config['effective_scale']}"], "with its alpha")
    near(say(told), io["out.fused_0.5"], "fused")
    base = load_file(base_of(case) / "transformer" / "diffusion_pytorch_model.safetensors")
    for name in (name for name in io if name.startswith("fused_weight.")):
        module = name.removeprefix("fused_weight.")
        a, b = (told.tensors[f"transformer.{module}.lora_{letter}.weight"].float() for letter in "AB")
        near(base[f"{module}.weight"] + told.scale(f"transformer.{module}") * b @ a, io[name], name)
    if (case.folder / "pytorch_lora_weights_bf16.safetensors").exists():
        low = read_adapter(case.folder / "pytorch_lora_weights_bf16.safetensors", LORA_LAYOUTS, alpha=2.0)
        near(say(low), io["out.bf16file_0.5"], "bf16 file", rtol=1e-3)
    for one in LORA_LAYOUTS:
        write_adapter(tmp_path / f"{one.name}.safetensors", told, one)
        again = read_adapter(tmp_path / f"{one.name}.safetensors", LORA_LAYOUTS)
        near(say(again), say(told), f"rewritten as {one.name}")


def check_sampling(case: Case, tmp_path: Path) -> None:
    config, io = case.config, case.io
    denoiser, process = denoiser_of(case, as_pipeline=True), process_of(case)
    encoder = encoder_of(base_of(case))
    conditions = {"text": io["prompt_embeds"][0]}
    if "image" in io:
        (tower,) = encoder.seeing
        conditions |= tower.encode([clip_of(2 * io["image"][0][:, None] - 1)])[0]
    shape = tuple(turned(io["latents_in"])[0].shape)
    assert process.sampler(config["num_inference_steps"], "ddim").times().tolist() == io["timesteps"].tolist()
    runs = [(run["tag"], "ddim", run["guidance_scale"], run["use_dynamic_cfg"]) for run in config["runs"]]
    for tag, kind, guidance, dynamic in [*runs, ("dpm", "dpm-sde", config["dpm"]["guidance_scale"], False)]:
        schedule = "cosine" if dynamic else "constant"
        how = Walk(shape, config["num_inference_steps"], guidance, kind, guidance_schedule=schedule)
        steps, latents = traced(
            case,
            process,
            lambda p, how=how: walk(
                denoiser, p, [conditions], blank={"text": io["negative_embeds"][0]}, seeds=[0], how=how
            ),
        )
        for k, step in enumerate(steps):
            near(turned(step), io[f"{tag}.steps"][k], f"{tag}: step {k}")
        if f"{tag}.video" in io:
            near(encoder.decode(latents), io[f"{tag}.video"].clamp(-1, 1), f"{tag}: video")


def traced(case: Case, process: Ddpm, run: Callable) -> tuple[list, torch.Tensor]:
    """The latents after each step of a walk that starts from the case's noise and draws the case's noise."""
    steps: list[torch.Tensor] = []
    draws = iter(case.io["dpm.draws"])

    class Traced:
        def sampler(self, num_steps, kind, places=(), *, strength=1.0):
            inner = process.sampler(num_steps, kind, places, strength=strength)
            step = inner.step

            def told(prediction, t, x):
                steps.append(step(prediction, t, x))
                return steps[-1]

            inner.step = told
            inner.start = lambda shape, rng: turned(case.io["latents_in"])
            return inner

    def drawn(shape, **more):
        return turned(next(draws))

    with patch("diffusers.schedulers.scheduling_dpm_cogvideox.randn_tensor", drawn):
        latents = run(Traced())
    return steps, latents


CHECKS: dict[str, Callable[[Case, Path], None]] = {
    "pipeline": check_pipeline,
    "train_step": check_train_step,
    "schedule": check_schedule,
    "rotary": check_rotary,
    "lora_file": check_lora_file,
    "sampling": check_sampling,
}
EXPECTED_FAILURES: tuple = ()
