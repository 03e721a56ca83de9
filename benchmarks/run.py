"""The project's figures, one line each, in CPU seconds where time is meant: `make bench`. Nothing here is a test.

Everything runs in one go on one thread, so that figures of one run compare with each other. Copy the table into
LOG.md with the date and the machine.
"""

import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

PYTHON = sys.executable
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

RECIPE = """
[model]
family = "wan"
variant = "tiny"
dtype = "fp32"
[data]
cache_dir = "cache"
encoded_dtype = "fp32"
held_out = 0
[[data.source]]
path = "clips"
[lora]
rank = 8
[train]
steps = {steps}
micro_size = 4
precision = "fp32"
gradient_checkpointing = false
save_every_steps = 0
device = "cpu"
"""


def child(code: str, folder: Path) -> dict:
    """Run code in a fresh interpreter; its last line is JSON."""
    done = subprocess.run([PYTHON, "-c", code], cwd=folder, env=ENV, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def cpu_of(words: list[str], folder: Path) -> float:
    """CPU seconds of one command of the command line."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([PYTHON, "-m", "cinelora.cli", *words], cwd=folder, env=ENV, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


MAKE_CLIPS = """
import json, numpy as np
from pathlib import Path
from cinelora.media.write import write_mp4
from cinelora.toy import world
words, rng = list(world.vocabulary()), np.random.default_rng(0)
for k in range({count}):
    scene = world.base_scene(words[rng.integers(960)], rng)
    write_mp4(Path("{folder}") / f"{{k:04d}}.mp4", (world.render(scene) * 255).astype(np.uint8), 8.0)
    (Path("{folder}") / f"{{k:04d}}.txt").write_text(scene.caption)
print(json.dumps({{}}))
"""

STEPS = """
import json, time
from pathlib import Path
import torch
from cinelora.base.seeds import torch_rng
from cinelora.commands import train as verb
from cinelora.commands.run_folder import RunFolder
from cinelora.config.load import load

loaded = load(Path("bench.toml"))
marks, bare = [], []

def after(session):
    net, parameters = session.denoiser.net, list(session.adapters.parameters().values())
    batch = verb.batcher(verb.reader_of(loaded, kept["encoding"]))
    micros = [batch(kept["plan"].slots[4 * k % 16:4 * k % 16 + 4], torch_rng(k)) for k in range(4)]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0)
    net.train()
    for step in range({steps}):
        at = time.process_time()
        one = micros[step % 4]
        noise, sigma = torch.randn(one.latents.shape), torch.rand(4)
        sigma = 2 * sigma / (1 + sigma)
        mix = sigma.view(-1, 1, 1, 1, 1)
        flow = net((1 - mix) * one.latents + mix * noise, sigma * 1000, one.conditions["text"], return_dict=False)[0]
        (flow - (noise - one.latents)).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        bare.append(time.process_time() - at)

kept = {{}}
work, encode = verb._work, verb._encode

def keep_encode(loaded, plan, place):
    kept["encoding"], kept["plan"], spoken = encode(loaded, plan, place)
    return kept["encoding"], kept["plan"], spoken

def marked(session, plan, encoding, tell):
    def also(kind, **facts):
        tell(kind, **facts)
        if kind == "step":
            marks.append(time.process_time())
    return work(session, plan, encoding, also)

