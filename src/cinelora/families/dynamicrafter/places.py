"""Owns where the networks of a DynamiCrafter base lie: all in one checkpoint (model.ckpt), the tokenizer beside it.

The checkpoint holds weights alone, so the tokenizer comes from a folder "tokenizer" beside it, or else from the Hub's
copy of CLIP's (its vocabulary is the same in all of them).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cinelora.base.errors import Problem, WeightsError
from cinelora.contracts.roles import Layout
from cinelora.nets.weights import Base, Component

FILES = ("model.ckpt", "model.safetensors", "*.ckpt", "*.safetensors")
TOKENIZER = "openai/clip-vit-large-patch14"
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def open_part(base: str, name: str, layouts: Sequence[Layout]) -> Component:
    """One network of the base's checkpoint. Raises WeightsError that lists where was looked."""
    found = Base(base, {"transformer": FILES}).component("transformer", layouts)
    return replace(found, name=name)


def tokenizer_folder(base: str) -> Path:
    """Where the tokenizer's files are. Raises WeightsError where they are neither beside the base nor on the Hub."""
    root = Path(base).expanduser()
    folder = (root.parent if root.is_file() else root) / "tokenizer"
    return folder if folder.is_dir() else _from_hub()


def _from_hub() -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(TOKENIZER, allow_patterns=list(_TOKENIZER_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        raise WeightsError(
            Problem(
                "there is no tokenizer beside the checkpoint, and CLIP's cannot be fetched from the Hub",
                found=f"{type(error).__name__}: {error}".splitlines()[0],
                do=f"put the tokenizer's files of {TOKENIZER} into a folder 'tokenizer' beside the checkpoint",
            )
        ) from error
