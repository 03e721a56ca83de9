"""The words of `lora merge`, `resize` and `scale`: what comes out, its header, and what is refused."""

import csv
import json

import pytest
import torch
from lora_cases import added, effects, near, subject
from safetensors import safe_open

from cinelora.commands.lora_merge import Asked, merge
from cinelora.commands.lora_open import Wanted
from cinelora.commands.lora_resize import Asked as ResizeAsked
from cinelora.commands.lora_resize import resize
from cinelora.lora.files import read_adapter, write_adapter

WAN = subject("wan/tiny")
DIFFUSERS, COMFYUI, MUSUBI, VIDEOX, BARE = WAN.layouts


def put(path, file, layout=DIFFUSERS):
    write_adapter(path, file, layout)
    return str(path)


@pytest.fixture
def one(tmp_path):
    return put(tmp_path / "one.diffusers.safetensors", WAN.adapter(1, (2,), (1.0,), steps="9", recipe="a = 1"))


@pytest.fixture
def two(tmp_path):
    return put(tmp_path / "two.comfyui.safetensors", WAN.adapter(2, (3,), (6.0,), steps="8", recipe="a = 1"), COMFYUI)


def read(path):
    return read_adapter(path, WAN.layouts)


def header(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


FIRST, SECOND = WAN.adapter(1, (2,), (1.0,)), WAN.adapter(2, (3,), (6.0,))


def test_weights_stand_behind_their_word(tmp_path, one, two, typed):
    code, said = typed("lora", "merge", one, two, "--weights", "1", "0.5")
    assert code == 0
    assert "merged (concat): 1 x one.diffusers.safetensors, 0.5 x two.comfyui.safetensors; 12 modules of rank 5" in said
    place = tmp_path / "one+two.diffusers.safetensors"
    near(effects(read(place)), added((FIRST, 1.0), (SECOND, 0.5)))
    told = header(place)
    (done,) = json.loads(told["lora_history"])
    assert done["did"] == "merge concat"
    assert [row["weight"] for row in done["of"]] == [1.0, 0.5]
    assert all(len(row["sha256"]) == 64 for row in done["of"])
    assert (told["family"], told["rank"], told["alpha"], told["recipe"]) == ("wan", "5", "5", "a = 1")
    assert "steps" not in told
    assert typed("lora", "merge", one, two, "--weights", "1,0.5", "--out", "again.safetensors")[0] == 0
    assert read(tmp_path / "again.safetensors").tensors.keys() == read(place).tensors.keys()


@pytest.mark.parametrize("layout", WAN.layouts, ids=lambda layout: layout.name)
def test_any_layout_comes_out_at_its_strength(tmp_path, one, two, layout):
    out = Wanted(out=tmp_path / "o.safetensors", to=layout.name)
    found = read(merge([tmp_path / one, tmp_path / two], Asked("svd", (1.0, -1.0), rank=5, wanted=out)))
    near(effects(found), added((FIRST, 1.0), (SECOND, -1.0)))


def test_a_table_of_every_module(tmp_path, one, two, typed):
    words = ("lora", "merge", one, two, "--how", "svd", "--rank", "2", "--json", "--csv", "rows.csv")
    code, said = typed(*words)
    assert code == 0
    rows = json.loads(said[said.index("[ {") : said.rindex("} ]") + 3])
    assert len(rows) == len(WAN.modules)
    with (tmp_path / "rows.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["module"] for row in table] == [row["module"] for row in rows]
    assert float(table[3]["error"]) == rows[3]["error"] > 0.1
    assert "what each module loses, worst first" in said
    assert "... 2 between" in said
    assert typed("lora", "merge", one, two, "--csv", "rows.txt")[0] == 2


def test_sum_warns(one, two, tmp_path, typed):
    other = put(tmp_path / "three.safetensors", WAN.adapter(3, (2,)))
    code, said = typed("lora", "merge", one, other, "--how", "sum")
    assert code == 0
    assert "warning: the sum of matrices is not the sum of effects" in said
    code, said = typed("lora", "merge", one, two, "--how", "sum")
    assert code == 2
    assert "needs the same modules at the same rank" in said


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--how", "ties"], "no such way"),
        (["--weights", "1"], "--weights has 1 numbers"),
        (["--weights", "1", "0"], "no weight"),
        (["--weights", "one"], "takes numbers"),
        (["--rank", "3"], "--how concat keeps every direction"),
        (["--how", "svd"], "--rank or --energy"),
        (["--to", "comfy"], "nearest: comfyui"),
        (["--dtype", "int4"], "no such number format"),
        (["--out", "x.ckpt"], "safetensors files"),
        (["--model", "wan/tinny"], "nearest: tiny"),
    ],
)
def test_words_that_do_not_fit(one, two, typed, words, what, tmp_path):
    before = sorted(tmp_path.iterdir())
    code, said = typed("lora", "merge", one, two, *words)
    assert code == 2
    assert what in said
    assert sorted(tmp_path.iterdir()) == before


