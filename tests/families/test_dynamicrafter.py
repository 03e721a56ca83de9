"""DynamiCrafter: what its files may look like, what is drawn in a step, and what no golden case covers."""

import json
import pickle
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from dynamicrafter_bases import checkpoint
from safetensors.torch import save_file
from torch.nn.functional import interpolate

from cinelora.base.errors import RecipeError, RunError, WeightsError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Batch, Bucket, Clip, Record, Slot
from cinelora.families.dynamicrafter import card
from cinelora.families.dynamicrafter.card import CARD, TINY, TINY_BETWEEN
from cinelora.families.dynamicrafter.denoise import left_out
from cinelora.families.dynamicrafter.encode import open_encoder
from cinelora.families.dynamicrafter.nets import attention
from cinelora.families.dynamicrafter.nets.attention import Attention, Form, Heads, attend
from cinelora.families.dynamicrafter.nets.resampler import Resampler
from cinelora.families.dynamicrafter.nets.shape import shape_of
from cinelora.families.dynamicrafter.nets.unet import UNet3D, each_frame
from cinelora.families.dynamicrafter.opening import check_base, open_denoiser, skeleton
from cinelora.families.dynamicrafter.picture import NUM_DRAWN, ClipPicture, blurred, squeezed
from cinelora.families.dynamicrafter.text import clean
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions


def clip_of(pixels: torch.Tensor, *, fps: float = 8.0, stride: float = 1.0, caption: str = "") -> Clip:
    record = Record("clips/a", "clips", "video", (Path("a.mp4"),), caption, "a.mp4")
    return Clip(Slot(record, Bucket(*pixels.shape[1:])), pixels, caption, fps, stride=stride)


def batch_of(count: int = 4, frames: int = 4, versions: int = 4) -> Batch:
    rng = torch_rng("batch", count, frames)
    latents = torch.randn(count, 4, frames, 4, 6, generator=rng)
    conditions = {
        "text": torch.randn(count, 77, 24, generator=rng),
        "clip": torch.randn(count, versions, 17, 16, generator=rng),
        "frame": torch.arange(versions).float().expand(count, -1),
        "grey": torch.randn(count, 17, 16, generator=rng),
        "image": latents[:, :, :1] + 100,
        "fps": torch.full((count, 1), 8.0),
    }
    return Batch(latents, conditions, tuple(f"clip {k}" for k in range(count)))


@pytest.fixture(scope="module")
def denoiser():
    found = open_denoiser("random", TINY, "fp32")
    found.blank = {"text": torch.zeros(77, 24)}
    return found


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    return checkpoint(TINY)


# Files.


def same_weights(found, whole) -> None:
    state = found.unet.state_dict() | {f"resampler.{k}": v for k, v in found.resampler.state_dict().items()}
    assert torch.equal(state["time_embed.0.weight"], whole["model.diffusion_model.time_embed.0.weight"])
    assert torch.equal(state["resampler.latents"], whole["image_proj_model.latents"])
    assert torch.equal(state["fps_embedding.2.bias"], whole["model.diffusion_model.fps_embedding.2.bias"])


@pytest.mark.parametrize("form", ["state_dict", "flat", "module", "lightning", "legacy"])
def test_pickled_checkpoints_of_every_form_are_read(whole, tmp_path, form):
    spelt = {("_forward_module." if form == "module" else "") + key: one for key, one in whole.items()}
    held = {
        "flat": spelt,
        "module": {"module": spelt, "epoch": 3},
        "lightning": {"epoch": 1, "global_step": 20, "state_dict": spelt, "loops": {}},
    }
    path = tmp_path / "model.ckpt"
    torch.save(held.get(form, {"state_dict": spelt}), path, _use_new_zipfile_serialization=form != "legacy")
    check_base(str(tmp_path), TINY)
    same_weights(open_denoiser(str(path), TINY, "fp32"), whole)


