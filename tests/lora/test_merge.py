import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn

from cinelora.base.errors import WeightsError
from cinelora.lora.merge import (
    Change,
    changed,
    changes_of,
    merged,
    refuse_not_finite,
    refuse_sizes,
    sum_format,
    sum_of,
)


def pair(rank=2, inputs=3, outputs=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator)


SPELLINGS = [
    ("lora_a.weight", "lora_b.weight"),
    ("lora_A.weight", "lora_B.weight"),
    ("lora_A.default.weight", "lora_B.default.weight"),
    ("lora_down.weight", "lora_up.weight"),
]


@pytest.mark.parametrize(("down", "up"), SPELLINGS)
def test_every_spelling_is_read(down, up):
    a, b = pair()
    one, other = changes_of({f"x.0.q.{up}": b, f"x.0.q.{down}": a, f"y.{down}": a, f"y.{up}": 0 * b})
    assert (one.module, one.rank, one.idle, one.alpha) == ("x.0.q", 2, False, None)
    assert torch.equal(one.a, a)
    assert torch.equal(one.b, b)
    assert other.idle


def test_alpha_and_lengths_come_along():
    a, b = pair()
    told = {"x.lora_down.weight": a, "x.lora_up.weight": b, "x.alpha": torch.tensor(8.0)}
    assert changes_of(told)[0].alpha == 8
    lengths = torch.ones(4)
    (one,) = changes_of({"x.lora_A.weight": a, "x.lora_B.weight": b, "x.lora_magnitude_vector": lengths})
    assert one.magnitude is lengths
    assert not one.idle


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "holds no adapter"),
        ({"x.weight": pair()[0]}, "1 of 1 keys are no adapter's"),
        ({"x.lora_a.weight": pair()[0]}, "x has no pair"),
        ({"x.lora_a.weight": pair()[0], "x.lora_b.weight": pair(rank=3)[1]}, "do not fit each other"),
        ({"x.lora_a.weight": torch.ones(2, 3, 1, 1), "x.lora_b.weight": pair()[1]}, "do not fit each other"),
    ],
)
def test_torn_and_strange_files_are_refused(tensors, message):
    with pytest.raises(WeightsError, match=message):
        changes_of(tensors)


def test_all_that_is_wrong_with_a_file_is_told_at_once():
    with pytest.raises(WeightsError) as caught:
        changes_of({"x.lora_a.weight": pair()[0], "y.lora_b.weight": pair()[1], "z.weight": pair()[0]})
    assert len(caught.value.problems) == 3


@given(st.floats(-3, 3), st.integers(0, 20))
def test_the_sum_is_w_plus_s_b_a(strength, seed):
    a, b = pair(seed=seed)
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed + 100))
    found = changed(weight, Change("x", a, b), strength)
    torch.testing.assert_close(found, weight + strength * b @ a)


@pytest.mark.parametrize("dora", [False, True])
def test_merging_is_what_peft_does(dora):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5))
    weight = net[0].weight.detach().clone()
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["0"], use_dora=dora, init_lora_weights=False)
    model = get_peft_model(net, config)
    layer = model.base_model.model[0]
    if dora:
        layer.lora_magnitude_vector["default"].weight.data *= 1.3
    a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
    lengths = layer.lora_magnitude_vector["default"].weight.detach() if dora else None
    x = torch.randn(7, 6)
    wanted = model(x)
    found = x @ changed(weight, Change("0", a, b, magnitude=lengths), 1.5).T + layer.get_base_layer().bias
    torch.testing.assert_close(found, wanted)


def test_other_weights_stay_as_they_are_and_formats_widen():
    a, b = pair()
    base = {"x.weight": torch.ones(4, 3, dtype=torch.float16), "y.weight": torch.ones(2, dtype=torch.float16)}
    base["number"] = torch.tensor(3)
    found = merged(base, {"x.weight": (Change("x", a, b), 1.0)})
    assert found["y.weight"] is base["y.weight"]
    assert found["x.weight"].dtype == torch.float32
    half = Change("x", a.half(), b.half())
    assert merged(base, {"x.weight": (half, 1.0)})["x.weight"].dtype == torch.float16
    tiny = {"x.weight": torch.ones(4, 3).to(torch.float8_e4m3fn)}
    assert torch.equal(merged(tiny, {"x.weight": (half, 0.0)})["x.weight"], torch.ones(4, 3, dtype=torch.float16))
    low = merged(base, {"x.weight": (Change("x", a, b), 1.0)}, dtype=torch.bfloat16)
    assert {key: one.dtype for key, one in low.items()} == {
        "x.weight": torch.bfloat16,
        "y.weight": torch.bfloat16,
        "number": torch.int64,
    }
    assert torch.equal(base["x.weight"], torch.ones(4, 3, dtype=torch.float16))


def test_weights_of_another_size_are_refused():
    a, b = pair()
    with pytest.raises(WeightsError, match=r"(?s)another size.*\(4, 5\).*\(4, 3\)"):
        merged({"x.weight": torch.ones(4, 5)}, {"x.weight": (Change("x", a, b), 1.0)})


@given(st.integers(0, 30), st.integers(1, 5), st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_some_rows_are_those_of_the_whole(seed, count, dtype):
    a, b = pair(seed=seed)
    added = [(Change("x", a, b), 0.7), (Change("x", *pair(rank=3, seed=seed + 50)), -1.5)]
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed + 100)).to(dtype)
    whole = sum_of(weight, added, to=dtype)
    pieces = [sum_of(weight[k : k + count], added, to=dtype, first=k) for k in range(0, 4, count)]
    torch.testing.assert_close(torch.cat(pieces), whole)
    wanted = weight.double() + sum(s * one.b.double() @ one.a.double() for one, s in added)
    assert (whole.to(dtype).double() - wanted).abs().max() <= torch.finfo(dtype).eps * wanted.abs().max()


@given(st.integers(0, 200), st.floats(-4, 4), st.sampled_from([1e-4, 1.0, 1e3]))
def test_what_was_added_can_be_taken_out_to_one_unit_in_the_last_place(seed, strength, size):
    a, b = pair(seed=seed)
    change = Change("x", a, b * size)
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed + 100))
    there = changed(weight, change, strength)
    back = changed(there, change, -strength)
    largest = torch.maximum(there.abs(), weight.abs())
    unit = torch.nextafter(largest, torch.tensor(float("inf"))) - largest
    assert ((back.double() - weight.double()).abs() <= unit.double()).all()


def test_formats_of_sums():
    a, b = pair()
    both = [(Change("x", a.half(), b.half()), 1.0), (Change("x", a.bfloat16(), b.bfloat16()), 1.0)]
    assert sum_format(torch.float16, both[:1]) == torch.float16
    assert sum_format(torch.float16, both) == torch.float32
    assert sum_format(torch.float8_e4m3fn, both[:1]) == torch.float16


def test_dora_cannot_be_one_of_several():
    a, b = pair()
    added = {"x.weight": [(Change("x", a, b), 1.0), (Change("x", a, b, magnitude=torch.ones(4)), 1.0)]}
    with pytest.raises(WeightsError, match=r"(?s)several adapters, and one of them is DoRA.*lengths"):
        refuse_sizes({"x.weight": (4, 3)}, added)


def test_numbers_that_are_not_finite_are_refused():
    a, b = pair()
    b[0, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"(?s)not finite.*x"):
        refuse_not_finite([Change("x", a, b)], "file")
