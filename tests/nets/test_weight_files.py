"""Which files of a folder are a network's weights: safetensors where there are some, else torch's own."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cinelora.base.errors import WeightsError
from cinelora.nets.layouts import NativeLayout
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
