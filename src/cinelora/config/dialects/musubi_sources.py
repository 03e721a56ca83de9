"""Owns the tables of a musubi-tuner dataset TOML: [general] and [[datasets]]. Data alone; `musubi.py` takes them in.

Source: dataset/config_utils.py and docs/dataset_config.md of kohya-ss/musubi-tuner.
"""

from cinelora.config.importing.dialect import Given, Joint, Old

_LONGEST = "each clip takes the longest that it fills, where musubi made one clip of each length; 4k + 1 as there"
_TABLE = {"data.source.*.reader": "table", "data.source.*.caption_column": "caption"}
_NO_PICTURES = {"datasets.*.image_directory": "unset", "datasets.*.image_jsonl_file": "unset"}
_FRAMES = "data.source.*.rules.frames"
_CAPTIONS = Old(words={".txt": {}, ".caption": {}}, why="captions lie beside their clips")
_REPEATS = Old(why="how many times each clip counts")
_IN_GENERAL = {
    "general.caption_extension": _CAPTIONS,
    "general.resolution": Old("data.size", by="width_height"),
    "general.batch_size": Old("train.micro_size"),
    "general.enable_bucket": Old(
        words={"true": {"data.buckets": "grid"}, "false": {"data.buckets": "single"}},
        default="false",
        why="sizes near each clip's proportions",
    ),
    "general.bucket_no_upscale": Old(
        words={"true": {"data.upscale": False}, "false": {"data.upscale": True}},
        default="false",
        why="whether small clips are enlarged",
    ),
    "general.num_repeats": _REPEATS,
    "general.skip_corrupted_cache": Old(fate="elsewhere", why="`cinelora cache` looks after the cache"),
}
_ONE = {
    "video_directory": Old("data.source.*.path", by="text", why="videos with their captions beside them"),
    "image_directory": Old("data.source.*.path", by="text", why="pictures with their captions beside them"),
    "video_jsonl_file": Old("data.source.*.path", by="text", why="relative paths in it begin in its own folder here"),
    "image_jsonl_file": Old("data.source.*.path", by="text", why="relative paths in it begin in its own folder here"),
    "cache_directory": Old(fate="elsewhere", why="one cache for all, by content (data.cache_dir)"),
    "control_directory": Old(fate="impossible", why="remove it: networks that are told a control video are not here"),
    "caption_extension": _CAPTIONS,
    "resolution": Old("data.source.*.rules.size", by="width_height"),
    "batch_size": Old("train.micro_size", why="one size for all sources"),
    "enable_bucket": Old(
        words={"true": {"data.source.*.rules.buckets": "grid"}, "false": {"data.source.*.rules.buckets": "single"}},
        why="sizes near each clip's proportions",
    ),
    "bucket_no_upscale": Old(
        words={"true": {"data.source.*.rules.upscale": False}, "false": {"data.source.*.rules.upscale": True}},
        why="whether small clips are enlarged",
    ),
    "num_repeats": _REPEATS,
    "skip_corrupted_cache": Old(fate="elsewhere", why="`cinelora cache` looks after the cache"),
    "target_frames": Old(why="numbers of frames"),
    "frame_extraction": Old(
        words={
            "head": {"data.source.*.rules.clip": "head"},
            "chunk": {"data.source.*.rules.clip": "chunks"},
            "slide": {"data.source.*.rules.clip": "sliding"},
            "uniform": {"data.source.*.rules.clip": "random"},
            "full": {"data.source.*.rules.clip": "head"},
        },
    ),
    "frame_stride": Old(default="1", why="of slide alone"),
    "frame_sample": Old(default="1", why="of uniform alone"),
    "max_frames": Old(default="129", why="of full alone"),
    "source_fps": Old(fate="always", why="each video's own rate is read, and clips are resampled by their timestamps"),
    "fp_latent_window_size": Old(fate="dead", why="of FramePack alone"),
    "fp_1f_clean_indices": Old(fate="dead", why="of FramePack alone"),
    "fp_1f_target_index": Old(fate="dead", why="of FramePack alone"),
    "fp_1f_no_post": Old(fate="dead", why="of FramePack alone"),
    "multiple_target": Old(fate="dead", why="of Qwen-Image-Layered alone"),
    "no_resize_control": Old(fate="dead", why="of control pictures alone"),
    "control_resolution": Old(fate="dead", why="of control pictures alone"),
}
DATASET_SETTINGS = {**_IN_GENERAL, **{f"datasets.*.{name}": old for name, old in _ONE.items()}}
DATASET_JOINT = (
    Joint(("datasets.*.num_repeats", "general.num_repeats"), "data.source.*.repeats", by="first"),
    Joint(
        ("datasets.*.target_frames",), _FRAMES, "frames", _LONGEST, when={"datasets.*.frame_extraction": "~^(?!full)"}
    ),
    Joint(("datasets.*.target_frames",), _FRAMES, "frames", _LONGEST, when={"datasets.*.frame_extraction": "unset"}),
    Joint(
        ("datasets.*.max_frames",),
        _FRAMES,
        by="frames",
        why="full: shorter clips keep all that fits 4k + 1",
        when={"datasets.*.frame_extraction": "full"},
    ),
    Joint(
        ("datasets.*.frame_stride",),
        "data.source.*.rules.slide_frames",
        by="same",
        when={"datasets.*.frame_extraction": "slide"},
    ),
    Joint(
        ("datasets.*.frame_sample",),
        "data.source.*.rules.num_variants",
        by="same",
        when={"datasets.*.frame_extraction": "uniform"},
    ),
)
DATASET_GIVEN = (
    Given(
        {"datasets.*.frame_extraction": "uniform"},
        {"data.source.*.rules.clip": "random"},
        why="windows are drawn here, not evenly spread",
    ),
    Given({"general.enable_bucket": "false"}, {"data.upscale": True}, why="every clip in the one size"),
    Given({"datasets.*.enable_bucket": "false"}, {"data.source.*.rules.upscale": True}, why="all in the one size"),
    Given({"datasets.*.video_jsonl_file": "set"}, {**_TABLE, "data.source.*.path_column": "video_path"}),
    Given({"datasets.*.image_jsonl_file": "set"}, {**_TABLE, "data.source.*.path_column": "image_path"}),
    Given({"datasets.*.video_directory": "set"}, {"data.source.*.reader": "folder"}),
    Given({"datasets.*.image_directory": "set"}, {"data.source.*.reader": "folder"}),
    Given(
        {"general.resolution": "unset", "datasets.*.resolution": "unset"},
        {"data.source.*.rules.size": [544, 960]},
        why="musubi's default, 960 wide and 544 high",
    ),
    Given(
        {**_NO_PICTURES, "datasets.*.target_frames": "unset", "datasets.*.frame_extraction": "unset"},
        {_FRAMES: [1]},
        why="musubi's default: one frame of each video",
    ),
)
