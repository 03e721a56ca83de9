"""EasyAnimate's networks of v4, v3 and v2 as wholes: conditions, adapters, memory, number formats, sizes."""

import json
from pathlib import Path

import golden_easyanimate_legacy as golden
import pytest
import torch
from easyanimate_nets import NETS, SECOND, TEMPORAL, drawn, fourth, fourth_conditions, second, second_conditions
from golden_case import Case
from torch import nn

from cinelora.base.errors import RecipeError, WeightsError
from cinelora.families.easyanimate import hunyuan, pixart
from cinelora.families.easyanimate.networks import open_network
from cinelora.families.easyanimate.tokens import to_latents
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from cinelora.nets.weights import fill, refuse_other

SHARED = Path(__file__).parents[3] / "shared" / "golden" / "easyanimate"


@pytest.fixture(params=sorted(NETS))
def network(request):
    make, predict, conditions = NETS[request.param]
    return make(), predict, conditions()


def test_more_frames_than_numbers_are_told(network):
    net, predict, conditions = network
    most = 8 if isinstance(net, pixart.PixArtTransformer) else 512
    with pytest.raises(RecipeError, match=f"up to {most}"), torch.no_grad():
        predict(net, drawn(2, 4, most + 1, 2, 2), torch.tensor([1, 2]), conditions)


# Whole networks


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("train_sigma_v3", "Transformer3DModel"),
        ("train_ddpm_v4_motion_sub", "HunyuanTransformer3DModel"),
        ("lora_v3_t5", "Transformer3DModel"),
    ],
)
def test_networks_of_other_golden_cases(name, kind):
    if not (SHARED / name).is_dir():
        pytest.skip("no golden data here")
    case = Case(SHARED / name, name)
    net, io = golden.net_of(case, kind), case.io
    x, wanted = (
        io.get(first, io.get(other))
        for first, other in (("noisy_latents", "hidden_states"), ("model_output", "output_base"))
    )
    inputs = golden.inputs_of(case)
    if kind == "HunyuanTransformer3DModel":
        meta = hunyuan.sizes_told(x)
        inputs = {"image_meta_size": meta, "style": torch.zeros(len(x), dtype=torch.long)} | inputs
    t = io.get("model_timesteps", io.get("timesteps", io.get("timestep")))
    with torch.no_grad():
        golden.near(case, net(x, t, **inputs), wanted, "output")


def test_predict_hands_all_conditions_over():
    net, conditions = fourth(in_channels=12, n_query=4), fourth_conditions()
    x, t = drawn(2, 4, 2, 6, 8), torch.tensor([3.0, 700.0])
    more = {"inpaint": drawn(2, 8, 2, 6, 8, seed=8), "clip": drawn(2, 9, 20, seed=9)}
    more["clip_mask"] = torch.tensor([[1.0] * 4, [0.0] * 4])
    sizes = torch.tensor([[1024.0, 1024, 48, 64, 0, 0]] * 2)
    with torch.no_grad():
        found = hunyuan.predict(net, x, t, {**conditions, **more})
        wanted = net(
            x,
            t,
            encoder_hidden_states=conditions["text"],
            encoder_hidden_states_t5=conditions["text_t5"],
            text_embedding_mask=conditions["text_mask"],
            text_embedding_mask_t5=conditions["text_t5_mask"],
            image_meta_size=sizes,
            style=torch.zeros(2, dtype=torch.long),
            image_rotary_emb=hunyuan.rotary_tables(3, 4, 16),
            inpaint_latents=more["inpaint"],
            clip_encoder_hidden_states=more["clip"],
            clip_attention_mask=more["clip_mask"],
        )
        without = hunyuan.predict(net, x, t, {**conditions, "inpaint": more["inpaint"]})
    assert torch.equal(found, wanted)
    assert not torch.allclose(found[0], without[0], atol=1e-4)
    torch.testing.assert_close(found[1], without[1])  # a masked picture is as none


