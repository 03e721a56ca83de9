"""Owns the verb `demo`: the whole job on the embedded base, with an effect that is measured in pixels.

Twelve clips of a thing that the base has never seen (a "zorb": a magenta ball with an orange core that goes round),
and some clips of what it knows so that it is not forgotten, are written as mp4 files; then it is check, cache, train
and report as for any recipe. The scores are taken on captions that the adapter did not learn from, with equal seeds
before and after.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from cinelora.base.errors import Problem, RecipeError
from cinelora.base.files import write_text
from cinelora.base.log import console
from cinelora.commands.demo_clips import UNSEEN, Own, find_own, write_concept, write_known
from cinelora.commands.run_folder import RunFolder
from cinelora.commands.scores import Measure, measure_concept, measure_knowledge, scores_table
from cinelora.commands.session import Session
from cinelora.commands.train import train_loaded
from cinelora.config.load import load
from cinelora.report.events import read_events
from cinelora.toy import world

STEPS = 800
"""Optimizer steps unless told otherwise."""


def demo(out: Path | None, *, clips: Path | None, steps: int | None) -> None:
    """Run the demo into `out`; with `clips` it learns from these instead. Ends by saying where to look."""
    out, steps = out or Path("runs/demo"), steps or STEPS
    folder = RunFolder(out)
    refuse_used(out)
    console.print("cinelora demo: a LoRA on the embedded base wan/tiny (64 x 64 pixels), on this machine's CPU or GPU")
    if clips is None:
        text = recipe_text(steps)
        write_concept(out / "clips" / "concept")
    else:
        own = find_own(clips, out)
        text = recipe_of_clips(own, steps, captions=own.captions())
    write_known(out / "clips" / "known")
    console.print(f"wrote {out / 'clips'}, and {out / 'demo.toml'}: the recipe")
    write_text(out / "demo.toml", text)
    loaded = load(out / "demo.toml")
    train_loaded(loaded, folder, after=lambda session: _measure(session, with_concept=clips is None))
    console.print(f"Look at {out / 'report.html'}  (videos before and after, scores, curves, files)", style="bold")


def refuse_used(out: Path) -> None:
    """Raise RecipeError where the demo's folder holds something already."""
    if out.exists() and any(out.iterdir()):
        raise RecipeError(
            Problem("the demo wants a new folder", found=str(out), do="name another: --out, or remove this one")
        )


def _prompts() -> list[str]:
    """Captions that no clip of the demo has: the concept on the unseen background, and a held-out one of the base."""
    known = next(words for words in world.vocabulary() if world.held_out(words))
    return [world.concept_caption(UNSEEN), world.caption_of(*known)]


def recipe_text(steps: int) -> str:
    """The recipe of the demo as a person would write it."""
    return _filled(steps, prompts=_prompts(), source='path = "clips/concept"', share=0.1)


def recipe_of_clips(own: Own, steps: int, *, captions: Sequence[str]) -> str:
    """The same for the user's own clips, whatever their sizes, lengths and frame rates; two captions are drawn."""
    source = f"path = {json.dumps(str(own.path))}"
    if own.media_root:
        source += f"\nmedia_root = {json.dumps(str(own.media_root))}"
    return _filled(steps, prompts=[*dict.fromkeys(captions[:2]), _prompts()[-1]], source=source, share=0.12)


def _filled(steps: int, *, prompts: Sequence[str], source: str, share: float) -> str:
    return _RECIPE.format(
        steps=steps, prompts=json.dumps(list(prompts)), source=source, share=share, threads=idle_cpus()
    )


def idle_cpus() -> int:
    """Cores that are mostly idle now, 1 to 4: on a busy core a second thread makes all of them wait for it."""
    import psutil

    return min(4, max(1, sum(busy < 50 for busy in psutil.cpu_percent(interval=0.5, percpu=True))))


_RECIPE = """\
# The demo's recipe. Train it again with: cinelora train demo.toml --set run.folder=another
[model]
family = "wan"
variant = "tiny"
dtype = "fp32"            # the base is small: full precision costs nothing

[data]
held_out = {share}        # at least one clip that is never trained on
cache_dir = "cache"
encoded_dtype = "fp32"    # exact, and still small

[[data.source]]           # what is to be learned
{source}
weight = 1.0

[[data.source]]           # what is not to be forgotten: clips of the kind that the base knows
path = "clips/known"
held_out = false
weight = 1.5              # three of five clips

[lora]
rank = 16
targets = "all-linears"   # a new look wants the last layer too

[train]
steps = {steps}
micro_size = 12
lr = 1.5e-3
schedule = "linear"       # down to 0, so that the last steps settle
warmup_steps = 20
precision = "fp32"
num_threads = {threads}           # the cores that were idle when this was written
gradient_checkpointing = false
save_every_steps = 100
keep_last = 1
seed = 1

[held_out]
every_steps = 50
num_timesteps = 8

[preview]
prompts = {prompts}
num_seeds = 2
seed = 100
micro_size = 4
"""


def _measure(session: Session, *, with_concept: bool) -> None:
    """Score before (adapter off) and after (on), write demo.json, and show the table."""
    measures: list[Measure] = []
    if with_concept:
        measures += measure_concept(session, world.concept_caption(UNSEEN))
    measures += measure_knowledge(session)
    measures += _held_out(session)
    text = (
        f"Measured in pixels by fixed rules, with the same seeds before and after. No clip of the "
        f"{world.CONCEPT_WORD} has a {UNSEEN} background."
        if with_concept
        else "Measured with the same seeds before and after."
    )
    rows = [measure.row() for measure in measures]
    write_text(
        session.folder.path / "demo.json",
        json.dumps({"title": "What was learned, what was forgotten", "text": text, "rows": rows}, indent=1),
    )
    console.print(scores_table(measures))


def _held_out(session: Session) -> list[Measure]:
    """The held-out loss of the first and the last evaluation in the run's diary."""
    losses = [event["loss"] for event in read_events(session.folder.events) if event["kind"] == "held_out"]
    if len(losses) < 2:
        return []
    return [Measure("held-out loss", losses[0], losses[-1], "lower than before", losses[-1] < losses[0])]