verb._encode, verb._work = keep_encode, marked
verb.train_loaded(loaded, RunFolder(Path("run-steps")), after=after)
ours = sorted(b - a for a, b in zip(marks[4:], marks[5:]))
bare = sorted(bare[5:])
print(json.dumps({{"ours": ours[len(ours) // 2], "bare": bare[len(bare) // 2]}}))
"""

SECOND_START = """
import json, time
from pathlib import Path
import accelerate, peft, diffusers, transformers
from cinelora.commands.run_folder import RunFolder
from cinelora.commands.train import train_loaded
from cinelora.config.load import load
from cinelora.report.events import read_events
import cinelora.families.wan.encode, cinelora.families.wan.denoise
from diffusers import AutoencoderKLWan
from transformers import AutoTokenizer, UMT5EncoderModel
at, cpu = time.time(), time.process_time()
loaded = load(Path("bench.toml"), ["train.steps=1"])
train_loaded(loaded, RunFolder(Path("run-second")))
first = next(e for e in read_events(Path("run-second/events.jsonl")) if e["kind"] == "step")
print(json.dumps({"seconds": first["time"] - at}))
"""

PEAK = """
import json, resource
from pathlib import Path
from cinelora.commands.cache import cache
cache(Path("bench.toml"), sets=["data.source.0.path={folder}", "data.cache_dir=cache-{folder}"])
print(json.dumps({{"mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}}))
"""

SAMPLER = """
import json, time, resource
from pathlib import Path
from cinelora.contracts.flow import Bucket, Record, Slot
from cinelora.data.batches import Batches, MicroRules
media = (Path("clip.mp4"),)
buckets = [Bucket(f, h, w) for f in (17, 49, 81) for h, w in ((480, 832), (832, 480), (640, 640))]
slots = [
    Slot(Record(f"s/{{k:07d}}.mp4", "s", "video", media, f"caption {{k}}", "table"), buckets[k % 9])
    for k in range({count})
]
before, at = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
batches = Batches(slots, {{"s": 0.0}}, MicroRules(4), seed=0)
start = time.process_time() - at
at = time.process_time()
batches.micro(batches.micros_per_epoch)
epoch, at = time.process_time() - at, time.process_time()
for k in range(1000):
    batches.micro(batches.micros_per_epoch + k)
micro = (time.process_time() - at) / 1000 + epoch / batches.micros_per_epoch
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({{"start": start, "micro": micro, "mb": grown / 1024}}))
"""


def table_of_thousand(folder: Path) -> None:
    """A JSONL of 1,000 rows that state their sizes."""
    (folder / "many").mkdir()
    first = sorted((folder / "clips").glob("*.mp4"))[0]
    with (folder / "many" / "rows.jsonl").open("w") as file:
        for k in range(1000):
            os.link(first, folder / "many" / f"{k}.mp4")
            row = {"path": f"{k}.mp4", "caption": f"clip {k}", "width": 64, "height": 64, "frames": 17, "fps": 8.0}
            file.write(json.dumps(row) + "\n")


def main() -> None:
    """Measure everything and print a table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for where, count in (("clips", 16), ("few", 50), ("lots", 500)):
            child(MAKE_CLIPS.format(count=count, folder=where), folder)
        (folder / "bench.toml").write_text(RECIPE.format(steps=60))
        rows = []
        steps = child(STEPS.format(steps=60), folder)
        share = steps["ours"] / steps["bare"]
        rows.append(
            (
                "training step, CPU s (ours / bare loop)",
                f"{steps['ours']:.4f} / {steps['bare']:.4f} = {share:.3f}",
                "<= 1.05",
            )
        )
        rows.append(
            ("second start, full cache: first step, s", f"{child(SECOND_START, folder)['seconds']:.2f}", "<= 2")
        )
        rows.append(("cinelora --help, CPU s", f"{min(cpu_of(['--help'], folder) for _ in range(5)):.2f}", "<= 0.3"))
        table_of_thousand(folder)
        rows.append(
            (
                "check of 1,000 rows that state sizes, CPU s",
                f"{cpu_of(['check', 'many/rows.jsonl'], folder):.2f}",
                "<= 5",
            )
        )
        peaks = [child(PEAK.format(folder=where), folder)["mb"] for where in ("few", "lots")]
        rows.append(("peak memory while caching, MB (50 / 500 clips)", f"{peaks[0]:.0f} / {peaks[1]:.0f}", "equal"))
        order = child(SAMPLER.format(count=1_000_000), folder)
        rows.append(("sampler at 1 M clips, CPU ms per micro-batch", f"{1e3 * order['micro']:.3f}", "< 1"))
        rows.append(("sampler at 1 M clips, start: CPU s, MB", f"{order['start']:.1f}, {order['mb']:.0f}", "told"))
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, one thread, `make bench`\n")
    print("| what | figure | wanted |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
