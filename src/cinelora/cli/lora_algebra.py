"""Owns the words of `cinelora lora merge`, `resize`, `scale` and `average`: adapters out of adapters."""

from pathlib import Path
from typing import Annotated

import typer

Adapter = Annotated[
    Path, typer.Argument(metavar="FILE|FOLDER", help="An adapter, a folder that peft wrote, the folder of a run.")
]
Rank = Annotated[int | None, typer.Option(help="Directions kept of each module.")]
Energy = Annotated[
    float | None, typer.Option(help="Or the share of each module's squared size that is kept, such as 0.95.")
]
Alpha = Annotated[float | None, typer.Option(help="The alpha of the training, for a file that does not state it.")]
Model = Annotated[
    str,
    typer.Option(metavar="FAMILY/VARIANT", help="What the adapter is for; left out, as the file or its keys say."),
]
To = Annotated[str, typer.Option(metavar="LAYOUT", help="Another layout of the family; left out, the input's own.")]
Dtype = Annotated[
    str, typer.Option(metavar="fp32|bf16|fp16", help="Number format of the matrices; left out, the input's widest.")
]
Json = Annotated[bool, typer.Option("--json", help="Every module with what it loses, as JSON.")]
Csv = Annotated[Path | None, typer.Option(metavar="FILE", help="The same as a table.")]
_OUT = "Where the result goes; left out, {} in the current folder."


def merge(
    files: Annotated[list[Path], typer.Argument(metavar="FILE FILE ...", help="Adapters of one family, two or more.")],
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights",
            "--weight",
            metavar="W W ...",
            help="Factors on the adapters' effects, one for each file; negative ones as 1,-0.5.",
        ),
    ] = None,
    how: Annotated[
        str,
        typer.Option(
            metavar="concat|sum|svd",
            help="concat: exact, ranks add up; svd: the nearest of --rank or --energy; sum: of the matrices, rough.",
        ),
    ] = "concat",
    rank: Rank = None,
    energy: Energy = None,
    alpha: Annotated[
        list[float] | None,
        typer.Option(help="The alpha of the training, for files that do not state it; repeat it, one for each file."),
    ] = None,
    model: Model = "",
    to: To = "",
    dtype: Dtype = "",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE|FOLDER", help=_OUT.format("ONE+OTHER.LAYOUT.safetensors"))
    ] = None,
    as_json: Json = False,
    csv: Csv = None,
) -> None:
    """Make one adapter that does what several do together."""
    from cinelora.commands.lora_merge import Asked
    from cinelora.commands.lora_merge import merge as run
    from cinelora.commands.lora_open import Wanted, told

    wanted = Wanted(out, to, dtype)
    places, numbers = told(files, weights or [])
    run(places, Asked(how, numbers, rank, energy, tuple(alpha or ()), model, wanted, as_json, csv))


def resize(
    file: Adapter,
    rank: Rank = None,
    energy: Energy = None,
    max_rank: Annotated[int | None, typer.Option(help="With --energy: at most so many directions.")] = None,
    alpha: Alpha = None,
    model: Model = "",
    to: To = "",
    dtype: Dtype = "",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE|FOLDER", help=_OUT.format("NAME-rankN.LAYOUT.safetensors"))
    ] = None,
    as_json: Json = False,
    csv: Csv = None,
) -> None:
    """Write an adapter at a smaller rank, the nearest there is, and say what each module loses."""
    from cinelora.commands.lora_open import Wanted
    from cinelora.commands.lora_resize import Asked
    from cinelora.commands.lora_resize import resize as run

    run(file, Asked(rank, energy, max_rank, alpha, model, Wanted(out, to, dtype), as_json, csv))


def scale(
    file: Adapter,
    factor: Annotated[float, typer.Argument(help="On the strength; put -- ahead of a negative one.")],
    alpha: Alpha = None,
    model: Model = "",
    to: To = "",
    dtype: Dtype = "",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE|FOLDER", help=_OUT.format("NAME-xFACTOR.LAYOUT.safetensors"))
    ] = None,
) -> None:
    """Write an adapter at another strength; nothing is rounded where the layout says alpha."""
    from cinelora.commands.lora_open import Wanted
    from cinelora.commands.lora_resize import Asked
    from cinelora.commands.lora_resize import scale as run

    run(file, factor, Asked(alpha=alpha, model=model, wanted=Wanted(out, to, dtype)))


def average(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(metavar="CKPT ...", help="Adapters or weights of one training, or the folder of a run."),
    ],
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--weights", "--weight", metavar="W W ...", help="Shares of the checkpoints, one for each; else all alike."
        ),
    ] = None,
    ema_decay: Annotated[
        float | None, typer.Option(help="Or shares d^(T - t), t the step of each, T the last: such as 0.999.")
    ] = None,
    how: Annotated[
        str,
        typer.Option(metavar="numbers|svd", help="The mean of the numbers, as EMA; or the nearest to that of effects."),
    ] = "numbers",
    rank: Rank = None,
    energy: Energy = None,
    alpha: Alpha = None,
    model: Model = "",
    to: To = "",
    dtype: Dtype = "",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE|FOLDER", help=_OUT.format("NAME-averageN.LAYOUT.safetensors"))
    ] = None,
    as_json: Json = False,
    csv: Csv = None,
) -> None:
    """Write the mean of checkpoints of one training."""
    from cinelora.commands.lora_average import Asked
    from cinelora.commands.lora_average import average as run
    from cinelora.commands.lora_open import Wanted, told

    wanted = Wanted(out, to, dtype)
    places, numbers = told(checkpoints, weights or [])
    asked = Asked(numbers, ema_decay, how, rank, energy, alpha, model, wanted, as_json, csv)
    run(places, asked)
