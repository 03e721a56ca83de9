"""EasyAnimate's autoencoders: ways through time, configs, tiles, the tower. Golden numbers: golden_easyanimate_vae."""

import json
import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLMagvit
from safetensors.torch import save_file

from cinelora.base.errors import WeightsError
from cinelora.base.seeds import torch_rng
from cinelora.contracts.card import Variant
from cinelora.contracts.flow import Bucket, Clip
from cinelora.contracts.geometry import Geometry
from cinelora.contracts.roles import Tower
from cinelora.families.easyanimate.vae import Autoencoder, EasyAnimateVae, build_autoencoder, diffusers_has
from cinelora.families.easyanimate.vae_blocks import Attention, Edges, TimeConv
from cinelora.families.easyanimate.vae_config import FRAMES, WAYS, MagvitConfig, listed
from cinelora.families.easyanimate.vae_net import Magvit
from cinelora.families.easyanimate.vae_tiles import Tiles
from cinelora.nets.weights import Base

SMALL = {"block_out_channels": [4, 8, 8, 8], "norm_num_groups": 4, "layers_per_block": 2, "scaling_factor": 0.5}
GROUPS = {
    "cache_mag_vae": {"mini_batch_encoder": 4, "mini_batch_decoder": 1, "spatial_group_norm": True},
    "cache_compression_vae": {"mini_batch_encoder": 8, "mini_batch_decoder": 2},
    "slice_compression_vae": {"mini_batch_encoder": 8, "mini_batch_decoder": 2},
    "slice_mag_vae": {"mini_batch_encoder": 9, "mini_batch_decoder": 3},
}
SHAPES = {
    "cache_mag_vae": (13, 4),
    "cache_compression_vae": (24, 6),
    "slice_compression_vae": (24, 6),
    "slice_mag_vae": (27, 9),
}


def settings(way: str, **changes) -> dict:
    attention = {"mid_block_use_attention": way != "cache_mag_vae"}
    return {**SMALL, **attention, **dict.fromkeys(WAYS, False), way: True, **GROUPS[way], **changes}


def config_of(way: str, **changes) -> MagvitConfig:
    return MagvitConfig(**settings(way, **changes))


def drawn(net: torch.nn.Module, dtype=torch.float32) -> torch.nn.Module:
    """The network with weights that are large enough for everything to matter."""
    rng = torch_rng("weights")
    net = net.to_empty(device="cpu") if next(net.parameters()).is_meta else net
    with torch.no_grad():
        for weight in net.parameters():
            wide = weight[0].numel() ** 0.5 if weight.ndim > 1 else 5
            weight.copy_(torch.randn(weight.shape, generator=rng) / wide + (1 if weight.ndim == 1 else 0))
    return net.to(dtype).eval()


def small(way: str, **changes) -> Autoencoder:
    config = config_of(way, **changes)
    return Autoencoder(drawn(build_autoencoder(config)), config)


def pixels(frames: int, height: int = 16, width: int = 24, count: int = 1) -> torch.Tensor:
    return torch.rand((count, 3, frames, height, width), generator=torch_rng("pixels")) * 2 - 1


def latents(frames: int) -> torch.Tensor:
    return torch.randn((1, 4, frames, 2, 3), generator=torch_rng("latents"))


def touched(run, x: torch.Tensor, place: int) -> list[int]:
    """The frames of what `run` makes that another frame `place` of x changes."""
    other = x.clone()
    other[:, :, place] += 1
    with torch.no_grad():
        moved = (run(x) - run(other)).abs().amax((0, 1, 3, 4))
    return (moved > 1e-6).nonzero().flatten().tolist()


@pytest.mark.parametrize("way", WAYS)
def test_shapes_are_those_of_the_geometry(way):
    frames, length = SHAPES[way]
    autoencoder = small(way)
    geometry = Geometry(8, frames, 16, 32, latent_channels=4, **FRAMES[way])
    for count, wanted in ((frames, length), (1, 1)):
        with torch.no_grad():
            mean, logvar = autoencoder.encode(pixels(count))
            made = autoencoder.decode(mean)
        assert geometry.fits_frames(count)
        assert mean[0].shape == logvar[0].shape == geometry.latent_shape(Bucket(count, 16, 24)) == (4, wanted, 2, 3)
        assert made.shape == (1, 3, count, 16, 24)
        assert made.isfinite().all()


