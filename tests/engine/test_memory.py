"""The options of [memory] that change no number: the same losses and gradients as without them."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from cinelora.base.errors import RecipeError
from cinelora.engine.fit_out import fit_out
from cinelora.engine.offload import Offload
from cinelora.engine.options import MemoryOptions
from cinelora.engine.recompute import Twice, keep, units
from cinelora.engine.recompute import recompute as recompute_
from cinelora.engine.saved import keep_by
from cinelora.engine.streamed import Block, Piece, Stream, _pages, stream
from cinelora.families import registry
from small_wan import CPU, SmallWan, wan


def subject(twice: bool = True, **memory) -> SmallWan:
    made = wan()
    options = MemoryOptions(**memory)
    made.fitted = fit_out(made.denoiser.parts(), options, device=CPU, twice=twice, adapters=made.adapters.resident())
    return made


@pytest.fixture(autouse=True)
def small_ones_go_too(monkeypatch):
    """Activations of the smallest Wan are kept away, too."""
    monkeypatch.setattr("cinelora.engine.fit_out.LEAST_BYTES", 64)


@pytest.fixture(scope="module")
def plain():
    return wan().learned()


def assert_equal(one, other):
    assert one[0] == other[0]
    assert all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))


CASES = {
    "blocks": {},
    "every second": {"recompute": "every"},
    "attention": {"recompute": "attention"},
    "offload": {"twice": False, "activations": "offload"},
    "offload, twice": {"activations": "offload"},
    "streamed": {"base": "streamed"},
    "streamed, kept": {"twice": False, "base": "streamed"},
    "streamed, ring of 3": {"base": "streamed", "ring_blocks": 3},
    "streamed, attention": {"base": "streamed", "recompute": "attention"},
    "streamed, every second, offload": {"base": "streamed", "recompute": "every", "activations": "offload"},
}


def test_waiting_for_blocks_is_measured():
    streamed, resident = subject(base="streamed"), subject()
    streamed.learned(steps=1)
    resident.learned(steps=1)
    assert streamed.fitted.waited() > 0
    assert streamed.fitted.waited() == 0  # told once
    assert resident.fitted.waited() == 0


def test_memory_that_is_to_be_locked_shares_no_page():
    runs = [_pages(1000) for _ in range(50)]
    assert all(run.data_ptr() % 4096 == 0 for run in runs)
    assert len({run.data_ptr() for run in runs}) == 50
    for run in runs:
        storage = run.untyped_storage()
        assert run.data_ptr() + 4096 <= storage.data_ptr() + storage.nbytes()


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_without(plain, case):
    """Two forward passes a step, as in a distillation, an answer without gradients between, dropout in adapters."""
    made = subject(**CASES[case])
    assert_equal(made.learned(), plain)
    wanted = {"blocks": 6, "every": 3, "attention": 12, "nested": 18}[CASES[case].get("recompute", "blocks")]
    assert made.fitted.num_twice == wanted * CASES[case].get("twice", True)
    assert (made.fitted.offload is not None and made.fitted.offload.bytes_offloaded > 0) == ("offload" in case)


@pytest.mark.parametrize("recompute", ["none", "blocks", "attention", "nested"])
def test_no_block_is_used_that_is_not_there(plain, recompute):
    """Places that are given up, and weights of blocks that are elsewhere, are NaN."""
    made = wan()
    chosen = units(made.denoiser.parts(), recompute) if recompute != "none" else []
    stay = made.adapters.resident()
    ring = stream(made.denoiser.parts(), device=CPU, resident=stay, within=chosen, poisoned=True)
    if chosen:
        recompute_(made.denoiser.parts(), recompute)
    keep_by(made.denoiser.parts(), [ring])
    assert all(not piece.weight.isfinite().any() for block in ring.blocks for piece in block.pieces if piece.size)
    assert_equal(made.learned(), plain)
    assert len(ring.places) == 2 < len(ring.blocks)


def test_blocks_set_out_ahead_and_no_more_often_than_needed():
    made = subject(base="streamed")
    made.learned(steps=1, forwards=1)
    ring = made.fitted.ring
    num, before = len(ring.blocks), replace(ring.traffic)
    ring.traffic.asked.clear()
    made.micro(0).float().square().mean().backward()
    there = [*range(num), *range(num - 2, -1, -1)]  # the last one is there still when the backward pass begins
    assert ring.traffic.asked == [*range(num), num - 1, *there[num:]]
    copies, late = ring.traffic.num_copies - before.num_copies, ring.traffic.num_late - before.num_late
    assert late <= 1
    assert copies <= 2 * num - 1


def test_another_order_is_learned():
    ring = made_ring(4)
    for _ in range(2):
        with torch.no_grad():
            for number in (2, 0, 3, 1):
                ring.ask(number)
    late = ring.traffic.num_late
    with torch.no_grad():
        for number in (2, 0, 3, 1):
            ring.ask(number)
    assert ring.traffic.num_late == late


def made_ring(num: int, size: int = 8) -> Stream:
    weights = [nn.Parameter(torch.full((size,), float(k)), requires_grad=False) for k in range(num)]
    hosts = [weight.detach().clone().view(torch.uint8) for weight in weights]
    pieces = [Piece(weight, 0, weight.dtype, weight.size()) for weight in weights]
    return Stream([Block([p], host) for p, host in zip(pieces, hosts, strict=True)], CPU, 2)


def test_a_kept_view_is_of_its_block_wherever_that_is():
    ring = made_ring(3)
    ring.ask(0)
    view = ring.blocks[0].pieces[0].weight.data[2:6:2]
    kept = ring.pack(view)
    for number in (1, 2, 1):
        ring.ask(number)
    assert 0 not in ring._held
    assert ring.unpack(kept).tolist() == [0.0, 0.0]
    assert ring.unpack(kept).storage_offset() == 2
    assert ring.pack(torch.ones(8)) is None


def test_weights_of_a_streamed_base_are_whole_for_whoever_reads_them():
    made, whole = subject(base="streamed"), wan()
    made.learned(steps=1)
    own = dict(made.part.named_parameters())
    frozen = {name: weight for name, weight in whole.part.named_parameters() if not weight.requires_grad}
    assert all(torch.equal(own[name], weight) for name, weight in frozen.items())


def test_what_streams_is_frozen_and_in_blocks():
    made = subject(base="streamed")
    streamed = {id(piece.weight) for block in made.fitted.ring.blocks for piece in block.pieces}
    assert streamed.isdisjoint(id(weight) for weight in made.adapters.resident())
    assert sum(w.nbytes for w in made.part.parameters() if id(w) in streamed) <= made.fitted.ring.bytes_on_host
    with pytest.raises(RecipeError, match="nothing can be streamed"):
        stream({"one": nn.Linear(3, 3)}, device=CPU)


def test_units_of_a_unet_are_its_layers():
    card, kind = registry.find("framer", "tiny")
    (part,) = registry.skeleton(card, kind).values()
    kinds = {type(unit).__name__ for unit in units({"unet": part})}
    assert kinds >= {"BasicTransformerBlock", "SpatioTemporalResBlock"}
    card, kind = registry.find("dynamicrafter", "tiny")
    kinds = {type(unit).__name__ for unit in units(registry.skeleton(card, kind))}
    assert kinds >= {"ResBlock", "TransformerBlock"}


def test_every_kth_block_and_a_way_back():
    part = wan().denoiser.parts()
    num = len(part["transformer"].blocks)
    assert recompute_(part, "every", every=2) == -(-num // 2)
    assert recompute_(part, "blocks") == num  # in place of what was before
    assert all(isinstance(block.forward, Twice) for block in part["transformer"].blocks)
    assert not isinstance(part["transformer"].blocks[0].forward.once, Twice)
    keep(part)
    assert not any(isinstance(module.forward, Twice) for module in part["transformer"].modules())
    with pytest.raises(RecipeError, match="twice"):
        recompute_({"one": nn.Linear(3, 3)})


def test_large_activations_go_and_weights_stay():
    layer = nn.Linear(64, 64).requires_grad_(False)
    offload = Offload([layer], least_bytes=64 * 64 * 4)
    offload.begin()
    assert offload.pack(layer.weight.t()) is None
    assert offload.pack(torch.ones(4)) is None
    x = torch.rand(64, 128).t()
    kept = offload.pack(x)
    assert offload.pack(x[:, :]) is kept  # the same numbers once
    part = offload.pack(torch.rand(128, 128)[:, :64])
    assert part.host.is_contiguous()
    assert torch.equal(offload.unpack(kept), x)
    assert offload.unpack(kept).stride() == x.stride()
    assert offload.bytes_offloaded == 2 * 64 * 128 * 4


def test_a_tensor_in_the_place_of_one_that_is_gone_is_not_taken_for_it():
    offload = Offload([], least_bytes=1)
    kept = [offload.pack(torch.full((1000,), float(k))) for k in range(5)]
    assert [offload.unpack(one)[0].item() for one in kept] == [0, 1, 2, 3, 4]
