import copy

import pytest
import torch

from cinelora.base.errors import RunError, WeightsError
from cinelora.contracts.roles import Player
from cinelora.train.optim import Learner, clip_limit, make_optimizer
from cinelora.train.options import TrainOptions
from cinelora.train.schedules import factor


def learner(**options) -> Learner:
    parameters = {"vector": torch.nn.Parameter(torch.ones(3)), "matrix": torch.nn.Parameter(torch.ones(2, 3))}
    return Learner(Player("adapter", parameters), TrainOptions(**options))


def learn(one: Learner, steps: int, *, lr: float = 0.1) -> None:
    for number in range(steps):
        one.clear()
        sum((p**2 * (number + 1)).sum() for p in one.gradients()).backward()
        one.clip(None, number + 1)
        one.step(lr, None, number + 1)


def test_a_player_may_have_a_rate_of_its_own():
    parameters = {"one": torch.nn.Parameter(torch.ones(2, 3))}
    assert Learner(Player("critic", parameters, lr=1e-6), TrainOptions(lr=1e-4)).lr == 1e-6
    assert Learner(Player("critic", parameters), TrainOptions(lr=1e-4)).lr == 1e-4


def test_a_player_may_have_a_schedule_and_no_average():
    options = TrainOptions(lr=0.5, schedule="cosine", warmup_steps=3, ema_decay=0.9)
    parameters = {"one": torch.nn.Parameter(torch.ones(2, 3))}
    own = Learner(Player("critic", parameters, schedule="linear", warmup_steps=0, averaged=False), options)
    assert [own.rate(made, 4) for made in range(4)] == pytest.approx([0.5, 0.375, 0.25, 0.125])
    assert own.average is None
    like = Learner(Player("generator", parameters), options)
    assert [like.rate(made, 9) for made in range(9)] == [0.5 * factor(options, made, 9) for made in range(9)]
    assert like.average is not None


def test_parts_in_full_have_a_rate_of_their_own_and_keep_their_state(tmp_path):
    def mixed(**options):
        names = ("lora", "full.matrix", "full.vector")
        shapes = ((2, 3), (2, 3), (3,))
        parameters = {name: torch.nn.Parameter(torch.ones(shape)) for name, shape in zip(names, shapes, strict=True)}
        player = Player("adapter", parameters, whole=frozenset(names[1:]))
        return Learner(player, TrainOptions(lr=0.5, weight_decay=0.25, **options))

    one = mixed(lr_full=0.125)
    learn(one, 1, lr=0.4)  # as a schedule would have it
    moved = [float((1 - p).detach().mean()) for p in one.gradients()]
    rates = [0.4, 0.1, 0.1]
    decays = [0.25, 0.25, 0.0]
    # The first step of Adam is as long as the rate.
    assert moved == pytest.approx([rate * (1 + decay) for rate, decay in zip(rates, decays, strict=True)], rel=1e-5)
    alike = mixed()
    learn(alike, 1, lr=0.4)
    assert float((1 - alike.gradients()[2]).detach().mean()) == pytest.approx(0.4)

    torch.save(one.state(), tmp_path / "state.pt")
    other = mixed(lr_full=0.0625)
    other.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert sorted(group["share"] for group in other.optimizer.param_groups) == [0.125, 0.125, 1.0], "the recipe's"


def test_parameters_below_fp32_are_refused_by_name():
    half = {"a": torch.nn.Parameter(torch.ones(2).bfloat16())}
    with pytest.raises(RunError, match=r"a \(torch.bfloat16\)"):
        make_optimizer(half, TrainOptions())
    with pytest.raises(RunError, match="no parameter"):
        make_optimizer({}, TrainOptions())


def test_options_reach_the_optimizer_and_its_state_is_fp32():
    one = learner(betas=(0.7, 0.8), eps=1e-5, weight_decay=0.25)
    learn(one, 1)
    groups = {len(g["params"][0].shape): g for g in one.optimizer.param_groups}
    assert (groups[2]["weight_decay"], groups[1]["weight_decay"]) == (0.25, 0.0)
    assert all((g["betas"], g["eps"], g["lr"]) == ((0.7, 0.8), 1e-5, 0.1) for g in groups.values())
    assert {v.dtype for name, state in one.state().items() if name for v in state.values()} == {torch.float32}


def test_clipping_measures_all_parameters_together():
    one = learner(clip_norm=2.0)
    for p in one.gradients():
        p.grad = torch.full_like(p, 4.0)
    assert one.clip(None, 1) == pytest.approx(12.0)
    assert sum(p.grad.square().sum() for p in one.gradients()).sqrt().item() == pytest.approx(2.0, rel=1e-5)
    off = learner(clip_norm=0)
    for p in off.gradients():
        p.grad = torch.full_like(p, 4.0)
    assert off.clip(None, 1) == pytest.approx(12.0)
    assert all((p.grad == 4.0).all() for p in off.gradients())


