"""Owns how other trainers spell adapters: prefixes, names of modules, endings; turned into a family's native keys.

In: tensors by a file's names and the family's layouts, whose tables say what modules are called. Out: tensors by native
name, and the layout whose meaning of alpha such a file has. What is no LoRA of linear modules is named as what it is.

    base_model.model.   blocks.0.self_attn.q    .lora_A.default.weight      peft, DiffSynth
    diffusion_model.    blocks.0.self_attn.q    .lora_down.weight           ai-toolkit, diffusion-pipe
    lycoris_            blocks_0_attn1_to_q     .lora_up.weight             SimpleTuner
    transformer.        blocks.0.attn1.to_q     .lora_B.weight              finetrainers, SimpleTuner
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from cinelora.base.errors import Problem, Problems, WeightsError
from cinelora.contracts.roles import AdapterLayout
from cinelora.lora.form import ALPHA, DOWN, MAGNITUDE, UP

ENDING = re.compile(
    r"(?P<module>.+?)(?:"
    r"[._]lora[._](?:linear_layer\.)?(?P<side>A|B|a|b|down|up)(?:\.(?!weight$|bias$)[\w-]+)?(?:\.weight)?"
    r"|\.(?P<lengths>lora_magnitude_vector(?:\.[\w-]+)?(?:\.weight)?|dora_scale)"
    r"|\.(?P<alpha>alpha))"
)
"""A key taken apart: the module as the file calls it, and which of its tensors this is."""
_PREFIXES = (
    *("base_model.model.", "model.diffusion_model.", "diffusion_model.", "pipe.", "dit.", "model.", "module."),
    *("_orig_mod.", "transformer.", "lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_", "lora_"),
)
"""What stands ahead of a module's name; several may."""
_WITHIN = ("_orig_mod.", "processor.")
"""What compiling and old attention processors put between."""
_WHOLE = re.compile(r"(?P<module>.+)\.(?:diff|diff_b|set_weight|w_norm|b_norm|reshape_weight)")
"""Changes of whole weights and biases, which ComfyUI's files may hold."""
_TOWERS = ("lora_te", "text_encoder", "text_encoders.", "lycoris_te")
_OTHERS = (
    ("LoKr", re.compile(r".*\.lokr_\w+")),
    ("LoHa", re.compile(r".*\.hada_\w+")),
    ("OFT", re.compile(r".*\.(oft|boft)_\w+(\.\w+)*")),
    ("GLoRA", re.compile(r".*\.[ab][12]\.weight")),
    ("VeRA", re.compile(r".*(\.|^)vera_\w+(\.\w+)*")),
    ("a LoRA of convolutions (lora_mid)", re.compile(r".*\.lora_mid\.weight")),
    ("a LoRA with biases", re.compile(r".*[._]lora[._](A|B|down|up)(\.[\w-]+)?\.bias")),
)
"""Kinds of adapters that are no A and B of a linear module, and how they show."""
_MOST = 4


@dataclass(frozen=True)
class Foreign:
    """A file of another trainer, understood: native tensors, and the layout whose alpha it means."""

    tensors: dict[str, Tensor]
    layout: AdapterLayout


class Places:
    """What the tables of some layouts call the modules that adapters can stand on."""

    def __init__(self, layouts: Sequence[AdapterLayout], keys: Sequence[str]):
        self.buckets: dict[str, list[tuple[re.Pattern[str], str]]] = {}
        self.natives: set[str] = set()
        self.parts: list[str] = []
        known: list[tuple[str, Sequence[tuple[str, str]]]] = []
        for layout in layouts:
            tables = getattr(layout, "tables", None)
            known += [table for table in (tables(keys) if tables else ()) if table not in known]
        for part, rows in known:
            self._add(part, rows)

    def _add(self, part: str, rows: Iterable[tuple[str, str]]) -> None:
        if part not in self.parts:
            self.parts.append(part)
        for theirs, native in rows:
            self.natives.add(_shape(f"{part}.{native}"))
            for name in dict.fromkeys((theirs, native, theirs.replace(".", "_"), native.replace(".", "_"))):
                pattern = re.compile(re.escape(name).replace(r"\{\}", r"(\d+)"))
                self.buckets.setdefault(_shape(name), []).append((pattern, f"{part}.{native}"))

    def native(self, module: str) -> str | None:
        """The native name ("transformer.blocks.0.attn1.to_q") of a module as a file calls it, with any prefixes."""
        for inner in _WITHIN:
            module = module.replace(inner, "")
        part, prefixes = "", (*_PREFIXES, *(p for part in self.parts for p in (f"{part}.", f"lora_{part}_")))
        while True:
            found = self._named(module, part)
            if found is not None:
                return found
            prefix = max((p for p in prefixes if module.startswith(p)), key=len, default="")
            if not prefix:
                return None
            module = module.removeprefix(prefix)
            part = next((one for one in self.parts if prefix in (f"{one}.", f"lora_{one}_")), part)

    def _named(self, module: str, part: str) -> str | None:
        for pattern, native in self.buckets.get(_shape(module), ()):
            match = pattern.fullmatch(module)
            if match and native.startswith(part):
                return native.format(*match.groups())
        return None

    def knows(self, module: str) -> bool:
        """True where a native name is in a table, or there is none to look into."""
        return not self.natives or _shape(module) in self.natives


