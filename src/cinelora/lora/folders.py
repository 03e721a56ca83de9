"""Owns what a family does that leaves folders behind, beside adapter files, since its public tools read those.

In: the parts of a trained denoiser. Out: folders, and what they hold when they are read again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from cinelora.lora.files import AdapterFile


class Folders(Protocol):
    """What `Family.folders` names."""

    def write(
        self,
        folder: Path,
        parts: Mapping[str, nn.Module],
        adapter: AdapterFile,
        *,
        full: Mapping[str, Mapping[str, Tensor]],
        base: str,
    ) -> dict[str, Path]:
        """Write the adapter of each part, and the weights of parts that learned in full, each into its own folder.

        Gives back the file of weights of each part in `full`. Raises RunError where the disk refuses.
        """
        ...

    def weights(self, folder: Path, part: str) -> Path:
        """Where the weights of a part that learned in full are in such a folder, whether or not they are there."""
        ...

    def full(self, folder: Path) -> dict[str, Path]:
        """The files of weights of whole parts that are there, by part."""
        ...

    def read(self, folder: Path) -> AdapterFile | None:
        """The adapter of all parts, None where there is none. Raises WeightsError where one is damaged."""
        ...
