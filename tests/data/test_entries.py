import hashlib
import os
import time

import pytest
import torch

from cinelora.base.errors import DataError
from cinelora.base.files import sha256_text
from cinelora.data.entries import MediaHashes, append_line, checksum, entry_shapes, read_entry, read_lines, write_entry
from data.fake_media import slot

TENSORS = {
    "mean": torch.arange(6.0).view(2, 3).to(torch.bfloat16),
    "count": torch.tensor(7),
    "none": torch.empty(0, 3),
}


def test_entry_round_trip_keeps_dtypes_shapes_and_bits(tmp_path):
    path = tmp_path / "ab" / "abc.safetensors"
    size = write_entry(path, TENSORS, {"slot": "é#0"})
    assert size == path.stat().st_size
    found = read_entry(path)
    assert found.keys() == TENSORS.keys()
    assert all(found[n].dtype == t.dtype and torch.equal(found[n], t) for n, t in TENSORS.items())
    assert entry_shapes(path) == {"mean": (2, 3), "count": (), "none": (0, 3)}


def test_checksum_depends_on_name_dtype_shape_and_every_bit():
    one = {"a": torch.zeros(2, 2)}
    flipped = torch.zeros(2, 2)
    flipped[1, 1] = -0.0
    others = [{"b": torch.zeros(2, 2)}, {"a": torch.zeros(4)}, {"a": torch.zeros(2, 2).int()}, {"a": flipped}]
    assert len({checksum(one), *(checksum(other) for other in others)}) == 5
    assert checksum({"a": torch.zeros(2, 4)[:, ::2]}) == checksum(one)


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "text"])
def test_damage_is_named(tmp_path, harm):
    path = tmp_path / "x.safetensors"
    write_entry(path, TENSORS, {})
    data = bytearray(path.read_bytes())
    data[-9] ^= 1  # inside the tensors' bytes
    path.write_bytes({"flip": bytes(data), "cut": path.read_bytes()[:-5], "empty": b"", "text": b"no entry"}[harm])
    with pytest.raises(ValueError, match="checksum" if harm == "flip" else "safetensors"):
        read_entry(path)
    if harm != "flip":
        with pytest.raises(ValueError):
            entry_shapes(path)


def test_media_hash_is_of_the_bytes_and_survives_a_new_time(tmp_path):
    one = slot(tmp_path, "one")
    path = one.record.media[0]
    os.utime(path, (time.time() - 100,) * 2)
    hashes = MediaHashes(tmp_path / "memory" / "media.jsonl")
    first = hashes.of(one.record)
    assert first == sha256_text(hashlib.sha256(b"one").hexdigest())
    os.utime(path, (time.time() - 50,) * 2)
    assert hashes.of(one.record) == first
    assert len(read_lines(tmp_path / "memory" / "media.jsonl")) == 2
    path.write_bytes(b"eno")
    assert hashes.of(one.record) != first


def test_media_hash_is_read_from_memory_and_not_of_a_file_that_is_too_fresh(tmp_path):
    one, memory = slot(tmp_path, "one"), tmp_path / "media.jsonl"
    assert MediaHashes(memory).of(one.record)
    assert not memory.exists()
    os.utime(one.record.media[0], (time.time() - 100,) * 2)
    MediaHashes(memory).of(one.record)
    line = read_lines(memory)[0]
    memory.write_text("torn {\n")
    append_line(memory, {**line, "sha256": "remembered"})
    assert MediaHashes(memory).of(one.record) == sha256_text("remembered")


def test_missing_media_are_told_with_the_record(tmp_path):
    one = slot(tmp_path, "one")
    one.record.media[0].unlink()
    with pytest.raises(DataError, match="main/one"):
        MediaHashes(tmp_path / "media.jsonl").of(one.record)
