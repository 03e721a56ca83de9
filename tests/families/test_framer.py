"""Framer: networks from every kind of base, what is given and left out, what learns, folders, previews."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from framer_bases import stirred, write_svd, write_towers
from peft import PeftModel
from safetensors.torch import load_file, save_file

from cinelora.base.errors import Problem, RecipeError, RunError, WeightsError
from cinelora.base.log import logger
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch, Bucket, Clip, Record, Slot, Tracks
from cinelora.families.framer import opening
from cinelora.families.framer.card import CARD, OWN, OWN_TRACKS, SVD_TRACKS, TINY, TINY_TRACKS
from cinelora.families.framer.controlnet import FramerControlNet
from cinelora.families.framer.denoise import FramerDenoiser
from cinelora.families.framer.encode import NUM_NOISED, SAMPLING_NOISE, open_encoder
from cinelora.families.framer.folders import read_adapters, write_adapters, write_network
from cinelora.families.framer.layouts import PeftLora
from cinelora.families.framer.unet import FramerUNet
from cinelora.lora.inject import attach, inject
from cinelora.lora.options import LoraOptions
from cinelora.lora.targets import sizes
from cinelora.nets.tracks import SHAPE, packed
from cinelora.nets.weights import Base
from cinelora.noise.karras import EdmSampler
from cinelora.noise.options import NoiseOptions
from cinelora.noise.registry import open_process
from cinelora.preview.sample import Walk, walk

TINY_SVD = replace(TINY_TRACKS, network={**TINY_TRACKS.network, "fresh_controlnet": True})


def clip(frames=3, height=32, width=48, *, seed=0, fps=7.0, tracks=None) -> Clip:
    record = Record("s/a", "s", "video", (Path("a.mp4"),), "", "a.mp4")
    pixels = torch.rand(3, frames, height, width, generator=torch_rng(seed)) * 2 - 1
    return Clip(Slot(record, Bucket(frames, height, width)), pixels, "", fps, tracks=tracks)


def moving(frames=3) -> Tracks:
    """Two points that cross the picture."""
    steps = torch.arange(frames).view(-1, 1, 1).double()
    points = (torch.tensor([[[6.0, 8.0], [30.0, 20.0]]]) + steps * torch.tensor([[[6.0, 3.0], [-5.0, 2.0]]])).numpy()
    return Tracks(points, points[..., 0] > 0)


def batch(count=4, frames=3, *, versions=3, tracked=(), size=(4, 6)) -> Batch:
    rng = torch_rng("batch")
    conditions = {
        "embeds": torch.randn(count, 2, 16, generator=rng),
        "ends": torch.randn(count, versions, 4, 2, *size, generator=rng),
        "ids": torch.stack([torch.full((count, versions), 6.0), torch.rand(count, versions, generator=rng)], 2),
    }
    if tracked is not None:
        kept = [packed(moving(frames) if k in tracked else None, frames) for k in range(count)]
        conditions["tracks"] = torch.stack(kept)
    latents = torch.randn(count, 4, frames, *size, generator=rng)
    return Batch(latents, conditions, tuple(f"clip {k}" for k in range(count)))


@pytest.fixture
def denoiser(framer_base):
    return opening.open_denoiser(str(framer_base), TINY_TRACKS, "fp32")


@pytest.fixture(scope="session")
def svd_base(tmp_path_factory) -> Path:
    return write_svd(tmp_path_factory.mktemp("svd"), dict(TINY.network))


@pytest.fixture
def told(caplog):
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger=logger.name)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_full_networks_have_the_published_sizes():
    parts = opening.skeleton(OWN_TRACKS)
    assert {name: sum(w.numel() for w in part.parameters()) for name, part in parts.items()} == {
        "unet": 1_524_625_966,
        "controlnet": 682_024_417,
    }
    assert len(parts["unet"].state_dict()) == 1429
    chosen = sizes("unet", parts["unet"], LoraOptions(rank=64, targets=CARD.default_preset), CARD.lora_presets)
    assert len(chosen) == 352
    linears = dict(parts["unet"].named_modules())
    total = sum(64 * (linears[name].in_features + linears[name].out_features) for name in chosen)
    assert total == 52_117_504
    assert not any("ff_in" in name or "time_pos_embed" in name for name in chosen)


def test_the_card_says_what_towers_of_tracks_give():
    assert OWN_TRACKS.conditions["tracks"] == SVD_TRACKS.conditions["tracks"] == SHAPE
    assert "tracks" not in OWN.conditions
    assert [tower.name for tower in open_encoder("random", OWN_TRACKS, "fp32").towers()][-1] == "tracks"
    assert not OWN.geometry.fits_frames(1)
    assert OWN.geometry.floor_frames(1) == 0
    assert [OWN.geometry.floor_frames(n) for n in (2, 3, 40)] == [2, 3, 25]


def test_plain_svd_becomes_framer_and_says_so(svd_base, told):
    denoiser = opening.open_denoiser(str(svd_base), TINY_SVD, "fp32")
    assert "mask token, both zero" in told.text
    assert "ControlNet is new" in told.text
    opening.check_base(str(svd_base), TINY_SVD)
    theirs = UNetSpatioTemporalConditionModel.from_pretrained(svd_base / "unet")
    x, embeds, ids = torch.randn(1, 3, 4, 4, 6), torch.randn(1, 2, 16), torch.tensor([[6.0, 127.0, 0.02]])
    ends, t = torch.randn(1, 4, 2, 4, 6), torch.tensor([0.3])
    given = torch.cat([ends[:, :, 0], torch.zeros(1, 4, 4, 6), ends[:, :, 1]]).unsqueeze(0)
    with torch.no_grad():
        wanted = theirs(torch.cat([x, given], 2), t, embeds, ids).sample
        found = denoiser.predict(x.transpose(1, 2), t, {"embeds": embeds, "ends": ends, "ids": ids})
    torch.testing.assert_close(found.transpose(1, 2), wanted, rtol=1e-4, atol=1e-5)


def test_a_fresh_controlnet_adds_nothing_and_can_learn(svd_base):
    denoiser = opening.open_denoiser(str(svd_base), TINY_SVD, "fp32")
    one = batch(2, tracked=(0, 1))
    with_maps = denoiser.condition(one, torch_rng("c"))
    without = {name: value for name, value in with_maps.items() if name not in ("maps", "control")}
    t = torch.tensor([0.1, -0.2])
    answers = [denoiser.predict(one.latents, t, conditions) for conditions in (with_maps, without)]
    assert torch.equal(*answers)
    assert with_maps["maps"].amax() > 100, "grey levels go in as they are"
    own, unet = denoiser.controlnet.state_dict(), denoiser.unet.state_dict()
    shared = [name for name in own if name in unet]
    assert {name.partition(".")[0] for name in shared} == {
        "conv_in", "time_embedding", "add_embedding", "down_blocks", "mid_block",
    }  # fmt: skip
    assert all(torch.equal(own[name], unet[name]) for name in shared)
    for weight in denoiser.controlnet.parameters():
        weight.requires_grad_(True)
    denoiser.predict(one.latents, t, with_maps).square().mean().backward()
    opened = [name for name, weight in denoiser.controlnet.named_parameters() if weight.grad.any()]
    assert opened
    assert all(name.startswith(("controlnet_down_blocks.", "controlnet_mid_block.")) for name in opened)


@pytest.mark.parametrize(
    ("modes", "learning"),
    [
        ({"unet": "lora", "controlnet": "frozen"}, {"unet"}),
        ({"unet": "frozen", "controlnet": "full"}, {"controlnet"}),
        ({"unet": "frozen", "controlnet": "lora"}, {"controlnet"}),
        ({"unet": "lora", "controlnet": "full"}, {"unet", "controlnet"}),
        ({"unet": "lora", "controlnet": "lora"}, {"unet", "controlnet"}),
    ],
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_is_to_learn_gets_gradients(framer_base, modes, learning, dtype):
    denoiser = opening.open_denoiser(str(framer_base), TINY_TRACKS, dtype)
    options = LoraOptions(rank=4, parts=modes)
    adapters = inject(denoiser.parts(), options, presets=CARD.lora_presets, default_preset=CARD.default_preset)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, weight in adapters.parameters().items():
            if ".lora_" in name:
                weight.add_(0.1 * torch.randn_like(weight))
    process, one = open_process(NoiseOptions(**TINY.process)), batch(2, tracked=(0,))
    noised = process.noise(one.latents, torch_rng("n"))
    denoiser.image_dropout = 0.0
    answer = denoiser.predict(noised.x, noised.t, denoiser.condition(one, torch_rng("c")))
    process.loss(answer, noised, one).value.backward()
    silent = {name for name, weight in adapters.parameters().items() if weight.grad is None or not weight.grad.any()}
    assert silent == set()
    assert {name.partition(".")[0] for name in adapters.parameters()} == learning
    assert {weight.grad.dtype for weight in adapters.parameters().values()} == {torch.float32}
    of_base = [n for p in denoiser.parts().values() for n, w in p.named_parameters() if w.grad is not None]
    assert len(of_base) == len(adapters.parameters())


def test_clips_without_tracks_get_nothing_of_the_controlnet(denoiser):
    t = torch.tensor([0.1, -0.2])
    one = batch(2, tracked=(1,))
    conditions = denoiser.condition(one, torch_rng("c"))
    assert conditions["control"].tolist() == [0, 1]
    assert conditions["maps"].shape == (2, 3, 3, 32, 48)
    found = denoiser.predict(one.latents, t, conditions)
    bare = {name: value for name, value in conditions.items() if name not in ("maps", "control")}
    plain = denoiser.predict(one.latents, t, bare)
    torch.testing.assert_close(found[0], plain[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[1], plain[1], atol=1e-2)


def test_a_batch_without_tracks_still_reaches_a_controlnet_that_learns_alone(denoiser):
    options = LoraOptions(parts={"unet": "frozen", "controlnet": "full"})
    adapters = inject(denoiser.parts(), options, presets=CARD.lora_presets, default_preset=CARD.default_preset)
    one, t = batch(2), torch.tensor([0.1, -0.2])
    denoiser.predict(one.latents, t, denoiser.condition(one, torch_rng("c"))).square().mean().backward()
    assert not any(weight.grad.any() for weight in adapters.parameters().values())
    assert "maps" not in denoiser.condition(one, None), "held-out losses and previews are not slowed down"


def test_each_step_draws_a_version_and_leaves_some_out(denoiser):
    one, seen = batch(4, versions=4), set()
    counts = dict.fromkeys(("whole", "embeds", "ends", "both"), 0)
    for step in range(300):
        found = denoiser.condition(one, torch_rng("step", step))
        assert found["ids"][:, 0].tolist() == [6.0] * 4
        assert found["ids"][:, 1].tolist() == [127.0] * 4
        for k in range(4):
            (number,) = torch.nonzero(one.conditions["ids"][k, :, 1] == found["ids"][k, 2])[0].tolist()
            seen.add(number)
            no_embeds, no_ends = not found["embeds"][k].any(), not found["ends"][k].any()
            if not no_embeds:
                assert torch.equal(found["embeds"][k], one.conditions["embeds"][k])
            if not no_ends:
                assert torch.equal(found["ends"][k], one.conditions["ends"][k, number])
            counts["both" if no_embeds and no_ends else "embeds" if no_embeds else "ends" if no_ends else "whole"] += 1
    assert seen == {1, 2, 3}, "number 0 is the one of sampling"
    for name, share in {"whole": 0.7, "embeds": 0.1, "ends": 0.1, "both": 0.1}.items():
        assert counts[name] / 1200 == pytest.approx(share, abs=0.035), name
    whole = denoiser.condition(one, None)
    assert torch.equal(whole["ends"], one.conditions["ends"][:, 0])
    assert torch.equal(whole["embeds"], one.conditions["embeds"])


def test_the_networks_see_the_mask_token_between_the_ends(denoiser):
    x, ends = torch.randn(2, 4, 5, 4, 6), torch.randn(2, 4, 2, 4, 6)
    joined = denoiser.joined(x, ends)
    assert joined.shape == (2, 5, 9, 4, 6)
    assert torch.equal(joined[:, :, :4], x.transpose(1, 2))
    assert torch.equal(joined[:, 0, 4:8], ends[:, :, 0])
    assert torch.equal(joined[:, -1, 4:8], ends[:, :, 1])
    token = denoiser.unet.mask_token[0, 0].expand(4, 4, 6)
    assert all(torch.equal(joined[b, f, 4:8], token) for b in range(2) for f in (1, 2, 3))
    assert joined[:, :, 8].flatten(2).unique(dim=2).squeeze(2).tolist() == [[0, 1, 1, 1, 0]] * 2
    assert denoiser.joined(x[:, :, :2], ends)[:, :, 8].sum() == 0


def test_sizes_that_do_not_halve_evenly_and_every_number_of_frames_work(denoiser):
    for frames, size in ((2, (5, 7)), (4, (4, 5)), (25, (3, 3))):
        one = batch(1, frames, size=size, tracked=(0,))
        out = denoiser.predict(one.latents, torch.tensor([0.2]), denoiser.condition(one, torch_rng("c")))
        assert out.shape == one.latents.shape
        assert out.isfinite().all()


def test_clips_of_one_frame_are_refused(denoiser):
    with pytest.raises(RunError, match="first and a last frame"):
        denoiser.condition(batch(1, 1), None)


def test_compat_gives_what_the_script_gives(denoiser):
    one = batch(2)
    denoiser.compat = "ddpm"
    found = denoiser.condition(one, torch_rng("c"))
    assert torch.equal(found["ends"], one.latents[:, :, [0, -1]])
    assert torch.equal(found["embeds"], one.conditions["embeds"])
    assert found["ids"].tolist() == [[7.0, 127.0, 0.0]] * 2
    shown = denoiser.condition(replace(one, latents=torch.zeros_like(one.latents)), None)
    assert torch.equal(shown["ends"], one.conditions["ends"][:, 0]), "previews have no latents, and see their pictures"


def test_a_batch_without_pictures_has_zeros(denoiser):
    one = Batch(torch.randn(2, 4, 3, 4, 6), {}, ("a", "b"))
    found = denoiser.condition(one, None)
    assert not found["embeds"].any()
    assert not found["ends"].any()
    torch.testing.assert_close(found["ids"], torch.tensor([[6.0, 127.0, SAMPLING_NOISE]] * 2))
    assert found["embeds"].shape == (2, 2, 16)
    assert found["ends"].shape == (2, 4, 2, 4, 6)
    blank = open_encoder("random", TINY, "fp32").blank()
    nothing = {**found, **{name: torch.stack([value] * 2) for name, value in blank.items()}}
    t = torch.tensor([0.1, 0.2])
    assert torch.equal(denoiser.predict(one.latents, t, found), denoiser.predict(one.latents, t, nothing))


def test_examples_ask_everything_that_an_adapter_can_change(denoiser):
    latents = torch.zeros(1, 4, 3, 4, 6)
    example = denoiser.example(latents)
    assert set(example) == {"embeds", "ends", "ids", "maps", "control"}
    assert denoiser.predict(latents, torch.tensor([0.1]), example).isfinite().all()
    assert all(torch.equal(value, denoiser.example(latents)[name]) for name, value in example.items())
    denoiser.controlnet = None
    assert set(denoiser.example(latents)) == {"embeds", "ends", "ids"}


def test_one_kind_of_residuals_alone_is_refused(denoiser):
    x = torch.zeros(1, 3, 9, 4, 6)
    with pytest.raises(ValueError, match="residuals"):
        denoiser.unet(x, 0.1, torch.zeros(1, 2, 16), torch.zeros(1, 3), [torch.zeros(1)])


def test_bases_of_other_kinds_are_refused(framer_base, svd_base, tmp_path):
    with pytest.raises(WeightsError, match="in_channels"):
        FramerUNet(**{**TINY.network["unet"], "in_channels": 8})
    with pytest.raises(WeightsError, match="features of points"):
        FramerControlNet(with_id_feature=True, **TINY.network["unet"])
    other = {**TINY.network, "unet": {**TINY.network["unet"], "cross_attention_dim": 32}}
    with pytest.raises(WeightsError, match="cross_attention_dim"):
        opening.check_base(str(framer_base), replace(TINY, network=other))
    with pytest.raises(WeightsError, match="no controlnet"):
        opening.check_base(str(svd_base), TINY_TRACKS)
    folder = tmp_path / "unet"
    write_network(folder, "unet", stirred(FramerUNet(**TINY.network["unet"])))
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    tensors.pop("mid_block.resnets.0.time_mixer.mix_factor")
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    for look in (opening.check_base, lambda base, variant: opening.open_denoiser(base, variant, "fp32")):
        with pytest.raises(WeightsError, match="mix_factor"):
            look(str(tmp_path), TINY)


def test_the_controlnet_takes_all_arguments_of_the_public_class():
    trunk = {**TINY.network["unet"], "sample_size": None, "num_frames": 3, "up_block_types": ["UpBlockSpatioTemporal"]}
    net = FramerControlNet(**trunk, feature_channels=8, feature_out_channels=(1, 2), conditioning_channels=1)
    assert net.controlnet_cond_embedding.conv_in.in_channels == 1
    assert not any(name.startswith(("up_blocks", "conv_out", "mask_token")) for name in net.state_dict())
    with pytest.raises(TypeError, match="colour"):
        FramerControlNet(**trunk, colour=1)


def test_parts_that_learned_in_full_are_folders_of_a_base(denoiser, framer_base, tmp_path):
    torch.manual_seed(5)
    learned = {k: v + 0.1 * torch.randn_like(v) for k, v in denoiser.controlnet.state_dict().items()}
    write_network(tmp_path / "unet", "unet", denoiser.unet)
    write_network(tmp_path / "controlnet", "controlnet", denoiser.controlnet, learned)
    again = opening.open_denoiser(str(tmp_path), TINY_TRACKS, "fp32")
    for part, wanted in (("unet", denoiser.unet.state_dict()), ("controlnet", learned)):
        found = again.parts()[part].state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    text = (tmp_path / "controlnet" / "config.json").read_text()
    assert '"_class_name": "ControlNetSVDModel"' in text
    theirs = UNetSpatioTemporalConditionModel.from_config(dict(again.unet.config))
    assert len(theirs.state_dict()) == len(again.unet.state_dict()) - 1
    with pytest.raises(WeightsError, match="lack 1"):
        write_network(tmp_path / "c", "controlnet", denoiser.controlnet, dict(list(learned.items())[1:]))
    assert not (tmp_path / "c").exists()


def test_adapters_of_both_parts_are_folders_that_peft_reads(denoiser, framer_base, tmp_path):
    adapters = inject(
        denoiser.parts(), LoraOptions(rank=4, alpha=6), presets=CARD.lora_presets, default_preset=CARD.default_preset
    )
    torch.manual_seed(4)
    with torch.no_grad():
        for weight in adapters.parameters().values():
            weight.add_(0.1 * torch.randn_like(weight))
    one, t = batch(2, tracked=(0, 1)), torch.tensor([0.1, -0.2])
    conditions = denoiser.condition(one, None)
    with torch.no_grad():
        wanted = denoiser.predict(one.latents, t, conditions)
    folders = write_adapters(tmp_path, adapters.file(), base="org/name")
    assert [folder.name for folder in folders] == ["unet_lora", "controlnet_lora"]
    fresh = opening.open_denoiser(str(framer_base), TINY_TRACKS, "fp32")
    base = fresh.predict(one.latents, t, conditions)
    attach(fresh.parts(), read_adapters(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(fresh.predict(one.latents, t, conditions), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(base, wanted, atol=1e-2)
    other = opening.open_denoiser(str(framer_base), TINY_TRACKS, "fp32")
    merged = {
        name: PeftModel.from_pretrained(part, tmp_path / f"{name}_lora").merge_and_unload()
        for name, part in other.parts().items()
    }
    other.unet, other.controlnet = merged["unet"], merged["controlnet"]
    with torch.no_grad():
        torch.testing.assert_close(other.predict(one.latents, t, conditions), wanted, rtol=1e-3, atol=1e-4)
    assert read_adapters(tmp_path / "unet_lora").modules()[0].startswith("unet.")
    with pytest.raises(WeightsError, match="no folder of an adapter"):
        read_adapters(tmp_path / "unet_lora" / "none")
    with pytest.raises(RecipeError, match="UNet alone"):
        PeftLora().from_native(adapters.tensors())


def test_ends_are_modes_without_scaling_and_their_noise_is_told():
    encoder = open_encoder("random", TINY, "fp32")
    vae, ends, images = encoder.towers()
    one = clip(fps=24.9)
    (given,) = ends.encode([one], torch_rng("x"))
    assert given["ends"].shape == (1 + NUM_NOISED, 4, 2, 4, 6)
    assert given["ids"].shape == (1 + NUM_NOISED, 2)
    assert set(given["ids"][:, 0].tolist()) == {24.0}
    assert given["ids"][0, 1] == pytest.approx(SAMPLING_NOISE)
    told = given["ids"][1:, 1]
    assert torch.equal(told.bfloat16().float(), told), "what is told survives every format of the cache"
    (alone,) = ends.encode([one])
    assert torch.equal(alone["ends"][0], given["ends"][0])
    assert torch.equal(alone["ends"], ends.encode([one])[0]["ends"])
    (latents,) = vae.encode([one])
    assert latents["mean"].shape == (4, 3, 4, 6)
    bare, _ = vae.moments(one.pixels[:, [0, -1]].transpose(0, 1))
    torch.testing.assert_close(latents["mean"][:, [0, -1]] / 0.18215, bare.transpose(0, 1), rtol=1e-4, atol=1e-5)
    assert 0 < (given["ends"][0] - bare.transpose(0, 1)).abs().mean() < 0.2 * bare.abs().mean()
    assert images.encode([one])[0]["embeds"].shape == (2, 16)
    (still,) = ends.encode([clip(2, fps=0.0)])
    assert still["ids"][0, 0] == 6


def test_noise_on_given_frames_has_its_width_and_is_alike_on_both(monkeypatch):
    ends, seen = open_encoder("random", TINY, "fp32").towers()[1], []
    monkeypatch.setattr(ends.vae, "moments", lambda frames: seen.append(frames) or (torch.zeros(2, 4, 4, 6),) * 2)
    one = clip(height=64, width=96)
    pictures, logs = one.pixels[:, [0, -1]].transpose(0, 1), []
    for seed in range(40):
        seen.clear()
        (given,) = ends.encode([one], torch_rng("many", seed))
        for frames, amount in zip(seen, given["ids"][:, 1].tolist(), strict=True):
            assert [(part - picture).std().item() for part, picture in zip(frames, pictures, strict=True)] == (
                pytest.approx([amount, amount], rel=0.03)
            )
        logs += given["ids"][1:, 1].log().tolist()
    assert torch.tensor(logs).mean() == pytest.approx(-3.0, abs=0.1)
    assert torch.tensor(logs).std() == pytest.approx(0.5, abs=0.07)


def test_towers_come_from_beside_the_base_and_damaged_ones_are_told(tmp_path, told, monkeypatch):
    def offline(base, component):
        raise WeightsError(Problem(f"cannot fetch the {component} of {base.name} from the Hub"))

    monkeypatch.setattr(Base, "_from_hub", offline)
    own = tmp_path / "framer_512x320"
    write_network(own / "unet", "unet", stirred(FramerUNet(**TINY.network["unet"])))
    with pytest.raises(WeightsError, match="(?s)has no vae.*cannot fetch the vae of stabilityai"):
        open_encoder(str(own), TINY, "fp32").vae.load("cpu")
    write_towers(tmp_path / "svd", dict(TINY.network))
    encoder = open_encoder(str(own), TINY, "fp32")
    for tower in encoder.towers():
        assert tower.fingerprint()
        tower.load("cpu")
    assert f"the image encoder is that of {tmp_path / 'svd'}" in told.text
    (tmp_path / "svd" / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut off")
    with pytest.raises(WeightsError, match="cannot read"):
        open_encoder(str(own), TINY, "fp32").vae.load("cpu")


def test_the_autoencoder_stays_in_full_precision_and_chunks_change_little():
    encoder = open_encoder("random", TINY, "bf16")
    encoder.vae.load("cpu")
    assert encoder.vae.net.dtype == torch.float32
    latents = torch.randn(2, 4, 5, 4, 6, generator=torch_rng("d"))
    whole = encoder.decode(latents)
    assert whole.shape == (2, 3, 5, 32, 48)
    encoder.vae.decode_chunk = 2
    parts = encoder.decode(latents)
    assert parts.shape == whole.shape
    assert not torch.equal(parts, whole), "each chunk is a video of its own"


def test_previews_are_drawn_with_guidance_against_no_pictures(denoiser):
    encoder, process = open_encoder("random", TINY, "fp32"), open_process(NoiseOptions(**TINY.process))
    given = encoder.encode([clip()])[0].conditions
    drawn = {}
    for guidance in (1.0, 3.0):
        how = Walk((4, 3, 4, 6), 3, guidance, "euler")
        drawn[guidance] = walk(denoiser, process, [given, given], blank=encoder.blank(), seeds=[0, 1], how=how)
        assert drawn[guidance].shape == (2, 4, 3, 4, 6)
        assert drawn[guidance].isfinite().all()
    assert not torch.allclose(drawn[1.0], drawn[3.0], atol=1e-2)


def test_a_step_of_training_brings_the_loss_down(framer_base):
    """Forty steps on one clip, at levels of its own, with and without a table of levels."""
    for options in (NoiseOptions(**TINY.process), NoiseOptions(**{**TINY.process, "compat": "ddpm"})):
        denoiser = opening.open_denoiser(str(framer_base), TINY, "fp32")
        denoiser.compat, denoiser.image_dropout = options.compat, 0.0
        made = LoraOptions(rank=8)
        adapters = inject(denoiser.parts(), made, presets=CARD.lora_presets, default_preset=CARD.default_preset)
        process, one = open_process(options), batch(2, tracked=None)
        optimizer = torch.optim.AdamW(adapters.parameters().values(), lr=5e-3)
        losses = []
        for _ in range(40):
            noised = process.at(one.latents, torch.tensor([0.4, 0.7]), torch_rng("same"))
            loss = process.loss(denoiser.predict(noised.x, noised.t, denoiser.condition(one, None)), noised, one)
            optimizer.zero_grad()
            loss.value.backward()
            optimizer.step()
            losses.append(float(loss.value.detach()))
        assert math.isfinite(losses[-1])
        assert losses[-1] < 0.8 * losses[0]


def test_a_denoiser_without_controlnet_has_one_part(framer_base):
    denoiser = opening.open_denoiser(str(framer_base), TINY, "fp32")
    assert isinstance(denoiser, FramerDenoiser)
    assert denoiser.draw_maps is None
    assert tuple(denoiser.parts()) == TINY.parts == ("unet",)


def test_guidance_of_previews_rises_over_the_frames(denoiser):
    one, seed = batch(1, frames=4, tracked=None), 5
    given = {name: value[0] for name, value in one.conditions.items()}
    blank = open_encoder("random", TINY, "fp32").blank()
    process = open_process(NoiseOptions(**TINY.process))
    how = Walk(tuple(one.latents.shape[1:]), 1, 3.0, "euler", guidance_schedule="frames")
    found = walk(denoiser, process, [given], blank=blank, seeds=[seed], how=how)
    x = torch.randn(one.latents.shape, generator=torch_rng("preview", seed))
    sampler, shown = EdmSampler(1), denoiser.condition(one, None)
    (t,) = sampler.times()
    nothing = {**shown, "embeds": 0 * shown["embeds"], "ends": 0 * shown["ends"]}
    with torch.no_grad():
        yes, no = (denoiser.predict(x, t.expand(1), told) for told in (shown, nothing))
    ramp = torch.tensor([1.0, 5 / 3, 7 / 3, 3.0]).view(1, 1, 4, 1, 1)
    torch.testing.assert_close(found, sampler.step(no + ramp * (yes - no), t, x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found[:, :, 1:], sampler_of(yes, x)[:, :, 1:], atol=1e-2)
    torch.testing.assert_close(found[:, :, 0], sampler_of(yes, x)[:, :, 0], rtol=1e-4, atol=1e-4)


def sampler_of(prediction, x):
    """One step of Euler's without guidance."""
    sampler = EdmSampler(1)
    return sampler.step(prediction, sampler.times()[0], x)
