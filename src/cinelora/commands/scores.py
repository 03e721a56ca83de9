"""Owns the demo's numbers: how much of the concept is there, and what of the base is still there.

In: a Session whose adapter is trained. Out: `Measure`s. "Before" is the same denoiser with its adapter switched off,
drawn from the same noise.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from cinelora.base.log import console
from cinelora.commands.session import Session, unload
from cinelora.preview.options import PreviewOptions
from cinelora.preview.sample import decode, prompt_conditions
from cinelora.toy import world
from cinelora.toy.judge import concept_score, judge

NUM_SEEDS = 8
NUM_PROMPTS = 48
MAX_FORGOTTEN = 0.1
MIN_PRESENT = 0.8

Clips = list[NDArray[np.float32]]
Words = tuple[str, str, str, str, str]
FACTS = {"colour": 1, "shape": 2, "direction": 3, "background": 4}
"""What the judge tells of a clip, and its place in the words of a caption."""


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


def shown(
    session: Session,
    conditions: Sequence[Mapping[str, Tensor]],
    seeds: Sequence[int],
    *,
    adapted: bool,
    options: PreviewOptions | None = None,
) -> Clips:
    """Clips F H W 3 in [0, 1], with the adapter or with the base alone, drawn as `options` or the recipe say."""
    with nullcontext() if adapted else session.adapters.disabled():
        latents = session.draw(conditions, seeds, options)
    videos = decode(session.encoder, latents, device=str(session.place.device))
    return [clip.astype(np.float32) / 255 for clip in videos]


def both(session: Session, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[Clips, Clips]:
    """Clips without and with the adapter from the same noise."""
    conditions = prompt_conditions(session.encoder, prompts, device=str(session.place.device))
    before, after = (shown(session, conditions, seeds, adapted=adapted) for adapted in (False, True))
    unload(session.encoder)
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


def unseen_words() -> list[Words]:
    """Combinations that neither the base nor any adapter was trained on, in an order drawn once."""
    words = [w for w in world.vocabulary() if world.held_out(w)]
    return [words[k] for k in np.random.default_rng(0).permutation(len(words))]


def right(clips: Sequence[NDArray[np.float32]], words: Sequence[Words]) -> dict[str, NDArray[np.bool_]]:
    """For each clip whether the judge sees what its words ask for: colour, shape, direction, background."""
    verdicts = [judge(clip) for clip in clips]
    return {
        name: np.array([getattr(seen, name) == asked[place] for seen, asked in zip(verdicts, words, strict=True)])
        for name, place in FACTS.items()
    }


def measure_knowledge(session: Session) -> list[Measure]:
    """What of a base prompt still comes true: colour, shape, direction, background, on combinations never trained."""
    chosen = unseen_words()[:NUM_PROMPTS]
    console.print(f"measuring: {NUM_PROMPTS} prompts of what the base knows, before and after")
    prompts = [world.caption_of(*w) for w in chosen]
    before, after = both(session, prompts, [2000 + k for k in range(NUM_PROMPTS)])
    was, now = right(before, chosen), right(after, chosen)
    measures = []
    for name in FACTS:
        shares = float(was[name].mean()), float(now[name].mean())
        kept = shares[1] >= shares[0] - MAX_FORGOTTEN - 1e-9
        measures.append(Measure(f"base prompts: {name} right", *shares, f"drop of {MAX_FORGOTTEN:g} at most", kept))
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
