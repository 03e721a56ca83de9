import hashlib
import os
import time

import pytest
import torch
from safetensors import safe_open

from cinelora.base.errors import DataError
from cinelora.base.files import sha256_text
from cinelora.data.entries import (
    MediaHashes,
    append_line,
    checksum,
    entry_facts,
    entry_shapes,
    read_entry,
    read_lines,
    trimmed,
    write_entry,
)
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
    assert len(list(read_lines(tmp_path / "memory" / "media.jsonl"))) == 2
    path.write_bytes(b"eno")
    assert hashes.of(one.record) != first


def test_media_hash_is_read_from_memory_and_not_of_a_file_that_is_too_fresh(tmp_path):
    one, memory = slot(tmp_path, "one"), tmp_path / "media.jsonl"
    assert MediaHashes(memory).of(one.record)
    assert not memory.exists()
    os.utime(one.record.media[0], (time.time() - 100,) * 2)
    MediaHashes(memory).of(one.record)
    line = next(read_lines(memory))
    memory.write_text("torn {\n")
    append_line(memory, {**line, "sha256": "remembered"})
    assert MediaHashes(memory).of(one.record) == sha256_text("remembered")


def test_missing_media_are_told_with_the_record(tmp_path):
    one = slot(tmp_path, "one")
    one.record.media[0].unlink()
    with pytest.raises(DataError, match="main/one"):
        MediaHashes(tmp_path / "media.jsonl").of(one.record)


def bits(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8).tolist() if tensor.numel() else []


def padded(dtype, *, rows=3, length=9):
    whole = torch.zeros(length, 2, 2, dtype=dtype)
    whole[:rows] = torch.ones(rows, 2, 2).to(dtype)
    whole[1] = 0  # an empty row in the middle is no padding
    return whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool])
def test_rows_of_zeros_at_the_end_are_not_stored_and_come_back_bit_by_bit(tmp_path, dtype):
    whole, path = padded(dtype), tmp_path / "x.safetensors"
    write_entry(path, {"text": whole, "nothing": torch.zeros(5, 2, dtype=dtype)}, {"tower": "text"})
    found = read_entry(path)
    assert found["text"].dtype == dtype
    assert found["text"].shape == (9, 2, 2)
    assert bits(found["text"]) == bits(whole)
    assert bits(found["nothing"]) == bits(torch.zeros(5, 2, dtype=dtype))
    assert entry_shapes(path) == {"text": (9, 2, 2), "nothing": (5, 2)}
    assert entry_facts(path)[0]["rows"] == {"text": 9, "nothing": 5}
    with safe_open(path, "pt") as file:
        assert file.get_tensor("text").shape == (3, 2, 2)
        assert file.get_tensor("nothing").shape == (0, 2)


def test_only_zeros_without_any_bit_are_padding():
    minus = torch.zeros(4, 2)
    minus[2, 1] = -0.0
    assert len(trimmed(minus)) == 3
    assert len(trimmed(torch.tensor([[1.0, 0.0], [0.0, torch.nan], [0.0, 0.0]]))) == 2
    for kept in (torch.zeros(7), torch.tensor(0.0), torch.ones(2, 3), torch.empty(0, 3), torch.zeros(3, 0)):
        assert trimmed(kept) is kept


def test_a_long_padding_takes_no_room(tmp_path):
    text = torch.zeros(512, 64)
    text[:20] = 1
    size = write_entry(tmp_path / "a.safetensors", {"text": text}, {})
    assert 20 * 64 * 4 < size < 20 * 64 * 4 + 1024


def test_a_wrong_number_of_rows_is_damage(tmp_path):
    path = tmp_path / "x.safetensors"
    write_entry(path, {"text": padded(torch.float32)}, {})
    data = path.read_bytes()
    assert data.count(b'\\"text\\": 9') == 1
    path.write_bytes(data.replace(b'\\"text\\": 9', b'\\"text\\": 8'))
    with pytest.raises(ValueError, match="checksum"):
        read_entry(path)


def test_an_exported_memory_holds_for_the_same_record_elsewhere(tmp_path):
    one = slot(tmp_path / "here", "one").record
    os.utime(one.media[0], ns=(10**18, 10**18))
    there = slot(tmp_path / "there", "one").record
    os.utime(there.media[0], ns=(10**18, 10**18))
    memory = tmp_path / "memory.jsonl"
    for line in MediaHashes(tmp_path / "none.jsonl").portable(one):
        append_line(memory, {**line, "sha256": "0" * 64})
    assert MediaHashes(memory).of(there) == sha256_text("0" * 64)
    os.utime(there.media[0], ns=(10**18 + 1, 10**18 + 1))
    assert MediaHashes(memory).of(there) == MediaHashes(tmp_path / "none.jsonl").of(one)
    other = slot(tmp_path / "here", "one", source="other").record
    assert MediaHashes(memory).of(other) == MediaHashes(tmp_path / "none.jsonl").of(one)
