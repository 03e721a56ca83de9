"""Owns the words of the command line. It parses, calls one verb of `commands/`, and prints errors; no logic.

Every import that costs time stands inside the function that needs it, so that --help and a refused recipe answer
at once.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cinelora import __version__
from cinelora.cli.cache import Sets
from cinelora.cli.cache import app as cache_app
from cinelora.cli.import_recipe import import_recipe
from cinelora.cli.interpolate import interpolate, tracks
from cinelora.cli.lora import app as lora_app
from cinelora.cli.plan import plan
from cinelora.cli.recipe import app as recipe_app


class _InOrder(TyperGroup):
    """Lists the verbs in the order in which one needs them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Verbs of one word and verbs of several alike."""
        first = ["demo", "init", "families", "check", "plan", "cache"]
        return sorted(super().list_commands(ctx), key=lambda verb: first.index(verb) if verb in first else len(first))


app = typer.Typer(
    cls=_InOrder,
    name="cinelora",
    help="LoRA fine-tuning of video diffusion models: from raw clips to a file that ComfyUI and diffusers load.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

INTERRUPTED = 130
"""The exit code of Ctrl-C, by the shell's custom: 128 + SIGINT."""


@app.callback(invoke_without_command=True)
def top(version: Annotated[bool, typer.Option("--version", help="Say the version and end.")] = False) -> None:
    """LoRA fine-tuning of video diffusion models: from raw clips to a file that ComfyUI and diffusers load."""
    if version:
        typer.echo(f"cinelora {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; must not hold one yet. Left out, runs/demo or runs/demo-few-steps."),
    ] = None,
    clips: Annotated[
        Path | None,
        typer.Option(
            help="Your own mp4 files instead of the drawn ones (captions: same-stem .txt or a captions.jsonl)."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps; left out, 800, or 240 with --few-steps.", min=1)
    ] = None,
    few_steps: Annotated[
        bool, typer.Option("--few-steps", help="Distil the base to four steps without guidance, from captions alone.")
    ] = False,
) -> None:
    """Train a LoRA on the embedded base, from clips to measured before/after videos, in minutes on a CPU."""
    if few_steps:
        from cinelora.commands.demo_few_steps import demo_few_steps as run
    else:
        from cinelora.commands.demo import demo as run

    run(out, clips=clips, steps=steps)


@app.command()
def init(
    model: Annotated[str, typer.Argument(metavar="FAMILY/VARIANT", help="Such as wan/t2v-1.3b.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File to write; standard output if left out.")] = None,
) -> None:
    """Write a commented recipe."""
    from cinelora.commands.init import init as run

    run(model, out=out)


@app.command()
def families() -> None:
    """List families and variants with their sizes."""
    from cinelora.commands.families import families as run

    run()


@app.command()
def check(
    target: Annotated[
        Path, typer.Argument(metavar="RECIPE|DATASET", help="A recipe (TOML), or a folder or table of clips.")
    ],
    model: Annotated[
        str, typer.Option(metavar="FAMILY/VARIANT", help="Whose sizes to check a dataset for; left out, wan/tiny.")
    ] = "",
    sets: Sets = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Look into every clip too; write report.html, problems.csv, clips.json there."
        ),
    ] = None,
) -> None:
    """Tell all problems at once, and what would become of each clip. Reads no weights."""
    from cinelora.commands.check import check as run

    run(target, model=model, sets=sets or [], report=report)


app.add_typer(cache_app, name="cache")
app.command()(plan)
app.command()(interpolate)
app.command()(tracks)
app.add_typer(lora_app, name="lora")
app.add_typer(recipe_app, name="recipe")
app.command("import")(import_recipe)


@app.command()
def train(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="A recipe (TOML); may be left out with --resume.")
    ] = None,
    sets: Sets = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with this run folder, exactly where it stopped.")
    ] = None,
) -> None:
    """Train, save adapters that are proven to load, and write the report."""
    from cinelora.commands.train import train as run

    run(recipe, sets=sets or [], resume=resume)


