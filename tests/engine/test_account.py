"""The account of memory and of FLOPs, against sums by hand and against real tensors."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from cinelora.engine.account import (
    Account,
    accounting,
    act_out,
    empty_weights,
    fake_mode,
    faked,
    give_up_weights,
    offloading,
    without_weights,
)
from cinelora.engine.flops import CARDS, Flops, card_named, tokens_of


class Block(nn.Module):
    def __init__(self, width: int = 64):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        q, k, v = (one(x).unflatten(-1, (4, -1)).transpose(1, 2) for one in (self.q, self.k, self.v))
        return x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def test_bytes_are_counted_until_nobody_holds_them():
    mode, account = fake_mode(), Account()
    with accounting(account, mode):
        kept = torch.empty(1000, dtype=torch.float32)  # 4,000 bytes: 8 pieces of 512
        passing = torch.empty(256)
        assert account.now == 4096 + 1024
        view = kept[10:]
        assert account.now == 4096 + 1024
        del passing
        assert account.now == 4096
        del kept, view
    assert account.now == 0
    assert account.most == 4096 + 1024


def test_fake_and_real_tensors_take_the_same():
    """A training step: the same account, whether numbers are there or not."""
    found = []
    for fake in (True, False):
        torch.manual_seed(0)
        net, mode = Net(), fake_mode()
        x = torch.randn(2, 32, 64)
        if fake:
            give_up_weights({"net": net}, mode)
            x = faked(x, mode)
            account = act_out(
                lambda net=net, x=x: torch.autograd.backward([net(x).sum()]), list(net.parameters()), mode
            )
        else:
            account = Account()
            account.hold(list(net.parameters()))
            with account:
                torch.autograd.backward([net(x).sum()])
        found.append(account.most)
    assert found[0] == pytest.approx(found[1], rel=0.1)  # the CPU's own attention keeps other sums


def test_flops_by_hand():
    """4 linear layers of 64 x 64 on 64 tokens, and attention 4 B N L L K; backward twice both, as all is learned."""
    net, mode = Block(), fake_mode()
    give_up_weights({"net": net}, mode)
    x = faked(torch.zeros(2, 32, 64), mode).requires_grad_(True)
    account = act_out(lambda: torch.autograd.backward([net(x).sum()]), list(net.parameters()), mode)
    linear, attention = 4 * 2 * 64 * 64 * 64, 4 * 2 * 4 * 32 * 32 * 16
    assert account.flops.other == 3 * linear
    assert account.flops.attention == 3 * attention


def test_counting_changes_no_number():
    torch.manual_seed(0)
    net, x = Net(), torch.randn(2, 32, 64)
    net(x).square().sum().backward()
    plain = [weight.grad.clone() for weight in net.parameters()]
    net.zero_grad()
    with Flops() as count:
        net(x).square().sum().backward()
    assert all(torch.equal(weight.grad, one) for weight, one in zip(net.parameters(), plain, strict=True))
    assert count.attention == 3 * 3 * 4 * 2 * 4 * 32 * 32 * 16
    assert count.total == count.attention + count.other


def test_frozen_weights_have_no_gradient_to_count():
    torch.manual_seed(0)
    net = Net().requires_grad_(False)
    x = torch.randn(2, 32, 64, requires_grad=True)
    with Flops() as count:
        net(x).sum().backward()
    assert count.other == 3 * 2 * 4 * 2 * 64 * 64 * 64


def test_offloading_lets_activations_go():
    mode, net = fake_mode(), Net()
    give_up_weights({"net": net}, mode)
    x = faked(torch.zeros(64, 512, 64), mode)

    def work(hooks):
        with hooks:
            held = net(x)
        account_at.append(account.now)
        torch.autograd.backward([held.sum()])

    account_at: list[int] = []
    for hooks in (offloading(least_bytes=1 << 60), offloading(least_bytes=1024)):
        account = Account()
        with accounting(account, mode):
            work(hooks)
        net.zero_grad()
    assert account_at[1] < account_at[0] / 4


def test_networks_open_without_weights():
    mode = fake_mode()
    with without_weights(mode):
        net = nn.Linear(1 << 20, 1 << 14).to(torch.bfloat16)  # 34 GB if it were real
    assert net.weight.dtype == torch.bfloat16
    empty_weights({"net": net})
    assert net.weight.is_meta
    give_up_weights({"net": net}, mode)
    assert net.weight.device.type == "cpu"
    assert nn.Linear(2, 2).to(torch.float64).weight.dtype == torch.float64  # torch's own way is back


@pytest.mark.parametrize(
    ("said", "card"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("24GB", None),
        ("180GB", None),
    ],
)
def test_cards_by_their_names(said, card):
    found = card_named(said)
    assert (found.name if found else None) == card
    assert len({one.name for one in CARDS}) == len(CARDS)


def test_tokens_of_a_patch():
    net = nn.Identity()
    net.config = type("Config", (), {"patch_size": (1, 2, 2)})()
    latents = torch.empty(1, 16, 21, 60, 104)
    assert tokens_of({"net": net}, latents) == 32760
    net.config.patch_size, net.config.patch_size_t = 2, None
    assert tokens_of({"net": net}, latents) == 32760
    assert tokens_of({"net": nn.Identity()}, latents) == 21 * 60 * 104
