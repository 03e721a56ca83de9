"""Small bases and adapters of every family, in the sizes of its tiny variants, with drawn weights."""

from dataclasses import dataclass
from functools import cache
from math import gcd
from pathlib import Path

import torch
from safetensors.torch import save_file

from cinelora.contracts.card import Family, Variant
from cinelora.families import registry
from cinelora.lora.files import AdapterFile
from cinelora.lora.options import LoraOptions
from cinelora.lora.targets import planned

NAMES = (
    "wan/tiny",
    "cogvideox/tiny",
    "framer/tiny",
    "dynamicrafter/tiny",
    *(f"easyanimate/tiny-v{version}" for version in ("5.1", "5", "4", "3", "2")),
)


@dataclass(frozen=True)
class Subject:
    """A family's variant; some of its modules alone, so that tests are quick."""

    family: Family
    variant: Variant

    @property
    def layouts(self):
        return registry.lora_layouts(self.family, self.variant)

    @property
    def parts(self):
        return _parts(self.family.name, self.variant.name)

    @property
    def modules(self):
        """{"part.module": (inputs, outputs)} of a dozen modules, over all the network and of every kind."""
        chosen = list(_modules(self.family.name, self.variant.name).items())
        stride = next(s for s in range(len(chosen) // 12 + 1, len(chosen) + 2) if gcd(s, len(chosen)) == 1)
        return dict(chosen[k] for k in sorted({k * stride % len(chosen) for k in range(12)}))

    def adapter(self, seed=0, ranks=(3,), alphas=(3.0,), dtype=torch.float32, skip=0, **metadata):
        """Drawn matrices; module k has ranks[k % n] and alphas[k % m]; the first `skip` modules are left out."""
        rng = torch.Generator().manual_seed(seed)
        tensors, strengths = {}, {}
        for k, (name, (inputs, outputs)) in enumerate(list(self.modules.items())[skip:]):
            rank = ranks[k % len(ranks)]
            tensors[f"{name}.lora_A.weight"] = (torch.randn(rank, inputs, generator=rng) / 8).to(dtype)
            tensors[f"{name}.lora_B.weight"] = (torch.randn(outputs, rank, generator=rng) / 8).to(dtype)
            strengths[name] = alphas[k % len(alphas)]
        about = {"family": self.family.name, "variant": self.variant.name, **metadata}
        return AdapterFile(tensors, strengths, about)

    def base(self, folder: Path, dtype=torch.float32, seed=7):
        """Where the weights are: a file, or the folder of parts that stand apart."""
        rng = torch.Generator().manual_seed(seed)
        tables = {}
        for part, net in self.parts.items():
            own = {}
            for key, one in net.state_dict().items():
                own[key] = torch.randn(one.shape, generator=rng).to(dtype) if one.is_floating_point() else one * 0
            tables[part] = own
        spelt = {part: _layout(self, part, own).from_native(own) for part, own in tables.items()}
        folder.mkdir(parents=True, exist_ok=True)
        if self.family.name == "framer":
            for part, own in spelt.items():
                (folder / part).mkdir()
                save_file(own, folder / part / "diffusion_pytorch_model.safetensors")
                (folder / part / "config.json").write_text("{}")
            return folder
        save_file({key: one for own in spelt.values() for key, one in own.items()}, folder / "base.safetensors")
        return folder / "base.safetensors"


def _layout(subject, part, own):
    if subject.family.part_layouts:
        return registry.named(subject.family.part_layouts)[part][-2]
    layouts = registry.named(subject.variant.weight_layouts or subject.family.weight_layouts)
    return next(one for one in layouts if one.reads(list(one.from_native(own))))


@cache
def _parts(family, variant):
    return registry.skeleton(*registry.find(family, variant))


@cache
def _modules(family, variant):
    card, _ = registry.find(family, variant)
    options, parts = LoraOptions(rank=1, targets=card.default_preset), _parts(family, variant)
    plan = planned(parts, options, card.lora_presets)
    linears = {f"{part}.{name}": parts[part].get_submodule(name) for part, own in plan.items() for name in own}
    return {name: (one.in_features, one.out_features) for name, one in linears.items()}


def subject(name: str) -> Subject:
    return Subject(*registry.find(*name.split("/")))


def effects(file: AdapterFile) -> dict[str, torch.Tensor]:
    """strength x B A of each module, in fp64."""
    return {
        m: file.scale(m) * file.tensors[f"{m}.lora_B.weight"].double() @ file.tensors[f"{m}.lora_A.weight"].double()
        for m in file.modules()
    }


def added(*weighted) -> dict[str, torch.Tensor]:
    """The sum of (file, weight)'s effects."""
    found = {}
    for file, weight in weighted:
        for module, one in effects(file).items():
            found[module] = found.get(module, 0) + weight * one
    return found


def near(found, wanted, share=1e-5):
    """Each matrix off by no more than that share of its size."""
    assert found.keys() == wanted.keys()
    for key, one in wanted.items():
        assert (found[key] - one).norm() <= share * one.norm(), key
