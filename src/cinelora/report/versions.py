"""Owns the list of versions that a run writes down. In: nothing. Out: {name: version}. Imports none of the packages."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("cinelora", "torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "av", "numpy")


def versions() -> dict[str, str]:
    """Python's and each package's version; "not installed" where there is none."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
