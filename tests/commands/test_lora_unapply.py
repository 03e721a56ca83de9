"""Taking an adapter out: what must be said and be true for it, and every reason for refusing."""

import json

import pytest
import torch
from lora_cases import subject
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cinelora.base.errors import RecipeError, WeightsError
from cinelora.commands.lora_apply import Asked as ApplyAsked
from cinelora.commands.lora_apply import apply
from cinelora.commands.lora_unapply import Asked, unapply
from cinelora.lora.files import write_adapter

WAN = subject("wan/tiny")
DIFFUSERS, COMFYUI = WAN.layouts[:2]


@pytest.fixture
def lora(tmp_path):
    write_adapter(tmp_path / "a.safetensors", WAN.adapter(1, (2,), (1.0,)), DIFFUSERS)
    return tmp_path / "a.safetensors"


@pytest.fixture
def other(tmp_path):
    write_adapter(tmp_path / "b.safetensors", WAN.adapter(2), COMFYUI)
    return tmp_path / "b.safetensors"


def merged(tmp_path, *loras, of=torch.float32, **asked):
    base = WAN.base(tmp_path / "base", of)
    return apply(base, list(loras), ApplyAsked(out=tmp_path / "merged.safetensors", **asked))


def header(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_each_is_taken_out_once_in_any_order(tmp_path, lora, other):
    there = merged(tmp_path, lora, other, weights=(1.0, 0.5))
    one = unapply(there, lora, Asked(out=tmp_path / "one.safetensors"))
    assert json.loads(header(one)["taken_out"])["file"] == "a.safetensors"
    assert header(one)["merged_adapter"] == "b.safetensors"
    with pytest.raises(WeightsError, match=r"(?s)not in the merged file.*a\.safetensors.*b\.safetensors"):
        unapply(one, lora, Asked(out=tmp_path / "two.safetensors"))
    none = unapply(one, other, Asked(out=tmp_path / "none.safetensors"))
    assert "merged_adapter" not in header(none)
    with pytest.raises(WeightsError, match="taken out already"):
        unapply(none, other, Asked(out=tmp_path / "two.safetensors"))
    assert not (tmp_path / "two.safetensors").exists()
    before, after = load_file(tmp_path / "base" / "base.safetensors"), load_file(none)
    sums, middle = load_file(there), load_file(one)
    for key, weight in before.items():
        largest = torch.stack([weight.abs(), sums[key].abs(), middle[key].abs()]).amax(0)
        unit = torch.nextafter(largest, torch.tensor(float("inf"))) - largest
        assert ((after[key].double() - weight.double()).abs() <= 2 * unit.double()).all()  # one for each of two


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_of_16_bits_that_was_widened_comes_back_bit_for_bit(tmp_path, lora, dtype):
    back = load_file(unapply(merged(tmp_path, lora, of=dtype), lora, Asked(out=tmp_path / "back.safetensors")))
    before = load_file(tmp_path / "base" / "base.safetensors")
    for key, weight in before.items():
        assert back[key].dtype == weight.dtype
        assert torch.equal(back[key], weight), key


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_rounded_sums_are_refused_and_the_base_is_named(tmp_path, lora, dtype):
    there = merged(tmp_path, lora, dtype=dtype)
    with pytest.raises(
        WeightsError, match=rf"(?s)bits.*are lost.*found: {dtype.upper().replace('P', '')}.*base\.safet"
    ):
        unapply(there, lora, Asked(out=tmp_path / "back.safetensors"))


def test_another_strength_or_weight_is_refused(tmp_path, lora):
    there = merged(tmp_path, lora, weights=(0.5,))
    with pytest.raises(RecipeError, match=r"(?s)another strength.*--alpha 3.*0\.25"):
        unapply(there, lora, Asked(alpha=3.0))
    with pytest.raises(RecipeError, match=r"(?s)another weight.*0\.5"):
        unapply(there, lora, Asked(weight=1.0))
    unapply(there, lora, Asked(alpha=0.5, weight=0.5, out=tmp_path / "back.safetensors"))


def test_the_same_matrices_in_another_file_are_not_the_adapter(tmp_path, lora):
    there = merged(tmp_path, lora)
    write_adapter(tmp_path / "same.safetensors", WAN.adapter(1, (2,), (1.0,)), COMFYUI)
    with pytest.raises(WeightsError, match="byte for byte"):
        unapply(there, tmp_path / "same.safetensors", Asked())


def test_files_that_do_not_say_what_is_in_them_are_refused(tmp_path, lora):
    base = WAN.base(tmp_path / "base")
    with pytest.raises(WeightsError, match="does not say that an adapter is in it"):
        unapply(base, lora, Asked())
    there = apply(base, lora, ApplyAsked(out=tmp_path / "m.ckpt"))
    with pytest.raises(WeightsError, match="does not say"):
        unapply(there, lora, Asked())


@pytest.mark.parametrize("told", ["no json", "{}", '[{"file": 3}]', "[1]"])
def test_a_damaged_header_is_told(tmp_path, lora, told):
    there = merged(tmp_path, lora)
    save_file(load_file(there), tmp_path / "broken.safetensors", {**header(there), "merged": told})
    with pytest.raises(WeightsError, match="merged adapters cannot be read"):
        unapply(tmp_path / "broken.safetensors", lora, Asked())


def test_dora_is_refused(tmp_path):
    file = WAN.adapter(1)
    lengths = {f"{m}.lora_magnitude_vector": torch.ones(outputs) for m, (_, outputs) in WAN.modules.items()}
    write_adapter(tmp_path / "dora.safetensors", type(file)({**file.tensors, **lengths}, file.alphas, file.metadata),
                  DIFFUSERS)  # fmt: skip
    there = merged(tmp_path, tmp_path / "dora.safetensors")
    with pytest.raises(WeightsError, match="DoRA sets the lengths"):
        unapply(there, tmp_path / "dora.safetensors", Asked(out=tmp_path / "o.safetensors"))


def test_the_words(tmp_path, lora, typed):
    there = merged(tmp_path, lora)
    code, said = typed("lora", "unapply", "--merged", str(there), "--lora", str(lora))
    assert code == 0
    assert "taken out: a.safetensors, 12 modules at strength 0.5, to one unit in the last place" in said
    assert (tmp_path / "merged_without_a.safetensors").is_file()
    code, said = typed("lora", "unapply", "--merged", str(there), "--lora", str(lora), "--out", str(there))
    assert code == 2
    assert "replace what it is made of" in said
