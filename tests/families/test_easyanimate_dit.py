"""EasyAnimate v5 and v5.1: positions, what is refused, spellings of weights and adapters, the denoiser."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import EasyAnimateTransformer3DModel
from easyanimate_nets import FOURTH, SECOND, fourth_conditions, second_conditions
from safetensors.torch import save_file
from torch import nn

from cinelora.base.errors import RunError, WeightsError
from cinelora.base.log import logger
from cinelora.base.seeds import torch_rng
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Batch
from cinelora.contracts.geometry import Geometry
from cinelora.contracts.roles import AdapterLayout, Denoiser, Layout
from cinelora.families.easyanimate.denoise import EasyAnimateDenoiser, check_base, open_denoiser, skeleton
from cinelora.families.easyanimate.dit import crop_of, rotary_tables
from cinelora.families.easyanimate.layouts import LAYOUTS_BY_CLASS, LORA_LAYOUTS, WEIGHT_LAYOUTS, VideoxLora
from cinelora.families.easyanimate.networks import channels_by_mode, open_network, refuse_other_mode
from cinelora.families.easyanimate.targets import DEFAULT_PRESET, LORA_PRESETS
from cinelora.lora.files import read_adapter, write_adapter
from cinelora.lora.inject import attach, inject
from cinelora.lora.options import LoraOptions
from cinelora.lora.prove import prove, take_probe
from cinelora.lora.targets import sizes

DIT = "EasyAnimateTransformer3DModel"
SMALL = {
    "_class_name": DIT,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "num_layers": 3,
    "mmdit_layers": 2,
    "time_embed_dim": 24,
    "text_embed_dim": 20,
    "add_norm_text_encoder": True,
}
TWO_TEXTS = {**SMALL, "add_norm_text_encoder": False, "text_embed_dim_t5": 28}


def variant(network: dict | None = None, **more) -> Variant:
    made = Variant(
        name="v",
        title="EasyAnimate small",
        base="random",
        geometry=Geometry(fps=8, frames=9, height=64, width=96),
        conditions={"text": "7 20"},
        network={"transformer": network or SMALL},
    )
    return replace(made, **more)


def denoiser_of(network: dict | None = None, dtype: str = "fp32") -> EasyAnimateDenoiser:
    return open_denoiser("random", variant(network), dtype)


def inputs(count: int = 2, height: int = 8, width: int = 12):
    rng = torch_rng("inputs")
    conditions = {"text": torch.randn(count, 7, 20, generator=rng)}
    x = torch.randn(count, 16, 3, height, width, generator=rng)
    return x, torch.tensor([120.0, 800.0])[:count], conditions


def write_base(folder: Path, network: dict | None = None, *, original: bool = True, **stated) -> Path:
    """A folder as it is published: the original's keys and config."""
    network = network or SMALL
    torch.manual_seed(5)
    config = {key: value for key, value in network.items() if not key.startswith("_")}
    tensors = EasyAnimateTransformer3DModel(**config).state_dict()
    if original:
        tensors = WEIGHT_LAYOUTS[0].from_native(tensors)
    place = folder / "transformer"
    place.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, place / "diffusion_pytorch_model.safetensors")
    (place / "config.json").write_text(json.dumps({**network, "_diffusers_version": "0.31.0", **stated}))
    return folder


# Positions.


def test_the_crop_lies_in_the_middle_of_the_base_grid():
    """45 x 30 tokens at patch 2; by hand: 16:9 keeps the width, 1:1 and 9:16 the height."""
    assert crop_of(24, 42, 2) == ((2, 0), (28, 45))
    assert crop_of(32, 32, 2) == ((0, 8), (30, 38))
    assert crop_of(42, 24, 2) == ((0, 14), (30, 31))
    assert crop_of(30, 45, 2) == ((0, 0), (30, 45))
    assert crop_of(60, 90, 1) == ((0, 0), (60, 90))


