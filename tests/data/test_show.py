"""`data.show`: what it leaves without effect, the buckets it draws, stills, and batches without latents."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cinelora.base.errors import RecipeError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Bucket, LeftOut, Record
from cinelora.contracts.geometry import Geometry
from cinelora.data.batches import batcher
from cinelora.data.buckets import aspect_grid, check_options
from cinelora.data.cache import Cache
from cinelora.data.clips import load_clip, transform_of
from cinelora.data.encoding import Encoding, Live, runs
from cinelora.data.options import DataOptions
from cinelora.data.plan import make_plan
from cinelora.data.sources import Listing, read_records
from cinelora.data.worklist import tasks_of
from cinelora.families.fake.encode import FakeEncoder, FakeVae
from cinelora.preview.pictures import picture_conditions
from media.makers import encode, flat_frames

TINY = Geometry(fps=8, frames=9, height=32, width=32, latent_channels=4)


def options(**values):
    values = {"show": "captions", "source": [{"path": "s"}], **values}
    return DataOptions(**values)


def captions(count, *, source="s"):
    return [Record(f"{source}/{k}", source, "caption", (), f"caption {k}", f"p.txt:{k}") for k in range(count)]


def plan(records, geometry=TINY, seed=0, **values):
    return make_plan(Listing(tuple(records)), options(**values), geometry, seed=seed)


def wrong(geometry=TINY, **values):
    with pytest.raises(RecipeError) as caught:
        check_options(options(**values), geometry)
    return {problem.where for problem in caught.value.problems}


def test_settings_of_what_is_not_shown_are_refused_together():
    source = {"path": "s", "path_column": "a", "media_root": "b", "mask_suffix": "_m", "video_repeats": 2}
    assert wrong(source=[source], crop="random", upscale=True, short="skip", drop_start=0.1, seconds_per_file=5) == {
        "data.crop", "data.upscale", "data.short", "data.drop_start", "data.seconds_per_file",
        "data.source.0.path_column", "data.source.0.media_root", "data.source.0.mask_suffix",
        "data.source.0.video_repeats",
    }  # fmt: skip
    assert wrong(show="pictures", source=[{"path": "s", "mask_suffix": "_m"}], fps="source", stride=2) == {
        "data.source.0.mask_suffix", "data.fps", "data.stride",
    }  # fmt: skip
    check_options(options(show="pictures", crop="random", upscale=True, clip="middle", skip_frames_start=3), TINY)
    check_options(options(show="clips", crop="random", upscale=True, short="skip"), TINY)


def test_rules_that_need_clips_are_refused():
    assert wrong(small_buckets="borrow") == {"data.small_buckets"}
    assert wrong(buckets="videox") == {"data.buckets"}
    assert wrong(show="pictures", clip="chunks") == {"data.clip"}
    assert wrong(show="pictures", frames=[1, 9]) == {"data.frames"}
    assert wrong(show="pictures", geometry=replace(TINY, frames=1)) == {"data.frames"}
    assert wrong(show="clips", source=[{"path": "s", "reader": "captions"}]) == {"data.source.0.reader"}
    check_options(options(frames=[1, 9]), TINY)


def test_rules_of_a_source_are_told_once_and_at_their_place():
    sources = [{"path": "a", "rules": {"crop": "random"}}, {"path": "b", "rules": {"frames": [5]}}]
    assert wrong(source=sources) == {"data.source.0.rules.crop"}
    assert wrong(source=sources, short="skip") == {"data.source.0.rules.crop", "data.short"}


def test_variants_need_something_to_draw():
    assert wrong(num_variants=2, buckets="single") == {"data.num_variants"}
    assert wrong(num_variants=2, show="pictures") == {"data.num_variants"}
    for values in ({"frames": [5, 9]}, {"buckets": "grid", "size": [64, 64]}):
        check_options(options(num_variants=2, **{"buckets": "single", **values}), TINY)
    check_options(options(num_variants=2, show="pictures", crop="random"), TINY)
    check_options(options(num_variants=2, show="pictures", frames=[5, 9]), TINY)
    assert wrong(num_variants=2, size=[64]) >= {"data.size"}


def test_each_variant_of_a_caption_draws_a_bucket():
    found = plan(captions(400), frames=[5, 9, 17], size=[64, 64], num_variants=2, held_out=0)
    sizes = aspect_grid(64, 64, 16)
    assert len(sizes) > 2
    counts = Counter(slot.bucket for slot in found.slots)
    assert set(counts) == {Bucket(frames, *size) for frames in (5, 9, 17) for size in sizes}
    mean = 800 / len(counts)
    chi = sum((count - mean) ** 2 / mean for count in counts.values())
    assert chi < 2.5 * len(counts)  # its mean is the number of buckets, less one
    assert len({slot.name for slot in found.slots}) == 800
    again = plan(reversed(captions(400)), frames=[5, 9, 17], size=[64, 64], num_variants=2, held_out=0)
    assert {slot.name for slot in again.slots} == {slot.name for slot in found.slots}
    other = plan(captions(400), seed=1, frames=[5, 9, 17], size=[64, 64], num_variants=2, held_out=0)
    assert {slot.name for slot in other.slots} != {slot.name for slot in found.slots}


def test_one_size_where_the_recipe_or_the_model_has_one():
    assert {str(s.bucket) for s in plan(captions(9), buckets="single", size=[48, 64]).slots} == {"9x48x64"}
    own = replace(TINY, only_own_size=True)
    assert {str(s.bucket) for s in plan(captions(9), geometry=own).slots} == {"9x32x32"}
    assert {str(s.bucket) for s in plan(captions(9)).slots} == {
        f"9x{tall}x{wide}" for tall, wide in aspect_grid(32, 32, 16)
    }


def test_rows_tell_captions_and_duplicates_stay_together():
    twice = replace(captions(1)[0], key="s/again", where="p.txt:99")
    bad = LeftOut("p.txt:7", "s", ())
    found = plan([*captions(20), twice], held_out=0.3, buckets="single")
    rows = {row.key: row for row in found.rows}
    assert (rows["s/3"].kind, rows["s/3"].caption, rows["s/3"].bucket) == ("caption", "caption 3", "9x32x32")
    assert (rows["s/3"].num_slots, rows["s/3"].frames_used, rows["s/3"].frames_lost) == (1, 0, 0)
    assert rows["s/again"].notes == ("the same caption as s/0",)
    assert rows["s/0"].notes == ("the same caption as s/again",)
    assert rows["s/0"].status == rows["s/again"].status
    assert len(found.held_out) == sum(row.status == "held out" for row in found.rows) == 6
    assert found.warnings == ("2 captions say the same as another one: each counts for itself",)
    tasks = tasks_of(found, tokens={"s/3": [700]}, limit=512)
    assert [(task.key, task.what, task.found) for task in tasks if task.do] == [
        ("s/0", "the same caption as", "s/again"),
        ("s/3", "the caption is longer than the text encoder reads", "700 of 512 tokens"),
        ("s/again", "the same caption as", "s/0"),
    ]
    assert len(plan([*captions(3), bad], on_bad="skip").rows) == 4


@pytest.fixture
def pictures(tmp_path):
    """A wide picture, a tall one, a video whose frames differ, and a pair."""
    folder = tmp_path / "s"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in {"wide": (40, 100), "tall": (100, 40)}.items():
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    encode(folder / "moves.mp4", flat_frames(12, 64, 64), fps=8)
    for name in ("wide", "tall", "moves"):
        (folder / f"{name}.txt").write_text(name)
    return tmp_path


def test_pictures_start_clips_of_the_recipes_lengths(pictures):
    rules = options(show="pictures", frames=[5, 17], size=[64, 64], num_variants=3, held_out=0)
    found = make_plan(read_records(rules, pictures), rules, TINY, seed=0)
    buckets = {key: {slot.bucket for slot in found.slots if slot.record.key == f"s/{key}"} for key in
               ("wide.png", "tall.png", "moves.mp4")}  # fmt: skip
    assert {(b.height, b.width) for b in buckets["wide.png"]} == {(32, 64)}  # not enlarged
    assert {(b.height, b.width) for b in buckets["tall.png"]} == {(64, 32)}
    assert {(b.height, b.width) for b in buckets["moves.mp4"]} == {(64, 64)}
    assert {b.frames for group in buckets.values() for b in group} == {5, 17}  # 12 frames of video give 17, too
    assert all(slot.still for slot in found.slots)
    assert len(found.slots) == 9
    rows = {row.key: row for row in found.rows}
    assert (rows["s/wide.png"].frames_used, rows["s/wide.png"].frames_lost) == (1, 0)
    assert (rows["s/moves.mp4"].frames_used, rows["s/moves.mp4"].frames_lost) == (1, 11)
    assert found.warnings == ()
    assert not any("shorter" in note or "differ" in note for row in found.rows for note in row.notes)


def test_a_still_is_what_a_preview_of_the_picture_shows(pictures):
    """The same picture and bucket give the same pixels above the cache line and in previews."""
    rules = options(show="pictures", size=[32, 64], held_out=0)
    found = make_plan(read_records(rules, pictures), rules, TINY, seed=0)
    slot = next(slot for slot in found.slots if slot.record.key == "s/wide.png")
    clip = load_clip(slot, rules, TINY, seed=0)
    assert clip.pixels.shape == (3, 1, slot.bucket.height, slot.bucket.width)
    seen = []

    class Seeing(FakeVae):
        name, gives = "image", ("first",)

        def encode(self, clips, rng=None):
            seen.extend(clips)
            return [{"first": one.pixels.mean((1, 2, 3))} for one in clips]

    class Encoder(FakeEncoder):
        def towers(self):
            return (*super().towers(), Seeing())

    picture_conditions(Encoder(), [Path(slot.record.media[0])], slot.bucket)
    assert torch.equal(seen[0].pixels, clip.pixels)
    assert seen[0].slot.still


def test_the_frame_of_a_video_is_where_the_clip_would_start(pictures):
    rules = options(show="pictures", held_out=0, size=[64, 64], buckets="single", skip_frames_start=6)
    found = make_plan(read_records(rules, pictures), rules, TINY, seed=0)
    slot = next(slot for slot in found.slots if slot.record.kind == "video")
    later = load_clip(slot, rules, TINY, seed=0).pixels
    whole = rules.model_copy(update={"show": "clips", "skip_frames_start": 0})
    moving = replace(slot, still=False, bucket=replace(slot.bucket, frames=9))
    frames = load_clip(moving, whole, TINY, seed=0).pixels
    torch.testing.assert_close(later[:, 0], frames[:, 6], atol=0.02, rtol=0)
    assert (later[:, 0] - frames[:, 0]).abs().mean() > 0.1
    kept = rules.model_copy(update={"skip_frames_start": 0})
    assert transform_of(replace(moving, still=True), kept, TINY, seed=0) != transform_of(moving, kept, TINY, seed=0)


def test_a_pair_is_no_picture(pictures):
    record = Record("s/p", "s", "pair", (pictures / "s" / "wide.png", pictures / "s" / "tall.png"), "x", "here")
    found = make_plan(Listing((record,)), options(show="pictures"), TINY, seed=0, lenient=True)
    assert found.rows[0].reason.startswith("a pair is a first and a last frame")


class SeeingEncoder(FakeEncoder):
    """The fake encoder with a tower of first frames, and a diary of who encoded what."""

    def __init__(self):
        self.asked = []
        owner = self

        class Seeing(FakeVae):
            name, gives = "image", ("first",)

            def encode(self, clips, rng=None):
                owner.asked.extend(("image", clip.pixels.shape[1], clip.slot.bucket.frames) for clip in clips)
                return [{"first": clip.pixels.mean((1, 2, 3))} for clip in clips]

        class Vae(FakeVae):
            def encode(self, clips, rng=None):
                owner.asked.append(("vae", 0, 0))
                return super().encode(clips, rng)

        text, _ = super().towers()
        self._all = (text, Vae(), Seeing())

    def towers(self):
        return self._all


def encoding_of(encoder, rules, show, **values):
    return Encoding(
        encoder,
        load=lambda slot: load_clip(slot, rules, TINY, seed=0),
        transform=lambda slot: transform_of(slot, rules, TINY, seed=0),
        geometry=TINY,
        show=show,
        **values,
    )


@pytest.mark.parametrize("show", ["captions", "pictures"])
def test_batches_have_no_latents_and_the_cache_has_none(pictures, tmp_path, show):
    rules = options(show=show, frames=[5, 9], size=[64, 64], buckets="single", held_out=0)
    if show == "pictures":
        rules = rules.model_copy(update={"upscale": True})
    found = make_plan(read_records(rules, pictures), rules, TINY, seed=0)
    encoder = SeeingEncoder()
    encoding = encoding_of(encoder, rules, show)
    cache = Cache(tmp_path / "cache")
    report = cache.fill(found.slots, encoding)
    assert report.made == (3 if show == "captions" else 6)
    assert [name for name, *_ in encoder.asked] == ["image"] * (report.made - 3)
    assert all(shown == 1 and length in (5, 9) for _, shown, length in encoder.asked)
    for read in (cache.shelf(encoding.keys).read, Live(encoding).read):
        for slot in found.slots:
            batch = batcher(read)([slot, slot], torch_rng("any"))
            assert torch.equal(batch.latents, torch.zeros(2, *TINY.latent_shape(slot.bucket)))
            assert set(batch.conditions) == ({"text"} if show == "captions" else {"text", "first"})
            assert batch.loss_mask is None
    slot, live = found.slots[0], Live(encoding).read(found.slots[0])
    stored = cache.shelf(encoding.keys).read(slot)
    assert all(torch.equal(stored.conditions[name], live.conditions[name]) for name in live.conditions)


def test_which_towers_run():
    text, vae, seeing = SeeingEncoder().towers()
    assert [runs(tower, "clips") for tower in (text, vae, seeing)] == [True, True, True]
    assert [runs(tower, "pictures") for tower in (text, vae, seeing)] == [True, False, True]
    assert [runs(tower, "captions") for tower in (text, vae, seeing)] == [True, False, False]
    with pytest.raises(ValueError, match="geometry"):
        _ = Encoding(FakeEncoder(), load=None, transform=None, show="captions").keys
