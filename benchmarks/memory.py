"""What each option of [memory] saves and costs, one line each: `python benchmarks/memory.py [--gpu-variant t2v-1.3b]`.

With a GPU: a network of drawn weights, peak bytes as CUDA counts them, seconds of a step. Without: the embedded Wan on
one thread, bytes as the account of memory counts them (what would lie on a device; host copies apart), CPU seconds.
Losses are compared with those of the first line. Copy the table into LOG.md with the date and the machine.
"""

import argparse
import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import _disable_current_modes

from cinelora.engine import fit_out as fit_out_room
from cinelora.engine.account import Account, bytes_of
from cinelora.engine.fit_out import Fitted, fit_out, prepare
from cinelora.engine.options import MemoryOptions
from cinelora.families import registry
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from cinelora.train.host_optimizer import HostOptimizer

CASES: dict[str, tuple[bool, dict[str, object]]] = {
    "all kept": (False, {}),
    "recompute: attention": (True, {"recompute": "attention"}),
    "recompute: every 2nd block": (True, {"recompute": "every"}),
    "recompute: blocks": (True, {}),
    "recompute: nested": (True, {"recompute": "nested"}),
    "all kept, offload": (False, {"activations": "offload"}),
    "blocks, offload": (True, {"activations": "offload"}),
    "nested, offload, streamed": (True, {"recompute": "nested", "activations": "offload", "base": "streamed"}),
    "blocks, streamed": (True, {"base": "streamed"}),
    "all kept, streamed": (False, {"base": "streamed"}),
    "blocks, int8": (True, {"quantise": "int8"}),
    "blocks, fp8": (True, {"quantise": "fp8"}),
    "blocks, nf4": (True, {"quantise": "nf4"}),
    "blocks, int8, streamed": (True, {"quantise": "int8", "base": "streamed"}),
    "blocks, optimizer on the CPU": (True, {"optimizer": "cpu"}),
}


@dataclass
class Figures:
    """One line of the table."""

    weights: int
    peak: int
    seconds: float
    loss: float


def opened(device: torch.device, variant: str, twice: bool, memory: MemoryOptions) -> tuple[object, list, Fitted]:
    """A denoiser in training on the device, what learns, what was done."""
    base = "embedded" if device.type == "cpu" else "random"
    card, kind = registry.find("wan", variant)
    denoiser = registry.open_denoiser(card, kind, base=base, dtype="bf16")
    parts = denoiser.parts()
    prepare(parts, memory, device=device, move=memory.base == "resident")
    lora = LoraOptions(rank=32 if device.type == "cuda" else 4)
    adapters = inject(parts, lora, presets=card.lora_presets, default_preset=card.default_preset)
    with torch.no_grad():
        for weight in adapters.parameters().values():
            weight.data = weight.data.to(device)
            weight.add_(0.01)
    fitted = fit_out(parts, memory, device=device, twice=twice, adapters=adapters.resident())
    for part in parts.values():
        part.train()
    return denoiser, adapters.parameters(), fitted


def step(denoiser, learning, optimizer, device, latent) -> float:
    part = denoiser.parts()["transformer"]
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(1, part.config.in_channels, *latent, generator=rng).to(device)
    text = torch.randn(1, 64, part.config.text_dim, generator=rng).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        loss = denoiser.predict(x, torch.tensor([500.0], device=device), {"text": text}).float().square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def on_device(denoiser, fitted: Fitted) -> list[torch.Tensor]:
    """Weights that are on the device: all, or what does not stream and the ring."""
    weights = [w for part in denoiser.parts().values() for w in (*part.parameters(), *part.buffers())]
    if fitted.ring is None:
        return weights
    streamed = {id(piece.weight) for block in fitted.ring.blocks for piece in block.pieces}
    return [w for w in weights if id(w) not in streamed] + fitted.ring.places


def uncounted_on_host(fitted: Fitted, optimizer: object) -> None:
    """On a CPU: what would lie in main memory counts for nothing, what comes back from there does."""

    def apart(call):
        def called(*given):
            with _disable_current_modes():
                return call(*given)

        return called

    def fetch(waiting):
        if waiting.there is None:
            waiting.there = waiting.host.clone()

    if fitted.offload:
        fitted.offload._sent, fitted.offload._fetch = apart(fitted.offload._sent), fetch
    if fitted.ring:
        fitted.ring._leave = apart(fitted.ring._leave)
    if isinstance(optimizer, HostOptimizer):
        optimizer.step = apart(optimizer.step)


def measured(device: torch.device, variant: str, latent: tuple[int, ...], case: str) -> Figures:
    twice, given = CASES[case]
    memory = MemoryOptions(**given)
    denoiser, learning, fitted = opened(device, variant, twice, memory)
    make = lambda own: torch.optim.AdamW(own.values(), lr=1e-3)  # noqa: E731
    optimizer = HostOptimizer(learning, make) if memory.optimizer == "cpu" else make(learning)
    held = on_device(denoiser, fitted)
    weights = bytes_of(held)
    account = Account() if device.type == "cpu" else None
    if account:
        uncounted_on_host(fitted, optimizer)
        account.hold(held)
    else:
        torch.cuda.reset_peak_memory_stats()
    with account or nullcontext():
        loss = step(denoiser, learning, optimizer, device, latent)
        step(denoiser, learning, optimizer, device, latent)
    peak = account.most if account else torch.cuda.max_memory_allocated()
    clock, num = (time.process_time, 3) if device.type == "cpu" else (time.perf_counter, 5)
    begun = clock()
    for _ in range(num):
        loss_now = step(denoiser, learning, optimizer, device, latent)
    assert loss_now == loss_now
    return Figures(weights, peak, (clock() - begun) / num, loss)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--gpu-variant", default="t2v-1.3b")
    words.add_argument("--only", default="", help="cases whose name holds this")
    said = words.parse_args()
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    variant, latent = (said.gpu_variant, (21, 60, 104)) if gpu else ("tiny", (4, 16, 16))
    if not gpu:
        fit_out_room.LEAST_BYTES = 1 << 12
    torch.set_num_threads(torch.get_num_threads() if gpu else 1)
    print(f"wan {variant}, latents {latent}, {device}, torch {torch.__version__}")
    print(f"{'case':32s} {'weights MiB':>12s} {'peak MiB':>10s} {'s/step':>8s}  loss")
    first = None
    for case in (name for name in CASES if said.only in name):
        found = measured(device, variant, latent, case)
        first = first or found
        same = "the same" if found.loss == first.loss else f"off by {abs(found.loss / first.loss - 1):.1e}"
        sizes = f"{found.weights / 2**20:12.1f} {found.peak / 2**20:10.1f}"
        print(f"{case:32s} {sizes} {found.seconds:8.3f}  {same}")


if __name__ == "__main__":
    main()