def test_tables_place_token_i_of_n_between_the_corners():
    """Against a walk over tokens, one at a time."""
    size, head, crop = (2, 3, 4), 32, ((1, 8), (28, 38))
    cos, sin = rotary_tables(size, head, crop)
    assert cos.shape == sin.shape == (24, 32)
    number = 0
    for t in range(2):
        for row in range(3):
            for column in range(4):
                places = [(t, 8), (1 + 27 * row / 3, 12), (8 + 30 * column / 4, 12)]
                angles = [p * 10000 ** (-2 * (k // 2) / dim) for p, dim in places for k in range(dim)]
                wanted = torch.tensor([[math.cos(a), math.sin(a)] for a in angles])
                torch.testing.assert_close(torch.stack([cos[number], sin[number]], 1), wanted, rtol=0, atol=1e-5)
                number += 1


def test_diffusers_own_tables_are_others_where_the_crop_is_off_the_corner():
    net = denoiser_of().net
    theirs = EasyAnimateTransformer3DModel(**{k: v for k, v in SMALL.items() if k[0] != "_"}).rope_embedding
    whole, square = torch.empty(1, 16, 2, 20, 30), torch.empty(1, 16, 2, 16, 16)
    torch.testing.assert_close(net.rope_embedding(whole)[0], theirs(whole)[0].float(), rtol=0, atol=1e-4)
    assert (net.rope_embedding(square)[0] - theirs(square)[0].float()).abs().max() > 0.1


# What is refused.


def test_all_that_is_not_supported_is_told_at_once():
    config = {
        **SMALL,
        "ref_channels": 16,
        "swa_layers": [1],
        "clip_channels": 8,
        "strange": 3,
        "attention_head_dim": 24,
    }
    config |= {"time_position_encoding_type": "2d_rope", "patch_size": None, "text_embed_dim_t5": 28}
    with pytest.raises(WeightsError) as caught:
        open_network(config)
    told = str(caught.value)
    names = ("ref_channels 16", "swa_layers", "clip_channels", "strange", "24 wide", "2d_rope", "patch_size", "_t5 28")
    assert [name for name in names if name not in told] == []
    assert len(caught.value.problems) == len(names)


def test_what_has_no_effect_is_taken():
    spare = {"ref_channels": None, "swa_layers": None, "enable_clip_in_inpaint": True, "later": None}
    spare |= {"position_of_clip_embedding": "full", "add_ref_latent_in_control_model": True}
    assert open_network({**SMALL, **spare}).state_dict().keys() == open_network(SMALL).state_dict().keys()


def test_an_unknown_class_is_told():
    with pytest.raises(WeightsError, match="no network of EasyAnimate") as caught:
        open_network({**SMALL, "_class_name": "EasyAnimateTransformer2DModel"})
    assert DIT in caught.value.problems[0].nearest
    with pytest.raises(WeightsError, match="missing"):
        open_network({})


def test_released_sizes_are_built_without_memory():
    big = {**SMALL, "num_attention_heads": 48, "attention_head_dim": 64, "num_layers": 48, "mmdit_layers": 48}
    big |= {"in_channels": 33, "time_embed_dim": 512, "text_embed_dim": 3584}
    net = skeleton(variant(big))["transformer"]
    assert all(weight.is_meta for weight in net.parameters())
    assert round(sum(weight.numel() for weight in net.parameters()) / 1e9, 2) == 11.80
    linears = [module for module in net.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 677
    assert round(sum(128 * (one.in_features + one.out_features) for one in linears) / 1e6) == 915


@pytest.mark.parametrize(("channels", "words"), [(33, "these are inpaint weights"), (32, "these are control weights")])
def test_weights_of_another_mode_say_which_fits(channels, words, tmp_path):
    base = write_base(tmp_path, {**SMALL, "in_channels": channels})
    with pytest.raises(WeightsError, match=words) as caught:
        check_base(str(base), variant())
    assert caught.value.problems[0].found == f"{channels} channels"
    with pytest.raises(WeightsError, match="these are normal weights"):
        check_base(str(write_base(tmp_path / "other")), variant({**SMALL, "in_channels": 33}))


def test_channels_of_every_mode():
    five = {"normal": 16, "inpaint": 33, "control": 32, "control with a reference": 48}
    assert channels_by_mode(16, direct_mask=True) == five
    older = channels_by_mode(4, direct_mask=False)
    assert older == {"normal": 4, "inpaint": 12, "control": 8}
    refuse_other_mode(12, "inpaint", older)
    with pytest.raises(WeightsError, match="name weights of this version"):
        refuse_other_mode(5, "inpaint", older)


def test_another_version_or_size_is_told(tmp_path):
    base = write_base(tmp_path / "a")
    with pytest.raises(WeightsError, match="num_layers 3"):
        check_base(str(base), variant({**SMALL, "num_layers": 4}))
    other = write_base(tmp_path / "b", _class_name="Transformer3DModel")
    with pytest.raises(WeightsError, match="Transformer3DModel"):
        open_denoiser(str(other), variant(), "fp32")
    with pytest.raises(WeightsError, match="reference latents"):
        open_denoiser(str(write_base(tmp_path / "c", ref_channels=16)), variant(), "fp32")


# Weights.


def test_published_and_diffusers_folders_give_the_same_network(tmp_path):
    x, t, conditions = inputs()
    said = []
    for name, original in (("theirs", True), ("ours", False)):
        base = str(write_base(tmp_path / name, original=original))
        check_base(base, variant())
        said.append(open_denoiser(base, variant(), "fp32").predict(x, t, conditions))
    assert torch.equal(*said)


def test_what_the_originals_yaml_overrules_does_not_matter(tmp_path):
    base = write_base(tmp_path, enable_text_attention_mask=False, resize_inpaint_mask_directly=False)
    wanted = {**SMALL, "enable_text_attention_mask": True, "resize_inpaint_mask_directly": True}
    assert open_denoiser(str(base), variant(wanted), "fp32").net.config.enable_text_attention_mask


def test_weight_layouts_are_inverse_and_know_their_own():
    for network in (SMALL, TWO_TEXTS, {**SMALL, "mmdit_layers": 3}):
        native = open_network(network).state_dict()
        for layout in WEIGHT_LAYOUTS:
            assert isinstance(layout, Layout)
            keys = layout.from_native(native)
            assert next(one for one in WEIGHT_LAYOUTS if one.reads(list(keys))) is layout
            assert layout.to_native(keys).keys() == native.keys()
    original = set(WEIGHT_LAYOUTS[0].from_native(open_network(SMALL).state_dict()))
    assert "transformer_blocks.0.attn2.norm_q.weight" in original
    assert not any("attn2" in key for key in original if "blocks.2" in key), "shared in the last block"


@pytest.mark.parametrize("kind", ["HunyuanTransformer3DModel", "Transformer3DModel"])
def test_older_networks_are_not_taken_for_new_ones(kind):
    mark = {
        "HunyuanTransformer3DModel": "time_extra_emb.pooler.c_proj.bias",
        "Transformer3DModel": "adaln_single.linear.bias",
    }
    keys = [mark[kind], "transformer_blocks.0.attn2.to_q.weight", "proj_out.weight"]
    assert [one.reads(keys) for one in WEIGHT_LAYOUTS] == [False, False]
    assert [one.reads(keys) for one in LAYOUTS_BY_CLASS[kind]] == [True]


# Adapters.


def adapted(denoiser: EasyAnimateDenoiser, targets: str = ""):
    options = LoraOptions(rank=4, alpha=3.0, targets=targets)
    made = inject(denoiser.parts(), options, presets=LORA_PRESETS, default_preset=DEFAULT_PRESET)
    torch.manual_seed(2)
    with torch.no_grad():
        for weight in made.parameters().values():
            weight.add_(0.1 * torch.randn_like(weight))
    return made


@pytest.mark.parametrize("network", [SMALL, TWO_TEXTS], ids=["v5.1", "v5"])
@pytest.mark.parametrize("preset", LORA_PRESETS)
def test_files_of_every_layout_do_what_was_trained(network, preset, tmp_path):
    denoiser, (x, t, conditions) = denoiser_of(network), inputs()
    if network is TWO_TEXTS:
        conditions["text_t5"] = torch.randn(2, 5, 28, generator=torch_rng("second"))
    adapters = adapted(denoiser, preset)
    probe = take_probe(denoiser, x, t, conditions)
    for layout in LORA_LAYOUTS:
        assert isinstance(layout, AdapterLayout)
        path = tmp_path / f"{layout.name}.safetensors"
        write_adapter(path, adapters.file({"rank": "4"}), layout)
        proof = prove(path, layout, probe, reopen=lambda: denoiser_of(network))
        assert proof.difference < 1e-3 * proof.effect
        file = read_adapter(path, LORA_LAYOUTS)
        assert set(file.modules()) == {one.key for one in adapters.layers}
        assert file.metadata["rank"] == "4"
        keys = list(layout.from_native(adapters.tensors()))
        assert next(one for one in LORA_LAYOUTS if one.reads(keys)) is layout


OLDER = {
    "v2": ({"_class_name": "Transformer3DModel", **SECOND}, second_conditions),
    "v3": ({"_class_name": "Transformer3DModel", **SECOND, "enable_uvit": True, "num_layers": 2}, second_conditions),
    "v4": ({"_class_name": "HunyuanTransformer3DModel", **FOURTH}, fourth_conditions),
}


@pytest.mark.parametrize("version", OLDER)
@pytest.mark.parametrize("preset", LORA_PRESETS)
def test_older_networks_learn_through_the_same_denoiser_and_files(version, preset, tmp_path):
    network, conditions = OLDER[version]
    geometry = replace(variant().geometry, latent_channels=4)

    def reopen() -> EasyAnimateDenoiser:
        return open_denoiser("random", variant(network, geometry=geometry), "fp32")

    denoiser, x, t = reopen(), torch.randn(2, 4, 2, 8, 8, generator=torch_rng("x")), torch.tensor([120, 800])
    assert isinstance(denoiser, Denoiser)
    assert denoiser.mode == "normal"
    adapters = adapted(denoiser, preset)
    probe = take_probe(denoiser, x, t, conditions())
    assert probe.expected.shape == (2, 8, 2, 8, 8)
    for layout in LORA_LAYOUTS:
        path = tmp_path / f"{layout.name}.safetensors"
        write_adapter(path, adapters.file(), layout)
        proof = prove(path, layout, probe, reopen=reopen)
        assert proof.difference < 1e-3 * proof.effect
        assert set(read_adapter(path, LORA_LAYOUTS).modules()) == {one.key for one in adapters.layers}
    named = {one.name for one in adapters.layers}
    assert any("attn_temporal" in name for name in named) is (version != "v4")
    assert len(named) == sum(isinstance(one, nn.Linear) for one in reopen().net.modules()) or preset != "all-linears"


def test_presets_match_what_they_say():
    net = skeleton(variant())["transformer"]
    chosen = {name: set(sizes("transformer", net, LoraOptions(targets=name), LORA_PRESETS)) for name in LORA_PRESETS}
    assert len(chosen["attention"]) == 2 * 8 + 4
    assert len(chosen["attention+ffn"] - chosen["attention"]) == 2 * 4 + 2
    assert chosen["attention"] < chosen["attention+ffn"] < chosen["all-linears"]
    rest = {name.split(".")[-2] for name in chosen["all-linears"] - chosen["attention+ffn"] if "." in name}
    assert rest == {"time_embedding", "text_proj", "norm1", "norm2", "norm_out"}


def key(name: str, ending: str = "lora_down.weight") -> str:
    return f"lora_unet__{name}.{ending}"


def test_the_same_spelling_means_another_module_in_v2_and_v3():
    layout, weight = VideoxLora(), torch.zeros(1)
    ours, theirs = (key(f"transformer_blocks_3_{name}_to_q") for name in ("attn1", "attn2"))
    new = layout.to_native({ours: weight, theirs: weight})
    assert set(new) == {f"transformer.transformer_blocks.3.attn1.{n}.lora_A.weight" for n in ("to_q", "add_q_proj")}
    motion = key("transformer_blocks_3_attn_temporal_temporal_transformer_proj_in")
    older = layout.to_native({ours: weight, theirs: weight, motion: weight})
    assert "transformer.transformer_blocks.3.attn2.to_q.lora_A.weight" in older
    assert set(layout.from_native(older)) == {ours, theirs, motion}
    fourth = {key(f"blocks_3_{name}_to_k", "alpha"): weight for name in ("attn1", "attn2", "attn_clip")}
    assert "transformer.blocks.3.attn2.to_k.alpha" in layout.to_native(fourth)


def test_t5_is_the_second_text_encoder_beside_bert():
    layout, weight = VideoxLora(), torch.zeros(1)
    t5 = "lora_te_encoder_block_0_layer_1_DenseReluDense_wi_0.lora_up.weight"
    bert = "lora_te_encoder_layer_7_attention_self_query.lora_up.weight"
    alone = layout.to_native({t5: weight})
    assert set(alone) == {"text_encoder.encoder.block.0.layer.1.DenseReluDense.wi_0.lora_B.weight"}
    both = layout.to_native({t5: weight, bert: weight})
    assert set(both) == {
        "text_encoder_2.encoder.block.0.layer.1.DenseReluDense.wi_0.lora_B.weight",
        "text_encoder.encoder.layer.7.attention.self.query.lora_B.weight",
    }
    assert set(layout.from_native(both)) == {t5, bert}
    assert layout.reads([t5, bert])


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["lora_unet__blocks_0_cross_attn_k.lora_down.weight"],
        [key("transformer_blocks_0_attn1_to_q"), "lora_unet_transformer_blocks_0_attn1_to_k.lora_down.weight"],
        ["lora_te_encoder_block_0_layer_0_EncDecAttention_q.alpha"],
        ["lora_te1_text_model_encoder_layers_0_self_attn_q_proj.alpha"],
    ],
)
def test_files_of_other_families_are_not_read(keys):
    assert not any(layout.reads(keys) for layout in LORA_LAYOUTS)


def test_modules_of_a_text_encoder_are_refused_where_there_is_none(tmp_path):
    tensors = {}
    for name in ("lora_te_encoder_block_0_layer_0_SelfAttention_q", "lora_unet__proj_out"):
        width = {"lora_te": 16, "lora_un": 32}[name[:7]]
        tensors |= {f"{name}.lora_down.weight": torch.zeros(2, width), f"{name}.lora_up.weight": torch.zeros(64, 2)}
        tensors[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(tensors, tmp_path / "a.safetensors")
    file = read_adapter(tmp_path / "a.safetensors", LORA_LAYOUTS)
    with pytest.raises(WeightsError, match="lora_te_encoder"):
        attach(denoiser_of().parts(), file)


# The denoiser.


def batch(count: int = 8, network: dict | None = None, versions: int = 0) -> Batch:
    x, _, conditions = inputs(count)
    x = torch.zeros(count, 16, 3, 8, 12)
    conditions["text"] = torch.randn(count, 7, 20, generator=torch_rng("texts"))
    if versions:
        numbers = torch.arange(1.0, 1 + count * versions).view(count, versions, 1, 1, 1, 1)
        conditions["inpaint"] = numbers.expand(-1, -1, 17, 3, 8, 12)
    return Batch(x, conditions, tuple(str(k) for k in range(count)))


def test_the_role_is_played():
    denoiser = denoiser_of()
    assert isinstance(denoiser, Denoiser)
    assert denoiser.mode == "normal"
    assert not hasattr(denoiser, "image_dropout")
    x = torch.zeros(1, 16, 3, 8, 12)
    assert denoiser.arranged(x) is x
    assert denoiser.restored(x, 3) is x


def test_captions_are_dropped_with_their_second_text():
    denoiser, one = denoiser_of(TWO_TEXTS), batch()
    one = replace(one, conditions={**one.conditions, "text_t5": torch.ones(8, 5, 28)})
    with pytest.raises(RunError, match="no text, text_t5"):
        denoiser.condition(one, torch_rng("a"))
    denoiser.blank, denoiser.text_dropout = {"text": torch.zeros(7, 20), "text_t5": torch.zeros(5, 28)}, 0.5
    given = denoiser.condition(one, torch_rng("a"))
    gone = ~given["text"].flatten(1).any(1)
    assert 0 < gone.sum() < 8
    assert torch.equal(gone, ~given["text_t5"].flatten(1).any(1))
    assert all(torch.equal(whole, one.conditions[n]) for n, whole in denoiser.condition(one, None).items())


def test_each_step_takes_one_telling_of_what_is_given():
    denoiser = denoiser_of({**SMALL, "in_channels": 33})
    denoiser.text_dropout = 0.0
    assert denoiser.mode == "inpaint"
    one, seen = batch(versions=4), set()
    for step in range(40):
        told = denoiser.condition(one, torch_rng("step", step))["inpaint"]
        assert told.shape == (8, 17, 3, 8, 12)
        seen |= {int(value) for value in told[0].unique()}
    assert seen == {2, 3, 4}, "number 0 is for previews"
    assert denoiser.condition(one, None)["inpaint"][1].unique().tolist() == [5.0]
    denoiser.image_dropout = 0.999
    assert not denoiser.condition(one, torch_rng("dropped"))["inpaint"].any()


@pytest.mark.parametrize("shape", [(16,), (9, 16)], ids=["v3", "v4"])
def test_a_step_sees_one_frame_or_the_whole_batch_sees_none(shape):
    net = SimpleNamespace(config=SimpleNamespace(in_channels=12, n_query=4))
    denoiser = EasyAnimateDenoiser(net, "HunyuanTransformer3DModel", latent_channels=4, text_dropout=0.0)
    assert denoiser.mode == "inpaint"
    numbers = torch.arange(3 * 5.0).view(3, 5, *[1] * len(shape)).expand(3, 5, *shape)
    one = Batch(torch.zeros(3, 4, 2, 8, 8), {"text": torch.zeros(3, 2, 2), "clip": numbers}, ("a", "b", "c"))
    still = denoiser.condition(one, None)
    assert torch.equal(still["clip"], numbers[:, 0])
    assert torch.equal(still["clip_mask"], torch.ones(3, 4))
    seen, masks = set(), set()
    for step in range(60):
        given = denoiser.condition(one, torch_rng("step", step))
        assert given["clip"].shape == (3, *shape)
        seen |= {int(value) for value in given["clip"][1].unique()}
        masks.add(tuple(given["clip_mask"].unique().tolist()))
    assert seen == {6, 7, 8, 9}
    assert masks == {(0.0,), (1.0,)}


@pytest.mark.parametrize(("channels", "name"), [(33, "inpaint"), (32, "control")])
def test_further_channels_are_zeros_unless_they_are_given(channels, name):
    denoiser, (x, t, conditions) = denoiser_of({**SMALL, "in_channels": channels}), inputs()
    behind = torch.randn(2, channels - 16, *x.shape[2:], generator=torch_rng("behind"))
    nothing = denoiser.predict(x, t, conditions)
    assert torch.equal(nothing, denoiser.predict(x, t, {**conditions, name: torch.zeros_like(behind)}))
    assert not torch.allclose(nothing, denoiser.predict(x, t, {**conditions, name: behind}))


def test_control_weights_load_and_it_is_told(caplog, tmp_path, monkeypatch):
    network = {**SMALL, "in_channels": 32}
    monkeypatch.setattr(logger, "propagate", True)
    with caplog.at_level(logging.INFO, logger=logger.name):
        denoiser = open_denoiser(str(write_base(tmp_path, network)), variant(network), "fp32")
    assert denoiser.mode == "control"
    assert "control video" in caplog.text


@pytest.mark.parametrize("network", [SMALL, TWO_TEXTS], ids=["v5.1", "v5"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_predictions_depend_on_everything_and_clips_do_not_mix(network, dtype):
    denoiser, (x, t, conditions) = denoiser_of(network, dtype), inputs()
    if network is TWO_TEXTS:
        conditions["text_t5"] = torch.randn(2, 5, 28, generator=torch_rng("second"))
    out = denoiser.predict(x, t, conditions)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    assert out.isfinite().all()
    assert not torch.allclose(out, denoiser.predict(x, t.flip(0), conditions))
    for name in conditions:
        assert not torch.equal(out, denoiser.predict(x, t, {**conditions, name: conditions[name].flip(0)}))
    alone = denoiser.predict(x[:1], t[:1], {name: one[:1] for name, one in conditions.items()})
    torch.testing.assert_close(alone, out[:1], rtol=1e-4, atol=1e-5 if dtype == "fp32" else 0.05)


def test_every_adapter_learns_and_recomputing_changes_nothing():
    gradients = []
    for recomputing in (False, True):
        denoiser, (x, t, conditions) = denoiser_of(), inputs()
        adapters = adapted(denoiser)
        denoiser.net.train()
        if recomputing:
            denoiser.net.enable_gradient_checkpointing()
        denoiser.predict(x, t, conditions).square().mean().backward()
        gradients.append([weight.grad for weight in adapters.parameters().values()])
    assert all(grad is not None and grad.any() for grad in gradients[0])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
