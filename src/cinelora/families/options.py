"""Owns section [model]: which family, variant and base checkpoint a run stands on."""

from cinelora.base.dtypes import DtypeName
from cinelora.contracts.options import Options, option


class ModelOptions(Options):
    """Section [model]."""

    family: str = option(help="family of the base, as `cinelora families` lists them")
    variant: str = option(help="variant of the family, such as t2v-1.3b")
    base: str = option(
        "",
        "the base checkpoint: a folder in the diffusers layout, a folder or file in the original layout, or a Hub id; "
        "empty means the variant's own",
    )
    dtype: DtypeName = option(
        "bf16",
        "number format of the denoiser and the text encoder; adapters and the autoencoder are always fp32",
    )
    text_dropout: float = option(
        0.1, "share of clips whose caption is dropped in a step, so that guidance keeps working", ge=0, lt=1
    )
