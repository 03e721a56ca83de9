"""CogVideoX: image-to-video conditions, front padding of 1.5, fixed sizes, drawn bases, a whole run of each task."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cogvideox_bases import write_base
from PIL import Image

from cinelora.base.errors import RecipeError, WeightsError
from cinelora.base.seeds import torch_rng
from cinelora.commands.run_folder import RunFolder
from cinelora.commands.train import train_loaded
from cinelora.config.load import Source, check
from cinelora.contracts.flow import Batch, Bucket, Clip, Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data.bucketing import bucket_for
from cinelora.data.buckets import check_options
from cinelora.data.options import DataOptions
from cinelora.families.cogvideox.card import CARD, I2V_5B, T2V_15, TINY, TINY_I2V
from cinelora.families.cogvideox.denoise import CogVideoXDenoiser, build_net, check_base, open_denoiser
from cinelora.families.cogvideox.encode import NUM_IMAGE_NOISES, open_encoder
from cinelora.families.cogvideox.layouts import LORA_LAYOUTS
from cinelora.media.probe import MediaFacts
from media.makers import encode, flat_frames


def clip(frames=5, height=32, width=48, seed=0) -> Clip:
    record = Record("s/a", "s", "video", (Path("a.mp4"),), "a", "a.mp4")
    pixels = torch.rand(3, frames, height, width, generator=torch_rng(seed)) * 2 - 1
    return Clip(Slot(record, Bucket(frames, height, width)), pixels, "a", 8.0)


@pytest.fixture(scope="module")
def encoder():
    return open_encoder("random", TINY_I2V, "fp32")


@pytest.fixture(scope="module")
def denoiser():
    return open_denoiser("random", TINY_I2V, "fp32")


def test_a_drawn_base_is_the_same_every_time_and_another_for_every_weight():
    first, second = (open_denoiser("random", TINY, "fp32").net.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    a, b = (first[f"transformer_blocks.{k}.attn1.to_q.weight"] for k in (0, 1))
    assert not torch.equal(a, b)
    assert a.std() == pytest.approx(a.shape[1] ** -0.5, rel=0.05)


def test_the_image_is_kept_once_clean_and_many_times_noised(encoder):
    (tower,) = encoder.seeing
    (given,) = tower.encode([clip()], torch_rng("x"))
    assert given["image_mean"].shape == given["image_logvar"].shape == (1 + NUM_IMAGE_NOISES, 16, 4, 6)
    clean, _ = encoder.vae.moments(clip().pixels[:, :1])
    torch.testing.assert_close(given["image_mean"][0], clean[:, 0] * encoder.vae.image_scaling)
    assert len({tuple(version.flatten().tolist()) for version in given["image_mean"]}) == 1 + NUM_IMAGE_NOISES
    (alone,) = tower.encode([clip()])
    assert alone["image_mean"].shape[0] == 1
    assert torch.equal(alone["image_mean"][0], given["image_mean"][0])


def test_noise_on_the_image_has_the_width_of_the_reference(encoder, monkeypatch):
    """ln of the deviation of (noised - clean) pixels is N(-3, 0.5)."""
    seen = []
    monkeypatch.setattr(encoder.vae, "moments", lambda p: seen.append(p) or (torch.zeros(16, 1, 4, 6),) * 2)
    for seed in range(40):
        encoder.seeing[0].encode([clip()], torch_rng("many", seed))
    logs = [(p - clip().pixels[:, :1]).std().log().item() for k, p in enumerate(seen) if k % (1 + NUM_IMAGE_NOISES)]
    assert np.mean(logs) == pytest.approx(-3.0, abs=0.08)
    assert np.std(logs) == pytest.approx(0.5, abs=0.05)


def batch(count=4, frames=3) -> Batch:
    rng = torch_rng("batch")
    conditions = {
        "text": torch.randn(count, 32, 32, generator=rng),
        "image_mean": torch.randn(count, 5, 16, 4, 6, generator=rng),
        "image_logvar": torch.full((count, 5, 16, 4, 6), -30.0),
    }
    return Batch(torch.zeros(count, 16, frames, 4, 6), conditions, tuple("abcd"[:count]))


def test_each_step_draws_an_image_and_drops_some(denoiser):
    one, seen, dropped = batch(), set(), 0
    denoiser.image_dropout = 0.25
    for step in range(200):
        image = denoiser.condition(one, torch_rng("step", step))["image"]
        assert image.shape == (4, 16, 3, 4, 6)
        assert not image[:, :, 1:].any()
        for k in range(4):
            near = [(image[k, :, 0] - version).abs().max() < 1e-4 for version in one.conditions["image_mean"][k]]
            assert sum(near) <= 1
            assert any(near) or not image[k].any()
            dropped += not any(near)
            seen |= {number for number, is_near in enumerate(near) if is_near}
    assert seen == {1, 2, 3, 4}, "number 0 is the clean one, for previews"
    assert dropped / 800 == pytest.approx(0.25, abs=0.06)
    whole = denoiser.condition(one, None)["image"]
    torch.testing.assert_close(whole[:, :, 0], one.conditions["image_mean"][:, 0])


def test_without_a_picture_there_is_none(denoiser):
    one = replace(batch(), conditions={"text": batch().conditions["text"]})
    assert not denoiser.condition(one, None)["image"].any()


def fifteen() -> CogVideoXDenoiser:
    network = {**TINY.network["transformer"], "patch_size_t": 2, "patch_bias": False, "in_channels": 32}
    network |= {"use_rotary_positional_embeddings": True, "ofs_embed_dim": 64}
    net = build_net(network)
    net.to_empty(device="cpu")
    torch.manual_seed(0)
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    return CogVideoXDenoiser(net)


def test_odd_latents_of_15_get_a_copy_in_front_and_lose_it_again():
    one = fifteen()
    odd, even = torch.randn(1, 16, 3, 4, 6), torch.randn(1, 16, 4, 4, 6)
    assert one.arranged(odd).shape[2] == 4
    assert torch.equal(one.arranged(odd)[:, :, 0], odd[:, :, 0])
    assert torch.equal(one.restored(one.arranged(odd), 3), odd)
    assert torch.equal(one.arranged(even), even)
    given = one.condition(batch(2), None)
    assert torch.equal(given["image"][:, :, 0], given["image"][:, :, 1]), "the image stands in both"
    said = one.predict(one.arranged(odd).expand(2, -1, -1, -1, -1), torch.tensor([5.0, 900.0]), given)
    assert said.shape == (2, 16, 4, 4, 6)


def test_image_latents_of_15_are_scaled_by_the_inverse():
    variant = replace(TINY_I2V, network={**TINY_I2V.network, "vae": {**TINY_I2V.network["vae"]}})
    variant.network["vae"]["invert_scale_latents"] = True
    one = open_encoder("random", variant, "fp32")
    assert one.vae.image_scaling == pytest.approx(1 / one.vae.scaling)
    assert T2V_15.network["vae"]["invert_scale_latents"]


def test_even_numbers_of_latent_frames_decode_to_the_clips_length(encoder):
    for frames in (1, 5, 9, 13):
        latents = encoder.vae.encode([clip(frames)])[0]["mean"]
        assert encoder.decode(latents[None]).shape == (1, 3, frames, 32, 48)


def test_a_base_of_the_other_task_is_told_before_anything_is_encoded(tmp_path):
    base = write_base(tmp_path, dict(TINY.network))
    check_base(str(base), TINY)
    with pytest.raises(WeightsError, match="in_channels 16"):
        check_base(str(base), TINY_I2V)


def test_learned_positions_take_their_own_size_alone():
    options = DataOptions(source=[{"path": "x"}], frames=[17, 49], size=[256, 256])
    with pytest.raises(RecipeError) as caught:
        check_options(options, I2V_5B.geometry)
    assert [p.where for p in caught.value.problems] == ["data.frames", "data.size"]
    geometry = Geometry(fps=8, frames=9, height=32, width=48, only_own_size=True)
    plain = DataOptions(source=[{"path": "x"}])
    long = MediaFacts("video", 96, 64, 20, 8.0, 2.5, np.arange(20) / 8, np.arange(20))
    assert bucket_for(long, plain, geometry) == Bucket(9, 32, 48)
    short = MediaFacts("video", 96, 64, 6, 8.0, 0.75, np.arange(6) / 8, np.arange(6))
    found = bucket_for(short, plain, geometry)
    assert (found.found, found.allowed) == ("5x32x48", "9x32x48")
    small = MediaFacts("video", 40, 30, 20, 8.0, 2.5, np.arange(20) / 8, np.arange(20))
    assert "own size" in bucket_for(small, plain, geometry).what


def recipe(folder: Path, variant: str, **preview):
    tables = {
        "model": {"family": "cogvideox", "variant": variant, "dtype": "fp32", "text_dropout": 0.1},
        "data": {"source": [{"path": "clips"}], "cache_dir": "cache", "frames": [5], "size": [32, 48], "held_out": 0},
        "lora": {"rank": 4},
        "train": {"steps": 3, "precision": "fp32", "gradient_checkpointing": False, "save_every_steps": 2, "lr": 1e-3},
        "preview": {"num_steps": 2, "frames": 5, "size": [32, 48], **preview},
    }
    return check(Source(tables), folder=folder, name="r")


@pytest.mark.parametrize("variant", ["tiny", "tiny-i2v"])
def test_a_whole_run_caches_trains_previews_and_proves_its_files(variant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    for k in range(2):
        encode(tmp_path / "clips" / f"{k}.mp4", flat_frames(5, 32, 48), fps=8)
        (tmp_path / "clips" / f"{k}.txt").write_text("a flat thing")
    Image.fromarray(flat_frames(1, 40, 40)[0]).save(tmp_path / "start.png")
    pictures = {"images": ["start.png"]} if variant.endswith("i2v") else {}
    loaded = recipe(tmp_path, variant, prompts=["a flat thing", "another"], **pictures)
    folder = RunFolder(tmp_path / "run")
    result = train_loaded(loaded, folder)
    assert result.step == 3
    names = {path.name for path in folder.adapter.glob("*.safetensors")}
    assert {f"r.{layout.split(':')[0]}.safetensors" for layout in ("diffusers", "comfyui")} <= names
    assert len(list((folder.samples / "step-000003").glob("*.mp4"))) == 2


def test_pictures_are_asked_for_where_they_are_needed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    encode(tmp_path / "clips" / "a.mp4", flat_frames(5, 32, 48), fps=8)
    (tmp_path / "clips" / "a.txt").write_text("x")
    with pytest.raises(RecipeError, match=r"preview\.images"):
        train_loaded(recipe(tmp_path, "tiny-i2v", prompts=["x"]), RunFolder(tmp_path / "one"))
    with pytest.raises(RecipeError, match="missing"):
        train_loaded(recipe(tmp_path, "tiny-i2v", prompts=["x"], images=["gone.png"]), RunFolder(tmp_path / "two"))
    with pytest.raises(RecipeError, match="takes no pictures"):
        train_loaded(recipe(tmp_path, "tiny", prompts=["x"], images=["gone.png"]), RunFolder(tmp_path / "three"))


def test_every_variant_names_its_task():
    for name, variant in CARD.variants.items():
        channels = variant.network["transformer"].get("in_channels", 16)
        assert ("i2v" in name) == (channels == 32) == ("image_mean" in variant.conditions)


def test_comfyui_files_name_the_modules_of_its_own_network():
    """As ComfyUI's model has them: blocks.N.q, attn_out, ff_proj ..., each behind diffusion_model."""
    comfyui = next(layout for layout in LORA_LAYOUTS if layout.name == "comfyui")
    names = {
        "transformer_blocks.3.attn1.to_q": "blocks.3.q",
        "transformer_blocks.3.attn1.to_k": "blocks.3.k",
        "transformer_blocks.3.attn1.to_v": "blocks.3.v",
        "transformer_blocks.3.attn1.to_out.0": "blocks.3.attn_out",
        "transformer_blocks.3.ff.net.0.proj": "blocks.3.ff_proj",
        "transformer_blocks.3.ff.net.2": "blocks.3.ff_out",
        "transformer_blocks.3.norm1.linear": "blocks.3.norm1.linear",
        "time_embedding.linear_1": "time_embedding_linear_1",
        "ofs_embedding.linear_2": "ofs_embedding_linear_2",
        "patch_embed.text_proj": "patch_embed.text_proj",
        "norm_out.linear": "norm_out.linear",
        "proj_out": "proj_out",
    }
    weight = torch.zeros(1)
    for ours, theirs in names.items():
        (found,) = comfyui.from_native({f"transformer.{ours}.lora_A.weight": weight})
        assert found == f"diffusion_model.{theirs}.lora_A.weight"


def test_a_walk_of_another_process_is_told_before_anything_is_encoded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips").mkdir()
    encode(tmp_path / "clips" / "a.mp4", flat_frames(5, 32, 48), fps=8)
    (tmp_path / "clips" / "a.txt").write_text("x")
    with pytest.raises(RecipeError, match=r"preview\.sampler|ddim, dpm-sde"):
        train_loaded(recipe(tmp_path, "tiny", prompts=["x"], sampler="unipc"), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "run").exists()
