"""Full-size networks on one GPU, beside the plain diffusers + peft loop, in one run: `make bench-gpu`.

Weights are drawn, latents are synthetic and cached in main memory; adapters of rank 32 on attention and feed-forward
layers, micros of one clip, bf16 autocast, AdamW. Ours is the loop of `cinelora train` with all that goes with it.
Plain is the same network with diffusers' own gradient checkpointing, peft's adapters, a loss and AdamW, nothing else.
MFU = FLOPs of a step, those computed twice counted twice / (seconds x the card's dense bf16 peak); see engine/flops.py.
Without a GPU it says so and ends well; `--tiny` goes through all of it on the CPU with tiny networks.
"""

import argparse
import datetime
import gc
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cinelora.base.errors import RunError
from cinelora.contracts.card import Family, Variant
from cinelora.contracts.flow import Bucket, Encoded, Record, Slot
from cinelora.contracts.roles import Denoiser
from cinelora.data.batches import batcher
from cinelora.engine.account import empty_weights, fake_mode, without_weights
from cinelora.engine.compiled import compile_blocks
from cinelora.engine.fit_out import fit_out, prepare
from cinelora.engine.flops import Flops, peak_of, tokens_of
from cinelora.engine.options import MemoryOptions
from cinelora.families import registry
from cinelora.lora.adapters import Adapters
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from cinelora.methods.finetune import Finetune
from cinelora.nets.weights import RANDOM
from cinelora.noise.options import NoiseOptions
from cinelora.noise.registry import open_process
from cinelora.train.loop import Trainer, Work
from cinelora.train.options import TrainOptions
from cinelora.train.place import open_place
from cinelora.train.probe import FULL

RANK = 32
PLAIN = "plain diffusers + peft"


@dataclass(frozen=True)
class Case:
    """One network at one size, and how it is made to fit; `seconds` and `gigabytes` are what is aimed at on an H200."""

    model: str
    bucket: Bucket
    how: str = "full checkpointing"
    memory: dict[str, Any] = field(default_factory=dict)
    twice: bool = True
    compiled: bool = False
    seconds: float | None = None
    gigabytes: float | None = None


@dataclass(frozen=True)
class Figure:
    """What was measured of a case; `seconds` None where memory was full."""

    case: Case
    how: str
    tokens: int
    seconds: float | None
    flops: int = 0
    peak_bytes: int = 0


_SMALL, _LARGE = Bucket(81, 416, 544), Bucket(81, 480, 832)
"""18,564 and 32,760 tokens of Wan 2.1."""
_FAST = {"compiled": True, "how": "full checkpointing, compiled"}
_STREAMED = {"how": "full checkpointing, streamed", "memory": {"base": "streamed"}, "gigabytes": 16.0}

CASES = (
    Case("wan/t2v-1.3b", _SMALL, seconds=1.3),
    Case("wan/t2v-1.3b", _SMALL, **_FAST, seconds=1.3),
    Case("wan/t2v-1.3b", _SMALL, how="nothing twice", twice=False, seconds=1.0),
    Case("wan/t2v-1.3b", _LARGE),
    Case("wan/t2v-14b", _SMALL, seconds=5.4, gigabytes=40.0),
    Case("wan/t2v-14b", _SMALL, **_FAST, seconds=5.4, gigabytes=40.0),
    Case("wan/t2v-14b", _SMALL, how="selective: every second block", memory={"recompute": "every"}),
    Case("wan/t2v-14b", _SMALL, **_STREAMED),
    Case("wan/t2v-14b", _SMALL, how="full checkpointing, nf4", memory={"quantise": "nf4"}),
    Case("wan/t2v-14b", _LARGE, seconds=12.9),
    Case("wan/t2v-14b", _LARGE, **_FAST, seconds=12.9),
    Case("wan/t2v-14b", _LARGE, how="full checkpointing, activations offloaded", memory={"activations": "offload"}),
    Case("wan/t2v-14b", _LARGE, **_STREAMED),
    Case("wan/t2v-14b", _LARGE, how="full checkpointing, fp8", memory={"quantise": "fp8"}),
    Case("cogvideox/2b", Bucket(49, 480, 720)),
    Case("cogvideox/5b", Bucket(49, 480, 720)),
    Case("easyanimate/v5.1-12b", Bucket(49, 512, 512)),
)
TINY = (
    Case("wan/tiny", Bucket(5, 32, 32)),
    Case(
        "wan/tiny", Bucket(5, 32, 32), how="streamed, offloaded", memory={"base": "streamed", "activations": "offload"}
    ),
    Case("wan/tiny", Bucket(5, 32, 32), how="int8", memory={"quantise": "int8"}),
    Case("cogvideox/tiny", Bucket(9, 32, 48), how="selective: every second block", memory={"recompute": "every"}),
)


