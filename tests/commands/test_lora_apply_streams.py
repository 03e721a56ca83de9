"""Bases in shards and pipelines' folders, several adapters, how much memory that takes, what headers say."""

import json
import subprocess
import sys

import pytest
import torch
from lora_cases import effects, subject
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cinelora.base.errors import RecipeError, RunError, WeightsError
from cinelora.commands.lora_apply import Asked, apply
from cinelora.lora.files import write_adapter
from cinelora.nets import stream

WAN = subject("wan/tiny")
DIFFUSERS, COMFYUI, MUSUBI, _, BARE = WAN.layouts


@pytest.fixture
def lora(tmp_path):
    write_adapter(tmp_path / "a.diffusers.safetensors", WAN.adapter(1, (2,), (1.0,)), DIFFUSERS)
    return tmp_path / "a.diffusers.safetensors"


@pytest.fixture
def other(tmp_path):
    write_adapter(tmp_path / "b.musubi.safetensors", WAN.adapter(2, (3,), (6.0,)), MUSUBI)
    return tmp_path / "b.musubi.safetensors"


def shards(folder, dtype=torch.float32, count=3, name="diffusion_pytorch_model"):
    """A diffusers folder of a tiny Wan's weights."""
    folder.mkdir(parents=True)
    weights = load_file(WAN.base(folder.parent / "whole", dtype))
    native = WAN.family and {key: one for key, one in _native(weights).items()}
    where = {}
    for k in range(count):
        file = f"{name}-{k + 1:05d}-of-{count:05d}.safetensors"
        own = {key: native[key] for key in list(native)[k::count]}
        save_file(own, folder / file, {"format": "pt"})
        where |= dict.fromkeys(own, file)
    size = sum(one.nbytes for one in native.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / f"{name}.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"_class_name": "WanTransformer3DModel"}')
    (folder / ".hidden").write_text("")
    return folder


def _native(weights):
    from cinelora.families.wan.layouts import WEIGHT_LAYOUTS

    return next(one for one in WEIGHT_LAYOUTS if one.reads(list(weights))).to_native(weights)


def whole(folder):
    return {key: one for file in sorted(folder.glob("*.safetensors")) for key, one in load_file(file).items()}


def test_shards_stay_shards_with_their_index_and_config(tmp_path, lora, monkeypatch):
    base = shards(tmp_path / "base", torch.bfloat16)
    monkeypatch.chdir(tmp_path)
    out = apply(base, lora, Asked())
    assert str(out) == "wan_tiny_a"
    names = {file.name for file in base.iterdir() if not file.name.startswith(".")}
    assert {file.name for file in out.iterdir()} == names
    index = json.loads((out / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert (
        index["weight_map"]
        == json.loads((base / "diffusion_pytorch_model.safetensors.index.json").read_text())["weight_map"]
    )
    assert index["metadata"]["total_size"] == sum(one.nbytes for one in whole(out).values())
    for file in out.glob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert [one["file"] for one in json.loads(opened.metadata()["merged"])] == ["a.diffusers.safetensors"]
    with pytest.raises(RecipeError, match="a folder stands there"):
        apply(base, lora, Asked())


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16", ""])
def test_every_way_gives_the_same_numbers_rounded_once(tmp_path, lora, other, dtype, monkeypatch):
    monkeypatch.setattr(stream, "CHUNK_BYTES", 1000)
    base = shards(tmp_path / "base", torch.float16)
    asked = {"dtype": dtype, "weights": (1.0, 0.7)}
    sharded = whole(apply(base, [lora, other], Asked(out=tmp_path / "out", **asked)))
    one = load_file(apply(base, [lora, other], Asked(out=tmp_path / "one.safetensors", **asked)))
    pickled = torch.load(apply(base, [lora, other], Asked(out=tmp_path / "one.ckpt", **asked)), weights_only=True)
    file = load_file(apply(tmp_path / "one.safetensors", [lora], Asked(alpha=0.0, out=tmp_path / "again.safetensors")))
    first, second = effects(WAN.adapter(1, (2,), (1.0,))), effects(WAN.adapter(2, (3,), (6.0,)))
    for key, weight in whole(base).items():
        assert torch.equal(sharded[key], one[key])
        assert torch.equal(pickled[key], one[key])
        assert torch.equal(file[key].to(one[key].dtype), one[key])
        module = "transformer." + key.removesuffix(".weight")
        exact = weight.double() + (first[module] + 0.7 * second[module] if module in first else 0)
        assert one[key].dtype == (stream.FORMATS[{"fp32": "F32", "bf16": "BF16", "fp16": "F16"}[dtype]] if dtype
                                  else torch.float32 if module in first else torch.float16)  # fmt: skip
        half_unit = torch.finfo(one[key].dtype).eps / 2 * 2 ** exact.abs().log2().floor()
        rounding = 1e-14 if one[key].dtype == torch.float32 else 1e-6  # of the sum ahead of it
        assert ((one[key].double() - exact).abs() <= half_unit + rounding).all(), key


def test_the_first_has_weight_one_where_one_less_is_said(tmp_path, lora, other, capfd):
    base = WAN.base(tmp_path / "base")
    apply(base, [lora, other], Asked(out=tmp_path / "a.safetensors", weights=(0.7,)))
    assert "b.musubi.safetensors at strength 1.4, weight 0.7" in capfd.readouterr().err
    apply(base, [lora, other], Asked(out=tmp_path / "b.safetensors", weights=(1.0, 0.7)))
    found, wanted = load_file(tmp_path / "a.safetensors"), load_file(tmp_path / "b.safetensors")
    assert all(torch.equal(found[key], one) for key, one in wanted.items())


def test_a_pipelines_folder_gives_the_network_alone(tmp_path, lora, capfd):
    shards(tmp_path / "pipe" / "transformer")
    shards(tmp_path / "pipe" / "text_encoder", name="model")
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    out = apply(tmp_path / "pipe", lora, Asked(out=tmp_path / "out"))
    assert [child.name for child in out.iterdir()] == ["transformer"]
    assert (out / "transformer" / "config.json").is_file()
    assert load_file(out / "transformer" / "diffusion_pytorch_model-00001-of-00003.safetensors")


def test_of_two_experts_the_adapters_own_is_taken_or_asked_for(tmp_path, lora):
    for part in ("transformer", "transformer_2"):
        shards(tmp_path / "pipe" / part)
    about = {"expert": "low", "joint_variant": "tiny-experts"}
    write_adapter(tmp_path / "x.safetensors", WAN.adapter(1, **about), DIFFUSERS)
    out = apply(tmp_path / "pipe", tmp_path / "x.safetensors", Asked(out=tmp_path / "out"))
    assert [child.name for child in out.iterdir()] == ["transformer_2"]
    nobodys = WAN.adapter(1)
    nobodys.metadata.pop("variant")
    write_adapter(tmp_path / "y.safetensors", nobodys, DIFFUSERS)
    with pytest.raises(RecipeError, match=r"(?s)several networks.*transformer, transformer_2"):
        apply(tmp_path / "pipe", tmp_path / "y.safetensors", Asked(out=tmp_path / "out2"))


def test_what_was_merged_before_stays_in_the_header(tmp_path, lora, other):
    base = WAN.base(tmp_path / "base")
    one = apply(base, lora, Asked(out=tmp_path / "one.safetensors"))
    two = apply(one, other, Asked(out=tmp_path / "two.safetensors"))
    with safe_open(two, "pt") as file:
        header = file.metadata()
    rows = json.loads(header["merged"])
    assert [row["file"] for row in rows] == [lora.name, other.name]
    assert header["merged_adapter"] == f"{lora.name}, {other.name}"
    assert header["merged_strength"] == "0.5; 2"
    assert header["base"] == "base.safetensors"
    assert rows[0]["modules"] == len(WAN.modules)
    assert rows[0]["formats"] == rows[0]["written"] == ["F32"]


def test_a_folded_strength_is_taken_from_the_header(tmp_path):
    file = WAN.adapter(1, (2,), (6.0,))
    write_adapter(tmp_path / "a.safetensors", file, BARE)
    base = WAN.base(tmp_path / "base")
    found = _native(load_file(apply(base, tmp_path / "a.safetensors", Asked(out=tmp_path / "o.safetensors"))))
    before = _native(load_file(base))
    for module, one in effects(file).items():
        key = module.removeprefix("transformer.") + ".weight"
        torch.testing.assert_close(found[key].double() - before[key].double(), one, atol=1e-5, rtol=1e-4)


def test_peft_folders_are_taken_at_their_strength(tmp_path):
    from cinelora.lora.peft_folder import write_peft_folder

    file = WAN.adapter(1, (2, 3), (6.0, 1.0))
    write_peft_folder(tmp_path / "peft", file, "transformer")
    base = shards(tmp_path / "base")
    found = whole(apply(base, tmp_path / "peft", Asked(out=tmp_path / "o", model="wan/tiny")))
    before = whole(base)
    for module, one in effects(file).items():
        key = module.removeprefix("transformer.") + ".weight"
        torch.testing.assert_close(found[key].double() - before[key].double(), one, atol=1e-5, rtol=1e-4)


def test_quantised_bases_are_refused(tmp_path, lora):
    native = _native(load_file(WAN.base(tmp_path / "base")))
    key = next(iter(WAN.modules)).removeprefix("transformer.")
    scaled = {**native, f"{key}.scale_weight": torch.tensor(2.0)}
    save_file(scaled, tmp_path / "scaled.safetensors")
    with pytest.raises(WeightsError, match=r"(?s)quantised.*quantise the result"):
        apply(tmp_path / "scaled.safetensors", lora, Asked(out=tmp_path / "o.safetensors"))
    save_file({**native, f"{key}.weight": native[f"{key}.weight"].to(torch.int8)}, tmp_path / "int.safetensors")
    with pytest.raises(WeightsError, match="quantised"):
        apply(tmp_path / "int.safetensors", lora, Asked(out=tmp_path / "o.safetensors"))


def test_numbers_that_do_not_fit_the_format_are_refused_and_nothing_stays(tmp_path, lora):
    base = WAN.base(tmp_path / "base")
    with pytest.raises(WeightsError, match="not finite in torch.float16"):
        apply(base, lora, Asked(alpha=1e6, dtype="fp16", out=tmp_path / "o.safetensors"))
    assert not list(tmp_path.glob("*o.safetensors*"))
    broken = WAN.adapter(1)
    next(iter(broken.tensors.values()))[0, 0] = float("inf")
    write_adapter(tmp_path / "inf.safetensors", broken, DIFFUSERS)
    with pytest.raises(WeightsError, match="not finite"):
        apply(base, tmp_path / "inf.safetensors", Asked(out=tmp_path / "o.safetensors"))


def test_inputs_are_never_replaced(tmp_path, lora):
    base = shards(tmp_path / "base")
    for out in (base, base / "diffusion_pytorch_model-00001-of-00003.safetensors", lora):
        with pytest.raises(RecipeError, match=r"replace what it is made of|folder stands"):
            apply(base, lora, Asked(out=out))


def test_numbers_that_are_nobodys_are_refused(tmp_path, lora, other):
    base = WAN.base(tmp_path / "base")
    with pytest.raises(RecipeError) as caught:
        apply(base, [lora, other], Asked(alphas=(1.0,), weights=(1.0, 2.0, 3.0), dtype="fp8"))
    assert len(caught.value.problems) == 3
    with pytest.raises(RecipeError, match="no number"):
        apply(base, [lora], Asked(weights=(float("nan"),)))


def test_a_full_disk_is_told_before_the_work(tmp_path, lora, monkeypatch):
    base = shards(tmp_path / "base")
    usage = type("Usage", (), {"free": 10})()
    monkeypatch.setattr("cinelora.nets.stream.shutil.disk_usage", lambda _: usage)
    with pytest.raises(RunError, match="no room"):
        apply(base, lora, Asked(out=tmp_path / "o"))
    assert not (tmp_path / "o").exists()


MEASURED = """
import sys, torch
from pathlib import Path
from cinelora.commands.lora_apply import Asked, apply
folder = Path(sys.argv[1])
apply(folder / "small", folder / "small.safetensors", Asked(out=folder / "warm"))
torch.set_num_threads(1)
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
def told(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))
before = told("VmRSS")
apply(folder / "large", folder / "large.safetensors", Asked(out=folder / "out"))
print(told("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system says a process's peak in its own way")
def test_memory_is_bound_by_the_largest_tensor(tmp_path):
    """Of a base of 8 x 24 MB no more is held than twice one of them and the adapter."""
    sizes = {}
    for name, (rows, columns, count) in {"small": (64, 32, 2), "large": (3072, 2048, 8)}.items():
        folder = tmp_path / name
        folder.mkdir()
        lora = {}
        for k in range(count):
            save_file(
                {f"net.{k}.weight": torch.zeros(rows, columns)}, folder / f"m-{k + 1:05d}-of-{count:05d}.safetensors"
            )
            lora[f"net.{k}.lora_A.weight"] = torch.ones(4, columns)
            lora[f"net.{k}.lora_B.weight"] = torch.ones(rows, 4)
            lora[f"net.{k}.alpha"] = torch.tensor(4.0)
        save_file(lora, tmp_path / f"{name}.safetensors")
        sizes[name] = (4 * rows * columns, sum(one.nbytes for one in lora.values()))
    done = subprocess.run([sys.executable, "-c", MEASURED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    largest, lora_bytes = sizes["large"]
    assert int(done.stdout) <= 2 * largest + lora_bytes
    assert (whole(tmp_path / "out")["net.3.weight"] == 4).all()
