"""Owns the options of [data] and [[data.source]]: where clips come from and how they are cut. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from cinelora.base.dtypes import DtypeName
from cinelora.contracts.options import Options, option


class SourceOptions(Options):
    """One [[data.source]]: a dataset, and how much of the training it makes up."""

    path: str = option(
        help="Folder of clips, or a table (.csv .tsv .jsonl .json) that names them. Relative to the recipe's folder.",
        min_length=1,
    )
    name: str = option("", "What reports and the cache call this source; empty = the folder's or table's own name.")
    reader: Literal["auto", "folder", "table"] = option(
        "auto",
        "How the source is laid out: 'folder' = media files with captions of the same name beside them (.txt or "
        ".caption), 'table' = one row per clip; 'auto' looks at the path.",
    )
    weight: float = option(
        1.0, "Share of the training that is drawn from this source, relative to the other sources' weights.", gt=0
    )
    held_out: bool = option(
        True, "Whether this source may give clips for the held-out loss; false for a regularisation source."
    )
    media_root: str = option(
        "",
        "Folder that a table's relative paths start from and that no path may leave; empty = the table's folder.",
        only_if=("reader", ("auto", "table")),
    )
    path_column: str = option(
        "",
        "The table's column with media paths; empty = the first known name (file_path, path, file, video ...).",
        only_if=("reader", ("auto", "table")),
    )
    caption_column: str = option(
        "",
        "The table's column with captions; empty = the first known name (caption, text, prompt ...).",
        only_if=("reader", ("auto", "table")),
    )
    caption_prefix: str = option("", "Text put before every caption of this source, with one space between.")
    trigger: str = option(
        "", "Word put before every caption that does not have it as a whole word yet, with one space between."
    )
    empty_caption: Literal["stop", "allow"] = option(
        "stop", "What an empty caption is: 'stop' = a problem of the data, 'allow' = meant so."
    )


class DataOptions(Options):
    """The section [data]."""

    source: list[SourceOptions] = option(help="The datasets, one [[data.source]] each.", min_length=1)
    frames: list[Annotated[int, Field(ge=1)]] = option(
        help="Frame buckets: numbers of frames that clips are cut to, such as [17, 49, 81]; each clip takes the "
        "longest that it fills. Empty = the model's own length.",
        default_factory=list,
    )
    size: list[Annotated[int, Field(ge=1)]] = option(
        help="[height, width] in pixels; with aspect_buckets it sets the area. Empty = the model's own size.",
        default_factory=list,
        max_length=2,
    )
    aspect_buckets: bool = option(
        True,
        "Whether clips of other proportions get a size of (at most) the same area that fits them; false = all clips "
        "are cropped to `size`.",
    )
    upscale: bool = option(
        True, "Whether clips smaller than their bucket are enlarged; false = they get a smaller bucket instead."
    )
    fps: Annotated[float, Field(gt=0)] | Literal["family", "source"] = option(
        "family",
        "Frames per second that clips are resampled to by timestamps: a number, 'family' = the model's own rate "
        "(motion keeps its speed), 'source' = every frame of the source in turn (motion changes its speed).",
    )
    clip: Literal["head", "middle", "random"] = option(
        "head",
        "Which stretch of a longer video is used: its beginning, its middle, or one drawn by (seed, record, variant).",
    )
    crop: Literal["centre", "random"] = option(
        "centre", "Which part of the resized picture is used: the middle, or one drawn by (seed, record, variant)."
    )
    num_variants: int = option(
        1, "How many random stretches or crops of each clip are encoded; needs clip or crop = 'random'.", ge=1, le=1000
    )
    short: Literal["fit", "skip", "stop"] = option(
        "fit",
        "What happens to clips shorter than every frame bucket: 'fit' = they keep the largest number of frames that "
        "the model allows, 'skip' = they are left out, 'stop' = they are a problem of the data.",
    )
    on_bad: Literal["stop", "skip"] = option(
        "stop",
        "What happens to clips that cannot be read or have no caption: 'stop' = all are listed and nothing starts, "
        "'skip' = they are left out and stand in the table.",
    )
    held_out: float = option(
        0.05,
        "Share of the clips kept apart from training for the held-out loss, by a hash of the key; at least 1 clip "
        "where there are 10 or more, none at 0.",
        ge=0,
        le=0.5,
    )
    encoded_dtype: DtypeName = option(
        "bf16",
        "Number format in which latents and text embeddings are kept, with and without the cache; fp32 takes twice "
        "the disk and is exact.",
    )
    cache: Literal["on", "off"] = option(
        "on", "Whether encoded clips are kept on disk; 'off' encodes them again each time they are drawn."
    )
    cache_dir: str = option(
        ".cinelora/cache",
        "Folder of the cache, relative to the recipe's folder; may be shared by runs. Empty = beside the runs.",
        only_if=("cache", ("on",)),
    )
