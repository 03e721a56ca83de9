"""Owns the list of dialects: which old trainers `cinelora import` reads, and which of their programs train nothing."""

from cinelora.config.dialects import (
    cogvideox,
    diffusion_pipe,
    dynamicrafter,
    easyanimate,
    framer,
    musubi,
    videox_distill,
)
from cinelora.config.importing.dialect import Dialect

DIALECTS: tuple[Dialect, ...] = (
    *easyanimate.DIALECTS,
    *videox_distill.DIALECTS,
    *cogvideox.DIALECTS,
    *framer.DIALECTS,
    *dynamicrafter.DIALECTS,
    *musubi.DIALECTS,
    *diffusion_pipe.DIALECTS,
)

OTHER_PROGRAMS = {
    "zero_to_bf16.py": "nothing: a run writes whole adapter files at every checkpoint (train.files_at_saves)",
    "extract_lora.py": "`cinelora lora extract --model CHECKPOINT`",
    "apply_lora.py": "`cinelora lora apply --base BASE --lora FILE`",
    "process_json_add_width_and_height.py": "nothing: sizes are measured when clips are planned",
}
"""Programs beside the trainers that train nothing, and what does their work here."""
