import math

import pytest
import torch
from peft.tuners.lora import LoraLayer
from pydantic import ValidationError
from torch import nn

from cinelora.base.errors import RecipeError, WeightsError
from cinelora.base.seeds import torch_rng
from cinelora.families.fake.card import CARD
from cinelora.families.fake.denoise import FakeDenoiser, open_denoiser
from cinelora.lora.inject import attach, inject
from cinelora.lora.options import LoraOptions

VARIANT = CARD.variants["tiny"]
X, T = torch.randn(2, 4, 3, 2, 2, generator=torch_rng("x")), torch.tensor([100.0, 700.0])
TEXT = {"text": torch.randn(2, 6, 8, generator=torch_rng("text"))}


def fake(dtype="fp32"):
    return open_denoiser("embedded", VARIANT, dtype)


def adapt(denoiser, *, seed=0, adapter_name="default", **options):
    return inject(
        denoiser.parts(),
        LoraOptions(**options),
        presets=CARD.lora_presets,
        default_preset=CARD.default_preset,
        seed=seed,
        adapter_name=adapter_name,
    )


def stir(adapters):
    """As if trained: every weight moved a little."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in adapters.parameters().values():
            weight.add_(0.3 * torch.randn_like(weight))


def merged(base: FakeDenoiser, adapters):
    """The base with W + scale B A written into its weights by hand, from the plain file tensors."""
    file = adapters.file()
    with torch.no_grad():
        for module in file.modules():
            weight = base.net.get_submodule(module.removeprefix("transformer.")).weight
            weight += (
                file.scale(module) * file.tensors[f"{module}.lora_B.weight"] @ file.tensors[f"{module}.lora_A.weight"]
            )
    return base


def test_names_shapes_and_formats():
    adapters = adapt(fake("bf16"), rank=4)
    own = adapters.parameters()
    assert list(own)[:2] == [
        "transformer.blocks.0.to_q.lora_A.weight",
        "transformer.blocks.0.to_q.lora_B.weight",
    ]
    assert len(own) == 2 * 2 * 2
    assert {w.dtype for w in own.values()} == {torch.float32}
    assert own["transformer.blocks.1.to_v.lora_A.weight"].shape == (4, 16)
    assert adapters.num_parameters() == 8 * 4 * 16


def test_only_the_adapter_learns():
    denoiser = fake()
    adapters = adapt(denoiser)
    learning = {id(p) for p in denoiser.net.parameters() if p.requires_grad}
    assert learning == {id(p) for p in adapters.parameters().values()}


@pytest.mark.parametrize("options", [{}, {"rslora": True}, {"alpha": 3.0}, {"init": "pissa"}, {"init": "olora"}])
def test_effect_is_scale_times_b_a(options):
    denoiser = fake()
    adapters = adapt(denoiser, rank=4, **options)
    stir(adapters)
    expected = merged(fake(), adapters).predict(X, T, TEXT)
    torch.testing.assert_close(denoiser.predict(X, T, TEXT), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, fake().predict(X, T, TEXT), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "scale"),
    [({}, 1.0), ({"alpha": 2.0}, 0.5), ({"alpha": 2.0, "rslora": True}, 1.0), ({"rslora": True}, 2.0)],
)
def test_scale_of_modules(options, scale):
    facts = adapt(fake(), rank=4, **options).facts()
    assert {module["scale"] for module in facts["modules"].values()} == {scale}
    assert facts["ranks"] == [4]


@pytest.mark.parametrize("init", ["default", "gaussian", "orthogonal", "pissa", "pissa_niter_4", "olora"])
def test_output_at_the_start_is_the_bases_and_the_base_is_untouched(init):
    denoiser = fake()
    adapters = adapt(denoiser, rank=4, init=init)
    torch.testing.assert_close(denoiser.predict(X, T, TEXT), fake().predict(X, T, TEXT), rtol=1e-4, atol=1e-5)
    before = fake().net.state_dict()
    after = {k.replace(".base_layer", ""): v for k, v in denoiser.net.state_dict().items() if "lora_" not in k}
    assert all(torch.equal(after[key], before[key]) for key in before)
    if init in ("pissa", "olora"):
        assert all(b.abs().sum() > 0 for b in adapters.parameters().values())


def test_pissa_takes_the_largest_directions():
    denoiser = fake()
    own = adapt(denoiser, rank=3, init="pissa").parameters()
    weight = fake().net.blocks[0].to_q.weight
    product = own["transformer.blocks.0.to_q.lora_B.weight"] @ own["transformer.blocks.0.to_q.lora_A.weight"]
    left, size, right = torch.linalg.svd(weight)
    torch.testing.assert_close(product, left[:, :3] @ size[:3].diag() @ right[:3], rtol=1e-4, atol=1e-5)


def test_dora_starts_as_the_base_also_in_low_precision():
    denoiser = fake("bf16")
    adapters = adapt(denoiser, dora=True)
    own = adapters.parameters()
    lengths = own["transformer.blocks.0.to_q.lora_magnitude_vector"]
    torch.testing.assert_close(lengths, fake("bf16").net.blocks[0].to_q.weight.float().norm(dim=1))
    out, base = denoiser.predict(X, T, TEXT), fake("bf16").predict(X, T, TEXT)
    assert (out - base).abs().max() <= 0.02 * base.abs().max()


def test_init_depends_on_the_seed_alone():
    one, again, other = (adapt(fake(), seed=s).tensors() for s in (1, 1, 2))
    torch.manual_seed(99)
    key = "transformer.blocks.0.to_q.lora_A.weight"
    assert torch.equal(one[key], again[key])
    assert not torch.equal(one[key], other[key])
    assert not torch.equal(one[key], one["transformer.blocks.1.to_q.lora_A.weight"])


def test_global_randomness_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    adapt(fake())
    assert torch.equal(torch.rand(3), expected)


def test_patterns_give_single_modules_other_sizes():
    adapters = adapt(fake(), rank=4, rank_pattern={r"blocks\.1\..*": 8}, alpha_pattern={r".*to_v": 2.0}, targets="all")
    modules = adapters.facts()["modules"]
    assert modules["transformer.blocks.1.out"] == {"rank": 8, "alpha": 8.0, "scale": 1.0}
    assert modules["transformer.blocks.0.to_v"] == {"rank": 4, "alpha": 2.0, "scale": 0.5}
    assert modules["transformer.blocks.1.to_v"] == {"rank": 8, "alpha": 2.0, "scale": 0.25}
    assert modules["transformer.blocks.0.to_q"] == {"rank": 4, "alpha": 4.0, "scale": 1.0}


class Pair:
    """Two parts of the same network."""

    def __init__(self):
        self.one, self.other = fake().net, fake().net

    def adapt(self, targets, presets=CARD.lora_presets, **options):
        parts = {"one": self.one, "other": self.other}
        found = inject(parts, LoraOptions(targets=targets, **options), presets=presets, default_preset="all")
        return [adapted.key for adapted in found.layers]


def test_a_pattern_must_match_in_some_part_and_a_preset_in_each_that_it_names():
    presets = {"both": r".*to_q", "first": {"one": r".*to_q"}, "lost": {"one": r".*to_q", "other": "nothing"}}
    first = Pair().adapt("first", presets)
    assert first
    assert all(key.startswith("one.") for key in first)
    assert len(Pair().adapt("both", presets)) == 2 * len(first)
    with pytest.raises(RecipeError, match="no linear module of part 'other'"):
        Pair().adapt("lost", presets)
    with pytest.raises(RecipeError, match="adapts nothing in part 'other'"):
        Pair().adapt("first", presets, parts={"other": "lora"})
    with pytest.raises(RecipeError, match="nothing is left to train"):
        Pair().adapt("first", presets, parts={"one": "frozen"})


def test_own_patterns_may_be_of_one_part_alone():
    pair = Pair()
    del pair.other.blocks[1]
    targets = r"blocks\.1\..*to_q"
    assert Pair().adapt(targets) == ["one.blocks.1.to_q", "other.blocks.1.to_q"]
    assert pair.adapt(targets, rank_pattern={r"blocks\.1\..*": 2}, alpha_pattern={r"blocks\.1\..*": 1.0}) == [
        "one.blocks.1.to_q"
    ]
    with pytest.raises(RecipeError, match="matches no linear module of the parts 'one', 'other'"):
        Pair().adapt(targets, rank_pattern={"nothing": 2})
    with pytest.raises(RecipeError, match="adapts nothing in part 'other'"):
        pair.adapt(targets, parts={"other": "lora"})


def test_disabled_and_scaled():
    denoiser = fake()
    adapters = adapt(denoiser, rank=4)
    stir(adapters)
    full, base = denoiser.predict(X, T, TEXT), fake().predict(X, T, TEXT)
    flags = [p.requires_grad for p in adapters.parameters().values()]
    with adapters.disabled():
        assert torch.equal(denoiser.predict(X, T, TEXT), base)
    assert torch.equal(denoiser.predict(X, T, TEXT), full)
    assert [p.requires_grad for p in adapters.parameters().values()] == flags
    with adapters.scaled(0.0):
        torch.testing.assert_close(denoiser.predict(X, T, TEXT), base)
    with adapters.scaled(2.0):
        doubled = adapters.file()
    assert doubled.scale("transformer.blocks.0.to_q") == 1.0
    assert torch.equal(denoiser.predict(X, T, TEXT), full)


def test_disabled_with_a_start_from_the_base():
    denoiser = fake()
    adapters = adapt(denoiser, rank=4, init="pissa")
    stir(adapters)
    full = denoiser.predict(X, T, TEXT)
    with adapters.disabled():
        assert torch.equal(denoiser.predict(X, T, TEXT), fake().predict(X, T, TEXT))
    assert torch.equal(denoiser.predict(X, T, TEXT), full)
    learning = {id(p) for p in denoiser.net.parameters() if p.requires_grad}
    assert learning == {id(p) for p in adapters.parameters().values()}


def test_two_adapters_share_one_base():
    denoiser = fake()
    first = adapt(denoiser, rank=4, adapter_name="generator")
    stir(first)
    with_first = denoiser.predict(X, T, TEXT)
    second = adapt(denoiser, rank=2, adapter_name="critic")
    torch.testing.assert_close(denoiser.predict(X, T, TEXT), fake().predict(X, T, TEXT))
    assert first.parameters().keys() == second.parameters().keys()
    assert not {id(p) for p in first.parameters().values()} & {id(p) for p in second.parameters().values()}
    first.activate()
    assert torch.equal(denoiser.predict(X, T, TEXT), with_first)
    assert isinstance(denoiser.net.blocks[0].to_q, LoraLayer)


def test_parts_in_full_frozen_and_lora():
    class Two:
        def __init__(self):
            self.a, self.b, self.c = (fake("bf16").net for _ in range(3))

    two = Two()
    parts = {"a": two.a, "b": two.b, "c": two.c}
    options = LoraOptions(parts={"b": "full", "c": "frozen"})
    adapters = inject(parts, options, presets=CARD.lora_presets, default_preset="attention")
    own = adapters.parameters()
    assert {name.partition(".")[0] for name in own} == {"a", "b"}
    assert all(weight.dtype == torch.float32 for weight in own.values())
    assert not any(p.requires_grad for p in two.c.parameters())
    assert adapters.full_tensors().keys() == {f"b.{name}" for name in two.b.state_dict()}


def test_load_is_strict():
    adapters = adapt(fake(), rank=4)
    kept = adapters.tensors()
    stir(adapters)
    adapters.load(kept)
    assert all(torch.equal(a, kept[name]) for name, a in adapters.parameters().items())
    wrong = dict(kept)
    wrong["transformer.blocks.0.to_q.lora_A.weight"] = torch.zeros(2, 16)
    wrong["strange"] = torch.zeros(1)
    del wrong["transformer.blocks.1.to_v.lora_B.weight"]
    with pytest.raises(WeightsError) as error:
        adapters.load(wrong)
    assert len(error.value.problems) == 3


def test_attach_puts_a_file_back_at_its_strength():
    trained = fake()
    adapters = adapt(trained, rank=4, alpha=1.0, rank_pattern={r"blocks\.1\..*": 2}, rslora=True)
    stir(adapters)
    fresh = fake("fp32")
    attach(fresh.parts(), adapters.file())
    torch.testing.assert_close(fresh.predict(X, T, TEXT), trained.predict(X, T, TEXT), rtol=1e-4, atol=1e-5)


def test_attach_names_what_does_not_fit():
    file = adapt(fake(), rank=4).file()
    tensors = dict(file.tensors)
    tensors["transformer.blocks.7.to_q.lora_A.weight"] = torch.zeros(4, 16)
    tensors["transformer.blocks.7.to_q.lora_B.weight"] = torch.zeros(16, 4)
    tensors["transformer.blocks.0.to_q.lora_A.weight"] = torch.zeros(4, 9)
    alphas = {**file.alphas, "transformer.blocks.7.to_q": 4.0}
    with pytest.raises(WeightsError) as error:
        attach(fake().parts(), type(file)(tensors, alphas))
    lost, other = error.value.problems
    assert (lost.what, lost.found) == (
        "the base has no place for 1 of the adapter's 5 modules",
        "transformer.blocks.7.to_q",
    )
    assert "9 in, 16 out" in other.found


def test_an_adapter_of_another_family_is_one_problem_not_one_for_each_module():
    file = adapt(fake(), rank=4).file()
    tensors = {key.replace("blocks.", "layers."): value for key, value in file.tensors.items()}
    alphas = {key.replace("blocks.", "layers."): value for key, value in file.alphas.items()}
    with pytest.raises(WeightsError) as error:
        attach(fake().parts(), type(file)(tensors, alphas))
    assert len(error.value.problems) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"targets": "to_q"}, [r"blocks\.\d+\.to_q", "whole name"]),
        ({"targets": "nothing_like_it"}, ["matches no linear module"]),
        ({"targets": "(to_q"}, ["not a regular expression"]),
        ({"targets": r"blocks\.0", "rank_pattern": {"nope": 4}}, ["targets matches no", "rank_pattern matches no"]),
        ({"parts": {"unet": "lora"}}, ["unet", "transformer"]),
        ({"parts": {"transformer": "frozen"}}, ["nothing is left to train"]),
        ({"rank": 3, "init": "orthogonal"}, ["even ranks"]),
        ({"rank": 17, "init": "pissa"}, ["up to 16"]),
    ],
)
def test_bad_targets_and_sizes(options, words):
    with pytest.raises(RecipeError) as error:
        adapt(fake(), **options)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "options",
    [
        {"dora": True, "init": "pissa"},
        {"rank": 0},
        {"alpha": 0.0},
        {"init": "eva"},
        {"rank_pattern": {"a": 0}},
        {"alpha_pattern": {"a": -1.0}},
        {"parts": {"transformer": "half"}},
    ],
)
def test_bad_options(options):
    with pytest.raises(ValidationError):
        LoraOptions(**options)


def test_dropout_only_in_training():
    denoiser = fake()
    adapters = adapt(denoiser, rank=4, dropout=0.5)
    stir(adapters)
    denoiser.net.train()
    torch.manual_seed(0)
    one, two = denoiser.predict(X, T, TEXT), denoiser.predict(X, T, TEXT)
    assert not torch.equal(one, two)
    denoiser.net.eval()
    assert torch.equal(denoiser.predict(X, T, TEXT), denoiser.predict(X, T, TEXT))


def test_default_start_is_kaiming_and_zero():
    own = adapt(fake(), rank=8, targets="all").parameters()
    a = torch.cat([w.flatten() for name, w in own.items() if "lora_A" in name])
    assert a.abs().max() <= 1 / math.sqrt(16)
    assert a.std().item() == pytest.approx(1 / math.sqrt(3 * 16), rel=0.05)
    assert all(w.abs().sum() == 0 for name, w in own.items() if "lora_B" in name)
    assert isinstance(next(iter(own.values())), nn.Parameter)
