"""`interpolate`: a folder of pairs becomes videos, with tracks, SIFT and adapters; what cannot be is told before."""

import json
import math

import framer_bases
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import load_file, save_file

from cinelora.base.errors import DataError, RecipeError, RunError, WeightsError
from cinelora.base.seeds import torch_rng
from cinelora.commands.interpolate import InterpolateWishes, interpolate
from cinelora.families.framer.card import CARD, TINY_TRACKS
from cinelora.families.framer.interpolate import Interpolator
from cinelora.families.framer.opening import open_denoiser
from cinelora.lora.inject import inject
from cinelora.lora.options import LoraOptions
from cinelora.lora.peft_folder import write_peft_folder
from cinelora.media.decode import frames_at
from cinelora.media.probe import probe
from cinelora.media.track_file import read_tracks
from cinelora.nets.trajectories import through

SMALL = {"frames": 4, "num_steps": 2}
CONTROL = [[[20.0, 20.0], [70.0, 40.0]], [[40.0, 25.0], [65.0, 45.0]], [[50.0, 60.0], [80.0, 44.0]]]


@pytest.fixture
def pairs(tmp_path):
    """Two pairs of a texture that moves, 120 x 80, with control points beside each."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (30, 40, 3)).astype(np.uint8)
    wide = np.asarray(
        Image.fromarray(coarse).resize((240, 180), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(1))
    )
    folder = tmp_path / "pairs"
    folder.mkdir()
    for name in ("a", "b"):
        Image.fromarray(wide[20:100, 30:150]).save(folder / f"{name}_start.png")
        Image.fromarray(wide[28:108, 42:162]).save(folder / f"{name}_end.jpg")
        (folder / f"{name}_tracks.json").write_text(json.dumps({"tracks": CONTROL}))
    return folder


@pytest.fixture(scope="module")
def framer_base(tmp_path_factory):
    """A base of Framer's variants "tiny" and "tiny-tracks", with random weights."""
    return framer_bases.write_base(tmp_path_factory.mktemp("framer-tiny"), dict(TINY_TRACKS.network))


def run(pairs, out="out", **wishes):
    how = {**SMALL, **wishes.pop("how", {})}
    out = pairs.parent / out
    interpolate(pairs, out=out, wishes=InterpolateWishes(**{"model": "framer/tiny", "how": how, **wishes}))
    return out


def frames(path):
    facts = probe(path)
    return frames_at(path, facts.times, facts=facts)


def test_every_pair_becomes_a_video_of_the_asked_size(pairs):
    out = run(pairs, kind="both", how={"frames": 5, "height": 64, "width": 80, "fps": 10.0}, decode_chunk=2)
    assert sorted(path.name for path in out.iterdir()) == ["a.gif", "a.mp4", "b.gif", "b.mp4"]
    assert frames(out / "a.mp4").shape == (5, 64, 80, 3)
    assert probe(out / "a.mp4").fps == pytest.approx(10)
    with Image.open(out / "b.gif") as moving:
        assert (moving.n_frames, moving.size, moving.info["duration"]) == (5, (80, 64), 100)


def test_a_pair_does_not_depend_on_its_folder_and_seeds_differ(pairs):
    both = run(pairs, "both")
    assert np.array_equal(frames(both / "a.mp4"), frames(both / "b.mp4"))  # the same pictures and seed
    other = run(pairs, "other", seed=1)
    assert not np.array_equal(frames(other / "a.mp4"), frames(both / "a.mp4"))
    for half in pairs.glob("a_*"):
        half.unlink()
    alone = run(pairs, "alone")
    assert (alone / "b.mp4").read_bytes() == (both / "b.mp4").read_bytes()


def test_control_points_steer_and_are_kept_as_tracks(pairs):
    out = run(pairs, steer="tracks", how={"height": 80, "width": 120})
    found = read_tracks(out / "a_tracks.npz")
    assert found.size == (120, 80)
    np.testing.assert_allclose(found.points, through(np.array(CONTROL), 4), atol=1e-4)
    smaller = run(pairs, "half", steer="tracks", how={"height": 40, "width": 64}, crop="none")
    scaled = (np.array(CONTROL) + 0.5) * [64 / 120, 0.5] - 0.5
    np.testing.assert_allclose(read_tracks(smaller / "b_tracks.npz").points, through(scaled, 4), atol=1e-3)


def test_points_of_sift_steer(pairs):
    pytest.importorskip("cv2")
    out = run(pairs, steer="sift", choice="best", num_points=3, how={"height": 80, "width": 120})
    ends = read_tracks(out / "a_tracks.npz").points[[0, -1]]
    assert ends.shape == (2, 3, 2)
    np.testing.assert_allclose(ends[1] - ends[0], [[-12, -8]] * 3, atol=1)


def test_pairs_without_points_in_common_are_not_steered(pairs, caplog):
    pytest.importorskip("cv2")
    for path in pairs.glob("*.png"):
        Image.new("RGB", (120, 80)).save(path)
    out = run(pairs, steer="sift")
    assert not list(out.glob("*_tracks.npz"))
    assert "nothing steers" in caplog.text