def test_the_spelling_of_the_256_model_is_read(tmp_path):
    spelt = checkpoint(TINY, unet="256")
    assert "model.diffusion_model.framestride_embed.2.bias" in spelt
    save_file(spelt, tmp_path / "model.safetensors")
    renamed = {key.replace("framestride_embed", "fps_embedding"): one for key, one in spelt.items()}
    same_weights(open_denoiser(str(tmp_path), TINY, "fp32"), renamed)


def test_half_precision_and_a_base_without_encoders_will_do(whole, tmp_path):
    kept = ("model.diffusion_model.", "image_proj_model.")
    pruned = {key: one.half() for key, one in whole.items() if key.startswith(kept)}
    save_file(pruned, tmp_path / "dynamicrafter_512_pruned_fp16.safetensors")
    found = open_denoiser(str(tmp_path), TINY, "bf16")
    assert found.unet.time_embed[0].weight.dtype == torch.bfloat16
    with pytest.raises(WeightsError, match="no layout that is known for the text encoder"):
        open_encoder(str(tmp_path), TINY, "fp32").text.load("cpu")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    (tmp_path / "model.ckpt").write_bytes(pickle.dumps({"state_dict": Harm()}))
    with pytest.raises(WeightsError, match="cannot read the weights"):
        open_denoiser(str(tmp_path), TINY, "fp32")
    assert not (tmp_path / "harm").exists()


def test_objects_beside_the_weights_are_named(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "hyper_parameters": Namespace(lr=1)}, tmp_path / "model.ckpt")
    with pytest.raises(WeightsError, match=r"(?s)never run \(argparse\.Namespace\).*under 'state_dict'"):
        open_denoiser(str(tmp_path), TINY, "fp32")


def test_a_file_without_weights_is_told(tmp_path):
    torch.save({"state_dict": {"epoch": 3}}, tmp_path / "model.ckpt")
    with pytest.raises(WeightsError, match="other things than tensors by name"):
        open_denoiser(str(tmp_path), TINY, "fp32")


