"""Compiled blocks and attention kernels: the same numbers, few graphs, clear refusals."""

import pytest
import torch
from torch import nn

from cinelora.base.errors import RecipeError, RunError
from cinelora.engine.attention import attention, check_attention
from cinelora.engine.compiled import compile_blocks, key_of
from cinelora.engine.recompute import keep, recompute
from engine.test_account import Net


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def gradients(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    net.zero_grad()
    net(x).square().sum().backward()
    return [weight.grad.clone() for weight in net.parameters()]


@pytest.mark.parametrize("twice", [False, True])
def test_compiled_blocks_give_the_same(twice):
    torch.manual_seed(0)
    net, x = Net(), torch.randn(2, 16, 64)
    plain = gradients(net, x)
    compile_blocks({"net": net}, limit=4, backend="aot_eager")
    if twice:
        recompute({"net": net})
    for found, wanted in zip(gradients(net, x), plain, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    keep({"net": net})


def test_blocks_of_a_kind_share_their_graph_and_shapes_are_bounded(caplog):
    net = Net()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    shapes = compile_blocks({"net": net}, limit=2, backend=backend)
    with torch.no_grad(), caplog.at_level("WARNING", logger="cinelora"):
        for length in (4, 6, 8, 10, 4, 6):
            net(torch.randn(1, length, 64))
    assert len(graphs) == 2  # not three blocks times five shapes
    assert [len(known) for known in shapes.known.values()] == [2]
    assert len([r for r in caplog.records if "compile_limit" in r.getMessage()]) <= 1


def test_names_of_weights_stay():
    net = Net()
    names = list(net.state_dict())
    compile_blocks({"net": net}, limit=2, backend="eager")
    assert list(net.state_dict()) == names


def test_a_key_tells_shapes_and_formats_apart():
    x = torch.zeros(1, 2)
    assert key_of(((x,), {})) == key_of(((x + 1,), {}))
    others = [((x.double(),), {}), ((x.view(2, 1),), {}), ((x, 3), {}), ((), {"x": x})]
    assert len({key_of(((x,), {})), *map(key_of, others)}) == 5


def test_kernels_that_a_cpu_has_not_are_refused():
    for kernel in ("efficient", "cudnn"):
        with pytest.raises(RecipeError, match="needs a GPU"):
            check_attention(kernel, torch.device("cpu"))
    for kernel in ("auto", "flash", "math"):
        check_attention(kernel, torch.device("cpu"))


def test_the_kernel_is_the_one_that_was_asked_for():
    q = torch.randn(1, 2, 8, 16, requires_grad=True)
    names = []
    for kernel in ("flash", "math"):
        with attention(kernel):
            names.append(torch.nn.functional.scaled_dot_product_attention(q, q, q).grad_fn.name())
    assert "Flash" in names[0]
    assert "Flash" not in names[1]


def test_a_kernel_that_cannot_is_told():
    q = torch.randn(1, 2, 8, 16)
    with pytest.raises(RunError, match="cannot do what this network asks"), attention("flash"):
        raise RuntimeError("No available kernel. Aborting execution.")
    with pytest.raises(RuntimeError, match="other"), attention("flash"):
        raise RuntimeError("other")
    assert q.isfinite().all()