def test_predict_of_v3_puts_the_picture_behind_the_text():
    net, conditions = second(in_channels=12), second_conditions()
    x, t = drawn(2, 4, 3, 4, 4), torch.tensor([3, 700])
    more = {"inpaint": drawn(2, 8, 3, 4, 4, seed=8), "clip": drawn(2, 768, seed=9)}
    more["clip_mask"] = torch.tensor([[1.0] * 8, [0.0] * 8])
    with torch.no_grad():
        found = pixart.predict(net, x, t, {**conditions, **more})
        without = pixart.predict(net, x, t, {**conditions, "inpaint": more["inpaint"]})
    assert found.shape == (2, 8, 3, 4, 4)
    assert not torch.allclose(found[0], without[0], atol=1e-4)
    torch.testing.assert_close(found[1], without[1])


def test_what_is_given_stands_behind_the_noisy_channels(network):
    net, predict, conditions = network
    wide = (second if predict is pixart.predict else fourth)(in_channels=8)
    x, t, given = drawn(2, 4, 2, 4, 4), torch.tensor([3, 700]), drawn(2, 4, 2, 4, 4, seed=6)
    embed = wide.pos_embed.proj
    with torch.no_grad():
        told = [predict(wide, x, t, {**conditions, name: given}) for name in ("control", "inpaint")]
        assert torch.equal(*told)
        embed.weight[:, 4:] = 0
        blind = [predict(wide, x, t, {**conditions, "control": part}) for part in (given, -given)]
    assert torch.equal(*blind)
    assert not torch.allclose(told[0], blind[0], atol=1e-4)


def test_large_networks_are_told_pixels():
    net, conditions = second(sample_size=128, attention_head_dim=48, cross_attention_dim=96), second_conditions()
    x, t = drawn(2, 4, 2, 6, 8), torch.tensor([3, 700])
    given = {"encoder_hidden_states": conditions["text"], "text_embedding_mask": conditions["text_mask"]}
    sizes = {"resolution": torch.tensor([[48.0, 64.0]] * 2), "aspect_ratio": torch.tensor([[0.75]] * 2)}
    with torch.no_grad():
        torch.testing.assert_close(pixart.predict(net, x, t, conditions), net(x, t, **given, **sizes))
        with pytest.raises(ValueError, match="resolution"):
            net(x, t, **given, resolution=sizes["resolution"])


def test_unknown_conditions_are_refused(network):
    net, _, conditions = network
    with pytest.raises(TypeError, match="encoder_attention_mask"):
        net(drawn(2, 4, 2, 4, 4), torch.tensor([1, 2]), encoder_attention_mask=conditions["text_mask"])


def test_odd_sides_are_told(network):
    net, predict, conditions = network
    with pytest.raises(RecipeError, match="multiples of 2"):
        predict(net, drawn(2, 4, 2, 5, 4), torch.tensor([1, 2]), conditions)


def test_masked_text_has_no_say(network):
    net, predict, conditions = network
    x, t = drawn(2, 4, 2, 4, 4), torch.tensor([10, 500])
    key = "text" if isinstance(net, pixart.PixArtTransformer) else "text_t5"
    mask = conditions[f"{key}_mask"]
    other = conditions[key] + 5 * (1 - mask[..., None])
    with torch.no_grad():
        same = predict(net, x, t, conditions)[1] - predict(net, x, t, {**conditions, key: other})[1]
    if key == "text":
        assert float(same.abs().max()) < 1e-6
    else:
        # The pool of v4 looks at all tokens; the blocks do not.
        pooled = net.time_extra_emb.pooler
        nn.init.zeros_(pooled.c_proj.weight)
        with torch.no_grad():
            left = predict(net, x, t, conditions) - predict(net, x, t, {**conditions, key: other})
        assert float(same.abs().max()) > 1e-5
        assert float(left.abs().max()) < 1e-6


