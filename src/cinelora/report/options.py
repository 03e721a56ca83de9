"""Owns the section [report] of a recipe: where figures go besides the run folder, and how big the page may be."""

from typing import Literal

from cinelora.contracts.options import Options, option

TrackerName = Literal["tensorboard", "wandb", "trackio"]


class ReportOptions(Options):
    """Section [report]."""

    trackers: list[TrackerName] = option(
        help="Also send losses and previews to these: tensorboard (files in the run folder), wandb, trackio. "
        "They need `pip install cinelora[trackers]`.",
        default_factory=list,
    )
    hub: str = option(
        "",
        help="OWNER/NAME on the Hugging Face Hub to push a finished run's adapter to, with samples and a model card "
        "(`cinelora push` does it later). A new repository is private; needs `hf auth login`.",
    )
    embed_videos_mb: float = option(
        40.0,
        help="Megabytes of video to carry inside report.html, before/after pairs first; "
        "further ones are played from the run folder and are missing where the page is sent alone.",
        ge=0.0,
        unit="megabytes",
        costs="report.html is larger by the videos and a third (they are written as text)",
    )
