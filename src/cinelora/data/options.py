"""Owns the options of [data] and [[data.source]]: where clips come from and how they are cut. Imports no torch."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cinelora.base.dtypes import DtypeName
from cinelora.contracts.options import Options, option

_FROM_SOURCE = ("fps", ("source",))
_IN_TABLES = ("reader", ("auto", "table", "easyanimate", "prompts"))
_WITH_CAPTIONS = ("reader", (*_IN_TABLES[1], "webdataset", "captions"))
_SIDE = "memory and time of a step grow with the square of the side, the time of attention with its fourth power"
_AGAIN = "a pass over the data takes so many times the steps; nothing is encoded twice"


class VideoxOptions(Options):
    """Table [data.videox]: the bucket rules of EasyAnimate and VideoX-Fun, under their own names."""

    image_sample_size: int = option(
        512, "Side of the square whose area pictures get.", ge=64, le=8192, unit="pixels", costs=_SIDE
    )
    video_sample_size: int = option(
        512, "Side of the square whose area videos get (the smallest one).", ge=64, le=8192, unit="pixels", costs=_SIDE
    )
    token_sample_size: int = option(
        512,
        "Side of the square that fills the token budget together with the longest of data.frames.",
        ge=64,
        le=8192,
        unit="pixels",
        costs=_SIDE,
    )
    random_hw_adapt: bool = option(
        False,
        "Whether each variant draws how much smaller than its sample size it gets (three in four are not smaller).",
    )
    training_with_video_token_length: bool = option(
        False,
        "Whether each video variant draws its size between video_sample_size and image_sample_size, with as many "
        "frames as the token budget allows at that size.",
    )
    random_frame_crop: bool = option(
        False, "Whether each video variant draws its number of frames (nine in ten keep all)."
    )
    random_ratio_crop: bool = option(
        False, "Whether each variant draws its proportions from the table instead of taking the nearest ones."
    )
    keep_all_node_same_token_length: bool = option(
        False,
        "Whether all ranks always work on one bucket at a time; micro-batches of a bucket that does not divide by the "
        "ranks are repeated. Read from [data.videox] alone, for all sources.",
    )
    auto_tile_batch_size: bool = option(
        False,
        "Whether clips far below the token budget stand in a batch 2 or 4 times, each time with other noise, and count "
        "once. Read from [data.videox] alone, for all sources.",
        costs="memory of such batches, 2 or 4 times as large",
    )


class ClipRules(Options):
    """How clips are cut: of all sources in [data], or of one in [data.source.rules]."""

    frames: list[Annotated[int, Field(ge=1)]] = option(
        help="Frame buckets: numbers of frames that clips are cut to, such as [17, 49, 81]; each clip takes the "
        "longest that it fills. Empty = the model's own length.",
        default_factory=list,
        unit="frames",
        costs="memory and time of a step grow with the frames, the time of a transformer's attention with their square",
    )
    size: list[Annotated[int, Field(ge=1)]] = option(
        help="[height, width] in pixels; with buckets = 'grid' it sets the area. Empty = the model's own size.",
        default_factory=list,
        max_length=2,
        only_if=("buckets", ("grid", "single")),
        unit="pixels",
        costs="memory and time of a step grow with height times width, the time of a transformer's "
        "attention with its square",
    )
    buckets: Literal["grid", "videox", "single"] = option(
        "grid",
        "Sizes that clips can get: 'grid' = every size of (at most) the same area in the model's steps, 'videox' = the "
        "table of EasyAnimate and VideoX-Fun (see [data.videox]), 'single' = all clips are cropped to `size`.",
    )
    videox: VideoxOptions = option(
        help="rules of buckets = 'videox'", default_factory=VideoxOptions, only_if=("buckets", ("videox",))
    )
    upscale: bool = option(
        False,
        "Whether clips smaller than their bucket are enlarged; false = they get a smaller bucket instead.",
        costs="memory and time: small clips get as many tokens as large ones",
    )
    fps: Annotated[float, Field(gt=0)] | Literal["family", "source"] = option(
        "family",
        "Frames per second that clips are resampled to by timestamps: a number, 'family' = the model's own rate "
        "(motion keeps its speed), 'source' = frames of the source in turn (motion changes its speed).",
        unit="frames per second",
    )
    stride: int = option(
        1,
        "Every how many-th frame of the source is taken.",
        ge=1,
        le=1000,
        only_if=_FROM_SOURCE,
        unit="frames of the source",
    )
    stride_min: int = option(
        0,
        "The smallest stride: each variant draws its own between this one and `stride`, as far as its video is long "
        "enough; 0 = always `stride`.",
        ge=0,
        le=1000,
        only_if=_FROM_SOURCE,
        unit="frames of the source",
    )
    clip: Literal["head", "middle", "random", "uniform", "chunks", "sliding"] = option(
        "head",
        "Which stretch of a longer video is used: its beginning, its middle, one drawn by (seed, record, variant); "
        "'uniform' = frames evenly spread over all of it, whatever fps says (motion gets faster); 'chunks' = every "
        "stretch, one after the other, each as a clip of its own; 'sliding' = stretches that start every slide_frames "
        "frames.",
        costs="'chunks' and 'sliding' make several clips of a video: encoding time and disk times as many",
    )
    slide_frames: int = option(
        16,
        "Frames of the clip from one sliding stretch to the next.",
        ge=1,
        only_if=("clip", ("sliding",)),
        unit="frames",
        costs="smaller makes more clips of a video, each of which is encoded and kept",
    )
    drop_start: float = option(
        0.0, "Share of each video's seconds that is left out at its beginning.", ge=0, lt=1, unit="share of the seconds"
    )
    drop_end: float = option(
        0.0, "Share of each video's seconds that is left out at its end.", ge=0, lt=1, unit="share of the seconds"
    )
    skip_frames_start: int = option(
        0,
        "Frames of the source that are left out at the beginning, before all else.",
        ge=0,
        unit="frames of the source",
    )
    skip_frames_end: int = option(
        0, "Frames of the source that are left out at the end, before all else.", ge=0, unit="frames of the source"
    )
    crop: Literal["centre", "random", "none"] = option(
        "centre",
        "Which part of the resized picture is used: the middle, one drawn by (seed, record, variant), or 'none' = all "
        "of it, pressed into the bucket's proportions.",
    )
    resample: Literal["bicubic", "bilinear"] = option("bicubic", "How pictures are resized (both antialiased).")
    num_variants: int = option(
        1,
        "How many random stretches, crops or buckets of each clip are encoded; needs something random.",
        ge=1,
        le=1000,
        unit="variants of each clip",
        costs="encoding time and disk of the latents, times so many; captions are encoded once",
    )
    short: Literal["fit", "skip", "stop"] = option(
        "fit",
        "What happens to clips shorter than every frame bucket: 'fit' = they keep the largest number of frames that "
        "the model allows, 'skip' = they are left out, 'stop' = they are a problem of the data.",
    )
    compat: Literal["none", "cogvideox", "cogvideox-i2v", "easyanimate", "dynamicrafter", "framer"] = option(
        "none",
        "Frames and pixels exactly as a reference script takes them, with its faults: the diffusers CogVideoX scripts "
        "(which read skip_frames_start, skip_frames_end, crop), EasyAnimate (stride), DynamiCrafter (crop, and stride, "
        "stride_min or a number as fps), FramerTurbo (stride); 'none' = as the other options say.",
    )


class SourceOptions(Options):
    """One [[data.source]]: a dataset, and how much of the training it makes up."""

    path: str = option(
        help="Folder of clips, a table (.csv .tsv .jsonl .json .parquet) that names them, a folder of tar shards or of "
        "Hugging Face `datasets`, or hub:OWNER/NAME; with data.show = 'captions' also a .txt of captions. Relative to "
        "the recipe's folder.",
        min_length=1,
    )
    name: str = option("", "What reports and the cache call this source; empty = the folder's or table's own name.")
    reader: Literal[
        "auto", "folder", "table", "easyanimate", "webvid", "prompts", "pairs", "webdataset", "captions"
    ] = option(
        "auto",
        "How the source is laid out: 'folder' = media files with captions beside them, 'table' = one row per clip, "
        "'easyanimate' = JSON or CSV of file_path, text, type, 'webvid' = CSV of videoid, page_dir, name with "
        "videos/PAGE_DIR/VIDEOID.mp4, 'prompts' = prompts.txt and videos.txt line by line, 'pairs' = ID_start and "
        "ID_end images, 'webdataset' = tar shards (streamed), 'captions' = no clips (data.show = 'captions'): a .txt "
        "of one caption a line, a table of captions, a folder of .txt files; 'auto' looks at the path and says which.",
    )
    weight: float = option(
        0.0,
        "Share of the training that is drawn from this source, relative to the other sources' weights; 0 in all "
        "sources = in proportion to their clips.",
        ge=0,
        unit="relative share",
    )
    repeats: int = option(1, "How many times each of its clips counts.", ge=1, le=100_000, unit="times", costs=_AGAIN)
    video_repeats: int = option(
        1,
        "How many times each of its videos counts on top of that, where pictures stand beside them.",
        ge=1,
        le=100_000,
        unit="times",
        costs=_AGAIN,
    )
    held_out: bool = option(
        True, "Whether this source may give clips for the held-out loss; false for a regularisation source."
    )
    media_root: str = option(
        "",
        "Folder that a table's relative paths start from and that no path may leave; empty = the table's folder.",
        only_if=("reader", ("auto", "table", "easyanimate", "webvid", "prompts")),
    )
    path_column: str = option(
        "",
        "The table's column with media paths; empty = the first known name (file_path, path, file, video ...). Of "
        "reader 'prompts', the file of paths (videos.txt).",
        only_if=_IN_TABLES,
    )
    caption_column: str = option(
        "",
        "The table's column with captions; empty = the first known name (caption, text, prompt ...). Of reader "
        "'prompts', the file of captions (prompts.txt); of 'webdataset', the field of each sample's JSON.",
        only_if=_WITH_CAPTIONS,
    )
    mask_suffix: str = option(
        "",
        "Ending of the mask that lies beside each clip (CLIP.mp4 with '_mask': CLIP_mask.mp4 or .png): the loss counts "
        "where it is white; empty = no masks. In tar shards it starts with a dot ('.mask': KEY.mask.png).",
    )
    track_suffix: str = option(
        "",
        "Ending of the file that says where points of each clip go (CLIP.mp4 with '_tracks': CLIP_tracks.npz or .json; "
        "of a pair, ID_tracks.npz), for variants that take tracks; empty = no tracks.",
    )
    captions: Literal["files", "names", "none"] = option(
        "files",
        "Where a folder's captions stand: 'files' = .txt or .caption of the same name, 'names' = the file names "
        "themselves, with _ and - read as spaces, 'none' = nowhere, clips go without words (as they do for variants "
        "that read no text, whatever stands here).",
        only_if=("reader", ("auto", "folder", "pairs")),
    )
    caption_lines: Literal["one", "each"] = option(
        "one",
        "What several lines of a caption are: 'one' = one caption, 'each' = several captions, one of which is drawn "
        "each time (a table's caption may be a list, too).",
        costs="'each': every line is encoded and kept",
    )
    caption_prefix: str = option("", "Text put before every caption of this source, with one space between.")
    caption_suffix: str = option(
        "", "Text put after every caption of this source, with one space between (none before a comma or full stop)."
    )
    trigger: str = option(
        "", "Word put before every caption that does not have it as a whole word yet, with one space between."
    )
    trim_openings: bool = option(
        False, "Whether openings such as 'The video shows' and 'In this image, we see' are cut off captions."
    )
    shuffle_tags: int = option(
        0,
        "How many orders of a caption's comma-separated tags there are, drawn by the record's key; 0 = tags stay as "
        "they are.",
        ge=0,
        le=100,
        unit="orders of a caption",
        costs="so many texts of each caption are encoded and kept",
    )
    keep_tags: int = option(
        0, "How many tags at the beginning stay where they are when tags are shuffled.", ge=0, unit="tags"
    )
    caption_dropout: float = option(
        0.0,
        "Share of the draws that get the empty caption, on top of model.text_dropout.",
        ge=0,
        le=1,
        unit="share of the draws",
    )
    empty_caption: Literal["stop", "allow"] = option(
        "stop", "What an empty caption is: 'stop' = a problem of the data, 'allow' = meant so."
    )
    rules: ClipRules | None = option(None, "how this source's clips are cut; what it does not say is as in [data]")

    @model_validator(mode="after")
    def _tags_are_shuffled(self) -> "SourceOptions":
        if self.keep_tags and not self.shuffle_tags:
            raise ValueError("keep_tags has no effect while shuffle_tags is 0")
        return self


class DataOptions(ClipRules):
    """The section [data]."""

    source: list[SourceOptions] = option(help="The datasets, one [[data.source]] each.", min_length=1)
    show: Literal["clips", "captions", "pictures"] = option(
        "clips",
        "What the run is shown of the data: 'clips' = all of it. For methods that draw their clips themselves "
        "(method.name = 'distill'): 'captions' = captions alone, of lists of them or beside clips that are not opened; "
        "each variant of a caption draws its length from frames and its size from size and buckets; 'pictures' = "
        "captions and pictures to start from (of videos the first frame that clip shows), each variant with a length "
        "from frames. No latents are encoded then.",
        costs="'captions' and 'pictures' spare the encoding of clips and their place on the disk",
    )
    small_buckets: Literal["partial", "repeat", "borrow"] = option(
        "partial",
        "What happens to clips of a bucket that do not fill a micro-batch: 'partial' = the last one is smaller, "
        "'repeat' = clips of that bucket are shown again to fill it, 'borrow' = clips of other buckets that fit are "
        "cut for it, too (where sources have no weights).",
    )
    on_bad: Literal["stop", "skip"] = option(
        "stop",
        "What happens to clips that cannot be read or have no caption: 'stop' = all are listed and nothing starts, "
        "'skip' = they are left out and stand in the table.",
    )
    seconds_per_file: float = option(
        60.0, "Time that measuring one file may take; one that takes longer cannot be used.", gt=0, unit="seconds"
    )
    held_out: float = option(
        0.05,
        "Share of the clips kept apart from training for the held-out loss, by a hash of the key; at least 1 clip "
        "where there are 10 or more, none at 0.",
        ge=0,
        le=0.5,
        unit="share of the clips",
        costs="these clips are not learned from",
    )
    encoded_dtype: DtypeName = option(
        "bf16",
        "Number format in which latents and text embeddings are kept, with and without the cache; fp32 is exact.",
        costs="disk of the cache: fp32 takes twice as much as bf16 and fp16",
    )
    cache: Literal["on", "off"] = option(
        "on",
        "Whether encoded clips are kept on disk; 'off' encodes them again each time they are drawn.",
        costs="'on': disk, of which `cinelora cache` says how much before it begins; 'off': encoding again "
        "in every pass, with the encoders in memory beside the denoiser",
    )
    cache_dir: str = option(
        ".cinelora/cache",
        "Folder of the cache, relative to the recipe's folder; may be shared by runs. Empty = beside the runs.",
        only_if=("cache", ("on",)),
    )
    shuffle_clips: int = option(
        64,
        "How many clips of a stream (tar shards) are held at once, in the temporary folder, to mix their order.",
        ge=1,
        le=100_000,
        only_if=("cache", ("off",)),
        unit="clips",
        costs="disk of the temporary folder for so many clips",
    )

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: Any) -> Any:
        return inherited(data)


def inherited(data: Any) -> Any:
    """The tables of [data] with every source's rules made whole: what they do not say is as [data] says."""
    if not isinstance(data, Mapping) or not isinstance(data.get("source"), list | tuple):
        return data
    shared = {name: data[name] for name in ClipRules.model_fields if name in data}
    sources = [
        {**one, "rules": _over(shared, one["rules"])}
        if isinstance(one, Mapping) and isinstance(one.get("rules"), Mapping)
        else one
        for one in data["source"]
    ]
    return {**data, "source": sources}


def _over(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """One table over another; tables within them alike, so that one of [data.videox]'s options can be set by itself."""
    tables = {
        name: _over(shared[name], value)
        for name, value in own.items()
        if isinstance(value, Mapping) and isinstance(shared.get(name), Mapping)
    }
    return {**shared, **own, **tables}
