"""Owns the demo's numbers: how much of the concept is there, and what of the base is still there.

In: a Session whose adapter is trained. Out: `Measure`s. "Before" is the same denoiser with its adapter switched off,
drawn from the same noise.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from rich.text import Text

from cinelora.base.log import console
from cinelora.commands.session import Session, unload
from cinelora.preview.sample import decode, prompt_conditions
from cinelora.toy import world
from cinelora.toy.judge import concept_score, judge

NUM_SEEDS = 8
NUM_PROMPTS = 48
MAX_FORGOTTEN = 0.1
MIN_PRESENT = 0.8

Clips = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Measure:
    """One number before and after, what is wanted of it, and whether that came about."""

    name: str
    before: float
    after: float
    want: str
    passed: bool

    def row(self) -> dict[str, object]:
        """As the report page takes it."""
        return {
            "name": self.name,
            "before": round(self.before, 4),
            "after": round(self.after, 4),
            "want": self.want,
            "passed": self.passed,
        }


def both(session: Session, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[Clips, Clips]:
    """Clips without and with the adapter, F H W 3 in [0, 1], from the same noise."""
    conditions = prompt_conditions(session.encoder, prompts, device=str(session.place.device))
    drawn = []
    for switch in (session.adapters.disabled, nullcontext):
        with switch():
            drawn.append(decode(session.encoder, session.draw(conditions, seeds), device=str(session.place.device)))
    unload(session.encoder)
    before, after = ([clip.astype(np.float32) / 255 for clip in videos] for videos in drawn)
    return before, after


def measure_concept(session: Session, prompt: str) -> list[Measure]:
    """How often the concept is there, and how much of it, over several seeds of one unseen caption."""
    console.print(f"measuring: '{prompt}', {NUM_SEEDS} seeds, before and after")
    before, after = both(session, [prompt] * NUM_SEEDS, [1000 + k for k in range(NUM_SEEDS)])
    was, now = ([concept_score(clip) for clip in clips] for clips in (before, after))
    present = [float(np.mean([s.present for s in scores])) for scores in (was, now)]
    score = [float(np.mean([s.score for s in scores])) for scores in (was, now)]
    return [
        Measure(
            "concept present (share of clips)",
            *present,
            f"0 -> {MIN_PRESENT:g} or more",
            present[0] == 0 and present[1] >= MIN_PRESENT,
        ),
        Measure("concept score (0 to 1)", *score, "higher than before", score[1] > score[0]),
    ]


def measure_knowledge(session: Session) -> list[Measure]:
    """What of a base prompt still comes true: colour, shape, direction, background, on combinations never trained."""
    words = [w for w in world.vocabulary() if world.held_out(w)]
    order = np.random.default_rng(0).permutation(len(words))[:NUM_PROMPTS]
    chosen = [words[k] for k in order]
    console.print(f"measuring: {NUM_PROMPTS} prompts of what the base knows, before and after")
    prompts = [world.caption_of(*w) for w in chosen]
    before, after = both(session, prompts, [2000 + k for k in range(NUM_PROMPTS)])
    wanted: dict[str, Callable[[tuple[str, ...]], str]] = {
        "colour": lambda w: w[1],
        "shape": lambda w: w[2],
        "direction": lambda w: w[3],
        "background": lambda w: w[4],
    }
    seen = [[judge(clip) for clip in clips] for clips in (before, after)]
    measures = []
    for name, want in wanted.items():
        was, now = (
            float(np.mean([getattr(v, name) == want(w) for v, w in zip(verdicts, chosen, strict=True)]))
            for verdicts in seen
        )
        measures.append(
            Measure(
                f"base prompts: {name} right",
                was,
                now,
                f"drop of {MAX_FORGOTTEN:g} at most",
                now >= was - MAX_FORGOTTEN - 1e-9,
            )
        )
    mean = [float(np.mean([getattr(m, side) for m in measures])) for side in ("before", "after")]
    total = Measure(
        "base prompts: all four", *mean, f"drop of {MAX_FORGOTTEN:g} at most", mean[1] >= mean[0] - MAX_FORGOTTEN
    )
    return [total, *measures]


def scores_table(measures: Sequence[Measure]) -> Table:
    """The measures for the terminal."""
    table = Table(title="measured", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in ("before", "after"):
        table.add_column(name, justify="right")
    table.add_column("wanted")
    table.add_column("")
    for m in measures:
        verdict = Text("yes", "green") if m.passed else Text("no", "red")
        table.add_row(Text(m.name), f"{m.before:.3f}", f"{m.after:.3f}", Text(m.want), verdict)
    return table
