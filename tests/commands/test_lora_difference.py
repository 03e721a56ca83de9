"""`lora extract --tuned --base`: what comes out of two checkpoints, and what is said of the rest."""

import csv

import pytest
import torch
from lora_cases import effects, near, subject
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cinelora.families.wan.layouts import WEIGHT_LAYOUTS
from cinelora.lora.files import read_adapter

WAN = subject("wan/tiny")
NATIVE, ORIGINAL, WRAPPED = WEIGHT_LAYOUTS


@pytest.fixture
def base(tmp_path):
    weights = load_file(WAN.base(tmp_path / "drawn"))
    native = next(one for one in WEIGHT_LAYOUTS if one.reads(list(weights))).to_native(weights)
    save_file(native, tmp_path / "base.safetensors")
    return native


def tuned(tmp_path, base, change=None, layout=NATIVE, name="tuned.safetensors", dtype=None):
    """The base with the effects of an adapter, and what `change` does to others."""
    file = WAN.adapter(3, (2, 1), (4.0, 1.0))
    weights = dict(base)
    for module, effect in effects(file).items():
        key = module.removeprefix("transformer.") + ".weight"
        weights[key] = (weights[key].double() + effect).float()
    weights = {key: one + (change or {}).get(key, 0) for key, one in weights.items()}
    spelt = layout.from_native(weights)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    save_file({key: one.to(dtype or one.dtype).contiguous() for key, one in spelt.items()}, tmp_path / name)
    return file


def read(path):
    return read_adapter(path, WAN.layouts)


WORDS = ("lora", "extract", "--tuned", "tuned.safetensors", "--base", "base.safetensors")


def test_the_families_layouts_come_out_exactly(tmp_path, base, typed):
    file = tuned(tmp_path, base)
    code, said = typed(*WORDS, "--rank", "4")
    assert code == 0, said
    assert "network: wan/tiny, wan/tiny-high, wan/tiny-low" in said
    assert f"{len(base) - 12} weights did not change and are left out" in said
    for layout in ("diffusers", "comfyui"):
        found = read(tmp_path / f"tuned_lora.{layout}.safetensors")
        near(effects(found), effects(file), share=1e-4)
    with safe_open(tmp_path / "tuned_lora.diffusers.safetensors", "pt") as opened:
        told = opened.metadata()
    assert told["family"] == "wan"
    assert told["rank"] == "2"  # of four that were asked for: more is not there


def test_energy_finds_the_rank_of_each(tmp_path, base, typed):
    file = tuned(tmp_path, base)
    words = ("--energy", "0.999999", "--variant", "wan/tiny", "--out", "o.safetensors", "--to", "comfyui")
    code, said = typed(*WORDS, *words, "--csv", "rows.csv", "--json")
    assert code == 0, said
    found = read(tmp_path / "o.safetensors")
    assert {m: found.rank(m) for m in found.modules()} == {m: file.rank(m) for m in file.modules()}
    with (tmp_path / "rows.csv").open() as table:
        rows = list(csv.DictReader(table))
    whole = effects(file)
    for row in rows:
        assert float(row["norm"]) == pytest.approx(whole[row["module"]].norm().item(), rel=1e-4)
        assert float(row["error"]) < 1e-3
        assert row["method"] == "fp32"
    assert typed(*WORDS, *words, "--max-rank", "1")[0] == 0
    assert {read(tmp_path / "o.safetensors").rank(m) for m in whole} == {1}


def test_the_error_is_that_of_what_is_written(tmp_path, base, typed):
    tuned(tmp_path, base)
    assert typed(*WORDS, "--rank", "1", "--dtype", "bf16", "--out", "o.safetensors", "--to", "diffusers",
                 "--csv", "rows.csv", "--variant", "wan/tiny")[0] == 0  # fmt: skip
    found, after = effects(read(tmp_path / "o.safetensors")), load_file(tmp_path / "tuned.safetensors")
    with (tmp_path / "rows.csv").open() as table:
        for row in csv.DictReader(table):
            key = row["module"].removeprefix("transformer.") + ".weight"
            delta = (after[key] - base[key]).double()
            off = (delta - found[row["module"]]).norm() / delta.norm()
            assert float(row["error"]) == pytest.approx(off.item(), rel=1e-3)


@pytest.mark.parametrize("layout", [ORIGINAL, WRAPPED])
def test_two_spellings_of_one_network_are_compared(tmp_path, base, typed, layout):
    file = tuned(tmp_path, base, layout=layout)
    assert typed(*WORDS, "--rank", "2", "--variant", "wan/tiny", "--to", "diffusers", "--svd", "fp64")[0] == 0
    near(effects(read(tmp_path / "tuned_lora.diffusers.safetensors")), effects(file), share=1e-4)


