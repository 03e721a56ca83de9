"""The verbs of `cinelora lora` keep their promises on adapters and bases of every family, in every layout."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lora_cases import NAMES, added, effects, near, subject
from safetensors.torch import load_file

from cinelora.commands.lora_apply import Asked as ApplyAsked
from cinelora.commands.lora_apply import apply
from cinelora.commands.lora_average import Asked as AverageAsked
from cinelora.commands.lora_average import average
from cinelora.commands.lora_difference import Asked as TunedAsked
from cinelora.commands.lora_difference import difference
from cinelora.commands.lora_merge import Asked as MergeAsked
from cinelora.commands.lora_merge import merge
from cinelora.commands.lora_open import Wanted
from cinelora.commands.lora_resize import Asked as ResizeAsked
from cinelora.commands.lora_resize import resize, scale
from cinelora.commands.lora_unapply import Asked as UnapplyAsked
from cinelora.commands.lora_unapply import unapply
from cinelora.lora.files import read_adapter, write_adapter

few = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
RANKS = st.lists(st.integers(1, 4), min_size=1, max_size=2)
ALPHAS = st.lists(st.sampled_from([0.5, 1.0, 3.0, 8.0]), min_size=1, max_size=2)


@pytest.fixture(params=NAMES)
def case(request):
    return subject(request.param)


@pytest.fixture
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def layout_for(case, number):
    return case.layouts[number % len(case.layouts)]


def written(case, folder, name, file, number=0):
    layout = layout_for(case, number)
    if case.family.name == "framer" and layout.name == "peft":  # of the UNet alone
        file = file.of_part("unet", "unet")
    path = folder / f"{name}.{layout.name}.safetensors"
    write_adapter(path, file, layout)
    return path, file


def read(case, path):
    return read_adapter(path, case.layouts)


@few
@given(data=st.data())
def test_adapters_alone(case, folder, data):
    ranks, alphas, seed, number = (data.draw(one) for one in (RANKS, ALPHAS, st.integers(0, 99), st.integers(0, 4)))
    one, first = written(case, folder, "one", case.adapter(seed, ranks, alphas), number)
    other, second = written(case, folder, "two", case.adapter(seed + 100, alphas=alphas, skip=3), number + 1)
    out = Wanted(out=folder / "out.safetensors")
    shares = (1.0, data.draw(st.sampled_from([0.5, -0.7, 2.0])))
    wanted = added((first, shares[0]), (second, shares[1]))
    near(effects(read(case, merge([one, other], MergeAsked(weights=shares, wanted=out)))), wanted)
    near(effects(read(case, merge([one, other], MergeAsked("svd", shares, rank=9, wanted=out)))), wanted)
    near(effects(read(case, resize(one, ResizeAsked(rank=8, wanted=out)))), effects(first))
    near(effects(read(case, resize(one, ResizeAsked(energy=1.0, wanted=out)))), effects(first))
    near(effects(read(case, scale(one, -0.3, ResizeAsked(wanted=out)))), added((first, -0.3)))
    (alone,) = average([one], AverageAsked(wanted=out))
    found = read(case, alone)
    near(effects(found), effects(first), share=1e-6)
    assert found.metadata["family"] == case.family.name


def put(case, base, out, *adapters, **asked):
    """Added to each network that the base has, by the parts that the adapters have."""
    if base.is_file():
        return apply(base, [path for path, _ in adapters], ApplyAsked(out=out, **asked))
    for part in case.variant.parts:
        apply(base / part, [path for path, _ in adapters], ApplyAsked(out=out / part, allow_missing=True, **asked))
    return out


def tensors(case, place):
    """By native name."""
    if place.is_dir():
        files = {part: load_file(place / part / "diffusion_pytorch_model.safetensors") for part in case.variant.parts}
        return {f"{part}.{key}": one for part, own in files.items() for key, one in own.items()}
    whole, found = load_file(place), {}
    from cinelora.commands.lora_base import reading

    for part, layout in reading(case.family, case.variant, list(whole)).items():
        if part in case.variant.parts:
            found |= {f"{part}.{key}": one for key, one in layout.to_native(whole).items()}
    return found


@pytest.mark.parametrize("seed", [0, 1])
def test_into_a_base_and_out_of_it(case, folder, seed):
    base = case.base(folder / "base")
    one = written(case, folder, "one", case.adapter(seed, (2, 3), (1.0, 3.0)), seed)
    other = written(case, folder, "two", case.adapter(seed + 50, (1,), (0.5,), skip=2), seed + 1)
    out = folder / ("out" if base.is_dir() else "out.safetensors")
    place = put(case, base, out, one, other, weights=(1.0, -0.5))
    before, after = tensors(case, base), tensors(case, place)
    assert before.keys() == after.keys()
    total = added((one[1], 1.0), (other[1], -0.5))
    for key, weight in before.items():
        if key.removesuffix(".weight") in total:
            exact = weight.double() + total[key.removesuffix(".weight")]
            assert (after[key].double() - exact).abs().max() <= 2**-24 * exact.abs().max()
        else:
            assert torch.equal(after[key], weight), key
    if place.is_file():
        rest = unapply(place, one[0], UnapplyAsked(out=folder / "rest.safetensors"))
        back = tensors(case, unapply(rest, other[0], UnapplyAsked(out=folder / "back.safetensors")))
        for key, weight in before.items():
            assert (back[key] - weight).abs().max() <= 2**-22 * after[key].abs().max(), key


def test_the_change_of_a_base_is_the_adapter_again(case, folder):
    base, file = case.base(folder / "base"), case.adapter(3, (2,), (4.0,))
    if base.is_dir():
        base, file = base / "unet", file.of_part("unet", "unet")
    path, file = written(case, folder, "one", file)
    out = folder / ("tuned/unet" if base.is_dir() else "tuned.safetensors")
    tuned = apply(base, path, ApplyAsked(out=out))
    model = f"{case.family.name}/{case.variant.name}"
    places = difference(tuned, base, TunedAsked(rank=3, model=model, wanted=Wanted(out=folder / "lora", to="all")))
    assert len(places) == len(case.layouts)
    for place in places:
        near(effects(read(case, place)), effects(file), share=1e-4)
