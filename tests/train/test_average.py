import pytest
import torch

from cinelora.base.errors import WeightsError
from cinelora.train.average import Average


def test_the_mean_follows_the_formula_and_keeps_fp32():
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.bfloat16))
    average, wanted = Average({"p": parameter}, 0.5), torch.tensor([1.0, 2.0])
    for step in range(1, 40):
        with torch.no_grad():
            parameter.add_(0.25)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * parameter.detach().float()
    assert average.tensors["p"].dtype == torch.float32
    assert torch.allclose(average.tensors["p"], wanted, rtol=1e-5)


def test_applied_puts_the_parameters_back_bit_for_bit_also_after_an_error():
    parameter = torch.nn.Parameter(torch.tensor([0.1, 0.7]))
    before, average = parameter.detach().clone(), Average({"p": parameter}, 0.9)
    average.load({"p": torch.tensor([5.0, 6.0])})

    def fail():
        with average.applied():
            assert parameter.tolist() == [5.0, 6.0]
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(parameter, before)


def test_long_lists_of_misfits_are_folded():
    average = Average({f"p{k}": torch.nn.Parameter(torch.zeros(2)) for k in range(14)}, 0.9)
    with pytest.raises(WeightsError, match="and 4 more"):
        average.load({})
