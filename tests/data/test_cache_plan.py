import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
import torch

from cinelora.base.errors import RunError
from cinelora.contracts.flow import Bucket
from cinelora.contracts.geometry import Geometry
from cinelora.data.cache import Cache
from cinelora.data.cache_plan import in_words
from data.fake_media import LARGE, Counted, encoding, slot

GEOMETRY = Geometry(fps=8, frames=9, height=32, width=32, latent_channels=4)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def disk(monkeypatch):
    """Sets how much room every disk has."""

    def room(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, free))

    room(1 << 40)
    return room


def how(encoder=None, **changes):
    return encoding(encoder, **{"geometry": GEOMETRY, "text_length": 6, "conditions": {"text": "S 8"}, **changes})


def needs(cache, slots, encoding):
    return {need.tower: need for need in cache.look(slots, encoding).disk.needs}


def blocks(size):
    return (size + 4095) // 4096 * 4096


@pytest.mark.parametrize(("dtype", "width"), [("fp32", 4), ("bf16", 2)])
def test_latents_are_known_to_the_block_from_their_shapes(tmp_path, disk, dtype, width):
    wide = Bucket(17, 480, 832)
    slots = [slot(tmp_path / "clips", f"n{k}", bucket=wide) for k in range(3)] + [slot(tmp_path / "clips", "small")]
    need = needs(Cache(tmp_path / "cache"), slots, how(dtype=dtype))["vae"]
    each = 2 * 4 * 5 * 60 * 104 * width  # mean and logvar, C T H W
    small = 2 * 4 * 2 * 2 * 2 * width
    assert need.sure
    assert need.entries == 4
    assert need.bytes == 3 * blocks(each + 1024) + blocks(small + 1024)


def test_what_was_told_is_what_the_disk_then_holds(tmp_path, disk):
    slots = [slot(tmp_path / "clips", f"n{k}", bucket=LARGE) for k in range(5)]
    cache, coder = Cache(tmp_path / "cache"), how()
    need = needs(cache, slots, coder)["vae"]
    cache.fill(slots, coder)
    keys = cache.look(slots, coder).works[1].wanted
    assert sum(blocks(cache.path(key).stat().st_size) for key in keys) == need.bytes
    assert cache.look(slots, coder).disk.needs == ()


def test_texts_are_at_most_as_declared_until_entries_say_more(tmp_path, disk):
    slots = [slot(tmp_path / "clips", f"n{k}", caption=f"words {k}") for k in range(4)]
    cache, coder = Cache(tmp_path / "cache"), how(text_length=512, conditions={"text": "S 8"})
    need = needs(cache, slots, coder)["text"]
    assert not need.sure
    assert need.bytes == 4 * blocks(512 * 8 * 4 + 1024)
    assert "4 x text (at most 81.9 kB)" in cache.look(slots, coder).disk.told()
    cache.fill(slots[:1], coder)
    assert needs(cache, slots, coder)["text"] == replace(need, entries=3, bytes=3 * 4096, sure=True)


def test_sizes_that_nobody_declares_are_told_as_unknown(tmp_path, disk):
    slots = [slot(tmp_path / "clips", "a")]
    disk_plan = Cache(tmp_path / "cache").look(slots, how(conditions={"text": "L 8"})).disk
    assert "1 x text (size unknown)" in disk_plan.told()
    disk_plan.refuse()


def test_a_disk_that_is_too_small_is_refused_before_anything_is_encoded(tmp_path, disk):
    slots = [replace(slot(tmp_path / "clips", "a", bucket=Bucket(17, 480, 832)), variant=k) for k in range(2)]
    encoder = Counted()
    cache = Cache(tmp_path / "cache")
    disk(1_000_000)
    with pytest.raises(RunError, match="does not fit on the disk") as caught:
        cache.fill(slots, how(encoder, transform=lambda one: one.name))
    told = str(caught.value)
    assert caught.value.exit_code == 1
    assert encoder.seen == []
    for word in ("2 MB needed", "1 MB are free", "encoded_dtype=bf16", "num_variants=1", "data.cache_dir=FOLDER"):
        assert word in told
    disk(1_998_847)
    with pytest.raises(RunError):
        cache.fill(slots, how(encoder, transform=lambda one: one.name))
    assert "encoded_dtype" not in str(cache.look(slots, how(dtype="bf16")).disk.hints)


def test_texts_that_turn_out_too_large_stop_the_fill_after_eight(tmp_path, disk):
    class Long(Counted):
        def towers(self):
            text, vae = super().towers()
            text.inner.encode = lambda clips, rng=None: [{"text": torch.ones(512, 8)}]
            return text, vae

    slots = [slot(tmp_path / "clips", f"n{k}", caption=f"words {k}") for k in range(20)]
    encoder = Long()
    disk(20 * 4096 + 11 * 20480)  # the latents, and eleven of the twelve texts that are left
    with pytest.raises(RunError, match="does not fit"):
        Cache(tmp_path / "cache").fill(slots, how(encoder, text_length=512))
    assert len(encoder.asked("text")) == 8
    assert not encoder.in_memory
    disk(20 * 4096 + 12 * 20480)
    report = Cache(tmp_path / "cache").fill(slots, how(encoder, text_length=512))
    assert (report.made, report.found) == (32, 8)


def test_texts_that_only_might_not_fit_are_tried(tmp_path, disk):
    slots = [slot(tmp_path / "clips", f"n{k}", caption=f"words {k}") for k in range(20)]
    disk(500_000)  # the declared 512 tokens each would take more
    assert Cache(tmp_path / "cache").fill(slots, how(text_length=512)).made == 40


def test_bytes_in_words():
    assert [in_words(n) for n in (0, 999, 1500, 2.5e6, 1e9, 1.5e12, 2e15)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 MB",
        "1 GB",
        "1.5 TB",
        "2000 TB",
    ]
