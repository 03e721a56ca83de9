import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
from transformers import AutoTokenizer, UMT5EncoderModel
from wan_bases import SMALL

from cinelora.base.errors import WeightsError
from cinelora.contracts.flow import Bucket, Clip
from cinelora.families.wan.encode import clean, open_encoder

SMALL_I2V = replace(SMALL, conditions={**SMALL.conditions, "image": "16 T H W"})
CAPTIONS = ["a small  red\ncircle &amp;amp; a square", "", "x" * 200, "cafÃ© at night"]


def clip(caption="", frames=5):
    pixels = torch.rand(3, frames, 32, 32, generator=torch.Generator().manual_seed(frames)) * 2 - 1
    return Clip(SimpleNamespace(name="a"), pixels, caption, 8.0)


@pytest.fixture(scope="module")
def encoder(small_base):
    return open_encoder(str(small_base), SMALL, "fp32")


def test_clean():
    assert clean(CAPTIONS[0]) == "a small red circle & a square"
    assert clean("  cafÃ© ") == "café"


def test_text_is_what_the_diffusers_pipeline_makes(encoder, small_base):
    pipeline = WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(small_base / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(small_base / "text_encoder"),
        vae=None,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    wanted, _ = pipeline.encode_prompt(CAPTIONS, do_classifier_free_guidance=False, max_sequence_length=32)
    found = torch.stack([one["text"] for one in encoder.text.encode([clip(caption) for caption in CAPTIONS])])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    used = found.abs().sum(-1) > 0
    assert used.sum(-1).tolist()[1:3] == [1, 32]


def test_a_damaged_tokenizer_is_told_with_its_folder(small_base, tmp_path):
    shutil.copytree(small_base, tmp_path / "base")
    (tmp_path / "base" / "tokenizer" / "tokenizer.json").write_text("{")
    (tmp_path / "base" / "tokenizer" / "tokenizer_config.json").write_text("{")
    tower = open_encoder(str(tmp_path / "base"), SMALL, "fp32").text
    with pytest.raises(WeightsError) as error:
        tower.encode([clip("a")])
    assert error.value.problems[0].where == str(tmp_path / "base" / "tokenizer")


def test_moments_are_those_of_diffusers_both_normalised(encoder, small_base):
    vae = AutoencoderKLWan.from_pretrained(small_base / "vae")
    found = encoder.vae.encode([clip()])[0]
    with torch.no_grad():
        posterior = vae.encode(clip().pixels[None]).latent_dist
    shift, width = (
        torch.tensor(part).view(1, -1, 1, 1, 1) for part in (vae.config.latents_mean, vae.config.latents_std)
    )
    torch.testing.assert_close(found["mean"], ((posterior.mean - shift) / width)[0], rtol=1e-4, atol=1e-5)
    eps = torch.randn_like(posterior.mean)
    raw = posterior.mean + posterior.std * eps
    ours = found["mean"] + torch.exp(found["logvar"] / 2) * eps[0]
    torch.testing.assert_close(ours, ((raw - shift) / width)[0], rtol=1e-4, atol=1e-4)


def test_decoding_undoes_the_normalisation(encoder, small_base):
    vae = AutoencoderKLWan.from_pretrained(small_base / "vae")
    with torch.no_grad():
        wanted = vae.decode(vae.encode(clip(frames=9).pixels[None]).latent_dist.mean).sample
    found = encoder.decode(encoder.vae.encode([clip(frames=9)])[0]["mean"][None])
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_low_precision_gives_fp32_tensors(small_base):
    encoder = open_encoder(str(small_base), SMALL, "bf16")
    encoded = encoder.encode([clip("a circle")])[0]
    assert {t.dtype for t in (encoded.mean, encoded.logvar, encoded.conditions["text"])} == {torch.float32}
    assert (encoder.text.net.dtype, encoder.vae.net.dtype) == (torch.bfloat16, torch.float32)
    assert encoder.decode(encoded.mean[None]).dtype == torch.float32


def test_precision_and_tiling_change_the_fingerprint(small_base):
    one, other = (open_encoder(str(small_base), SMALL, dtype) for dtype in ("fp32", "bf16"))
    prints = [tower.fingerprint() for tower in (*one.towers(), *other.towers())]
    one.vae.tiling = True
    assert prints[1] == prints[3]  # the autoencoder computes in fp32 in both
    assert len({*prints, one.vae.fingerprint()}) == 4


def test_tiling_splits_large_clips(small_base):
    encoder = open_encoder(str(small_base), SMALL, "fp32")
    encoder.vae.tiling = True
    encoder.vae.load("cpu")
    encoder.vae.net.enable_tiling(32, 32, 16, 16)
    large = Clip(SimpleNamespace(name="a"), torch.rand(3, 1, 64, 64) * 2 - 1, "", 8.0)
    tiled = encoder.vae.encode([large])[0]["mean"]
    whole = open_encoder(str(small_base), SMALL, "fp32").vae.encode([large])[0]["mean"]
    assert tiled.shape == whole.shape == (16, 1, 8, 8)
    assert not torch.equal(tiled, whole)


def test_blank_leaves_the_tower_as_it_was(small_base):
    encoder = open_encoder(str(small_base), SMALL, "fp32")
    blank = encoder.blank()["text"]
    assert encoder.text.net is None
    assert (blank.abs().sum(-1) > 0).sum() == 1
    kept = open_encoder(str(small_base), SMALL, "fp32")
    kept.text.load("cpu")
    kept.blank()
    assert kept.text.net is not None


def test_latents_as_videox_draws_them(small_base):
    """Log-variances as the autoencoder gives them; a picture to start from is drawn with them, but not in previews."""
    sound, compat = (open_encoder(str(small_base), SMALL_I2V, "fp32") for _ in range(2))
    compat.vae.compat = "videox"
    deviation = torch.tensor(AutoencoderKLWan.from_pretrained(small_base / "vae").config.latents_std).view(-1, 1, 1, 1)
    (mean, logvar), (other_mean, other) = (one.vae.moments(clip().pixels) for one in (sound, compat))
    torch.testing.assert_close(other_mean, mean)
    torch.testing.assert_close(other, logvar + 2 * deviation.log())
    assert sound.vae.fingerprint() != compat.vae.fingerprint()

    image, drawing = (next(tower for tower in one.towers() if tower.name == "image") for one in (sound, compat))
    assert (image.draws, drawing.draws) == (False, True)
    assert image.fingerprint() != drawing.fingerprint()
    slot = SimpleNamespace(name="a", bucket=Bucket(5, 32, 32))
    shown = Clip(slot, clip().pixels, "", 8.0)
    (plain,) = image.encode([shown], torch.Generator().manual_seed(0))
    (unseen,) = drawing.encode([shown], None)
    torch.testing.assert_close(unseen["image"], plain["image"])
    (drawn,) = drawing.encode([shown], torch.Generator().manual_seed(0))
    behind = torch.cat([shown.pixels[:, :1], torch.zeros(3, 4, 32, 32)], 1)
    width = torch.exp(0.5 * sound.vae.moments(behind)[1]) * deviation
    noise = torch.randn(plain["image"].shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn["image"], plain["image"] + width * noise)
