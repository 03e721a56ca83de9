import errno
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cinelora.base.errors import DataError, Problem, RunError
from cinelora.contracts.geometry import Geometry
from cinelora.data import cache_fill
from cinelora.data.cache import Cache
from cinelora.data.cache_fill import Event, make
from data.fake_media import Counted, encoding, load, slot

GEOMETRY = Geometry(fps=8, frames=9, height=32, width=32, latent_channels=4)


@pytest.fixture
def slots(tmp_path):
    return [slot(tmp_path / "clips", name, caption=f"about {name}") for name in "abc"]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def of_record(one, **changes):
    return replace(one, record=replace(one.record, **changes))


def test_the_journal_says_what_was_made_when_by_whom_and_what_went_wrong(tmp_path, slots):
    def broken(one):
        if one.record.key == "main/b":
            raise DataError(Problem("cannot decode b", where="b.bin"))
        return load(one)

    cache = Cache(tmp_path / "cache", by="r (share 1/2)")
    with pytest.raises(DataError):
        cache.fill(slots, encoding(load=broken))
    begin, problem, end = lines(cache.folder / "journal.jsonl")
    assert begin["event"] == "begin"
    assert begin["to_make"] == {"text": 3, "vae": 3}
    assert (problem["event"], problem["what"], problem["where"]) == ("problem", "cannot decode b", "b.bin")
    assert (end["event"], end["made"], end["by"]) == ("end", 5, "r (share 1/2)")
    assert abs(end["time"] - time.time()) < 60
    for line in lines(cache.folder / "manifest.jsonl"):
        assert line["by"] == "r (share 1/2)"
        assert 0 <= line["seconds"] < 60
    cache.fill(slots[:1], encoding())
    assert len(lines(cache.folder / "journal.jsonl")) == 3  # nothing to make, nothing to tell


def test_a_full_disk_stops_the_fill_with_what_is_written_kept(tmp_path, slots, monkeypatch):
    write, calls = Path.write_bytes, []

    def full(self, data):
        calls.append(self)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    cache, encoder = Cache(tmp_path / "cache"), Counted()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="No space left") as caught:
        cache.fill(slots, encoding(encoder))
    assert "free some space" in str(caught.value)
    assert not encoder.in_memory
    assert list(cache.folder.rglob("*.part")) == []
    monkeypatch.setattr(Path, "write_bytes", write)
    report = cache.fill(slots, encoding())
    assert (report.made, report.found) == (2, 4)


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), FileExistsError(17, "exists")])
def test_a_folder_that_cannot_be_made_is_told_before_anything_is_encoded(tmp_path, slots, monkeypatch, error):
    def refuse(self, *args, **kwargs):
        raise error

    encoder = Counted()
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunError, match="cannot write"):
        Cache(tmp_path / "cache").fill(slots, encoding(encoder))
    assert encoder.seen == []


def test_decoding_that_hangs_names_the_clip(tmp_path, slots, monkeypatch):
    import threading

    monkeypatch.setattr(cache_fill, "_SECONDS_PER_CLIP", 0.05)
    release = threading.Event()

    def hanging(one):
        if one.record.key == "main/b":
            release.wait(20)
        return load(one)

    with pytest.raises(DataError, match="decoding hangs: main/b"):
        Cache(tmp_path / "cache").fill(slots, encoding(load=hanging))
    release.set()
    assert Cache(tmp_path / "cache").fill(slots, encoding()).made == 1


def test_entries_may_be_made_by_others_whose_events_come_in_any_order(tmp_path, slots):
    cache, how = Cache(tmp_path / "cache"), encoding()

    def others(works):
        hands = [[work.dealt(k, 2) for work in works] for k in range(2)]
        first, second = (list(make(hand, how, cache.folder, by=f"hand {k}")) for k, hand in enumerate(hands))
        yield from (event for pair in zip(second, first, strict=False) for event in pair)
        yield from first[len(second) :]

    report = cache.make(cache.look(slots, how), how, maker=others)
    assert (report.made, report.found) == (6, 0)
    assert report.bytes == sum(path.stat().st_size for path in cache.folder.glob("*/*.safetensors"))
    assert {line["by"] for line in lines(cache.folder / "manifest.jsonl")} == {"hand 0", "hand 1"}