def test_the_limit_falls_in_a_straight_line_and_outliers_are_shortened_afterwards():
    rule = {"clip_norm": 2.0, "start_ratio": 3.0, "start_steps": 4}
    assert [clip_limit(step, 1e9, **rule) for step in range(5)] == [6.0, 5.0, 4.0, 3.0, 2.0]
    assert [clip_limit(5, norm, **rule) for norm in (1.0, 10.0, 16.0, 20.0, 1e9)] == [2.0, 2.0, 0.25, 0.2, 0.2]
    assert clip_limit(7, 1e9, clip_norm=2.0) == 2.0
    assert clip_limit(0, 1e9, clip_norm=2.0) == 2.0
    assert clip_limit(5, float("nan"), **rule) == 2.0
    assert clip_limit(0, 1.0, clip_norm=0.0) == float("inf")


def test_a_learner_clips_by_the_steps_own_limit():
    one = learner(clip_norm=1.0, clip_norm_start_ratio=3.0, clip_norm_start_steps=4)
    for number, norm in ((1, 3.0), (3, 2.0), (5, 1.0), (6, 0.1)):
        for p in one.gradients():
            p.grad = torch.full_like(p, 4.0)
        assert one.clip(None, number) == pytest.approx(12.0)
        assert sum(p.grad.square().sum() for p in one.gradients()).sqrt().item() == pytest.approx(norm, rel=1e-5)


def test_state_goes_by_name_and_rates_stay_those_of_the_run():
    one = learner()
    learn(one, 3)
    other = learner(betas=(0.5, 0.6))
    other.load_state(copy.deepcopy(one.state()))
    for name, state in ((name, state) for name, state in one.state().items() if name):
        assert all(torch.equal(other.state()[name][k], v) for k, v in state.items())
    assert other.optimizer.param_groups[0]["betas"] == (0.5, 0.6)


def two_experts(**options) -> Learner:
    """A player with two experts' parameters, of which a step may ask one alone."""
    rng = torch.Generator().manual_seed(0)
    names = ("high.matrix", "high.vector", "low.matrix", "low.vector")
    shapes = ((64, 80), (3,), (64, 80), (3,))
    parameters = {
        n: torch.nn.Parameter(torch.randn(shape, generator=rng)) for n, shape in zip(names, shapes, strict=True)
    }
    return Learner(Player("generator", parameters), TrainOptions(clip_norm=2.0, **options))


def ask(one: Learner, experts: tuple[str, ...], number: int, lr: float) -> float:
    one.clear()
    asked = [p for name, p in one.parameters.items() if name.startswith(experts)]
    if asked:
        sum((p**2 * number).sum() for p in asked).backward()
    norm = one.clip(None, number)
    one.step(lr, None, number)
    return norm


@pytest.mark.parametrize(
    "options", [{"weight_decay": 0.1}, {"optimizer": "adamw_8bit"}, {"optimizer": "prodigy", "lr": 1.0}]
)
def test_what_was_not_asked_stays_and_goes_on_from_its_own_state(options, tmp_path):
    """The low expert learns in steps 2 and 4 alone; saved after 3, both go on as if nothing had been."""
    turns, lr = [("high",), ("low",), ("high",), ("high", "low"), ()], options.get("lr", 0.01)
    whole, first = two_experts(**options), two_experts(**options)
    for number, experts in enumerate(turns, 1):
        before = {name: p.detach().clone() for name, p in whole.parameters.items()}
        norm = ask(whole, experts, number, lr)
        grads = [p.grad for name, p in whole.parameters.items() if name.startswith(experts) and experts]
        assert (norm > 0) == bool(experts)
        if experts:
            assert torch.stack([grad.norm() for grad in grads]).norm() <= 2.0 + 1e-4
        moved = {name for name, p in whole.parameters.items() if not torch.equal(p, before[name])}
        assert moved == {name for name in before if experts and name.startswith(experts)}
    assert {name for name in two_experts(**options).state() if name} == set()
    for number, experts in enumerate(turns[:1], 1):
        ask(first, experts, number, lr)
    assert {name.partition(".")[0] for name in first.state() if name} == {"high"}
    torch.save(first.state(), tmp_path / "state.pt")
    second = two_experts(**options)
    with torch.no_grad():
        for mine, other in zip(second.gradients(), first.gradients(), strict=True):
            mine.copy_(other)
    second.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    for number, experts in list(enumerate(turns, 1))[1:]:
        ask(second, experts, number, lr)
    assert all(torch.equal(a, b) for a, b in zip(second.gradients(), whole.gradients(), strict=True))