def test_everything_missing_or_too_much_is_told_by_group(whole, tmp_path):
    short = {key: one for key, one in whole.items() if ".emb_layers." not in key}
    save_file(short, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"unet of DynamiCrafter tiny.* lacks 16 weights"):
        open_denoiser(str(tmp_path), TINY, "fp32")
    save_file({**whole, "model.diffusion_model.extra.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"no place for 1 weight[\s\S]*extra\.weight"):
        check_base(str(tmp_path), TINY)
    strange = {f"model_ema.decay.{k}": torch.zeros(2) for k in range(3)}
    save_file({**whole, **strange}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"3 weights of the checkpoint belong to no network[\s\S]*model_ema\.decay"):
        open_denoiser(str(tmp_path), TINY, "fp32")


def test_a_learned_strength_of_the_picture_tells_256_from_the_others(whole, tmp_path):
    save_file(whole, tmp_path / "model.safetensors")
    unet = {**TINY.network["unet"], "image_cross_attention_scale_learnable": True}
    with pytest.raises(WeightsError, match=r"lacks .*alpha|lacks"):
        check_base(str(tmp_path), replace(TINY, network={**TINY.network, "unet": unet}))


def test_training_weights_beside_the_base_are_no_base(whole, tmp_path):
    name = "model.diffusion_model.time_embed.0.lora_a.weight"
    save_file({**whole, name: torch.zeros(4, 32)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="lora_a"):
        open_denoiser(str(tmp_path), TINY, "fp32")


def test_the_tokenizer_beside_the_base_is_taken(dynamicrafter_base):
    text = open_encoder(str(dynamicrafter_base), TINY, "fp32").text
    ids = text.ids("a" * 100)
    assert len(ids) == 77
    assert ids[-1] == 1  # the end mark stays
    assert text.ids("ab").tolist()[3:] == [0] * 74
    assert text.tokens(["a" * 100]) == [101]
    assert torch.equal(text.ids("  Two &amp; One "), text.ids("two & one"))


def test_bare_files_of_clips_tokenizer_will_do(tmp_path):
    """Marks around, end mark kept when cut, token 0 behind: as open_clip makes ids."""
    letters = [chr(code) + end for end in ("", "</w>") for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, "th", "the</w>", "<|startoftext|>", "<|endoftext|>"]
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: k for k, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\n")
    text = open_encoder(str(tmp_path), TINY, "fp32").text
    assert text.ids("The a").tolist() == [54, 53, 26, 55] + [0] * 73
    assert text.ids("").tolist() == [54, 55] + [0] * 75
    assert text.ids("the " * 100).tolist() == [54, *[53] * 75, 55]
    assert text.tokens(["the " * 100]) == [102]


def test_captions_are_cleaned_as_open_clip_does():
    assert clean("  A&amp;amp;B \n\tC  ") == "a&b c"


# What networks can be.


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dims": 3}, "dims = 3"),
        ({"use_fp16": True}, "use_fp16"),
        ({"num_head_channels": -1}, "num_head_channels above 0"),
        ({"temporal_selfatt_only": False}, "temporal_selfatt_only"),
        ({"model_channels": 48}, "multiples of 32"),
        ({"use_relative_position": True, "temporal_length": None}, "a temporal_length"),
        ({"num_classes": 10}, "no such argument"),
    ],
)
def test_arguments_that_are_not_supported_are_refused(changes, told):
    with pytest.raises(WeightsError, match=told):
        shape_of({**TINY.network["unet"], **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"use_linear": False},
        {"use_relative_position": True},
        {"use_causal_attention": True},
        {"use_relative_position": True, "use_causal_attention": True},
        {"temporal_attention": False, "addition_attention": False},
        {"temporal_conv": False, "transformer_depth": 2},
        {"tempspatial_aware": True, "conv_resample": False},
        {"use_scale_shift_norm": True, "resblock_updown": True},
        {"image_cross_attention": False, "fs_condition": False},
        {"addition_attention": False, "num_head_channels": -1, "num_heads": 4},
        {"use_checkpoint": True, "channel_mult": [1, 2, 2]},
    ],
)
def test_other_arguments_make_networks_that_work(changes):
    torch.manual_seed(3)
    unet = UNet3D(shape_of({**TINY.network["unet"], **changes})).eval()
    for table in (one for name, one in unet.named_parameters() if name.endswith("embeddings_table")):
        torch.nn.init.normal_(table)
    x, t, context = torch.randn(2, 8, 4, 8, 8), torch.tensor([3, 800]), torch.randn(2, 77 + 64, 24)
    found = unet(x, t, context, torch.tensor([8, 16]))
    assert found.shape == (2, 4, 4, 8, 8)
    alone = unet(x[:1], t[:1], context[:1], torch.tensor([8]))
    torch.testing.assert_close(found[:1], alone, rtol=1e-4, atol=1e-5)
    found.sum().backward()


def test_full_size_networks_have_the_published_names(tmp_path):
    for variant in CARD.variants.values():
        parts = skeleton(variant)
        assert isinstance(parts["unet"], UNet3D)
        assert isinstance(parts["resampler"], Resampler)
        learned = [name for name in parts["unet"].state_dict() if name.endswith(".alpha")]
        assert len(learned) == (16 if variant is card.SMALL else 0)


@pytest.mark.parametrize("causal", [False, True])
def test_learned_distances_are_those_of_shaw(causal):
    torch.manual_seed(4)
    layer = Attention(16, Heads(2, 8), Form(reach=2, causal=causal))
    for table in (layer.relative_position_k, layer.relative_position_v):
        torch.nn.init.normal_(table.embeddings_table)
    x = torch.randn(3, 5, 16)
    q, k, v = (part(x).view(3, 5, 2, 8) for part in (layer.to_q, layer.to_k, layer.to_v))
    wanted = torch.zeros(3, 5, 2, 8)
    for row, head, here in ((r, h, f) for r in range(3) for h in range(2) for f in range(5)):
        seen = range(here + 1) if causal else range(5)
        apart = [min(2, max(-2, there - here)) + 2 for there in seen]
        keys = torch.stack([k[row, there, head] + layer.relative_position_k.embeddings_table[a]
                            for there, a in zip(seen, apart, strict=True)])  # fmt: skip
        values = torch.stack([v[row, there, head] + layer.relative_position_v.embeddings_table[a]
                              for there, a in zip(seen, apart, strict=True)])  # fmt: skip
        wanted[row, here, head] = (keys @ q[row, here, head] / 8**0.5).softmax(0) @ values
    torch.testing.assert_close(layer(x), layer.to_out(wanted.flatten(2)), rtol=1e-4, atol=1e-5)


