"""From raw mp4s to the adapter file on a small CogVideoX, beside the bare floor of the same work, in one run.

12 clips of 17 x 64 x 96, a denoiser of 6.7 M parameters, an autoencoder of 2.8 M, a T5 of 2.7 M, rank 16, 60 steps of
one clip, one thread. CPU seconds of each process as a whole, imports included. Copy the table into LOG.md.
"""

import datetime
import os
import platform
import sys
import tempfile
from pathlib import Path

from run import child

NETWORK = """
from cinelora.families.cogvideox.card import CARD, TINY
from dataclasses import replace
NETWORK = {
    "transformer": {"num_attention_heads": 4, "attention_head_dim": 64, "num_layers": 5, "time_embed_dim": 160,
                    "text_embed_dim": 128, "max_text_seq_length": 64, "sample_height": 8, "sample_width": 12,
                    "sample_frames": 17, "in_channels": 16, "out_channels": 16},
    "vae": {"block_out_channels": [24, 32, 64, 64], "layers_per_block": 1, "norm_num_groups": 8, "latent_channels": 16,
            "scaling_factor": 1.15258426, "invert_scale_latents": False},
    "text_encoder": {"vocab_size": 384, "d_model": 128, "d_kv": 32, "d_ff": 512, "num_layers": 10, "num_heads": 4},
}
CARD.variants["bench"] = replace(TINY, name="bench", network=NETWORK, conditions={"text": "64 128"}, text_length=64)
"""

PREPARE = """
import json, numpy as np
from pathlib import Path
from cinelora.media.write import write_mp4
rng = np.random.default_rng(0)
Path("clips").mkdir()
for k in range(12):
    ground = rng.integers(0, 255, (9, 13, 3))
    big = np.kron(ground, np.ones((8, 8, 1)))[:, :].astype(np.uint8)
    frames = np.stack([big[t % 8:t % 8 + 64, t % 8:t % 8 + 96] for t in range(17)])
    write_mp4(Path("clips") / f"{k:02d}.mp4", frames, 8.0)
    (Path("clips") / f"{k:02d}.txt").write_text(f"coloured tiles number {k} glide up and to the left, in a soft light")
print(json.dumps({}))
"""

RECIPE = """
[model]
family = "cogvideox"
variant = "bench"
dtype = "fp32"
vae_dtype = "{vae}"
text_dropout = 0.0
[data]
cache_dir = "cache-{vae}"
encoded_dtype = "fp32"
held_out = 0
[[data.source]]
path = "clips"
[lora]
rank = 16
[train]
steps = 60
precision = "fp32"
gradient_checkpointing = false
save_every_steps = 30
device = "cpu"
num_threads = 1
"""

