import errno
import os
import shutil
import time
from dataclasses import replace

import pytest
import torch

from cinelora.base.errors import RunError
from cinelora.data import cache_folder
from cinelora.data.cache import Cache
from cinelora.data.cache_folder import contents, damaged, export, leftovers, refuse_no_cache, remove
from data.fake_media import Counted, encoding, slot


@pytest.fixture
def slots(tmp_path):
    return [slot(tmp_path / "clips", name, caption=f"about {name}") for name in "abc"]


@pytest.fixture
def cache(tmp_path, slots):
    filled = Cache(tmp_path / "cache", by="r")
    filled.fill(slots, encoding())
    return filled


def paths(folder):
    return sorted(folder.glob("*/*.safetensors"))


def exported(cache, slots, out):
    records = [one.record for one in slots]
    return export(cache.folder, cache.look(slots, encoding()).keys, records, media=cache.media, out=out)


def test_contents_say_what_was_made_when_and_by_whom(cache):
    found = contents(cache.folder)
    assert [kept.path for kept in found] == paths(cache.folder)
    assert sorted(kept.tower for kept in found) == ["text"] * 3 + ["vae"] * 3
    assert {(kept.dtype, kept.by) for kept in found} == {("fp32", "r")}
    assert all(abs(kept.made - time.time()) < 60 and kept.bytes == kept.path.stat().st_size for kept in found)


def test_without_a_manifest_entries_speak_for_themselves(cache):
    (cache.folder / "manifest.jsonl").unlink()
    one = paths(cache.folder)[0]
    one.write_bytes(b"torn")
    found = contents(cache.folder)
    assert found[0].tower == "damaged"
    assert sorted(kept.tower for kept in found[1:]) in (["text"] * 2 + ["vae"] * 3, ["text"] * 3 + ["vae"] * 2)
    assert {(kept.dtype, kept.made, kept.by) for kept in found[1:]} == {("fp32", 0.0, "")}


def test_damage_is_found_by_reading_all(cache):
    first, second, *_ = paths(cache.folder)
    data = first.read_bytes()
    first.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    second.write_bytes(second.read_bytes()[:-4])
    found = damaged(paths(cache.folder))
    assert list(found) == [first, second]
    assert "checksum" in found[first]
    assert "whole safetensors file" in found[second]


def test_removing_takes_the_manifests_lines_too_and_nothing_else(cache, slots):
    first, *rest = paths(cache.folder)
    remove(cache.folder, [first])
    assert paths(cache.folder) == rest
    keys = [line["key"] for line in cache_folder.read_lines(cache.folder / "manifest.jsonl")]
    assert sorted(keys) == [path.stem for path in rest]
    assert Cache(cache.folder).fill(slots, encoding()).made == 1
    remove(cache.folder, [first])
    remove(cache.folder, [first])


def test_only_old_half_written_files_are_left_over(cache):
    folder = paths(cache.folder)[0].parent
    fresh, old = folder / ".x.safetensors.1.part", folder / ".y.safetensors.2.part"
    for file in (fresh, old):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    assert leftovers(cache.folder) == [old]


def test_a_folder_without_a_cache_is_told(tmp_path, cache):
    refuse_no_cache(cache.folder)
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "clips" / "a.bin"):
        with pytest.raises(RunError, match="no cache here"):
            refuse_no_cache(folder)


def test_an_exported_cache_serves_the_same_slots_without_encoding_or_hashing(tmp_path, cache, slots, monkeypatch):
    extra = slot(tmp_path / "clips", "d", caption="of another recipe")
    cache.fill([extra], encoding())
    out = tmp_path / "there" / "cache"
    assert exported(cache, slots, out) == sum(path.stat().st_size for path in paths(out))
    assert len(paths(out)) == 6
    assert {kept.by for kept in contents(out)} == {"r"}
    moved = [
        replace(one, record=replace(one.record, media=(tmp_path / "moved" / one.record.media[0].name,)))
        for one in slots
    ]
    (tmp_path / "moved").mkdir()
    for one, other in zip(slots, moved, strict=True):
        shutil.copy2(one.record.media[0], other.record.media[0])
    wanted = cache.shelf(encoding().keys).read(slots[0]).mean
    read = []
    monkeypatch.setattr("cinelora.data.entries.sha256_file", lambda path: read.append(path))
    encoder = Counted()
    there = Cache(out)
    report = there.fill(moved, encoding(encoder))
    assert (report.made, report.found, encoder.seen, read) == (0, 6, [], [])
    assert torch.equal(there.shelf(encoding().keys).read(moved[0]).mean, wanted)


def test_an_export_without_a_manifest_writes_one(tmp_path, cache, slots):
    (cache.folder / "manifest.jsonl").unlink()
    exported(cache, slots, tmp_path / "out")
    assert sorted(kept.tower for kept in contents(tmp_path / "out")) == ["text"] * 3 + ["vae"] * 3


def test_an_incomplete_or_damaged_cache_is_not_exported(tmp_path, cache, slots):
    keys = cache.look(slots, encoding()).keys
    records = [one.record for one in slots]
    first, second, *_ = paths(cache.folder)
    data = second.read_bytes()
    second.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(RunError, match="an entry is damaged") as caught:
        export(cache.folder, keys, records, media=cache.media, out=tmp_path / "out")
    assert str(second) in str(caught.value)
    first.unlink()
    with pytest.raises(RunError, match="1 of 6 entries are missing") as caught:
        export(cache.folder, keys, records, media=cache.media, out=tmp_path / "out")
    assert "cinelora cache" in str(caught.value)
    assert list(tmp_path.glob("*out*")) == []


def test_an_export_wants_a_new_folder_with_room(tmp_path, cache, slots, monkeypatch):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "x").write_text("")
    (tmp_path / "file").write_text("")
    for out, word in (("used", "new folder"), ("file", "new folder"), ("cache/inside", "inside the cache")):
        with pytest.raises(RunError, match=word):
            exported(cache, slots, tmp_path / out)
    monkeypatch.setattr(cache_folder, "free_bytes", lambda folder: 100)
    with pytest.raises(RunError, match="does not fit"):
        exported(cache, slots, tmp_path / "out")


def test_a_disk_that_fills_up_leaves_no_half_export(tmp_path, cache, slots, monkeypatch):
    copy, calls = shutil.copyfile, []

    def full(source, target):
        calls.append(source)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(RunError, match="No space left"):
        exported(cache, slots, tmp_path / "out")
    assert list(tmp_path.glob("*out*")) == []
