"""Which files of a folder are a network's weights: safetensors where there are some, else torch's own."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cinelora.base.errors import WeightsError
from cinelora.nets.layouts import NativeLayout, OriginalLayout
from cinelora.nets.weights import Base

LAYOUTS = (NativeLayout("plain", "a."),)
TENSORS = {"a.weight": torch.arange(3.0), "b.weight": torch.ones(2)}


def network(folder: Path) -> Path:
    (folder / "net").mkdir()
    (folder / "net" / "config.json").write_text("{}")
    return folder / "net"


def component(folder: Path):
    return Base(str(folder)).component("net", LAYOUTS)


def test_torch_files_are_read_where_there_are_no_others(tmp_path):
    net = network(tmp_path)
    torch.save(TENSORS, net / "pytorch_model.bin")
    torch.save({}, net / "training_args.bin")
    found = component(tmp_path)
    assert [file.name for file in found.files] == ["pytorch_model.bin"]
    assert found.tensors().keys() == TENSORS.keys()
    assert {name: one.shape for name, one in found.outline().items()} == {n: one.shape for n, one in TENSORS.items()}
    save_file(TENSORS, net / "model.safetensors")
    assert [file.name for file in component(tmp_path).files] == ["model.safetensors"]


def test_torch_files_in_pieces_have_an_index(tmp_path):
    net, pieces = network(tmp_path), {}
    for number, (name, tensor) in enumerate(TENSORS.items()):
        pieces[name] = f"pytorch_model-0000{number + 1}-of-00002.bin"
        torch.save({name: tensor}, net / pieces[name])
    with pytest.raises(WeightsError, match="several with an index"):
        component(tmp_path)
    (net / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": pieces}))
    assert all(torch.equal(component(tmp_path).tensors()[name], one) for name, one in TENSORS.items())


def test_a_folder_without_weights_is_told(tmp_path):
    network(tmp_path)
    with pytest.raises(WeightsError, match="one safetensors file") as caught:
        component(tmp_path)
    assert caught.value.problems[0].found == "none"


@pytest.mark.parametrize(
    "held", [{"a.weight": "text"}, {"state_dict": [1]}, [1, 2], {"a.weight": {"b": torch.ones(1)}}]
)
def test_files_of_other_things_than_tensors_are_told(held, tmp_path):
    torch.save(held, network(tmp_path) / "pytorch_model.bin")
    for read in (component(tmp_path).outline, component(tmp_path).tensors):
        with pytest.raises(WeightsError, match="cannot read the weights") as caught:
            read()
        assert "other things than tensors" in caught.value.problems[0].found


def test_an_index_names_files_of_its_own_folder(tmp_path):
    net = network(tmp_path)
    save_file(TENSORS, tmp_path / "elsewhere.safetensors")
    index = net / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(TENSORS, "../elsewhere.safetensors")}))
    with pytest.raises(WeightsError, match="outside its folder"):
        component(tmp_path)
    for broken in ({"weight_map": ["a"]}, {"weight_map": None}, {}):
        index.write_text(json.dumps(broken))
        with pytest.raises(WeightsError, match="names no weight files"):
            component(tmp_path)


def test_files_of_old_torch_are_read(tmp_path):
    torch.save(TENSORS, network(tmp_path) / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    found = component(tmp_path).tensors()
    assert all(torch.equal(found[name], one) for name, one in TENSORS.items())


class Command:
    """What a pickle runs when it is read by who trusts it."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("modern", [True, False])
def test_code_in_a_file_is_neither_run_nor_advised(tmp_path, modern):
    held = {**TENSORS, "c": Command(tmp_path / "taken")}
    torch.save(held, network(tmp_path) / "pytorch_model.bin", _use_new_zipfile_serialization=modern)
    with pytest.raises(WeightsError, match="never run") as error:
        component(tmp_path).tensors()
    assert "weights_only" not in str(error.value)
    assert not (tmp_path / "taken").exists()


@pytest.mark.parametrize("held", ["hello", ""])
def test_files_of_something_else_are_told(tmp_path, held):
    (network(tmp_path) / "pytorch_model.bin").write_text(held)
    with pytest.raises(WeightsError, match="cannot read the weights"):
        component(tmp_path).tensors()


def test_names_that_are_no_text_are_told(tmp_path):
    torch.save({1: torch.ones(1)}, network(tmp_path) / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="other things than tensors by name"):
        component(tmp_path).tensors()


def test_keys_that_no_table_knows_are_told_with_their_file(tmp_path):
    save_file({"old.weight": torch.ones(1), "odd.weight": torch.ones(1)}, network(tmp_path) / "model.safetensors")
    layout = OriginalLayout("original", [("old", "new")], "old.")
    with pytest.raises(WeightsError, match="odd.weight") as error:
        Base(str(tmp_path)).component("net", (layout,)).tensors()
    assert error.value.problems[0].where == str(tmp_path / "net" / "model.safetensors")
