"""`cinelora plan`: figures that are known, exit codes, what it proposes. No weights, no GPU."""

import json
import resource
import time

import pytest
import torch
from typer.testing import CliRunner

from cinelora.base.errors import RecipeError
from cinelora.cli.app import app
from cinelora.commands.plan import DOES_NOT_FIT, FITS, as_table, gpu_of, planned
from cinelora.commands.plan_memory import Acted
from cinelora.config.load import load
from cinelora.contracts.flow import Bucket
from cinelora.engine.account import CONTEXT_BYTES, MARGIN, Account

RECIPE = """
[model]
family = "{family}"
variant = "{variant}"
[[data.source]]
path = "clips"
[lora]
rank = {rank}
"""


def recipe(tmp_path, name: str = "wan/tiny", *, rank: int = 4, more: str = ""):
    family, variant = name.split("/")
    file = tmp_path / "recipe.toml"
    file.write_text(RECIPE.format(family=family, variant=variant, rank=rank) + more)
    return file


def words(*said: str):
    return CliRunner().invoke(app, ["plan", *said])


def test_14b_as_it_was_measured(tmp_path):
    """Facts of this project: 55.5 GiB with all steps acted out (rank 32, 32,760 tokens, checkpointing)."""
    cpu, held = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = planned(load(recipe(tmp_path, "wan/t2v-14b", rank=32), []), gpu_of("24GB"))
    assert time.process_time() - cpu < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held < 1_500_000
    (micro,) = told.micros
    assert micro.tokens == 32760
    assert micro.bytes / 2**30 == pytest.approx(55.5, rel=0.02)
    assert micro.base / 2**30 == pytest.approx(26.7, rel=0.02)
    assert micro.flops == pytest.approx(5.95e15, rel=0.02)
    assert told.fits is False
    assert told.limiting.name.startswith("training")
    assert told.fits_with_changes
    named = " ".join(change["set"] for change in told.changes)
    assert 'memory.base = "streamed"' in named
    table = as_table(told)
    assert table["fits"] is False
    json.dumps(table)


def test_short_networks_drawn_on_are_the_whole(tmp_path, monkeypatch):
    """Two short networks and a line through them, against acting all blocks out."""
    loaded = load(recipe(tmp_path, "wan/tiny", rank=16), [])
    train, memory = loaded.recipe.train, loaded.recipe.memory
    bucket, whole = Bucket(17, 128, 128), Acted(loaded).micro(Bucket(17, 128, 128), train, memory, num_clips=1)
    monkeypatch.setattr("cinelora.commands.plan_memory._SHORT", 2)
    monkeypatch.setattr("cinelora.commands.plan_memory._EQUAL", 5)
    acted, asked = Acted(loaded), []
    shortened = acted._shortened
    acted._shortened = lambda work, lists, num: asked.append(num) or shortened(work, lists, num)
    micro = acted.micro(bucket, train, memory, num_clips=1)
    assert asked == [2, 4]  # of 6
    assert micro.bytes == pytest.approx(whole.bytes, rel=0.002)
    assert micro.flops == pytest.approx(whole.flops, rel=1e-6)


def test_options_of_memory_are_felt(tmp_path):
    loaded = load(recipe(tmp_path, "wan/tiny", rank=16), [])
    acted, bucket = Acted(loaded), Bucket(17, 64, 64)
    train, memory = loaded.recipe.train, loaded.recipe.memory

    def base(**update):
        return acted.base_bytes(memory.model_copy(update=update))

    def micro(train=train, **update):
        return acted.micro(bucket, train, memory.model_copy(update=update), num_clips=2).bytes

    resident = base()
    assert base(base="streamed") < resident
    assert base(quantise="nf4") < base(quantise="int8") < resident
    kept = train.model_copy(update={"gradient_checkpointing": False})
    assert micro() < micro(recompute="every") < micro(train=kept)
    assert micro(optimizer="cpu") == micro() - 8 * acted.num_learning
    assert acted.micro(bucket, train, memory, num_clips=4).bytes > micro()
    assert acted.host_bytes(memory.model_copy(update={"base": "streamed"})) > 0


