"""`tracks`: files of tracks beside videos and pairs, by optical flow, CoTracker and SIFT."""

import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from cinelora.base.errors import DataError, RunError
from cinelora.commands.tracks import TrackWishes, tracks
from cinelora.contracts.flow import Bucket, Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data.clips import load_clip
from cinelora.data.options import ClipRules
from cinelora.media.track_file import read_tracks
from cinelora.nets.cotracker import FRAMES_AT_ONCE
from media.makers import encode


def texture():
    coarse = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((360, 240), Image.Resampling.BICUBIC))


def video(path, count=20):
    wide = texture()
    return encode(path, np.stack([wide[10 + k // 2 : 106 + k // 2, 20 + 2 * k : 148 + 2 * k] for k in range(count)]))


def test_tracks_of_videos_fit_their_clips(tmp_path):
    pytest.importorskip("cv2")
    path = video(tmp_path / "deep" / "a.mp4") if (tmp_path / "deep").mkdir() is None else None
    tracks(tmp_path, wishes=TrackWishes(side=8))
    record = Record("s/a", "s", "video", (path,), "", str(path), tracks=tmp_path / "deep" / "a_tracks.npz")
    geometry = Geometry(fps=8, frames=5, height=48, width=64, frames_per_latent=1, frames_offset=0)
    clip = load_clip(Slot(record, Bucket(5, 48, 64)), ClipRules(fps="source", crop="none"), geometry, seed=0)
    steps = np.diff(clip.tracks.points, axis=0)[clip.tracks.visible[1:] & clip.tracks.visible[:-1]]
    assert len(steps) > 30
    np.testing.assert_allclose(steps.mean(axis=0), [-1, -0.25], atol=0.15)


def test_what_is_there_stays_unless_asked_again(tmp_path, capsys):
    pytest.importorskip("cv2")
    video(tmp_path / "a.mp4", 4)
    (tmp_path / "a_tracks.npz").write_bytes(b"mine")
    tracks(tmp_path, wishes=TrackWishes())
    assert (tmp_path / "a_tracks.npz").read_bytes() == b"mine"
    tracks(tmp_path, wishes=TrackWishes(again=True, side=4))
    assert len(read_tracks(tmp_path / "a_tracks.npz").points) == 4


def test_pairs_are_matched_whatever_their_sizes(tmp_path):
    pytest.importorskip("cv2")
    wide = texture()
    Image.fromarray(wide[10:138, 10:202]).save(tmp_path / "a_start.png")
    Image.fromarray(wide[18:146, 22:214]).resize((384, 256), Image.Resampling.BICUBIC).save(tmp_path / "a_end.png")
    tracks(tmp_path, wishes=TrackWishes())
    found = read_tracks(tmp_path / "a_tracks.npz")
    assert found.size == (192, 128)
    assert found.points.shape[1] > 5
    np.testing.assert_allclose(np.median(found.points[1] - found.points[0], axis=0), [-12, -8], atol=0.7)


class Predictor:
    """Stands in for CoTracker: points that go right by a pixel a frame, as the real one gives them."""

    def __init__(self, checkpoint):
        self.checkpoint, self.asked = checkpoint, []

    def to(self, device):
        return self

    def eval(self):
        return self

    def __call__(self, clip, grid_size):
        self.asked.append(tuple(clip.shape))
        assert clip.dtype == torch.float32
        assert clip.max() > 100
        count, number = clip.shape[1], grid_size**2
        points = torch.zeros(1, count, number, 2)
        points[..., 0] = torch.arange(count)[None, :, None]
        points[..., 1] = torch.arange(number)[None, None]
        return points, torch.ones(1, count, number, dtype=torch.bool)


def test_cotracker_is_asked_stretch_by_stretch(tmp_path, monkeypatch):
    module = types.ModuleType("cotracker.predictor")
    module.CoTrackerPredictor = Predictor
    monkeypatch.setitem(sys.modules, "cotracker", types.ModuleType("cotracker"))
    monkeypatch.setitem(sys.modules, "cotracker.predictor", module)
    video(tmp_path / "a.mp4", FRAMES_AT_ONCE + 10)
    with pytest.raises(RunError, match="no checkpoint"):
        tracks(tmp_path, wishes=TrackWishes(by="cotracker", device="cpu"))
    (tmp_path / "model.pth").write_bytes(b"")
    tracks(tmp_path, wishes=TrackWishes(by="cotracker", checkpoint=tmp_path / "model.pth", side=3, device="cpu"))
    found = read_tracks(tmp_path / "a_tracks.npz")
    assert found.points.shape == (FRAMES_AT_ONCE + 10, 18, 2)
    assert found.visible[:FRAMES_AT_ONCE, :9].all()
    assert found.visible[FRAMES_AT_ONCE:, 9:].all()
    assert found.visible.sum() == 9 * len(found.points)
    assert found.points[FRAMES_AT_ONCE + 3, 9, 0] == 3


def test_without_the_package_it_is_told(tmp_path):
    pytest.importorskip("av")
    video(tmp_path / "a.mp4", 2)
    with pytest.raises(RunError, match="cotracker is not installed"):
        tracks(tmp_path, wishes=TrackWishes(by="cotracker", device="cpu"))


@pytest.mark.parametrize(
    ("wishes", "said"),
    [({"by": "magic"}, "no such way"), ({"suffix": ""}, "ending of their own"), ({"suffix": "/x"}, "ending of their")],
)
def test_wishes_that_cannot_be(tmp_path, wishes, said):
    video(tmp_path / "a.mp4", 2)
    with pytest.raises(DataError, match=said):
        tracks(tmp_path, wishes=TrackWishes(**wishes))


def test_folders_that_hold_nothing(tmp_path):
    with pytest.raises(DataError, match="no videos and no image pairs"):
        tracks(tmp_path, wishes=TrackWishes())
    with pytest.raises(DataError, match="no such folder"):
        tracks(tmp_path / "none", wishes=TrackWishes())


def test_broken_videos_are_told_and_the_others_made(tmp_path, typed):
    pytest.importorskip("cv2")
    video(tmp_path / "a.mp4", 4)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    code, said = typed("tracks", str(tmp_path), "--side", "4")
    assert code == 3
    assert "1 files made" in said
    assert "b.mp4" in said
    assert (tmp_path / "a_tracks.npz").exists()
