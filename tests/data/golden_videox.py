"""Golden kinds `buckets` and `training_rules`: EasyAnimate's rules for data and training, as pure functions."""

import random

import pytest
import torch
from golden_case import Case

from cinelora.base.errors import DataError
from cinelora.contracts.flow import Bucket
from cinelora.data import videox
from cinelora.data.options import ClipRules, VideoxOptions
from cinelora.data.videox import VideoxRules
from cinelora.data.visits import Grouped, visit_order
from cinelora.noise.timesteps import stratum
from cinelora.train.optim import clip_limit

DRAWS = {"downsample_ratio": "smaller", "local_video_sample_size": "size", "random_crop_key": "ratio"}
SWITCHES = {"random_hw_adapt", "training_with_video_token_length", "random_ratio_crop"}
SIZES = {"image_sample_size", "video_sample_size", "token_sample_size"}
OTHERS = {"vae", "video_sample_n_frames", "video_sample_stride"}
VAE = {"cache_mag_vae", "interval", "version"}
FITS = {"resize_height", "resize_width", "crop_top", "crop_left", "height", "width", "frames"}
LOADED = {"decoded_frames", "first_index", "last_index"}
FRAME = {"frame_height", "frame_width"}
TEXT_DROPOUT = 0.1
INTERVALS = {"v5.1": (4, True), "v5": (4, True), "v4": (8, False), "v3": (8, False), "v2": (9, False)}


def check_buckets(case: Case, tmp_path) -> None:
    checks = {
        "aspect_ratio_512.json": aspect_ratios,
        "aspect_ratio_random_crop_512.json": crop_ratios,
        "bucket_batches.json": batches,
        "closest_ratio.json": closest,
        "collate_expected.json": collated,
        "collate_two_videos.json": collated_pairs,
        "downsample_ratios.json": downsamples,
        "frame_indices.json": frame_indices,
        "resize_frame.json": resized,
        "token_length_frames.json": token_lengths,
    }
    run_files(case, checks)


def check_training_rules(case: Case, tmp_path) -> None:
    checks = {
        "batch_copies.json": copies,
        "grad_clip.json": clips,
        "random_frame_crop.json": frame_crops,
        "sampler_order.json": orders,
        "uniform_sampling.json": strata,
    }
    run_files(case, checks)


CHECKS = {"buckets": check_buckets, "training_rules": check_training_rules}


def run_files(case: Case, checks: dict) -> None:
    found = {file.name for file in case.folder.glob("*.json")} - {"config.json", "case.json"}
    assert found, "a case without tables"
    assert not found - checks.keys(), "tables of unknown meaning"
    for name in sorted(found):
        checks[name](case.config_file(name), case)


def fields(row: dict, *known: str) -> list:
    assert set(row) == set(known), "fields of unknown meaning"
    return [row[name] for name in known]


def aspect_ratios(table: dict, case: Case) -> None:
    assert [(str(ratio), list(size)) for ratio, size in videox.RATIOS.items()] == list(table.items())


def crop_ratios(table: dict, case: Case) -> None:
    ratios, probabilities = fields(table, "ratios", "probabilities")
    assert {str(ratio): list(videox.RATIOS[ratio]) for ratio in videox.CROP_RATIOS} == ratios
    assert list(videox.CROP_RATIOS.values()) == pytest.approx(probabilities, rel=1e-12)


def closest(rows: list, case: Case) -> None:
    for row in rows:
        height, width, *wanted = fields(row, "height", "width", "bucket_ratio", "bucket_height", "bucket_width")
        ratio = videox.nearest_ratio(height, width)
        assert [ratio, *videox.RATIOS[ratio]] == wanted, row
        assert videox.bucket_key(height, width) == str(wanted[0])


def batches(table: dict, case: Case) -> None:
    items, order, by_size = fields(table, "items", "order", "batches")
    for size, wanted in by_size.items():
        first, second, length = fields(wanted, "first_pass", "second_pass_same_order", "reported_len")
        grouped: Grouped = Grouped(int(size))
        for passed in (first, second):
            found = []
            for number in order:
                width, height, kind = fields(items[number], "width", "height", "type")
                found.append(grouped.add((kind, videox.bucket_key(height, width)), number))
            assert [group for group in found if group] == passed
        assert length == len(items) // int(size)  # what they report; ours counts what comes


def downsamples(table: dict, case: Case) -> None:
    plain, extra, rule = fields(table, "video_or_image_plain", "image_with_extra_ratio", "probability_rule")
    for size, wanted in plain.items():
        assert videox.downsample_choices(int(size)) == wanted
    for sizes, wanted in extra.items():
        image, video = map(int, sizes.split("_"))
        assert videox.downsample_choices(image, video) == wanted
    assert rule == "first choice 0.75, the others share 0.25 equally; a single choice has probability 1"
    assert videox.first_preferred(1) == [1]
    assert videox.first_preferred(5) == [0.75, *[0.0625] * 4]


