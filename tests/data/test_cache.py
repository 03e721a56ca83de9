import gc
import json
import os
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from cinelora.base.errors import DataError, Problem, RunError, WeightsError
from cinelora.data.cache import Cache
from cinelora.data.cache_folder import contents, damaged
from cinelora.data.entries import read_entry
from data.fake_media import LARGE, Counted, encoding, load, slot


@pytest.fixture
def slots(tmp_path):
    return [slot(tmp_path / "clips", name, caption=f"about {name}") for name in "abc"]


def entries(cache):
    return sorted(cache.folder.glob("*/*.safetensors"))


def said(slot, caption):
    return replace(slot, record=replace(slot.record, caption=caption))


def test_fill_then_read_gives_what_the_towers_give(tmp_path, slots):
    encoder = Counted()
    cache, how = Cache(tmp_path / "cache"), encoding(encoder)
    report = cache.fill(slots, how)
    assert (report.made, report.found, report.rebuilt) == (6, 0, 0)
    assert report.bytes == sum(p.stat().st_size for p in cache.folder.glob("*/*.safetensors"))
    assert encoder.most_in_memory == 1
    assert not encoder.in_memory
    shelf = cache.shelf(how.keys)
    for one in slots:
        (wanted,) = encoder.inner.encode([load(one)])
        found = shelf.read(one)
        assert torch.equal(found.mean, wanted.mean)
        assert torch.equal(found.logvar, wanted.logvar)
        assert torch.equal(found.conditions["text"], wanted.conditions["text"])


def test_second_fill_makes_nothing_and_loads_no_tower(tmp_path, slots):
    cache = Cache(tmp_path / "cache")
    cache.fill(slots, encoding())
    again = Counted()
    report = Cache(tmp_path / "cache").fill(slots, encoding(again))
    assert (report.made, report.found, report.bytes) == (0, 6, 0)
    assert again.seen == []
    assert again.most_in_memory == 0


def test_a_new_caption_costs_one_text_and_a_new_crop_costs_latents_only(tmp_path, slots):
    cache = Cache(tmp_path / "cache")
    cache.fill(slots, encoding())
    renamed, encoder = [said(slots[0], "something else"), *slots[1:]], Counted()
    assert cache.fill(renamed, encoding(encoder)).made == 1
    assert encoder.seen == [("text", slots[0].name)]
    encoder = Counted()
    assert cache.fill(slots, encoding(encoder, transform=lambda slot: "random crop")).made == 3
    assert encoder.asked("text") == []


def test_new_bytes_or_weights_or_format_are_encoded_anew_but_a_new_time_is_not(tmp_path, slots):
    cache = Cache(tmp_path / "cache")
    cache.fill(slots, encoding())
    path = slots[0].record.media[0]
    os.utime(path, (time.time() + 5,) * 2)
    assert cache.fill(slots, encoding()).made == 0
    path.write_bytes(b"other")
    encoder = Counted()
    cache.fill(slots, encoding(encoder))
    assert encoder.seen == [("vae", slots[0].name)]
    encoder = Counted()
    encoder.prints["text"] = "text-2"
    cache.fill(slots, encoding(encoder))
    assert [who for who, _ in encoder.seen] == ["text"] * 3
    assert cache.fill(slots, encoding(dtype="bf16")).made == 6


def test_equal_captions_and_equal_clips_share_an_entry(tmp_path, slots):
    cache, encoder = Cache(tmp_path / "cache"), Counted()
    same = [said(one, "one caption") for one in slots]
    twin = replace(same[0], record=replace(same[0].record, key="main/twin"))
    report = cache.fill([*same, twin], encoding(encoder))
    assert (report.made, report.found) == (4, 0)
    assert len(encoder.asked("text")) == 1
    assert len(encoder.asked("vae")) == 3


def test_a_text_tower_sees_no_pixels(tmp_path, slots):
    opened = []

    def watched(slot):
        opened.append(slot.name)
        return load(slot)

    encoder = Counted()
    Cache(tmp_path / "cache").fill(slots, encoding(encoder, load=watched))
    assert sorted(opened) == sorted(one.name for one in slots)


def test_a_tower_that_draws_is_keyed_by_seed_and_slot(tmp_path, slots):
    encoder = Counted()
    encoder.towers()[0].draws = True
    same = [said(one, "one caption") for one in slots]
    cache = Cache(tmp_path / "cache")
    assert cache.fill(same, encoding(encoder)).made == 6
    assert cache.fill(same, encoding(encoder, seed=1)).made == 3


