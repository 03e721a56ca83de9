"""Blocks of EasyAnimate's v4, v3 and v2 against independent ones, their settings and what these refuse."""

import pytest
import torch
from diffusers.models.attention_processor import Attention as PublicAttention
from diffusers.models.embeddings import HunyuanDiTAttentionPool
from diffusers.models.transformers.hunyuan_transformer_2d import HunyuanDiTBlock
from easyanimate_nets import FOURTH, SECOND, TEMPORAL, drawn, second
from torch import nn

from cinelora.base.errors import WeightsError
from cinelora.families.easyanimate import hunyuan
from cinelora.families.easyanimate.attention import Attention, AttentionSize
from cinelora.families.easyanimate.motion import MotionAttention, MotionModule
from cinelora.families.easyanimate.resampler import FusedAttention, Resampler, TextPool
from cinelora.families.easyanimate.settings import HunyuanSettings, MotionSettings, PixArtSettings, read_settings
from cinelora.families.easyanimate.tokens import FramePositions

# Against blocks of other libraries


@pytest.mark.parametrize("context_width", [None, 24])
def test_attention_is_that_of_diffusers(context_width):
    torch.manual_seed(1)
    own = Attention(AttentionSize(32, 2, 16, context_width, bias=True, norm_eps=1e-6))
    public = PublicAttention(32, context_width, heads=2, dim_head=16, bias=True, qk_norm="layer_norm", eps=1e-6)
    public.load_state_dict(own.state_dict())
    x, context = drawn(2, 7, 32), drawn(2, 5, 24) if context_width else None
    added = torch.zeros(2, 1, 1, 5 if context_width else 7)
    added[1, ..., 2:] = -10000.0
    torch.testing.assert_close(own(x, context, added=added), public(x, context, added[:, 0]))


def test_block_of_one_frame_is_hunyuandits():
    settings = read_settings(HunyuanSettings, {**FOURTH, "time_position_encoding": False}, of="net")
    torch.manual_seed(2)
    own = hunyuan.HunyuanBlock(settings, 3)
    public = HunyuanDiTBlock(32, 2, 24, activation_fn="gelu-approximate", ff_inner_dim=64, skip=True)
    public.load_state_dict(own.state_dict())
    x, skip, text, time = drawn(2, 12, 32), drawn(2, 12, 32, seed=1), drawn(2, 5, 24), drawn(2, 32)
    rotary = hunyuan.rotary_tables(3, 4, 16)
    found = own(x, skip, (text, None, time, rotary, 1))
    torch.testing.assert_close(found, public(x, text, time, rotary, skip))


def test_first_block_looks_around_without_positions():
    settings = read_settings(HunyuanSettings, FOURTH, of="net")
    torch.manual_seed(2)
    first = hunyuan.HunyuanBlock(settings, 0)
    nn.init.zeros_(first.attn2.to_out[0].weight)
    x, text, time = drawn(1, 12, 32), drawn(1, 5, 24), drawn(1, 32)
    with_tables = first(x, None, (text, None, time, hunyuan.rotary_tables(3, 4, 16), 1))
    torch.testing.assert_close(with_tables, first(x, None, (text, None, time, None, 1)))


def test_fused_attention_is_torchs():
    torch.manual_seed(3)
    own, public = FusedAttention(24, 2), nn.MultiheadAttention(24, 2, batch_first=True)
    public.load_state_dict(own.state_dict())
    q, k, v = drawn(2, 4, 24), drawn(2, 9, 24, seed=1), drawn(2, 9, 24, seed=2)
    torch.testing.assert_close(own(q, k, v), public(q, k, v, need_weights=False)[0])


def test_text_pool_is_hunyuandits():
    torch.manual_seed(4)
    own, public = TextPool(6, 32, 12), HunyuanDiTAttentionPool(6, 32, 8, 12)
    public.load_state_dict(own.state_dict())
    torch.testing.assert_close(own(drawn(2, 6, 32)), public(drawn(2, 6, 32)))


# Motion modules


def motion_attention(**changes) -> MotionAttention:
    settings = read_settings(MotionSettings, {**TEMPORAL, **changes}, of="motion")
    kind = settings.attention_block_types[0]
    torch.manual_seed(5)
    return MotionAttention(AttentionSize(32, 4, 8, bias=False), kind, settings).eval()


