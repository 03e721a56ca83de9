"""Owns whether an adapter from a file fits a base: what has no place there, or another size, and what it leaves alone.

In: the parts of a denoiser (weights may be missing: the meta device will do) and an `AdapterFile`. Out: the rank and
alpha of each module, or an error that names modules as the file spells them.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from torch import nn

from cinelora.base.errors import Problems, WeightsError, nearest
from cinelora.lora.files import AdapterFile
from cinelora.lora.targets import Size, linears, near

Plan = dict[str, dict[str, Size]]
"""{part: {module: its size}}."""


def plan_of(parts: Mapping[str, nn.Module], file: AdapterFile) -> Plan:
    """Where each module of the file goes, with its own rank and alpha.

    Raises WeightsError for modules that the base does not have, or has in other sizes.
    """
    known = {part: linears(module) for part, module in parts.items()}
    plan: Plan = {}
    for module in file.modules():
        part, _, name = module.partition(".")
        plan.setdefault(part, {})[name] = Size(file.rank(module), file.alphas[module])
    _refuse_misfits(file, _lost(known, file), _resized(known, file), known)
    return plan


def lost(parts: Mapping[str, nn.Module], file: AdapterFile) -> list[str]:
    """Modules of the file that the base does not have."""
    return _lost({part: linears(module) for part, module in parts.items()}, file)


def without(file: AdapterFile, modules: Collection[str]) -> AdapterFile:
    """The adapter without some of its modules."""
    kept = {key: one for key, one in file.tensors.items() if not key.startswith(tuple(f"{m}." for m in modules))}
    return replace(file, tensors=kept, alphas={m: a for m, a in file.alphas.items() if m not in modules})


def gaps(parts: Mapping[str, nn.Module], file: AdapterFile) -> list[str]:
    """Modules of the base without an adapter, though the same ones of other blocks have one: a torn file, mostly."""
    had = set(file.modules())
    numbered = {_any_block(module) for module in had}
    return [one for one in _all_modules(parts) if one not in had and _any_block(one) in numbered]


def untouched(parts: Mapping[str, nn.Module], file: AdapterFile) -> list[str]:
    """Modules that blocks have besides those with adapters, "*" for the block's number, such as "blocks.*.ffn.0"."""
    had = {_any_block(module) for module in file.modules()}
    return list(
        dict.fromkeys(kind for one in _all_modules(parts) if "*" in (kind := _any_block(one)) if kind not in had)
    )


def grouped(names: Sequence[str], *, most: int = 8) -> str:
    """Names that differ only in their first number stand together: "blocks.*.attn1.to_q x 40"."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_any_block(name), []).append(name)
    shown = [f"{group} x {len(own)}" if len(own) > 1 else own[0] for group, own in groups.items()]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more kinds" if len(shown) > most else "")


def _any_block(name: str) -> str:
    # Not the number of a part, as in transformer_2.
    return re.sub(r"(?<=[._])(?<!transformer_)\d+(?=[._])", "*", name, count=1)


def _all_modules(parts: Mapping[str, nn.Module]) -> list[str]:
    return [f"{part}.{name}" for part, module in parts.items() for name in linears(module)]


def _lost(known: Mapping[str, Mapping[str, nn.Linear]], file: AdapterFile) -> list[str]:
    found = (module.partition(".") for module in file.modules())
    return [f"{part}.{name}" for part, _, name in found if name not in known.get(part, {})]


def _resized(known: Mapping[str, Mapping[str, nn.Linear]], file: AdapterFile) -> list[str]:
    """A sentence for each module that the base has in another size."""
    other = []
    for module in file.modules():
        part, _, name = module.partition(".")
        linear = known.get(part, {}).get(name)
        if linear is None or file.sizes(module) == (linear.in_features, linear.out_features):
            continue
        inputs, outputs = file.sizes(module)
        wanted = f"the base has {linear.in_features} in, {linear.out_features} out"
        other.append(f"{file.spelling(module)} {inputs} in, {outputs} out; {wanted}")
    return other


def _refuse_misfits(
    file: AdapterFile, lost: Sequence[str], other: Sequence[str], known: Mapping[str, Mapping[str, nn.Linear]]
) -> None:
    """Raise WeightsError where modules of an adapter have no place in the base, or another size there."""
    problems, do = Problems(WeightsError), "use the family, variant and base that the adapter was trained on"
    count = len(file.modules())
    if lost:
        part, _, name = lost[0].partition(".")
        near_by = near(name, known[part]) if part in known else nearest(part, known)
        what = f"the base has no place for {len(lost)} of the adapter's {count} modules"
        problems.add(what, found=grouped([file.spelling(one) for one in lost]), nearest=near_by, do=do)
    if other:
        what = f"{len(other)} of the adapter's {count} modules have another size than in the base"
        more = f" and {len(other) - 4} more" if len(other) > 4 else ""
        problems.add(what, found=" | ".join(other[:4]) + more, do=do)
    problems.raise_if_any()
