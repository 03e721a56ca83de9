"""[speed] from the command line: the same numbers sooner, and what is not there is refused before anything is read."""

import pytest
import torch
from torch import nn

from cinelora.commands.clips import encoder_of
from cinelora.commands.speed import is_fused, lay_out, relief
from cinelora.config.load import load
from cinelora.engine.recompute import Twice
from cinelora.report.events import read_events

RECIPE = """
[model]
family = "wan"
variant = "tiny"
dtype = "fp32"
text_dropout = 0.0
[data]
show = "captions"
frames = [5]
buckets = "single"
held_out = 0.2
[[data.source]]
path = "prompts.txt"
[lora]
rank = 2
[method]
name = "distill"
[train]
steps = 2
micro_size = 2
precision = "fp32"
gradient_checkpointing = false
device = "cpu"
[run]
folder = "run"
"""


@pytest.fixture
def call(typed, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(f"a red ball rolls {k} times" for k in range(6)))
    (tmp_path / "r.toml").write_text(RECIPE)

    def called(**sets):
        given = [word for key, value in sets.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]
        return typed("train", "r.toml", *given)

    return called


def steps(folder):
    return [event for event in read_events(folder / "events.jsonl") if event["kind"] == "step"]


def test_threads_and_kernels_change_no_number_beyond_rounding(call, tmp_path):
    code, said = call(run__folder="plain", speed__num_workers=0)
    assert code == 0, said
    code, said = call(run__folder="ahead", speed__num_workers=3, speed__prefetch_micros=4)
    assert code == 0, said
    code, said = call(run__folder="math", speed__attention="math", speed__fused_optimizer="on")
    assert code == 0, said
    plain, ahead, kernels = (steps(tmp_path / name) for name in ("plain", "ahead", "math"))
    assert [one["loss"] for one in ahead] == [one["loss"] for one in plain]
    assert [one["loss"] for one in kernels] == pytest.approx([one["loss"] for one in plain], rel=1e-4)
    assert all(one["tokens_per_second"] > 0 for one in plain)
    assert all(0 <= one["transfer_wait_share"] <= 1 for one in plain)
    assert not any("mfu" in one for one in plain)  # a distillation asks now more, now less; and this is a CPU


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        ({"speed__attention": "cudnn"}, "this attention kernel needs a GPU"),
        ({"speed__fused_optimizer": "on", "memory__optimizer": "cpu"}, "not fused with what is on the GPU"),
        ({"speed__fused_optimizer": "on", "train__optimizer": "prodigy", "train__lr": 1}, "has no fused step"),
        ({"speed__compile_limit": 3}, "compile"),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_read(call, tmp_path, sets, told):
    code, said = call(**sets)
    assert code in (1, 2)
    assert told in said or "prodigyopt" in said
    assert not (tmp_path / "run" / "events.jsonl").exists()


def loaded(tmp_path, *sets):
    (tmp_path / "prompts.txt").write_text("a ball")
    (tmp_path / "r.toml").write_text(RECIPE)
    return load(tmp_path / "r.toml", list(sets))


def test_fused_is_for_gpus_unless_it_is_asked_for(tmp_path):
    one = loaded(tmp_path)
    assert is_fused(one, torch.device("cuda"))
    assert not is_fused(one, torch.device("cpu"))
    assert is_fused(loaded(tmp_path, "speed.fused_optimizer=on"), torch.device("cpu"))
    assert not is_fused(loaded(tmp_path, "memory.optimizer=cpu"), torch.device("cuda"))


def test_relief_is_recomputing_where_that_is_left(tmp_path):
    net = nn.Sequential()
    net.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
    relieve = relief(loaded(tmp_path), {"net": net})
    assert "computed twice" in relieve()
    assert all(isinstance(block.forward, Twice) for block in net.blocks)
    assert relieve() == ""
    assert relief(loaded(tmp_path, "train.gradient_checkpointing=true"), {"net": net})() == ""


def test_relief_never_keeps_more_than_before(tmp_path):
    net, kept = nn.Sequential(), "train.gradient_checkpointing=true"
    net.blocks = nn.ModuleList(nn.ModuleDict({"attn": nn.Linear(4, 4)}) for _ in range(2))
    attention = net.blocks[0]["attn"]
    relieve = relief(loaded(tmp_path, kept), {"net": net})
    assert "third time" in relieve()
    assert isinstance(attention.forward, Twice)
    assert isinstance(net.blocks[0].forward, Twice)
    assert relieve() == ""
    assert relief(loaded(tmp_path, kept, "memory.recompute=nested"), {"net": net})() == ""
    assert relief(loaded(tmp_path, kept, "speed.compile=true"), {"net": net})() == ""
    every = relief(loaded(tmp_path, kept, "memory.recompute=every"), {"net": net})
    assert "every block" in every()
    assert not isinstance(attention.forward, Twice)
    assert "third time" in every()
    assert every() == ""


def test_autoencoders_are_laid_out_on_gpus_alone():
    class Tower:
        gives, net = ("mean", "logvar"), None

        def load(self, device):
            self.net = nn.Sequential(nn.Conv3d(2, 2, 3), nn.Conv2d(2, 2, 3), nn.Linear(2, 2), nn.GroupNorm(1, 2))

    tower = Tower()
    lay_out([tower])
    tower.load("cpu")
    assert all(weight.is_contiguous() for weight in tower.net.parameters())
    tower.load("cuda")  # only asked where it is to lie: nothing moves here
    assert tower.net[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert tower.net[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(weight.is_contiguous() for weight in tower.net[2:].parameters())


def test_latents_of_an_autoencoder_with_layers_of_both_kinds_stay(tmp_path):
    vae = next(one for one in encoder_of(loaded(tmp_path)).towers() if "mean" in one.gives)
    vae.load("cpu")
    assert {4, 5} <= {weight.ndim for weight in vae.net.parameters()}
    pixels = torch.randn(3, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = vae.moments(pixels)

    class There:
        gives, net = vae.gives, vae.net

        def load(self, device):
            """Its network is in memory."""

    there = There()
    lay_out([there])
    there.load("cuda")
    assert any(not weight.is_contiguous() for weight in vae.net.parameters())
    torch.testing.assert_close(vae.moments(pixels), plain, rtol=1e-4, atol=1e-4)
