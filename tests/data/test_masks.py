"""Masks from files to the loss. A mask that is a copy of its clip must come out as the clip's own grey values."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cinelora.base.errors import DataError
from cinelora.base.seeds import torch_rng
from cinelora.commands.clips import cache_of, encoder_of, encoding_of, fill, plan_of, reader_of
from cinelora.config.load import load as load_recipe
from cinelora.contracts.flow import Bucket, Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data.batches import batcher
from cinelora.data.cache import Cache
from cinelora.data.clips import load_clip, load_mask, transform_of
from cinelora.data.encoding import Encoding, Live
from cinelora.data.options import DataOptions
from cinelora.data.plan import make_plan
from cinelora.data.sources import Listing
from cinelora.families.fake.card import CARD
from cinelora.families.fake.denoise import open_denoiser
from cinelora.families.fake.encode import FakeEncoder
from cinelora.lora.adapters import Adapters
from cinelora.methods.finetune import Finetune
from cinelora.noise.options import NoiseOptions
from cinelora.noise.registry import open_process
from cinelora.train.held_out import HeldOut
from cinelora.train.options import HeldOutOptions, TrainOptions
from cinelora.train.place import open_place
from media.makers import encode, flat_frames, grey

TINY = Geometry(fps=8, frames=9, height=32, width=48, latent_channels=4)


def slot(media, mask, bucket=None, variant=0, key="s/a"):
    kind = "image" if media.suffix == ".png" else "video"
    record = Record(key, "s", kind, (media,), "a cat", str(media), mask=mask)
    return Slot(record, bucket or Bucket(1 if kind == "image" else 9, 32, 48), variant)


def load(made, *, loading=load_clip, **values):
    return loading(made, DataOptions(source=[{"path": "s"}], num_variants=9, **values), TINY, seed=0)


def levels(mask):
    return (mask * 255).round().to(torch.int32)


def without_black(found):
    """Levels of a picture as those of a mask: up to 8 they are black."""
    return torch.where(found > 8, found, 0)


def picture(path, pixels):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


def half(path, *, height=32, width=48):
    """White on the left, black on the right."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[:, : width // 2] = 255
    return picture(path, pixels)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("clips") / "a.mp4", flat_frames(33), fps=16)


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"fps": "source"},
        {"fps": 4},
        {"fps": 5.5},
        {"clip": "middle"},
        {"clip": "random"},
        {"clip": "random", "fps": "source"},
        {"clip": "uniform"},
        {"clip": "random", "crop": "none", "skip_frames_start": 3},
    ],
    ids=str,
)
def test_a_mask_is_shown_at_the_moments_of_its_clip(video, rules):
    clip = load(slot(video, video, variant=3), **rules)
    assert clip.mask.shape == (9, 32, 48)
    assert torch.equal(levels(clip.mask), without_black(levels((clip.pixels[1] + 1) / 2)))
    assert len(set(clip.mask[:, 0, 0].tolist())) == 9
    alone = load(slot(video, video, variant=3), loading=load_mask, **rules)
    assert torch.equal(alone.mask, clip.mask)
    assert (alone.fps, alone.pixels.numel()) == (clip.fps, 0)


