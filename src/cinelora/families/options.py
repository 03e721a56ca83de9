"""Owns section [model]: which family, variant and base checkpoint a run stands on."""

from typing import Literal

from cinelora.base.dtypes import DtypeName
from cinelora.contracts.options import Options, option


class ModelOptions(Options):
    """Section [model]."""

    family: str = option(help="family of the base, as `cinelora families` lists them")
    variant: str = option(help="variant of the family, such as t2v-1.3b")
    base: str = option(
        "",
        "the base checkpoint: a folder in the diffusers layout, a folder or file in the original layout, or a Hub id "
        "(OWNER/NAME@REVISION); '#fp16' behind it takes the files of that kind; empty means the variant's own; "
        "'random' draws weights, to try a recipe out",
    )
    experts: list[str] = option(
        help='which experts of a variant that has several learn in this run, such as ["high", "low"] of Wan 2.2\'s '
        "A14B; each gets an adapter and a file of its own; empty = all",
        default_factory=list,
        costs="each expert that learns has an adapter with its optimizer's state, a file of its own, and "
        "its base in memory",
    )
    experts_in_memory: Literal["all", "one"] = option(
        "all",
        "`one` keeps on the GPU only the expert that is asked, the others in main memory; moving them takes time, see "
        "method.expert_stretch",
        costs="`all`: GPU memory for the weights of every expert; `one`: main memory for those of the "
        "others, and the time of moving them at each change of expert",
    )
    dtype: DtypeName = option(
        "bf16",
        "number format of the denoiser and the text encoder; adapters are always fp32",
        costs="2 bytes of memory for each weight in bf16 and fp16, 4 in fp32",
    )
    vae_dtype: DtypeName = option(
        "fp32",
        "number format of the autoencoder; bf16 is faster and less exact: what a latent loses by rounding is about as "
        "large as its posterior's own width",
        costs="fp32 takes twice the memory of bf16 while clips are encoded and decoded, and more time on a GPU",
    )
    vae_compat: Literal["none", "videox"] = option(
        "none",
        "`videox` draws latents as VideoX-Fun's scripts do, to compare numbers: those of clips wider than the "
        "autoencoder says, by the deviation of its latents, and those of pictures to start from the same way instead "
        "of at their mean",
    )
    text_dropout: float = option(
        0.1,
        "share of clips whose caption is dropped in a step, so that guidance keeps working",
        ge=0,
        lt=1,
        unit="share of clips",
    )
    image_dropout: float | None = option(
        None,
        "share of clips whose picture to start from is dropped in a step, for variants that take one; left out, the "
        "family's own",
        ge=0,
        lt=1,
        unit="share of clips",
    )
    image_frame: Literal["random", "first"] | None = option(
        None,
        "which frame of a clip is the picture that it starts from in training: `random` draws one in each step, "
        "`first`; left out, the family's own (DynamiCrafter: random; others have the first, and no choice)",
    )
    image_noise: float | None = option(
        None,
        "largest deviation of noise on the latents of the picture to start from in training, drawn up to this in each "
        "step: less is copied from it and more moves; left out, the family's own (DynamiCrafter: 0)",
        ge=0,
        unit="deviation of latents",
    )
    pace: Literal["fps", "stride"] | None = option(
        None,
        "what a base that is told of a clip's pace is told: frames per second, or every how many-th frame of the "
        "source the clip has; left out, what the base was trained with",
    )
    motion_bucket: float = option(
        127.0,
        "how much motion clips are said to have, for variants that are told so (Framer): 127 is what Stable Video "
        "Diffusion is usually asked for; previews are told the same",
        ge=0,
        le=511,
    )
