"""Plan and decoding agree under any rules: what the plan gives a clip can be cut, and equal keys mean equal cuts."""

from pathlib import Path

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cinelora.base.errors import RecipeError
from cinelora.contracts.flow import Record
from cinelora.contracts.geometry import Geometry
from cinelora.data.buckets import check_options
from cinelora.data.clips import transform_of
from cinelora.data.cut import cut_of
from cinelora.data.fate import fate_of
from cinelora.data.options import DataOptions
from cinelora.media.probe import MediaFacts

WAN = Geometry(fps=16, frames=81, height=480, width=832)
FREE = Geometry(fps=8, frames=16, height=320, width=512, frames_per_latent=1, frames_offset=0, size_multiple=64)


@st.composite
def videos(draw):
    """Facts of a video at a constant or at a wild rate."""
    count = draw(st.sampled_from([1, 2, 9, 17, 40, 81, 333]))
    if draw(st.booleans()):
        lasts = draw(st.lists(st.integers(1, 200), min_size=count, max_size=count))
    else:
        lasts = [draw(st.sampled_from([17, 33, 40, 42, 62, 125]))] * count
    ticks = np.cumsum([0, *lasts])
    fps = (count - 1) / (ticks[-2] / 1000) if count > 1 else 10.0
    height, width = draw(st.sampled_from([(480, 832), (1920, 1080), (100, 150), (720, 480), (301, 300)]))
    return MediaFacts("video", width, height, count, fps, ticks[-1] / 1000, ticks[:-1] / 1000, ticks[:-1], 1e-3)


SAID = {
    "frames": [[9], [17, 49, 81], [1], [16], [5, 9, 33]],
    "size": [[64, 64], [256, 256], [320, 512]],
    "buckets": ["grid", "single", "videox"],
    "upscale": [False, True],
    "fps": ["source", "source", 8, 5.5, 30],
    "stride": [1, 3, 8],
    "stride_min": [0, 1, 2],
    "clip": ["head", "middle", "random", "uniform", "chunks", "chunks", "sliding"],
    "slide_frames": [1, 5],
    "drop_start": [0.1, 0.5],
    "drop_end": [0.1, 0.4],
    "skip_frames_start": [1, 50],
    "skip_frames_end": [1, 30],
    "crop": ["centre", "random", "none"],
    "num_variants": [1, 3],
    "compat": ["cogvideox", "easyanimate", "dynamicrafter", "framer"],
}
ABOUT_CUTS = {"fps", "stride", "stride_min", "clip", "slide_frames", "drop_start", "drop_end", "crop"}


@st.composite
def rules_of(draw, most=6):
    """Some options, without those that others leave no effect: most of what is drawn is a recipe."""
    names = draw(st.lists(st.sampled_from(sorted(SAID)), max_size=most, unique=True))
    values = {name: draw(st.sampled_from(SAID[name])) for name in names}
    if "compat" in values:
        return {name: value for name, value in values.items() if name not in ABOUT_CUTS | {"num_variants"}}
    if values.get("clip") == "uniform":
        return {name: value for name, value in values.items() if name not in ("fps", "stride", "stride_min")}
    if {"stride", "stride_min"} & set(values):
        values |= {"fps": "source", "stride": max(values.get("stride", 3), values.get("stride_min", 0))}
    return values


def slots_with(facts, values, geometry):
    """[(slot, options, cut)] of the first and last clips that rules give a video; none where they are refused."""
    options = DataOptions(source=[{"path": "s"}], **values)
    try:
        check_options(options, geometry)
    except RecipeError:
        return []
    record = Record("s/a", "s", "video", (Path("a.mp4"),), "c", "a.mp4", {"frames": 1})
    slots = fate_of(record, facts, options, geometry, seed=1).slots
    return [(slot, options, cut_of(slot, facts, options, geometry, seed=1)) for slot in [*slots[:4], *slots[4:][-2:]]]


@settings(max_examples=500, deadline=None)
@given(videos(), rules_of(), st.sampled_from([WAN, WAN, FREE]))
def test_every_clip_of_a_plan_can_be_cut_as_its_rules_say(facts, values, geometry):
    made = slots_with(facts, values, geometry)
    assume(made)
    for slot, rules, cut in made:
        bucket = slot.bucket
        assert len(cut.times) == bucket.frames
        assert geometry.fits_frames(bucket.frames)
        assert bucket.height % geometry.size_multiple == bucket.width % geometry.size_multiple == 0
        assert np.all(np.diff(cut.times) >= 0)
        shown = facts.shown_at(cut.times)
        if rules.compat != "none":
            continue
        assert shown[0] >= rules.skip_frames_start
        assert shown[-1] < facts.frames - rules.skip_frames_end
        left, top, right, bottom = cut.box
        assert min(left, top) >= 0
        assert max(right - facts.width, bottom - facts.height) < 1e-6
        assert rules.crop == "none" or abs((right - left) / (bottom - top) - bucket.width / bucket.height) < 1e-6
        assert rules.upscale or (bucket.height <= facts.height and bucket.width <= facts.width)


@settings(max_examples=500, deadline=None)
@given(videos(), rules_of(most=3), rules_of(most=1))
def test_equal_keys_mean_equal_cuts(facts, values, change):
    """Of one video under two sets of rules that differ in one option or two."""
    found = {}
    for mixed in (values, values | change):
        for slot, rules, cut in slots_with(facts, mixed, WAN):
            key = transform_of(slot, rules, WAN, seed=1)
            cut_so = (slot.bucket, cut.times.tolist(), cut.box, cut.fit)
            assert found.setdefault(key, cut_so) == cut_so