def test_clips_of_a_batch_do_not_see_each_other(network):
    net, predict, conditions = network
    x, t = drawn(2, 4, 3, 4, 6), torch.tensor([10, 500])
    with torch.no_grad():
        both = predict(net, x, t, conditions)
        alone = predict(net, x[1:], t[1:], {name: part[1:] for name, part in conditions.items()})
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-5)


def test_recomputing_changes_no_gradient(network):
    net, predict, conditions = network
    x, t = drawn(2, 4, 3, 4, 4), torch.tensor([10, 500])
    grads = []
    for twice in (False, True):
        net.zero_grad()
        if twice:
            net.enable_gradient_checkpointing()
        predict(net, x, t, conditions).square().sum().backward()
        grads.append({name: weight.grad.clone() for name, weight in net.named_parameters() if weight.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert len(grads[0]) > 50
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, msg=name)


def test_recomputing_remembers_less(network):
    net, predict, conditions = network
    x, t = drawn(2, 4, 3, 8, 8), torch.tensor([10, 500])
    kept: list[int] = []

    def keep(part: torch.Tensor) -> torch.Tensor:
        kept.append(part.numel())
        return part

    def remembered() -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda part: part):
            predict(net, x, t, conditions)
        return sum(kept)

    everything = remembered()
    net.enable_gradient_checkpointing()
    assert remembered() < everything / 2
    net.disable_gradient_checkpointing()
    assert remembered() == everything


def test_half_precision_comes_near(network):
    net, predict, conditions = network
    x, t = drawn(2, 4, 3, 4, 4), torch.tensor([10, 500])
    with torch.no_grad():
        exact = predict(net, x, t, conditions)
        near = predict(net.to(torch.bfloat16), x, t, conditions)
    assert near.dtype == torch.float32
    assert float((near - exact).norm() / exact.norm()) < 0.03


def test_adapters_stand_on_every_linear_and_learn(network):
    net, predict, conditions = network
    wanted = {name for name, module in net.named_modules() if isinstance(module, nn.Linear)}
    x, t = drawn(2, 4, 3, 4, 4), torch.tensor([10, 500])
    before = predict(net, x, t, conditions).detach()
    adapters = inject({"transformer": net}, LoraOptions(rank=2, targets=".*"), presets={}, default_preset="")
    assert {adapted.name for adapted in adapters.layers} == wanted
    net.enable_gradient_checkpointing()
    found = predict(net, x, t, conditions)
    torch.testing.assert_close(found.detach(), before)
    found.square().sum().backward()
    silent = {n for n, w in adapters.parameters().items() if "lora_B" in n and float(w.grad.abs().sum()) == 0}
    assert silent == set()


def test_adapted_modules_are_those_of_the_reference_in_its_order():
    if not (SHARED / "lora_v3_t5").is_dir():
        pytest.skip("no golden data here")
    config = json.loads((SHARED / "lora_v3_t5" / "config.json").read_text())
    net = open_network({"_class_name": config["transformer_class"], **config["constructor"]})
    linears = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    wanted = [name for name in config["lora_module_names"] if name.startswith("lora_unet")]
    assert ["lora_unet__" + name.replace(".", "_") for name in linears] == wanted


# Sizes


def test_v2_has_the_published_number_of_weights():
    """1.446 billion weights, 0.265 billion numbers of frames beside them: the published 6.84 GB in fp32."""
    motion = {**TEMPORAL, "num_attention_heads": 8, "temporal_position_encoding_max_len": 4096}
    sizes = {"num_attention_heads": 16, "attention_head_dim": 72, "num_layers": 28, "cross_attention_dim": 1152}
    released = {**SECOND, **sizes, "caption_channels": 4096, "enable_uvit": True, "motion_module_kwargs": motion}
    net = open_network({"_class_name": "Transformer3DModel", **released})
    weights = sum(weight.numel() for weight in net.parameters())
    beside = sum(table.numel() for table in net.buffers())
    assert round(weights / 1e9, 3) == 1.446
    assert round(beside / 1e9, 3) == round(28 * 2 * 4096 * 1152 / 1e9, 3) == 0.264
    assert round((weights + beside) * 4 / 1e9, 2) == 6.84
    assert all(tensor.is_meta for tensor in net.state_dict().values())


