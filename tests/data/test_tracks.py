"""Tracks from files to a clip's pixels: a bright spot in the pictures must lie where its track says it does."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from cinelora.base.errors import DataError, RecipeError
from cinelora.config.load import Source, check
from cinelora.contracts.flow import Bucket, LeftOut, Record, Slot
from cinelora.contracts.geometry import Geometry
from cinelora.data.clips import load_clip, load_control, load_mask
from cinelora.data.encoding import Encoding, Live
from cinelora.data.entries import MediaHashes
from cinelora.data.facts import measure_all
from cinelora.data.options import DataOptions, SourceOptions
from cinelora.data.plan import make_plan
from cinelora.data.readers.registry import open_reader
from cinelora.data.shards import check_stream
from cinelora.data.sources import Listing
from cinelora.families.fake.encode import FakeEncoder
from cinelora.media.track_file import TrackFile, write_tracks
from cinelora.nets.tracks import NAME, TracksTower, unpacked
from media.makers import encode

WIDTH, HEIGHT, FRAMES = 128, 96, 30
CLIP = Bucket(9, 32, 48)
GEOMETRY = Geometry(
    fps=8, frames=9, height=32, width=48, frames_per_latent=1, frames_offset=0, size_multiple=8, latent_channels=4
)


def places():
    """Where the spot is in each frame of the source."""
    return np.array([[30 + 2.0 * k, 70 - 1.5 * k] for k in range(FRAMES)])


def pictures(where):
    rows, columns = np.arange(HEIGHT)[:, None], np.arange(WIDTH)[None]
    bright = [255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 50) for x, y in where]
    return np.repeat(np.array(bright)[..., None], 3, axis=3).astype(np.uint8)


def spots(pixels):
    """The centre of the light in each frame, C F H W -> F 2."""
    light = (pixels.mean(dim=0).numpy() + 1).clip(min=0.2) - 0.2
    rows, columns = np.arange(light.shape[1])[:, None], np.arange(light.shape[2])[None]
    return np.array([[(one * columns).sum() / one.sum(), (one * rows).sum() / one.sum()] for one in light])


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("v") / "a.mp4", pictures(places()), settings={"crf": "8"})


def tracked(tmp_path, video, points=None, **more):
    points = places()[:, None] if points is None else points
    file = tmp_path / "a_tracks.npz"
    write_tracks(file, TrackFile(points, more.pop("visible", np.ones(points.shape[:2], bool)), **more))
    return Record("s/a", "s", "video", (video,), "a spot", str(video), tracks=file)


def load(record, *, loading=load_clip, bucket=CLIP, variant=0, **rules):
    options = DataOptions(source=[{"path": "s"}], num_variants=9, **rules)
    return loading(Slot(record, bucket, variant), options, GEOMETRY, seed=0)


@pytest.mark.parametrize(
    "rules",
    [
        {"crop": "centre", "fps": "source"},
        {"crop": "none", "fps": "source", "stride": 3},
        {"crop": "random", "fps": "source", "stride": 2, "clip": "random"},
        {"crop": "random", "fps": 5, "clip": "middle"},
        {"crop": "none", "clip": "uniform"},
        {"compat": "framer", "stride": 3, "fps": "source"},
    ],
)
@pytest.mark.parametrize("variant", [0, 1])
def test_tracks_go_where_the_picture_goes(tmp_path, video, rules, variant):
    clip = load(tracked(tmp_path, video), variant=variant, **rules)
    inside = clip.tracks.visible[:, 0] & (np.abs(clip.tracks.points[:, 0] - [24, 16]) < [18, 10]).all(axis=1)
    assert inside.sum() >= 3
    np.testing.assert_allclose(clip.tracks.points[inside, 0], spots(clip.pixels)[inside], atol=0.35)


def test_a_clip_without_a_file_has_no_tracks(tmp_path, video):
    assert load(replace(tracked(tmp_path, video), tracks=None)).tracks is None


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_another_coordinate_size_and_shares_say_the_same(tmp_path, video, scale):
    rules = {"fps": "source", "crop": "none"}
    plain = load(tracked(tmp_path, video), **rules).tracks
    scaled = (places()[:, None] + 0.5) * scale - 0.5
    sized = load(tracked(tmp_path, video, scaled, size=(WIDTH * scale, HEIGHT * scale)), **rules).tracks
    np.testing.assert_allclose(sized.points, plain.points, atol=1e-3)
    shares = (places()[:, None] + 0.5) / [WIDTH, HEIGHT]
    np.testing.assert_allclose(
        load(tracked(tmp_path, video, shares, normalised=True), **rules).tracks.points, plain.points, atol=1e-3
    )


def test_rows_of_some_frames_are_joined_by_straight_lines(tmp_path, video):
    rules = {"fps": "source", "stride": 3}
    whole = load(tracked(tmp_path, video), **rules).tracks
    few = load(tracked(tmp_path, video, places()[[0, 10, 20], None], frames=np.array([0, 10, 20])), **rules).tracks
    assert few.visible[:, 0].tolist() == [True] * 7 + [False] * 2  # frames 0, 3 ... 24; nothing is said from 21 on
    np.testing.assert_allclose(few.points[:7], whole.points[:7], atol=1e-4)


def test_rows_of_a_rate_are_told_by_time(tmp_path, video):
    rules = {"fps": 4, "crop": "none"}
    half = load(tracked(tmp_path, video, places()[::2, None], fps=4.0), **rules).tracks
    whole = load(tracked(tmp_path, video), **rules).tracks
    np.testing.assert_allclose(half.points, whole.points, atol=1e-4)
    short = load(tracked(tmp_path, video, places()[:5, None], fps=4.0), **rules).tracks
    assert short.visible[:, 0].tolist() == [True] * 5 + [False] * 4


def test_hidden_and_departed_points_are_not_visible(tmp_path, video):
    points = np.stack([places(), places() + [500, 0], places()], axis=1)
    visible = np.ones((FRAMES, 3), bool)
    visible[:, 2] = np.arange(FRAMES) < 4
    found = load(tracked(tmp_path, video, points, visible=visible), fps="source").tracks
    assert not found.visible[:, 1].any()
    assert found.visible[:, 2].tolist() == [True] * 4 + [False] * 5
    assert np.isfinite(found.points).all()


@pytest.mark.parametrize(
    ("points", "more", "said"),
    [
        (places()[:7, None], {}, "not as long as their clip"),
        (places()[:, None] * 4, {}, "lie outside of their clip"),
        (places()[:, None] * 1e30, {}, "lie outside of their clip"),
        (places()[:, None], {"frames": np.arange(FRAMES) + 1}, "frames that their clip does not have"),
        (places()[:, None] / 900, {"size": (1.0, 1.0)}, ""),
    ],
)
def test_files_that_do_not_fit_are_told_with_their_record(tmp_path, video, points, more, said):
    record = tracked(tmp_path, video, points, **more)
    if not said:
        assert load(record).tracks is not None
        return
    with pytest.raises(DataError, match=said) as caught:
        load(record)
    assert "record s/a" in str(caught.value)
    assert record.tracks.name in str(caught.value)
    assert max(map(len, str(caught.value).splitlines())) < 300
    (measured,) = measure_all([record], seconds=60)  # the plan tells it, too
    assert isinstance(measured, DataError)


@pytest.fixture
def pair(tmp_path):
    for name, place in (("start", places()[0]), ("end", places()[20])):
        Image.fromarray(pictures([place])[0]).save(tmp_path / f"p_{name}.png")
    track = {"tracks": places()[[0, 5, 20], None].tolist(), "size": [WIDTH, HEIGHT]}
    (tmp_path / "p_tracks.json").write_text(json.dumps(track))
    return tmp_path


def read(folder, **options):
    source = SourceOptions(path=str(folder), empty_caption="allow", **options)
    return list(open_reader(folder, "s", source, base=folder).read())


def test_pairs_have_first_and_last_row_and_all_of_them_as_control_points(pair):
    (record,) = read(pair, track_suffix="_tracks")
    assert record.tracks == pair / "p_tracks.json"
    clip = load(record, bucket=Bucket(2, 32, 48))
    np.testing.assert_allclose(clip.tracks.points[:, 0], spots(clip.pixels), atol=0.35)
    control = load(record, loading=load_control, bucket=Bucket(2, 32, 48))
    np.testing.assert_allclose(control.points[[0, 2]], clip.tracks.points)
    assert control.visible.tolist() == [[True]] * 3
    assert load(replace(record, tracks=None), loading=load_control, bucket=Bucket(2, 32, 48)) is None


@pytest.mark.parametrize(
    ("seen", "notes", "warned"),
    [
        (slice(0, FRAMES), [], False),
        (slice(0, 15), ["1 of 3 clips: no track is seen in half of the frames"], False),
        (slice(0, 4), ["no track is seen in half of the frames"], True),
        (slice(0, 0), ["no track is seen in half of the frames"], True),
    ],
)
def test_clips_whose_tracks_teach_nothing_are_told(tmp_path, video, seen, notes, warned):
    visible = np.zeros((FRAMES, 1), dtype=bool)
    visible[seen] = True
    # Three clips: frames 0 to 8, 9 to 17, 18 to 26.
    rules = DataOptions(source=[{"path": "s"}], clip="chunks", fps="source", frames=[9], held_out=0)
    found = make_plan(Listing((tracked(tmp_path, video, visible=visible),)), rules, GEOMETRY, seed=0)
    told = [note for row in found.rows for note in row.notes if "track" in note]
    assert told == notes
    assert any("nothing is learned of tracks" in warning for warning in found.warnings) == warned


def test_readers_find_files_beside_clips(tmp_path, video, caplog):
    tracked(tmp_path, video)
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.mp4").write_bytes(video.read_bytes())
        (tmp_path / f"{name}.txt").write_text("a spot")
    for end in ("npz", "json"):
        (tmp_path / f"c_tracks.{end}").write_bytes(b"")
    one, two, three = read(tmp_path, track_suffix="_tracks")
    assert one.tracks == tmp_path / "a_tracks.npz"
    assert isinstance(two, LeftOut)
    assert [problem.what for problem in (*two.problems, *three.problems)] == [
        "the clip has no tracks",
        "the clip has two files of tracks",
    ]
    assert "a_tracks" not in caplog.text
    assert all(record.tracks is None for record in read(tmp_path))
    assert "a_tracks.npz" in caplog.text


class Tracked(FakeEncoder):
    """Any encoder that takes tracks."""

    def towers(self):
        return *super().towers(), TracksTower()


def encoding(record_rules, *, load_parts=load_mask):
    options = DataOptions(source=[{"path": "s"}], **record_rules)
    return Encoding(
        encoder=Tracked(),
        load=lambda slot: load_clip(slot, options, GEOMETRY, seed=0),
        load_mask=lambda slot: load_parts(slot, options, GEOMETRY, seed=0),
        transform=lambda slot: "same",
    )


def test_tracks_get_an_entry_of_their_own_without_decoding(tmp_path, video):
    record = tracked(tmp_path, video)
    slot = Slot(record, Bucket(9, 32, 48))
    made = encoding({"fps": "source"})
    tower, facts = made.towers[-1], made.keys.towers[-1]
    clip = made.clip_for(tower, slot)
    assert clip.pixels.numel() == 0
    kept = made.run(tower, clip)[NAME]
    found = unpacked(kept)
    np.testing.assert_allclose(found.points, load(record, fps="source").tracks.points, atol=1 / 64)
    hashes = MediaHashes(tmp_path / "hashes")
    before = {one.name: made.keys.of(slot, one, hashes.of) for one in made.keys.towers}
    tracked(tmp_path, video, places()[:, None] + 1)
    after = {one.name: made.keys.of(slot, one, hashes.of) for one in made.keys.towers}
    assert [name for name in before if before[name] != after[name]] == [facts.name] == ["tracks"]


def test_in_the_loop_the_same_tracks_come_out(tmp_path, video):
    record = tracked(tmp_path, video)
    made = encoding({"fps": "source"})
    slot = Slot(record, Bucket(9, 32, 48))
    live = Live(made).read(slot)
    assert (live.conditions[NAME] == made.run(made.towers[-1], made.clip_for(made.towers[-1], slot))[NAME]).all()
    bare = Live(made).read(replace(slot, record=replace(record, tracks=None)))
    assert not bare.conditions[NAME].any()


def test_shards_have_no_tracks(tmp_path):
    options = DataOptions(source=[{"path": "x", "track_suffix": "_tracks"}], cache="off")
    with pytest.raises(RecipeError, match="shards cannot have tracks"):
        check_stream(options, tmp_path, epochs=None)


def test_a_variant_that_reads_no_tracks_says_so(tmp_path):
    tables = {
        "model": {"family": "framer", "variant": "tiny", "base": "random"},
        "data": {"source": [{"path": ".", "track_suffix": "_tracks"}]},
    }
    with pytest.raises(RecipeError, match="framer/tiny reads no tracks"):
        check(Source(tables), folder=tmp_path, name="x")
    tables["model"]["variant"] = "tiny-tracks"
    check(Source(tables), folder=tmp_path, name="x")
