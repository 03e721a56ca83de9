"""Owns the numbers of a distilled adapter: the same captions and noise drawn in several ways, judged in pixels.

In: a Session whose generator is trained on the toy world's captions. Out: a `Row` for each `Way` of drawing, a verdict
in words, and clips to look at.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from cinelora.base.log import console
from cinelora.commands.scores import FACTS, Clips, Words, right, shown, unseen_words
from cinelora.commands.session import Session, unload
from cinelora.preview.options import PreviewOptions
from cinelora.preview.sample import prompt_conditions
from cinelora.toy import world
from cinelora.toy.judge import clearness, lane

NUM_TUNED = 40
"""Captions, first of those that the base has never seen, on which the demo's settings were chosen; none is measured."""
NUM_SEEDS = 2
FIRST_SEED = 5000
CHANCE = 0.05
"""Below this probability a difference is not called chance."""
COLUMNS = ("passes", *FACTS, "mean", "all four", "clearness", "spread")


@dataclass(frozen=True)
class Way:
    """One way of drawing: steps, guidance and solver, by the base or with the adapter."""

    name: str
    num_steps: int
    guidance: float
    sampler: str
    adapted: bool = False

    @property
    def num_passes(self) -> int:
        """How often a clip goes through the network: twice a step with guidance."""
        return self.num_steps * (1 if self.guidance == 1 else 2)

    def options(self, recipe: PreviewOptions) -> PreviewOptions:
        """[preview] for this way: as the recipe has it but for the walk, on the recipe's own steps if as many."""
        same = len(recipe.denoising_steps) == self.num_steps
        steps = recipe.denoising_steps if same else []
        walk = {"num_steps": self.num_steps, "guidance": self.guidance, "sampler": self.sampler}
        return recipe.model_copy(update={**walk, "denoising_steps": steps})


@dataclass(frozen=True)
class Row:
    """What the judge saw of one way, clip by clip: for each fact whether it is as the caption says; the clips.

    `clear` is by how much the asked shape fits better than any other. `spread` is the standard deviation of where
    things run across their way, in pixels: captions leave that open.
    """

    way: Way
    right: dict[str, NDArray[np.bool_]]
    clear: NDArray[np.float64]
    spread: float
    clips: Clips

    @property
    def whole(self) -> NDArray[np.bool_]:
        """For each clip whether all facts are right at once."""
        return np.logical_and.reduce(list(self.right.values()))

    def values(self) -> list[float]:
        """As `COLUMNS` name them: passes, shares of each fact, their mean, of clips wholly right; means."""
        shares = [float(seen.mean()) for seen in self.right.values()]
        whole, clear = float(self.whole.mean()), float(self.clear.mean())
        return [self.way.num_passes, *shares, float(np.mean(shares)), whole, clear, self.spread]


def ways_of(many: int, few: int, guidance: float, sampler: str) -> list[Way]:
    """The base in its own steps and in few, each as it is usual, and the few with the adapter, which come last."""
    return [
        Way(f"base, {many} steps, {sampler}, guidance {guidance:g}", many, guidance, sampler),
        Way(f"base, {few} steps, {sampler}, guidance {guidance:g}", few, guidance, sampler),
        Way(f"base, {few} steps, {sampler}", few, 1.0, sampler),
        Way(f"base, {few} steps, renoise", few, 1.0, "renoise"),
        Way(f"adapter, {few} steps, {sampler}", few, 1.0, sampler, adapted=True),
        Way(f"adapter, {few} steps, renoise", few, 1.0, "renoise", adapted=True),
    ]


def measured_words() -> list[Words]:
    """What is measured: combinations that neither base nor adapter was trained on, nor the settings chosen on."""
    return unseen_words()[NUM_TUNED:]


def measure_ways(session: Session, ways: Sequence[Way]) -> list[Row]:
    """Draw what is measured, each caption `NUM_SEEDS` times, from equal noise in every way, and judge it."""
    words = measured_words() * NUM_SEEDS
    console.print(f"measuring: {len(words)} clips of captions that nothing has seen, in {len(ways)} ways")
    prompts, device = [world.caption_of(*w) for w in words], str(session.place.device)
    conditions = prompt_conditions(session.encoder, prompts, device=device)
    seeds = [FIRST_SEED + k for k in range(len(words))]
    rows = [_measured(session, way, conditions=conditions, seeds=seeds, words=words) for way in ways]
    unload(session.encoder)
    return rows


