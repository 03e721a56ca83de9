"""Owns the adapter files of experts that belong together: a run writes one for each, which says where the others are.

In: one of the files with its header. Out: all of them by expert, and the adapter that they make together.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cinelora.base.errors import Problem, WeightsError
from cinelora.base.log import console
from cinelora.contracts.card import Variant
from cinelora.contracts.roles import AdapterLayout
from cinelora.lora.files import AdapterFile, read_adapter


def partners(path: Path, header: Mapping[str, str]) -> dict[str, Path]:
    """The files of all experts that lie beside this one, by expert; none where it is no expert's or stands alone.

    Says so where one is missing. Raises WeightsError where the header is damaged.
    """
    if "experts" not in header:
        return {}
    try:
        stems = {name: str(one["file"]) for name, one in json.loads(header["experts"]).items()}
        own, _ = stems[header["expert"]], header["joint_variant"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what, do = "what the adapter's header says of its experts cannot be read", "say whose it is: --model"
        found = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise WeightsError(Problem(what, found=found, where=str(path), do=do)) from error
    ending = path.name.removeprefix(own)
    # Only names: a file from elsewhere must not lead to another folder.
    found = {name: path.with_name(Path(stem).name + ending) for name, stem in stems.items()}
    missing = [name for name, file in found.items() if not file.is_file()]
    if not missing and path.name.startswith(own):
        return found
    rest = [name for name in stems if name != header["expert"]]
    others = ", ".join([name for name in rest if name in missing] or rest)
    console.print(f"{path.name} is the {header['expert']} expert's; the file of {others} is not beside it: drawn alone")
    return {}


def read_together(
    files: Mapping[str, Path], joint: Variant, layouts: Sequence[AdapterLayout], *, alpha: float | None = None
) -> AdapterFile:
    """One adapter for the joint denoiser, each file's modules in the part of its expert. Raises WeightsError."""
    if strange := [name for name in files if name not in joint.experts]:
        what, do = f"{joint.name} has no such expert", "say whose the file is: --model"
        known, where = ", ".join(joint.experts) or "none", str(files[strange[0]])
        raise WeightsError(Problem(what, found=", ".join(strange), allowed=known, where=where, do=do))
    read = {name: read_adapter(path, layouts, alpha=alpha) for name, path in files.items()}
    own = [
        file.of_part(*joint.experts[name].variant.parts, name=joint.experts[name].part) for name, file in read.items()
    ]
    tensors = {key: tensor for file in own for key, tensor in file.tensors.items()}
    return AdapterFile(tensors, {key: alpha for file in own for key, alpha in file.alphas.items()}, own[0].metadata)