def test_strangers_are_refused(tmp_path, one, typed):
    cog = subject("cogvideox/tiny")
    write_adapter(tmp_path / "cog.safetensors", cog.adapter(1), cog.layouts[0])
    code, said = typed("lora", "merge", one, "cog.safetensors")
    assert code == 2
    assert "two families" in said
    low, high = (
        put(tmp_path / f"{name}.safetensors", WAN.adapter(k, expert=name)) for k, name in enumerate(("low", "high"))
    )
    code, said = typed("lora", "merge", low, high)
    assert code == 2
    assert "two experts" in said
    code, said = typed("lora", "merge", one)
    assert code == 2
    assert "two adapters at least" in said
    file = WAN.adapter(1)
    file.tensors[next(iter(file.tensors))][0, 0] = float("nan")
    code, said = typed("lora", "merge", one, put(tmp_path / "nan.safetensors", file))
    assert code == 4
    assert "not finite" in said


def test_dora_is_refused_with_the_reason(tmp_path, one, typed):
    file = WAN.adapter(1)
    lengths = {f"{m}.lora_magnitude_vector": torch.ones(outputs) for m, (_, outputs) in WAN.modules.items()}
    dora = put(tmp_path / "dora.safetensors", type(file)({**file.tensors, **lengths}, file.alphas, file.metadata))
    for words in (("merge", one, dora), ("resize", dora, "--rank", "1"), ("scale", dora, "0.5")):
        code, said = typed("lora", *words)
        assert code == 2
        assert "DoRA sets the length of each row" in said


def test_a_strength_that_nobody_says_is_asked_for(tmp_path, one, typed):
    from safetensors.torch import load_file, save_file

    path = put(tmp_path / "bare.safetensors", WAN.adapter(4, (2,), (2.0,)), BARE)
    save_file(load_file(path), tmp_path / "silent.safetensors")
    code, said = typed("lora", "merge", one, "silent.safetensors", "--model", "wan/tiny")
    assert code == 2
    assert "do not say the strength" in said
    assert "--alpha" in said
    assert typed("lora", "scale", "silent.safetensors", "2", "--alpha", "1", "--model", "wan/tiny")[0] == 0
    found = read(tmp_path / "silent-x2.videox-peft.safetensors")
    near(effects(found), added((WAN.adapter(4, (2,), (2.0,)), 1.0)))  # strength 1 / 2, twice


