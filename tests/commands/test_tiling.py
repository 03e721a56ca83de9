"""Tiles where the machine needs them, and encoders that are in memory one at a time."""

import numpy as np
import pytest
from PIL import Image

from cinelora.commands import tiling
from cinelora.commands.clips import encoder_of
from cinelora.commands.plan_memory import Encoders
from cinelora.commands.session import Session
from cinelora.commands.tiling import tiled, tiling_towers, with_tiling
from cinelora.config.load import load
from cinelora.contracts.flow import Bucket
from cinelora.families import registry

RECIPE = """
[model]
family = "FAMILY"
variant = "tiny"
[data]
frames = [1]
size = [64, 64]
buckets = "single"
held_out = 0
[[data.source]]
path = "pictures"
[lora]
rank = 2
[train]
steps = 1
precision = "fp32"
device = "cpu"
[preview]
prompts = ["a red ball"]
num_steps = 1
before = false
[run]
folder = "run"
"""
BUCKETS = [Bucket(1, 64, 64), Bucket(5, 64, 96)]


def recipe(folder, *sets, family="wan"):
    (folder / "r.toml").write_text(RECIPE.replace("FAMILY", family))
    return load(folder / "r.toml", list(sets))


@pytest.fixture
def call(typed, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for k in range(2):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / f"pictures/{k}.png")
        (tmp_path / f"pictures/{k}.txt").write_text(f"picture {k}")
    recipe(tmp_path)
    return typed


def towers(loaded):
    return tiling_towers(encoder_of(loaded))


def test_on_and_off_are_the_towers_own(tmp_path):
    for word, flag in (("on", True), ("off", False), ("auto", False)):
        (tower,) = towers(recipe(tmp_path, f"memory.vae_tiling={word}"))
        assert tower.tiling is flag


def test_auto_tiles_where_the_largest_bucket_needs_more_than_there_is(tmp_path, monkeypatch):
    auto = recipe(tmp_path, "memory.vae_tiling=auto")
    (need,) = (phase.bytes for phase in Encoders(auto).phases(BUCKETS[1]) if "vae" in phase.name)
    more = int((need + tiling.CONTEXT_BYTES) / (1 - tiling.MARGIN)) + 10
    for has, word in ((more, "auto"), (more - 1000, "on")):
        monkeypatch.setattr(tiling, "whole_bytes", lambda device, has=has: has)
        assert with_tiling(auto, BUCKETS, device="cpu").recipe.memory.vae_tiling == word
    small, off = BUCKETS[:1], recipe(tmp_path, "memory.vae_tiling=off")
    assert with_tiling(auto, small, device="cpu").recipe.memory.vae_tiling == "auto"
    assert with_tiling(off, BUCKETS, device="cpu") is off
    fake = recipe(tmp_path, "memory.vae_tiling=auto", family="fake")
    assert with_tiling(fake, BUCKETS, device="cpu") is fake


def test_memory_is_measured():
    assert 0 < tiling.free_bytes("cpu") <= tiling.whole_bytes("cpu")


def test_tiles_for_one_decoding_only(tmp_path):
    encoder = encoder_of(recipe(tmp_path))
    (tower,) = tiling_towers(encoder)
    key = tower.fingerprint()
    with tiled(encoder, needed=True):
        assert tower.tiling
    with tiled(encoder, needed=False):
        assert not tower.tiling
    assert tower.fingerprint() == key


def test_previews_are_decoded_in_tiles_where_little_is_free(call, tmp_path, monkeypatch):
    seen, decode = [], Session.preview.__globals__["decode"]

    def watched(encoder, *given, **named):
        seen.extend(tower.tiling for tower in tiling_towers(encoder))
        return decode(encoder, *given, **named)

    monkeypatch.setitem(Session.preview.__globals__, "decode", watched)
    for free, flag in ((0, True), (1 << 40, False)):
        monkeypatch.setattr(tiling, "free_bytes", lambda device, free=free: free)
        code, said = call("train", "r.toml", "--set", "memory.vae_tiling=auto", "--set", f"run.folder={flag}")
        assert code == 0, said
        assert seen == [flag]
        seen.clear()


def test_a_family_without_tiles_says_so(tmp_path):
    fake = recipe(tmp_path, "memory.vae_tiling=on", family="fake")
    with pytest.raises(Exception, match=r"no setting for memory\.vae_tiling"):
        encoder_of(fake)


@pytest.mark.parametrize("cache", ["on", "off"])
def test_one_encoder_is_in_memory_at_a_time(call, monkeypatch, cache):
    """Ahead of every load, and of the denoiser's, no other tower has its network."""
    opened, loads = registry.open_encoder, []

    def watched(*given, **named):
        encoder = opened(*given, **named)
        for tower in encoder.towers():
            monkeypatch.setattr(tower, "load", loading(encoder, tower))
        return encoder

    def loading(encoder, tower):
        load = tower.load

        def loaded(device):
            others = [other.name for other in encoder.towers() if other is not tower and other.net is not None]
            loads.append((tower.name, others))
            load(device)

        return loaded

    monkeypatch.setattr(registry, "open_encoder", watched)
    code, said = call("train", "r.toml", "--set", f"data.cache={cache}", "--set", f"run.folder={cache}")
    assert code == 0, said
    assert {name for name, _ in loads} == {"text", "vae"}
    if cache == "on":
        assert [(name, others) for name, others in loads if others] == []
