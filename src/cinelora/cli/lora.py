"""Owns the words of `cinelora lora`: work on files of adapters and bases, without a run."""

from pathlib import Path
from typing import Annotated

import typer

from cinelora.cli.lora_algebra import average, merge, resize, scale
from cinelora.cli.lora_files import convert, inspect

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Work on files of adapters.")
app.command()(inspect)
app.command()(convert)

Out = Annotated[
    Path | None, typer.Option(metavar="FILE|FOLDER", help="Where the result goes; left out, the current folder.")
]
Format = Annotated[
    str, typer.Option("--format", metavar="safetensors|ckpt", help="Left out, the ending of --out, or safetensors.")
]
Whose = Annotated[
    str, typer.Option(metavar="FAMILY/VARIANT", help="Which the base is; left out, as the files and names say.")
]


@app.command()
def extract(
    model: Annotated[Path | None, typer.Option(help="A training checkpoint with an adapter in it.")] = None,
    out: Out = None,
    file_format: Format = "",
    alpha: Annotated[
        float | None,
        typer.Option(help="The strength of the training (what B A was multiplied by), to be noted in the file."),
    ] = None,
    tuned: Annotated[Path | None, typer.Option(help="Instead of --model: weights after a training in full.")] = None,
    base: Annotated[Path | None, typer.Option(help="With --tuned: the weights before it.")] = None,
    rank: Annotated[int | None, typer.Option(help="With --tuned: directions kept of each module's change.")] = None,
    energy: Annotated[
        float | None, typer.Option(help="Or the share of its squared size that is kept, such as 0.95.")
    ] = None,
    max_rank: Annotated[int | None, typer.Option(help="With --energy: at most so many directions.")] = None,
    targets: Annotated[
        str, typer.Option(help="With --tuned: modules to take, a preset or a regular expression; left out, all.")
    ] = "",
    svd: Annotated[
        str,
        typer.Option(metavar="fp32|fp64|lowrank", help="With --tuned: how exactly; lowrank estimates huge matrices."),
    ] = "fp32",
    strict: Annotated[
        bool, typer.Option("--strict", help="With --tuned: refuse where norms, biases or convolutions changed, too.")
    ] = False,
    variant: Annotated[
        str, typer.Option(metavar="FAMILY/VARIANT", help="With --tuned: whose weights; left out, by names and sizes.")
    ] = "",
    to: Annotated[
        str, typer.Option(metavar="LAYOUT|all", help="With --tuned: the layout; left out, those that a run writes.")
    ] = "",
    dtype: Annotated[
        str, typer.Option(metavar="fp32|bf16|fp16", help="With --tuned: number format; left out, fp32.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="With --tuned: every module, as JSON.")] = False,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="With --tuned: every module, as a table.")] = None,
) -> None:
    """Take the adapter out of a training checkpoint, or make one of tuned weights and their base by SVD."""
    from cinelora.commands.lora_difference import Asked, difference
    from cinelora.commands.lora_extract import extract as run
    from cinelora.commands.lora_open import Wanted

    if model is not None and tuned is None and base is None:
        run(model, out=out, file_format=file_format, alpha=alpha)
    elif model is None and tuned is not None and base is not None:
        wanted = Wanted(out, to, dtype)
        difference(tuned, base, Asked(rank, energy, max_rank, targets, svd, strict, variant, wanted, as_json, csv))
    else:
        raise typer.BadParameter("say what to extract from: --model CHECKPOINT, or --tuned WEIGHTS --base WEIGHTS")


@app.command()
def apply(
    base: Annotated[
        Path, typer.Option("--base", "--base_model", help="The base: a file, a folder of shards, a pipeline's folder.")
    ],
    lora: Annotated[list[Path], typer.Option(help="File of an adapter; may be repeated.")],
    alpha: Annotated[
        list[float] | None,
        typer.Option(
            help="What B A is multiplied by; left out, the strength that the file says it was trained with. One for "
            "each --lora."
        ),
    ] = None,
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Factor on top of the strength, one for each --lora; one less, and the first has 1."),
    ] = None,
    out: Out = None,
    file_format: Format = "",
    model: Whose = "",
    dtype: Annotated[
        str,
        typer.Option(
            metavar="fp32|bf16|fp16", help="Number format of all weights; left out, that of each sum, as it is."
        ),
    ] = "",
    original_names: Annotated[
        bool, typer.Option("--original-names", help="Call the result BASE_LORA_applied, as DynamiCrafter's tool does.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out what the base has no place for, and say how much.")
    ] = False,
) -> None:
    """Add adapters to the weights of a base, for programs that load no adapters."""
    from cinelora.commands.lora_apply import Asked
    from cinelora.commands.lora_apply import apply as run

    asked = Asked(
        out=out,
        file_format=file_format,
        model=model,
        dtype=dtype,
        original_names=original_names,
        allow_missing=allow_missing,
        alphas=tuple(alpha or ()),
        weights=tuple(weight or ()),
    )
    run(base, lora, asked)


app.command()(merge)


@app.command()
def unapply(
    merged: Annotated[Path, typer.Option(help="What `lora apply` wrote: a file, or a folder of shards.")],
    lora: Annotated[Path, typer.Option(help="The very file that was added.")],
    alpha: Annotated[
        float | None, typer.Option(help="What B A was multiplied by; left out, what the merged file says.")
    ] = None,
    weight: Annotated[float | None, typer.Option(help="Its weight; left out, what the merged file says.")] = None,
    out: Out = None,
    model: Whose = "",
) -> None:
    """Take an adapter out of a base again, exactly from fp32, or refuse."""
    from cinelora.commands.lora_unapply import Asked
    from cinelora.commands.lora_unapply import unapply as run

    run(merged, lora, Asked(alpha, weight, out, model))


app.command()(resize)
app.command()(scale)
app.command()(average)