def test_v4_has_about_two_billion_weights():
    sizes = {"num_attention_heads": 16, "attention_head_dim": 88, "hidden_size": 1408, "num_layers": 40}
    sizes |= {"mlp_ratio": 4.3637, "in_channels": 12, "out_channels": 8, "projection_dim": 1024}
    net = open_network({"_class_name": "HunyuanTransformer3DModel", **sizes, "time_position_encoding": True})
    assert 1.8e9 < sum(weight.numel() for weight in net.parameters()) < 2.1e9
    assert all(tensor.is_meta for tensor in net.state_dict().values())


@pytest.mark.parametrize("make", [second, fourth])
def test_a_network_of_the_other_mode_is_refused(make):
    other = make(in_channels=12)
    with pytest.raises(WeightsError, match="another shape"):
        refuse_other(
            make(), {**make().state_dict(), "pos_embed.proj.weight": other.pos_embed.proj.weight}, of="d", where=""
        )


def test_skeleton_takes_weights():
    net = pixart.build(SECOND)
    fill(net, second().state_dict(), of="denoiser", dtype_of=lambda name: torch.float32)
    x, t = drawn(2, 4, 2, 4, 4), torch.tensor([10, 500])
    with torch.no_grad():
        conditions = second_conditions()
        torch.testing.assert_close(pixart.predict(net, x, t, conditions), pixart.predict(second(), x, t, conditions))


def test_tokens_go_back_where_they_came_from():
    latents = drawn(2, 3, 2, 4, 6)
    pieces = latents.view(2, 3, 2, 2, 2, 3, 2).permute(0, 2, 3, 5, 4, 6, 1)
    assert torch.equal(to_latents(pieces.reshape(2, 12, 12), (2, 2, 3), 2), latents)


def test_odd_and_even_layers_have_their_own_motion():
    odd = {**TEMPORAL, "attention_block_types": ["Temporal_Self", "Global_Self"]}
    both = {"motion_module_kwargs_odd": odd, "motion_module_kwargs_even": TEMPORAL, "motion_module_kwargs": None}
    net = second(basic_block_type="global_motionmodule", **both)
    kinds = [
        [
            attention.kind
            for attention in block.attn_temporal.temporal_transformer.transformer_blocks[0].attention_blocks
        ]
        for block in net.transformer_blocks
    ]
    assert kinds == [["Temporal_Self", "Temporal_Self"], ["Temporal_Self", "Global_Self"]]


def test_options_that_no_golden_case_has_change_the_answer():
    x, t, conditions = drawn(2, 4, 3, 4, 4), torch.tensor([10, 500]), second_conditions()
    plain = pixart.predict(second(), x, t, conditions)
    for change in ({"after_norm": True}, {"qk_norm": True}, {"time_position_encoding_before_transformer": True}):
        assert not torch.allclose(pixart.predict(second(**change), x, t, conditions), plain, atol=1e-4), change
    with torch.no_grad():
        grown = fourth(after_norm=True)
        assert "blocks.0.norm4.weight" in grown.state_dict()
        assert hunyuan.predict(grown, x, t, fourth_conditions()).shape == (2, 8, 3, 4, 4)


@pytest.mark.parametrize(
    ("network", "name", "value"),
    [
        ("second", "sample_size", "big"),
        ("second", "sample_size", 0),
        ("second", "motion_module_kwargs", "abc"),
        ("second", "enable_uvit", 1),
        ("fourth", "mlp_ratio", None),
        ("fourth", "num_layers", 4.5),
        ("fourth", "norm_type", ["layer_norm"]),
    ],
)
def test_values_of_another_kind_are_told(network, name, value):
    make = second if network == "second" else fourth
    with pytest.raises(WeightsError, match=f"this {name}"):
        make(**{name: value})
