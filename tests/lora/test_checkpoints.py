import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cinelora.base.errors import RunError
from cinelora.lora.checkpoints import adapter_keys, write_weights


def test_keys_of_adapters_are_found_in_order():
    keys = [
        "model.time_embed.0.weight",
        "model.q.lora_b.weight",
        "model.q.lora_a.weight",
        "model.attn2.alpha",
        "lora_unet_blocks_0.lora_down.weight",
        "lora_unet_blocks_0.alpha",
        "k.lora_magnitude_vector",
        "exploration.weight",
        "colora_net.weight",
    ]
    assert adapter_keys(keys) == [keys[1], keys[2], keys[4], keys[5], keys[6]]


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_what_is_written_is_read_back(tmp_path, ending):
    whole = torch.arange(12.0).view(3, 4)
    tensors = {"a": whole, "turned": whole.T, "part": whole[1], "half": whole.half(), "n": torch.tensor(3)}
    path = tmp_path / f"x.{ending}"
    write_weights(path, tensors, {"made": "so"} if ending == "safetensors" else None)
    found = load_file(path) if ending == "safetensors" else torch.load(path, weights_only=True)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], one) and found[key].dtype == one.dtype for key, one in tensors.items())
    if ending == "safetensors":
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"made": "so"}
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_pieces_of_large_tensors_make_small_files(tmp_path, ending):
    whole = torch.zeros(1_000_000)
    write_weights(tmp_path / f"x.{ending}", {"a": whole[:10], "b": whole[10:30].view(4, 5)})
    assert (tmp_path / f"x.{ending}").stat().st_size < 10_000


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        write_weights(tmp_path / "file" / "x.ckpt", {"a": torch.ones(1)})
