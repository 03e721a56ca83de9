"""The pages that users start from, beside the repository: their blocks of commands, where they are there."""

import re
from pathlib import Path

SEEDS = Path(__file__).parents[4] / "shared" / "seeds"
PROGRAMS = re.compile(r"\b(accelerate launch|torchrun|deepspeed|python3?)\b.*?\.py", re.S)


def page(seed_name):
    """The text of a page such as "001"; empty where it is not here."""
    found = sorted(SEEDS.glob(f"{seed_name}_*.txt")) if SEEDS.is_dir() else []
    return found[0].read_text() if found else ""


def blocks(seed_name):
    """Every fenced block of a page, in order."""
    return re.findall(r"^```\w*[ \t]*\n(.*?)^```", page(seed_name) + "\n", re.M | re.S)


def command_blocks(seed_name):
    """Blocks of a page that start a program in Python."""
    return [block for block in blocks(seed_name) if PROGRAMS.search(block)]
