"""Which variants an adapter fits, where a family's denoiser has another name than transformer."""

import pytest
import torch

from cinelora.commands.fit import fitting
from cinelora.families import registry
from cinelora.lora.files import AdapterFile
from cinelora.lora.targets import linears


def adapter(family, variant, modules):
    parts = registry.skeleton(family, family.variants[variant])
    known = {f"{part}.{name}": one for part, net in parts.items() for name, one in linears(net).items()}
    tensors = {}
    for name in modules:
        tensors[f"{name}.lora_A.weight"] = torch.zeros(1, known[name].in_features)
        tensors[f"{name}.lora_B.weight"] = torch.zeros(known[name].out_features, 1)
    return AdapterFile(tensors, dict.fromkeys(modules, 1.0))


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("tiny", ["tiny", "tiny-interp"]), ("1024", ["256", "512", "1024", "512-interp"])],
)
def test_every_variant_of_the_same_sizes_is_named_and_no_other(variant, expected):
    family = registry.FAMILIES["dynamicrafter"]
    file = adapter(family, variant, ["unet.time_embed.0", "resampler.proj_in"])
    assert fitting(family, file) == [f"dynamicrafter/{name}" for name in expected]


def test_an_adapter_of_framers_unet_fits_its_own_variants():
    family = registry.FAMILIES["framer"]
    found = fitting(family, adapter(family, "tiny", ["unet.time_embedding.linear_1"]))
    assert "framer/tiny" in found
    assert not any(name.startswith("framer/svd") for name in found)