RUN = (
    """
import json, resource, sys, time
started = time.process_time()
"""
    + NETWORK
    + """
from pathlib import Path
from cinelora.commands import train as verb
from cinelora.commands.run_folder import RunFolder
from cinelora.config.load import load
imports = time.process_time() - started
marks, work, encode = [], verb._work, verb._encode
spent = {}
def encoded(*args):
    at = time.process_time()
    found = encode(*args)
    spent["encode"] = time.process_time() - at
    return found
def marked(session, plan, encoding, tell):
    def also(kind, **facts):
        tell(kind, **facts)
        if kind == "step":
            marks.append(time.process_time())
    return work(session, plan, encoding, also)
verb._work, verb._encode = marked, encoded
verb.train_loaded(load(Path("@RECIPE@")), RunFolder(Path("@RUN@")))
steps = sorted(b - a for a, b in zip(marks[2:], marks[3:]))
print(json.dumps({"all": time.process_time(), "imports": imports, "encode": spent["encode"],
                  "loop": marks[-1] - marks[0], "step": steps[len(steps) // 2],
                  "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""
)

FLOOR = (
    """
import json, resource, time
started = time.process_time()
import torch, diffusers, transformers, peft, accelerate, av
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from transformers import T5EncoderModel
imports = time.process_time() - started
"""
    + NETWORK
    + """
from pathlib import Path
from peft import LoraConfig, inject_adapter_in_model
from cinelora.families import registry
from cinelora.data.clips import load_clip
from cinelora.data.options import DataOptions
from cinelora.contracts.flow import Bucket, Record, Slot
torch.manual_seed(0)
family, variant = CARD, CARD.variants["bench"]
encoder = registry.open_encoder(family, variant, base="random", dtype="fp32")
rules = DataOptions(source=[{"path": "clips"}])
clips = []
for path in sorted(Path("clips").glob("*.mp4")):
    slot = Slot(Record(path.stem, "s", "video", (path,), path.with_suffix(".txt").read_text(), "x"), Bucket(17, 64, 96))
    clips.append(load_clip(slot, rules, variant.geometry, seed=0))
vae = {}
for dtype in (torch.float32, torch.bfloat16):
    encoder.vae.load("cpu")
    encoder.vae.net.to(dtype)
    at = time.process_time()
    with torch.no_grad():
        latents = [encoder.vae.net.encode(clip.pixels[None].to(dtype)).latent_dist.mean.float() for clip in clips]
    vae[str(dtype)] = time.process_time() - at
at = time.process_time()
texts = encoder.text.embed([clip.caption for clip in clips])
text = time.process_time() - at
denoiser = registry.open_denoiser(family, variant, base="random", dtype="fp32")
net = denoiser.net
inject_adapter_in_model(LoraConfig(r=16, lora_alpha=16, target_modules=["to_q", "to_k", "to_v", "to_out.0"]), net)
parameters = [p for n, p in net.named_parameters() if "lora" in n]
for name, p in net.named_parameters():
    p.requires_grad_("lora" in name)
optimizer = torch.optim.AdamW(parameters, lr=1e-4)
net.train()
times = []
for step in range(60):
    at = time.process_time()
    x = latents[step % 12].transpose(1, 2)
    out = net(torch.randn_like(x), texts[step % 12][None], torch.tensor([step]), return_dict=False)[0]
    (out - x).square().mean().backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    times.append(time.process_time() - at)
count = lambda module: sum(p.numel() for p in module.parameters()) / 1e6
print(json.dumps({"imports": imports, "vae": vae, "text": text, "step": sorted(times[3:])[len(times[3:]) // 2],
                  "steps": sum(times), "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                  "sizes": [round(count(m), 1) for m in (net, encoder.vae.net, encoder.text.net)]}))
"""
)


def of(recipe: str, run: str) -> str:
    """The code of one run."""
    return RUN.replace("@RECIPE@", recipe).replace("@RUN@", run)


def main() -> None:
    """Measure and print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        child(PREPARE, folder)
        for vae in ("fp32", "bf16"):
            (folder / f"{vae}.toml").write_text(RECIPE.format(vae=vae))
        floor = child(FLOOR, folder)
        cold = child(of("fp32.toml", "cold"), folder)
        low = child(of("bf16.toml", "low"), folder)
        warm = child(of("fp32.toml", "warm"), folder)
    vae = floor["vae"]
    rows = [
        ("raw clips to adapter, VAE in fp32, CPU s", f"{cold['all']:.1f}", "<= 17"),
        ("the same, VAE in bf16", f"{low['all']:.1f}", "<= 12"),
        ("the same, everything cached", f"{warm['all']:.1f}", "<= 10"),
        ("a step, CPU s (ours / bare)", f"{cold['step']:.3f} / {floor['step']:.3f}", "<= 0.108"),
        (
            "peak memory, MB (cold, bf16, warm / bare)",
            f"{cold['mb']:.0f}, {low['mb']:.0f}, {warm['mb']:.0f} / {floor['mb']:.0f}",
            "<= 600",
        ),
        ("imports (ours / bare)", f"{cold['imports']:.1f} / {floor['imports']:.1f}", "told"),
        (
            "encoding (ours in fp32, bf16 / bare VAE in fp32, bf16, text)",
            f"{cold['encode']:.1f}, {low['encode']:.1f} / "
            f"{vae['torch.float32']:.1f}, {vae['torch.bfloat16']:.1f}, {floor['text']:.1f}",
            "told",
        ),
        ("59 steps of the loop (ours), 60 bare", f"{cold['loop']:.1f} / {floor['steps']:.1f}", "told"),
    ]
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, one thread; millions of parameters:")
    print(f"denoiser, autoencoder, text {floor['sizes']}\n")
    print("| what | figure | wanted |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    sys.exit(main())
