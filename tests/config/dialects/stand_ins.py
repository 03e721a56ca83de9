"""Importing in tests: sources in a folder, their keys, and whether the recipe passes `check` on small stand-ins."""

import json
from pathlib import Path

import numpy as np
import tomli_w

from cinelora.commands.check import check
from cinelora.config.importing.imported import imported
from cinelora.config.importing.sources import read_sources
from cinelora.config.importing.translate import translate
from cinelora.media.write import write_mp4, write_png

SMALL = {"model.base": "random", "data.size": [64, 96], "data.held_out": 0.0, "run.folder": "run"}


def texts(folder, **files):
    """Write texts as files of the folder; __ in a name is a dot. Their paths, in order."""
    paths = []
    for name, text in files.items():
        path = Path(folder) / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        paths.append(str(path))
    return paths


def keys_of(*sources):
    """{key: value} of what sources become, dead ones taken out, and the rows of the rest."""
    done = settled(*sources)
    return {key: entry.value for key, entry in done.outcome.entries.items()}, done.outcome.rows


def settled(*sources, model="", sets=()):
    """The `Imported` of sources. Raises RecipeError with all problems."""
    reading = read_sources(sources)
    return imported(reading, translate(reading), model=model, sets=sets)


def check_small(folder, *sources, model, **sets):
    """Import, put a small stand-in in the base's place and small values, and let `check` look at it."""
    words = [f"{key}={json.dumps(value)}" for key, value in {**SMALL, **sets}.items() if value is not None]
    done = settled(*sources, model=model, sets=words)
    assert done.open == []
    recipe = Path(folder) / "recipe.toml"
    recipe.write_text(tomli_w.dumps(done.tables))
    check(recipe, model="", sets=[])


def clip(path, *, frames=48, fps=24.0):
    """A small video of moving squares."""
    path.parent.mkdir(parents=True, exist_ok=True)
    still = np.random.default_rng(0).integers(0, 255, (8, 12, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    write_mp4(path, np.stack([np.roll(still, 3 * frame, 1) for frame in range(frames)]), fps)


def picture(path):
    """A small picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.random.default_rng(1).integers(0, 255, (64, 96, 3), dtype=np.uint8))