@pytest.mark.parametrize(("grid", "side"), [(False, 1), (True, 1), (True, 2)])
def test_places_or_squares_attend_over_time(grid, side):
    attention = motion_attention(grid=grid, block_size=side)
    x = drawn(2, 3 * 4 * 6, 32)
    found = attention.over_time(x, (3, 4, 6)).view(2, 3, 4, 6, 32)
    video = x.view(2, 3, 4, 6, 32) + attention.pos_encoder.pe[0, :3].view(1, 3, 1, 1, 32)
    for row in range(0, 4, side):
        for column in range(0, 6, side):
            square = video[:, :, row : row + side, column : column + side]
            alone = attention(square.flatten(1, 3)).view(square.shape)
            torch.testing.assert_close(found[:, :, row : row + side, column : column + side], alone)


def test_global_attention_takes_all_tokens():
    attention = motion_attention(attention_block_types=["Global_Self"])
    x = drawn(2, 3 * 4, 32)
    numbered = x.view(2, 3, 4, 32) + attention.pos_encoder.pe[0, :3].view(1, 3, 1, 32)
    torch.testing.assert_close(attention.over_time(x, (3, 2, 2)), attention(numbered.flatten(1, 2)))


def test_many_places_go_in_pieces(monkeypatch):
    attention, x = motion_attention(), drawn(2, 3 * 20, 32)
    whole = attention.over_time(x, (3, 4, 5))
    monkeypatch.setattr("cinelora.families.easyanimate.motion.SEQUENCES_AT_ONCE", 7)
    torch.testing.assert_close(attention.over_time(x, (3, 4, 5)), whole)


@pytest.mark.parametrize(("kind", "numbered"), [("Temporal_Self", False), ("Global_Self", True)])
def test_photos_may_go_without_a_frames_number(kind, numbered):
    attention = motion_attention(remove_time_embedding_in_photo=True, attention_block_types=[kind])
    x = drawn(2, 4, 32)
    plain = x.view(8, 1, 32) if kind == "Temporal_Self" else x
    wanted = attention(plain + attention.pos_encoder.pe[:, :1] * numbered).view(x.shape)
    torch.testing.assert_close(attention.over_time(x, (1, 2, 2)), wanted)


def test_motion_module_adds_to_the_tokens():
    module = MotionModule(32, read_settings(MotionSettings, {**TEMPORAL, "temporal_attention_dim_div": 2}, of="motion"))
    nn.init.zeros_(module.temporal_transformer.proj_out.weight)
    nn.init.zeros_(module.temporal_transformer.proj_out.bias)
    assert module.temporal_transformer.proj_in.out_features == 16
    assert torch.equal(module(drawn(1, 12, 32), (3, 2, 2)), drawn(1, 12, 32))


def test_numbers_of_frames_are_those_of_the_paper():
    table = FramePositions(8, 5).pe[0].double()
    for t in range(5):
        for i in range(4):
            angle = torch.tensor(t / 10000 ** (2 * i / 8), dtype=torch.float64)
            assert abs(table[t, 2 * i] - angle.sin()) < 1e-6
            assert abs(table[t, 2 * i + 1] - angle.cos()) < 1e-6


def test_the_resampler_offers_no_adapter_its_fused_maps():
    linears = [name for name, module in Resampler(4, 24, 2, 20).named_modules() if isinstance(module, nn.Linear)]
    assert linears == ["kv_proj"]


def test_patches_must_be_a_square():
    with pytest.raises(WeightsError, match="no square"):
        Resampler(4, 24, 2, 24)(drawn(1, 10, 24))


