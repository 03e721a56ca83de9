"""What the page of a dataset draws of tracks: lines in each picture of a strip."""

import numpy as np
import pytest
from PIL import Image

from cinelora.base.errors import DataError
from cinelora.contracts.flow import Bucket, Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data.options import DataOptions
from cinelora.data.scan import scan_clips
from cinelora.data.track_lines import MOST_DRAWN, track_lines
from cinelora.media.probe import probe
from cinelora.media.track_file import TrackFile, write_tracks
from media.makers import encode, flat_frames


@pytest.fixture
def video(tmp_path):
    return encode(tmp_path / "a.mp4", flat_frames(49))


def record(tmp_path, video, points, visible=None, kind="video"):
    seen = np.ones(points.shape[:2], bool) if visible is None else visible
    write_tracks(tmp_path / "t.npz", TrackFile(points, seen))
    media = video if isinstance(video, tuple) else (video,)
    return Record("s/a", "s", kind, media, "", str(media[0]), tracks=tmp_path / "t.npz")


def moving(count, speed=0.5):
    """Points on 48 x 32 that go right, the later ones faster, each on a row of its own."""
    steps = np.arange(49.0)[:, None] * speed * np.linspace(0.1, 1, count)
    return np.stack([steps, np.broadcast_to(np.arange(count) % 32, steps.shape)], axis=2)


def test_each_line_ends_where_its_point_is_in_that_picture(tmp_path, video):
    facts = probe(video)
    found = track_lines(record(tmp_path, video, moving(1)), facts, [0.5, 1.5, 2.5])
    assert found.count == 1
    ends = [line[-1] for (line,) in found.pictures]
    frames = np.array([4, 12, 20]) * 0.05
    np.testing.assert_allclose(ends, [((x + 0.5) / 48, 0.5 / 32) for x in frames], atol=1e-3)
    (second,) = found.pictures[1]
    assert second[0] == pytest.approx(ends[0])
    assert len(second) == 4


def test_the_fastest_are_drawn_and_all_are_counted(tmp_path, video):
    found = track_lines(record(tmp_path, video, moving(30)), probe(video), [3.0])
    assert found.count == 30
    assert len(found.pictures[0]) == MOST_DRAWN
    assert {round(line[-1][1] * 32 - 0.5) for line in found.pictures[0]} == set(range(22, 30))


def test_hidden_points_have_no_line_and_gaps_are_not_bridged(tmp_path, video):
    visible = np.ones((49, 2), bool)
    visible[20:, 0] = False
    visible[14:18, 1] = False
    first, second = track_lines(record(tmp_path, video, moving(2), visible), probe(video), [1.0, 4.0]).pictures
    assert (len(first), len(second)) == (2, 1)
    assert len(second[0]) < 4


def test_a_pair_shows_the_way_in_its_second_picture(tmp_path):
    for name in ("a", "b"):
        Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(tmp_path / f"{name}.png")
    pair = tmp_path / "a.png", tmp_path / "b.png"
    made = record(tmp_path, pair, moving(1)[[0, 20, 40]], kind="pair")
    first, second = track_lines(made, probe(pair[0]), [0.0, 1.0]).pictures
    assert first[0][-1] == second[0][0]
    assert second[0][-1] == pytest.approx((2.5 / 48, 0.5 / 32), abs=1e-3)


def test_nothing_to_draw(tmp_path, video):
    assert track_lines(Record("s/a", "s", "video", (video,), "", "a"), probe(video), [0.0]) is None
    with pytest.raises(DataError):
        track_lines(record(tmp_path, video, moving(1)[:3]), probe(video), [0.0])


def test_the_scan_has_lines_or_tells_the_problem(tmp_path, video):
    geometry = Geometry(fps=8, frames=17, height=32, width=48)
    good = record(tmp_path, video, moving(3))

    def scan(one):
        slots = [Slot(one, Bucket(17, 32, 48))]
        options = DataOptions(source=[{"path": "x", "name": "s"}])
        return scan_clips([one], slots, options, geometry, keep=lambda key, image: "data:")[0]

    assert scan(good).tracks.count == 3
    assert len(scan(good).tracks.pictures) == len(scan(good).strip.times)
    bad = record(tmp_path, video, moving(3)[:5])
    assert ["not as long" in problem.what for problem in scan(bad).problems] == [True]