def test_the_published_v5_is_diffusers_and_our_own_says_the_same():
    config = config_of("cache_mag_vae")
    net = build_autoencoder(config)
    assert isinstance(net, AutoencoderKLMagvit)
    theirs, ours = Autoencoder(drawn(net), config), Autoencoder(Magvit(config), config)
    ours.net.load_state_dict(theirs.net.state_dict())
    with torch.no_grad():
        for one, other in zip(theirs.encode(pixels(13, count=2)), ours.encode(pixels(13, count=2)), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(theirs.decode(latents(4)), ours.decode(latents(4)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"mid_block_use_attention": True}, {"spatial_group_norm": False}, {"mini_batch_encoder": 8}]
)
def test_what_diffusers_has_no_words_for_is_ours(changes):
    autoencoder = small("cache_mag_vae", **changes)
    assert not diffusers_has(autoencoder.config)
    assert isinstance(autoencoder.net, Magvit)
    with torch.no_grad():
        assert autoencoder.encode(pixels(9))[0].shape == (1, 4, 3, 2, 3)
        assert autoencoder.decode(latents(3)).shape == (1, 3, 9, 16, 24)


def test_memory_makes_one_pass_of_many():
    """Over the remembered past, a convolution in pieces is the convolution of the whole."""
    for stride, first in ((1, 3), (2, 1)):
        conv, x = TimeConv(2, 2, stride=(stride, 1, 1)), torch.randn(1, 2, 9, 4, 4)
        edges = Edges("past")
        pieces = [conv(piece, edges) for piece in (x[:, :, :first], *x[:, :, first:].split(2, 2))]
        torch.testing.assert_close(torch.cat(pieces, 2), conv(x, Edges("first")), rtol=1e-5, atol=1e-6)


def test_v5_and_v4_remember_and_never_look_ahead():
    mag, compression = small("cache_mag_vae"), small("cache_compression_vae")
    assert touched(lambda x: mag.encode(x)[0], pixels(13), 5) == [2, 3]
    assert touched(mag.decode, latents(4), 2) == list(range(5, 13))
    assert touched(compression.decode, latents(6), 2) == list(range(8, 24))
    assert touched(lambda x: compression.encode(x)[0], pixels(24), 9) == [2, 3]


def test_v3_looks_at_both_neighbours_and_v2_at_none():
    sliced, mag = small("slice_compression_vae"), small("slice_mag_vae")
    assert touched(lambda x: sliced.encode(x)[0], pixels(24), 9) == [2, 3]
    assert touched(sliced.decode, latents(8), 2) == list(range(24))
    assert touched(sliced.decode, latents(8), 0) == list(range(16))
    assert touched(sliced.decode, latents(8), 7) == list(range(16, 32))
    assert touched(lambda x: mag.encode(x)[0], pixels(27), 9) == [3, 4, 5]
    assert touched(mag.decode, latents(9), 3) == list(range(9, 18))


@pytest.mark.parametrize("way", ["cache_compression_vae", "slice_compression_vae"])
def test_of_an_odd_number_the_first_frame_is_apart(way):
    autoencoder, clip = small(way), pixels(9)
    with torch.no_grad():
        whole, first = autoencoder.encode(clip)[0], autoencoder.encode(clip[:, :, :1])[0]
        rest = autoencoder.encode(clip[:, :, 1:])[0]
    torch.testing.assert_close(whole, torch.cat([first, rest], 2))


def test_a_step_up_leaves_the_first_frame_of_a_group_alone():
    ahead, rest = Edges("first", "rest").split(latents(3))
    assert (ahead.shape[2], rest.shape[2]) == (1, 2)
    assert Edges("zeros", "none").split(latents(3))[1].shape[2] == 0
    assert Edges("zeros").split(latents(3))[0].shape[2] == 0