def test_interrupted_fill_goes_on_where_it_stopped(tmp_path, slots):
    class Interrupted(Counted):
        def towers(self):
            text, vae = super().towers()
            encode = vae.inner.encode

            def once(clips, rng=None):
                if clips[0].slot.name == slots[1].name:
                    raise KeyboardInterrupt
                return encode(clips, rng)

            vae.inner.encode = once
            return text, vae

    cache, encoder = Cache(tmp_path / "cache"), Interrupted()
    with pytest.raises(KeyboardInterrupt):
        cache.fill(slots, encoding(encoder))
    assert not encoder.in_memory
    report = cache.fill(slots, encoding())
    assert (report.made, report.found) == (2, 4)


def harmed(cache, how, slot, harm):
    """Harm the slot's latents; gives back the path and what it held."""
    path = cache.path(how.keys.of(slot, how.keys.towers[1], cache.media.of))
    whole = path.read_bytes()
    path.write_bytes({"flip": whole[:-1] + bytes([whole[-1] ^ 1]), "cut": whole[:-40]}[harm])
    return path, whole


@pytest.mark.parametrize(("harm", "verify"), [("flip", True), ("cut", True), ("cut", False)])
def test_damage_is_found_told_and_rebuilt(tmp_path, slots, caplog, harm, verify):
    cache, how = Cache(tmp_path / "cache"), encoding()
    cache.fill(slots, how)
    path, whole = harmed(cache, how, slots[1], harm)
    assert list(damaged(entries(cache))) == [path]
    report = cache.fill(slots, how, verify=verify)
    assert (report.made, report.found, report.rebuilt) == (0, 5, 1)
    assert f"{path} is damaged" in caplog.text
    assert path.read_bytes() == whole
    assert damaged(entries(cache)) == {}


def test_damage_that_headers_do_not_show_is_found_on_reading(tmp_path, slots):
    cache, how = Cache(tmp_path / "cache"), encoding()
    cache.fill(slots, how)
    path, whole = harmed(cache, how, slots[1], "flip")
    assert cache.fill(slots, how, verify=False).found == 6
    shelf = cache.shelf(how.keys)
    shelf.read(slots[0])
    with pytest.raises(RunError, match="checksum"):
        shelf.read(slots[1])
    assert cache.fill(slots, how, verify=False).made == 1
    assert path.read_bytes() == whole
    shelf.read(slots[1])


def test_reading_what_is_not_there_says_what_to_do(tmp_path, slots):
    how = encoding()
    with pytest.raises(RunError, match="cinelora cache"):
        Cache(tmp_path / "cache").shelf(how.keys).read(slots[0])


