"""Owns the words of `cinelora lora inspect` and `convert`: what an adapter file is, and the same for other programs."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(metavar="FAMILY/VARIANT", help="What the adapter is for; left out, as the file or its keys say."),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        help="The alpha of the training, for files that do not state it; left out, such count as alpha = rank."
    ),
]
AllowMissing = Annotated[
    bool,
    typer.Option(
        "--allow-missing",
        help="Leave out what an adapter of A and B has no place for (.diff, .diff_b, text encoders), and say it.",
    ),
]


def inspect(
    file: Annotated[
        Path, typer.Argument(metavar="FILE|FOLDER", help="An adapter, a folder that peft wrote, the folder of a run.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Everything, each module too, as JSON.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as a page, too.")] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the bars as a picture, too.")] = None,
    base: Annotated[
        Path | None,
        typer.Option(metavar="FILE|FOLDER", help="A base: how much of each weight the adapter changes."),
    ] = None,
    model: Model = "",
    alpha: Alpha = None,
    allow_missing: AllowMissing = False,
) -> None:
    """Say what an adapter is, how strong each block of it is, and which programs load it."""
    from cinelora.commands.lora_inspect import Wishes
    from cinelora.commands.lora_inspect import inspect as run

    run(file, Wishes(as_json, html, png, base, model, alpha, allow_missing))


def convert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE|FOLDER", help="An adapter, a folder that peft wrote, the folder of a run.")
    ],
    to: Annotated[
        list[str],
        typer.Option(
            metavar="LAYOUT",
            help="diffusers, comfyui, kohya, peft, peft-folder, original, a layout's own name, or all.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE|FOLDER", help="Left out, NAME.LAYOUT.safetensors in the current folder."),
    ] = None,
    dtype: Annotated[
        str, typer.Option(metavar="fp32|bf16|fp16", help="Number format of the matrices; left out, as they are.")
    ] = "",
    alpha: Alpha = None,
    model: Model = "",
    allow_missing: AllowMissing = False,
) -> None:
    """Write an adapter as other programs spell it, at the same strength, and check that they take every key."""
    from cinelora.commands.lora_convert import Wishes
    from cinelora.commands.lora_convert import convert as run

    run(file, to, Wishes(out, dtype, alpha, model, allow_missing))