@pytest.mark.parametrize("over", ["3d", "spatial", "temporal"])
def test_attention_reaches_what_it_goes_over(over):
    attention = drawn(Attention(8, heads=2, groups=4, over=over))
    x = torch.randn(2, 8, 3, 2, 4, generator=torch_rng("x"))
    other = x.clone()
    other[0, :, 1, 0, 2] += 1
    with torch.no_grad():
        moved = (attention(x) - attention(other)).abs().amax(1) > 1e-6
    wanted = torch.zeros(2, 3, 2, 4, dtype=torch.bool)
    if over == "3d":
        wanted[0] = True
    elif over == "spatial":
        wanted[0, 1] = True
    else:
        wanted[0, :, 0, 2] = True
    assert torch.equal(moved, wanted)


@pytest.mark.parametrize("kind", ["3d", "spatial", "temporal", "spatial_temporal"])
def test_every_attention_of_the_middle_computes(kind):
    changes = {"mid_block_attention_type": kind, "mid_block_num_attention_heads": 2, "layers_per_block": 3}
    autoencoder = small("slice_mag_vae", **changes)
    key = "encoder.mid_block.attentions.1.1.to_q.weight" if kind == "spatial_temporal" else (
        "encoder.mid_block.attentions.1.to_q.weight"
    )  # fmt: skip
    assert key in autoencoder.net.state_dict()
    with torch.no_grad():
        assert autoencoder.encode(pixels(9))[0].isfinite().all()


def test_clips_of_a_batch_do_not_mix():
    for way in WAYS:
        autoencoder = small(way)
        both = pixels(SHAPES[way][0], count=2)
        with torch.no_grad():
            together = autoencoder.encode(both)[0]
            alone = torch.cat([autoencoder.encode(one[None])[0] for one in both])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_lists_of_a_config_are_read_as_text_and_never_run():
    assert listed("('a', 'b')") == ("a", "b")
    assert listed("[1, 2]") == listed([1, 2]) == (1, 2)
    for text in ("__import__('os').getpid()", "[1,", "7", "{'a': 1}", 7):
        with pytest.raises(ValueError, match=r"not a list|malformed"):
            listed(text)
    with pytest.raises(WeightsError) as raised:
        MagvitConfig(down_block_types="print('hello')").check("config.json")
    assert raised.value.problems[0].what == "down_block_types should be a list"
    assert raised.value.problems[0].where == "config.json"


def test_a_config_that_cannot_be_built_is_refused_with_all_its_reasons():
    config = config_of(
        "slice_mag_vae",
        down_block_types=["SpatialDownBlock3D", "SpatialAttnDownBlock3D", "SpatialDownBlock3D"],
        use_gc_blocks=[False, True, False, False],
        mid_block_type="MidBlock2D",
        mid_block_attention_type="4d",
        act_fn="sine",
        mid_block_num_attention_heads=3,
        norm_num_groups=3,
        mini_batch_decoder=0,
    )
    with pytest.raises(WeightsError) as raised:
        build_autoencoder(config)
    words = " / ".join(problem.what for problem in raised.value.problems)
    for name in (
        *("down_block_types names", "down_block_types has another number", "use_gc_blocks", "mid_block_type"),
        *("mid_block_attention_type", "act_fn", "num_attention_heads", "norm_num_groups", "mini_batch_decoder"),
    ):
        assert name in words


def test_the_first_of_several_ways_counts_and_widths_come_from_either_name():
    assert MagvitConfig().way == "slice_mag_vae"
    assert MagvitConfig(cache_compression_vae=True).way == "cache_compression_vae"
    assert MagvitConfig(slice_mag_vae=False).way == "whole"
    assert MagvitConfig().widths == (128, 256, 512, 512)
    assert MagvitConfig(ch=8, ch_mult="[1, 2]").widths == (8, 16)
    assert MagvitConfig(block_out_channels="(4, 8)", ch=1).widths == (4, 8)


