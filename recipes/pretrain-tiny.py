"""Trains the embedded `wan/tiny` base from nothing: `python recipes/pretrain-tiny.py OUT` (about 2 CPU hours).

Stages, each kept in OUT-work so that a later call goes on from there: the autoencoder (broad crops, short whole
pictures, whole clips), the latents of captioned toy clips, the denoiser on those latents by flow matching. OUT becomes
a diffusers pipeline folder (bf16) with a README that says how it was made and what it can do.
"""

import argparse
import datetime
import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from cinelora.toy import world
from cinelora.toy.judge import judge

TEXT_LENGTH = 32
SHIFT = 2.0
SEED = 7


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Newton-Schulz, Jordan et al. 2024), for weights of any rank seen as matrices."""

    def __init__(self, params, lr: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                buffer = state.setdefault("momentum", torch.zeros_like(weight))
                buffer.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(buffer, group["momentum"]).flatten(1))
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                weight.add_(update.view_as(weight), alpha=-group["lr"] * scale)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Nearest semi-orthogonal matrix, five quintic steps in bf16."""
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.T if tall else x).to(matrix.dtype)


def optimizers(module: torch.nn.Module, muon_lr: float, adam_lr: float):
    """Muon for weights of rank 2 and up, AdamW for the rest."""
    wide = [p for p in module.parameters() if p.ndim >= 2 and min(p.shape[0], p[0].numel()) > 4]
    known = {id(p) for p in wide}
    rest = [p for p in module.parameters() if id(p) not in known]
    return Muon(wide, muon_lr), torch.optim.AdamW(rest, adam_lr, betas=(0.9, 0.99), weight_decay=0.0)


def drive(opts, rates, step: int, steps: int) -> None:
    """Warm up over 50 steps, hold, and come down linearly over the last 40 %."""
    factor = min(1.0, (step + 1) / 50, (steps - step) / (0.4 * steps))
    for opt, rate in zip(opts, rates, strict=True):
        for group in opt.param_groups:
            group["lr"] = rate * factor


