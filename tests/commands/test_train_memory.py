"""[memory] from the command line: the same run in less memory, a quantised base, what cannot go together."""

import pytest
from safetensors.torch import load_file

from cinelora.report.events import read_events

RECIPE = """
[model]
family = "wan"
variant = "tiny"
dtype = "bf16"
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
generator_every = 2
real_guidance = 2.0
[train]
steps = 3
micro_size = 1
lr = 1e-2
precision = "bf16"
save_every_steps = 1
device = "cpu"
[held_out]
every_steps = 1
num_timesteps = 1
[preview]
prompts = ["a red ball"]
num_steps = 1
num_seeds = 1
[run]
folder = "run"
"""


@pytest.fixture
def call(typed, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(f"a red ball rolls {k} times" for k in range(6)))
    (tmp_path / "r.toml").write_text(RECIPE)

    def called(*words, **sets):
        given = [word for key, value in sets.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]
        return typed(*words, *given)

    return called


def losses(folder):
    events = read_events(folder / "events.jsonl")
    return [(e["kind"], e["step"], e["loss"]) for e in events if e["kind"] in ("step", "held_out")]


LESS = {
    "memory__recompute": "every",
    "memory__activations": "offload",
    "memory__base": "streamed",
    "memory__ring_blocks": 3,
    "memory__optimizer": "cpu",
}


def test_the_same_run_in_less_memory_also_resumed_from_one_in_more(call, tmp_path):
    code, said = call("train", "r.toml", run__folder="plain")
    assert code == 0, said
    code, said = call("train", "r.toml", train__steps=1)
    assert code == 0, said
    assert "6 units are computed twice" in said
    code, said = call("train", "--resume", "run", train__steps=3, **LESS)
    assert code == 0, said
    assert "3 units are computed twice; activations wait in main memory; 6 blocks stream" in " ".join(said.split())
    assert said.count("proven:") == 2
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")
    mine, plain = (load_file(tmp_path / one / "adapter" / "r.diffusers.safetensors") for one in ("run", "plain"))
    assert all((mine[name] == tensor).all() for name, tensor in plain.items())
    assert (tmp_path / "run/samples/step-000003/00.mp4").exists()


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantised_base_is_told_and_its_adapter_proven(call, tmp_path, kind):
    code, said = call("train", "r.toml", memory__quantise=kind, memory__base="streamed", train__steps=1)
    assert code == 0, said
    assert f"linear layers of the base in {kind}" in " ".join(said.split())
    assert said.count("proven:") == 2
    code, said = call("train", "--resume", "run", memory__quantise="none", train__steps=2)
    assert code == 2, said
    assert "memory.quantise: was" in " ".join(said.split())


REFUSED = {
    "computed twice": {"memory__recompute": "attention", "train__gradient_checkpointing": "false"},
    "DoRA": {"memory__quantise": "int8", "lora__dora": "true"},
    "starts from the base's own weights": {"memory__quantise": "fp8", "lora__init": "pissa"},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_go_together_is_told_before_anything_is_read(call, tmp_path, what):
    code, said = call("train", "r.toml", **REFUSED[what])
    assert code == 2, said
    assert what in " ".join(said.split())
    assert not (tmp_path / ".cinelora").exists()
