"""Owns the demo's clips: those it draws, and where the user's own and their captions are.

In: a folder to write into, or the user's folder. Out: mp4 files with captions; a source of the recipe.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cinelora.base.errors import Problem, RecipeError
from cinelora.base.files import write_text
from cinelora.base.log import console
from cinelora.base.seeds import numpy_rng
from cinelora.data.options import DataOptions
from cinelora.data.sources import read_records
from cinelora.media.container import VIDEO_SUFFIXES
from cinelora.media.write import write_mp4
from cinelora.toy import world

NUM_CONCEPT, NUM_KNOWN = 12, 144
UNSEEN = "gray"
"""The background that no clip of the concept has: drawing the concept on it cannot be memory."""
FPS = 8.0
TABLES = (".jsonl", ".csv", ".tsv")


@dataclass(frozen=True)
class Own:
    """The user's clips as a source: a folder, or a table and the folder that its paths start from."""

    path: Path
    media_root: Path | None = None

    def captions(self) -> list[str]:
        """Every caption. Raises DataError with all that cannot be read."""
        source = {"path": str(self.path)} | ({"media_root": str(self.media_root)} if self.media_root else {})
        records = read_records(DataOptions.model_validate({"source": [source]}), Path()).records
        return [record.caption for record in records]


def write_concept(folder: Path) -> None:
    """mp4 files and captions of the concept on every background but the unseen one."""
    seen = [b for b in world.BACKGROUNDS if b != UNSEEN]
    for number in range(NUM_CONCEPT):
        rng = numpy_rng("demo", "concept", number)
        _write(folder / f"zorb_{number:02d}", world.concept_scene(seen[number % len(seen)], rng))


def write_known(folder: Path) -> None:
    """mp4 files and captions of what the base was pretrained on, none of the prompts that are scored."""
    words = [w for w in world.vocabulary() if not world.held_out(w)]
    for number in range(NUM_KNOWN):
        rng = numpy_rng("demo", "known", number)
        _write(folder / f"known_{number:02d}", world.base_scene(words[rng.integers(len(words))], rng))


def _write(stem: Path, scene: world.Scene) -> None:
    pixels = (world.render(scene) * 255).round().astype(np.uint8)
    write_mp4(stem.with_suffix(".mp4"), pixels, FPS)
    write_text(stem.with_suffix(".txt"), scene.caption + "\n")


def find_own(clips: Path, out: Path) -> Own:
    """The user's clips: by the table in the folder, by captions beside the clips, or else by the files' names.

    Raises RecipeError where there is nothing.
    """
    if clips.is_file():
        return Own(clips.resolve())
    videos = sorted(p for p in clips.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES) if clips.is_dir() else []
    if not videos:
        found = f"{clips} has no video" if clips.is_dir() else f"{clips} is not there"
        raise RecipeError(Problem("no such folder of clips", found=found, do="--clips wants a folder of mp4 files"))
    tables = sorted(p for p in clips.iterdir() if p.suffix.lower() in TABLES)
    if tables:
        return Own(tables[0].resolve())
    if any(p.with_suffix(ending).exists() for p in videos for ending in (".txt", ".caption")):
        return Own(clips.resolve())
    console.print(f"no captions in {clips}: the files' names are taken")
    return _named(videos, clips.resolve(), out / "clips" / "own.jsonl")


def _named(videos: Sequence[Path], root: Path, table: Path) -> Own:
    """A table of captions from file names: "white-dog_02.mp4" -> "white dog 02"."""
    rows = [
        {"path": str(p.resolve().relative_to(root)), "caption": p.stem.replace("_", " ").replace("-", " ")}
        for p in videos
    ]
    write_text(table, "".join(json.dumps(row) + "\n" for row in rows))
    return Own(table.resolve(), root)
