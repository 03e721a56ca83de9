"""Checks of golden cases about frames and pixels: CogVideoX's table and pixels, WebVid's clips, Framer's pairs."""

import random
from collections import defaultdict

import numpy as np
import pytest
import torch

from cinelora.base.errors import DataError
from cinelora.contracts.flow import Bucket, Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data.clips import load_clip
from cinelora.data.compat import COMPAT, DynamiCrafter
from cinelora.data.options import ClipRules, SourceOptions
from cinelora.data.pixels import unit
from cinelora.data.readers.registry import open_reader
from data.golden_webvid_csv import check_csv
from media.makers import encode

CROPS = {"center": "centre", "random": "random", "none": "none"}
ANY = Geometry(fps=8, frames=5, height=32, width=32, frames_offset=0, frames_per_latent=1, size_multiple=1)


def numpy_draws(seed):
    """numpy's legacy generator, and the ranges it was asked for."""
    generator, ranges = np.random.RandomState(seed), []

    def draw(low, high):
        assert low == 0
        ranges.append(high + 1)
        return int(generator.randint(low, high + 1))

    return draw, ranges


def check_frames_crop(case, tmp_path):
    """Every row of the table: frames of both scripts, size after resizing, box, and what its corner was drawn from."""
    assert set(case.config) <= {"kind", "rows", "provenance"}
    rows = case.config_file(case.config["rows"])["rows"]
    assert len(rows) > 40
    for row in rows:
        assert set(row) == {"id", "input", "options", "t2v", "i2v"}
        assert set(row["t2v"]) == {"frames", "error", "resized_hw", "crop_top_left_h_w", "crop_range"}
        assert set(row["i2v"]) == {"frames", "error", "resized_hw", "crop_top_left_h_w"}
        for script, name in (("t2v", "cogvideox"), ("i2v", "cogvideox-i2v")):
            check_row(row["input"], row["options"], row[script], COMPAT[name])


def check_row(given, said, expected, reference):
    known = {"height", "width", "video_reshape_mode", "numpy_seed", "max_num_frames", "skip_frames_start"}
    assert set(said) == known | {"skip_frames_end", "fps"}
    assert set(given) == {"width", "height", "num_frames", "fps"}
    skipped = {name: said[name] for name in ("skip_frames_start", "skip_frames_end")}
    rules = ClipRules(crop=CROPS[said["video_reshape_mode"]], **skipped)
    draw, ranges = numpy_draws(said["numpy_seed"])
    frames, most = given["num_frames"], said["max_num_frames"]
    if expected["error"]:
        assert reference.available(frames, given["fps"], most, rules) == 0
        with pytest.raises(DataError, match="every frame is skipped"):
            reference.indices(frames, given["fps"], most, rules, draw)
    else:
        assert reference.indices(frames, given["fps"], most, rules, draw) == expected["frames"]
        assert reference.available(frames, given["fps"], most, rules) >= len(expected["frames"])
    bucket = Bucket(1, said["height"], said["width"])
    tall, wide, top, left = reference.fit(given["height"], given["width"], bucket, rules, draw)
    assert [tall, wide] == expected["resized_hw"]
    box = expected["crop_top_left_h_w"] or [0, 0, bucket.height, bucket.width]
    assert [top, left, bucket.height, bucket.width] == box
    assert ranges == (expected.get("crop_range") or [])


def check_pixels(case, tmp_path):
    """From a file without loss through `load_clip`, unclamped values included."""
    known = {"kind", "height", "width", "video_reshape_mode", "note", "min", "max", "provenance"}
    assert set(case.config) <= known
    assert case.config["video_reshape_mode"] == "center"
    given, expected = case.io["frames_uint8"], case.io["output"]
    path = encode(tmp_path / "a.mov", given.numpy(), codec="png", pix_fmt="rgb24")
    bucket = Bucket(len(given), case.config["height"], case.config["width"])
    slot = Slot(Record("s/a", "s", "video", (path,), "", str(path)), bucket)
    rules = ClipRules(frames=[len(given)], compat="cogvideox")
    found = load_clip(slot, rules, ANY, seed=0).pixels.transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert float(found.min()) == pytest.approx(case.config["min"], abs=1e-5)
    assert float(found.max()) == pytest.approx(case.config["max"], abs=1e-5)


