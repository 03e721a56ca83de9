"""Golden cases on disk: where they lie, what one holds, how numbers are compared."""

import filecmp
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
FOLDERS = (ROOT / "tests" / "golden", ROOT.parent / "shared" / "golden")
CONFIGS = ("config.json", "case.json")


class NotBuiltError(Exception):
    """What the case needs belongs to an issue that is still open."""


@dataclass(frozen=True)
class Case:
    """One folder FAMILY/CASE; `config` is its config.json or case.json."""

    folder: Path
    name: str

    @property
    def family(self) -> str:
        return self.folder.parent.name

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.config_file(next(name for name in CONFIGS if (self.folder / name).is_file()))

    @property
    def kind(self) -> str:
        return self.config.get("kind", "")

    def config_file(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / name)

    @cached_property
    def io(self) -> dict[str, torch.Tensor]:
        return self.tensors("io.safetensors")

    def close(self, found: torch.Tensor, wanted: torch.Tensor, what: str) -> None:
        """|found - wanted| <= atol + rtol |wanted|, shapes equal."""
        torch.testing.assert_close(
            found.detach().float(),
            wanted.float(),
            rtol=self.config["tolerance"]["rtol"],
            atol=self.config["tolerance"]["atol"],
            msg=lambda text: f"{self.name}: {what}\n{text}",
        )


def is_case(folder: Path) -> bool:
    return folder.is_dir() and any((folder / name).is_file() for name in CONFIGS)


def find_cases(option: str | None) -> list[Case]:
    """Every case, committed ones first; a second one of the same name is left out only if all files are equal."""
    found: dict[str, Case] = {}
    for number, root in enumerate([Path(option)] if option else FOLDERS):
        for folder in sorted(folder for folder in root.glob("*/*") if is_case(folder)):
            name = f"{folder.parent.name}/{folder.name}"
            if name in found and not same(found[name].folder, folder):
                name += f"@{number}"
            found.setdefault(name, Case(folder, name))
    return list(found.values())


def same(one: Path, other: Path) -> bool:
    names = sorted(file.name for file in one.iterdir())
    if names != sorted(file.name for file in other.iterdir()):
        return False
    return not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])
