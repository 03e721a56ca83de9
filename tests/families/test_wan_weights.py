import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from wan_bases import SMALL

from cinelora.base.errors import WeightsError
from cinelora.families.wan.card import CARD
from cinelora.families.wan.denoise import check_base, open_denoiser
from cinelora.families.wan.encode import open_encoder
from cinelora.families.wan.layouts import TEXT_LAYOUTS, VAE_LAYOUTS, WEIGHT_LAYOUTS
from cinelora.families.wan.places import open_base
from cinelora.nets import files

DIFFUSERS, ORIGINAL, COMFYUI = WEIGHT_LAYOUTS


def tensors_of(base: Path, component: str) -> dict[str, torch.Tensor]:
    return load_file(next((base / component).glob("*.safetensors")))


def say(base, dtype="fp32"):
    torch.manual_seed(0)
    x, text = torch.randn(1, 16, 2, 4, 4), torch.randn(1, 32, 64)
    with torch.no_grad():
        return open_denoiser(str(base), SMALL, dtype).predict(x, torch.tensor([300.0]), {"text": text})


def assert_same(found, wanted):
    """Equal but for the last bits: where a weight lies in a mapped file decides which kernel multiplies it."""
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def expected(small_base):
    return say(small_base)


@pytest.mark.parametrize("layout", [DIFFUSERS, ORIGINAL, COMFYUI], ids=lambda layout: layout.name)
def test_single_file(layout, small_base, expected, tmp_path):
    save_file(layout.from_native(tensors_of(small_base, "transformer")), tmp_path / "any name.safetensors")
    assert_same(say(tmp_path / "any name.safetensors"), expected)


