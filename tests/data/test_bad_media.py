"""Every kind of unusable file gives a DataError that names it; nothing crashes, nothing is half accepted."""

import av
import numpy as np
import pytest
from PIL import Image

from cinelora.base.errors import DataError
from cinelora.contracts.geometry import Geometry
from cinelora.data.clips import load_clip
from cinelora.data.options import DataOptions
from cinelora.data.plan import make_plan
from cinelora.data.sources import read_records
from cinelora.media.decode import frames_at
from cinelora.media.probe import probe
from media.makers import audio_only, encode, flat_frames, no_frames

TINY = Geometry(fps=8, frames=9, height=32, width=32)


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def cut_between_packets(path):
    """The index promises 40 frames, the file ends neatly after 20."""
    encode(path, flat_frames(40), container=FASTSTART)
    with av.open(str(path)) as container:
        ends = sorted(packet.pos + packet.size for packet in container.demux() if packet.size)
    path.write_bytes(path.read_bytes()[: ends[19]])
    return path


def text(path):
    path.write_text("this is no video\n" * 50)
    return path


def noise(path):
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    return path


def folder(path):
    path.mkdir()
    return path


def empty(path):
    path.write_bytes(b"")
    return path


def animated(path):
    pictures = [Image.new("RGB", (8, 8), (k, 0, 0)) for k in range(0, 200, 50)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    return path


def picture(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    return path


FASTSTART = {"movflags": "faststart"}
BAD = {
    "missing": ("a.mp4", lambda path: path, "media file is missing"),
    "folder": ("a.mp4", folder, "not a file"),
    "empty": ("a.mp4", empty, "media file is empty"),
    "text": ("a.mp4", text, "cannot be decoded as a video"),
    "noise": ("a.mp4", noise, "cannot be decoded as a video"),
    "audio": ("a.mp4", audio_only, "has no pictures in it"),
    "no-frames": ("a.mp4", no_frames, "has no frames"),
    "cut-mp4": ("a.mp4", lambda p: cut(encode(p, flat_frames(40)), 0.6), "cannot be decoded as a video"),
    "cut-faststart": ("a.mp4", lambda p: cut(encode(p, flat_frames(40), container=FASTSTART), 0.7), "truncated"),
    "cut-tail": ("a.mp4", lambda p: cut(encode(p, flat_frames(40), container=FASTSTART), 0.99), "truncated"),
    "cut-neatly": ("a.mp4", cut_between_packets, "is truncated"),
    "cut-mkv": ("a.mkv", lambda p: cut(encode(p, flat_frames(40)), 0.6), "truncated"),
    "cut-avi": ("a.avi", lambda p: cut(encode(p, flat_frames(40)), 0.8), "truncated"),
    "empty-png": ("a.png", empty, "media file is empty"),
    "text-png": ("a.png", text, "cannot be read as an image"),
    "cut-png": ("a.png", lambda p: cut(picture(p), 0.5), "cannot be read as an image"),
    "cut-jpg": ("a.jpg", lambda p: cut(picture(p), 0.5), "cannot be read as an image"),
    "animated": ("a.png", animated, "is an animated image"),
}


@pytest.mark.parametrize("case", BAD)
def test_the_message_says_what_and_where(tmp_path, case):
    name, make, message = BAD[case]
    path = make(tmp_path / name)
    with pytest.raises(DataError, match=message) as caught:
        probe(path)
    (problem,) = caught.value.problems
    assert problem.where == str(path)
    assert problem.do
    assert caught.value.exit_code == 3


def test_all_bad_files_are_listed_in_one_go(tmp_path):
    made = tmp_path / "set"
    made.mkdir()
    for number, (name, make, _) in enumerate(BAD.values()):
        if make(made / f"{number:02d}{name}").is_file():
            (made / f"{number:02d}{name}").with_suffix(".txt").write_text("x")
    encode(made / "good.mp4", flat_frames(9))
    (made / "good.txt").write_text("x")
    encode(made / "uncaptioned.mp4", flat_frames(9))
    rules = DataOptions(source=[{"path": "set"}])
    with pytest.raises(DataError) as caught:
        make_plan(read_records(rules, tmp_path), rules, TINY, seed=0)
    assert len(caught.value.problems) == len(BAD) - 2 + 1  # all files that are there, and the missing caption
    rules = DataOptions(source=[{"path": "set"}], on_bad="skip")
    plan = make_plan(read_records(rules, tmp_path), rules, TINY, seed=0)
    assert [slot.record.key for slot in plan.slots] == ["set/good.mp4"]
    assert sum(row.status == "left out" for row in plan.rows) == len(BAD) - 1


def test_damage_found_while_decoding_names_the_record(tmp_path):
    made = tmp_path / "set"
    made.mkdir()
    path = encode(made / "a.mp4", flat_frames(9))
    (made / "a.txt").write_text("x")
    rules = DataOptions(source=[{"path": "set"}])
    (slot,) = make_plan(read_records(rules, tmp_path), rules, TINY, seed=0).slots
    cut(path, 0.5)
    with pytest.raises(DataError, match=r"set/a\.mp4"):
        load_clip(slot, rules, TINY, seed=0)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "gif", "avi"])
def test_mutated_files_never_crash(tmp_path, suffix):
    """Flipped bytes in header and body: pixels of the right shape or a DataError, nothing else."""
    codecs = {"webm": ("libvpx-vp9", "yuv420p"), "gif": ("gif", "rgb8")}
    codec, pix_fmt = codecs.get(suffix, ("libx264", "yuv420p"))
    whole = encode(tmp_path / f"a.{suffix}", flat_frames(9), codec=codec, pix_fmt=pix_fmt).read_bytes()
    path = tmp_path / f"m.{suffix}"
    refused = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        data = bytearray(whole)
        reach = len(data) if seed % 2 else min(600, len(data))
        for place in rng.integers(0, reach, rng.integers(1, 12)):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            facts = probe(path)
            pixels = frames_at(path, facts.times[:4], facts=facts, size=(8, 8))
        except DataError as error:
            refused.append(str(error))
        else:
            assert pixels.shape == (min(4, facts.frames), 8, 8, 3)
            assert np.isfinite([facts.fps, facts.seconds]).all()
            assert (np.diff(facts.times) > 0).all()
    assert refused
    assert all(str(path) in message for message in refused)


def test_a_refused_file_says_what_it_seems_to_be(tmp_path):
    whole = encode(tmp_path / "a.mp4", flat_frames(40)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: whole.index(b"moov") - 4])
    with pytest.raises(DataError, match=r"its index \(moov\) is missing: the file is cut off"):
        probe(tmp_path / "cut.mp4")
    with pytest.raises(DataError, match="it begins with the text 'this is no video"):
        probe(text(tmp_path / "t.mp4"))