def test_more_rows_than_a_kernel_takes_are_cut(monkeypatch):
    q, k, v = (torch.randn(7, 2, 3, 4, generator=torch_rng(n)) for n in range(3))
    wanted = attend(q, k, v)
    monkeypatch.setattr(attention, "_MOST_ROWS", 3)
    torch.testing.assert_close(attend(q, k, v), wanted)


def test_tokens_of_other_numbers_go_to_every_frame():
    context = torch.randn(2, 77 + 32, 5)
    assert torch.equal(each_frame(context, 3), context.repeat_interleave(3, 0))
    own = each_frame(context, 2)
    assert own.shape == (4, 77 + 16, 5)
    assert torch.equal(own[3, 77:], context[1, 77 + 16 :])


def test_gradient_checkpointing_is_in_every_block(denoiser):
    for part in skeleton(TINY).values():
        part.enable_gradient_checkpointing()
        flags = [module.checkpointing for module in part.modules() if hasattr(module, "checkpointing")]
        assert flags
        assert all(flags)


# What is drawn in a step.


def test_shares_of_what_is_left_out():
    draws = torch.arange(2000) / 2000
    text, picture = left_out(draws, 0.1, 0.1)
    assert [int(one.sum()) for one in (text & ~picture, text & picture, picture & ~text)] == [100, 100, 100]
    assert torch.equal(picture, (draws >= 0.05) & (draws < 0.15))
    for shares in ((0.0, 0.0), (0.2, 0.0), (0.0, 0.3), (0.2, 0.5), (0.9, 0.8), (0.5, 0.05)):
        text, picture = left_out(draws, *shares)
        assert [float(one.float().mean()) for one in (text, picture)] == pytest.approx(list(shares), abs=1e-3)


def test_a_step_shows_the_frame_that_it_names(denoiser):
    batch = batch_of()
    denoiser.text_dropout, denoiser.image_dropout = 0.0, 0.0
    shown = set()
    for step in range(20):
        found = denoiser.condition(batch, torch_rng("step", step))
        for row in range(4):
            number = next(k for k in range(4) if torch.equal(batch.conditions["clip"][row, k], found["clip"][row, 0]))
            assert torch.equal(found["image"][row], batch.latents[row, :, number, None].expand(-1, 4, -1, -1))
            shown.add(number)
    assert shown == {1, 2, 3}  # number 0 is the first frame, which is drawn no more often than others


def test_without_draws_it_is_the_given_picture(denoiser):
    batch = batch_of()
    found = denoiser.condition(batch, None)
    assert torch.equal(found["clip"][:, 0], batch.conditions["clip"][:, 0])
    assert torch.equal(found["image"], batch.conditions["image"].expand(-1, -1, 4, -1, -1))
    guided = denoiser.without(found)
    assert torch.equal(guided["clip"][:, 0], batch.conditions["grey"])
    assert torch.equal(guided["image"], found["image"])
    assert denoiser.predict(batch.latents, torch.full((4,), 500.0), guided).isfinite().all()


def test_left_out_pictures_are_grey_and_keep_their_latents(denoiser):
    batch = batch_of(versions=1)
    denoiser.text_dropout, denoiser.image_dropout = 0.0, 1.0
    found = denoiser.condition(batch, torch_rng(0))
    assert torch.equal(found["clip"][:, 0], batch.conditions["grey"])
    assert torch.equal(found["image"], batch.latents[:, :, :1].expand(-1, -1, 4, -1, -1))
    denoiser.text_dropout, denoiser.blank = 1.0, {}
    with pytest.raises(RunError, match="empty caption"):
        denoiser.condition(batch, torch_rng(0))
    denoiser.blank = {"text": torch.zeros(77, 24)}
    assert not denoiser.condition(batch, torch_rng(0))["text"].any()
    denoiser.text_dropout = denoiser.image_dropout = 0.1