def test_an_account_of_real_tensors_says_the_same(tmp_path):
    """What is acted out is what a real step holds, but for attention's sums and what the CPU's kernels need."""
    from cinelora.base.seeds import torch_rng
    from cinelora.contracts.flow import Batch
    from cinelora.families import registry
    from cinelora.lora.inject import inject
    from cinelora.methods.finetune import Finetune
    from cinelora.noise.registry import open_process

    loaded = load(recipe(tmp_path, "wan/tiny", rank=16, more="[train]\ngradient_checkpointing = false\n"), [])
    told = Acted(loaded).micro(Bucket(17, 64, 64), loaded.recipe.train, loaded.recipe.memory, num_clips=2)
    family, variant = loaded.family, loaded.variant
    denoiser = registry.open_denoiser(family, variant, base="random", dtype="bf16")
    denoiser.text_dropout = 0.0
    adapters = inject(
        denoiser.parts(), loaded.recipe.lora, presets=family.lora_presets, default_preset=family.default_preset
    )
    shape = variant.geometry.latent_shape(Bucket(17, 64, 64))
    batch = Batch(torch.zeros(2, *shape), {"text": torch.zeros(2, 32, 64, dtype=torch.bfloat16)}, ("a", "b"))
    net = denoiser.parts()["transformer"]
    account = Account()
    account.hold([*net.parameters(), *net.buffers()])
    held = account.now
    with account, torch.autocast("cpu", torch.bfloat16):
        method = Finetune(denoiser, open_process(loaded.recipe.noise), adapters)
        method.loss("adapter", batch, torch_rng(0), torch_rng(1)).value.backward()
    state = adapters.num_parameters() * 8
    assert told.bytes == pytest.approx(account.most + state, rel=0.1)
    assert told.base + told.learning == pytest.approx(held + state, rel=0.02)


def test_exit_codes_and_words(tmp_path):
    file = str(recipe(tmp_path, "fake/tiny"))
    fits = words(file, "--gpu", "24GB")
    assert fits.exit_code == FITS
    assert "fits into 24 GB" in fits.output
    small = words(file, "--gpu", "0.1GB", "--json")
    assert small.exit_code == DOES_NOT_FIT
    told = json.loads(small.output)
    assert told["fits"] is False
    assert told["limiting"] in [phase["name"] for phase in told["phases"]]
    assert {"encoding: text", "saving and proving"} <= {phase["name"] for phase in told["phases"]}
    assert told["notes"]
    assert "cannot be planned" in told["notes"][0]  # there are no clips in this folder
    asked = words(file)
    assert asked.exit_code == 0
    assert "--gpu" in asked.output


def test_what_is_left_out_is_told(tmp_path):
    loaded = load(recipe(tmp_path, "fake/tiny"), [])
    assert not any("--world" in note or "distillation" in note for note in planned(loaded, None).notes)
    shared = load(recipe(tmp_path, "fake/tiny"), ["train.zero=2", "train.sharding=fsdp", "method.name=distill"])
    notes = planned(shared, None).notes
    assert any("train.sharding and train.zero" in note and "--world" in note for note in notes)
    assert any("distillation counts as one micro" in note for note in notes)
    assert not any("--world" in note for note in planned(shared, None, world=2).notes)


def test_attention_a_third_time_is_among_the_changes(tmp_path):
    """A card on which nothing cheaper is enough; and it is never taken back to less."""
    loaded = load(recipe(tmp_path, "wan/tiny", rank=16), ["data.size=[512, 512]", "data.frames=[81]"])
    acted = Acted(loaded)
    train, memory = loaded.recipe.train, loaded.recipe.memory
    bucket = Bucket(81, 512, 512)

    def most(**update):
        return acted.micro(bucket, train, memory.model_copy(update=update), num_clips=1).bytes

    cheaper = {"optimizer": "cpu", "quantise": "int8", "base": "streamed", "activations": "offload"}
    between = (most(**cheaper) + most(**cheaper, recompute="nested")) / 2
    gigabytes = (between + CONTEXT_BYTES) / (1 - MARGIN) / 1e9
    told = planned(loaded, gpu_of(f"{gigabytes}GB"))
    assert 'memory.recompute = "nested"' in " ".join(change["set"] for change in told.changes)
    nested = planned(load(recipe(tmp_path, "wan/tiny", rank=16), ["memory.recompute=nested"]), gpu_of("0.72GB"))
    assert not any('"blocks"' in change["set"] for change in nested.changes)


def test_time_is_told_of_a_card(tmp_path):
    file = recipe(tmp_path, "fake/tiny", more="[train]\nsteps = 100\n")
    told = planned(load(file, []), gpu_of("H200"))
    assert told.steps == 100
    assert told.seconds == pytest.approx(100 * told.micros[0].flops / (989.4e12 * 0.35))
    assert planned(load(file, []), None).seconds is None


@pytest.mark.parametrize("text", ["much", "-3GB", "RTX 9999", "nan", "inf", "0", "1e400GB"])
def test_gpus_that_are_not(text):
    with pytest.raises(RecipeError):
        gpu_of(text)


@pytest.mark.parametrize(("text", "gigabytes"), [("24GB", 24), ("16gib", 16), ("80", 80), ("h100", 80), ("4090", 24)])
def test_gpus_by_memory_or_name(text, gigabytes):
    assert gpu_of(text).gigabytes == gigabytes


@pytest.mark.parametrize("name", ["wan/tiny-ti2v", "cogvideox/tiny-i2v", "easyanimate/tiny-v5.1"])
def test_every_family_can_be_planned(tmp_path, name):
    loaded = load(recipe(tmp_path, name), ["train.steps=3"])
    told = planned(loaded, gpu_of("24GB"))
    assert told.fits
    assert told.micros[0].flops > 0
    assert told.micros[0].bytes > told.micros[0].base