def test_all_at_once_where_no_way_is_named():
    config = MagvitConfig(**{**SMALL, "slice_mag_vae": False})
    autoencoder = Autoencoder(drawn(build_autoencoder(config)), config)
    sliced = MagvitConfig(**{**SMALL, "mini_batch_encoder": 17, "mini_batch_decoder": 5})
    with torch.no_grad():
        mean, _ = autoencoder.encode(pixels(17))
        assert mean.shape == (1, 4, 5, 2, 3)
        assert torch.equal(mean, Autoencoder(autoencoder.net, sliced).encode(pixels(17))[0])
        assert autoencoder.decode(mean).shape == (1, 3, 17, 16, 24)


def test_tiles_of_what_is_the_same_everywhere_make_the_whole():
    tiles = Tiles(pixels=32, latents=4, overlap=0.25)
    clip = pixels(2, 72, 104)
    found = tiles.encode(clip, lambda x: torch.nn.functional.avg_pool3d(x, (1, 8, 8)))
    torch.testing.assert_close(found, torch.nn.functional.avg_pool3d(clip, (1, 8, 8)))
    back = tiles.decode(found, lambda x: torch.nn.functional.interpolate(x, scale_factor=(1, 8, 8)))
    torch.testing.assert_close(back, torch.nn.functional.interpolate(found, scale_factor=(1, 8, 8)))


def counting():
    """A pass that adds the number of the tile, so that each tile's share in the result can be seen."""
    numbers = iter(range(1, 100))
    return lambda x: x + next(numbers)


