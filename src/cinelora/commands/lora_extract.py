"""Owns the verb `lora extract`: the adapter out of a training checkpoint.

In: a checkpoint of any training that puts its adapter's weights beside the base's. Out: a file of the adapter alone.
"""

import math
from dataclasses import replace
from pathlib import Path

import cinelora
from cinelora.base.errors import Problem, RecipeError, WeightsError
from cinelora.base.log import console
from cinelora.commands.lora_files import adapter_layout, family_of, format_of, one_file, place_of, read_file
from cinelora.lora.checkpoints import adapter_keys, write_weights
from cinelora.lora.files import AdapterFile, write_adapter
from cinelora.lora.merge import Change, changes_of


def extract(model: Path, *, out: Path | None = None, file_format: str = "", alpha: float | None = None) -> Path:
    """Write the adapter that stands in a checkpoint, as NAME_lora.safetensors in the current folder unless told else.

    Names, formats and numbers stay as they are, and nothing is put into the header; with `alpha`, the strength of the
    training, it is noted there, and adapters of other networks than the denoiser's are left out. Raises WeightsError
    where there is no adapter, RecipeError for words that do not fit.
    """
    model = one_file(model)
    if alpha is not None and not 0 < alpha < math.inf:
        raise RecipeError(Problem("--alpha is no strength", found=f"{alpha:g}", allowed="a number above 0"))
    ending = format_of(out, file_format)
    place = place_of(out, f"{model.stem}_lora.{ending}", model)
    tensors, header = read_file(model)
    own = {key: tensors[key] for key in adapter_keys(list(tensors))}
    if not own:
        found = ", ".join(list(tensors)[:3]) + " ..."
        what, do = "the checkpoint holds no adapter: no key has lora_ in it", "name a checkpoint of a LoRA training"
        raise WeightsError(Problem(what, found=f"{len(tensors)} keys: {found}", where=str(model), do=do))
    changes = changes_of(own, str(model))
    if alpha is None:
        write_weights(place, own)
    else:
        _write_told(place, own, changes, alpha=alpha, header=header)
    ranks = sorted({change.rank for change in changes})
    console.print(f"extracted: {len(changes)} modules of rank {', '.join(map(str, ranks))} into {place}")
    if alpha is None and all(change.alpha is None for change in changes):
        console.print("the file does not say its strength: give `lora apply` and `sample` the alpha of the training")
    idle = sum(change.idle for change in changes)
    if idle:
        console.print(f"{idle} of its modules change nothing, as their B is zero; they are kept")
    return place


def _write_told(place: Path, own: dict, changes: list[Change], *, alpha: float, header: dict[str, str]) -> None:
    """The adapter with its strength in the header, spelt as the family's own files are."""
    found = family_of(list(own), header, "")
    layout = adapter_layout(found[0], list(own)) if found else None
    if found is None or layout is None or place.suffix != ".safetensors":
        what = "the strength can be noted in safetensors files of a known family only"
        raise RecipeError(Problem(what, found=place.name, do="leave --alpha out"))
    native = layout.to_native(own)
    modules = {key.removesuffix(".lora_A.weight"): len(one) for key, one in native.items() if "lora_A" in key}
    told = {"family": found[0].name, "made_by": f"cinelora {cinelora.__version__}"}
    file = AdapterFile(native, {module: alpha * rank for module, rank in modules.items()}, told)
    rank = max(modules.values())
    write_adapter(place, replace(file, metadata={**told, "rank": str(rank), "alpha": f"{alpha * rank:g}"}), layout)
