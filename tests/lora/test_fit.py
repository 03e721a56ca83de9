"""Whether an adapter fits a base: on two blocks of the fake family."""

import pytest
import torch

from cinelora.base.errors import WeightsError
from cinelora.families.fake.card import CARD
from cinelora.families.fake.denoise import skeleton
from cinelora.lora.files import AdapterFile
from cinelora.lora.fit import gaps, grouped, lost, plan_of, untouched, without

PARTS = skeleton(CARD.variants["tiny"])


def fits(parts, file):
    try:
        plan_of(parts, file)
    except WeightsError:
        return False
    return True


def adapter(*modules, size=16, spelt=None):
    """Rank 2 and alpha 1 on each module."""
    tensors = {}
    for module in modules:
        tensors |= {f"{module}.lora_A.weight": torch.ones(2, size), f"{module}.lora_B.weight": torch.ones(size, 2)}
    return AdapterFile(tensors, dict.fromkeys(modules, 1.0), {}, spelt or {})


Q = [f"transformer.blocks.{k}.to_q" for k in (0, 1)]


def test_what_fits_has_the_files_own_rank_and_alpha():
    plan = plan_of(PARTS, adapter(*Q))
    assert {name: (size.rank, size.alpha) for name, size in plan["transformer"].items()} == {
        "blocks.0.to_q": (2, 1.0),
        "blocks.1.to_q": (2, 1.0),
    }
    assert fits(PARTS, adapter(*Q))
    assert gaps(PARTS, adapter(*Q)) == []
    assert set(untouched(PARTS, adapter(*Q))) == {"transformer.blocks.*.to_v", "transformer.blocks.*.out"}


def test_a_block_without_an_adapter_is_a_gap_and_a_module_that_no_block_has_is_not():
    file = adapter(Q[0])
    assert gaps(PARTS, file) == [Q[1]]
    assert "transformer.blocks.*.to_q" not in untouched(PARTS, file)


def test_modules_without_a_place_are_named_as_the_file_spells_them_and_can_be_left_out():
    file = adapter(*Q, "transformer.blocks.0.to_qq", spelt={"transformer.blocks.0.to_qq": "lora_unet_blocks_0_qq"})
    assert not fits(PARTS, file)
    assert lost(PARTS, file) == ["transformer.blocks.0.to_qq"]
    with pytest.raises(WeightsError) as error:
        plan_of(PARTS, file)
    assert error.value.problems[0].found == "lora_unet_blocks_0_qq"
    kept = without(file, lost(PARTS, file))
    assert kept.modules() == Q
    assert kept.alphas.keys() == set(Q)
    assert fits(PARTS, kept)


def test_leaving_a_module_out_leaves_its_namesakes():
    file = adapter("transformer.blocks.1.to_q", "transformer.blocks.1.to_qq", "transformer.blocks.11.to_q")
    assert without(file, ["transformer.blocks.1.to_q"]).modules() == [
        "transformer.blocks.1.to_qq",
        "transformer.blocks.11.to_q",
    ]


def test_other_sizes_do_not_fit():
    assert not fits(PARTS, adapter(*Q, size=8))
    with pytest.raises(WeightsError, match="2 of the adapter's 2 modules have another size"):
        plan_of(PARTS, adapter(*Q, size=8))


def test_names_that_differ_in_their_block_stand_together():
    dotted = [f"blocks.{k}.ffn.{m}" for k in range(3) for m in (0, 2)]
    assert grouped(dotted) == "blocks.*.ffn.0 x 3, blocks.*.ffn.2 x 3"
    assert grouped(["lora_unet_blocks_0_ffn_0", "lora_unet_blocks_1_ffn_0"]) == "lora_unet_blocks_*_ffn_0 x 2"
    assert grouped(["blocks.7.ffn.0"]) == "blocks.7.ffn.0"
    assert grouped([f"a{k}" for k in range(10)], most=8).endswith("a7 and 2 more kinds")


def test_a_parts_own_number_is_no_blocks():
    parts = {"transformer": PARTS["transformer"], "transformer_2": PARTS["transformer"]}
    file = adapter(*Q, *(name.replace("transformer", "transformer_2") for name in Q))
    assert all(name.split(".")[1] == "blocks" for name in untouched(parts, file))
    assert "transformer_2.blocks.*.to_v" in untouched(parts, file)
    assert grouped(["transformer_2.blocks.0.to_q", "transformer_2.blocks.1.to_q"]) == "transformer_2.blocks.*.to_q x 2"
