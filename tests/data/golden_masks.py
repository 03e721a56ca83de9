"""Checks of golden cases about masks of what is to be generated.

The reference draws from three generators at once: numpy's old one (kind, frames), torch's (positions) and Python's own
(small rectangles). `ThreeGenerators` stands in for the product's one.
"""

import math
import random
from pathlib import Path

import numpy as np
import torch
from golden_case import Case

from cinelora.base.seeds import numpy_rng
from cinelora.media.masks import PROBABILITIES, GeneratorDraws, draw_kind, draw_mask

CONFIG = {"kind", "rows", "source"}
ROW = {"frames", "height", "width", "seed", "kind", "masked_fraction", "all_masked"}
STATISTICS = {"probabilities_video", "probabilities_image", "statistics"}
STATISTIC = {"samples", "kind_frequency", "mean_masked_fraction", "all_masked_frequency"}
DEVIATIONS = 5
"""Standard errors that a frequency may be off by: of 1e6 right ones less than one is."""
SAMPLES = 4000


class ThreeGenerators:
    def __init__(self, seed: int):
        self._numpy, self._python = np.random.RandomState(seed), random.Random(seed)
        self._torch = torch.Generator().manual_seed(seed)

    def kind(self, probabilities):
        return int(self._numpy.choice(len(probabilities), p=probabilities))

    def frame(self, low, high):
        return int(self._numpy.randint(low, high))

    def coins(self, count):
        return np.array([self._numpy.rand() > 0.5 for _ in range(count)])

    def place(self, low, high):
        return int(torch.randint(low, high, (1,), generator=self._torch))

    def bits(self, shape):
        frames, height, width = shape
        drawn = torch.randint(0, 2, (frames, 1, height, width), dtype=torch.uint8, generator=self._torch)
        return drawn[:, 0].numpy()

    def patch(self, low, high):
        return self._python.randint(low, high)

    def sample(self, size, count):
        return self._python.sample(range(size), count)


def known(found, wanted: set[str], what: str) -> None:
    assert set(found) == wanted, f"{what}: fields {sorted(set(found) ^ wanted)} are missing or not known"


def check_inpaint_masks(case: Case, tmp_path: Path) -> None:
    known(case.config, CONFIG, case.name)
    names = set()
    for row in case.config["rows"]:
        known(row, ROW, case.name)
        names.add(check_row(row, case))
    assert names == set(case.io), f"{case.name}: masks without a row, or rows without a mask"
    assert names, f"{case.name}: no rows"
    if (case.folder / "statistics.json").is_file():
        check_statistics(case.config_file("statistics.json"), case.name)
    assert {file.name for file in case.folder.iterdir()} <= {"config.json", "io.safetensors", "statistics.json"}


def check_row(row, case: Case) -> str:
    """Kind, every pixel, and what the row says of them; gives back the name of the mask."""
    name = f"f{row['frames']}_h{row['height']}_w{row['width']}_seed{row['seed']}"
    draws = ThreeGenerators(row["seed"])
    kind = draw_kind(row["frames"], draws)
    assert kind == row["kind"], name
    mask = draw_mask(kind, row["frames"], row["height"], row["width"], draws, sound=False)
    wanted = case.io[name]
    assert wanted.dtype == torch.uint8
    assert torch.equal(torch.from_numpy(mask)[:, None], wanted), name
    assert math.isclose(mask.mean(dtype=np.float64), row["masked_fraction"], rel_tol=1e-6, abs_tol=1e-9), name
    assert bool(mask.all()) is row["all_masked"], name
    return name


def check_statistics(statistics, name: str) -> None:
    known(statistics, STATISTICS, name)
    for kind in ("video", "image"):
        stated = statistics[f"probabilities_{kind}"]
        assert [stated[str(k)] for k in range(len(stated))] == list(PROBABILITIES[kind])
    for size, theirs in statistics["statistics"].items():
        known(theirs, STATISTIC, name)
        frames, _, area = size.removeprefix("frames").partition("_")
        height, width = map(int, area.split("x"))
        compare(theirs, int(frames), height, width)


def compare(theirs, frames: int, height: int, width: int) -> None:
    """The product's one generator, the reference's rules: frequencies and areas agree with those of the reference."""
    draws = GeneratorDraws(numpy_rng("golden masks", frames, height, width))
    areas: dict[int, list[float]] = {}
    whole = 0
    for _ in range(SAMPLES):
        kind = draw_kind(frames, draws)
        mask = draw_mask(kind, frames, height, width, draws, sound=False)
        areas.setdefault(kind, []).append(mask.mean())
        whole += bool(mask.all())
    probabilities = PROBABILITIES["video" if frames > 1 else "image"]
    assert set(theirs["kind_frequency"]) == set(theirs["mean_masked_fraction"]) == set(map(str, areas))
    for kind, share in enumerate(probabilities):
        for frequency, samples in (
            (theirs["kind_frequency"][str(kind)], theirs["samples"]),
            (len(areas[kind]) / SAMPLES, SAMPLES),
        ):
            assert abs(frequency - share) <= DEVIATIONS * math.sqrt(share * (1 - share) / samples), (frames, kind)
        number = theirs["samples"] * theirs["kind_frequency"][str(kind)]
        error = math.sqrt(np.var(areas[kind]) * (1 / len(areas[kind]) + 1 / number))
        off = abs(np.mean(areas[kind]) - theirs["mean_masked_fraction"][str(kind)])
        assert off <= DEVIATIONS * error + 1e-9, (frames, kind)
    share = theirs["all_masked_frequency"]
    error = math.sqrt(share * (1 - share) * (1 / SAMPLES + 1 / theirs["samples"]))
    assert abs(whole / SAMPLES - share) <= DEVIATIONS * error, frames


CHECKS = {"inpaint_masks": check_inpaint_masks}
