"""Wan's pictures: image-to-video and TI2V conditions, the towers behind them, two experts, a whole run of each."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel

from cinelora.base.errors import RecipeError, WeightsError
from cinelora.base.seeds import torch_rng
from cinelora.commands.run_folder import RunFolder
from cinelora.commands.train import train_loaded
from cinelora.config.load import Source, check
from cinelora.contracts.flow import Batch, Bucket, Clip, Record, Slot
from cinelora.families.wan.card import CARD, EXPERTS, TINY, TINY_I2V, TINY_TI2V
from cinelora.families.wan.clip import WanClip
from cinelora.families.wan.denoise import WanDenoiser, build_net, check_base, open_denoiser
from cinelora.families.wan.encode import open_encoder
from cinelora.families.wan.layouts import LORA_LAYOUTS, WEIGHT_LAYOUTS
from cinelora.families.wan.pipeline import open_pipeline
from cinelora.families.wan.places import open_base, open_transformer
from cinelora.lora.files import write_adapter
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from cinelora.lora.prove import prove, take_probe
from cinelora.noise.flow import Flow
from cinelora.noise.options import NoiseOptions
from cinelora.preview.pictures import check_pictures, picture_conditions
from cinelora.preview.sample import Walk, walk
from media.makers import encode, flat_frames

CLIP_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "hidden_act": "gelu",
}


def clip(frames=5, height=32, width=64, seed=0) -> Clip:
    record = Record("s/a", "s", "video", (Path("a.mp4"),), "a", "a.mp4")
    pixels = torch.rand(3, frames, height, width, generator=torch_rng(seed)) * 2 - 1
    return Clip(Slot(record, Bucket(frames, height, width)), pixels, "a", 8.0)


@pytest.fixture(scope="module")
def joining() -> WanDenoiser:
    return open_denoiser("random", TINY_I2V, "fp32")


@pytest.fixture(scope="module")
def placing() -> WanDenoiser:
    return open_denoiser("random", TINY_TI2V, "fp32")


def batch(count=2, frames=3, *, image_frames=3, **more) -> Batch:
    rng = torch_rng("batch")
    conditions = {
        "text": torch.randn(count, 32, 64, generator=rng),
        "image": torch.randn(count, 16, image_frames, 4, 6, generator=rng),
        **more,
    }
    latents = torch.randn(count, 16, frames, 4, 6, generator=rng)
    return Batch(latents, conditions, tuple(str(k) for k in range(count)))


def test_image_to_video_gets_mask_and_latents_behind_its_channels(joining):
    image = joining.condition(batch(), None)["image"]
    assert image.shape == (2, 20, 3, 4, 6)
    assert (image[:, :4, 0] == 1).all()
    assert not image[:, :4, 1:].any()
    assert torch.equal(image[:, 4:], batch().conditions["image"])


def test_pictures_are_left_out_for_the_stated_share(joining, placing, monkeypatch):
    one = batch(400)
    for denoiser, share in ((joining, 0.25), (placing, 0.5)):
        denoiser.text_dropout = 0.0
        monkeypatch.setattr(denoiser, "image_dropout", share)
        one = batch(400, image_frames=3 if denoiser is joining else 1)
        drawn = denoiser.condition(one, torch_rng("share"))
        gone = ~drawn["image"].flatten(1).any(1) if denoiser is joining else drawn["loss_mask"].flatten(1).all(1)
        assert gone.float().mean() == pytest.approx(share, abs=0.07)
        again = denoiser.condition(one, torch_rng("share"))
        assert all(torch.equal(drawn[name], again[name]) for name in drawn)


def test_defaults_of_the_shares(joining, placing):
    assert (joining.image_dropout, placing.image_dropout) == (0.0, 0.5)
    assert not hasattr(open_denoiser("random", replace(TINY, base="random"), "fp32"), "image_dropout")


def test_without_a_picture_or_with_one_frame_nothing_is_given(joining, placing):
    for denoiser in (joining, placing):
        denoiser.text_dropout = 0.0
        still = batch(frames=1, image_frames=1)
        none = replace(batch(), conditions={"text": batch().conditions["text"]})
        for one in (still, none):
            given = denoiser.condition(one, None)
            assert "loss_mask" not in given
            assert denoiser is placing or not given["image"].any()
            assert denoiser.predict(one.latents, torch.tensor([5.0, 900.0]), given).isfinite().all()


def test_what_a_ti2v_is_given_is_clean_has_time_zero_and_is_no_loss(placing):
    one = batch(image_frames=1)
    given = placing.condition(one, None)
    unknown = given["loss_mask"]
    assert (unknown[:, :, 0] == 0).all()
    assert (unknown[:, :, 1:] == 1).all()
    placed = placing.placed(one.latents, given)
    assert torch.equal(placed[:, :, :1], one.conditions["image"])
    assert torch.equal(placed[:, :, 1:], one.latents[:, :, 1:])
    times = placing.token_times(torch.tensor([700.0, 200.0]), unknown)
    assert times.shape == (2, 3 * 2 * 3)
    assert not times[:, :6].any()
    assert (times[0, 6:] == 700).all()
    assert (times[1, 6:] == 200).all()


def test_the_flow_of_what_is_given_leads_to_the_picture(placing):
    """x - sigma flow is the picture, whatever x and sigma are."""
    one = batch(image_frames=1)
    given, t = placing.condition(one, None), torch.tensor([700.0, 200.0])
    flow = placing.predict(one.latents, t, given)
    clean = one.latents - (t / 1000).view(-1, 1, 1, 1, 1) * flow
    torch.testing.assert_close(clean[:, :, :1], one.conditions["image"], rtol=1e-4, atol=1e-4)
    assert torch.equal(flow[:, :, 1:], placing.flow(one.latents, t, given)[:, :, 1:])


def test_a_sampled_ti2v_starts_with_the_picture(placing):
    placing.text_dropout = 0.0
    said = {"text": torch.randn(32, 64, generator=torch_rng("t")), "image": torch.randn(16, 1, 2, 2)}
    how = Walk((16, 3, 2, 2), 4, 3.0, "euler")
    process = Flow(NoiseOptions(shift=2.0))
    found = walk(placing, process, [said], blank={"text": torch.zeros(32, 64)}, seeds=[1], how=how)
    torch.testing.assert_close(found[0, :, :1], said["image"], rtol=1e-3, atol=1e-3)


def test_the_image_tower_puts_grey_behind_the_first_frame():
    encoder = open_encoder("random", TINY_I2V, "fp32")
    (tower,) = encoder.seeing
    one = clip(9)
    (given,) = tower.encode([one])
    grey = one.pixels.clone()
    grey[:, 1:] = 0
    assert torch.equal(given["image"], encoder.vae.encode([replace(one, pixels=grey)])[0]["mean"])
    picture = replace(one, pixels=one.pixels[:, :1])
    assert torch.equal(tower.encode([picture])[0]["image"], given["image"]), "the slot says how long"
    still = clip(1)
    assert not tower.encode([still])[0]["image"].any()


def test_the_image_of_a_ti2v_is_the_first_latent_frame():
    encoder = open_encoder("random", TINY_TI2V, "fp32")
    (tower,) = encoder.seeing
    one = clip(9)
    (given,) = tower.encode([one])
    assert given["image"].shape == (16, 1, 2, 4)
    latents = encoder.vae.encode([one])[0]["mean"]
    assert latents.shape == (16, 3, 2, 4)
    torch.testing.assert_close(given["image"], latents[:, :1], rtol=1e-4, atol=1e-4)


def test_towers_give_what_the_card_declares():
    for variant in (TINY_I2V, TINY_TI2V):
        encoder = open_encoder("random", variant, "fp32")
        gives = [name for tower in encoder.towers() for name in tower.gives]
        assert sorted(gives) == sorted(["mean", "logvar", *variant.conditions])
        assert len({tower.fingerprint() for tower in encoder.towers()}) == 3
    names = [tower.name for tower in open_encoder("random", CARD.variants["i2v-14b-480p"], "bf16").towers()]
    assert names == ["text", "vae", "image", "clip"]


def test_a_preview_picture_is_as_long_as_the_preview(tmp_path):
    Image.fromarray(flat_frames(1, 40, 40)[0]).save(tmp_path / "a.png")
    encoder = open_encoder("random", TINY_I2V, "fp32")
    (seen,) = picture_conditions(encoder, [tmp_path / "a.png"], Bucket(9, 32, 48))
    assert seen["image"].shape == (16, 3, 4, 6)
    with pytest.raises(RecipeError, match="prompt alone"):
        check_pictures(encoder, 0)
    check_pictures(open_encoder("random", TINY_TI2V, "fp32"), 0)


def clip_folder(folder: Path, *, prefix="") -> Path:
    torch.manual_seed(5)
    net = CLIPVisionModel(CLIPVisionConfig(**CLIP_SMALL))
    net.save_pretrained(folder / "image_encoder")
    state = {prefix + name: weight.contiguous() for name, weight in net.state_dict().items()}
    save_file(state, folder / "image_encoder" / "model.safetensors")
    return folder


def test_clip_looks_at_the_first_frame_squeezed(tmp_path):
    one = clip(5)
    towers = [WanClip(open_base(str(clip_folder(tmp_path / str(k), prefix=p))), CLIP_SMALL, "fp32")
              for k, p in enumerate(("", "vision_model."))]  # fmt: skip
    (given,), (older,) = (tower.encode([one]) for tower in towers)
    assert given["clip"].shape == (5, 32)
    assert torch.equal(given["clip"], older["clip"])
    other = replace(one, pixels=torch.cat([one.pixels[:, :1], -one.pixels[:, 1:]], 1))
    assert torch.equal(towers[0].encode([other])[0]["clip"], given["clip"])
    seen = towers[0].seen(torch.ones(1, 3, 40, 60))
    assert seen.shape == (1, 3, 28, 28)
    torch.testing.assert_close(seen[0, :, 3, 3], torch.tensor([1.9303, 2.0749, 2.1459]), rtol=1e-3, atol=1e-3)


def test_a_clip_whose_config_says_other_sizes_is_refused(tmp_path):
    folder = clip_folder(tmp_path / "base")
    with pytest.raises(WeightsError, match="the base's image_encoder is not that of some variant") as error:
        WanClip(open_base(str(folder)), {**CLIP_SMALL, "hidden_act": "quick_gelu"}, "fp32", title="some variant").load(
            "cpu"
        )
    assert error.value.problems[0].found == f"hidden_act {CLIP_SMALL['hidden_act']}"


def test_clip_goes_with_the_picture():
    network = {**TINY_I2V.network["transformer"], "image_dim": 32, "added_kv_proj_dim": 192}
    variant = replace(TINY_I2V, network={**TINY_I2V.network, "transformer": network})
    denoiser = open_denoiser("random", variant, "fp32")
    denoiser.text_dropout, denoiser.image_dropout = 0.0, 0.5
    words = {"text": torch.randn(40, 512, 64), "clip": torch.randn(40, 5, 32)}
    one = batch(40)
    one = replace(one, conditions={**one.conditions, **words})
    given = denoiser.condition(one, torch_rng("clip"))
    shown = given["image"].flatten(1).any(1)
    assert torch.equal(given["clip"].flatten(1).any(1), shown)
    assert 0 < shown.sum() < 40
    whole = {name: tensor[:2] for name, tensor in denoiser.condition(one, None).items()}
    said = denoiser.predict(one.latents[:2], torch.tensor([5.0, 900.0]), whole)
    other = denoiser.predict(one.latents[:2], torch.tensor([5.0, 900.0]), {**whole, "clip": whole["clip"].flip(2)})
    assert not torch.equal(said, other)


@pytest.mark.parametrize("targets", ["attention+ffn", "all-linears"])
def test_adapters_on_the_image_modules_load_in_every_layout(targets, tmp_path):
    """k_img, v_img and the image's projection, in diffusers' own pipeline, too."""
    network = {**TINY_I2V.network["transformer"], "image_dim": 32, "added_kv_proj_dim": 192}
    variant = replace(TINY_I2V, network={**TINY_I2V.network, "transformer": network})
    denoiser = open_denoiser("random", variant, "fp32")
    options = LoraOptions(rank=2, alpha=3.0, targets=targets)
    adapters = inject(denoiser.parts(), options, presets=CARD.lora_presets, default_preset=CARD.default_preset)
    names = adapters.file().modules()
    assert any("add_k_proj" in name for name in names)
    assert any("image_embedder" in name for name in names) == (targets == "all-linears")
    rng = torch_rng("stir")
    with torch.no_grad():
        for weight in adapters.parameters().values():
            weight.add_(0.1 * torch.randn(weight.shape, generator=rng))
    text, clip_tokens = torch.randn(2, 512, 64, generator=rng), torch.randn(2, 5, 32, generator=rng)
    one = batch(text=text, clip=clip_tokens)
    probe = take_probe(denoiser, one.latents, torch.tensor([5.0, 900.0]), denoiser.condition(one, None))
    for layout in LORA_LAYOUTS:
        path = tmp_path / f"{layout.name}.safetensors"
        write_adapter(path, adapters.file(), layout)
        reopen = lambda: open_denoiser("random", variant, "fp32")  # noqa: E731
        proof = prove(path, layout, probe, reopen=reopen, pipeline=open_pipeline)
        assert proof.difference < 1e-3 * proof.effect


@pytest.mark.parametrize("spelt", ["diffusers", "original", "single files"])
def test_each_expert_takes_its_own_file(spelt, tmp_path):
    high, low = (replace(EXPERTS["t2v", e], network={**TINY.network, "expert": e}) for e in ("high", "low"))
    for number, (expert, part) in enumerate((("high", "transformer"), ("low", "transformer_2"))):
        torch.manual_seed(number)
        net = build_net(TINY.network["transformer"])
        net.to_empty(device="cpu")
        state = {name: torch.full_like(weight, float(number)) for name, weight in net.state_dict().items()}
        if spelt == "diffusers":
            net.load_state_dict(state)
            net.save_pretrained(tmp_path / part)
            continue
        named = WEIGHT_LAYOUTS[1].from_native(state)
        place = tmp_path / (f"{expert}_noise_model" if spelt == "original" else "")
        place.mkdir(exist_ok=True)
        name = "diffusion_pytorch_model" if spelt == "original" else f"wan2.2_t2v_{expert}_noise_14B"
        save_file(named, place / f"{name}.safetensors")
    for number, variant in enumerate((high, low)):
        check_base(str(tmp_path), variant)
        tensors = open_transformer(str(tmp_path), variant, WEIGHT_LAYOUTS).tensors()
        assert (tensors["proj_out.bias"] == number).all()


def test_the_other_experts_file_is_told(tmp_path):
    file = tmp_path / "wan2.2_t2v_low_noise_14B.safetensors"
    net = build_net(TINY.network["transformer"]).to_empty(device="cpu")
    save_file(WEIGHT_LAYOUTS[1].from_native(net.state_dict()), file)
    high, low = (replace(EXPERTS["t2v", e], network={**TINY.network, "expert": e}) for e in ("high", "low"))
    check_base(str(file), low)
    with pytest.raises(WeightsError, match="low-noise expert"):
        check_base(str(file), high)


def test_an_expert_that_is_not_there_is_told(tmp_path, small_base):
    low = replace(EXPERTS["t2v", "low"], network={**TINY.network, "expert": "low"})
    with pytest.raises(WeightsError, match="the base has no transformer_2"):
        check_base(str(small_base), low)


def test_experts_share_the_noise_levels_between_them():
    for task, boundary in (("t2v", 0.875), ("i2v", 0.9)):
        high, low = (NoiseOptions(**CARD.variants[f"2.2-{task}-{expert}"].process) for expert in ("high", "low"))
        assert (low.t_min, low.t_max, high.t_min, high.t_max) == (0, boundary, boundary, 1)
        for options, above in ((high, True), (low, False)):
            drawn = Flow(options).noise(torch.zeros(64, 1, 1, 1, 1), torch_rng("levels")).sigma
            assert ((drawn >= boundary) == above).all()


def test_every_variant_names_its_task():
    for name, variant in CARD.variants.items():
        channels = variant.network["transformer"]["in_channels"]
        assert ("i2v" in name) == ("image" in variant.conditions)
        assert ("i2v" in name and "ti2v" not in name) == (channels == 36)
        assert ("clip" in variant.conditions) == ("image_dim" in variant.network["transformer"])


def recipe(folder: Path, variant: str, **preview):
    tables = {
        "model": {"family": "wan", "variant": variant, "dtype": "fp32", "text_dropout": 0.1},
        "data": {"source": [{"path": "clips"}], "cache_dir": "cache", "frames": [9], "size": [32, 64], "held_out": 0},
        "lora": {"rank": 4},
        "method": {"motion_loss": 0.25},
        "train": {"steps": 3, "precision": "fp32", "gradient_checkpointing": False, "save_every_steps": 2, "lr": 1e-3},
        "preview": {"num_steps": 2, "frames": 9, "size": [32, 64], **preview},
    }
    return check(Source(tables), folder=folder, name="r")


@pytest.mark.parametrize("variant", ["tiny-i2v", "tiny-ti2v"])
def test_a_whole_run_caches_trains_previews_and_proves_its_files(variant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    for k in range(2):
        encode(tmp_path / "clips" / f"{k}.mp4", flat_frames(9, 32, 64), fps=8)
        (tmp_path / "clips" / f"{k}.txt").write_text("a flat thing")
    Image.fromarray(flat_frames(1, 40, 40)[0]).save(tmp_path / "start.png")
    loaded = recipe(tmp_path, variant, prompts=["a flat thing", "another"], images=["start.png"])
    folder = RunFolder(tmp_path / "run")
    assert train_loaded(loaded, folder).step == 3
    names = {path.name for path in folder.adapter.glob("*.safetensors")}
    assert {f"r.{layout}.safetensors" for layout in ("diffusers", "comfyui")} <= names
    assert len(list((folder.samples / "step-000003").glob("*.mp4"))) == 2


def test_a_ti2v_previews_from_a_prompt_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    encode(tmp_path / "clips" / "a.mp4", flat_frames(9, 32, 64), fps=8)
    (tmp_path / "clips" / "a.txt").write_text("x")
    folder = RunFolder(tmp_path / "run")
    assert train_loaded(recipe(tmp_path, "tiny-ti2v", prompts=["x"]), folder).step == 3
    assert len(list((folder.samples / "step-000003").glob("*.mp4"))) == 1


@pytest.mark.parametrize("task", ["t2v", "i2v"])
def test_a_model_card_sends_the_low_experts_file_to_its_own_denoiser(task):
    high, low = (CARD.variants[f"2.2-{task}-{expert}"].usage for expert in ("high", "low"))
    assert 'weight_name="{file}", load_into_transformer_2=True)' in low
    assert "transformer_2" not in high
