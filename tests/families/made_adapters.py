"""Adapters of every family's small variants, drawn; and the spellings of other trainers."""

import re

import torch

from cinelora.base.seeds import torch_rng
from cinelora.families import registry
from cinelora.lora.form import DOWN, MAGNITUDE, UP, AdapterFile
from cinelora.lora.targets import linears

SMALL = (
    "wan/tiny",
    "cogvideox/tiny",
    "easyanimate/tiny-v5.1",
    "easyanimate/tiny-v5",
    "easyanimate/tiny-v4",
    "easyanimate/tiny-v3",
    "framer/tiny",
    "dynamicrafter/tiny",
)


def split(model):
    return registry.find(*model.split("/"))


def modules(model):
    """{native name: linear} of a variant."""
    family, variant = split(model)
    parts = registry.skeleton(family, variant)
    return {f"{part}.{name}": one for part, module in parts.items() for name, one in linears(module).items()}


def made(model, *, ranks=(4,), alphas=(2.0,), dtype=torch.float32, dora=False, pattern=r".*", metadata=None, most=None):
    """An adapter on the variant's modules whose names match, ranks and alphas in turns."""
    tensors, told, rng = {}, {}, torch_rng("made", model)
    names = [name for name in modules(model) if re.fullmatch(pattern, name)][:most]
    for k, name in enumerate(names):
        linear, rank = modules_of(model)[name], ranks[k % len(ranks)]
        tensors[name + DOWN] = torch.randn(rank, linear.in_features, generator=rng).to(dtype)
        tensors[name + UP] = (0.3 * torch.randn(linear.out_features, rank, generator=rng)).to(dtype)
        if dora:
            tensors[name + MAGNITUDE] = torch.rand(linear.out_features, generator=rng).to(dtype)
        told[name] = float(alphas[k % len(alphas)])
    return AdapterFile(tensors, told, dict(metadata or {}))


_KNOWN = {}


def modules_of(model):
    if model not in _KNOWN:
        _KNOWN[model] = modules(model)
    return _KNOWN[model]


def same_effect(one, other, *, tolerance=1e-6):
    """Both do the same to every module."""
    assert set(one.modules()) == set(other.modules())
    for module in one.modules():
        first, second = (
            file.scale(module) * file.tensors[module + UP].double() @ file.tensors[module + DOWN].double()
            for file in (one, other)
        )
        assert (first - second).norm() <= tolerance * first.norm() + 1e-12, module


def original_of(model):
    """{native name: what the family's original network calls it}, from the family's own rules for other programs."""
    from cinelora.families.easyanimate import consumers as easyanimate
    from cinelora.families.wan import consumers as wan

    rule = {"wan": wan.original, "easyanimate": easyanimate.original}.get(model.partition("/")[0])
    return {name: rule(name) if rule else name.partition(".")[2] for name in modules_of(model)}


def spelt(file, names, *, ahead, a, b, underscored=False, alpha=True):
    """A file as another trainer writes it: `names` of modules behind `ahead`, `a` and `b` the matrices' endings."""
    found = {}
    for module in file.modules():
        name = names[module].replace(".", "_") if underscored else names[module]
        found[ahead + name + a] = file.tensors[module + DOWN]
        found[ahead + name + b] = file.tensors[module + UP]
        if alpha:
            found[f"{ahead}{name}.alpha"] = torch.tensor(file.alphas[module])
    return found


def native_names(model):
    return {name: name.partition(".")[2] for name in modules_of(model)}