def _measured(
    session: Session,
    way: Way,
    *,
    conditions: Sequence[Mapping[str, Tensor]],
    seeds: Sequence[int],
    words: Sequence[Words],
) -> Row:
    options = way.options(session.loaded.recipe.preview)
    clips = shown(session, conditions, seeds, adapted=way.adapted, options=options)
    clear = [clearness(clip, asked[FACTS["shape"]]) for clip, asked in zip(clips, words, strict=True)]
    return Row(way, right(clips, words), np.array(clear), spread_of(clips, words), clips)


def spread_of(clips: Clips, words: Sequence[Words]) -> float:
    """The standard deviation of the lanes of clips, in pixels; 0 where hardly anything is seen."""
    lanes = [lane(clip, asked[FACTS["direction"]]) for clip, asked in zip(clips, words, strict=True)]
    seen = [one for one in lanes if one is not None]
    return float(np.std(seen)) if len(seen) > 1 else 0.0


def chance_of(gained: int, lost: int) -> float:
    """Probability that equals differ as much, by the sign test (Dixon and Mood 1946), both sides; 1 for none."""
    num = gained + lost
    tail = sum(math.comb(num, k) for k in range(min(gained, lost) + 1)) / 2**num
    return min(1.0, 2 * tail)


def clearer(before: Row, after: Row) -> tuple[int, int]:
    """In how many clips the asked shape is clearer in the second way, and in how many in the first."""
    return int((after.clear > before.clear).sum()), int((after.clear < before.clear).sum())


def beats(after: Row, before: Row) -> bool:
    """Whether shapes are clearer by more than chance, and no fewer clips are wholly right."""
    gained, lost = clearer(before, after)
    return gained > lost and chance_of(gained, lost) < CHANCE and after.whole.sum() >= before.whole.sum()


def verdict(rows: Sequence[Row]) -> tuple[str, bool]:
    """What the last row, the adapter, amounts to, and whether it beats every walk of the base in as many passes.

    Walks with more passes are told beside.
    """
    after, base = rows[-1], [row for row in rows if not row.way.adapted]
    equal = [row for row in base if row.way.num_passes == after.way.num_passes]
    passed = bool(equal) and all(beats(after, row) for row in equal)
    sides = [clearer(row, after) for row in equal]
    shares = " and ".join(f"{_share(row)} ({row.way.sampler})" for row in equal)
    text = (
        f"In {after.way.num_passes} passes a clip the adapter draws {_share(after)} of {len(after.whole)} clips as "
        f"unseen captions say, the base {shares}. Its shapes are clearer in "
        f"{' and '.join(str(gained) for gained, _ in sides)} of them (sign test, chance "
        f"{' and '.join(f'{chance_of(*both):.1g}' for both in sides)}): "
        f"{'measurably better' if passed else 'not measurably better'}."
    )
    more = [f"{_share(row)} in {row.way.num_passes}" for row in base if row.way.num_passes > after.way.num_passes]
    return text + (f" With guidance the base gets {' and '.join(more)} passes." if more else ""), passed


def _share(row: Row) -> str:
    return f"{row.whole.mean():.0%}"


def clip_by_clip(rows: Sequence[Row]) -> str:
    """In how many clips the last row, the adapter, has a clearer shape than each walk of the base, and the reverse."""
    found = [(row, *clearer(row, rows[-1])) for row in rows if not row.way.adapted]
    told = [
        f"{gained} and {lost} against {row.way.name} (chance {chance_of(gained, lost):.1g})"
        for row, gained, lost in found
    ]
    return f"Clips with a clearer shape from the adapter, and from the base: {'; '.join(told)}."


def ways_table(rows: Sequence[Row]) -> Table:
    """The rows for the terminal."""
    table = Table(title="measured", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for row in rows:
        passes, *shares, spread = row.values()
        cells = [f"{passes:g}", *(f"{share:.3f}" for share in shares), f"{spread:.1f}"]
        table.add_row(Text(row.way.name, "bold" if row.way.adapted else ""), *cells)
    return table