def test_adapters_of_peft_change_the_clip_by_their_strength(pairs, tmp_path, framer_base):
    denoiser = open_denoiser(str(framer_base), TINY_TRACKS, "fp32")
    options = LoraOptions(rank=4, parts={"controlnet": "frozen"})
    adapters = inject(denoiser.parts(), options, presets=CARD.lora_presets, default_preset=CARD.default_preset, seed=0)
    for name, weight in adapters.parameters().items():
        weight.data = torch.randn(weight.shape, generator=torch_rng(name)) * 0.3
    write_peft_folder(tmp_path / "final" / "unet_lora", adapters.file(), "unet")
    base = {"base": str(framer_base)}
    plain, with_it = run(pairs, "plain", **base), run(pairs, "with", lora=tmp_path / "final", **base)
    none = run(pairs, "none", lora=tmp_path / "final" / "unet_lora", strength=0.0, **base)
    assert not np.array_equal(frames(plain / "a.mp4"), frames(with_it / "a.mp4"))
    assert (plain / "a.mp4").read_bytes() == (none / "a.mp4").read_bytes()


def test_another_controlnet_steers_otherwise(pairs, tmp_path, framer_base):
    other = framer_bases.write_base(tmp_path / "other", dict(TINY_TRACKS.network))
    (path,) = (other / "controlnet").glob("*.safetensors")
    save_file({name: tensor + 0.1 for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    base = {"base": str(framer_base), "steer": "tracks"}
    own = run(pairs, "own", **base)
    replaced = [run(pairs, f"r{k}", controlnet=place, **base) for k, place in enumerate((other, other / "controlnet"))]
    assert (replaced[0] / "a.mp4").read_bytes() == (replaced[1] / "a.mp4").read_bytes()
    assert not np.array_equal(frames(own / "a.mp4"), frames(replaced[0] / "a.mp4"))


@pytest.mark.parametrize(
    ("wishes", "error", "said"),
    [
        ({"model": "wan/tiny"}, RecipeError, "does not interpolate"),
        ({"how": {"frames": 40}}, RecipeError, "2 to 25"),
        ({"control_scale": 0.5}, RecipeError, "no effect without points"),
        ({"how": {"control_range": (0, 0.5)}}, RecipeError, "no effect without points"),
        ({"choice": "best"}, RecipeError, "choice has no effect"),
        ({"num_points": 2, "steer": "tracks"}, RecipeError, "num_points has no effect"),
        ({"strength": 0.5}, RecipeError, "without an adapter"),
        ({"lora": "nowhere"}, RunError, "no adapter here"),
        ({"lora": "folder"}, WeightsError, "no folder of an adapter"),
        ({"strength": math.nan, "lora": "folder"}, RecipeError, "strength is no number"),
        ({"seed": -1}, RecipeError, "no such seed"),
        ({"seed": 2**64}, RecipeError, "no such seed"),
        ({"how": {"fps": 0.0}}, RecipeError, "frames per second cannot be"),
        ({"how": {"fps": math.nan}}, RecipeError, "frames per second cannot be"),
        ({"how": {"guidance": (1.0, math.inf)}}, RecipeError, "guidance of the last frame cannot be"),
        ({"how": {"guidance": (math.nan, 3.0)}}, RecipeError, "guidance of the first frame cannot be"),
        ({"how": {"motion_bucket": -1.0}}, RecipeError, "motion bucket cannot be"),
        ({"how": {"noise": -0.1}}, RecipeError, "noise of this deviation"),
        ({"control_scale": math.nan, "steer": "tracks"}, RecipeError, "control scale cannot be"),
        ({"how": {"control_range": (0.0, math.nan)}, "steer": "tracks"}, RecipeError, "no part of the way"),
        ({"model": "framer/svd-xt", "steer": "tracks"}, RecipeError, "has no ControlNet"),
        ({"controlnet": "nowhere"}, RecipeError, "no effect without points"),
    ],
)
def test_what_cannot_be_is_told(pairs, wishes, error, said):
    paths = {name: pairs.parent / value for name, value in wishes.items() if name in ("lora", "controlnet")}
    (pairs.parent / "folder").mkdir()
    with pytest.raises(error, match=said):
        run(pairs, **{**wishes, **paths})


def test_a_place_that_cannot_be_written_is_told_before_anything_is_drawn(pairs, monkeypatch):
    (pairs.parent / "file").write_text("")
    monkeypatch.setattr(Interpolator, "walk", None)
    with pytest.raises(RunError, match="videos cannot be written there"):
        run(pairs, "file/out")


def test_numbers_that_run_away_are_not_written(pairs, monkeypatch):
    monkeypatch.setattr(Interpolator, "walk", lambda *given, **more: torch.full((1, 4, 4, 8, 12), math.nan))
    with pytest.raises(RunError, match="not finite"):
        run(pairs)
    assert not list((pairs.parent / "out").iterdir())


def test_all_bad_pairs_are_told_at_once(pairs):
    (pairs / "a_end.jpg").unlink()
    (pairs / "b_tracks.json").unlink()
    with pytest.raises(DataError) as caught:
        run(pairs, steer="tracks")
    assert len(caught.value.problems) == 2


def test_the_words_of_the_command_line(pairs, typed):
    code, said = typed(
        "interpolate", str(pairs), "--model", "framer/tiny", "--out", "clips", "--frames", "3", "--steps", "1",
        "--size", "64", "96", "--guidance", "1", "2", "--middle-max", "--fps", "5", "--motion", "60", "--noise", "0",
        "--steer", "tracks", "--control-scale", "0.7", "--control-range", "0", "0.5", "--as", "gif",
    )  # fmt: skip
    assert code == 0, said
    assert "videos: 2 in clips" in said
    assert sorted(path.name for path in (pairs.parent / "clips").iterdir()) == [
        "a.gif", "a_tracks.npz", "b.gif", "b_tracks.npz",
    ]  # fmt: skip
    assert typed("interpolate", str(pairs), "--steer", "dance")[0] == 2