def slowly(tall: int, wide: int, side: int, faded: int) -> list[list[float]]:
    """What `counting` makes of zeros, cell by cell: first faded downwards, then to the right."""
    step, tiles, number = side - faded, {}, 0
    for top in range(0, tall, step):
        for left in range(0, wide, step):
            number += 1
            rows, columns = min(side, tall - top), min(side, wide - left)
            tile = [[float(number)] * columns for _ in range(rows)]
            above, before = tiles.get((top - step, left)), tiles.get((top, left - step))
            for k in range(min(faded, rows, len(above)) if above else 0):
                count = min(faded, rows, len(above))
                tile[k] = [
                    up * (1 - k / count) + down * k / count
                    for up, down in zip(above[len(above) - count + k], tile[k], strict=True)
                ]
            for row, left_row in zip(tile, before or [], strict=False):
                count = min(faded, columns, len(left_row))
                for k in range(count):
                    row[k] = left_row[len(left_row) - count + k] * (1 - k / count) + row[k] * k / count
            tiles[top, left] = tile
    return [[tiles[y // step * step, x // step * step][y % step][x % step] for x in range(wide)] for y in range(tall)]


@pytest.mark.parametrize(("tall", "wide"), [(8, 12), (14, 9), (22, 30)])
def test_tiles_are_faded_down_and_then_to_the_right(tall, wide):
    tiles, zeros = Tiles(pixels=8, latents=8, overlap=0.25), torch.zeros(1, 1, 1, tall, wide)
    wanted = torch.tensor(slowly(tall, wide, 8, 2))
    torch.testing.assert_close(tiles.encode(zeros, counting())[0, 0, 0], wanted)
    decoded = tiles.decode(zeros, counting())[0, 0, 0]
    corner = -(-tall // 6) * -(-wide // 6) + 1
    for y, x in ((0, 0), (tall - 9, wide - 9), (tall - 1, wide - 1), (tall - 8, wide - 1), (tall - 3, wide - 2)):
        if min(y, x) < 0:
            continue
        share = max(0, min(y - max(0, tall - 8), x - (wide - 8))) / 7
        assert float(decoded[y, x]) == pytest.approx(share * corner + (1 - share) * float(wanted[y, x]), rel=1e-5)


def test_small_pictures_go_in_one_piece():
    tiles, seen = Tiles(pixels=32, latents=4, overlap=0.25), []

    def one(x):
        seen.append(x.shape)
        return x

    tiles.encode(torch.zeros(1, 3, 1, 32, 32), one)
    tiles.decode(torch.zeros(1, 4, 1, 4, 4), one)
    assert seen == [(1, 3, 1, 32, 32), (1, 4, 1, 4, 4)]


@pytest.mark.parametrize("way", WAYS)
def test_tiling_is_asked_for_by_config_or_tower(way):
    frames = {"cache_mag_vae": 5, "slice_mag_vae": 9}.get(way, 8)
    autoencoder = small(way, tile_sample_min_size=32)
    clip = pixels(frames, 48, 40)
    tiled = {name: replace(autoencoder.config, **{name: True}) for name in ("use_tiling_encoder", "use_tiling_decoder")}
    with torch.no_grad():
        whole, in_tiles = autoencoder.encode(clip)[0], Autoencoder(autoencoder.net, autoencoder.config, tiling=True)
        mean = in_tiles.encode(clip)[0]
        assert mean.shape == whole.shape
        assert not torch.equal(mean, whole)
        assert torch.equal(Autoencoder(autoencoder.net, tiled["use_tiling_encoder"]).encode(clip)[0], mean)
        assert torch.equal(Autoencoder(autoencoder.net, tiled["use_tiling_decoder"]).encode(clip)[0], whole)
        made = in_tiles.decode(whole)
        assert made.shape == clip.shape
        assert torch.equal(Autoencoder(autoencoder.net, tiled["use_tiling_decoder"]).decode(whole), made)


def test_borders_of_groups_are_evened_out_by_a_second_look():
    autoencoder = small("slice_compression_vae")
    seen = []

    def encode(clip):
        seen.append(clip)
        return clip + 2, None

    autoencoder.encode, autoencoder.decode = encode, lambda latents: latents
    clip = pixels(24)
    found = autoencoder.smoothed(clip)
    assert torch.equal(seen[0], clip[:, :, 4:20])
    torch.testing.assert_close(found - clip, torch.zeros_like(clip).index_fill(2, torch.arange(4, 20), 1.0))
    assert autoencoder.smoothed(clip[:, :, :8]) is not None
    assert len(seen) == 1


def tower_of(folder, way: str, *, stated: dict | None = None, network: dict | None = None) -> EasyAnimateVae:
    """A base on disk with an autoencoder, one key of a discriminator in its file."""
    told = stated or settings(way)
    net = drawn(build_autoencoder(MagvitConfig(**settings(way))))
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKLMagvit", **told}))
    weights = {**net.state_dict(), "loss.discriminator.weight": torch.ones(2), "loss.logvar": torch.ones(1)}
    save_file(weights, folder / "vae" / "diffusion_pytorch_model.safetensors")
    geometry = Geometry(8, SHAPES[way][0], 16, 32, latent_channels=4, **FRAMES[way])
    return EasyAnimateVae(
        Base(str(folder)), Variant("tiny", "tiny", "", geometry, {}, network={"vae": network or {}}), "fp32"
    )


def clip_of(frames: int) -> Clip:
    return Clip(SimpleNamespace(), pixels(frames)[0], "", 8.0)


@pytest.mark.parametrize("way", WAYS)
def test_the_tower_scales_decodes_and_tells_of_the_discriminator(way, tmp_path, caplog):
    tower, frames = tower_of(tmp_path, way), SHAPES[way][0]
    assert isinstance(tower, Tower)
    with caplog.at_level(logging.INFO, "cinelora"):
        found = tower.encode([clip_of(frames)])[0]
    assert "2 weights of a discriminator" in caplog.text
    net = tower.net
    with torch.no_grad():
        mean, logvar = Autoencoder(net, tower.config).encode(pixels(frames))
    torch.testing.assert_close(found["mean"], mean[0] / 2)
    torch.testing.assert_close(torch.exp(found["logvar"] / 2), torch.exp(logvar[0] / 2) / 2)
    made = tower.decode(torch.stack([found["mean"]] * 2))
    assert made.shape == (2, 3, frames, 16, 24)
    assert made.abs().max() <= 1
    with torch.no_grad():
        raw = Autoencoder(net, tower.config).decode(mean).clamp(-1, 1)
    middle = SHAPES[way][0] // 2
    assert torch.allclose(made[:1, :, :2], raw[:, :, :2], atol=1e-5)
    assert torch.allclose(made[:1, :, middle], raw[:, :, middle], atol=1e-5) is not tower.config.smooth
    tower.unload()
    assert tower.net is None


def test_fingerprints_follow_weights_format_tiling_and_config(tmp_path):
    towers = [tower_of(tmp_path / name, "slice_mag_vae", network=more) for name, more in (("a", {}), ("b", {"ch": 64}))]
    first = towers[0].fingerprint()
    assert tower_of(tmp_path / "c", "slice_mag_vae").fingerprint() == first
    assert towers[1].fingerprint() != first
    towers[0].tiling = True
    assert towers[0].fingerprint() != first
    towers[0].tiling, towers[0].dtype = False, "bf16"
    assert towers[0].fingerprint() != first
    told = settings("slice_mag_vae", scaling_factor=0.4)
    assert tower_of(tmp_path / "d", "slice_mag_vae", stated=told).fingerprint() != first


def test_bf16_is_near(tmp_path):
    tower = tower_of(tmp_path, "cache_compression_vae")
    exact = tower.encode([clip_of(24)])[0]["mean"]
    tower.unload()
    tower.dtype = "bf16"
    found = tower.encode([clip_of(24)])[0]["mean"]
    assert found.dtype == torch.float32
    assert (found - exact).norm() < 0.1 * exact.norm()
    assert tower.decode(found[None]).dtype == torch.float32


def test_a_base_of_another_size_is_refused(tmp_path):
    told = settings("slice_mag_vae", scaling_factor=0.4)
    tower = tower_of(tmp_path, "slice_mag_vae", stated=told, network={"scaling_factor": 0.7125})
    with pytest.raises(WeightsError, match="is not.* tiny") as caught:
        tower.load("cpu")
    assert "scaling_factor 0.4" in str(caught.value)


def test_of_the_way_the_variants_word_stands(tmp_path):
    told = settings("slice_compression_vae")
    stated = {**told, "slice_compression_vae": False, "slice_mag_vae": True, "mini_batch_encoder": 9}
    ways = {name: told[name] for name in ("slice_compression_vae", "mini_batch_encoder", "mini_batch_decoder")}
    tower = tower_of(tmp_path, "slice_compression_vae", stated=stated, network=ways)
    assert tower.config.way == "slice_compression_vae"
    assert tower.config.mini_batch_encoder == told["mini_batch_encoder"]


def test_an_autoencoder_without_attention_does_not_fill_one_with(tmp_path):
    told = settings("slice_mag_vae", mid_block_use_attention=False)
    tower = tower_of(tmp_path, "slice_mag_vae", stated=told)
    with pytest.raises(WeightsError, match="has no place for"):
        tower.load("cpu")


def test_a_diffusers_config_needs_the_way_from_the_variant(tmp_path):
    told = {name: settings("cache_mag_vae")[name] for name in (*SMALL, "spatial_group_norm")}
    ways = {"cache_mag_vae": True, "mid_block_use_attention": False, "mini_batch_encoder": 4, "mini_batch_decoder": 1}
    tower = tower_of(tmp_path, "cache_mag_vae", stated=told, network=ways)
    assert tower.encode([clip_of(13)])[0]["mean"].shape == (4, 4, 2, 3)
    assert isinstance(tower.net, AutoencoderKLMagvit)


def test_a_random_base_needs_no_files():
    variant = Variant(
        "tiny", "tiny", "", Geometry(8, 8, 16, 32), {}, network={"vae": settings("slice_compression_vae")}
    )
    tower = EasyAnimateVae(Base("random"), variant, "fp32")
    assert tower.encode([clip_of(8)])[0]["mean"].shape == (4, 2, 2, 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scaling_factor", "x"),
        ("scaling_factor", 0),
        ("scaling_factor", float("nan")),
        ("layers_per_block", "two"),
        ("use_tiling", "yes"),
        ("act_fn", ["silu"]),
        ("block_out_channels", ["4", "8", "8", "8"]),
        ("block_out_channels", [4, 8, 8, 0]),
    ],
)
def test_values_of_another_kind_are_told(name, value):
    with pytest.raises(WeightsError, match=name):
        build_autoencoder(config_of("slice_mag_vae", **{name: value}))
