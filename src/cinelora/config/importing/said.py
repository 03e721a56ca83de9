"""Owns what one setting of an old trainer is when it has been read: a name, a value, and where it stands.

Whoever reads commands, YAML or TOML hands these out; `translate.py` takes them.
"""

import re
from dataclasses import dataclass
from typing import Any

_SECRET = re.compile(r"(api_key|hub_token|huggingface_token|secret|password)$")


@dataclass(frozen=True)
class Said:
    """A setting. `name` as the dialect's table has it, `spelt` as it was typed ("--lr"), `where` is FILE:LINE.

    `value` is a word, a list of words or True where it comes from a command, and typed where it comes from a file.
    `default` is True for what nobody said and the old program takes by itself.
    """

    name: str
    value: Any
    where: str
    spelt: str
    default: bool = False

    @property
    def shown(self) -> str:
        """As it was typed, with its value: --seed=42; of keys and tokens for other services the name alone."""
        if _SECRET.search(self.name):
            return f"{self.spelt}=..."
        return (
            self.spelt if self.value is True and self.spelt.startswith("-") else f"{self.spelt}={word_of(self.value)}"
        )


def word_of(value: Any) -> str:
    """A value as the word that tables compare with: true, false, commas between the items of a list."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(word_of(item) for item in value)
    return "" if value is None else str(value)


_NUMBER = re.compile(r"[+-]?(\d[\d_]*(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def as_it_looks(value: Any) -> Any:
    """A word as the number or truth that it looks like; lists item by item; what is typed stays."""
    if isinstance(value, list | tuple):
        return [as_it_looks(item) for item in value]
    if not isinstance(value, str):
        return value
    word = value.strip()
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    if not _NUMBER.fullmatch(word):
        return value
    return int(word) if re.fullmatch(r"[+-]?\d[\d_]*", word) else float(word)