def test_interpolation_gives_both_ends():
    denoiser = open_denoiser("random", TINY_BETWEEN, "fp32")
    denoiser.image_noise, denoiser.text_dropout = 0.5, 0.0
    batch = batch_of()
    found = denoiser.condition(batch, torch_rng(1))["image"]
    assert not found[:, :, 1:-1].any()
    apart = found[:, :, [0, -1]] - batch.latents[:, :, [0, -1]]
    torch.testing.assert_close(apart[:, :, 0], apart[:, :, 1])  # one noise
    assert 0 < float(apart.abs().mean()) < 0.5
    ends = torch.cat([batch.conditions["image"], 2 * batch.conditions["image"]], 2)
    for given, last in ((ends, ends[:, :, 1]), (ends[:, :, :1], ends[:, :, 0])):  # a single one: a loop
        told = denoiser.condition(replace(batch, conditions={**batch.conditions, "image": given}), None)["image"]
        assert torch.equal(told[:, :, 0], ends[:, :, 0])
        assert torch.equal(told[:, :, -1], last)


def test_noise_on_the_picture_is_one_for_all_frames_and_of_the_deviation(denoiser):
    batch = batch_of(count=64)
    denoiser.image_noise = 2.0
    apart = denoiser.condition(batch, torch_rng(1))["image"]
    denoiser.image_noise = 0.0
    clean = denoiser.condition(batch, torch_rng(1))["image"]
    noise = apart - clean
    torch.testing.assert_close(noise, noise[:, :, :1].expand_as(noise), rtol=1e-5, atol=1e-5)
    deviations = noise[:, :, 0].flatten(1).std(1)
    assert 0.6 < float(deviations.mean()) < 1.4  # uniform in [0, 2]
    assert float(deviations.max()) < 2.6


def test_clips_of_one_frame_are_not_given_whole(denoiser):
    batch = batch_of(frames=1)
    for rng in (None, torch_rng(0)):
        assert not denoiser.condition(batch, rng)["image"].any()


def test_a_batch_of_words_alone_can_be_predicted(denoiser):
    batch = batch_of()
    words = replace(batch, conditions={"text": batch.conditions["text"]})
    found = denoiser.condition(words, None)
    assert not found["image"].any()
    assert found["fps"].unique().tolist() == [TINY.network["unet"]["default_fs"]]
    assert denoiser.predict(batch.latents, torch.full((4,), 10.0), found).shape == batch.latents.shape


@pytest.mark.parametrize(
    ("frames", "wanted"), [(4, [0, 1, 2, 3]), (2, [1, 3]), (8, [0, 0, 1, 1, 2, 2, 3, 3]), (1, [2])]
)
def test_other_numbers_of_frames_share_out_the_pictures_tokens(denoiser, frames, wanted):
    clip = torch.randn(2, 17, 16, generator=torch_rng("clip"))
    own = denoiser.picture_tokens(clip, 4).unflatten(1, (4, 16))
    found = denoiser.picture_tokens(clip, frames).unflatten(1, (frames, 16))
    assert torch.equal(found, own[:, wanted])


# What the towers make of clips.


def test_drawn_frames_are_those_that_are_named():
    encoder = open_encoder("random", TINY, "fp32")
    picture = encoder.towers()[-1]
    pixels = torch.rand(3, 9, 32, 48, generator=torch_rng("pixels")) * 2 - 1
    found = picture.encode([clip_of(pixels)], torch_rng("draw"))[0]
    numbers = found["frame"].long().tolist()
    assert numbers[0] == 0
    assert len(set(numbers[1:])) == NUM_DRAWN == len(numbers) - 1
    for number, features in zip(numbers, found["clip"], strict=True):
        torch.testing.assert_close(picture.features(picture.seen(pixels[:, number][None]))[0], features)
    torch.testing.assert_close(found["grey"], picture.features(picture.seen(torch.zeros(1, 3, 32, 48)))[0])
    others = {tuple(picture.encode([clip_of(pixels)], torch_rng(k))[0]["frame"].tolist()) for k in range(6)}
    assert len(others) > 1
    short = picture.encode([clip_of(pixels[:, :2])], torch_rng("draw"))[0]
    assert short["clip"].shape == found["clip"].shape
    before = picture.fingerprint()
    picture.shows = "first"
    assert picture.fingerprint() != before
    assert not picture.draws
    assert picture.encode([clip_of(pixels)], torch_rng("draw"))[0]["frame"].tolist() == [0]