def _shape(name: str) -> str:
    """A name without its numbers."""
    return re.sub(r"\{\}|\d+", "#", name)


def native_form(key: str) -> bool:
    """True where a key ends as those of an adapter in memory do."""
    return key.endswith((DOWN, UP, MAGNITUDE, ALPHA))


def without_whole(
    tensors: Mapping[str, Tensor], where: str, *, allow_missing: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors without changes of whole weights and without text encoders' modules, and the keys left out.

    Raises WeightsError where there are changes of whole weights and leaving out is not allowed.
    """
    whole = [key for key in tensors if _WHOLE.fullmatch(key)]
    if whole and not allow_missing:
        raise WeightsError(_whole_problem(tensors, whole, where))
    left = whole + [key for key in tensors if allow_missing and key.startswith(_TOWERS)]
    return {key: one for key, one in tensors.items() if key not in set(left)}, left


def _whole_problem(tensors: Mapping[str, Tensor], whole: Sequence[str], where: str) -> Problem:
    names = (match["module"] for key in whole if (match := _WHOLE.fullmatch(key)))
    modules = dict.fromkeys(re.sub(r"(?<=[._])\d+(?=[._])", "*", name, count=1) for name in names)
    what = (
        f"{len(whole)} tensors change whole weights, biases or norms (.diff, .diff_b), which an adapter of A and B has "
        "no place for"
    )
    zero = not any(bool(tensors[key].any()) for key in whole)
    loses = "they are all zero, so that nothing is lost" if zero else "what they do is lost then"
    shown = ", ".join(list(modules)[:_MOST]) + (
        f" and {len(modules) - _MOST} more kinds" if len(modules) > _MOST else ""
    )
    do = f"leave them out with --allow-missing ({loses}), or use the file in ComfyUI as it is"
    return Problem(what, found=shown, where=where, do=do)


def other_kind(keys: Sequence[str]) -> Problem | None:
    """What a file is that holds another kind of adapter than LoRA; None where nothing shows it."""
    for name, pattern in _OTHERS:
        own = [key for key in keys if pattern.fullmatch(key)]
        if own:
            what = f"{len(own)} of {len(keys)} tensors are of {name}, and only LoRA of linear modules is read"
            do = "merge it with the program that made it, and take a LoRA out: cinelora lora extract --tuned --base"
            return Problem(what, found=", ".join(own[:_MOST]), allowed="A and B of linear modules", do=do)
    return None


def foreign(
    tensors: Mapping[str, Tensor],
    layouts: Sequence[AdapterLayout],
    where: str = "",
    *,
    places: Places | None = None,
) -> Foreign | None:
    """A file in a spelling that no layout has, by the layouts' tables; None where some key is not understood.

    Raises WeightsError for two keys of one module's same tensor.
    """
    places = places or Places(layouts, list(tensors))
    found, told = dict[str, Tensor](), dict[str, str]()
    problems = Problems(WeightsError)
    for key, tensor in tensors.items():
        match = ENDING.fullmatch(key)
        module = places.native(match["module"]) if match else None
        if match is None or module is None:
            return None
        name = module + _ending(match)
        if name in found:
            what, do = f"two keys mean {name}", "take the file apart: it holds two adapters"
            problems.add(what, found=f"{told[name]} and {key}", where=where, do=do)
        found[name], told[name] = _lengths(tensor) if match["lengths"] else tensor, key
    problems.raise_if_any()
    return Foreign(found, _meant(layouts, found, list(tensors))) if found else None


def _ending(match: re.Match[str]) -> str:
    if match["alpha"]:
        return ALPHA
    return MAGNITUDE if match["lengths"] else DOWN if match["side"] in ("A", "a", "down") else UP


def _lengths(tensor: Tensor) -> Tensor:
    """DoRA's lengths of the outputs: kohya's dora_scale is a column of them."""
    return tensor.flatten() if tensor.ndim == 2 and tensor.shape[1] == 1 else tensor


def _meant(layouts: Sequence[AdapterLayout], native: Mapping[str, Tensor], keys: Sequence[str]) -> AdapterLayout:
    """The layout whose alpha such a file means: tensors of alpha, or none; native names are diffusers', who take 1."""
    modules = [key.removesuffix(DOWN).partition(".")[2] for key in native if key.endswith(DOWN)]
    plain = sum(any(name in key for key in keys) for name in modules[:_MOST]) == len(modules[:_MOST])
    wanted: tuple[str, ...] = ("folded", "key")
    if any(key.endswith(ALPHA) for key in native):
        wanted = ("key",)
    elif plain or any(key.endswith(MAGNITUDE) for key in native):
        wanted = ("header",)
    return next((layout for kind in wanted for layout in layouts if layout.strength == kind), layouts[0])