def test_folders_of_a_pipeline_are_taken(tmp_path, base, typed):
    file = tuned(tmp_path, base)
    pipe = tmp_path / "pipe" / "transformer"
    pipe.mkdir(parents=True)
    (tmp_path / "tuned.safetensors").rename(pipe / "diffusion_pytorch_model.safetensors")
    (pipe / "config.json").write_text("{}")
    words = ("lora", "extract", "--tuned", "pipe/transformer", "--base", "base.safetensors", "--rank", "2")
    assert typed(*words, "--variant", "wan/tiny", "--to", "diffusers")[0] == 0
    near(effects(read(tmp_path / "pipe_lora.diffusers.safetensors")), effects(file), share=1e-4)


def test_what_no_adapter_has_a_place_for_is_told_or_refused(tmp_path, base, typed):
    norm = "blocks.0.attn1.norm_q.weight"
    tuned(tmp_path, base, {norm: 0.5 * base[norm], "proj_out.bias": torch.ones_like(base["proj_out.bias"])})
    words = (*WORDS, "--rank", "2", "--variant", "wan/tiny", "--to", "diffusers")
    code, said = typed(*words, "--strict")
    assert code == 4
    assert "2 weights changed that are no linear matrices" in said
    assert f"transformer.{norm} 50.00%" in said
    assert not list(tmp_path.glob("*_lora.*"))
    code, said = typed(*words)
    assert code == 0
    assert "warning: 2 weights changed" in said


def test_targets_leave_the_rest_out(tmp_path, base, typed):
    tuned(tmp_path, base)
    words = (*WORDS, "--rank", "2", "--variant", "wan/tiny", "--to", "diffusers")
    code, said = typed(*words, "--targets", r"blocks\.\d+\.ffn\..*")
    assert code == 0
    assert "left out by --targets" in said
    assert all(".ffn." in module for module in read(tmp_path / "tuned_lora.diffusers.safetensors").modules())
    assert typed(*words, "--targets", "attention")[0] == 0
    assert not any(".ffn." in module for module in read(tmp_path / "tuned_lora.diffusers.safetensors").modules())
    for wrong, what in (("to_q", "matches no linear module"), ("(", "not a regular expression")):
        code, said = typed(*words, "--targets", wrong)
        assert code == 2
        assert what in said


def test_weights_that_do_not_belong_together_are_refused(tmp_path, base, typed):
    tuned(tmp_path, base)
    rank = ("--rank", "2", "--variant", "wan/tiny")
    words = ("lora", "extract", "--tuned", "x.safetensors", "--base", "base.safetensors", *rank)
    bad = {**load_file(tmp_path / "tuned.safetensors"), "blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 3)}
    save_file(bad, tmp_path / "x.safetensors")
    code, said = typed(*words)
    assert code == 4
    assert "cinelora lora extract --model" in said
    bad = {**base, "blocks.0.attn1.to_q.weight": torch.ones(3, 3)}
    save_file(bad, tmp_path / "x.safetensors")
    assert "another size than in the base" in typed(*words)[1]
    bad = {**base, "blocks.0.attn1.to_q.weight": base["blocks.0.attn1.to_q.weight"] * float("nan")}
    save_file(bad, tmp_path / "x.safetensors")
    code, said = typed(*words)
    assert code == 4
    assert "blocks.0.attn1.to_q.weight has numbers that are not finite" in said
    save_file({"x.weight": torch.ones(2, 2)}, tmp_path / "x.safetensors")
    code, said = typed("lora", "extract", "--tuned", "x.safetensors", "--base", "base.safetensors", *rank[:2])
    assert code == 4
    assert "not the weights of any family" in said


def test_equal_weights_are_told(tmp_path, base, typed):
    save_file(base, tmp_path / "tuned.safetensors")
    code, said = typed(*WORDS, "--rank", "2", "--variant", "wan/tiny")
    assert code == 4
    assert "nothing that an adapter has a place for" in said


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("lora", "extract"), "say what to extract from"),
        (("lora", "extract", "--tuned", "tuned.safetensors"), "say what to extract from"),
        (("lora", "extract", "--model", "a", "--tuned", "b", "--base", "c"), "say what to extract from"),
        (WORDS, "--rank or --energy"),
        ((*WORDS, "--rank", "2", "--svd", "quick"), "no such SVD"),
        ((*WORDS, "--energy", "0.5", "--svd", "lowrank"), "an estimate needs a rank"),
        ((*WORDS, "--rank", "2", "--to", "lycoris", "--variant", "wan/tiny"), "no such layout"),
        ((*WORDS, "--rank", "2", "--out", "x.ckpt", "--variant", "wan/tiny"), "safetensors files"),
        ((*WORDS, "--rank", "2", "--out", "base.safetensors", "--to", "diffusers", "--variant", "wan/tiny"),
         "replace what it is made of"),
    ],
)  # fmt: skip
def test_words_that_do_not_fit(tmp_path, base, typed, words, what):
    tuned(tmp_path, base)
    code, said = typed(*words)
    assert code == 2
    assert what in said