def test_somebody_who_breaks_is_told_with_the_bad_clips_and_the_rest_counts(tmp_path, slots):
    cache, how = Cache(tmp_path / "cache"), encoding()

    def others(works):
        text, vae = works
        yield from make([text], how, cache.folder, by="x")
        yield Event("failed", "vae", vae.to_make[0], problems=(Problem("cannot decode a"),))
        yield Event("broken", problems=(Problem("worker 1 died"),))

    todo = cache.look(slots, how)
    with pytest.raises(RunError) as caught:
        cache.make(todo, how, maker=others)
    assert [problem.what for problem in caught.value.problems] == ["worker 1 died", "cannot decode a"]
    assert lines(cache.folder / "journal.jsonl")[-1]["made"] == 3


def test_variants_share_their_text_and_are_read_back_apart(tmp_path, slots):
    cache, encoder = Cache(tmp_path / "cache"), Counted()
    how = encoding(encoder, transform=lambda one: f"{one.bucket} {one.variant}")
    variants = [replace(one, variant=k) for one in slots for k in range(3)]
    assert cache.fill(variants, how).made == 3 + 9
    shelf = cache.shelf(how.keys)
    found = [shelf.read(one) for one in variants[:3]]
    assert torch.equal(found[0].conditions["text"], found[2].conditions["text"])
    assert not torch.equal(found[0].mean, found[1].mean)


def test_one_of_several_captions_costs_one_text_and_dropout_adds_the_empty_one(tmp_path, slots):
    cache = Cache(tmp_path / "cache")
    several = [of_record(one, more_captions=(f"{one.record.key} again", "said of all")) for one in slots]
    assert cache.fill(several, encoding()).made == 3 + 4 + 3  # three captions, three others and a shared one, latents
    encoder = Counted()
    changed = [of_record(several[0], more_captions=("new", "said of all")), *several[1:]]
    assert cache.fill(changed, encoding(encoder)).made == 1
    assert encoder.seen == [("text", slots[0].name)]
    encoder = Counted()
    dropped = [of_record(one, caption_dropout=0.5) for one in changed]
    assert cache.fill(dropped, encoding(encoder)).made == 1
    assert cache.fill([of_record(one, caption_dropout=0.7) for one in changed], encoding()).made == 0
    found = cache.shelf(encoding().keys).read(replace(dropped[1], caption_number=-1))
    assert torch.equal(found.conditions["text"], torch.zeros(6, 8))


def test_a_new_mask_costs_one_mask_and_a_new_time_nothing(tmp_path, slots):
    def masked(one):
        share = one.record.mask.stat().st_size / 100 if one.record.mask else None
        mask = None if share is None else torch.full((5, 16, 16), share)
        return replace(load(one), mask=mask)

    mask = tmp_path / "a_mask.png"
    mask.write_bytes(bytes(50))
    with_mask = [of_record(slots[0], mask=mask), *slots[1:]]
    cache, how = Cache(tmp_path / "cache"), {"load": masked, "geometry": GEOMETRY}
    assert cache.fill(slots, encoding(**how)).made == 6
    encoder = Counted()
    assert cache.fill(with_mask, encoding(encoder, **how)).made == 1
    assert encoder.seen == []
    os.utime(mask, (1, 1))
    assert cache.fill(with_mask, encoding(**how)).made == 0
    mask.write_bytes(bytes(25))
    assert cache.fill(with_mask, encoding(encoder, **how)).made == 1
    assert encoder.seen == []
    shelf = cache.shelf(encoding(**how).keys)
    assert torch.equal(shelf.read(with_mask[0]).loss_mask, torch.full((1, 2, 2, 2), 0.25))
    assert shelf.read(with_mask[1]).loss_mask is None