def test_a_mask_video_has_a_rate_of_its_own(tmp_path, video):
    mask = encode(tmp_path / "m.mp4", flat_frames(20), fps=4)
    shown = levels(load(slot(video, mask)).mask)[:, 5, 5]
    wanted = without_black(torch.tensor([grey(k // 2) for k in range(9)]))
    assert ((shown - wanted).abs() <= 1).all()


def test_a_still_mask_holds_for_all_frames(tmp_path, video):
    mask = load(slot(video, half(tmp_path / "m.png"))).mask
    assert mask.shape == (9, 32, 48)
    assert (mask[:, :, :24] == 1).all()
    assert (mask[:, :, 24:] == 0).all()


@pytest.mark.parametrize("crop", ["centre", "random"])
@pytest.mark.parametrize("shrink", [1, 2])
def test_a_mask_is_cut_as_its_clip(tmp_path, crop, shrink):
    """A ramp from left to right, in a mask of full and of half size."""
    ramp = np.repeat(np.linspace(20, 250, 128)[None], 32, axis=0)
    media, mask = picture(tmp_path / "r.png", ramp), picture(tmp_path / "m.png", ramp[::shrink, ::shrink])
    starts = set()
    for variant in range(6):
        clip = load(slot(media, mask, Bucket(1, 32, 32), variant), crop=crop)
        wanted = (clip.pixels[0] + 1) / 2
        assert (clip.mask - wanted).abs().max() < 3 * 230 / 128 / 255
        starts.add(clip.mask[0, 0, 0].item())
    assert len(starts) == (1 if crop == "centre" else 6)


def test_a_mask_keeps_its_place_where_the_reference_adds_bars(tmp_path):
    """48 x 64 made 32 wide: 8 columns of bars on either side do not count; the right half of the rest is black."""
    media = picture(tmp_path / "c.png", np.full((64, 48, 3), 200))
    clip = load(slot(media, half(tmp_path / "m.png", height=64)), compat="dynamicrafter")
    assert clip.pixels[0, 0].gt(0).any(dim=0).nonzero().flatten().tolist() == list(range(8, 40))
    assert clip.mask[0].eq(1).all(dim=0).nonzero().flatten().tolist() == list(range(8, 23))  # then the edge
    assert clip.mask[0, :, 25:].eq(0).all()


def test_grey_values_are_shares_and_black_is_black_in_lossy_files_too(tmp_path):
    media = picture(tmp_path / "c.png", np.full((32, 48, 3), 90))
    mask = np.zeros((32, 48), np.uint8)
    mask[:8], mask[8:16], mask[16:24] = 51, 9, 8
    found = load(slot(media, picture(tmp_path / "m.png", mask))).mask[0]
    assert found[0].unique().tolist() == pytest.approx([0.2])
    assert found[8].unique().tolist() == pytest.approx([9 / 255])
    assert found[16:].eq(0).all()
    colours = np.zeros((32, 48, 3), np.uint8)
    colours[:, :16, 0], colours[:, 16:32, 1], colours[:, 32:, 2] = 255, 255, 255
    found = load(slot(media, picture(tmp_path / "m.png", colours))).mask[0, 0, [0, 20, 40]]
    assert found.tolist() == pytest.approx([0.299, 0.587, 0.114], abs=2e-3)


def test_records_without_mask_have_none(video):
    assert load(slot(video, None)).mask is None


def refused(made, **values):
    with pytest.raises(DataError) as caught:
        load(made, **values)
    (problem,) = caught.value.problems
    assert str(made.record.mask) in problem.where
    assert "record s/a" in problem.where
    assert problem.do
    return str(problem)


def test_masks_of_other_proportions_are_refused(tmp_path, video):
    told = refused(slot(video, half(tmp_path / "m.png", height=48)))
    assert "other proportions" in told
    assert "mask 48 x 48, clip 48 x 32" in told
    odd = encode(tmp_path / "odd.mp4", flat_frames(17, height=48, width=86), fps=8)
    load(slot(odd, half(tmp_path / "rounded.png", height=24, width=43)))  # as near as whole pixels come
    load(slot(odd, half(tmp_path / "rounded.png", height=16, width=29)))
    refused(slot(odd, half(tmp_path / "rounded.png", height=16, width=31)))


def test_a_mask_video_that_ends_before_its_clip_is_refused(tmp_path, video):
    white = np.full((9, 32, 48, 3), 255, np.uint8)
    whole = encode(tmp_path / "w.mp4", white, fps=8)
    load(slot(video, whole))
    load(slot(video, encode(tmp_path / "s.mp4", white[:8], fps=8)))  # one frame less is rounding
    told = refused(slot(video, encode(tmp_path / "t.mp4", white[:7], fps=8)))
    assert "shorter than its clip" in told
    assert "mask of 0.88 s, the clip shows a frame at 1.00 s" in told


def test_masks_that_cannot_be_read_are_refused(tmp_path, video):
    assert "media file is missing" in refused(slot(video, tmp_path / "m.png"))
    (tmp_path / "m.png").write_text("a mask")
    assert "cannot be read as an image" in refused(slot(video, tmp_path / "m.png"))
    (tmp_path / "m.mp4").write_bytes(video.read_bytes()[:-700])
    assert "the mask cannot be used" in refused(slot(video, tmp_path / "m.mp4"))
    (tmp_path / "e.png").touch()
    assert "empty" in refused(slot(video, tmp_path / "e.png"))


def test_a_mask_that_leaves_nothing_is_refused(tmp_path, video):
    assert "leaves nothing to learn" in refused(slot(video, picture(tmp_path / "m.png", np.full((32, 48), 8))))
    load(slot(video, picture(tmp_path / "m.png", np.full((32, 48), 9))))
    edge = np.zeros((32, 48), np.uint8)
    edge[:, :4] = 255
    mask = picture(tmp_path / "edge.png", edge)
    load(slot(video, mask))
    assert "s/a@9x32x32#0" in refused(slot(video, mask, Bucket(9, 32, 32)))  # it lies outside the crop


def test_the_plan_tells_bad_masks_with_all_other_problems(tmp_path, video):
    good, bad = half(tmp_path / "good.png"), half(tmp_path / "bad.png", height=48)
    records = [
        slot(video, mask, key=f"s/{k}").record for k, mask in enumerate((good, bad, tmp_path / "none.png", None))
    ]
    told = {"width": 48, "height": 32, "frames": 33, "fps": 16.0}
    records.append(replace(records[1], key="s/stated", facts=told))  # its mask is looked at although the clip is not
    options = {"source": [{"path": "s", "name": "s"}], "held_out": 0}
    with pytest.raises(DataError) as caught:
        make_plan(Listing(tuple(records)), DataOptions(**options), TINY, seed=0)
    whats = [problem.what for problem in caught.value.problems]
    assert [("other proportions" in what, "missing" in what) for what in whats] == [(1, 0), (0, 1), (1, 0)]
    plan = make_plan(Listing(tuple(records)), DataOptions(**options, on_bad="skip"), TINY, seed=0)
    assert [made.record.key for made in plan.slots] == ["s/0", "s/3"]
    assert "other proportions" in next(row.reason for row in plan.rows if row.key == "s/1")


def encoding(**changes):
    options = DataOptions(source=[{"path": "s"}], clip="head")
    facts = {
        "load": lambda made: load_clip(made, options, TINY, seed=0),
        "load_mask": lambda made: load_mask(made, options, TINY, seed=0),
        "transform": lambda made: transform_of(made, options, TINY, seed=0),
        "conditions": {"text": "6 8"},
        "geometry": TINY,
        **changes,
    }
    return Encoding(FakeEncoder(), **facts)


@pytest.fixture
def pair(tmp_path):
    """Two clips without loss in their files; the left half of the first is what is learned."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 32, 48, 3), dtype=np.uint8)
    files = [encode(tmp_path / f"{k}.mkv", one, codec="ffv1", pix_fmt="bgr0") for k, one in enumerate(pixels)]
    masked, whole = (slot(file, None, key=f"s/{k}") for k, file in enumerate(files))
    mask = half(tmp_path / "mask.png")
    return replace(masked, record=replace(masked.record, mask=mask)), whole, pixels


def learned(slots, read):
    """The loss of one micro and its gradients, all draws fixed."""
    denoiser = open_denoiser("embedded", CARD.variants["tiny"], "fp32")
    denoiser.text_dropout = 0.0
    parameters = dict(denoiser.net.requires_grad_(True).named_parameters())
    method = Finetune(denoiser, open_process(NoiseOptions()), Adapters([], {"net": denoiser.net}, "default"))
    batch = batcher(read)(slots, torch_rng("batch"))
    loss = method.loss("adapter", batch, torch_rng("loss"), torch_rng("shared"))
    gradients = torch.autograd.grad(loss.value, list(parameters.values()))
    return batch, loss, torch.cat([gradient.reshape(-1) for gradient in gradients])


def test_only_what_is_white_is_learned(tmp_path, pair):
    masked, whole, pixels = pair
    batch, loss, gradient = learned((masked, whole), Live(encoding()).read)
    assert batch.loss_mask.shape == (2, 1, 3, 4, 6)
    assert batch.loss_mask[0, 0, :, :, :3].eq(1).all()
    assert batch.loss_mask[0, 0, :, :, 3:].eq(0).all()
    assert batch.loss_mask[1].eq(1).all()

    def changed(columns):
        other = pixels[0].copy()
        other[:, :, columns] = 255 - other[:, :, columns]
        file = encode(tmp_path / "other.mkv", other, codec="ffv1", pix_fmt="bgr0")
        return replace(masked, record=replace(masked.record, media=(file,)))

    batch_b, outside, gradient_b = learned((changed(slice(24, 48)), whole), Live(encoding()).read)
    assert not torch.equal(batch.latents[0], batch_b.latents[0])
    assert torch.equal(outside.value, loss.value)
    assert torch.equal(gradient_b, gradient)
    _, inside, gradient_c = learned((changed(slice(0, 24)), whole), Live(encoding()).read)
    assert not torch.equal(inside.each[0], loss.each[0])
    assert torch.equal(inside.each[1], loss.each[1])
    assert not torch.equal(gradient_c, gradient)


def test_a_masked_clip_weighs_as_much_as_a_whole_one(pair):
    """The same mean error gives the same loss whatever the mask's area."""
    masked, whole, _ = pair
    batch, loss, _ = learned((masked, whole), Live(encoding()).read)
    process = open_process(NoiseOptions())
    noised = process.mix(batch.latents, torch.zeros_like(batch.latents), torch.tensor([0.5, 0.5]))
    constant = process.loss(noised.target + 3.0, noised, batch)
    assert constant.each.tolist() == pytest.approx([9.0, 9.0])
    _, unmasked, _ = learned((replace(masked, record=replace(masked.record, mask=None)), whole), Live(encoding()).read)
    assert not torch.equal(unmasked.each[0], loss.each[0])
    assert torch.equal(unmasked.each[1], loss.each[1])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_cached_masks_are_those_made_in_the_loop(tmp_path, pair, dtype):
    masked, whole, _ = pair
    soft = picture(tmp_path / "mask.png", np.tile(np.linspace(0, 255, 48), (32, 1)))
    assert soft == masked.record.mask
    cache, how = Cache(tmp_path / "cache"), encoding(dtype=dtype)
    assert cache.fill([masked, whole], how).made == 4  # one text, two latents, one mask
    shelf, live = cache.shelf(how.keys), Live(encoding(dtype=dtype))
    for made in (masked, whole):
        one, other = shelf.read(made), live.read(made)
        assert torch.equal(one.mean, other.mean)
        assert (one.loss_mask is None) is (other.loss_mask is None) is (made is whole)
    one, other = shelf.read(masked).loss_mask, live.read(masked).loss_mask
    assert torch.equal(one, other)
    assert one.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    middles = (torch.arange(6) * 8 + 3.5) / 47
    torch.testing.assert_close(one[0, 0, 0].float(), middles, atol=0.01, rtol=0)
    assert torch.equal(learned((masked, whole), shelf.read)[2], learned((masked, whole), live.read)[2])


def test_a_changed_mask_costs_one_mask(tmp_path, pair):
    masked, whole, _ = pair
    cache = Cache(tmp_path / "cache")
    cache.fill([masked, whole], encoding())
    before = cache.shelf(encoding().keys).read(masked)
    half(masked.record.mask, width=48)
    assert cache.fill([masked, whole], encoding()).made == 0  # other bytes or not: the same picture
    picture(masked.record.mask, np.full((32, 48), 255))
    decoded = []
    report = cache.fill([masked, whole], encoding(load=decoded.append))
    assert (report.made, report.found, decoded) == (1, 3, [])
    after = cache.shelf(encoding().keys).read(masked)
    assert torch.equal(before.mean, after.mean)
    assert not torch.equal(before.loss_mask, after.loss_mask)
    unmasked = replace(masked, record=replace(masked.record, mask=None))
    assert cache.fill([unmasked, whole], encoding()).made == 0
    assert cache.shelf(encoding().keys).read(unmasked).loss_mask is None


def test_a_changed_clip_or_caption_or_grid_costs_what_hangs_on_it(tmp_path, pair):
    masked, whole, pixels = pair
    cache = Cache(tmp_path / "cache")
    cache.fill([masked], encoding())
    said = replace(masked, record=replace(masked.record, caption="a dog"))
    assert cache.fill([said], encoding()).made == 1
    coarse = Geometry(fps=8, frames=9, height=32, width=48, latent_cell=16)
    assert cache.fill([masked], encoding(geometry=coarse)).made == 1
    encode(masked.record.media[0], pixels[1], codec="ffv1", pix_fmt="bgr0")
    assert cache.fill([masked], encoding()).made == 2  # latents, and the mask: a clip of another size cuts it anew


def test_bad_masks_are_told_before_anything_is_encoded_and_leave_the_others(tmp_path, pair):
    masked, whole, _ = pair
    picture(masked.record.mask, np.zeros((32, 48)))
    cache = Cache(tmp_path / "cache")
    with pytest.raises(DataError, match="leaves nothing to learn") as caught:
        cache.fill([masked, whole], encoding())
    assert len(caught.value.problems) == 1
    report = cache.fill([masked, whole], encoding(), on_bad="skip")
    assert {made.record.key for made, _ in report.left_out} == {"s/0"}
    assert cache.shelf(encoding().keys).read(whole).loss_mask is None


def test_a_mask_must_lie_on_the_latents(pair):
    masked, _, _ = pair
    with pytest.raises(ValueError, match="needs the geometry"):
        Live(encoding(geometry=None)).read(masked)
    with pytest.raises(Exception, match="not on the variant's grid"):
        Live(encoding(geometry=replace(TINY, latent_cell=16))).read(masked)


def test_held_out_losses_count_where_the_mask_is_white_too(tmp_path, pair):
    masked, _, pixels = pair
    other = pixels[0].copy()
    other[:, :, 24:] = 0
    file = encode(tmp_path / "other.mkv", other, codec="ffv1", pix_fmt="bgr0")
    changed = replace(masked, record=replace(masked.record, media=(file,)))
    place = open_place(TrainOptions(precision="fp32", device="cpu", num_threads=1, gradient_checkpointing=False))

    def score(made):
        denoiser = open_denoiser("embedded", CARD.variants["tiny"], "fp32")
        method = Finetune(denoiser, open_process(NoiseOptions()), Adapters([], {}, "default"))
        return HeldOut([(made,)], HeldOutOptions(), seed=1).score(method, batcher(Live(encoding()).read), place).loss

    assert score(changed) == score(masked)
    without = [replace(made, record=replace(made.record, mask=None)) for made in (masked, changed)]
    assert score(without[0]) != score(without[1])


RECIPE = """
[model]
family = "fake"
variant = "tiny"
[data]
held_out = 0.0
[[data.source]]
path = "masked"
mask_suffix = "_mask"
[[data.source]]
path = "whole"
[train]
steps = 1
"""


def test_from_folders_of_a_recipe_to_a_batch(tmp_path):
    for name in ("masked", "whole"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("a cat")
    made = encode(tmp_path / "masked" / "a.mp4", flat_frames(9, 32, 32), fps=8)
    shutil.copy(made, tmp_path / "whole")  # encoded anew, pictures as small as these can become other bytes
    half(tmp_path / "masked" / "a_mask.png", width=32)
    (tmp_path / "r.toml").write_text(RECIPE)
    batches = []
    for cache in ("on", "off"):
        loaded = load_recipe(tmp_path / "r.toml", [f"data.cache={cache}"])
        plan, how = plan_of(loaded), encoding_of(loaded, encoder_of(loaded), device="cpu")
        if cache == "on":
            # The caption, the empty one of previews, the latents that both clips share, a mask.
            assert fill(loaded, plan, how, verify=False)[0].made == 4
            assert cache_of(loaded).folder.is_dir()
        batches.append(batcher(reader_of(loaded, how))(plan.slots, torch_rng("batch")))
        assert torch.equal(batches[-1].latents, batches[0].latents)
        assert torch.equal(batches[-1].loss_mask, batches[0].loss_mask)
    assert [name.partition("/")[0] for name in batches[0].names] == ["masked", "whole"]
    shares = batches[0].loss_mask[:, 0].mean(dim=(1, 2))
    assert shares.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
