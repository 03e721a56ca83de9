"""Writes tar shards, sound and unsound, for the tests of streams."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np

from media.makers import encode


def video(tmp_path, *, frames=9, size=32, seed=0, suffix=".mp4"):
    """The bytes of a small noisy video."""
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, size, size, 3)).astype(np.uint8)
    path = encode(tmp_path / f"made-{frames}-{size}-{seed}{suffix}", pixels, fps=8)
    data = path.read_bytes()
    path.unlink()
    return data


def member(name, data=b"", **facts):
    """A member of an archive: its header, with whatever is to be odd about it, and its bytes."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for fact, value in facts.items():
        setattr(info, fact, value)
    return info, data


def write_tar(path: Path, members, **settings):
    """Write members as `member` makes them; (name, bytes or text) stands for a plain one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **settings) as tar:
        for first, data in members:
            info, data = (first, data) if isinstance(first, tarfile.TarInfo) else member(first, as_bytes(data))
            tar.addfile(info, io.BytesIO(data))
    return path


def as_bytes(data):
    return data if isinstance(data, bytes) else (data if isinstance(data, str) else json.dumps(data)).encode()


def write_shards(folder: Path, num_shards, clips_each, *, frames=lambda k: 9, made=None):
    """Shards of small videos, clip k with the caption "clip number k"; gives back the folder."""
    made = made or {}
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(num_shards):
        members = []
        for k in range(shard * clips_each, (shard + 1) * clips_each):
            if frames(k) not in made:
                made[frames(k)] = video(folder, frames=frames(k))
            members += [(f"{k:04d}.mp4", made[frames(k)]), (f"{k:04d}.txt", f"clip number {k}")]
        write_tar(folder / f"{shard:03d}.tar", members)
    return folder