def opened(case: Case, device: torch.device) -> tuple[Family, Variant, Denoiser]:
    """A case's denoiser with drawn weights, on the device where they are made."""
    family, variant = registry.find(*case.model.split("/"))
    with without_weights(fake_mode()):
        denoiser = registry.open_denoiser(family, variant, base=RANDOM, dtype="bf16")
    denoiser.text_dropout = 0.0
    parts = denoiser.parts()
    constants = registry.skeleton(family, variant)
    empty_weights(parts)
    for name, part in parts.items():
        _draw(part, constants[name], device)
    return family, variant, denoiser


def _draw(part: nn.Module, constants: nn.Module, device: torch.device) -> None:
    """Weights as `nets.weights` draws them, but fast: pieces of one run of noise. Constants are the skeleton's."""
    noise = torch.randn(1 << 22, device=device)
    for module, like in zip(part.modules(), constants.modules(), strict=True):
        for name, weight in module._parameters.items():
            if weight is None:
                continue
            drawn = torch.zeros(weight.shape, dtype=weight.dtype, device=device)
            if weight.ndim >= 2:
                flat = drawn.view(-1)
                for start in range(0, flat.numel(), len(noise)):
                    run = flat[start : start + len(noise)]
                    run.copy_(noise[: len(run)])
                drawn /= weight[0].numel() ** 0.5
            elif name == "weight":
                drawn.fill_(1.0)
            module._parameters[name] = nn.Parameter(drawn, requires_grad=False)
        for name, buffer in like._buffers.items():
            if buffer is not None and not buffer.is_meta:
                module._buffers[name] = buffer.to(device)


def encoded(variant: Variant, bucket: Bucket) -> Encoded:
    """Synthetic latents and conditions of a bucket, as a cache would hold them."""
    shape = variant.geometry.latent_shape(bucket)
    sides = {**dict(zip("CTHW", shape, strict=True)), "S": variant.text_length, "F": bucket.frames, "K": 1, "Q": 1}
    torch.manual_seed(0)
    told = {
        name: torch.randn([int(w) if w.isdigit() else sides[w] for w in said.split()], dtype=torch.bfloat16)
        for name, said in variant.conditions.items()
    }
    for name in told:
        if name.endswith("mask"):
            told[name] = torch.ones_like(told[name])
    return Encoded(torch.randn(shape), torch.full(shape, -6.0), told)


class _One:
    """The same micro for ever."""

    fingerprint, micros_per_epoch = "bench", 1.0

    def __init__(self, slot: Slot):
        self.slot = slot

    def micro(self, index: int) -> tuple[Slot, ...]:
        return (self.slot,)

    def epoch_of(self, index: int) -> int:
        return index


def slot_of(bucket: Bucket) -> Slot:
    """A slot that stands for the synthetic clip."""
    return Slot(Record("bench/0", "bench", "video", (), "", "bench"), bucket)


