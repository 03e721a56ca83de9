import torch

from cinelora.base.seeds import numpy_rng, seed_of, torch_rng


def test_same_parts_same_draws_other_parts_other_draws():
    assert seed_of(1, "a") == seed_of(1, "a") != seed_of(1, "b")
    assert 0 <= seed_of("x") < 2**63
    assert numpy_rng(3, "w").random() == numpy_rng(3, "w").random() != numpy_rng(4, "w").random()
    assert torch.equal(torch.randn(4, generator=torch_rng("k")), torch.randn(4, generator=torch_rng("k")))


def test_drawing_leaves_the_global_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    torch.randn(4, generator=torch_rng("k"))
    assert torch.equal(before, torch.get_rng_state())