def test_a_scaled_step_in_which_nothing_was_asked_makes_nothing():
    one, scaler = two_experts(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    assert one.clip(scaler, 1) == 0.0
    one.step(0.1, scaler, 1)
    assert scaler.get_scale() == 1024.0
    assert {name for name in one.state() if name} == set()


def test_state_of_other_parameters_is_refused():
    one = learner()
    learn(one, 1)
    state = one.state()
    with pytest.raises(WeightsError, match="matrix"):
        learner().load_state({**state, "matrix": state["vector"]})
    with pytest.raises(WeightsError, match="ghost"):
        learner().load_state({**state, "ghost": state["vector"]})
    fewer = {"groups": state[""]["groups"][:1]}
    with pytest.raises(WeightsError, match="other groups"):
        learner().load_state({**state, "": fewer})


def test_average_follows_the_steps():
    one = learner(ema_decay=0.5)
    learn(one, 1)
    wanted = {n: 2 / 11 * torch.ones_like(p) + 9 / 11 * p.detach() for n, p in one.parameters.items()}
    assert all(torch.allclose(one.average.tensors[n], w) for n, w in wanted.items())
    assert learner().average is None


def big_learner(**options) -> Learner:
    """Parameters large enough that 8-bit optimizers keep 8 bits of them."""
    rng = torch.Generator().manual_seed(0)
    parameters = {
        "matrix": torch.nn.Parameter(torch.randn(64, 80, generator=rng)),
        "vector": torch.nn.Parameter(torch.ones(3)),
    }
    return Learner(Player("adapter", parameters), TrainOptions(clip_norm=0, **options))


EVERY = [
    {"optimizer": "adamw", "weight_decay": 0.1},
    {"optimizer": "adam", "weight_decay": 0.1},
    {"optimizer": "adamw_8bit", "weight_decay": 0.1},
    {"optimizer": "adam_8bit"},
    {"optimizer": "prodigy", "lr": 1.0, "prodigy_bias_correction": True, "prodigy_safeguard_warmup": True},
    {"optimizer": "prodigy", "lr": 1.0, "prodigy_decoupled": False, "prodigy_beta3": 0.9, "weight_decay": 0.1},
]


@pytest.mark.parametrize("options", EVERY, ids=lambda o: "-".join(map(str, o.values())))
def test_every_optimizer_goes_on_exactly_from_its_state(options, tmp_path):
    lr = options.get("lr", 0.01)
    whole, first = big_learner(**options), big_learner(**options)
    start = [p.detach().clone() for p in whole.gradients()]
    learn(whole, 5, lr=lr)
    learn(first, 3, lr=lr)
    torch.save(first.state(), tmp_path / "state.pt")
    second = big_learner(**options)
    with torch.no_grad():
        for mine, other in zip(second.gradients(), first.gradients(), strict=True):
            mine.copy_(other)
    second.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    for number in (3, 4):
        second.clear()
        sum((p**2 * (number + 1)).sum() for p in second.gradients()).backward()
        second.step(lr, None, number + 1)
    for found, wanted, was in zip(second.gradients(), whole.gradients(), start, strict=True):
        assert torch.equal(found, wanted)
        assert not torch.equal(found, was)


def test_eight_bits_are_eight_bits():
    one = big_learner(optimizer="adamw_8bit")
    learn(one, 1)
    assert one.state()["matrix"]["state1"].dtype == torch.uint8


def test_adam_adds_the_decay_to_the_gradient_and_adamw_does_not():
    """After the first step Adam's move is lr times the sign of (gradient + decay w), AdamW's that of the gradient."""
    for kind, moved in (("adam", 0.1), ("adamw", -0.1)):
        parameter = torch.nn.Parameter(torch.full((1, 1), 2.0))
        one = Learner(
            Player("adapter", {"w": parameter}), TrainOptions(optimizer=kind, weight_decay=1.0, eps=1e-12, clip_norm=0)
        )
        parameter.grad = torch.full((1, 1), -1.0)
        one.step(0.1, None, 1)
        decayed = 2.0 * (1 - 0.1) if kind == "adamw" else 2.0
        assert float(parameter) == pytest.approx(decayed - moved)


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("cinelora.train.optim.find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"cinelora\[gpu\]"):
        big_learner(optimizer="adam_8bit")
    with pytest.raises(RunError, match=r"cinelora\[optimizers\]"):
        big_learner(optimizer="prodigy", lr=1.0)


def test_prodigy_at_a_rate_that_learns_nothing_is_refused():
    with pytest.raises(ValueError, match="lr = 1"):
        TrainOptions(optimizer="prodigy")