def adapters_in(family: Family, parts: dict[str, nn.Module], device: torch.device) -> Adapters:
    """Fresh adapters on the device."""
    found = inject(
        parts, LoraOptions(rank=RANK), presets=family.lora_presets, default_preset=family.default_preset, seed=0
    )
    for weight in found.parameters().values():
        weight.data = weight.data.to(device)
    return found


def ours(case: Case, num_steps: int) -> Figure:
    """The loop of `cinelora train` on a case."""
    place = open_place(TrainOptions())
    memory = MemoryOptions(**case.memory)
    at_first = torch.device("cpu") if memory.base == "streamed" else place.device
    family, variant, denoiser = opened(case, at_first)
    parts = denoiser.parts()
    prepare(parts, memory, device=place.device, move=memory.base == "resident")
    adapters = adapters_in(family, parts, place.device)
    if case.compiled:
        compile_blocks(parts, limit=2)
    fit_out(parts, memory, device=place.device, twice=case.twice, adapters=adapters.resident())
    clip, steps = encoded(variant, case.bucket), []
    process = open_process(NoiseOptions(**variant.process))
    with tempfile.TemporaryDirectory() as folder:
        work = Work(
            method=Finetune(denoiser, process, adapters),
            batches=_One(slot_of(case.bucket)),  # type: ignore[arg-type]
            batch=batcher(lambda slot: clip),
            options=TrainOptions(steps=num_steps, save_every_steps=0),
            place=place,
            checkpoints=Path(folder),
            tell=lambda kind, **facts: steps.append(facts) if kind == "step" else None,
            memory=memory,
            num_workers=2,
            tokens=lambda latents: tokens_of(parts, latents),
            counts_flops=not case.compiled,
            fused=place.device.type == "cuda",
        )
        with _peak(place.device) as peak:
            Trainer(work).run()
    seconds = sorted(step["seconds"] for step in steps[len(steps) // 2 :])
    middle = seconds[len(seconds) // 2]
    flops = int(steps[-1].get("tflops_per_second", 0) * steps[-1]["seconds"] * 1e12)
    tokens = tokens_of(parts, clip.mean[None])
    return Figure(case, case.how, tokens, middle, flops, peak[0])


def plain(case: Case, num_steps: int) -> Figure:
    """The same network in a loop of nothing but what must be."""
    place = open_place(TrainOptions())
    device = place.device
    family, variant, denoiser = opened(case, device)
    parts = denoiser.parts()
    for part in parts.values():
        part.to(device).train()
        if case.twice:
            part.enable_gradient_checkpointing()  # type: ignore[operator]
    weights = list(adapters_in(family, parts, device).parameters().values())
    optimizer = torch.optim.AdamW(weights, lr=1e-4)
    clip = encoded(variant, case.bucket)
    latents = clip.mean[None].to(device)
    told = {name: tensor[None].to(device) for name, tensor in clip.conditions.items()}
    told = _conditions(denoiser, latents, told)
    seconds, count = [], Flops()
    with _peak(device) as peak:
        for number in range(num_steps):
            _wait(device)
            began = time.perf_counter()
            with count if number == 0 else nullcontext():
                _plain_step(denoiser, latents, told, weights, optimizer)
            _wait(device)
            seconds.append(time.perf_counter() - began)
    late = sorted(seconds[len(seconds) // 2 :])
    return Figure(case, PLAIN, tokens_of(parts, latents), late[len(late) // 2], count.total, peak[0])


def _conditions(denoiser: Denoiser, latents: Tensor, told: dict[str, Tensor]) -> dict[str, Tensor]:
    from cinelora.contracts.flow import Batch

    return denoiser.condition(Batch(latents, told, ("bench",)), None)


def _plain_step(
    denoiser: Denoiser, latents: Tensor, told: dict[str, Tensor], weights: Sequence[Tensor], optimizer: Any
) -> None:
    clean = denoiser.arranged(latents)
    noise, sigma = torch.randn_like(clean), torch.rand(len(clean), device=clean.device)
    mix = sigma.view(-1, 1, 1, 1, 1)
    with torch.autocast(clean.device.type, torch.bfloat16):
        found = denoiser.predict((1 - mix) * clean + mix * noise, sigma * 1000, told)
        loss = (found[:, : clean.shape[1]].float() - (noise - clean)).square().mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    optimizer.zero_grad()


@contextmanager
def _peak(device: torch.device) -> Iterator[list[int]]:
    """The most bytes that torch's allocator held in the block; 0 on a CPU."""
    found = [0]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield found
    if device.type == "cuda":
        found[0] = torch.cuda.max_memory_allocated(device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(case: Case, run: Any, num_steps: int) -> Figure:
    """A figure, or that memory was full; nothing stays behind."""
    try:
        return run(case, num_steps)
    except (torch.OutOfMemoryError, MemoryError, RunError) as error:
        if isinstance(error, RunError) and FULL not in str(error):
            raise
        return Figure(case, PLAIN if run is plain else case.how, 0, None)
    finally:
        gc.collect()
        torch._dynamo.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


HEAD = "| network | clip | how | tokens | s/step | tokens/s | TFLOP/s | MFU | peak GB | aimed at |"


def line(figure: Figure, peak: float | None, known: dict[tuple[str, Bucket], int]) -> str:
    """A row of the table. FLOPs of compiled networks are those of the same case as it was run plainly."""
    case, seconds = figure.case, figure.seconds
    start = f"| {case.model} | {case.bucket} | {figure.how} |"
    aims = [f"{case.seconds:g} s"] if case.seconds else []
    aims += [f"{case.gigabytes:g} GB"] if case.gigabytes else []
    aimed = ", ".join(aims) if figure.how != PLAIN else ""
    if seconds is None:
        return f"{start} | out of memory | | | | | {aimed} |"
    flops = figure.flops or known.get((case.model, case.bucket), 0)
    speed = f"{flops / seconds / 1e12:.4g}" if flops else ""
    share = f"{flops / seconds / peak:.1%}" if peak and flops else ""
    held = f"{figure.peak_bytes / 1e9:.1f}" if figure.peak_bytes else ""
    return (
        f"{start} {figure.tokens:,} | {seconds:.4g} | {figure.tokens / seconds:,.0f} | {speed} | {share} | {held} "
        f"| {aimed} |"
    )


def main(words: Sequence[str]) -> int:
    """Measure and print a table; gives back the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny networks, wherever torch computes")
    parser.add_argument("--only", default="", help="cases whose network or way contains this")
    parser.add_argument("--steps", type=int, default=0, help="steps of each case (8, or 2 with --tiny)")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    asked = parser.parse_args(words)
    if not asked.tiny and not torch.cuda.is_available():
        print("bench-gpu: skipped, torch sees no GPU here (--tiny goes through its code on the CPU)")
        return 0
    cases = [one for one in (TINY if asked.tiny else CASES) if asked.only in f"{one.model} {one.how}"]
    num_steps = asked.steps or (2 if asked.tiny else 8)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{datetime.date.today()}, {name}, torch {torch.__version__}, rank {RANK}, {num_steps} steps a case\n")
    print(HEAD + "\n" + "|---" * 10 + "|")
    figures: list[Figure] = []
    known: dict[tuple[str, Bucket], int] = {}
    for case in cases:
        first = not any((done.case.model, done.case.bucket) == (case.model, case.bucket) for done in figures)
        for run in (plain, ours) if first else (ours,):
            figure = measured(case, run, num_steps)
            figures.append(figure)
            if case.twice and figure.flops and figure.how in (PLAIN, "full checkpointing"):
                known.setdefault((case.model, case.bucket), figure.flops)
            print(line(figure, peak_of(device), known), flush=True)
    if asked.json:
        rows = [{**vars(one), "case": {**vars(one.case), "bucket": str(one.case.bucket)}} for one in figures]
        asked.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
