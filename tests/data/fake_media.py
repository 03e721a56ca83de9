"""Slots on small files of bytes, and what stands in for decoding them: pixels drawn from the file's content."""

from pathlib import Path

import torch

from cinelora.base.files import sha256_file
from cinelora.base.seeds import torch_rng
from cinelora.contracts.flow import Bucket, Clip, Record, Slot
from cinelora.data.encoding import Encoding
from cinelora.families.fake.encode import FakeEncoder

SMALL, LARGE = Bucket(5, 16, 16), Bucket(9, 16, 24)


def slot(folder: Path, name: str, *, caption: str = "a red ball", bucket: Bucket = SMALL, source: str = "main") -> Slot:
    path = folder / f"{name}.bin"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return Slot(Record(f"{source}/{name}", source, "video", (path,), caption, str(path)), bucket)


def load(slot: Slot) -> Clip:
    draws = torch_rng(sha256_file(slot.record.media[0]), slot.variant)
    pixels = torch.rand(3, slot.bucket.frames, slot.bucket.height, slot.bucket.width, generator=draws) * 2 - 1
    return Clip(slot, pixels, slot.record.caption, 8.0)


class Counted:
    """The fake encoder, with a diary of what each tower was asked for."""

    def __init__(self) -> None:
        self.inner = FakeEncoder()
        self.seen: list[tuple[str, str]] = []
        self.in_memory: set[str] = set()
        self.most_in_memory = 0
        self.prints = {"text": "text-1", "vae": "vae-1"}
        self._towers = tuple(CountedTower(tower, self) for tower in self.inner.towers())

    def towers(self):
        return self._towers

    def asked(self, tower: str) -> list[str]:
        return [name for who, name in self.seen if who == tower]


class CountedTower:
    def __init__(self, inner, owner: Counted):
        self.inner, self.owner = inner, owner
        self.name, self.reads, self.gives = inner.name, inner.reads, inner.gives

    def fingerprint(self) -> str:
        return self.owner.prints[self.name]

    def load(self, device: str) -> None:
        self.owner.in_memory.add(self.name)
        self.owner.most_in_memory = max(self.owner.most_in_memory, len(self.owner.in_memory))

    def unload(self) -> None:
        self.owner.in_memory.discard(self.name)

    def encode(self, clips, rng=None):
        assert self.name in self.owner.in_memory
        self.owner.seen += [(self.name, clip.slot.name) for clip in clips]
        return self.inner.encode(clips, rng)


def encoding(encoder=None, **changes) -> Encoding:
    facts = {"load": load, "transform": lambda slot: str(slot.bucket), "conditions": {"text": "6 8"}, **changes}
    return Encoding(encoder or Counted(), **facts)