def resized(rows: list, case: Case) -> None:
    for row in rows:
        width, height, side, *wanted = fields(row, "width", "height", "target_short_side", "out_height", "out_width")
        assert [*videox.loaded_size(height, width, side)] == wanted, row


def token_lengths(table: dict, case: Case) -> None:
    by_options, extra = fields(table, "by_option_set", "extra")
    named = case.config_file("collate_expected.json")["options"]
    for name, wanted in by_options.items():
        assert videox.token_frames(rules_of(named[name])[0]) == {int(k): v for k, v in wanted.items()}, name
    for name, wanted in extra.items():
        video, image, token, frames, version = name.split("_")
        numbers = [
            int(text.removeprefix(word))
            for text, word in zip((video, image, token, frames), ("video", "image", "token", "frames"), strict=True)
        ]
        options = VideoxOptions(
            video_sample_size=numbers[0], image_sample_size=numbers[1], token_sample_size=numbers[2]
        )
        rules = VideoxRules(options, numbers[3], *INTERVALS[version])
        assert videox.token_frames(rules) == {int(k): v for k, v in wanted.items()}, name


def rules_of(options: dict) -> tuple[VideoxRules, int]:
    assert set(options) == SWITCHES | SIZES | OTHERS
    cached, interval, version = fields(options["vae"], *sorted(VAE))
    assert INTERVALS[version] == (interval, cached)
    known = VideoxOptions(**{name: options[name] for name in SWITCHES | SIZES})
    return VideoxRules(known, options["video_sample_n_frames"], interval, cached), options["video_sample_stride"]


class Injected:
    """Hands out the drawn values of a row after looking that they are drawn from the same choices."""

    def __init__(self, draws: dict):
        self.left = {DRAWS[name]: value for name, value in draws.items() if name != "choices"}
        self.choices = draws.get("choices")

    def __call__(self, name, choices, probabilities):
        if name == "ratio":
            return float(self.left.pop(name))
        assert choices == self.choices
        rest = len(choices) - 1
        first = (0.75 if rest else 1) if name == "smaller" else 1 / len(choices)
        assert probabilities == pytest.approx([first, *[(1 - first) / rest] * rest] if rest else [1])
        return self.left.pop(name)


def collated(table: dict, case: Case) -> None:
    options, rows = fields(table, "options", "rows")
    for row in rows:
        rules, stride = rules_of(options[row["options"]])
        assert set(row) == {
            "type", "width", "height", "container_frames", "fps", "seed", "sampler_bucket_key", "expected", "draws",
            "options",
        }  # fmt: skip
        size, wanted = (row["height"], row["width"]), row["expected"]
        assert videox.bucket_key(*size) == row["sampler_bucket_key"]
        assert set(wanted) == FITS | FRAME | (LOADED if row["type"] == "video" else set())
        loaded = videox.loaded_size(*size, rules.loaded_side) if row["type"] == "video" else size
        assert loaded == (wanted["frame_height"], wanted["frame_width"]), row
        frames = videox.num_loaded(row["container_frames"], stride, rules.frames) if row["type"] == "video" else 1
        assert frames == wanted.get("decoded_frames", 1), row
        if row["type"] == "video":
            window(row, stride, rules.frames)
        draw = Injected(row["draws"])
        fit = videox.collate(row["type"], [(frames, *loaded)], rules, draw)
        assert not draw.left, "a draw that was not made"
        assert fit == videox.Fit(
            (wanted["resize_height"], wanted["resize_width"]),
            wanted["crop_top"],
            wanted["crop_left"],
            Bucket(wanted["frames"], wanted["height"], wanted["width"]),
        ), row


def window(row: dict, stride: int, most: int) -> None:
    """The first and last frame that are read, at the start that their generator drew."""
    first, last = row["expected"]["first_index"], row["expected"]["last_index"]
    found = indices_of(row["container_frames"], stride, most, lambda low, high: within(first, low, high))
    assert (found[0], found[-1], len(found)) == (first, last, row["expected"]["decoded_frames"]), row


def within(value: int, low: int, high: int) -> int:
    assert low <= value <= high
    return value


def indices_of(frames: int, stride: int, most: int, draw) -> list[int]:
    from cinelora.data.compat import COMPAT

    rules = ClipRules(fps="source", stride=stride, compat="easyanimate", clip="random")
    return list(COMPAT["easyanimate"].indices(frames, 24.0, most, rules, draw))


