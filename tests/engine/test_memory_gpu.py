"""The same on a GPU, with real streams and page-locked memory: skipped where there is none."""

import pytest
import torch

from cinelora.engine.fit_out import fit_out, prepare
from cinelora.engine.options import MemoryOptions
from small_wan import wan

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and torch sees none")
CASES = [
    {},
    {"activations": "offload"},
    {"base": "streamed"},
    {"base": "streamed", "recompute": "attention", "ring_blocks": 3},
    {"base": "streamed", "activations": "offload", "recompute": "every"},
]


def learned(twice: bool, **memory):
    device, options = torch.device("cuda"), MemoryOptions(**memory)
    made = wan()
    parts, resident = made.denoiser.parts(), made.adapters.resident()
    prepare(parts, options, device=device, move=options.base == "resident")
    for weight in resident:
        weight.data = weight.data.to(device)
    fit_out(parts, options, device=device, twice=twice, adapters=resident)
    made.device = device
    return made.learned(steps=3)


@pytest.mark.parametrize("twice", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_numbers_are_those_without(case, twice, monkeypatch):
    monkeypatch.setattr("cinelora.engine.fit_out.LEAST_BYTES", 64)
    losses, weights = learned(twice, **case)
    plain, others = learned(False)
    assert losses == pytest.approx(plain, rel=1e-3)
    for mine, other in zip(weights, others, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


def test_a_streamed_base_leaves_the_gpu_to_the_ring():
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    made = wan()
    whole = sum(weight.nbytes for weight in made.part.parameters())
    resident = made.adapters.resident()
    fitted = fit_out(
        made.denoiser.parts(),
        MemoryOptions(base="streamed"),
        device=torch.device("cuda"),
        twice=True,
        adapters=resident,
    )
    assert all(block.host.is_pinned() for block in fitted.ring.blocks)
    assert torch.cuda.max_memory_allocated() - before < whole