_ONE_OR_EACH = "one for all prompts, or one for each."
Starts = Annotated[
    list[str] | None, typer.Option(help=f"Picture to start from, for variants that take one: {_ONE_OR_EACH}")
]
Ends = Annotated[list[str] | None, typer.Option(help=f"Picture to end at, for variants that can: {_ONE_OR_EACH}")]
Films = Annotated[list[str] | None, typer.Option(help=f"Video to go on from: {_ONE_OR_EACH}")]
FilmStrength = Annotated[
    float | None, typer.Option(help="How much of the video is drawn anew, up to 1 = all; left out, 0.7.")
]
Alpha = Annotated[
    float | None,
    typer.Option(help="The alpha of the training, for files that do not state it, such as VideoX-Fun's PEFT files."),
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Leave out what the base has no place for, and say what that is.")
]


@app.command()
def sample(
    lora: Annotated[Path, typer.Argument(help="An adapter file, or the folder of a run.")],
    prompt: Annotated[list[str], typer.Option(help="What to draw; may be repeated.")],
    base: Annotated[str, typer.Option(help="Base checkpoint; left out, the one that the adapter names.")] = "",
    model: Annotated[
        str, typer.Option(metavar="FAMILY/VARIANT", help="Left out, the one that the adapter names.")
    ] = "",
    out: Annotated[Path, typer.Option(help="Folder for the videos.")] = Path("samples"),
    strength: Annotated[float, typer.Option(help="Factor on the adapter; 0 shows the base.")] = 1.0,
    steps: Annotated[
        int | None, typer.Option(help="Sampling steps; left out, a distilled adapter's own, else the variant's.", min=1)
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Classifier-free guidance; left out, a distilled adapter's own, else the variant's."),
    ] = None,
    sampler: Annotated[
        str,
        typer.Option(help="Solver, one of preview.sampler; left out, a distilled adapter's own, else the variant's."),
    ] = "",
    negative_prompt: Annotated[str, typer.Option(help="What guidance leads away from; else the empty caption.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the first video; the next ones count up.")] = 0,
    image: Starts = None,
    end_image: Ends = None,
    video: Films = None,
    video_strength: FilmStrength = None,
    alpha: Alpha = None,
    allow_missing: AllowMissing = False,
    frames: Annotated[int | None, typer.Option(help="Frames of each video; the variant's if left out.", min=1)] = None,
    size: Annotated[
        tuple[int, int] | None, typer.Option(metavar="HEIGHT WIDTH", help="In pixels; the variant's if left out.")
    ] = None,
    sets: Sets = None,
) -> None:
    """Draw videos with an adapter."""
    from cinelora.commands.sample import Wishes
    from cinelora.commands.sample import sample as run

    wishes = Wishes(
        base=base,
        model=model,
        strength=strength,
        num_steps=steps,
        guidance=guidance,
        sampler=sampler,
        negative_prompt=negative_prompt,
        seed=seed,
        images=tuple(image or ()),
        end_images=tuple(end_image or ()),
        videos=tuple(video or ()),
        video_strength=video_strength,
        alpha=alpha,
        allow_missing=allow_missing,
        frames=frames,
        size=size,
        sets=tuple(sets or ()),
    )
    run(lora, prompt, out=out, wishes=wishes)


@app.command()
def report(run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]) -> None:
    """Write report.html of a run again, finished or not."""
    from cinelora.commands.report import report as run

    run(run_folder)


@app.command()
def push(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where on the Hugging Face Hub.")],
    private: Annotated[bool, typer.Option(help="Make a new repository that only you can see.")] = False,
) -> None:
    """Upload a run's adapter to the Hugging Face Hub, with samples and a model card."""
    from cinelora.commands.push import push as run

    run(run_folder, repository, private=private)


def main() -> None:
    """Run the command line. An error meant for the user is printed as it is and sets the exit code of its kind."""
    from cinelora.base.errors import CineloraError

    try:
        app()
    except CineloraError as error:
        typer.echo(f"{error.prefix}{error}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            typer.echo("interrupted; what is finished is kept, and the same command goes on from there", err=True)
        raise
