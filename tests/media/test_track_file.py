"""Files of tracks: what they may say, and everything that is told of those that are wrong."""

import json

import numpy as np
import pytest

from cinelora.base.errors import DataError
from cinelora.media.track_file import TrackFile, read_tracks, write_tracks

POINTS = np.arange(24, dtype=float).reshape(4, 3, 2)
SEEN = np.array([[True, False, True]] * 4)


def npz(path, **values):
    np.savez(path, **values)
    return path


def refused(path):
    with pytest.raises(DataError) as caught:
        read_tracks(path)
    return "\n".join(map(str, caught.value.problems))


def test_what_is_written_is_read(tmp_path):
    made = TrackFile(POINTS, SEEN, size=(96.0, 64.0), frames=np.array([0, 2, 5, 9]))
    write_tracks(tmp_path / "a.npz", made)
    found = read_tracks(tmp_path / "a.npz")
    assert np.array_equal(found.points[SEEN], POINTS[SEEN])
    assert np.array_equal(found.visible, SEEN)
    assert (found.size, found.normalised, found.fps) == ((96.0, 64.0), False, None)
    assert found.frames.tolist() == [0, 2, 5, 9]


@pytest.mark.parametrize("shape", [(4, 3), (1, 4, 3), (1, 4, 3, 1), (4, 3, 1)])
def test_cotrackers_own_names_and_axes_are_understood(tmp_path, shape):
    found = read_tracks(npz(tmp_path / "a.npz", pred_tracks=POINTS[None], pred_visibility=SEEN.reshape(shape)))
    assert found.points.shape == (4, 3, 2)
    assert np.array_equal(found.visible, SEEN)


def test_json_and_shares_of_visibility(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"tracks": POINTS.tolist(), "visibility": [[0.95, 0.89, 1]] * 4, "fps": 12}))
    found = read_tracks(path)
    assert np.array_equal(found.visible, SEEN)
    assert found.fps == 12


def test_left_out_visibility_means_all_that_have_a_place(tmp_path):
    points = POINTS.copy()
    points[2, 1] = np.nan
    found = read_tracks(npz(tmp_path / "a.npz", tracks=points))
    assert found.visible.sum() == 11
    assert np.isfinite(found.points).all()


def test_a_changed_file_is_read_again(tmp_path):
    path = npz(tmp_path / "a.npz", tracks=POINTS)
    assert read_tracks(path) is read_tracks(path)
    npz(path, tracks=POINTS[:2])
    assert len(read_tracks(path).points) == 2


def test_points_become_pixels_of_the_clip():
    corner = np.array([[[-0.5, -0.5], [95.5, 63.5], [47.5, 31.5]]])
    seen = np.ones((1, 3), bool)
    assert TrackFile(corner, seen).in_pixels(960, 640) is corner
    found = TrackFile(corner, seen, size=(96, 64)).in_pixels(960, 640)
    np.testing.assert_allclose(found, [[[-0.5, -0.5], [959.5, 639.5], [479.5, 319.5]]])
    shares = TrackFile(np.array([[[0.0, 0], [1, 1], [0.5, 0.5]]]), seen, normalised=True)
    np.testing.assert_allclose(shares.in_pixels(960, 640), found)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tracks": POINTS[0]}, "T N 2"),
        ({"tracks": POINTS[:0]}, "T N 2"),
        ({"tracks": POINTS, "visible": SEEN[:2]}, "visible is wanted"),
        ({"tracks": POINTS, "visible": SEEN * 3.0}, "visible is wanted"),
        ({"tracks": POINTS * np.nan, "visible": SEEN}, "not finite"),
        ({"tracks": POINTS, "size": [0, 5]}, "size is"),
        ({"tracks": POINTS, "size": [4, 5], "normalised": True}, "exclude each other"),
        ({"tracks": POINTS, "normalised": "false"}, "true or false"),
        ({"tracks": POINTS, "normalised": 2}, "true or false"),
        ({"tracks": POINTS, "frames": [0, 1, 1, 2]}, "increasing whole numbers"),
        ({"tracks": POINTS, "frames": [0, 1, 2.5, 3]}, "increasing whole numbers"),
        ({"tracks": POINTS, "frames": [0, 1]}, "increasing whole numbers"),
        ({"tracks": POINTS, "frames": [-1, 1, 2, 3]}, "increasing whole numbers"),
        ({"tracks": POINTS, "fps": -1}, "fps is a number above 0"),
        ({"tracks": POINTS, "fps": [1, 2]}, "fps is a number above 0"),
        ({"tracks": POINTS, "fps": 8, "frames": [0, 1, 2, 3]}, "exclude each other"),
        ({"tracks": POINTS, "pred_tracks": POINTS}, "twice"),
        ({"visible": SEEN}, "no tracks in it"),
        ({"tracks": POINTS, "visable": SEEN}, "nearest: visible"),
    ],
)
def test_wrong_values_are_told(tmp_path, values, said):
    assert said in refused(npz(tmp_path / "a.npz", **values))


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    told = refused(npz(tmp_path / "a.npz", tracks=POINTS, size=[1], fps=0, visible=SEEN[:1]))
    assert all(word in told for word in ("size is", "fps is", "visible is"))


def test_files_that_are_none(tmp_path):
    torn = npz(tmp_path / "torn.npz", tracks=POINTS)
    torn.write_bytes(torn.read_bytes()[:200])
    pickled = tmp_path / "objects.npz"
    np.savez(pickled, tracks=np.array([{}], dtype=object))
    np.save(tmp_path / "single.npy", POINTS)
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    for name, text in (("list.json", "[1]"), ("torn.json", "{"), ("text.npz", "no archive"), ("empty.npz", "")):
        (tmp_path / name).write_text(text)
    (tmp_path / "ragged.json").write_text('{"tracks": [[[1, 2]], [[1]]]}')
    for path in sorted(tmp_path.iterdir()):
        assert "the file of tracks" in refused(path) or "the tracks cannot be used" in refused(path), path
    assert "cannot be read" in refused(tmp_path / "missing.npz")
