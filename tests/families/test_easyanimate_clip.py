"""The picture of v3's and v4's inpaint networks: scale, frames, what is taken of CLIP, and how often it is hidden."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip import CLIPImageProcessorPil

from cinelora.base.errors import WeightsError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch, Clip
from cinelora.contracts.roles import Tower
from cinelora.families.easyanimate import denoise
from cinelora.families.easyanimate.clip import NUM_FRAMES, ClipLayout, ClipTower, clip_mask, drawn_frame, seen
from cinelora.families.easyanimate.denoise import EasyAnimateDenoiser
from cinelora.nets.weights import Base

NETWORK = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "projection_dim": 8,
}


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CLIPVisionModelWithProjection(CLIPVisionConfig(**NETWORK)).eval()


@pytest.fixture
def base(net, tmp_path):
    folder = tmp_path / "image_encoder"
    folder.mkdir()
    places = {"vision_model.embeddings.position_ids": torch.arange(5)[None]}
    told = {"architectures": ["CLIPVisionModelWithProjection"], "dtype": "float16", **NETWORK}
    (folder / "config.json").write_text(json.dumps(told))
    save_file({**net.state_dict(), **places}, folder / "model.safetensors")
    return Base(str(tmp_path))


def clip_of(frames=5):
    pixels = torch.rand(3, frames, 40, 56, generator=torch_rng("clip")) * 2 - 1
    return Clip(SimpleNamespace(), pixels, "", 8.0)


def test_pictures_are_scaled_as_by_clips_own_processor():
    levels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    picture = np.array(Image.fromarray(levels).resize((90, 60), Image.Resampling.BICUBIC))
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    wanted = torch.as_tensor(processor(picture, return_tensors="pt")["pixel_values"])
    found = seen(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1, 28)
    assert found.shape == (1, 3, 28, 28)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02)  # theirs are rounded to 256 levels


@pytest.mark.parametrize(("patches", "shape"), [(False, (8,)), (True, (4, 16))])
def test_what_is_taken_of_clip(base, net, patches, shape):
    tower, clip = ClipTower(base, {"hidden_size": 16}, "fp32", patches=patches), clip_of()
    assert isinstance(tower, Tower)
    first = tower.encode([clip])[0]["clip"]
    assert first.shape == (1, *shape)
    with torch.no_grad():
        said = net(seen(clip.pixels[:, 0][None], 28))
    torch.testing.assert_close(first[0], said.last_hidden_state[0, 1:] if patches else said.image_embeds[0])
    several = tower.encode([clip], torch_rng(4))[0]["clip"]
    assert several.shape == (1 + NUM_FRAMES, *shape)
    torch.testing.assert_close(several[:1], first)
    assert torch.equal(several, tower.encode([clip], torch_rng(4))[0]["clip"])
    other = ClipTower(base, NETWORK, "fp32", patches=not patches)
    assert other.fingerprint() != tower.fingerprint()
    tower.unload()
    assert tower.net is None


def test_another_image_encoder_is_refused(base):
    with pytest.raises(WeightsError, match="hidden_size 16"):
        ClipTower(base, {"hidden_size": 1024}, "fp32", patches=True).load("cpu")


@pytest.mark.parametrize("said", [{"hidden_act": "zzz"}, {"hidden_act": 5}, {"layer_norm_eps": "small"}])
def test_a_config_of_which_nothing_can_be_made_is_told(said, base, tmp_path):
    (tmp_path / "image_encoder" / "config.json").write_text(json.dumps({**NETWORK, **said}))
    with pytest.raises(WeightsError, match="image_encoder") as caught:
        ClipTower(base, {}, "fp32", patches=True).load("cpu")
    assert caught.value.problems[0].where == str(tmp_path / "image_encoder" / "config.json")


def test_half_of_the_frames_are_the_first():
    rng = torch_rng("frames")
    drawn = torch.tensor([drawn_frame(5, rng) for _ in range(2000)])
    shares = torch.bincount(drawn, minlength=5) / 2000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.125, 0.125, 0.125, 0.125]), rtol=0, atol=0.03)
    assert drawn_frame(1, rng) == 0


def test_the_picture_is_hidden_from_whole_batches():
    masks = [clip_mask(3, 4, torch_rng("mask", k)) for k in range(300)]
    assert all(mask.shape == (3, 4) and mask.unique().numel() == 1 for mask in masks)
    assert sum(float(mask[0, 0]) for mask in masks) / 300 == pytest.approx(0.5, abs=0.1)
    assert clip_mask(2, 8, None).eq(1).all()


def test_other_networks_are_not_read():
    assert not ClipLayout().reads(["vision_model.encoder.layers.0.mlp.fc1.weight"])
    assert not ClipLayout().reads(["visual_projection.weight"])


def test_previews_look_at_the_picture_in_the_last_part_of_the_way():
    asked = []

    class Net(torch.nn.Module):
        config = SimpleNamespace(in_channels=12, n_query=4)

    denoiser = EasyAnimateDenoiser(Net(), "HunyuanTransformer3DModel", latent_channels=4, text_dropout=0.0)
    one = Batch(torch.zeros(2, 4, 2, 8, 8), {"clip": torch.ones(2, 5, 9, 16)}, ("a", "b"))
    still, drawn = denoiser.condition(one, None), denoiser.condition(one, torch_rng("step", 1))
    assert "clip_below" not in drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoise, "predict", lambda net, x, t, conditions, kind: asked.append(conditions["clip_mask"]))
        denoiser.predict(one.latents, torch.tensor([399.0, 400.0]), still)
        denoiser.predict(one.latents, torch.tensor([399.0, 999.0]), {**drawn, "clip_mask": torch.ones(2, 4)})
    assert asked[0].tolist() == [[1.0] * 4, [0.0] * 4]
    assert asked[1].eq(1).all()