def test_original_release_folder(small_base, expected, tmp_path):
    save_file(
        ORIGINAL.from_native(tensors_of(small_base, "transformer")), tmp_path / "diffusion_pytorch_model.safetensors"
    )
    torch.save(VAE_LAYOUTS[1].from_native(tensors_of(small_base, "vae")), tmp_path / "Wan2.1_VAE.pth")
    text = tensors_of(small_base, "text_encoder")
    text.pop("encoder.embed_tokens.weight", None)
    torch.save(TEXT_LAYOUTS[1].from_native(text), tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    shutil.copytree(small_base / "tokenizer", tmp_path / "google" / "umt5-xxl")
    assert_same(say(tmp_path), expected)
    config = json.loads((small_base / "vae" / "config.json").read_text())
    statistics = {name: config[name] for name in ("latents_mean", "latents_std")}
    variant = replace(SMALL, network={**SMALL.network, "vae": {**SMALL.network["vae"], **statistics}})
    ours, theirs = open_encoder(str(tmp_path), variant, "fp32"), open_encoder(str(small_base), SMALL, "fp32")
    assert_same(ours.blank()["text"], theirs.blank()["text"])
    latents = torch.randn(1, 16, 2, 2, 2)
    assert_same(ours.decode(latents), theirs.decode(latents))


@pytest.mark.parametrize("index", [True, False])
def test_shards(index, small_base, expected, tmp_path):
    whole = ORIGINAL.from_native(tensors_of(small_base, "transformer"))
    names = [f"diffusion_pytorch_model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    keys = sorted(whole)
    shards = {names[0]: keys[:20], names[1]: keys[20:]}
    for name, own in shards.items():
        save_file({key: whole[key] for key in own}, tmp_path / name)
    if index:
        table = {"weight_map": {key: name for name, own in shards.items() for key in own}}
        (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(table))
    assert_same(say(tmp_path), expected)
    (tmp_path / names[1]).unlink()
    with pytest.raises(WeightsError, match=names[1] if index else "not complete"):
        say(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_number_formats_are_those_of_diffusers(dtype, small_base):
    word = {torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    ours = open_denoiser(str(small_base), SMALL, word).net.state_dict()
    theirs = WanTransformer3DModel.from_pretrained(small_base / "transformer", torch_dtype=dtype).state_dict()
    assert {name: weight.dtype for name, weight in ours.items()} == {name: w.dtype for name, w in theirs.items()}
    assert {weight.dtype for weight in ours.values()} == {dtype, torch.float32}
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def spoil(base: Path, folder: Path, component: str, change) -> Path:
    shutil.copytree(base, folder)
    file = next((folder / component).glob("*.safetensors"))
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
    return folder


def test_missing_and_extra_keys_are_told_together_by_group(small_base, tmp_path):
    def change(tensors):
        for k in (0, 1):
            del tensors[f"blocks.{k}.attn1.to_q.weight"]
        tensors["blocks.0.extra.weight"] = torch.zeros(1)

    with pytest.raises(WeightsError) as error:
        open_denoiser(str(spoil(small_base, tmp_path / "base", "transformer", change)), SMALL, "fp32")
    text = str(error.value)
    assert "lacks 2 weights" in text
    assert "blocks.attn1.to_q.weight x 2" in text
    assert "has no place for 1 weight\n" in text
    assert "found: blocks.0.extra.weight" in text
    assert text.count(f"where: {tmp_path / 'base' / 'transformer'}") == 2


@pytest.mark.parametrize("name", ["transformer/config.json", "vae/config.json", "text_encoder/config.json"])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_config_is_told_with_its_file(name, content, small_base, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(small_base, base)
    (base / name).write_text(content)
    with pytest.raises(WeightsError) as error:
        open_base(str(base)).component(name.split("/")[0], WEIGHT_LAYOUTS)
    assert error.value.problems[0].where == str(base / name)


def test_an_index_that_names_nothing(tmp_path):
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    with pytest.raises(WeightsError, match="names no weight files"):
        open_base(str(tmp_path)).component("transformer", WEIGHT_LAYOUTS)


@pytest.mark.parametrize(("component", "key"), [("vae", "quant_conv.weight"), ("text_encoder", "shared.weight")])
def test_encoders_are_never_filled_in_part(component, key, small_base, tmp_path):
    base = spoil(small_base, tmp_path / "base", component, lambda tensors: tensors.pop(key))
    encoder = open_encoder(str(base), SMALL, "fp32")
    tower = encoder.vae if component == "vae" else encoder.text
    with pytest.raises(WeightsError, match=r"lacks|no layout"):
        tower.load("cpu")
    assert tower.net is None


def test_other_variant_is_refused_by_config_and_by_shape(small_base, tmp_path):
    other = CARD.variants["t2v-1.3b"]
    with pytest.raises(WeightsError) as error:
        open_denoiser(str(small_base), other, "fp32")
    assert "num_attention_heads 2" in str(error.value)
    assert "num_attention_heads 12" in str(error.value)
    save_file(ORIGINAL.from_native(tensors_of(small_base, "transformer")), tmp_path / "a.safetensors")
    wide = {**SMALL.network["transformer"], "ffn_dim": 48}
    variant = replace(SMALL, network={**SMALL.network, "transformer": wide})
    with pytest.raises(WeightsError) as error:
        open_denoiser(str(tmp_path / "a.safetensors"), variant, "fp32")
    assert "another shape" in str(error.value)
    assert "check model.variant" in str(error.value)


def test_nothing_is_read_before_it_is_asked_for(tmp_path):
    encoder = open_encoder(str(tmp_path / "absent"), SMALL, "fp32")
    with pytest.raises(WeightsError, match="does not exist"):
        encoder.text.fingerprint()


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
def test_folder_without_the_component(component, tmp_path):
    with pytest.raises(WeightsError, match=f"the base has no {component}"):
        open_base(str(tmp_path)).component(component, WEIGHT_LAYOUTS)
    with pytest.raises(WeightsError, match="no tokenizer"):
        open_base(str(tmp_path)).folder("tokenizer")


def test_several_candidates_are_a_question(small_base, tmp_path):
    for name in ("one.safetensors", "two.safetensors"):
        save_file(tensors_of(small_base, "transformer"), tmp_path / name)
    with pytest.raises(WeightsError, match="several files"):
        say(tmp_path)


def test_files_that_are_no_weights(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no tensors")
    (tmp_path / "Wan2.1_VAE.pth").write_bytes(b"no tensors")
    with pytest.raises(WeightsError, match="cannot read the weights"):
        say(tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="cannot read the weights"):
        open_encoder(str(tmp_path), SMALL, "fp32").vae.load("cpu")
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="no layout"):
        say(tmp_path / "a.safetensors")


def test_code_in_a_pickle_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"encoder.conv1.weight": Trap()}, tmp_path / "Wan2.1_VAE.pth")
    with pytest.raises(WeightsError, match="cannot read the weights"):
        open_encoder(str(tmp_path), SMALL, "fp32").vae.load("cpu")
    assert not (tmp_path / "sprung").exists()


def test_hub_base(monkeypatch, small_base, expected):
    asked = []

    def fetch(name, revision, allow_patterns):
        asked.append((name, allow_patterns, revision))
        return str(small_base)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert_same(say("someone/some-base"), expected)
    assert asked[0][0] == "someone/some-base"
    assert "transformer/*" in asked[0][1]
    assert "vae/*" not in asked[0][1]
    assert asked[0][2] is None
    assert_same(say("someone/some-base@v2"), expected)
    assert (asked[1][0], asked[1][2]) == ("someone/some-base", "v2")

    def fail(name, revision, allow_patterns):
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(WeightsError, match="cannot fetch the transformer of someone/some-base"):
        say("someone/some-base")


def test_fingerprint_of_a_large_file_sees_its_ends_and_size(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "_PROBE_BYTES", 8)
    path = tmp_path / "a"

    def fingerprint(data):
        path.write_bytes(data)
        return files.file_fingerprint(path)

    data = bytes(range(256)) * 4
    same = fingerprint(data)
    assert fingerprint(data) == same
    assert fingerprint(data[:-1] + b"x") != same
    assert fingerprint(b"x" + data[1:]) != same
    assert fingerprint(data + b"x") != same


@pytest.mark.parametrize(
    ("component", "key", "value"),
    [
        ("transformer", "num_layers", 40),
        ("vae", "temperal_downsample", [False, False, True]),
        ("vae", "dim_mult", [1, 2, 4, 4]),
        ("text_encoder", "num_layers", 24),
        ("text_encoder", "d_kv", 64),
        ("text_encoder", "feed_forward_proj", "relu"),
    ],
)
def test_a_config_that_belies_the_variant_is_refused(component, key, value, small_base, tmp_path):
    """With all weights in place: nothing else would tell that blocks are to be wired otherwise."""
    folder = tmp_path / "base"
    shutil.copytree(small_base, folder)
    place = folder / component / "config.json"
    kept = json.loads(place.read_text())
    vae = {**SMALL.network["vae"], "temperal_downsample": [False, True, True]}
    variant = replace(SMALL, network={**SMALL.network, "vae": vae})

    def load():
        encoder = open_encoder(str(folder), variant, "fp32")
        loads = {"transformer": lambda: open_denoiser(str(folder), variant, "fp32")}
        loads |= {"vae": lambda: encoder.vae.load("cpu"), "text_encoder": lambda: encoder.text.load("cpu")}
        loads[component]()

    place.write_text(json.dumps({**kept, "of_a_later_version": 1}))
    load()
    place.write_text(json.dumps({**kept, key: value}))
    with pytest.raises(WeightsError) as error:
        load()
    (problem,) = error.value.problems
    assert problem.what == f"the base's {component} is not that of Wan small"
    assert problem.found == f"{key} {value}"
    assert problem.where == str(place)


def test_a_config_that_no_network_can_be_made_of_is_told(small_base, tmp_path):
    shutil.copytree(small_base / "transformer", tmp_path / "transformer")
    shutil.copytree(small_base / "vae", tmp_path / "vae")
    for name, odd in (("transformer", {"patch_size": "x"}), ("vae", {"attn_scales": 3, "patch_size": "x"})):
        config = tmp_path / name / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **odd}))
    opened = (
        lambda: open_denoiser(str(tmp_path), SMALL, "fp32"),
        lambda: check_base(str(tmp_path), SMALL),
        lambda: open_encoder(str(tmp_path), SMALL, "fp32").vae.load("cpu"),
    )
    for take in opened:
        with pytest.raises(WeightsError, match="can be made of what its config says") as error:
            take()
        assert "config.json" in error.value.problems[0].where
