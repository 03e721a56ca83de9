"""Owns the two ways in which families spell keys in files: a table of names behind a prefix, or as they are.

Pure dict -> dict. A row of a table is (original, native), "{}" standing for a number; what follows a module's name
(.weight, .bias, .lora_A.weight ...) stays as it is. The tables themselves are the families'.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from torch import Tensor

from cinelora.base.errors import Problem, WeightsError

Row = tuple[str, str]
_PEFT_TO_KOHYA = {".lora_A.weight": ".lora_down.weight", ".lora_B.weight": ".lora_up.weight", ".alpha": ".alpha"}
_NAMED = re.compile(r"(\.lora_[AB])\.\w+\.weight$")
"""peft's spelling while an adapter still has its name: `.lora_A.default.weight`."""


class Names:
    """One direction of a table: rewrites the module at the start of a key."""

    def __init__(self, rows: Iterable[Row]):
        self.rules = [(self._pattern(source), target) for source, target in rows]

    @staticmethod
    def _pattern(source: str) -> re.Pattern[str]:
        return re.compile(re.escape(source).replace(r"\{\}", r"(\d+)") + r"(?=\.|$)")

    def rewrite(self, key: str) -> str | None:
        """The key with its module's other name, or None where the table has no such module."""
        for pattern, target in self.rules:
            match = pattern.match(key)
            if match:
                return target.format(*match.groups()) + key[match.end() :]
        return None


def flipped(rows: Iterable[Row]) -> list[Row]:
    """A table the other way round."""
    return [(native, original) for original, native in rows]


def _rewritten(tensors: Mapping[str, Tensor], rewrite: Callable[[str], str | None], layout: str) -> dict[str, Tensor]:
    """All keys through `rewrite`. Raises WeightsError naming every key that has no other name."""
    pairs = {key: rewrite(key) for key in tensors}
    lost = [key for key, name in pairs.items() if name is None]
    if lost:
        raise WeightsError(
            Problem(
                f"{len(lost)} keys are not in the layout {layout}",
                found=", ".join(lost[:4]) + (" ..." if len(lost) > 4 else ""),
                do="use weights of this family and variant",
            )
        )
    return {name: tensors[key] for key, name in pairs.items() if name is not None}


class NativeLayout:
    """Keys as the project's networks have them (diffusers, transformers); `mark` is a module that only they have."""

    def __init__(self, name: str, mark: str):
        self.name, self.mark = name, mark

    def reads(self, keys: Sequence[str]) -> bool:
        """True where a key starts with the mark."""
        return any(key.startswith(self.mark) for key in keys)

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As they are."""
        return dict(tensors)

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As they are."""
        return dict(tensors)


class PrefixedLayout:
    """Keys as the project's networks have them, all behind a prefix; of other keys in the file it wants nothing."""

    def __init__(self, name: str, prefix: str, mark: str):
        self.name, self.prefix, self.mark = name, prefix, prefix + mark

    def reads(self, keys: Sequence[str]) -> bool:
        """True where a key starts with prefix and mark."""
        return any(key.startswith(self.mark) for key in keys)

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without the prefix."""
        return {key.removeprefix(self.prefix): value for key, value in tensors.items() if key.startswith(self.prefix)}

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With it."""
        return {self.prefix + key: value for key, value in tensors.items()}


class OriginalLayout:
    """Keys of a family's original checkpoints by its table, behind an optional prefix."""

    def __init__(self, name: str, rows: Sequence[Row], mark: str, prefix: str = ""):
        self.name, self.mark, self.prefix = name, prefix + mark, prefix
        self.natives, self.originals = Names(rows), Names(flipped(rows))

    def reads(self, keys: Sequence[str]) -> bool:
        """True where a key starts with the mark, a module that only this layout has."""
        return any(key.startswith(self.mark) for key in keys)

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Original -> native. Raises WeightsError naming keys that the table does not know."""
        bare = {key.removeprefix(self.prefix): value for key, value in tensors.items()}
        return _rewritten(bare, self.natives.rewrite, self.name)

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Native -> original."""
        found = _rewritten(tensors, self.originals.rewrite, self.name)
        return {self.prefix + key: value for key, value in found.items()}


class DiffusersLora:
    """`transformer.<diffusers name>.lora_A.weight`, each key behind its part; strength stands in the file's header."""

    name: str = "diffusers"
    strength: Literal["key", "header", "folded"] = "header"
    dora = True

    def __init__(self, *parts: str):
        self.starts = tuple(f"{part}." for part in parts or ("transformer",))

    def reads(self, keys: Sequence[str]) -> bool:
        """True where every key starts with a part's name."""
        return bool(keys) and all(key.startswith(self.starts) for key in keys)

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As they are: this is the native spelling."""
        return dict(tensors)

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As they are."""
        return dict(tensors)


class OriginalLora:
    """`<prefix><original name>.lora_A.weight`: ComfyUI with prefix and alpha, bare peft files with neither.

    `underscored` is kohya's spelling: `<prefix><name with underscores>.lora_down.weight`. Underscores are ambiguous
    (self_attn_q), so names are looked up in the table and never taken apart.
    """

    dora = False

    def __init__(
        self,
        name: str,
        rows: Sequence[Row],
        strength: Literal["key", "header", "folded"],
        *,
        prefix: str = "",
        underscored: bool = False,
        part: str = "transformer",
    ):
        self.name, self.prefix, self.strength, self.underscored = name, prefix, strength, underscored
        self.part = part + "."
        spelt = [(original.replace(".", "_") if underscored else original, native) for original, native in rows]
        self.rows, self.natives, self.originals = tuple(rows), Names(spelt), Names(flipped(spelt))

    def tables(self, keys: Sequence[str]) -> tuple[tuple[str, Sequence[Row]], ...]:
        """(part, what its modules are called) whatever the keys are, for spellings that no layout has."""
        return ((self.part.removesuffix("."), self.rows),)

    def reads(self, keys: Sequence[str]) -> bool:
        """True where every key goes on, behind the prefix, with a module of the original."""
        return bool(keys) and all(
            key.startswith(self.prefix) and self.natives.rewrite(key.removeprefix(self.prefix)) for key in keys
        )

    def to_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Original names -> native; lora_down and lora_up are read in every spelling."""
        bare = {_modern(key.removeprefix(self.prefix)): value for key, value in tensors.items()}
        return {self.part + key: value for key, value in _rewritten(bare, self.natives.rewrite, self.name).items()}

    def from_native(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Native -> original names."""
        bare = {key.removeprefix(self.part): value for key, value in tensors.items()}
        spelt = {_kohya(key) if self.underscored else key: value for key, value in bare.items()}
        found = _rewritten(spelt, self.originals.rewrite, self.name)
        return {self.prefix + key: value for key, value in found.items()}


def _modern(key: str) -> str:
    key = _NAMED.sub(r"\1.weight", key)
    for new, old in _PEFT_TO_KOHYA.items():
        key = key.removesuffix(old) + new if key.endswith(old) else key
    return key


def _kohya(key: str) -> str:
    for new, old in _PEFT_TO_KOHYA.items():
        key = key.removesuffix(new) + old if key.endswith(new) else key
    return key
