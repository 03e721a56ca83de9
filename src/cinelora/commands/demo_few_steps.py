"""Owns the verb `demo --few-steps`: the embedded base learns to draw in four steps what it draws in twenty.

In: captions alone, written as a list; no clip is drawn or encoded. Out: a run folder whose page shows the base and the
adapter in several ways of drawing, judged in pixels on captions and noise that nothing was trained on.
"""

import json
from pathlib import Path

import numpy as np

from cinelora.base.errors import Problem, RecipeError
from cinelora.base.files import write_text
from cinelora.base.log import console
from cinelora.commands.demo import idle_cpus, refuse_used
from cinelora.commands.few_steps_scores import (
    COLUMNS,
    FIRST_SEED,
    NUM_SEEDS,
    NUM_TUNED,
    Row,
    clip_by_clip,
    measure_ways,
    measured_words,
    verdict,
    ways_of,
    ways_table,
)
from cinelora.commands.run_folder import RunFolder
from cinelora.commands.session import Session
from cinelora.commands.train import train_loaded
from cinelora.config.load import load
from cinelora.media.write import write_png
from cinelora.preview.sheet import beside
from cinelora.toy import world

STEPS = 240
"""Optimizer steps of the critic."""
NUM_SHOWN = 8
"""Captions on the page's sheet."""
SHEET = "sheets/ways.png"


def demo_few_steps(out: Path | None, *, clips: Path | None, steps: int | None) -> None:
    """Distil the embedded base into `out`, measure it, and say where to look. Raises RecipeError for `clips`."""
    if clips is not None:
        what, do = "few steps are learned from captions alone, not from clips", "leave --clips or --few-steps out"
        raise RecipeError(Problem(what, found=f"--clips {clips}", do=do))
    out = out or Path("runs/demo-few-steps")
    folder = RunFolder(out)
    refuse_used(out)
    console.print("cinelora demo: the embedded base wan/tiny learns to draw in 4 steps, on this machine's CPU or GPU")
    captions = training_captions()
    write_text(out / "captions.txt", "".join(f"{caption}\n" for caption in captions))
    write_text(out / "demo.toml", recipe_text(steps or STEPS))
    console.print(f"wrote {out / 'captions.txt'} ({len(captions)} captions), and {out / 'demo.toml'}: the recipe")
    train_loaded(load(out / "demo.toml"), folder, after=_measure)
    console.print(f"Look at {out / 'report.html'}  (base and adapter side by side, scores, curves)", style="bold")


def training_captions() -> list[str]:
    """Every caption that the base was pretrained with; those that are measured are not among them."""
    return [world.caption_of(*words) for words in world.vocabulary() if not world.held_out(words)]


def recipe_text(steps: int) -> str:
    """The recipe as a person would write it."""
    prompts = [world.caption_of(*words) for words in measured_words()[:4]]
    return _RECIPE.format(steps=steps, prompts=json.dumps(prompts), threads=idle_cpus())


_RECIPE = """\
# The recipe of the demo of few steps. Again with: cinelora train demo.toml --set run.folder=another
[model]
family = "wan"
variant = "tiny"
dtype = "fp32"            # the base is small: full precision costs nothing
text_dropout = 0.0        # what is drawn without guidance needs no empty captions

[data]
show = "captions"         # no clip is needed: what is learned is what the base itself draws
buckets = "single"        # the one size that the base knows
held_out = 0.0            # what is measured is in no list of captions
cache_dir = "cache"
encoded_dtype = "fp32"    # exact, and still small

[[data.source]]
path = "captions.txt"

[lora]
rank = 16
targets = "all-linears"

[method]
name = "distill"          # a generator of four steps, and a critic that learns what it draws
generator_every = 2       # the critic must keep up with the generator
real_guidance = 4.5       # more than the base is drawn with: shapes get clearer; the generator takes it in

[train]
steps = {steps}               # of the critic; the generator makes half of them
micro_size = 12
lr = 2e-3                 # small networks take large steps; the critic's is the same
betas = [0.0, 0.999]      # the direction turns with every step of the critic: no momentum
schedule = "linear"       # down to 0, so that the last steps settle
warmup_steps = 10
precision = "fp32"
num_threads = {threads}           # the cores that were idle when this was written
gradient_checkpointing = false
save_every_steps = 100
keep_last = 1
seed = 1

[preview]                 # the walk is the method's: its four steps, noise anew, no guidance
prompts = {prompts}
seed = 100
micro_size = 16
"""


def _measure(session: Session) -> None:
    """Judge every way of drawing, write demo.json and the sheet, and show the table."""
    usual, few = session.loaded.variant.sampling, session.loaded.recipe.preview
    rows = measure_ways(session, ways_of(usual["num_steps"], few.num_steps, usual["guidance"], usual["sampler"]))
    text, passed = verdict(rows)
    write_png(session.folder.path / SHEET, sheet_of(rows))
    write_text(session.folder.path / "demo.json", json.dumps(page_of(rows, text, passed), indent=1))
    console.print(ways_table(rows))
    console.print(text)


def page_of(rows: list[Row], text: str, passed: bool) -> dict:
    """What the report page shows of the measurement."""
    how = _HOW.format(num=len(measured_words()), tuned=NUM_TUNED, each=NUM_SEEDS, seed=FIRST_SEED)
    return {
        "title": "Few steps, measured",
        "text": f"{how} {clip_by_clip(rows)}",
        "verdict": {"text": text, "passed": passed},
        "ways": {
            "columns": list(COLUMNS),
            "rows": [
                {
                    "name": row.way.name,
                    "values": [round(value, 4) for value in row.values()],
                    "trained": row.way.adapted,
                }
                for row in rows
            ],
        },
        "sheets": [{"file": SHEET, "text": "The same captions and noise: first and last picture of each clip."}],
    }


_HOW = (
    "{num} captions that neither the base's pretraining nor the distillation had (the settings were chosen on {tuned} "
    "others), {each} clips of each, from the noise of seeds {seed} on, the same in every row. Shares of clips in which "
    "fixed rules find in the pixels what the caption says. A pass is one run of a clip through the network; guidance "
    "takes two a step. Clearness is by how much the asked shape fits what is seen better than any other, in shares of "
    "overlap. Spread is how varied clips are: the standard deviation, in pixels, of where things run across their way, "
    "which captions leave open."
)


def sheet_of(rows: list[Row]) -> np.ndarray:
    """The first captions beside each other: the base in its own steps, in few, in as few passes, and the adapter."""
    chosen = [rows[0], rows[1], rows[-3], rows[-1]]
    captions = [world.caption_of(*words) for words in measured_words()[:NUM_SHOWN]]
    clips = {row.way.name: [(clip * 255).round().astype(np.uint8) for clip in row.clips[:NUM_SHOWN]] for row in chosen}
    return beside(clips, captions)