POLICIES = {"low": lambda low, high: low, "high": lambda low, high: high, "middle": lambda low, high: (low + high) // 2}


def check_webvid(case, tmp_path):
    """The table of rows, then every clip that the reference picks; its leaking stride must not be copied."""
    assert set(case.config) <= {"kind", "random", "note", "cases", "csv", "provenance"}
    check_csv(case, tmp_path)
    for one in case.config["cases"]:
        assert set(one) == {"name", "videos", "params", "random", "index", "expected", "reference_quirk"}
        found = picked(one)
        if one["reference_quirk"]:
            assert found["video"] == one["expected"]["video"]
            assert found["frame_stride"] < one["expected"]["frame_stride"], one["name"]
        else:
            assert found == one["expected"], one["name"]


def webvid_rules(params):
    known = {"video_length", "frame_stride", "frame_stride_min", "random_fs", "fixed_fps", "fps_max"}
    assert set(params) <= known | {"load_raw_resolution"}, set(params) - known
    stride = params.get("frame_stride", 1)
    lowest = params.get("frame_stride_min", 1) if params.get("random_fs") else 0
    return ClipRules(
        frames=[params["video_length"]],
        compat="dynamicrafter",
        fps=params.get("fixed_fps") or "source",
        stride=stride,
        stride_min=lowest,
    )


def picked(one):
    """The clip that comes of a row: rows that cannot be used give way to the next, as they do in the reference.

    There one stride is drawn for all attempts; a row that fails while it is read has drawn its start already.
    """
    params, calls = one["params"], []
    rules, length = webvid_rules(params), params["video_length"]
    reference = DynamiCrafter(**({"fps_max": params["fps_max"]} if "fps_max" in params else {}))

    def draw(low, high):
        calls.append([low, high, POLICIES[one["random"]](low, high)])
        return calls[-1][2]

    for number in range(len(one["videos"])):
        row = one["videos"][(one["index"] + number) % len(one["videos"])]
        assert set(row) <= {"videoid", "page_dir", "caption", "frames", "fps", "broken", "decode_error"}
        if row.get("broken") or not reference.available(row["frames"], row["fps"], length, rules):
            continue
        try:
            indices = reference.indices(row["frames"], row["fps"], length, rules, draw)
        except DataError:
            continue
        if not row.get("decode_error"):
            return described(row, indices, reference, calls)
        if rules.stride_min:
            rules = rules.model_copy(update={"stride": calls[0][2], "stride_min": 0})
    raise AssertionError(one["name"])


def described(row, indices, reference, calls):
    pictures = np.stack([np.full((2, 2, 3), index % 256, np.uint8) for index in indices])
    pixels = unit(pictures)
    return {
        "video": f"videos/{row['page_dir']}/{row['videoid']}.mp4",
        "caption": row["caption"],
        "frame_indices": indices,
        "fps": reference.clip_fps(row["fps"], indices),
        "frame_stride": indices[1] - indices[0],
        "random_calls": calls,
        "pixel_first": pytest.approx(float(pixels[0, 0, 0, 0]), abs=1e-6),
        "shape": list(pixels.shape),
    }


def check_pairs(case, tmp_path):
    """Drawn windows; the pairs that are found, and more; two frames each, without copies between them."""
    assert set(case.config) == {"kind", "class", "height", "width", "pairs_found", "frame_selection"}
    for row in case.config["frame_selection"]:
        check_selection(row)
    folder = case.folder / "pairs"
    records = open_reader(folder, "s", SourceOptions(path=str(folder), reader="pairs"), base=folder).read()
    found = {record.media[0].stem.rpartition("_")[0]: record for record in records if isinstance(record, Record)}
    assert set(found) == complete_pairs(folder)
    told = [name for name in case.config["pairs_found"] if name in found]
    assert told
    bucket = Bucket(2, case.config["height"], case.config["width"])
    rules = ClipRules(crop="none", resample="bilinear")
    for name in told:
        by_rules = load_clip(Slot(found[name], bucket), rules, ANY, seed=0).pixels
        as_reference = load_clip(Slot(found[name], bucket), ClipRules(compat="framer"), ANY, seed=0).pixels
        for pixels in (by_rules, as_reference):
            check_pair(case, name, pixels, found[name].media)


def check_selection(row):
    assert set(row) == {"total_frames", "num_frames", "stride", "python_random_seed", "indices"}
    draws = random.Random(row["python_random_seed"])
    rules = ClipRules(fps="source", stride=row["stride"], compat="framer")
    asked = (row["total_frames"], 24.0, row["num_frames"], rules, draws.randint)
    if row["indices"] == "error":
        with pytest.raises(DataError, match="too short"):
            COMPAT["framer"].indices(*asked)
        return
    assert [COMPAT["framer"].indices(*asked) for _ in row["indices"]] == row["indices"]


def complete_pairs(folder):
    """Ids with one start and one end; of two starts the reference takes any, which is no pair here."""
    halves = defaultdict(list)
    for file in folder.iterdir():
        name, _, half = file.stem.rpartition("_")
        halves[name].append(half.lower())
    return {name for name, both in halves.items() if sorted(both) == ["end", "start"]}


def check_pair(case, name, pixels, media):
    lossy = any(path.suffix.lower() in (".jpg", ".jpeg") for path in media)
    for frame, half in enumerate(("first", "last")):
        wanted = case.io[f"{name}.{half}"]
        torch.testing.assert_close(pixels[:, frame], wanted, rtol=0, atol=0.02 if lossy else 1e-6)
    built = {k: v for k, v in case.io.items() if k.startswith(f"{name}.num_frames")}
    assert built
    for key, reference in built.items():
        count = int(key.split("num_frames")[1].split(".")[0])
        assert pixels.shape[1] == 2
        if count == 2:
            torch.testing.assert_close(pixels.transpose(0, 1), reference, rtol=0, atol=0.02 if lossy else 1e-6)
        else:  # what must not be built: a frozen picture, then a jump
            assert all(torch.equal(inner, reference[0]) for inner in reference[1:-1])


CHECKS = {
    "frames_crop": check_frames_crop,
    "pixels": check_pixels,
    "webvid_dataset": check_webvid,
    "image_pair_dataset": check_pairs,
}