def test_experts_files_stay_a_pair(tmp_path, typed):
    experts = {name: {"file": f"my.{name}_noise", "levels": [0, 1]} for name in ("high", "low")}
    about = {"joint_variant": "tiny-experts", "experts": json.dumps(experts)}
    for name in experts:
        put(tmp_path / f"my.{name}_noise.diffusers.safetensors", WAN.adapter(1, expert=name, **about))
        assert typed("lora", "resize", f"my.{name}_noise.diffusers.safetensors", "--rank", "2")[0] == 0
    told = header(tmp_path / "my-rank2.low_noise.diffusers.safetensors")
    assert {name: one["file"] for name, one in json.loads(told["experts"]).items()} == {
        "high": "my-rank2.high_noise",
        "low": "my-rank2.low_noise",
    }
    assert (tmp_path / "my-rank2.high_noise.diffusers.safetensors").is_file()
    assert typed("lora", "scale", "my.low_noise.diffusers.safetensors", "2", "--out", "alone.safetensors")[0] == 0
    assert "experts" not in header(tmp_path / "alone.safetensors")


@pytest.mark.parametrize("told", ["no json", "[]", '{"high": 3}', '{"high": {"file": "my./../../up"}}'])
def test_what_a_header_says_of_experts_leads_nowhere(tmp_path, typed, told):
    put(tmp_path / "my.safetensors", WAN.adapter(1, expert="high", experts=told))
    assert typed("lora", "scale", "my.safetensors", "2")[0] == 0
    assert (tmp_path / "my-x2.diffusers.safetensors").is_file()
    assert "experts" not in header(tmp_path / "my-x2.diffusers.safetensors")


def test_resize_says_what_is_lost_and_how_small_it_gets(tmp_path, one, typed):
    big = put(tmp_path / "big.musubi.safetensors", WAN.adapter(5, (6, 2), (3.0,)), MUSUBI)
    code, said = typed("lora", "resize", big, "--rank", "3")
    assert code == 0
    assert "6 of 12 modules have no larger rank than that and stay as they are" in said
    found = read(tmp_path / "big-rank3.musubi.safetensors")
    assert sorted({found.rank(module) for module in found.modules()}) == [2, 3]
    whole = effects(WAN.adapter(5, (6, 2), (3.0,)))
    for module, effect in effects(found).items():
        values = torch.linalg.svdvals(whole[module])
        assert (whole[module] - effect).norm().item() == pytest.approx(values[3:].norm().item(), rel=1e-4, abs=1e-5)
    assert typed("lora", "resize", big, "--energy", "0.5", "--max-rank", "2", "--dtype", "bf16")[0] == 0
    assert {t.dtype for t in read(tmp_path / "big-energy0.5.musubi.safetensors").tensors.values()} == {torch.bfloat16}


def test_what_is_idle_cannot_be_resized(tmp_path, typed):
    file = WAN.adapter(1)
    idle = {key: one * 0 if "lora_B" in key else one for key, one in file.tensors.items()}
    path = put(tmp_path / "idle.safetensors", type(file)(idle, file.alphas, file.metadata))
    code, said = typed("lora", "resize", path, "--rank", "1")
    assert code == 4
    assert "every B is zero" in said


def test_inputs_are_never_replaced(tmp_path, one, two, typed):
    for out in (one, two):
        code, said = typed("lora", "merge", one, two, "--out", out)
        assert code == 2
        assert "replace what it is made of" in said


def test_the_history_grows(tmp_path, one):
    out = resize(tmp_path / one, ResizeAsked(rank=1, wanted=Wanted(out=tmp_path / "a.safetensors")))
    again = resize(out, ResizeAsked(energy=1.0, wanted=Wanted(out=tmp_path / "b.safetensors", to="comfyui")))
    assert [row["did"] for row in json.loads(header(again)["lora_history"])] == ["resize rank1", "resize energy1"]
    assert "lora_adapter_metadata" not in header(again)


def test_unknown_adapters_are_told(tmp_path, typed):
    from safetensors.torch import save_file

    module = "model.layers.0.q_proj"
    llm = {f"{module}.lora_A.weight": torch.ones(2, 3), f"{module}.lora_B.weight": torch.ones(3, 2)}
    save_file(llm, tmp_path / "llm.safetensors")
    code, said = typed("lora", "resize", "llm.safetensors", "--rank", "1")
    assert code == 4
    assert "of no family" in said
    assert typed("lora", "scale", "nothing.safetensors", "2")[0] == 4
