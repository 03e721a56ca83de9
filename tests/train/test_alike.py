import torch

from cinelora.train.alike import sums_of


def test_sums_tell_tensors_apart_by_any_bit_and_any_swap(monkeypatch):
    tensor = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    swapped, nudged, zeros = tensor.clone(), tensor.clone(), torch.zeros(3, 50)
    swapped[0, [4, 9]] = swapped[0, [9, 4]]
    nudged[2, 49] = torch.nextafter(nudged[2, 49], torch.tensor(9.0))
    found = sums_of({"a": tensor, "b": swapped, "c": nudged, "d": zeros, "e": -zeros})
    assert len(set(found.tolist())) == 5
    assert sums_of({"a": tensor.clone()})[0] == found[0]
    monkeypatch.setattr("cinelora.train.alike._PIECE", 7)
    assert torch.equal(sums_of({"a": tensor, "b": swapped, "c": nudged, "d": zeros, "e": -zeros}), found)