def test_manifest_has_one_line_per_entry(tmp_path, slots):
    cache = Cache(tmp_path / "cache")
    cache.fill(slots, encoding())
    lines = [json.loads(line) for line in (cache.folder / "manifest.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert {line["key"] for line in lines} == {p.stem for p in cache.folder.glob("*/*.safetensors")}
    assert next(line["caption"] for line in lines if line["tower"] == "text") == "about a"
    cache.path(lines[0]["key"]).unlink()
    assert {kept.path.stem for kept in contents(cache.folder)} == {line["key"] for line in lines[1:]}


def test_stored_format_is_the_one_asked_for_and_whole_numbers_stay(tmp_path, slots):
    class Odd(Counted):
        def towers(self):
            text, vae = super().towers()
            vae.inner.encode = lambda clips, rng=None: [
                {"mean": torch.ones(4, 2, 2, 2) / 3, "logvar": torch.tensor([2])}
            ]
            return text, vae

    cache, how = Cache(tmp_path / "cache"), encoding(Odd(), dtype="bf16")
    cache.fill(slots[:1], how)
    found = cache.shelf(how.keys).read(slots[0])
    assert found.mean.dtype == torch.bfloat16
    assert found.logvar.dtype == torch.int64
    assert found.conditions["text"].dtype == torch.bfloat16


def broken(name):
    def loading(slot):
        if slot.record.key == f"main/{name}":
            raise DataError(Problem(f"cannot decode {name}", where=slot.record.where))
        return load(slot)

    return loading


def test_bad_clips_are_all_told_and_the_rest_is_kept(tmp_path, slots):
    cache = Cache(tmp_path / "cache")
    slots[2].record.media[0].unlink()
    with pytest.raises(DataError) as caught:
        cache.fill(slots, encoding(load=broken("b")))
    assert [p.what.split(" ")[0:2] for p in caught.value.problems] == [["cannot", "read"], ["cannot", "decode"]]
    encoder = Counted()
    report = cache.fill(slots, encoding(encoder, load=broken("b")), on_bad="skip")
    assert encoder.asked("vae") == []
    assert {s.record.key: reason for s, reason in report.left_out}["main/b"] == "cannot decode b"
    assert {s.record.key for s, _ in report.left_out} == {"main/b", "main/c"}


def test_numbers_that_are_not_finite_name_the_record_also_after_rounding(tmp_path, slots):
    class Wild(Counted):
        value = float("nan")

        def towers(self):
            text, vae = super().towers()
            vae.inner.encode = lambda clips, rng=None: [
                {"mean": torch.full((4, 2, 2, 2), self.value), "logvar": torch.zeros(4, 2, 2, 2)}
            ]
            return text, vae

    with pytest.raises(DataError, match="mean as fp32") as caught:
        Cache(tmp_path / "cache").fill(slots[:1], encoding(Wild()))
    assert "main/a" in str(caught.value)
    Wild.value = 1e6
    Cache(tmp_path / "cache").fill(slots[:1], encoding(Wild()))
    with pytest.raises(DataError, match="mean as fp16"):
        Cache(tmp_path / "cache").fill(slots[:1], encoding(Wild(), dtype="fp16"))


def test_a_fault_of_the_whole_encoder_stops_early(tmp_path):
    many = [slot(tmp_path / "clips", f"n{k}") for k in range(30)]
    tried = []

    def never(one):
        tried.append(one.name)
        raise DataError(Problem("no"))

    with pytest.raises(DataError):
        Cache(tmp_path / "cache").fill(many, encoding(load=never), on_bad="skip")
    assert len(tried) in (10, 11)  # the one that is decoded ahead


@pytest.mark.parametrize("declared", ["6 9", "S 6 8", "7 8"])
def test_conditions_of_another_shape_are_refused_with_both_shapes(tmp_path, slots, declared):
    cache = Cache(tmp_path / "cache")
    with pytest.raises(WeightsError) as caught:
        cache.fill(slots, encoding(conditions={"text": declared}))
    assert caught.value.problems[0].found == "6 8"
    assert caught.value.problems[0].allowed == declared
    cache.fill(slots, encoding())
    with pytest.raises(WeightsError):  # also where everything is there already
        cache.fill(slots, encoding(conditions={"text": declared}))


def test_letters_fit_any_length_and_names_must_be_those_of_the_card(tmp_path, slots):
    cache = Cache(tmp_path / "cache")
    assert cache.fill(slots, encoding(conditions={"text": "S 8"})).made == 6
    with pytest.raises(WeightsError, match="image") as caught:
        cache.fill(slots, encoding(conditions={"text": "S 8", "image": "S 8"}))
    assert caught.value.problems[0].found == "logvar, mean, text"


def test_an_unwritable_folder_is_told(tmp_path, slots):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        Cache(tmp_path / "file" / "cache").fill(slots, encoding())


def test_entries_of_two_sizes_live_side_by_side(tmp_path, slots):
    cache, how = Cache(tmp_path / "cache"), encoding()
    wide = replace(slots[0], bucket=LARGE)
    cache.fill([slots[0], wide], how)
    shelf = cache.shelf(how.keys)
    assert shelf.read(slots[0]).mean.shape == (4, 2, 2, 2)
    assert shelf.read(wide).mean.shape == (4, 3, 2, 3)
    assert len(list(cache.folder.glob("*/*.safetensors"))) == 3
    assert read_entry(cache.path(how.keys.of(wide, how.keys.towers[1], cache.media.of)))["mean"].shape == (4, 3, 2, 3)


def test_two_writers_at_once_leave_whole_entries(tmp_path):
    many = [slot(tmp_path / "clips", f"n{k}", caption=str(k)) for k in range(12)]
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: Cache(tmp_path / "cache").fill(many, encoding()), range(2)))
    cache = Cache(tmp_path / "cache")
    assert all(report.made + report.found == 24 for report in reports)
    assert damaged(entries(cache)) == {}
    assert len(entries(cache)) == len(contents(cache.folder)) == 24
    assert [p for p in cache.folder.rglob("*") if p.name.endswith(".part")] == []


def test_one_clip_is_decoded_ahead_and_clips_do_not_pile_up(tmp_path):
    alive, most, ahead = [], [], threading.Event()

    def watched(one):
        gc.collect()
        most.append(sum(ref() is not None for ref in alive))
        clip = load(one)
        alive.append(weakref.ref(clip.pixels))
        if len(alive) == 2:
            ahead.set()
        return clip

    class Patient(Counted):
        def towers(self):
            text, vae = super().towers()
            encode = vae.inner.encode
            vae.inner.encode = lambda clips, rng=None: (waited.append(ahead.wait(5)), encode(clips, rng))[1]
            return text, vae

    many, waited = [slot(tmp_path / "clips", f"n{k}") for k in range(6)], []
    Cache(tmp_path / "cache").fill(many, encoding(Patient(), load=watched))
    assert all(waited)  # the second clip was decoded while the first was encoded
    assert len(alive) == 6
    assert max(most) == 1
