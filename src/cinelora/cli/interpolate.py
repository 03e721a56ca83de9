"""Owns the words of `cinelora interpolate` and `cinelora tracks`."""

from pathlib import Path
from typing import Annotated, Any

import typer

Pairs = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of ID_start and ID_end pictures.")]
Out = Annotated[Path, typer.Option(help="Folder for the videos.")]
Model = Annotated[
    str, typer.Option(metavar="FAMILY/VARIANT", help="A variant of framer; left out, the run's, or 512x320.")
]
Base = Annotated[str, typer.Option(help="Base checkpoint; left out, the run's, or the variant's own.")]
Lora = Annotated[
    Path | None, typer.Option(help="An adapter: a run, a folder that peft reads, one with unet_lora in it, or a file.")
]
Strength = Annotated[float, typer.Option(help="Factor on the adapter; 0 shows the base.")]
ControlNet = Annotated[Path | None, typer.Option(help="A trained ControlNet: a run, or a folder that has one.")]
Steer = Annotated[
    str,
    typer.Option(
        metavar="none|tracks|sift",
        help="Where points go: nobody says so, ID_tracks.npz or .json beside each pair, or SIFT finds some.",
    ),
]
Choice = Annotated[
    str, typer.Option(metavar="random|farthest|best|spread", help="Which points of SIFT's are taken (--steer sift).")
]
Points = Annotated[int, typer.Option(help="How many points of SIFT's are taken at most.", min=1, max=100)]
Crop = Annotated[
    str, typer.Option(metavar="centre|none", help="How pictures get their size: cropped, or pressed into it.")
]
Frames = Annotated[int | None, typer.Option(help="Frames of each video, both pictures included: 2 to 25.")]
Size = Annotated[tuple[int, int] | None, typer.Option(metavar="HEIGHT WIDTH", help="In pixels.")]
Steps = Annotated[int | None, typer.Option(help="Sampling steps.", min=1)]
Guidance = Annotated[
    tuple[float, float] | None,
    typer.Option(metavar="FIRST LAST", help="Guidance of the first and of the last frame; even in between."),
]
MiddleMax = Annotated[bool, typer.Option("--middle-max", help="Guidance is largest in the middle frame instead.")]
Fps = Annotated[float | None, typer.Option(help="Frames per second: of the file, and told to the network.")]
Motion = Annotated[float | None, typer.Option(help="Motion bucket: how much moves.")]
Noise = Annotated[float | None, typer.Option(help="Deviation of the noise on both pictures.")]
ControlScale = Annotated[
    float | None, typer.Option(help="Factor on what points do; left out, 1, or 0.5 where SIFT found them.")
]
ControlRange = Annotated[
    tuple[float, float] | None,
    typer.Option(metavar="FROM TO", help="Part of the steps in which points count, such as 0 0.5."),
]
DecodeChunk = Annotated[int, typer.Option(help="Frames decoded at once; 0 = all.", min=0)]
Seed = Annotated[int, typer.Option(help="Seed of each pair's noise.")]
Kind = Annotated[str, typer.Option("--as", metavar="mp4|gif|both", help="What files are written.")]

Clips = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of videos, or of image pairs.")]
By = Annotated[
    str, typer.Option(metavar="flow|cotracker", help="How points of videos are followed; of pairs SIFT finds them.")
]
Suffix = Annotated[str, typer.Option(help="Ending of the files, as data.source.track_suffix says.")]
Side = Annotated[int, typer.Option(help="Points of the grid along a side.", min=1, max=200)]
Checkpoint = Annotated[Path | None, typer.Option(help="CoTracker's file, such as scaled_offline.pth.")]
Device = Annotated[str, typer.Option(help="Where CoTracker computes; left out, a GPU if there is one.")]
Again = Annotated[bool, typer.Option("--again", help="Write files anew that are there.")]


def interpolate(
    pairs: Pairs,
    out: Out = Path("interpolated"),
    model: Model = "",
    base: Base = "",
    lora: Lora = None,
    strength: Strength = 1.0,
    controlnet: ControlNet = None,
    steer: Steer = "none",
    choice: Choice = "random",
    points: Points = 5,
    crop: Crop = "none",
    frames: Frames = None,
    size: Size = None,
    steps: Steps = None,
    guidance: Guidance = None,
    middle_max: MiddleMax = False,
    fps: Fps = None,
    motion: Motion = None,
    noise: Noise = None,
    control_scale: ControlScale = None,
    control_range: ControlRange = None,
    decode_chunk: DecodeChunk = 0,
    seed: Seed = 0,
    kind: Kind = "mp4",
) -> None:
    """Draw the frames between the two pictures of every pair in a folder."""
    from cinelora.commands.interpolate import InterpolateWishes
    from cinelora.commands.interpolate import interpolate as run

    height, width = size or (None, None)
    how = _said(frames=frames, height=height, width=width, num_steps=steps, guidance=guidance, fps=fps, noise=noise)
    how |= _said(motion_bucket=motion, control_range=control_range, middle_max=middle_max or None)
    wishes = InterpolateWishes(
        model=model,
        base=base,
        lora=lora,
        strength=strength,
        controlnet=controlnet,
        steer=_one_of(steer, "steer", "none", "tracks", "sift"),
        choice=_one_of(choice, "choice", "random", "farthest", "best", "spread"),
        num_points=points,
        crop=_one_of(crop, "crop", "centre", "none"),
        how=how,
        control_scale=control_scale,
        decode_chunk=decode_chunk,
        seed=seed,
        kind=_one_of(kind, "as", "mp4", "gif", "both"),
    )
    run(pairs, out=out, wishes=wishes)


def tracks(
    folder: Clips,
    by: By = "flow",
    suffix: Suffix = "_tracks",
    side: Side = 16,
    checkpoint: Checkpoint = None,
    device: Device = "",
    again: Again = False,
) -> None:
    """Follow points through the clips of a folder, and write their tracks beside them."""
    from cinelora.commands.tracks import TrackWishes
    from cinelora.commands.tracks import tracks as run

    by = _one_of(by, "by", "flow", "cotracker")
    run(folder, wishes=TrackWishes(by, suffix, side, checkpoint, device=device, again=again))


def _said(**values: Any) -> dict[str, Any]:
    """What is not left out."""
    return {name: value for name, value in values.items() if value is not None}


def _one_of(word: str, option: str, *words: str) -> Any:
    if word not in words:
        raise typer.BadParameter(f"{word!r} is not one of {', '.join(words)}", param_hint=f"--{option}")
    return word
