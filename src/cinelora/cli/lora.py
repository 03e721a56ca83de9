"""Owns the words of `cinelora lora`: `extract` and `apply` work on files of adapters, without a run."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Work on files of adapters.")

Out = Annotated[
    Path | None, typer.Option(metavar="FILE|FOLDER", help="Where the result goes; left out, the current folder.")
]
Format = Annotated[
    str, typer.Option("--format", metavar="safetensors|ckpt", help="Left out, the ending of --out, or safetensors.")
]


@app.command()
def extract(
    model: Annotated[Path, typer.Option(help="A training checkpoint with an adapter in it.")],
    out: Out = None,
    file_format: Format = "",
    alpha: Annotated[
        float | None,
        typer.Option(help="The strength of the training (what B A was multiplied by), to be noted in the file."),
    ] = None,
) -> None:
    """Take the adapter out of a training checkpoint, into NAME_lora.safetensors."""
    from cinelora.commands.lora_extract import extract as run

    run(model, out=out, file_format=file_format, alpha=alpha)


@app.command()
def apply(
    base: Annotated[Path, typer.Option("--base", "--base_model", help="File of the base's weights.")],
    lora: Annotated[Path, typer.Option(help="File of the adapter.")],
    alpha: Annotated[
        float | None,
        typer.Option(help="What B A is multiplied by; left out, the strength that the file says it was trained with."),
    ] = None,
    out: Out = None,
    file_format: Format = "",
    model: Annotated[
        str, typer.Option(metavar="FAMILY/VARIANT", help="Which the base is; left out, as the files and names say.")
    ] = "",
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
    """Add an adapter to the weights of a base, for programs that load no adapters."""
    from cinelora.commands.lora_apply import Asked
    from cinelora.commands.lora_apply import apply as run

    asked = Asked(alpha, out, file_format, model, dtype, original_names, allow_missing)
    run(base, lora, asked)