def collated_pairs(rows: list, case: Case) -> None:
    options = case.config_file("collate_expected.json")["options"]
    for row in rows:
        name, _, videos, frames_hw, draws, wanted = fields(
            row, "options", "seed", "videos", "frames_hw", "draws", "expected"
        )
        rules, stride = rules_of(options[name])
        examples = []
        for video in videos:
            width, height, frames = fields(video, "width", "height", "container_frames")
            loaded = videox.loaded_size(height, width, rules.loaded_side)
            examples.append((videox.num_loaded(frames, stride, rules.frames), *loaded))
        assert [list(example) for example in examples] == frames_hw, row
        draw = Injected(draws)
        bucket = videox.collate("video", examples, rules, draw).bucket
        assert not draw.left
        (shape,) = fields(wanted, "batch")
        assert [len(videos), bucket.frames, 3, bucket.height, bucket.width] == shape, row


def frame_indices(rows: list, case: Case) -> None:
    for row in rows:
        frames, stride, most, seed = (row[name] for name in ("container_frames", "stride", "n_frames", "seed"))
        rng = random.Random(seed)
        draw = rng.randint
        if "error" in row:
            assert set(row) == {"container_frames", "stride", "n_frames", "seed", "error"}
            with pytest.raises(DataError):
                indices_of(frames, stride, most, draw)
            assert row["error"] != "no frames" or videox.num_loaded(frames, stride, most) == 0
            continue
        found = indices_of(frames, stride, most, draw)
        *_, wanted, dropped = fields(row, "container_frames", "stride", "n_frames", "seed", "indices", "text_dropped")
        assert found == wanted, row
        # Their next draw decides about the caption: ours is drawn elsewhere, by source.caption_dropout.
        assert (rng.random() < TEXT_DROPOUT) == dropped, row
        assert len(found) == videox.num_loaded(frames, stride, most)


def copies(rows: list, case: Case) -> None:
    for row in rows:
        longest, token, *size, wanted = fields(
            row, "video_sample_n_frames", "token_sample_size", "frames", "height", "width", "copies"
        )
        rules = VideoxRules(VideoxOptions(token_sample_size=token), longest)
        assert videox.batch_copies(Bucket(*size), rules) == wanted, row


def frame_crops(rows: list, case: Case) -> None:
    for row in rows:
        alone, interval, longest, *wanted = fields(
            row, "first_frame_alone", "interval", "video_sample_n_frames", "choices", "probabilities"
        )
        rules = VideoxRules(VideoxOptions(), longest, interval, alone)
        choices, probabilities = videox.frame_choices(rules)
        assert choices == wanted[0], row
        assert probabilities == pytest.approx(wanted[1], rel=1e-9), row


def orders(table: dict, case: Case) -> None:
    full, next_epoch, resumed_order, place, reset = fields(
        table, "full_epoch_seed42", "epoch1_seed43", "resumed_at_5_seed42", "pos_after_7", "start_beyond_end_is_reset"
    )
    count = len(full)
    assert visit_order(count, 42, 0) == full
    assert visit_order(count, 42, 1) == next_epoch
    assert visit_order(count, 42, 0, start=5) == resumed_order
    assert visit_order(count, 42, 0, start=count) == visit_order(count, 42, 0, start=count + 7) == reset
    # Their position is that of the seventh item; ours goes on with the eighth.
    assert visit_order(count, 42, 0, start=place + 1) == full[7:]


def clips(table: dict, case: Case) -> None:
    for name, rows in table.items():
        for row in rows:
            if name == "decay":
                step, limit, ratio, start, wanted = fields(row, "step", "max_grad_norm", "ratio", "start", "limit")
                norm = 0.0
            else:
                assert name == "with_abnormal_rule_max0.05_ratio5_start1000"
                step, norm, wanted = fields(row, "step", "total_norm", "limit")
                limit, ratio, start = 0.05, 5, 1000
            found = clip_limit(step, norm, clip_norm=limit, start_ratio=ratio, start_steps=start)
            assert found == pytest.approx(wanted, rel=1e-9), row


def strata(table: dict, case: Case) -> None:
    rows, single = fields(table, "multi_process", "single_process_seed11_first8")
    for row in rows:
        world, steps, num, width, interval, ranks = fields(
            row, "world_size", "timesteps", "group_num", "group_width", "interval", "ranks"
        )
        for one in ranks:
            rank, low, high, drawn = fields(one, "rank", "low", "high_exclusive", "draw_seed5_first4")
            assert stratum(rank, world, steps) == (low, high), row
            rng = torch.Generator().manual_seed(5)
            assert torch.randint(low, high, (4,), generator=rng).tolist() == drawn
            assert (high - low, low) == (interval, rank // width * interval)
        assert num * width == world
    low, high = stratum(0, 1, 1000)
    rng = torch.Generator().manual_seed(11)
    assert torch.randint(low, high, (len(single),), generator=rng).tolist() == single