def texture(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Smooth coloured noise that drifts: what natural pictures have and flat backgrounds lack."""
    side = world.SIDE
    fy, fx = np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij")
    power = 1 / np.maximum(np.hypot(fx, fy), 1 / side) ** rng.uniform(1.0, 2.0)
    drift = rng.uniform(-2, 2, size=2)
    spectrum = power * np.exp(2j * math.pi * rng.random((3, *power.shape)))
    out = []
    for k in range(frames):
        moved = spectrum * np.exp(-2j * math.pi * k * (fx * drift[0] + fy * drift[1]))
        out.append(np.fft.irfft2(moved, s=(side, side)))
    field = np.stack(out).transpose(0, 2, 3, 1)
    field = field / (field.std() + 1e-6) * rng.uniform(0.05, 0.25) + rng.uniform(0.1, 0.9, size=3)
    return np.clip(field, 0, 1).astype(np.float32)


def broad_clip(rng: np.random.Generator) -> np.ndarray:
    """Random shapes, colours, paths and backgrounds, for the autoencoder only."""
    if rng.random() < 0.4:
        return world.render(world.base_scene(list(world.vocabulary())[rng.integers(960)], rng))
    frames, x, y = world.NUM_FRAMES, *world.grid()
    clip = (
        texture(rng, frames)
        if rng.random() < 0.3
        else np.broadcast_to(rng.random(3).astype(np.float32), (frames, world.SIDE, world.SIDE, 3)).copy()
    )
    for _ in range(rng.integers(1, 4)):
        draw = [*world.SHAPES.values(), world.ring, world.ring][rng.integers(len(world.SHAPES) + 2)]
        radius, centre, speed = rng.uniform(5, 16), rng.uniform(8, 56, 2), rng.uniform(-2.5, 2.5, 2)
        colours = rng.random((2, 3)).astype(np.float32)
        colours[1] = colours[rng.integers(2)]
        turn, angle = rng.uniform(0, 16) * (rng.random() < 0.4), rng.uniform(0, 6.28)
        for k in range(frames):
            cx, cy = (
                centre + speed * k * (turn == 0) + turn * np.array([math.cos(angle + k / 3), math.sin(angle + k / 3)])
            )
            inside = world.coverage(draw(x - cx, y - cy, radius))[..., None]
            side = np.clip(x - cx + 0.5, 0, 1)[..., None]
            clip[k] = clip[k] * (1 - inside) + (colours[0] * (1 - side) + colours[1] * side) * inside
    return clip


def to_pixels(clips: list[np.ndarray]) -> torch.Tensor:
    """B C F H W in [-1, 1]."""
    return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3) * 2 - 1


def vae_of() -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=32,
        z_dim=16,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[True, True],
        patch_size=2,
        in_channels=12,
        out_channels=12,
        scale_factor_temporal=4,
        scale_factor_spatial=8,
    )


def broad_batch(step: int, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
    """Crops of 32 pixels and 9 frames, every sixth step whole clips; every pixel weighs the same."""
    if step % 6 == 5:
        return to_pixels([broad_clip(rng) for _ in range(2)]), 0.0
    at = rng.integers(0, 33, size=(8, 2))
    return to_pixels([broad_clip(rng)[:9, j : j + 32, i : i + 32] for i, j in at]), 0.0


def world_clip(rng: np.random.Generator) -> np.ndarray:
    """Half of the time a toy clip, else a broad one."""
    if rng.random() < 0.5:
        return broad_clip(rng)
    return world.render(world.base_scene(list(world.vocabulary())[rng.integers(960)], rng))


def sharp_batch(step: int, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
    """Nine frames of whole pictures, mostly of the toy world; what is not background weighs five times as much."""
    starts = rng.integers(0, 9, size=3) * (rng.random(3) < 0.7)
    return to_pixels([world_clip(rng)[k : k + 9] for k in starts]), 4.0


def whole_batch(step: int, rng: np.random.Generator) -> tuple[torch.Tensor, float]:
    """All frames: without them the causal decoder drifts in the frames that it was never trained on."""
    return to_pixels([world_clip(rng) for _ in range(2)]), 4.0


def train_vae(vae: AutoencoderKLWan, *, draw, steps: int, rates: tuple[float, float], seed: int) -> dict:
    """L1 + 2 MSE + 5e-4 KL (mean per latent) on the batches that `draw` gives; gives back what it was."""
    rng = np.random.default_rng(seed)
    opts, mean_loss, started = optimizers(vae, *rates), None, time.time()
    for step in range(steps):
        drive(opts, rates, step, steps)
        pixels, extra = draw(step, rng)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.sample().to(pixels.dtype)).sample.float()
        error = decoded - pixels
        thing = (pixels - pixels[..., :1, :1]).abs().amax(1, keepdim=True) > 0.2
        weight = 1 + extra * thing
        weight = weight / weight.mean()
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        loss = (weight * (error.abs() + 2 * error.square())).mean() + 5e-4 * divergence
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad()
        mean_loss = loss.item() if mean_loss is None else 0.97 * mean_loss + 0.03 * loss.item()
        if step % 25 == 24:
            seconds = time.time() - started
            print(f"vae {step + 1}/{steps} loss {mean_loss:.4f} {seconds:.0f} s", flush=True)
    return {"steps": steps, "loss": round(mean_loss, 4), "seconds": round(time.time() - started)}


VAE_STAGES = (
    ("broad", broad_batch, (0.02, 1e-3)),
    ("sharp", sharp_batch, (0.01, 5e-4)),
    ("whole", whole_batch, (0.005, 3e-4)),
)


def staged_vae(work: Path, num_steps: list[int]) -> AutoencoderKLWan:
    """Broad crops, then short whole pictures, then whole clips; each stage is kept when it is done."""
    if (work / "vae").exists():
        return AutoencoderKLWan.from_pretrained(work / "vae")
    vae = vae_of()
    for number, ((name, draw, rates), steps) in enumerate(zip(VAE_STAGES, num_steps, strict=True)):
        kept = work / f"vae-{name}"
        if kept.exists():
            vae = AutoencoderKLWan.from_pretrained(kept)
            continue
        facts = train_vae(vae, draw=draw, steps=steps, rates=rates, seed=SEED + 10 * number)
        vae.save_pretrained(kept)
        note(work, f"autoencoder, {name}", **facts)
    moments(vae, np.random.default_rng(SEED + 4))
    vae.save_pretrained(work / "vae")
    return vae


@torch.no_grad()
def moments(vae: AutoencoderKLWan, rng: np.random.Generator) -> None:
    """Write per-channel mean and deviation of the latents of 64 toy clips into the config."""
    words = [w for w in world.vocabulary() if not world.held_out(w)]
    clips = [world.render(world.base_scene(words[rng.integers(len(words))], rng)) for _ in range(64)]
    latents = torch.cat([vae.encode(to_pixels([c])).latent_dist.mean for c in clips])
    spread = latents.transpose(0, 1).flatten(1)
    vae.register_to_config(
        latents_mean=[round(v, 4) for v in spread.mean(1).tolist()],
        latents_std=[round(v, 4) for v in spread.std(1).tolist()],
    )


def note(work: Path, stage: str, **facts: object) -> None:
    """Remember what a stage was, for the README."""
    path = work / "notes.json"
    notes = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**notes, stage: facts}, indent=1))


def text_parts(work: Path) -> tuple[PreTrainedTokenizerFast, UMT5EncoderModel]:
    """A byte-level BPE tokenizer over the captions and a small random encoder that stays as it is."""
    torch.manual_seed(SEED)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=["<pad>", "</s>", "<unk>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator((world.caption_of(*w) for w in world.vocabulary()), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=TEXT_LENGTH
    )
    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(fast),
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            pad_token_id=0,
            eos_token_id=1,
        )
    ).eval()
    fast.save_pretrained(work / "tokenizer")
    encoder.save_pretrained(work / "text_encoder")
    return fast, encoder


@torch.no_grad()
def embed(tokenizer, encoder, captions: list[str]) -> torch.Tensor:
    """B S D, zero behind the caption's end, as Wan's pipeline does."""
    ids = tokenizer(captions, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt")
    states = encoder(ids.input_ids, ids.attention_mask).last_hidden_state
    return states * ids.attention_mask[..., None]


@torch.no_grad()
def cache_latents(work: Path, vae: AutoencoderKLWan, count: int) -> tuple[torch.Tensor, list[str]]:
    """Normalised latent means of `count` clips of combinations that are not held out."""
    rng = np.random.default_rng(SEED + 1)
    words = [w for w in world.vocabulary() if not world.held_out(w)]
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    latents, captions, started = [], [], time.time()
    for k in range(0, count, 8):
        scenes = [world.base_scene(words[rng.integers(len(words))], rng) for _ in range(8)]
        with torch.autocast("cpu", torch.bfloat16):
            latents.append(vae.encode(to_pixels([world.render(s) for s in scenes])).latent_dist.mean.float())
        captions += [s.caption for s in scenes]
        if k % 400 == 0:
            print(f"cache {k}/{count} {time.time() - started:.0f} s", flush=True)
    stack = (torch.cat(latents) - mean) / std
    torch.save({"latents": stack, "captions": captions}, work / "latents.pt")
    return stack, captions


def denoiser_of() -> WanTransformer3DModel:
    torch.manual_seed(SEED)
    denoiser = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=3,
        attention_head_dim=64,
        in_channels=16,
        out_channels=16,
        text_dim=64,
        freq_dim=128,
        ffn_dim=480,
        num_layers=6,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64,
    )
    torch.nn.init.zeros_(denoiser.proj_out.weight)
    torch.nn.init.zeros_(denoiser.proj_out.bias)
    return denoiser


def train_denoiser(work: Path, latents, captions, tokenizer, encoder, steps: int) -> WanTransformer3DModel:
    """Flow matching: x_t = (1 - s) x + s n, target n - x, s shifted by 2; 10 % of captions dropped; EMA 0.998."""
    denoiser, rates = denoiser_of(), (0.01, 1.5e-3)
    opts = optimizers(denoiser, *rates)
    average = {k: v.clone() for k, v in denoiser.state_dict().items()}
    unique = sorted(set(captions))
    table = embed(tokenizer, encoder, [*unique, ""])
    index = torch.tensor([unique.index(c) for c in captions])
    rng, mean_loss, started = torch.Generator().manual_seed(SEED + 2), None, time.time()
    for step in range(steps):
        drive(opts, rates, step, steps)
        pick = torch.randint(len(latents), (32,), generator=rng)
        clean = latents[pick]
        text = torch.where(torch.rand(32, generator=rng) < 0.1, len(unique), index[pick])
        u = (torch.arange(32) + torch.rand(32, generator=rng)) / 32
        sigma = SHIFT * u / (1 + (SHIFT - 1) * u)
        noise = torch.randn(clean.shape, generator=rng)
        mix = sigma.view(-1, 1, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            flow = denoiser((1 - mix) * clean + mix * noise, sigma * 1000, table[text]).sample
        loss = (flow.float() - (noise - clean)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad()
        decay = min(0.998, (step + 1) / (step + 10))
        for key, value in denoiser.state_dict().items():
            average[key].lerp_(value, 1 - decay)
        mean_loss = loss.item() if mean_loss is None else 0.98 * mean_loss + 0.02 * loss.item()
        if step % 25 == 24:
            print(f"denoiser {step + 1}/{steps} loss {mean_loss:.4f} {time.time() - started:.0f} s", flush=True)
        if step % 300 == 299:
            torch.save(average, work / "denoiser-partial.pt")
    note(
        work,
        "denoiser",
        steps=steps,
        loss=round(mean_loss, 4),
        seconds=round(time.time() - started),
        clips=len(latents),
    )
    torch.save(average, work / "denoiser.pt")
    denoiser.load_state_dict(average)
    return denoiser


@torch.no_grad()
def adherence(pipeline: WanPipeline, count: int = 48) -> dict[str, float]:
    """Share of held-out prompts whose colour, shape, direction and background the sample shows."""
    words = [w for w in world.vocabulary() if world.held_out(w)]
    chosen = [words[i] for i in np.random.default_rng(0).permutation(len(words))[:count]]
    right = dict.fromkeys(("colour", "shape", "direction", "background"), 0)
    for start in range(0, count, 8):
        batch = chosen[start : start + 8]
        video = pipeline(
            [world.caption_of(*w) for w in batch],
            height=64,
            width=64,
            num_frames=17,
            guidance_scale=3.0,
            num_inference_steps=20,
            max_sequence_length=TEXT_LENGTH,
            output_type="np",
            generator=torch.Generator().manual_seed(start),
        ).frames
        for (_, colour, shape, direction, background), clip in zip(batch, video, strict=True):
            verdict = judge(clip)
            for name, want in (
                ("colour", colour),
                ("shape", shape),
                ("direction", direction),
                ("background", background),
            ):
                right[name] += getattr(verdict, name) == want
    return {name: hits / count for name, hits in right.items()}


README = """# wan/tiny: a small Wan that was really trained

`AutoencoderKLWan` + `WanTransformer3DModel` + a random, frozen `UMT5EncoderModel` with its own tokenizer, in the layout
of diffusers, bf16. It draws 17 frames of 64 x 64 at 8 per second: one of five shapes in one of six colours, small or
big, moving in one of four directions on one of four backgrounds, as the caption says. Text is padded to {length}
tokens; the pad length is part of the model. Sampling: flow Euler, shift {shift:g}, 20 steps, guidance 3.

- **Made by** `python recipes/pretrain-tiny.py OUT` (seed {seed}) on one CPU thread, {date}.
- **Data**: drawn by `cinelora/toy/world.py`, nothing from outside. The autoencoder saw broad random scenes and toy
  clips; the denoiser {clips} captioned toy clips, a tenth of the 960 captions held out by a hash (from
  the denoiser: the autoencoder, which reads no captions, saw all of them).
- **Stages** (loss: a running mean at the end):

{stages}

- **What it can do**: on {prompts} captions that it never saw, judged in pixels by `cinelora/toy/judge.py`:
  {scores}.

| file | bytes | sha256 |
|---|---|---|
{files}
"""


def describe(out: Path, work: Path, scores: dict[str, float], prompts: int) -> str:
    """The README of the weights, from what the stages noted."""
    notes = json.loads((work / "notes.json").read_text())
    stages = ["| stage | steps | loss | seconds |", "|---|---|---|---|"]
    stages += [f"| {name} | {n['steps']} | {n['loss']} | {n['seconds']} |" for name, n in notes.items()]
    files = sorted(out.glob("*/*.safetensors"))
    rows = [
        f"| {f.relative_to(out)} | {f.stat().st_size} | {hashlib.sha256(f.read_bytes()).hexdigest()} |" for f in files
    ]
    told = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
    return README.format(
        length=TEXT_LENGTH,
        shift=SHIFT,
        seed=SEED,
        date=datetime.date.today(),
        clips=notes["denoiser"]["clips"],
        stages="\n".join(stages),
        prompts=prompts,
        scores=told,
        files="\n".join(rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vae-steps", type=int, nargs=3, default=[2200, 1500, 600])
    parser.add_argument("--num-clips", type=int, default=4800)
    parser.add_argument("--denoiser-steps", type=int, default=6500)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    work = args.out.with_name(args.out.name + "-work")
    work.mkdir(parents=True, exist_ok=True)
    vae = staged_vae(work, args.vae_steps)
    tokenizer, encoder = text_parts(work)
    if (work / "latents.pt").exists():
        latents, captions = torch.load(work / "latents.pt").values()
    else:
        latents, captions = cache_latents(work, vae, args.num_clips)
    if (work / "denoiser.pt").exists():
        denoiser = denoiser_of()
        denoiser.load_state_dict(torch.load(work / "denoiser.pt"))
    else:
        denoiser = train_denoiser(work, latents, captions, tokenizer, encoder, args.denoiser_steps)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    pipeline = WanPipeline(
        tokenizer=tokenizer, text_encoder=encoder, vae=vae, scheduler=scheduler, transformer=denoiser
    )
    pipeline.to(torch.bfloat16).save_pretrained(args.out)
    shipped = WanPipeline.from_pretrained(args.out, torch_dtype=torch.float32)
    shipped.set_progress_bar_config(disable=True)
    scores = adherence(shipped)
    (args.out / "README.md").write_text(describe(args.out, work, scores, 48))
    print(scores)


if __name__ == "__main__":
    main()