def test_the_pace_is_told_in_whole_numbers():
    picture = open_encoder("random", TINY, "fp32").towers()[-1]
    assert isinstance(picture, ClipPicture)
    pixels = torch.zeros(3, 2, 8, 8)
    assert picture.told(clip_of(pixels, fps=29.97)) == 29
    assert picture.told(clip_of(pixels, fps=0.0)) == TINY.network["unet"]["default_fs"]
    picture.pace = "stride"
    assert picture.told(clip_of(pixels, fps=7.5, stride=3.996)) == 4
    assert picture.told(clip_of(pixels, fps=0.0)) == TINY.network["unet"]["default_fs"]


def test_ends_of_interpolation_are_first_and_last_frame():
    encoder = open_encoder("random", TINY_BETWEEN, "fp32")
    vae, image = encoder.towers()[1:3]
    pixels = torch.rand(3, 3, 32, 32, generator=torch_rng("ends")) * 2 - 1
    found, moments = image.encode([clip_of(pixels)])[0]["image"], vae.encode([clip_of(pixels)])[0]["mean"]
    torch.testing.assert_close(found, moments[:, [0, 2]])


def test_shrinking_blurs_as_a_dense_gaussian_does():
    picture = torch.rand(1, 2, 20, 30, generator=torch_rng("blur"))
    found = blurred(picture, [1.3, 0.7])
    grids = []
    for length, deviation in ((20, 1.3), (30, 0.7)):
        size = int(max(4 * deviation, 3)) // 2 * 2 + 1
        weights = [2.718281828459045 ** (-((k - size // 2) ** 2) / (2 * deviation**2)) for k in range(size)]
        matrix = torch.zeros(length, length)
        for row in range(length):
            for k, weight in enumerate(weights):
                place = abs(row + k - size // 2)
                matrix[row, 2 * (length - 1) - place if place >= length else place] += weight / sum(weights)
        grids.append(matrix)
    wanted = grids[0] @ picture @ grids[1].T
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_only_what_gets_smaller_is_blurred():
    small = torch.rand(1, 3, 20, 24, generator=torch_rng("small"))
    wanted = interpolate(small, (32, 32), mode="bicubic", align_corners=True)
    assert torch.equal(squeezed(small, 32), wanted)
    noise = torch.rand(1, 3, 320, 320, generator=torch_rng("large"))
    plain = interpolate(noise, (32, 32), mode="bicubic", align_corners=True)
    assert float(squeezed(noise, 32).std()) < 0.5 * float(plain.std())


# Adapters.


def test_a_preset_may_leave_a_part_alone(denoiser):
    parts = open_denoiser("random", TINY, "fp32").parts()
    adapters = inject(parts, LoraOptions(rank=2), presets=CARD.lora_presets, default_preset=CARD.default_preset)
    assert {adapted.part for adapted in adapters.layers} == {"unet"}
    parts = open_denoiser("random", TINY, "fp32").parts()
    options = LoraOptions(rank=2, targets="reference+resampler")
    adapters = inject(parts, options, presets=CARD.lora_presets, default_preset="reference")
    assert {adapted.part for adapted in adapters.layers} == {"unet", "resampler"}
    parts = open_denoiser("random", TINY, "fp32").parts()
    options = LoraOptions(rank=2, parts={"resampler": "full"})
    adapters = inject(parts, options, presets=CARD.lora_presets, default_preset="reference")
    assert list(adapters.full) == ["resampler"]
    options = LoraOptions(rank=2, parts={"resampler": "lora"})
    with pytest.raises(RecipeError, match="adapts nothing in part 'resampler'"):
        inject(parts, options, presets=CARD.lora_presets, default_preset="reference")
