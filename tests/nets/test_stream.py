"""Weights a few rows at a time: what is read and written is what was there, whatever the shapes and formats are."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cinelora.base.errors import RunError, WeightsError
from cinelora.nets import stream
from cinelora.nets.stream import as_it_is, made, open_weights, tensor_of, write_stream

ODD = {
    "odd": torch.arange(3).to(torch.bfloat16),
    "wide": torch.randn(5, 7, dtype=torch.float64),
    "matrix": torch.randn(9, 11),
    "half": torch.randn(4, 3, 2).half(),
    "number": torch.tensor(3.5),
    "count": torch.tensor([1, 2, 3]),
    "flags": torch.tensor([True, False, True]),
    "none": torch.empty(0, 4),
    "tiny": torch.randn(5).to(torch.float8_e4m3fn),
}


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for key, one in wanted.items():
        assert found[key].dtype == one.dtype, key
        assert found[key].shape == one.shape, key
        assert stream.bytes_of(found[key]).tolist() == stream.bytes_of(one).tolist(), key


@pytest.fixture(params=[16, 4 << 20])
def chunk(request, monkeypatch):
    monkeypatch.setattr(stream, "CHUNK_BYTES", request.param)


def copied(weights, path):
    write_stream(path, [as_it_is(one) for one in weights.stored.values()], weights.header)
    return load_file(path)


def test_a_copy_is_byte_for_byte_the_same(chunk, tmp_path):
    save_file(ODD, tmp_path / "a.safetensors", {"told": "yes"})
    weights = open_weights(tmp_path / "a.safetensors")
    same(copied(weights, tmp_path / "b.safetensors"), ODD)
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata() == {"told": "yes", "format": "pt"}
    assert [child.name for child in sorted(tmp_path.iterdir())] == ["a.safetensors", "b.safetensors"]


def test_rows_and_the_whole_are_what_the_library_reads(chunk, tmp_path):
    save_file(ODD, tmp_path / "a.safetensors")
    for key, one in open_weights(tmp_path / "a.safetensors").stored.items():
        same({key: one.whole()}, {key: ODD[key]})
        rows = list(one.rows())
        found = torch.cat([piece for _, piece in rows]) if one.shape else rows[0][1]
        same({key: found}, {key: ODD[key]})
        assert [first for first, _ in rows][0] == 0


def test_torchs_own_files_are_read_too(chunk, tmp_path):
    torch.save({"state_dict": ODD}, tmp_path / "a.ckpt")
    same(copied(open_weights(tmp_path / "a.ckpt"), tmp_path / "b.safetensors"), ODD)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from(list(stream.NAMES))), max_size=5))
def test_any_mixture_can_be_mapped(tmp_path_factory, sizes):
    """Narrow formats behind wide ones: each tensor lies where its format can be looked at in place."""
    path = tmp_path_factory.mktemp("mix") / "a.safetensors"
    tensors = {str(k): torch.ones(a, b).to(dtype) for k, (a, b, dtype) in enumerate(sizes)}
    planned = [made(k, t.dtype, tuple(t.shape), lambda t=t: iter([t])) for k, t in tensors.items()]
    write_stream(path, planned, {})
    same(load_file(path), tensors)
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    table = json.loads(data[8:start])
    assert start % 8 == 0
    for key, one in tensors.items():
        assert table[key]["data_offsets"][0] % one.dtype.itemsize == 0
    assert {one.name: tensor_of(one).shape for one in planned} == {k: t.shape for k, t in tensors.items()}


def shards(folder, count=3):
    folder.mkdir()
    keys, where = list(ODD), {}
    for k in range(count):
        name = f"model-{k + 1:05d}-of-{count:05d}.safetensors"
        save_file({key: ODD[key] for key in keys[k::count]}, folder / name)
        where |= dict.fromkeys(keys[k::count], name)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    return folder


def test_shards_are_one_checkpoint(tmp_path):
    weights = open_weights(shards(tmp_path / "a"))
    same(copied(weights, tmp_path / "b.safetensors"), ODD)
    assert weights.index.name == "model.safetensors.index.json"
    assert [one.name for one in weights.others] == ["config.json"]
    assert len(weights.files) == 3
    assert weights.stem == "a"
    weights.index.unlink()
    assert open_weights(tmp_path / "a").stored.keys() == ODD.keys()
    (tmp_path / "a" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match="not complete"):
        open_weights(tmp_path / "a")


def test_what_is_missing_or_twice_is_told(tmp_path):
    with pytest.raises(WeightsError, match="no weights here"):
        open_weights(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="none"):
        open_weights(tmp_path / "empty")
    folder = shards(tmp_path / "a")
    save_file(ODD, folder / "model-00001-of-00003.safetensors")
    with pytest.raises(WeightsError, match="stand in two files"):
        open_weights(folder)


@pytest.mark.parametrize("damage", ["short", "text", "header"])
def test_damaged_files_are_told(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    save_file(ODD, path)
    data = path.read_bytes()
    path.write_bytes({"short": data[:-3], "text": b"hello", "header": data[:8] + b"x" + data[9:]}[damage])
    with pytest.raises(WeightsError, match="cannot read the weights"):
        open_weights(path)


def test_a_file_that_shrinks_in_between_is_told(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(ODD, path)
    one = open_weights(path).stored["matrix"]
    path.write_bytes(path.read_bytes()[: one.span[0] + 8])
    with pytest.raises(WeightsError, match="matrix is cut short"):
        one.whole()


def test_nothing_half_written_stays(tmp_path):
    def numbers():
        yield torch.ones(2, 2)
        raise WeightsError("in the middle")

    with pytest.raises(WeightsError, match="in the middle"):
        write_stream(tmp_path / "a.safetensors", [made("a", torch.float32, (4, 2), numbers)], {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_seen_ahead(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr("cinelora.nets.stream.shutil.disk_usage", lambda _: usage)
    asked = []
    planned = made("a", torch.float32, (4, 2), lambda: asked.append(1) or iter([torch.ones(4, 2)]))
    with pytest.raises(RunError, match=r"(?s)no room for a\.safetensors.*--out"):
        write_stream(tmp_path / "new" / "a.safetensors", [planned], {})
    assert not asked


def test_formats_without_sums_are_told_where_they_are_needed(tmp_path):
    one = stream.Stored("x", "F4", (2,), tmp_path / "a", (0, 1))
    with pytest.raises(WeightsError, match="number format"):
        _ = one.dtype