# Settings


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        (PixArtSettings, {"norm_type": "layer_norm"}, "ada_norm_single"),
        (PixArtSettings, {"patch_3d": True}, "False"),
        (PixArtSettings, {"casual_3d": True}, "casual_3d"),
        (PixArtSettings, {"basic_block_type": "kvcompression_motionmodule"}, "global_motionmodule"),
        (PixArtSettings, {"motion_module_type": "Sparse"}, "VanillaGrid"),
        (PixArtSettings, {"attention_type": "gated"}, "default"),
        (PixArtSettings, {"enable_uvit": True, "num_layers": 29}, "up to 28"),
        (PixArtSettings, {"sample_size": 128}, "divides by 3"),
        (PixArtSettings, {"attention_head_dim": 24}, "divides by 32"),
        (PixArtSettings, {"motion_module_kwargs": None}, "motion_module_kwargs"),
        (PixArtSettings, {"basic_block_type": "global_motionmodule"}, "motion_module_kwargs_odd"),
        (PixArtSettings, {"sample_size": None}, "sample_size"),
        (PixArtSettings, {"in_channels": 12, "n_query": 16}, "n_query"),
        (HunyuanSettings, {"num_layers": 5}, "even"),
        (HunyuanSettings, {"hidden_size": 48}, "32"),
        (HunyuanSettings, {"basic_block_type": "hybrid_attention"}, "basic"),
        (HunyuanSettings, {"time_position_encoding_type": "3d_rope"}, "2d_rope"),
        (HunyuanSettings, {"in_channels": 12, "n_query": 10}, "square"),
        (HunyuanSettings, {"in_channels": 12, "cross_attention_dim": 25}, "num_attention_heads"),
        (HunyuanSettings, {"cross_attention_dim_t5": 20}, "multiple of 8"),
        (HunyuanSettings, {"num_layer": 4}, "num_layers"),
        (MotionSettings, {"global_attention": True}, "global_attention"),
        (MotionSettings, {"attention_block_types": ["Temporal_Cross"]}, "Temporal_Self"),
        (MotionSettings, {"remove_time_embedding": True}, "remove_time_embedding_in_photo"),
    ],
)
def test_what_is_not_built_is_told(kind, change, told):
    base = {PixArtSettings: SECOND, HunyuanSettings: FOURTH, MotionSettings: TEMPORAL}[kind]
    with pytest.raises(WeightsError, match=told):
        read_settings(kind, {**base, **change}, of="net")


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(WeightsError) as told:
        read_settings(PixArtSettings, {**SECOND, "patch_3d": True, "norm_type": "ada_norm", "colour": 1}, of="net")
    assert len(told.value.problems) == 3


def test_settings_may_be_as_published_files_hold_them():
    settings = read_settings(PixArtSettings, {"_class_name": "Transformer3DModel", **SECOND}, of="net")
    assert settings.num_attention_heads == 2
    with pytest.raises(WeightsError, match="motion module"):
        second(motion_module_kwargs={**TEMPORAL, "global_attention": True})


def test_channels_follow_learned_variance():
    assert read_settings(HunyuanSettings, {**FOURTH, "out_channels": None}, of="net").channels_out == 8
    without = read_settings(HunyuanSettings, {**FOURTH, "out_channels": None, "learn_sigma": False}, of="net")
    assert (without.channels_out, without.takes_clip) == (4, False)
    inpaint = read_settings(HunyuanSettings, {**FOURTH, "in_channels": 12}, of="net")
    assert inpaint.takes_clip
    assert not read_settings(
        HunyuanSettings, {**FOURTH, "in_channels": 12, "enable_clip_in_inpaint": False}, of="n"
    ).takes_clip


@pytest.mark.parametrize(("height", "width"), [(4, 6), (6, 4), (32, 32), (1, 9), (45, 80)])
def test_rotary_tables_fit_the_frame_into_the_square(height, width):
    cos, sin = hunyuan.rotary_tables(height, width, 8)
    assert cos.shape == sin.shape == (height * width, 8)
    longest = max(height, width)
    fitted = round(32 / longest * height), round(32 / longest * width)
    for row, column in ((0, 0), (height - 1, width - 1)):
        places = [
            round((32 - side) / 2) + side * index / number
            for side, index, number in zip(fitted, (row, column), (height, width), strict=True)
        ]
        turns = [places[1], places[1], places[1] / 100, places[1] / 100, places[0], places[0]]
        turns += [places[0] / 100, places[0] / 100]
        wanted = torch.tensor(turns, dtype=torch.float64)
        torch.testing.assert_close(cos[row * width + column], wanted.cos().float())
        torch.testing.assert_close(sin[row * width + column], wanted.sin().float())
